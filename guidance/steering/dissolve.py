"""Several prompts one after the other as one continuous run: the "dissolve"."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from guidance.directions.base import EditedLatent
from guidance.encoders import Encoder
from guidance.latents import LatentSpace
from guidance.prompts import Prompt, parse_prompts
from guidance.steering.config import SteerConfig
from guidance.steering.run import Steering
from guidance.steering.state import Progress
from guidance.steering.steer import Preparation, Prompts
from sg3.errors import UserError
from sg3.motion import moves


@dataclass(frozen=True)
class Timeline:
    """Prompt k takes over at step `times[k]`, across `fade` steps around it; the last step is
    `end`. Raises UserError unless the times rise from 0 to before the end."""

    times: tuple[int, ...]
    end: int
    fade: float

    def __post_init__(self):
        rising = bool(self.times) and all(a < b for a, b in self.gaps())
        if not rising or self.times[0] != 0:
            raise UserError(
                f"times: got {','.join(map(str, self.times))}, expected rising steps from 0 to "
                f"below {self.end}"
            )
        if not 0 <= self.fade <= min(b - a for a, b in self.gaps()):
            raise UserError(f"fade: got {self.fade:g} steps, expected 0 to the shortest section's")

    def gaps(self) -> list[tuple[int, int]]:
        """First step of each section, and of the next."""
        return list(zip(self.times, (*self.times[1:], self.end), strict=True))

    def shares(self, step: float) -> list[float]:
        """How much each prompt counts at `step`; they add up to 1."""
        begun = [1.0]
        for time in self.times[1:]:
            t = (step - time) / self.fade + 0.5 if self.fade else float(step >= time)
            t = min(max(t, 0.0), 1.0)
            begun.append(t * t * (3 - 2 * t))
        return [a * (1 - b) for a, b in zip(begun, [*begun[1:], 0.0], strict=True)]


def dissolve(
    G: nn.Module,
    prompts: Sequence[Prompts],
    clip: str | Encoder = "mini",
    *,
    steps_each: int = 60,
    times: Sequence[int] | None = None,
    fade: float = 0.5,
    motion: str | None = None,
    amount: float = 0.1,
    config: SteerConfig | None = None,
    start_ws: torch.Tensor | EditedLatent | None = None,
    progress: str | os.PathLike | None = None,
    about: str = "",
    **settings,
) -> Steering:
    """Steer through `prompts`, `steps_each` steps for each; every step is a frame of the video.

    `times`: steps at which prompts take over (the first at 0), instead of every `steps_each`.
    `fade`: share of the shortest section over which one gives way to the next. Where the start is
    "best" and w or w+ moves, the best picture for each prompt is found first and the run goes from
    one to the next, the texts pulling on the way; otherwise the texts alone pull. `motion` and
    `amount` move the frames as `sg3.motion.moves` says. The rest is as for `steer_batch`. Raises
    ValueError for fewer than two prompts, and for times that do not fit.
    """
    config = dataclasses.replace(config or SteerConfig(), **settings)
    sections = [parse_prompts(part) for part in prompts]
    if len(sections) < 2:
        raise UserError(f"dissolve: got {len(sections)} prompts, expected at least two")
    if steps_each < 1:
        raise UserError(f"dissolve: got {steps_each} steps, expected at least 1")
    if not 0 <= fade <= 1:
        raise UserError(f"fade: got {fade:g}, expected a share from 0 to 1")
    if times is None:
        times = [i * steps_each for i in range(len(sections))]
    if len(times) != len(sections):
        raise UserError(
            f"times: got {len(times)}, expected one for each of {len(sections)} prompts"
        )
    end = times[-1] + steps_each
    plain = Timeline(tuple(times), end, 0.0)
    timeline = dataclasses.replace(plain, fade=fade * min(b - a for a, b in plain.gaps()))
    path = moves(motion, end + 1, amount) if motion else None
    config = dataclasses.replace(config, steps=end)
    about += f" {timeline} {motion} {amount}"
    everything = [prompt for section in sections for prompt in section]
    prepared = Preparation.of(G, [everything], clip, None, config, start_ws, None, about)
    saved = None if progress is None else Progress.read(progress, prepared.fingerprint)
    anchors = None
    if start_ws is None and config.start == "best":
        encoder, seeds = prepared.objective.encoder, [config.seed] * len(sections)
        parts = Preparation.of(G, sections, encoder, seeds, prepared.config, None, None, "")
        anchors = parts.starts()
    run = prepared.steering(None if anchors is None else EditedLatent(anchors[:1]), saved)
    run.moves = path
    run.before_step = Conductor(run, timeline, sections, anchors)
    return run


class Conductor:
    """Gives the prompts of a run their weights at each step, and leads it past `anchors`."""

    def __init__(
        self,
        run: Steering,
        timeline: Timeline,
        sections: Sequence[Sequence[Prompt]],
        anchors: torch.Tensor | None,
    ):
        self.run, self.timeline = run, timeline
        weights, numbers = [], []
        for number, section in enumerate(sections):
            total = sum(abs(prompt.weight) for prompt in section)
            weights += [prompt.weight / total for prompt in section]
            numbers += [number] * len(section)
        device = run.movable.latent.ws.device
        self.weights, self.numbers = torch.tensor(weights, device=device), numbers
        self.route: LatentSpace | None = None
        if anchors is not None and run.config.space != "s":
            space, config = run.movable.space, run.config
            self.route = LatentSpace(
                space.statistics, anchors, config.basis, config.space == "w+", space.rows
            )
        self.at = len(run.progress.points) and len(run.progress.points) - 1

    def __call__(self, index: int) -> None:
        shares = torch.tensor(self.timeline.shares(index), device=self.weights.device)
        self.run.objective.weights = (self.weights * shares[self.numbers])[None]
        if self.route is not None:
            self._lead(index, shares)

    def _lead(self, index: int, shares: torch.Tensor) -> None:
        """Move what the run is held to, and the run with it, as far from it as it has come."""
        movable = self.run.movable
        place = (shares[:, None, None] * self.route.start).sum(dim=0, keepdim=True)
        movable.space.base = (shares[:, None, None] * self.route.base).sum(dim=0, keepdim=True)
        step, movable.start["latent"] = place - movable.start["latent"], place
        if index > self.at:  # what was saved has come this way already
            self.run.coordinates["latent"].data += step
            self.run.average["latent"] += step
