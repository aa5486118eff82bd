"""Steering: optimize a latent until the generator's image matches a prompt."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from guidance.encoders import Encoder, load_encoder
from guidance.generator import generator_of
from guidance.latents import check_latents, latent_statistics, starting_latents
from guidance.masks import Region, load_region
from guidance.prompts import Prompt, PromptLike, parse_prompts
from guidance.render import EditedLatent
from guidance.steering.config import SteerConfig
from guidance.steering.keep import KeepTerms
from guidance.steering.objective import SteeringObjective
from guidance.steering.run import PromptSchedule, SteeringRun, SteerStep, start_of
from guidance.steering.spaces import Movable, check_space
from guidance.steering.start import StartSearch
from guidance.steering.state import read_state
from guidance.style_space import rows_of_layers
from sg3.checkpoints import Networks
from sg3.motion import Move
from sg3.networks.generator import MappedGenerator
from sg3.settings import replace_settings

Prompts = PromptLike | Iterable[PromptLike]


def steer(
    network: Networks | nn.Module,
    prompts: Prompts,
    clip: str | Encoder = "mini",
    *,
    config: SteerConfig | None = None,
    start_ws: torch.Tensor | EditedLatent | None = None,
    region: Region | None = None,
    progress: bool = False,
    **settings: Any,
) -> Iterator[SteerStep]:
    """Optimize a latent until its image matches `prompts`; yields `steps + 1` `SteerStep`s.

    The same seed gives the same result.

    Args:
        network: networks of `sg3.load`, or a generator. Its weights stay as they are.
        prompts: a text, several joined by " | ", or a list; all are matched together. Weights are
            written "text:1.5"; negative ones push away. Images (a `Path` or a PIL image) work like
            texts.
        clip: encoder, or its name: "mini", "mini-smooth", or an open_clip model such as
            "ViT-B-32/openai" (see `load_encoder`).
        config: settings; None: the defaults of `SteerConfig`.
        start_ws: `[1, num_ws, w_dim]` or an `EditedLatent` to start from.
        region: mask or box (see `load_region`). Only this part of the image is compared with
            the prompts, and the rest is preserved.
        progress: show a progress bar.
        **settings: fields of `SteerConfig` that replace those of `config`.

    Returns:
        An iterator over `SteerStep`s with the fields `index`, `num_steps`, `loss`, `losses`,
        `latent`, `sigma` and `render`, and the properties `ws` and `image`.

    Raises ValueError for bad input, before the first step.

    Example:
        >>> import guidance, sg3
        >>> nets = sg3.load("mini-faces")
        >>> for step in guidance.steer(nets, "a smiling woman with red hair", steps=2):
        ...     loss, image = step.loss, step.image  # the image is rendered on first use
        >>> step.index, list(image.shape)
        (2, [1, 3, 64, 64])
    """
    run = steer_batch(
        network,
        [prompts],
        clip,
        config=config,
        start_ws=start_ws,
        region=region,
        progress=progress,
        **settings,
    )
    return (step[0] for step in run)


def steer_batch(
    network: Networks | nn.Module,
    prompt_sets: Sequence[Prompts],
    clip: str | Encoder = "mini",
    *,
    seeds: Sequence[int] | None = None,
    config: SteerConfig | None = None,
    start_ws: torch.Tensor | EditedLatent | None = None,
    region: Region | None = None,
    resume_from: str | os.PathLike | None = None,
    about: str = "",
    progress: bool = False,
    **settings: Any,
) -> SteeringRun:
    """Steer B latents at once, each as if it were alone; yields tuples of B `SteerStep`s.

    Args:
        network: networks of `sg3.load`, or a generator.
        prompt_sets: prompts of each latent, as for `steer`.
        clip: encoder, or its name: "mini", "mini-smooth", or an open_clip model such as
            "ViT-B-32/openai" (see `load_encoder`).
        seeds: one per set of prompts; by default all have that of the settings.
        config: settings; None: the defaults of `SteerConfig`.
        start_ws: `[B, num_ws, w_dim]` or an `EditedLatent` to start from.
        region: mask or box (see `load_region`); the rest of the image is preserved.
        resume_from: a file of `SteeringRun.save`. Its steps are yielded again; then the run
            continues to the result that it would have had without the interruption.
        about: text that identifies further inputs, such as the hash of the network. A file with
            another text is refused.
        progress: show a progress bar.
        **settings: fields of `SteerConfig` that replace those of `config`.

    Raises ValueError for bad input, before the first step.

    Example:
        >>> import guidance, sg3
        >>> run = guidance.steer_batch(
        ...     sg3.load("mini-faces"), ["red hair", "a crown"], seeds=[1, 2], steps=2, start="seed"
        ... )
        >>> for red, crown in run:
        ...     losses = red.loss, crown.loss
    """
    config = replace_settings(config or SteerConfig(), settings)
    prepared = Preparation.of(network, prompt_sets, clip, seeds, config, start_ws, region, about)
    return prepared.run(resume_from=resume_from, progress=progress)


@dataclass
class Preparation:
    """Checked and loaded inputs of a run, before the search for its start."""

    G: MappedGenerator
    objective: SteeringObjective
    keeps: KeepTerms
    config: SteerConfig
    seeds: list[int]
    given: EditedLatent | None
    rows: set[int] | None
    fingerprint: str

    @staticmethod
    def of(
        network: Networks | nn.Module,
        prompt_sets: Sequence[Prompts],
        clip: str | Encoder,
        seeds: Sequence[int] | None,
        config: SteerConfig,
        start_ws: torch.Tensor | EditedLatent | None,
        region: Region | None,
        about: str,
    ) -> Preparation:
        """Check and load the arguments of `steer_batch`. Raises ValueError."""
        G = generator_of(network)
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
            # The best candidate resembles the prompt already; any other start has to move further.
            near = given is None and config.start == "best"
            config = dataclasses.replace(config, keep=1.0 if near else 0.1)
        objective = SteeringObjective(sets, encoder, seeds, config, device, mask)
        keeps = KeepTerms(config, device, mask)
        facts: dict[str, Any] = {"prompts": [list(map(_plain, prompts)) for prompts in sets]}
        facts |= {"seeds": seeds, "start": _digest(given), "region": _digest(mask)}
        facts |= {"inputs": about, "encoder": encoder.name} | dataclasses.asdict(config)
        fingerprint = json.dumps(facts, default=str)
        return Preparation(G, objective, keeps, config, seeds, given, rows, fingerprint)

    def starts(self) -> torch.Tensor:
        """Latents `[B, num_ws, w_dim]` to start from."""
        mean = latent_statistics(self.G, 1, self.config.class_index).mean
        search = StartSearch(self.G, self.objective, mean, self.config)
        return starting_latents(
            self.G, mean, self.seeds, self.config, lambda: search.best(self.seeds)
        )

    def movable(self, latent: EditedLatent | None = None) -> Movable:
        """The coordinates around `latent`; by default the given start, or one that is searched."""
        latent = latent or self.given or EditedLatent(self.starts())
        return Movable(self.G, latent, self.config, self.rows)

    def run(
        self,
        movable: Movable | None = None,
        resume_from: str | os.PathLike | None = None,
        schedule: PromptSchedule | None = None,
        moves: Sequence[Move] | None = None,
        progress: bool = False,
    ) -> SteeringRun:
        """The run from `movable`, or from the state in a file."""
        state = None if resume_from is None else read_state(resume_from, self.fingerprint)
        if movable is None:
            device = next(self.G.synthesis.parameters()).device
            # A state holds its start, which saves searching again.
            movable = self.movable(None if state is None else start_of(state, device))
        limit: float | torch.Tensor = self.config.max_sigma
        if limit and self.given is not None:  # a start beyond the limit stays where it is
            limit = movable.sigma(movable.start).clamp_min(limit)
        run = SteeringRun(
            self.G,
            self.objective,
            self.keeps,
            movable,
            self.config,
            limit,
            self.fingerprint,
            schedule=schedule,
            moves=moves,
            progress=progress,
        )
        if state is not None:
            run.load_state_dict(state)
        return run


def check_start(
    G: MappedGenerator, start: torch.Tensor | EditedLatent, count: int, device: torch.device
) -> EditedLatent:
    """`start` on `device`, with styles of `count` rows. Raises ValueError for another shape."""
    latent = start if isinstance(start, EditedLatent) else EditedLatent(start)
    check_latents("start_ws", latent.ws, G, count)
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
