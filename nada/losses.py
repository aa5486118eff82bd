"""Terms of the adaptation loss, on features of one encoder or on images (REFERENCE.md §8.6).

Features `before` and `after` `[N, D]` have unit norm; they belong to the same latents, rendered by
the source and by the trained generator.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange

from nada.clip_directions import Target

PATCH_SCALES, PATCH_PROJECTIONS, PATCH_SIDE_PX = 2, 32, 7


def directional(before: torch.Tensor, after: torch.Tensor, target: Target) -> torch.Tensor:
    """`1 − cos(ΔI, ΔT)` `[N]` (NADA Eq. 3)."""
    change = after - before
    # At the first step both generators are equal and the direction is 0/0: nudge, as the
    # published code does.
    unchanged = change.abs().sum(dim=1, keepdim=True) == 0
    change = torch.where(unchanged, change + 1e-6 * (after + 1), change)
    return 1 - F.cosine_similarity(change, target.direction[None], dim=1)


def magnitude(
    before: torch.Tensor, after: torch.Tensor, target: Target, length: float
) -> torch.Tensor:
    """`‖ΔI − m·ΔT‖²` `[N]` with m = `length`: change by that much and no more.

    Not in the paper: cosines alone can be met by a change that is too small to see.
    """
    return (after - before - length * target.direction[None]).square().sum(dim=1)


def global_distance(after: torch.Tensor, target: Target) -> torch.Tensor:
    """`1 − cos(I, T)` `[N]`: distance of the image from the target text (NADA Eq. 1)."""
    return 1 - after @ target.target


def manifold(before: torch.Tensor, after: torch.Tensor, target: Target) -> torch.Tensor:
    """`|cos(I, I') − cos(T, T')|` `[N]`: image features turn by the angle between the texts."""
    return ((before * after).sum(dim=1) - target.source @ target.target).abs()


def texture(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of the features `[N]`."""
    return (after - before).square().mean(dim=1)


def patch_direction(before: torch.Tensor, after: torch.Tensor, target: Target) -> torch.Tensor:
    """`directional` for patches `[N]`, towards the directions of the parts that they show.

    Parts are weighted by the softmax of the similarity of the patch to the part's source text.
    Raises ValueError if the target has no parts.
    """
    if target.parts is None or target.parts_source is None:
        raise ValueError("target: got one without parts, expected one from text_target")
    # As in `directional`, the first step is 0/0 without the offset.
    change = F.normalize(after - before + 1e-9, dim=1)
    weights = F.softmax(100 * before @ target.parts_source.T, dim=1)
    return ((1 - change @ target.parts.T) * weights).sum(dim=1)


def beyond_range(images: torch.Tensor) -> torch.Tensor:
    """Mean distance `[N]` of pixels from [−1, 1], beyond which nothing is visible."""
    return F.relu(images.abs() - 1).mean(dim=(1, 2, 3))


def patch_statistics(
    before: torch.Tensor, after: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Squared sliced Wasserstein distance between the sets of small patches of two batches.

    It allows other content, but in the same strokes and colours.

    Args:
        before: Images `[N, C, H, W]`.
        after: Images of the same shape.
        generator: Source of randomness of the projections.

    Returns:
        A scalar, the mean over two scales.
    """
    total = before.new_zeros(())
    for scale in range(PATCH_SCALES):
        if scale:
            before, after = F.avg_pool2d(before, 2), F.avg_pool2d(after, 2)
        shape = [PATCH_PROJECTIONS, before.shape[1], PATCH_SIDE_PX, PATCH_SIDE_PX]
        # A random kernel is a random projection of all patches at once.
        kernels = torch.randn(shape, generator=generator).to(before)
        kernels = kernels / kernels.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        # On a line, sorting both sets pairs them optimally: no transport has to be solved.
        old, new = (
            rearrange(F.conv2d(images, kernels), "n p h w -> p (n h w)").sort(dim=1).values
            for images in (before, after)
        )
        total = total + (new - old).square().mean()
    return total / PATCH_SCALES
