"""Loss of an adaptation: the same views of both images, every encoder, every term."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from guidance.cutouts import AUGMENTS, Augment, random_views
from guidance.encoders import Encoder
from nada import losses
from nada.clip_directions import Target, members_of
from nada.config import ViewConfig, Weights
from sg3.errors import UserError
from sg3.media.images import as_rgb

Pair = tuple[torch.Tensor, torch.Tensor]


class AdaptationObjective:
    """Loss of adapted images relative to their sources.

    Args:
        encoder: The encoder, or an ensemble.
        targets: Target of each member of the ensemble.
        lengths: Length of the change for the magnitude term, for each member.
        weights: Weights of the terms.
        views: How images are presented to the encoders.
        target_images: `[M, 3, H, W]` for the strokes term; None: it compares with the source.

    Raises ValueError for the patch term without target texts.
    """

    def __init__(
        self,
        encoder: Encoder,
        targets: Sequence[Target],
        lengths: Sequence[float],
        weights: Weights,
        views: ViewConfig,
        target_images: torch.Tensor | None = None,
    ):
        self.target_images = target_images
        self.size_px = encoder.input_size_px
        self.members = [
            (member, weight, target, length)
            for (member, weight), target, length in zip(
                members_of(encoder), targets, lengths, strict=True
            )
        ]
        self.weights, self.views = weights, views
        if weights.patch and targets[0].parts is None:
            raise UserError("patch: this term needs a target text, not target images")

    def __call__(
        self, before: torch.Tensor, after: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute the loss and its unweighted terms.

        Args:
            before: Images of the source `[N, C, H, W]` in [−1, 1].
            after: Images of the trained network for the same latents.
            generator: Source of randomness of the views.
        """
        before, after = as_rgb(before), as_rgb(after)
        views = self._views(before, after, generator)
        patches = self._patches(before, after, generator) if self.weights.patch else None
        terms: dict[str, torch.Tensor] = {}
        for member, weight, target, length in self.members:
            for name, value in self._terms(member, target, length, views, patches).items():
                terms[name] = terms.get(name, 0) + weight * value.mean()
        if self.weights.strokes:
            reference = before if self.target_images is None else self._draw(after, generator)
            terms["strokes"] = losses.patch_statistics(
                _shrink(reference, self.size_px), _shrink(after, self.size_px), generator
            )
        if self.weights.range:
            terms["range"] = losses.beyond_range(after).mean()
        weighted = (getattr(self.weights, name) * value for name, value in terms.items())
        return sum(weighted, start=after.new_zeros(())), terms

    def _draw(self, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Random target images, as many as `like` and of the size at which it is compared."""
        assert self.target_images is not None
        rows = torch.randint(len(self.target_images), [len(like)], generator=generator)
        size = _shrink(like, self.size_px).shape[2:]
        images = self.target_images[rows.to(self.target_images.device)]
        return F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False)

    def global_loss(self, images: torch.Tensor) -> torch.Tensor:
        """The global term only, without views (NADA Eq. 1)."""
        images = _shrink(as_rgb(images), self.size_px)
        parts = [
            weight * losses.global_distance(member.encode_images(images), target).mean()
            for member, weight, target, _ in self.members
        ]
        return torch.stack(parts).sum()

    def _terms(
        self, member: Encoder, target: Target, length: float, views: Pair, patches: Pair | None
    ) -> dict[str, torch.Tensor]:
        """Terms of one encoder, one value per view."""
        # The source is not trained: its graph would only take memory.
        with torch.no_grad():
            old = member.encode_images(views[0])
        new = member.encode_images(views[1])
        # Always computed, even if its weight is 0: logs and charts show it.
        weights, terms = self.weights, {"directional": losses.directional(old, new, target)}
        if weights.magnitude:
            terms["magnitude"] = losses.magnitude(old, new, target, length)
        if weights.global_text:
            terms["global_text"] = losses.global_distance(new, target)
        if weights.texture:
            terms["texture"] = losses.texture(old, new)
        if weights.manifold:
            terms["manifold"] = losses.manifold(old, new, target)
        if patches is not None:
            old, new = (member.encode_images(each) for each in patches)
            terms["patch"] = losses.patch_direction(old, new, target)
        return terms

    def _views(self, before: torch.Tensor, after: torch.Tensor, generator: torch.Generator) -> Pair:
        config, augment = self.views, AUGMENTS[self.views.augment]
        # Shrunk first: `random_views` would cut larger images out instead of showing all of them.
        small = _shrink(before, self.size_px), _shrink(after, self.size_px)
        pairs = [] if config.views else [small]
        if config.views:
            pairs.append(_paired_views(small, config.views, self.size_px, augment, generator))
        if config.cutouts and min(before.shape[2:]) > self.size_px:
            full = before, after
            pairs.append(_paired_views(full, config.cutouts, self.size_px, augment, generator))
        return torch.cat([old for old, _ in pairs]), torch.cat([new for _, new in pairs])

    def _patches(
        self, before: torch.Tensor, after: torch.Tensor, generator: torch.Generator
    ) -> Pair:
        """One random square, the same of all images."""
        height, width = before.shape[2:]
        side = max(1, round(self.views.patch_size * min(height, width)))
        u = torch.rand(2, generator=generator).tolist()
        top, left = int(u[0] * (height - side + 1)), int(u[1] * (width - side + 1))
        rows, columns = slice(top, top + side), slice(left, left + side)
        return before[..., rows, columns], after[..., rows, columns]


def _shrink(images: torch.Tensor, size_px: int) -> torch.Tensor:
    """Resize `images` so that the shorter side is at most `size_px`."""
    scale = size_px / min(images.shape[2:])
    if scale >= 1:
        return images
    size = [max(size_px, round(side * scale)) for side in images.shape[2:]]
    return F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False)


def _paired_views(
    pair: Pair, count: int, size_px: int, augment: Augment, generator: torch.Generator
) -> Pair:
    """The same random views of both, `[N·count, 3, h, w]` each."""
    # Seeds instead of generators, since both images of a pair need the same draws.
    seeds = torch.randint(2**62, [len(pair[0])], generator=generator).tolist()

    def views_of(images: torch.Tensor) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return random_views(images, count, size_px, generators, augment).flatten(0, 1)

    return views_of(pair[0]), views_of(pair[1])
