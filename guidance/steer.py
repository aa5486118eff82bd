"""A text pulls a latent: optimise where in W a generator's picture says what the text says."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from guidance.cutouts import AUGMENTS, random_views
from guidance.encoders import Encoder, load_encoder
from guidance.latents import LatentSpace, latent_statistics
from guidance.losses import DISTANCES
from guidance.prompts import Prompt, parse_prompts
from guidance.render import as_rgb, renderer
from guidance.start import starting_latents

Prompts = str | Prompt | Iterable[str | Prompt]

#: Choices of the settings that are words.
CHOICES = {
    "space": ("w", "w+"),
    "basis": ("pca", "std"),
    "start": ("best", "seed", "mean"),
    "augment": tuple(AUGMENTS),
    "distance": tuple(DISTANCES),
}


@dataclass(frozen=True)
class SteerConfig:
    """Settings of `steer`. Raises ValueError for values outside the stated ranges."""

    steps: int = 60
    seed: int = 0
    #: "w": one latent for all layers; "w+": one per layer, freer and further from the manifold.
    space: str = "w"
    #: "pca": principal components of W; "std": every number of w (the 2021 notebooks).
    basis: str = "pca"
    components: int = 48
    #: Where to begin: the best of `candidates` random pictures, the seed's own, or the mean of W.
    start: str = "best"
    #: None for 128 of pictures up to 64 pixels wide, else 32.
    candidates: int | None = None
    #: Times the best candidates are crossed; None for 4 of pictures up to 64 pixels wide, else 0.
    generations: int | None = None
    #: Truncation psi of the starting pictures.
    truncation: float = 1.0
    lr: float = 0.1
    betas: tuple[float, float] = (0.0, 0.999)
    #: Share of the old in the moving average of latents that is shown and returned.
    ema: float = 0.9
    #: Pull towards the mean of W: this times the mean squared whitened coordinate.
    prior: float = 0.0
    #: Pull towards the start: this times the mean squared change of the coordinates. What the text
    #: does not mention stays as it was. None for 1 from the best candidate, which is near what the
    #: text says, and 0.1 from any other start, which has to move.
    keep: float | None = None
    #: No further from the mean than this, in standard deviations of W; 0 for no bound.
    max_sigma: float = 1.25
    #: Views per picture and step; None for 32 of pictures larger than the encoder's input, else 2.
    cutouts: int | None = None
    augment: str = "light"
    distance: str = "spherical"
    class_index: int | None = None
    force_fp32: bool = False

    def __post_init__(self):
        for name, expected in CHOICES.items():
            if getattr(self, name) not in expected:
                raise ValueError(
                    f"{name}: got {getattr(self, name)!r}, expected {' or '.join(expected)}"
                )
        counts = {"steps": 0, "components": 1, "candidates": 1, "cutouts": 1, "generations": 0}
        for name, least in counts.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected at least {least}")
        for name in ("lr", "prior", "keep", "max_sigma"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}: got {value}, expected a number ≥ 0")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema: got {self.ema}, expected 0 ≤ ema < 1")


@dataclass(frozen=True)
class Step:
    """One point of the way. `index` 0 is the start, `num_steps` the end."""

    index: int
    num_steps: int
    #: What the optimiser minimises, for the latent before averaging and under augmentation.
    loss: float
    #: Its terms: "distance", "prior" and "keep"; and "similarity", the mean cosine to the prompts.
    losses: dict[str, float]
    #: Averaged latent `[1, num_ws, w_dim]`.
    ws: torch.Tensor = dataclasses.field(repr=False, compare=False)
    #: Distance of `ws` from the mean of W in standard deviations (samples of W lie near 1).
    sigma: float
    render: Callable[[torch.Tensor], torch.Tensor] = dataclasses.field(repr=False, compare=False)

    @cached_property
    def image(self) -> torch.Tensor:
        """Picture of `ws`, `[1, C, H, W]` float32, nominally in [−1, 1]; rendered on demand."""
        return self.render(self.ws)


def steer(
    G: nn.Module,
    prompts: Prompts,
    clip: str | Encoder = "mini",
    *,
    config: SteerConfig | None = None,
    start_ws: torch.Tensor | None = None,
    **settings,
) -> Iterator[Step]:
    """Move a latent of `G` until its picture matches `prompts`; yields `steps + 1` `Step`s.

    `prompts`: a text, or several that all pull ("a | b", weights "text:1.5", negative ones push
    away). `clip`: what `load_encoder` takes. `settings`: fields of `SteerConfig`, replacing those
    of `config`. `start_ws` `[1, num_ws, w_dim]` begins there instead. The same seed gives the same
    result. Bad input raises ValueError here, before the first step.
    """
    steps = steer_batch(G, [prompts], clip, config=config, start_ws=start_ws, **settings)
    return (step[0] for step in steps)


def steer_batch(
    G: nn.Module,
    prompt_sets: Sequence[Prompts],
    clip: str | Encoder = "mini",
    *,
    seeds: Sequence[int] | None = None,
    config: SteerConfig | None = None,
    start_ws: torch.Tensor | None = None,
    **settings,
) -> Iterator[tuple[Step, ...]]:
    """`steer` for B sets of prompts side by side, each as if it were alone; yields B `Step`s each.

    `seeds`: one per set; `config.seed` for all when left out. `start_ws` `[B, num_ws, w_dim]`.
    """
    config = dataclasses.replace(config or SteerConfig(), **settings)
    sets = [parse_prompts(prompts) for prompts in prompt_sets]
    seeds = [config.seed] * len(sets) if seeds is None else list(seeds)
    if not sets or len(seeds) != len(sets):
        raise ValueError(f"seeds: got {len(seeds)}, expected one for each of {len(sets)} prompts")
    device = next(G.synthesis.parameters()).device
    encoder = load_encoder(clip, device)
    expected = (len(sets), G.num_ws, G.w_dim)
    if start_ws is not None and tuple(start_ws.shape) != expected:
        raise ValueError(f"start_ws: got shape {tuple(start_ws.shape)}, expected {expected}")
    statistics = latent_statistics(G, config.components, config.class_index)
    objective = Objective(sets, encoder, seeds, config, device)
    if config.keep is None:
        near = start_ws is None and config.start == "best"
        config = dataclasses.replace(config, keep=1.0 if near else 0.1)
    if start_ws is None:
        start_ws = starting_latents(G, objective, statistics.mean, seeds, config)
    space = LatentSpace(statistics, start_ws.to(device), config.basis, config.space == "w+")
    return _optimise(G, objective, space, config)


class Objective:
    """How far pictures are from what their prompts say."""

    def __init__(self, sets, encoder: Encoder, seeds, config: SteerConfig, device):
        self.encoder, self.config = encoder, config
        self.distance = DISTANCES[config.distance]
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        most = max(map(len, sets))
        with torch.no_grad():
            texts = encoder.encode_texts([p.text for prompts in sets for p in prompts])
        self.targets = torch.zeros([len(sets), most, texts.shape[1]], device=device)
        self.weights = torch.zeros([len(sets), most], device=device)
        self.targets[..., 0] = 1  # padding: any unit vector, at weight 0
        rows = iter(texts.to(device))
        for i, prompts in enumerate(sets):
            total = sum(abs(prompt.weight) for prompt in prompts)
            for j, prompt in enumerate(prompts):
                self.targets[i, j], self.weights[i, j] = next(rows), prompt.weight / total

    def of_embeddings(
        self, embeddings: torch.Tensor, rows: list[int] | slice = slice(None)
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`[B or 1, V, D]` → weighted distances and cosines `[B, V]` to the prompts of `rows`."""
        pairs = embeddings[:, :, None], self.targets[rows, None]  # [B, V, 1, D], [B, 1, P, D]
        weights = self.weights[rows, None]
        cosine = (pairs[0] * pairs[1]).sum(dim=3)
        return (self.distance(*pairs) * weights).sum(dim=2), (cosine * weights).sum(dim=2)

    def of_images(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`[B, C, H, W]` → distances and cosines `[B]`, means over random views."""
        images, config, size_px = as_rgb(images), self.config, self.encoder.input_size_px
        count = config.cutouts or (32 if min(images.shape[2:]) > size_px else 2)
        views = random_views(images, count, size_px, self.generators, AUGMENTS[config.augment])
        embeddings = self.encoder.encode_images(views.flatten(0, 1))
        found = self.of_embeddings(embeddings.unflatten(0, views.shape[:2]))
        return found[0].mean(dim=1), found[1].mean(dim=1)


def learning_rate(step: int, config: SteerConfig) -> float:
    """Short warm-up, cosine fall over the last quarter (FACTS 8.2)."""
    t = (step + 1) / max(config.steps, 1)
    fall = 0.5 - 0.5 * math.cos(math.pi * min(1, (1 - step / max(config.steps, 1)) / 0.25))
    return config.lr * min(1, t / 0.05) * fall


def _optimise(
    G, objective: Objective, space: LatentSpace, config: SteerConfig
) -> Iterator[tuple[Step, ...]]:
    latent = space.start.clone().requires_grad_(True)
    space.bound_(latent.data, config.max_sigma)
    average = latent.detach().clone()
    optimiser = torch.optim.Adam([latent], lr=config.lr, betas=config.betas)
    render = renderer(G, config.force_fp32)
    for index in range(config.steps + 1):
        last = index == config.steps
        with torch.set_grad_enabled(not last):
            ws = space.decode(latent)
            images = G.synthesis(ws, noise_mode="const", force_fp32=config.force_fp32)
            distance, cosine = objective.of_images(images)
            prior = config.prior * space.statistics.whiten(ws).square().mean(dim=(1, 2))
            keep = config.keep * (latent - space.start).square().mean(dim=(1, 2))
            loss = distance + prior + keep
            total = loss.sum()  # a consumer may have switched gradients off outside
        terms = {"distance": distance, "prior": prior, "keep": keep, "similarity": cosine}
        yield _steps(index, config.steps, loss, terms, space, average, render)
        if last:
            break
        # Only the latent's gradient: weights of G are left alone whatever their requires_grad.
        (latent.grad,) = torch.autograd.grad(total, latent)
        optimiser.param_groups[0]["lr"] = learning_rate(index, config)
        optimiser.step()
        space.bound_(latent.data, config.max_sigma)
        average.lerp_(latent.detach(), 1 - config.ema)


def _steps(index, num_steps, loss, terms, space, average, render) -> tuple[Step, ...]:
    """What a point of the way looks like from outside, one `Step` per set of prompts."""
    with torch.no_grad():
        ws = space.decode(average)
        sigma = space.statistics.sigma(ws).tolist()
    values = {name: value.detach().tolist() for name, value in terms.items()}
    return tuple(
        Step(
            index=index,
            num_steps=num_steps,
            loss=total,
            losses={name: value[i] for name, value in values.items()},
            ws=ws[i : i + 1],
            sigma=sigma[i],
            render=render,
        )
        for i, total in enumerate(loss.detach().tolist())
    )
