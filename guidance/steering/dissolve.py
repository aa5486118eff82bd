"""Dissolve: steering through several prompts in one continuous run, for videos."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from guidance.encoders import Encoder
from guidance.latents import LatentSpace
from guidance.prompts import Prompt, parse_prompts
from guidance.render import EditedLatent
from guidance.steering.config import SteerConfig
from guidance.steering.run import SteeringRun
from guidance.steering.steer import Preparation, Prompts
from sg3.checkpoints import Networks
from sg3.errors import UserError
from sg3.motion import moves
from sg3.settings import replace_settings


@dataclass(frozen=True)
class Timeline:
    """When each prompt takes over.

    Attributes:
        times: step at which each prompt takes over, rising from 0.
        end: last step.
        fade: length of the cross-fade around each time, in steps.

    Raises ValueError unless the times rise from 0 to below the end and the fade fits in between.
    """

    times: tuple[int, ...]
    end: int
    fade: float

    def __post_init__(self) -> None:
        rising = bool(self.times) and all(a < b for a, b in self.sections())
        if not rising or self.times[0] != 0:
            raise UserError(
                f"times: got {','.join(map(str, self.times))}, expected rising steps from 0 to "
                f"below {self.end}"
            )
        shortest = min(b - a for a, b in self.sections())
        if not 0 <= self.fade <= shortest:
            raise UserError(f"fade: got {self.fade:g} steps, expected 0 to {shortest}")

    def sections(self) -> list[tuple[int, int]]:
        """First step of each section and of the next one."""
        return list(zip(self.times, (*self.times[1:], self.end), strict=True))

    def weights(self, step: float) -> list[float]:
        """Weight of each prompt at `step`; they sum to 1."""
        begun = [1.0]
        for time in self.times[1:]:
            t = (step - time) / self.fade + 0.5 if self.fade else float(step >= time)
            t = min(max(t, 0.0), 1.0)
            begun.append(t * t * (3 - 2 * t))
        return [a * (1 - b) for a, b in zip(begun, [*begun[1:], 0.0], strict=True)]


def dissolve(
    network: Networks | nn.Module,
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
    resume_from: str | os.PathLike | None = None,
    about: str = "",
    progress: bool = False,
    **settings: Any,
) -> SteeringRun:
    """Steer through `prompts` one after the other; each step is a frame of a video.

    With start "best" in space w or w+, the best image of each prompt is found first and the run
    moves from one to the next while the texts pull; otherwise only the texts pull.

    Args:
        network: networks of `sg3.load`, or a generator.
        prompts: at least two; each as for `steer`.
        clip: encoder, or its name: "mini", "mini-smooth", or an open_clip model such as
            "ViT-B-32/openai" (see `load_encoder`).
        steps_each: steps per prompt.
        times: steps at which the prompts take over, the first at 0; every `steps_each` by default.
        fade: fraction of the shortest section over which one prompt fades into the next.
        motion: moves the frames of a StyleGAN3, as `sg3.motion.moves` does.
        amount: how far, as a fraction of the image's larger side.
        config: settings; None: the defaults of `SteerConfig`. `steps` follows from the arguments
            above.
        start_ws: `[1, num_ws, w_dim]` or an `EditedLatent` to start from.
        resume_from: a file of `SteeringRun.save`.
        about: text that identifies further inputs, as for `steer_batch`.
        progress: show a progress bar.
        **settings: fields of `SteerConfig` that replace those of `config`.

    Raises ValueError for fewer than two prompts and for times that do not fit.

    Example:
        >>> import guidance, sg3
        >>> run = guidance.dissolve(
        ...     sg3.load("mini-faces"), ["red hair", "a crown"], steps_each=2, candidates=4
        ... )
        >>> frames = [step.image for (step,) in run]
        >>> len(frames)
        5
    """
    config = replace_settings(config or SteerConfig(), settings)
    sections = [parse_prompts(part) for part in prompts]
    timeline = _timeline(len(sections), steps_each, times, fade)
    path = moves(motion, timeline.end + 1, amount) if motion else None
    config = dataclasses.replace(config, steps=timeline.end)
    about += f" {timeline} {motion} {amount}"
    # One run knows all prompts; the schedule only changes their weights.
    everything = [prompt for section in sections for prompt in section]
    prepared = Preparation.of(network, [everything], clip, None, config, start_ws, None, about)
    anchors = None
    if start_ws is None and config.start == "best":
        encoder, seeds = prepared.objective.encoder, [config.seed] * len(sections)
        parts = Preparation.of(network, sections, encoder, seeds, prepared.config, None, None, "")
        anchors = parts.starts()
    movable = None
    route: LatentSpace | None = None
    if anchors is not None:
        movable = prepared.movable(EditedLatent(anchors[:1]))
        route = movable.space_around(anchors)
    device = next(prepared.G.synthesis.parameters()).device
    schedule = DissolveSchedule(timeline, sections, route, device)
    return prepared.run(movable, resume_from, schedule, path, progress)


def _timeline(count: int, steps_each: int, times: Sequence[int] | None, fade: float) -> Timeline:
    """The timeline of `count` prompts. Raises ValueError."""
    if count < 2:
        raise UserError(f"prompts: got {count}, expected at least two")
    if steps_each < 1:
        raise UserError(f"steps_each: got {steps_each}, expected at least 1")
    if not 0 <= fade <= 1:
        raise UserError(f"fade: got {fade:g}, expected 0 to 1")
    if times is None:
        times = [i * steps_each for i in range(count)]
    if len(times) != count:
        raise UserError(f"times: got {len(times)}, expected one for each of {count} prompts")
    # Checked without a fade first, as its length depends on the sections.
    plain = Timeline(tuple(times), times[-1] + steps_each, 0.0)
    return dataclasses.replace(plain, fade=fade * min(b - a for a, b in plain.sections()))


class DissolveSchedule:
    """Weights of the prompts at each step, and where between the anchors the run starts from.

    Args:
        timeline: when the prompts take over.
        sections: the prompts of each section.
        route: the space around the anchors, one per section; None moves by the texts alone.
        device: where the run is.
    """

    def __init__(
        self,
        timeline: Timeline,
        sections: Sequence[Sequence[Prompt]],
        route: LatentSpace | None,
        device: torch.device,
    ):
        self.timeline, self.route = timeline, route
        weights, numbers = [], []
        for number, section in enumerate(sections):
            total = sum(abs(prompt.weight) for prompt in section)
            weights += [prompt.weight / total for prompt in section]
            numbers += [number] * len(section)
        self._weights, self._numbers = torch.tensor(weights, device=device), numbers

    def _mixture(self, step: int) -> torch.Tensor:
        return torch.tensor(self.timeline.weights(step), device=self._weights.device)

    def weights(self, step: int) -> torch.Tensor:
        """Weights of the prompts at `step`, `[1, P]`."""
        return (self._weights * self._mixture(step)[self._numbers])[None]

    def start(self, step: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Base and coordinates between the anchors at `step`; None without anchors."""
        if self.route is None:
            return None
        weights = self._mixture(step)[:, None, None]
        base = (weights * self.route.base).sum(dim=0, keepdim=True)
        return base, (weights * self.route.start).sum(dim=0, keepdim=True)
