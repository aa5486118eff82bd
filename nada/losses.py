"""Terms of the adaptation's loss; every one takes features of the same encoder (REFERENCE.md §8.6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from nada.clip_directions import Target

PATCH_SCALES, PATCH_PROJECTIONS, PATCH_SIDE_PX = 2, 32, 7


def directional(before: torch.Tensor, after: torch.Tensor, target: Target) -> torch.Tensor:
    """`1 − cos(ΔI, ΔT)` `[N]` for features `before`, `after` `[N, D]` (NADA Eq. 3)."""
    moved = after - before
    # Where nothing has moved yet the direction is 0/0: push a little, as the paper's code does.
    still = moved.abs().sum(dim=1, keepdim=True) == 0
    moved = torch.where(still, moved + 1e-6 * (after + 1), moved)
    return 1 - F.cosine_similarity(moved, target.direction[None], dim=1)


def magnitude(before: torch.Tensor, after: torch.Tensor, target: Target, length: float):
    """`‖ΔI − m·ΔT‖²` `[N]` with m = `length`: as far as real pairs are apart, and no further."""
    return (after - before - length * target.direction[None]).square().sum(dim=1)


def global_distance(after: torch.Tensor, target: Target) -> torch.Tensor:
    """`1 − cos(I, T)` `[N]`: the picture alone says what the text says (NADA Eq. 1)."""
    return 1 - after @ target.target


def manifold(before: torch.Tensor, after: torch.Tensor, target: Target) -> torch.Tensor:
    """`|cos(I, I') − cos(T, T')|` `[N]`: pictures turn by the angle that the texts are apart."""
    return ((before * after).sum(dim=1) - target.source @ target.target).abs()


def texture(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of features `[N]`: what the encoder sees stays."""
    return (after - before).square().mean(dim=1)


def patch_direction(before: torch.Tensor, after: torch.Tensor, target: Target) -> torch.Tensor:
    """As `directional` for patches `[N, D]`, towards the directions of the parts they show.

    Parts count by the softmax of the similarity between the patch and the part's source text.
    """
    moved = F.normalize(after - before + 1e-9, dim=1)
    share = F.softmax(100 * before @ target.parts_source.T, dim=1)
    return ((1 - moved @ target.parts.T) * share).sum(dim=1)


def beyond_range(images: torch.Tensor) -> torch.Tensor:
    """Mean of how far pixels leave [−1, 1], `[N]`; no picture shows what lies there."""
    return F.relu(images.abs() - 1).mean(dim=(1, 2, 3))


def patch_statistics(
    before: torch.Tensor, after: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """How far small patches of pictures `after` `[N, C, H, W]` are, as a set, from those of
    `before`: sliced Wasserstein distance, squared, in two scales. Scalar.

    What is drawn may change; with what strokes and colours it is drawn, should not.
    """
    total = before.new_zeros(())
    for scale in range(PATCH_SCALES):
        if scale:
            before, after = F.avg_pool2d(before, 2), F.avg_pool2d(after, 2)
        shape = [PATCH_PROJECTIONS, before.shape[1], PATCH_SIDE_PX, PATCH_SIDE_PX]
        kernels = torch.randn(shape, generator=generator).to(before)
        kernels = kernels / kernels.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        old, new = (
            F.conv2d(images, kernels).transpose(0, 1).flatten(1).sort(dim=1).values
            for images in (before, after)
        )
        total = total + (new - old).square().mean()
    return total / PATCH_SCALES
