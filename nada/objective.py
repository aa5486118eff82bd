"""Pairs of pictures to a loss: the same views of both, every encoder, every term."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from guidance.cutouts import AUGMENTS, random_views
from guidance.encoders import Encoder
from nada import losses
from nada.clip_directions import Target, members_of
from sg3.media.images import as_rgb


@dataclass(frozen=True)
class Weights:
    """Of the terms of the loss; 0 leaves one out. The published method has `directional` alone."""

    directional: float = 1.0
    #: Keeps the length of the change at `AdaptConfig.magnitude`.
    magnitude: float = 0.0
    global_text: float = 0.0
    patch: float = 0.0
    texture: float = 0.0
    manifold: float = 0.0
    #: Keeps the source's strokes and colours, or takes those of target pictures where there are
    #: some: the distribution of small patches.
    strokes: float = 0.0
    #: Pixels beyond [−1, 1].
    range: float = 0.0

    def __post_init__(self):
        for name, value in vars(self).items():
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name}: got the weight {value}, expected a number ≥ 0")
        if not any(vars(self).values()):
            raise ValueError("weights: got only zeros, expected at least one term of the loss")


@dataclass(frozen=True)
class ViewConfig:
    """How pictures are shown to the encoders."""

    #: Views of the whole picture under small random changes; 0: the picture itself, as published.
    views: int = 2
    #: Random cutouts as well, for pictures larger than the encoder's input.
    cutouts: int = 0
    augment: str = "light"
    #: Side of the square of the patch term, relative to the picture's.
    patch_size: float = 0.5

    def __post_init__(self):
        if self.views < 0 or self.cutouts < 0:
            raise ValueError(f"views: got {self.views}, cutouts {self.cutouts}, expected 0 or more")
        if self.augment not in AUGMENTS:
            raise ValueError(f"augment: got {self.augment!r}, expected {', '.join(AUGMENTS)}")
        if not 0 < self.patch_size <= 1:
            raise ValueError(f"patch_size: got {self.patch_size}, expected a share, 0 to 1")


class Objective:
    """The loss of adapted pictures beside their sources.

    `lengths`: for the magnitude term, per encoder, how far features should move. `pictures`
    `[M, 3, H, W]`: of the target, for the strokes term.
    """

    def __init__(
        self,
        encoder: Encoder,
        targets: Sequence[Target],
        lengths: Sequence[float],
        weights: Weights,
        views: ViewConfig,
        pictures: torch.Tensor | None = None,
    ):
        self.pictures = pictures
        self.size_px = encoder.input_size_px
        self.members = [
            (member, share, target, length)
            for (member, share), target, length in zip(
                members_of(encoder), targets, lengths, strict=True
            )
        ]
        self.weights, self.views = weights, views
        if weights.patch and targets[0].parts is None:
            raise ValueError("patch: this term needs a target text, not pictures")

    def __call__(
        self, before: torch.Tensor, after: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Pictures `[N, C, H, W]` of both networks → the loss and its terms, unweighted."""
        before, after = as_rgb(before), as_rgb(after)
        seen = self._views(before, after, generator)
        patches = self._patches(before, after, generator) if self.weights.patch else None
        terms: dict[str, torch.Tensor] = {}
        for member, share, target, length in self.members:
            for name, value in self._of_member(member, target, length, seen, patches).items():
                terms[name] = terms.get(name, 0) + share * value.mean()
        if self.weights.strokes:
            drawn = before if self.pictures is None else self._some_pictures(after, generator)
            small = [_no_larger(images, self.size_px) for images in (drawn, after)]
            terms["strokes"] = losses.patch_statistics(*small, generator)
        if self.weights.range:
            terms["range"] = losses.beyond_range(after).mean()
        loss = sum(getattr(self.weights, name) * value for name, value in terms.items())
        return loss, terms

    def _some_pictures(self, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """As many target pictures as there are in `like`, and as large as the loss sees those."""
        rows = torch.randint(len(self.pictures), [len(like)], generator=generator)
        size = _no_larger(like, self.size_px).shape[2:]
        pictures = self.pictures[rows.to(self.pictures.device)]
        return F.interpolate(pictures, size, mode="bicubic", antialias=True, align_corners=False)

    def global_loss(self, images: torch.Tensor) -> torch.Tensor:
        """The global term alone, without views (NADA Eq. 1)."""
        images = _no_larger(as_rgb(images), self.size_px)
        parts = [
            share * losses.global_distance(member.encode_images(images), target).mean()
            for member, share, target, _ in self.members
        ]
        return torch.stack(parts).sum()

    def _of_member(self, member, target: Target, length, seen, patches):
        with torch.no_grad():
            old = member.encode_images(seen[0])
        new = member.encode_images(seen[1])
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
            pair = [member.encode_images(part) for part in patches]
            terms["patch"] = losses.patch_direction(*pair, target)
        return terms

    def _views(self, before, after, generator):
        config, augment = self.views, AUGMENTS[self.views.augment]
        small = [_no_larger(images, self.size_px) for images in (before, after)]
        pairs = [small] if not config.views else []
        if config.views:
            pairs.append(_paired_views(*small, config.views, self.size_px, augment, generator))
        if config.cutouts and min(before.shape[2:]) > self.size_px:
            cut = _paired_views(before, after, config.cutouts, self.size_px, augment, generator)
            pairs.append(cut)
        return [torch.cat(parts) for parts in zip(*pairs, strict=True)]

    def _patches(self, before, after, generator):
        height, width = before.shape[2:]
        side = max(1, round(self.views.patch_size * min(height, width)))
        u = torch.rand(2, generator=generator).tolist()
        top, left = int(u[0] * (height - side + 1)), int(u[1] * (width - side + 1))
        return [images[..., top : top + side, left : left + side] for images in (before, after)]


def _no_larger(images: torch.Tensor, size_px: int) -> torch.Tensor:
    """The shorter side at most `size_px`."""
    scale = size_px / min(images.shape[2:])
    if scale >= 1:
        return images
    size = [max(size_px, round(side * scale)) for side in images.shape[2:]]
    return F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False)


def _paired_views(before, after, count, size_px, augment, generator):
    """The same random views of both, `[N·count, 3, h, w]` each."""
    seeds = torch.randint(2**62, [len(before)], generator=generator).tolist()

    def of(images):
        own = [torch.Generator().manual_seed(seed) for seed in seeds]
        return random_views(images, count, size_px, own, augment).flatten(0, 1)

    return of(before), of(after)
