"""Choosing the start of a run: the best random images, crossed for a few generations."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from guidance.latents import seed_latents, truncated_latents
from guidance.render import images_at_once, renderer
from guidance.steering.config import SteerConfig
from guidance.steering.objective import SteeringObjective
from sg3.media.images import as_rgb
from sg3.networks.generator import MappedGenerator

#: Images up to this size are cheap enough for many candidates.
SMALL_PX = 64
PARENTS = 8
#: Fraction of a child's elements of z that are drawn anew.
MUTATION = 0.03


class StartSearch:
    """Finds, for each set of prompts, the random latent whose image is nearest to the prompts.

    Args:
        G: the generator.
        objective: the prompts.
        mean: mean of W, `[w_dim]`.
        config: settings of the run.
    """

    def __init__(
        self,
        G: MappedGenerator,
        objective: SteeringObjective,
        mean: torch.Tensor,
        config: SteerConfig,
    ):
        self.G, self.objective, self.mean, self.config = G, objective, mean, config
        self.render = renderer(G, config.force_fp32)

    def ws(self, z: torch.Tensor) -> torch.Tensor:
        """Map z `[N, z_dim]` to truncated ws `[N, num_ws, w_dim]`."""
        return truncated_latents(self.G, z, self.mean, self.config)

    def embed(self, z: torch.Tensor) -> torch.Tensor:
        """Embeddings `[N, D]` of the images of z `[N, z_dim]`, rendered in batches."""
        groups = self.ws(z).split(images_at_once(self.G))
        encode = self.objective.encoder.encode_images
        return torch.cat([encode(as_rgb(self.render(group))) for group in groups])

    def best(self, seeds: Sequence[int]) -> torch.Tensor:
        """The best latent of each set of prompts, `[B, num_ws, w_dim]`; one seed per set."""
        config = self.config
        small = max(self.G.img_height, self.G.img_width) <= SMALL_PX
        count = config.candidates or (128 if small else 32)
        generations = (4 if small else 0) if config.generations is None else config.generations
        # By seed, so that sets of prompts with the same seed share these renderings.
        first = {seed: seed_latents(seed, count, self.G.z_dim) for seed in seeds}
        embeddings = {seed: self.embed(z) for seed, z in first.items()}
        found = []
        for row, seed in enumerate(seeds):
            candidates = Candidates(self, row, first[seed], embeddings[seed])
            random = torch.Generator().manual_seed(seed)
            for _ in range(generations):
                candidates.breed(max(count // 2, 1), random)
            found.append(candidates.best())
        return self.ws(torch.cat(found))


class Candidates:
    """Latents z of one set of prompts, with the distance of each image to the prompts."""

    def __init__(self, search: StartSearch, row: int, z: torch.Tensor, embeddings: torch.Tensor):
        self.search, self.row = search, row
        self.z, self.distances = z, self._distances(embeddings)

    def _distances(self, embeddings: torch.Tensor) -> torch.Tensor:
        return self.search.objective.of_embeddings(embeddings[None], [self.row])[0][0].cpu()

    def best(self) -> torch.Tensor:
        """The latent with the smallest distance, `[1, z_dim]`."""
        return self.z[self.distances.argmin()][None]

    def breed(self, count: int, random: torch.Generator) -> None:
        """Add `count` children of the best `PARENTS`, each element of z from one of two parents.

        The elements of z are independent and normal, so a child is as likely a latent as its
        parents. Unlike gradient steps, crossing cannot leave the distribution that the generator
        was trained on.
        """
        parents = self.z[self.distances.topk(min(PARENTS, len(self.z)), largest=False).indices]
        pairs = torch.rand([count, len(parents)], generator=random).argsort(dim=1)[:, :2]
        mothers, fathers = parents[pairs[:, 0]], parents[pairs[:, -1]]
        from_mother, mutated = torch.rand([2, *mothers.shape], generator=random)
        fresh = torch.randn(mothers.shape, generator=random, dtype=self.z.dtype)
        children = torch.where(from_mother < 0.5, mothers, fathers)
        children = torch.where(mutated < MUTATION, fresh, children)
        self.z = torch.cat([self.z, children])
        found = self._distances(self.search.embed(children))
        self.distances = torch.cat([self.distances, found])
