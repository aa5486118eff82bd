"""Where steering begins: the best of random pictures, bred for a few generations."""

from __future__ import annotations

import torch
from torch import nn

from guidance.latents import map_latents, seed_latents
from guidance.render import pictures_at_once, renderer
from sg3.media.images import as_rgb

#: Pictures up to this size are cheap enough for many candidates.
SMALL_PX = 64
PARENTS = 8
#: Share of a child's numbers that come from neither parent.
MUTATION = 0.03


class Candidates:
    """Latents z of one set of prompts, with the distance of each one's picture to the prompts."""

    def __init__(self, breeder: Breeder, row: int, z: torch.Tensor, embeddings: torch.Tensor):
        self.breeder, self.row = breeder, row
        self.z, self.distances = z, self._distances(embeddings)

    def _distances(self, embeddings: torch.Tensor) -> torch.Tensor:
        return self.breeder.objective.of_embeddings(embeddings[None], [self.row])[0][0].cpu()

    def best(self) -> torch.Tensor:
        """The latent with the smallest distance, `[1, z_dim]`."""
        return self.z[self.distances.argmin()][None]

    def breed(self, count: int, random: torch.Generator) -> None:
        """Add `count` children of the best `PARENTS`, each number of z from one of two parents.

        Numbers of z are independent and normal, so a child is as likely a latent as its parents:
        unlike a step along a gradient, breeding cannot leave what the network has learned.
        """
        parents = self.z[self.distances.topk(min(PARENTS, len(self.z)), largest=False).indices]
        pairs = torch.rand([count, len(parents)], generator=random).argsort(dim=1)[:, :2]
        mothers, fathers = parents[pairs[:, 0]], parents[pairs[:, -1]]
        from_mother, mutated = torch.rand([2, *mothers.shape], generator=random)
        fresh = torch.randn(mothers.shape, generator=random, dtype=self.z.dtype)
        children = torch.where(from_mother < 0.5, mothers, fathers)
        children = torch.where(mutated < MUTATION, fresh, children)
        self.z = torch.cat([self.z, children])
        found = self._distances(self.breeder.embed(children))
        self.distances = torch.cat([self.distances, found])


class Breeder:
    """Makes pictures of latents and asks the encoder about them."""

    def __init__(self, G: nn.Module, objective, mean: torch.Tensor, config):
        self.G, self.objective, self.mean, self.config = G, objective, mean, config
        self.render = renderer(G, config.force_fp32)

    def ws(self, z: torch.Tensor) -> torch.Tensor:
        """z `[N, z_dim]` → truncated ws `[N, num_ws, w_dim]`."""
        return self.mean.lerp(
            map_latents(self.G, z, self.config.class_index), self.config.truncation
        )

    def embed(self, z: torch.Tensor) -> torch.Tensor:
        """z `[N, z_dim]` → `[N, D]`; pictures of a large network are never all in memory."""
        groups = self.ws(z).split(pictures_at_once(self.G))
        encode = self.objective.encoder.encode_images
        return torch.cat([encode(as_rgb(self.render(group))) for group in groups])


@torch.no_grad()
def starting_latents(G: nn.Module, objective, mean: torch.Tensor, seeds, config) -> torch.Tensor:
    """Where each set of prompts begins, `[B, num_ws, w_dim]`; `mean` `[w_dim]` is that of W."""
    if config.start == "mean":
        return mean.expand(len(seeds), G.num_ws, -1).clone()
    breeder = Breeder(G, objective, mean, config)
    if config.start == "seed":
        return breeder.ws(torch.cat([seed_latents(seed, 1, G.z_dim) for seed in seeds]))
    small = max(G.img_height, G.img_width) <= SMALL_PX
    count = config.candidates or (128 if small else 32)
    generations = (4 if small else 0) if config.generations is None else config.generations
    first = {seed: seed_latents(seed, count, G.z_dim) for seed in seeds}
    embeddings = {seed: breeder.embed(z) for seed, z in first.items()}
    found = []
    for row, seed in enumerate(seeds):
        candidates = Candidates(breeder, row, first[seed], embeddings[seed])
        random = torch.Generator().manual_seed(seed)
        for _ in range(generations):
            candidates.breed(max(count // 2, 1), random)
        found.append(candidates.best())
    return breeder.ws(torch.cat(found))
