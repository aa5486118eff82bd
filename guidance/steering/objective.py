"""Distances of images from prompts, as seen by an encoder through random views."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange

from guidance.cutouts import random_views
from guidance.encoders import Encoder, EnsembleEncoder
from guidance.prompts import Prompt
from guidance.steering.config import SteerConfig
from guidance.steering.losses import DISTANCES, directional_distance
from guidance.templates import filled, templates_of
from sg3.data.photos import to_target
from sg3.errors import UserError
from sg3.media.images import as_rgb

#: Cached text embeddings of each encoder: (sentence, ...) → `[embed_dim]`.
_texts: weakref.WeakKeyDictionary[Encoder, dict[tuple[str, ...], torch.Tensor]]
_texts = weakref.WeakKeyDictionary()
CACHED_TEXTS = 1000


@torch.no_grad()
def text_embeddings(
    encoder: Encoder, texts: Sequence[str], templates: str | Sequence[str] = "plain"
) -> torch.Tensor:
    """Embed `texts`, each averaged over `templates`: `[len(texts), embed_dim]` of unit norm.

    Results are cached per encoder. Raises ValueError for unknown templates.
    """
    sentences = [tuple(filled(templates_of(templates), text)) for text in texts]
    known = _texts.setdefault(encoder, {})
    missing = [key for key in dict.fromkeys(sentences) if key not in known]
    if missing:
        if len(known) + len(missing) > CACHED_TEXTS:
            known.clear()
            missing = list(dict.fromkeys(sentences))
        found = encoder.encode_texts([sentence for key in missing for sentence in key]).float()
        parts = found.split([len(key) for key in missing])
        known.update(zip(missing, (F.normalize(p.mean(dim=0), dim=0) for p in parts), strict=True))
    return torch.stack([known[key] for key in sentences])


@torch.no_grad()
def embed_prompts(
    encoder: Encoder,
    prompts: Sequence[Prompt],
    templates: str | Sequence[str],
    device: torch.device,
) -> torch.Tensor:
    """Embed texts and images: `[len(prompts), embed_dim]` of unit norm."""
    texts = [prompt.text for prompt in prompts if prompt.image is None]
    rows: Iterator[torch.Tensor] = iter(())
    if texts:
        rows = iter(text_embeddings(encoder, texts, templates).to(device))
    found = []
    for prompt in prompts:
        if prompt.image is None:
            found.append(next(rows))
        else:
            found.append(encoder.encode_images(to_target(prompt.image, 3).to(device))[0])
    return torch.stack(found)


class SteeringObjective:
    """Distances of B images from B sets of prompts.

    Args:
        sets: the prompts of each image.
        encoder: an image-text model.
        seeds: seeds of the random views, one per image.
        config: settings of the run.
        device: where the images are.
        mask: `[1, 1, H, W]`. Only this region counts; outside of it the encoder sees the start
            image, so that it still sees a whole image.

    Raises ValueError if the directional distance has texts but no source.
    """

    def __init__(
        self,
        sets: Sequence[Sequence[Prompt]],
        encoder: Encoder,
        seeds: Sequence[int],
        config: SteerConfig,
        device: torch.device,
        mask: torch.Tensor | None = None,
    ):
        self.encoder, self.config, self.mask = encoder, config, mask
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.source: torch.Tensor | None = None
        longest = max(map(len, sets))
        flat = [prompt for prompts in sets for prompt in prompts]
        embeddings = embed_prompts(encoder, flat, config.templates, device)
        self.targets = torch.zeros([len(sets), longest, embeddings.shape[1]], device=device)
        self.weights = torch.zeros([len(sets), longest], device=device)
        self.is_image = torch.zeros([len(sets), longest], dtype=torch.bool, device=device)
        self.targets[..., 0] = 1  # padding: any unit vector, with weight 0
        rows = iter(embeddings)
        for i, prompts in enumerate(sets):
            # Magnitudes, since negative weights repel: a plain sum could be 0.
            total = sum(abs(prompt.weight) for prompt in prompts)
            for j, prompt in enumerate(prompts):
                self.targets[i, j], self.weights[i, j] = next(rows), prompt.weight / total
                self.is_image[i, j] = prompt.image is not None
        self.directional = config.distance == "directional"
        # Candidates for the start have no source image to compare with.
        self.distance = DISTANCES["spherical" if self.directional else config.distance]
        if self.directional and any(prompt.image is None for prompt in flat):
            if not config.source:
                raise UserError(
                    "source: got none, but the directional distance compares texts with a "
                    "description of the start; expected one such as 'a face'"
                )
            self.source_text = text_embeddings(encoder, [config.source], config.templates)[0]
            self.source_text = self.source_text.to(device)

    def of_embeddings(
        self, embeddings: torch.Tensor, rows: list[int] | slice = slice(None)
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weighted distances and cosines `[B, V]` to the prompts of `rows`.

        `embeddings`: `[B or 1, V, D]`, of V views each.
        """
        seen, targets = (
            embeddings[:, :, None],
            self.targets[rows, None],
        )  # [B, V, 1, D], [B, 1, P, D]
        weights = self.weights[rows, None]
        cosine = (seen * targets).sum(dim=3)
        return (self.distance(seen, targets) * weights).sum(dim=2), (cosine * weights).sum(dim=2)

    @property
    def needs_start(self) -> bool:
        """Whether `begin` must be called before `of_images`."""
        return self.directional or self.mask is not None

    def begin(self, images: torch.Tensor) -> None:
        """Set the start images `[B, C, H, W]`."""
        self.source = as_rgb(images.detach())

    def weigh(self, weights: torch.Tensor) -> None:
        """Replace the weights of the prompts, `[B, P]`."""
        self.weights = weights

    def of_images(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances and cosines `[B]` of images `[B, C, H, W]`, averaged over random views."""
        images = as_rgb(images)
        if self.mask is not None:
            images = self.mask * images + (1 - self.mask) * self._begun()
        before = [generator.get_state() for generator in self.generators]
        embeddings = self._seen(images)
        distances, cosines = self.of_embeddings(embeddings)
        if self.directional:
            with torch.no_grad():  # the start images through the same views
                for generator, state in zip(self.generators, before, strict=True):
                    generator.set_state(state)
                start = self._seen(self._begun())
            distances = self._directional(embeddings, start)
        return distances.mean(dim=1), cosines.mean(dim=1)

    def state_dict(self) -> dict[str, Any]:
        """The states of the random number generators, uint8 `[B, S]`."""
        return {"generators": torch.stack([g.get_state() for g in self.generators])}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for generator, saved in zip(self.generators, state["generators"], strict=True):
            generator.set_state(saved.clone())  # torch refuses a row of a larger tensor

    def _begun(self) -> torch.Tensor:
        assert self.source is not None, "begin() comes before of_images()"
        return self.source

    def _seen(self, images: torch.Tensor) -> torch.Tensor:
        """Embeddings `[B, V, D]` of random views of images `[B, 3, H, W]`."""
        size_px = self.encoder.input_size_px
        count = self.config.cutouts or (32 if min(images.shape[2:]) > size_px else 2)
        views = random_views(images, count, size_px, self.generators, self.config.views)
        if isinstance(self.encoder, EnsembleEncoder):
            return self.encoder.encode_views(views)
        embeddings = self.encoder.encode_images(rearrange(views, "b v c h w -> (b v) c h w"))
        return rearrange(embeddings, "(b v) d -> b v d", v=count)

    def _directional(self, embeddings: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """Weighted distances `[B, V]` of embeddings `[B, V, D]` from those of the start."""
        # Image prompts are compared with the start image, texts with the source text.
        origin = start.mean(dim=1)[:, None].expand_as(self.targets)
        if not self.is_image.all():
            origin = torch.where(self.is_image[..., None], origin, self.source_text)
        wanted = (self.targets - origin)[:, None]  # [B, 1, P, D]
        distance = directional_distance((embeddings - start)[:, :, None], wanted)
        return (distance * self.weights[:, None]).sum(dim=2)
