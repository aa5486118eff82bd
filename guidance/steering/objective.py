"""How far pictures are from what texts and pictures say."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from guidance.cutouts import random_views
from guidance.encoders import Encoder, EnsembleEncoder
from guidance.prompts import Prompt
from guidance.steering.losses import DISTANCES, directional_distance
from guidance.templates import filled, templates_of
from sg3.data.photos import to_target
from sg3.errors import UserError
from sg3.media.images import as_rgb

#: Texts of an encoder that were encoded before: (sentence, ...) → `[embed_dim]`.
_texts: weakref.WeakKeyDictionary[Encoder, dict[tuple[str, ...], torch.Tensor]]
_texts = weakref.WeakKeyDictionary()
MOST_TEXTS = 1000


@torch.no_grad()
def text_embeddings(
    encoder: Encoder, texts: Sequence[str], templates: str | Sequence[str] = "plain"
) -> torch.Tensor:
    """`[len(texts), embed_dim]` of unit norm, each the mean over `templates`; kept for next time.

    Raises ValueError for unknown templates.
    """
    sentences = [tuple(filled(templates_of(templates), text)) for text in texts]
    known = _texts.setdefault(encoder, {})
    missing = [key for key in dict.fromkeys(sentences) if key not in known]
    if missing:
        if len(known) + len(missing) > MOST_TEXTS:
            known.clear()
            missing = list(dict.fromkeys(sentences))
        found = encoder.encode_texts([sentence for key in missing for sentence in key]).float()
        parts = found.split([len(key) for key in missing])
        known.update(zip(missing, (F.normalize(p.mean(dim=0), dim=0) for p in parts), strict=True))
    return torch.stack([known[key] for key in sentences])


@torch.no_grad()
def embed_prompts(
    encoder: Encoder, prompts: Sequence[Prompt], templates, device: torch.device
) -> torch.Tensor:
    """`[len(prompts), embed_dim]` of unit norm."""
    texts = [prompt.text for prompt in prompts if prompt.image is None]
    rows = iter(text_embeddings(encoder, texts, templates).to(device) if texts else [])
    found = []
    for prompt in prompts:
        if prompt.image is None:
            found.append(next(rows))
        else:
            found.append(encoder.encode_images(to_target(prompt.image, 3).to(device))[0])
    return torch.stack(found)


class Objective:
    """Distances of B pictures to B sets of prompts, seen by an encoder through random views.

    `mask` `[1, 1, H, W]`: only that region is judged; what lies outside is shown as it was at the
    start, so that the encoder still sees a whole picture.
    """

    def __init__(
        self,
        sets: Sequence[Sequence[Prompt]],
        encoder: Encoder,
        seeds: Sequence[int],
        config,
        device: torch.device,
        mask: torch.Tensor | None = None,
    ):
        self.encoder, self.config, self.mask = encoder, config, mask
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.source: torch.Tensor | None = None
        most = max(map(len, sets))
        flat = [prompt for prompts in sets for prompt in prompts]
        embeddings = embed_prompts(encoder, flat, config.templates, device)
        self.targets = torch.zeros([len(sets), most, embeddings.shape[1]], device=device)
        self.weights = torch.zeros([len(sets), most], device=device)
        self.is_image = torch.zeros([len(sets), most], dtype=torch.bool, device=device)
        self.targets[..., 0] = 1  # padding: any unit vector, at weight 0
        rows = iter(embeddings)
        for i, prompts in enumerate(sets):
            total = sum(abs(prompt.weight) for prompt in prompts)
            for j, prompt in enumerate(prompts):
                self.targets[i, j], self.weights[i, j] = next(rows), prompt.weight / total
                self.is_image[i, j] = prompt.image is not None
        self.directional = config.distance == "directional"
        #: Starts are chosen among pictures that have not changed from anything.
        self.distance = DISTANCES["spherical" if self.directional else config.distance]
        if self.directional and any(prompt.image is None for prompt in flat):
            if not config.source:
                raise UserError(
                    "source: the directional distance compares texts with what they start from; "
                    "give one such as 'a face' (--source)"
                )
            self.source_text = text_embeddings(encoder, [config.source], config.templates)[0]
            self.source_text = self.source_text.to(device)

    def of_embeddings(
        self, embeddings: torch.Tensor, rows: list[int] | slice = slice(None)
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`[B or 1, V, D]` → weighted distances and cosines `[B, V]` to the prompts of `rows`."""
        pairs = embeddings[:, :, None], self.targets[rows, None]  # [B, V, 1, D], [B, 1, P, D]
        weights = self.weights[rows, None]
        cosine = (pairs[0] * pairs[1]).sum(dim=3)
        return (self.distance(*pairs) * weights).sum(dim=2), (cosine * weights).sum(dim=2)

    @property
    def needs_start(self) -> bool:
        """Whether `begin` must come before `of_images`."""
        return self.directional or self.mask is not None

    def begin(self, images: torch.Tensor) -> None:
        """Take the pictures `[B, C, H, W]` that the run starts from."""
        self.source = as_rgb(images.detach())

    def of_images(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`[B, C, H, W]` → distances and cosines `[B]`, means over random views."""
        images = as_rgb(images)
        if self.mask is not None:
            images = self.mask * images + (1 - self.mask) * self.source
        before = [generator.get_state() for generator in self.generators]
        embeddings = self._seen(images)
        distances, cosines = self.of_embeddings(embeddings)
        if self.directional:
            with torch.no_grad():  # the start through the same views
                for generator, state in zip(self.generators, before, strict=True):
                    generator.set_state(state)
                start = self._seen(self.source)
            distances = self._directional(embeddings, start)
        return distances.mean(dim=1), cosines.mean(dim=1)

    def _seen(self, images: torch.Tensor) -> torch.Tensor:
        """`[B, 3, H, W]` → embeddings of random views `[B, V, D]`."""
        size_px = self.encoder.input_size_px
        count = self.config.cutouts or (32 if min(images.shape[2:]) > size_px else 2)
        views = random_views(images, count, size_px, self.generators, self.config.views)
        if isinstance(self.encoder, EnsembleEncoder):
            return self.encoder.encode_views(views)
        return self.encoder.encode_images(views.flatten(0, 1)).unflatten(0, views.shape[:2])

    def _directional(self, embeddings: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """`[B, V, D]` of now and of the start → weighted distances `[B, V]`."""
        origin = start.mean(dim=1)[:, None].expand_as(self.targets)
        if not self.is_image.all():
            origin = torch.where(self.is_image[..., None], origin, self.source_text)
        wanted = (self.targets - origin)[:, None]  # [B, 1, P, D]
        distance = directional_distance((embeddings - start)[:, :, None], wanted)
        return (distance * self.weights[:, None]).sum(dim=2)
