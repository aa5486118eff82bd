"""A text pulls a latent: optimise where in W a generator's picture says what the text says."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from guidance.directions.base import EditedLatent
from guidance.directions.spec import rows_of_layers
from guidance.encoders import Encoder, load_encoder
from guidance.latents import latent_statistics
from guidance.masks import Region, load_region
from guidance.prompts import Prompt, PromptLike, parse_prompts
from guidance.steering.config import SteerConfig
from guidance.steering.keep import KeepTerms
from guidance.steering.learning_rate import learning_rate
from guidance.steering.objective import Objective
from guidance.steering.run import Steering, Step
from guidance.steering.spaces import Movable, check_space
from guidance.steering.start import starting_latents
from guidance.steering.state import Progress

__all__ = ["Prompts", "SteerConfig", "Steering", "Step", "learning_rate", "steer", "steer_batch"]

Prompts = PromptLike | Iterable[PromptLike]


def steer(
    G: nn.Module,
    prompts: Prompts,
    clip: str | Encoder = "mini",
    *,
    config: SteerConfig | None = None,
    start_ws: torch.Tensor | EditedLatent | None = None,
    region: Region | None = None,
    **settings,
) -> Iterator[Step]:
    """Move a latent of `G` until its picture matches `prompts`; yields `steps + 1` `Step`s.

    `prompts`: a text, or several that all pull ("a | b", weights "text:1.5", negative ones push
    away); pictures (`Path`, PIL) pull like texts. `clip`: what `load_encoder` takes. `settings`:
    fields of `SteerConfig`, replacing those of `config`. `start_ws` `[1, num_ws, w_dim]`, or a
    latent with styles, begins there instead. `region`: what `load_region` takes; only that part is
    judged, the rest is held. The same seed gives the same result. Bad input raises ValueError here,
    before the first step.
    """
    steps = steer_batch(
        G, [prompts], clip, config=config, start_ws=start_ws, region=region, **settings
    )
    return (step[0] for step in steps)


def steer_batch(
    G: nn.Module,
    prompt_sets: Sequence[Prompts],
    clip: str | Encoder = "mini",
    *,
    seeds: Sequence[int] | None = None,
    config: SteerConfig | None = None,
    start_ws: torch.Tensor | EditedLatent | None = None,
    region: Region | None = None,
    progress: str | os.PathLike | None = None,
    about: str = "",
    **settings,
) -> Steering:
    """`steer` for B sets of prompts side by side, each as if it were alone; yields B `Step`s each.

    `seeds`: one per set; `config.seed` for all when left out. `start_ws` `[B, num_ws, w_dim]`.
    `progress`: a file of `Steering.save`; its steps are handed out again, then the run goes on to
    the same result. `about` says what else that file belongs to, such as the network's hash.
    """
    config = dataclasses.replace(config or SteerConfig(), **settings)
    run = Preparation.of(G, prompt_sets, clip, seeds, config, start_ws, region, about)
    saved = None if progress is None else Progress.read(progress, run.fingerprint)
    return run.steering(saved.latent if saved else None, saved)


@dataclass
class Preparation:
    """What a run needs before its start is looked for; every input is checked."""

    G: nn.Module
    objective: Objective
    keeps: KeepTerms
    config: SteerConfig
    seeds: list[int]
    given: EditedLatent | None
    rows: set[int] | None
    fingerprint: str

    @staticmethod
    def of(G, prompt_sets, clip, seeds, config, start_ws, region, about) -> Preparation:
        """Check and load; raises ValueError."""
        sets = [parse_prompts(prompts) for prompts in prompt_sets]
        seeds = [config.seed] * len(sets) if seeds is None else list(seeds)
        if not sets or len(seeds) != len(sets):
            raise ValueError(
                f"seeds: got {len(seeds)}, expected one for each of {len(sets)} prompts"
            )
        device = next(G.synthesis.parameters()).device
        check_space(G, config)
        rows = None if config.layers is None else rows_of_layers(G, config.layers)
        given = None if start_ws is None else check_start(G, start_ws, len(sets), device)
        mask = None if region is None else load_region(region, G.img_height, G.img_width)
        mask = None if mask is None else mask.to(device)
        encoder = load_encoder(clip, device)
        if config.keep is None:
            near = given is None and config.start == "best"
            config = dataclasses.replace(config, keep=1.0 if near else 0.1)
        objective = Objective(sets, encoder, seeds, config, device, mask)
        keeps = KeepTerms(config, device, mask)
        facts = {"prompts": [list(map(_plain, prompts)) for prompts in sets], "seeds": seeds}
        facts |= {"start": _digest(given), "region": _digest(mask), "inputs": about}
        facts |= {"encoder": encoder.name}
        facts |= dataclasses.asdict(config)
        return Preparation(
            G, objective, keeps, config, seeds, given, rows, json.dumps(facts, default=str)
        )

    def starts(self) -> torch.Tensor:
        """Where each set of prompts begins, `[B, num_ws, w_dim]`."""
        latent_mean = latent_statistics(self.G, 1, self.config.class_index).mean
        return starting_latents(self.G, self.objective, latent_mean, self.seeds, self.config)

    def steering(
        self, latent: EditedLatent | None = None, saved: Progress | None = None
    ) -> Steering:
        """The run from `latent`, else from what was given or is found."""
        latent = latent or self.given or EditedLatent(self.starts())
        movable = Movable(self.G, latent, self.config, self.rows)
        limit: float | torch.Tensor = self.config.max_sigma
        if limit and self.given is not None:  # a given start is not pulled in before it moves
            limit = movable.sigma(movable.start).clamp_min(limit)
        return Steering(
            self.G,
            self.objective,
            self.keeps,
            movable,
            self.config,
            limit,
            self.fingerprint,
            saved,
        )


def check_start(
    G: nn.Module, start: torch.Tensor | EditedLatent, count: int, device: torch.device
) -> EditedLatent:
    """`start` on `device` with `count` rows each. Raises ValueError for another shape."""
    latent = start if isinstance(start, EditedLatent) else EditedLatent(start)
    expected = (count, G.num_ws, G.w_dim)
    if tuple(latent.ws.shape) != expected:
        raise ValueError(f"start_ws: got shape {tuple(latent.ws.shape)}, expected {expected}")
    styles = {n: s.to(device).expand(count, -1) for n, s in latent.styles.items()}
    return EditedLatent(latent.ws.to(device, torch.float32), styles)


def _plain(prompt: Prompt) -> list:
    image = prompt.image and hashlib.sha256(prompt.image.tobytes()).hexdigest()[:16]
    return [prompt.text, prompt.weight, image]


def _digest(value: torch.Tensor | EditedLatent | None) -> str | None:
    if value is None:
        return None
    tensors = [value] if isinstance(value, torch.Tensor) else [value.ws, *value.styles.values()]
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
