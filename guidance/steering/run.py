"""A steering run: an iterator of steps that can be saved and resumed."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from typing import Any, Protocol

import torch

from guidance.learning_rate import learning_rate
from guidance.render import EditedLatent, one_of, synthesize
from guidance.steering.config import SteerConfig
from guidance.steering.keep import KeepTerms
from guidance.steering.objective import SteeringObjective
from guidance.steering.spaces import Coordinates, Movable
from guidance.steering.stall import Stall
from guidance.steering.state import write_state
from sg3.generate import user_transform
from sg3.media import ImageStep, ImageTensor
from sg3.motion import Move
from sg3.networks.generator import MappedGenerator
from sg3.progress import with_bar

#: Tensors of Adam's state, per parameter.
MOMENTS = ("exp_avg", "exp_avg_sq")
LATENT_STYLES = "latent.styles."


@dataclass(frozen=True)
class SteerStep(ImageStep):
    """One step of steering; step 0 is the start.

    Attributes:
        index: number of the step.
        num_steps: number of the last step, unless the run stalls before.
        loss: what is minimized: that of the latent before averaging, on augmented views.
        losses: weighted terms of the loss, "distance", "prior", "keep" and, where they are on,
            "perceptual", "identity", "outside"; also "similarity", the mean cosine to the prompts.
        latent: EMA of the latents: ws `[1, num_ws, w_dim]` and offsets of styles.
        sigma: distance from the mean of W in standard deviations; samples of W are near 1.
        render: renders a latent as this run does.
    """

    index: int
    num_steps: int
    loss: float
    losses: dict[str, float]
    latent: EditedLatent = dataclasses.field(repr=False, compare=False)
    sigma: float
    render: Callable[[EditedLatent], torch.Tensor] = dataclasses.field(repr=False, compare=False)

    @property
    def ws(self) -> torch.Tensor:
        """`[1, num_ws, w_dim]`, the whole latent unless styles or the transform are optimized."""
        return self.latent.ws

    @cached_property
    def image(self) -> ImageTensor:
        """Image `[1, C, H, W]` of `latent`, nominally in [−1, 1]; rendered on first use."""
        return ImageTensor.of(self.render(self.latent))


class PromptSchedule(Protocol):
    """Changes the prompts of a run from step to step (`guidance.steering.dissolve`)."""

    def weights(self, step: int) -> torch.Tensor:
        """Weights of the prompts at `step`, `[B, P]`."""

    def start(self, step: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Base and coordinates of the start at `step` (`Movable.move_start`); None keeps it."""


class SteeringRun(Iterator[tuple[SteerStep, ...]]):
    """Yields a tuple of B `SteerStep`s per step.

    After `save`, a run with that state yields the same steps again from the file and then
    continues. `state_dict` and `load_state_dict` work as those of torch modules.

    Args:
        G: the generator.
        objective: the prompts.
        keeps: terms that preserve the start image.
        movable: the optimized coordinates.
        config: settings of the run.
        limit: largest distance from the mean of W in standard deviations, a number or `[B]`;
            0 = no limit.
        fingerprint: JSON that a resumed run must have in common with this one.
        schedule: changes prompts and start from step to step.
        moves: transform of each step's image; not applied to the images that are optimized.
        progress: show a progress bar.
    """

    def __init__(
        self,
        G: MappedGenerator,
        objective: SteeringObjective,
        keeps: KeepTerms,
        movable: Movable,
        config: SteerConfig,
        limit: float | torch.Tensor = 0.0,
        fingerprint: str = "",
        *,
        schedule: PromptSchedule | None = None,
        moves: Sequence[Move] | None = None,
        progress: bool = False,
    ):
        self.G, self.objective, self.keeps, self.movable = G, objective, keeps, movable
        self.config, self.limit, self.fingerprint = config, limit, fingerprint
        self.schedule, self.moves, self.progress = schedule, moves, progress
        self.coordinates: Coordinates = {
            name: place.detach().clone().requires_grad_(True)
            for name, place in movable.start.items()
        }
        with torch.no_grad():
            movable.bound_({k: v.data for k, v in self.coordinates.items()}, limit)
        self.average = {name: c.detach().clone() for name, c in self.coordinates.items()}
        parameters = list(self.coordinates.values())
        self.optimizer = torch.optim.Adam(parameters, lr=config.lr, betas=config.betas)
        self.stall = Stall(len(movable.latent.ws), config.patience, config.stall)
        #: Averaged coordinates and losses of all steps so far.
        self.points: list[tuple[Coordinates, dict[str, list[float]]]] = []
        self._steps = self._with_bar()

    def __next__(self) -> tuple[SteerStep, ...]:
        return next(self._steps)

    def save(self, path: str | os.PathLike) -> None:
        """Write the state as safetensors, atomically, for `steer_batch(resume_from=path)`."""
        write_state(path, self.state_dict(), self.fingerprint)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers from which a run continues."""
        latent = self.movable.latent
        state: dict[str, Any] = {"latent.ws": latent.ws}
        state |= {LATENT_STYLES + name: style for name, style in latent.styles.items()}
        moments = self.optimizer.state_dict()["state"]  # by number of the parameter
        for i, (name, value) in enumerate(self.coordinates.items()):
            state[f"now.{name}"], state[f"average.{name}"] = value.detach(), self.average[name]
            places = [place[name] for place, _ in self.points]
            state[f"points.{name}"] = torch.stack(places or [value.detach()])[: len(places)]
            state |= {f"{part}.{name}": moments[i][part] for part in MOMENTS if i in moments}
        state["moves"] = int(moments[0]["step"]) if moments else 0
        state["losses"] = [losses for _, losses in self.points]
        state |= self.objective.state_dict()
        return state | {f"stall.{name}": value for name, value in self.stall.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state; earlier steps of that run are yielded again.

        Raises ValueError if that run started from another latent.
        """
        start = start_of(state, self.movable.latent.ws.device)
        if not torch.equal(start.ws, self.movable.latent.ws):
            raise ValueError("state: belongs to a run that started from another latent")
        moments = {}
        with torch.no_grad():
            for i, (name, value) in enumerate(self.coordinates.items()):
                value.copy_(state[f"now.{name}"])
                self.average[name].copy_(state[f"average.{name}"])
                if state["moves"]:
                    moments[i] = {part: state[f"{part}.{name}"].clone() for part in MOMENTS}
                    moments[i]["step"] = torch.tensor(float(state["moves"]))
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.objective.load_state_dict(state)
        stall = {n.removeprefix("stall."): v for n, v in state.items() if n.startswith("stall.")}
        self.stall.load_state_dict(stall)
        places = {name: state[f"points.{name}"] for name in self.coordinates}
        self.points = [
            ({name: place[i] for name, place in places.items()}, losses)
            for i, losses in enumerate(state["losses"])
        ]
        self._steps = self._with_bar()

    def _with_bar(self) -> Iterator[tuple[SteerStep, ...]]:
        return with_bar(self._run(), self.config.steps + 1, "steer", self.progress)

    def _run(self) -> Iterator[tuple[SteerStep, ...]]:
        done = list(self.points)
        for index, (place, losses) in enumerate(done):
            self._follow_schedule(index)
            yield self._as_steps(index, place, losses)
        if done and self._ended(len(done) - 1):
            return
        if self.objective.needs_start or self.keeps.needs_start:
            with torch.no_grad():
                images = synthesize(self.G, self.movable.latent, self.config.force_fp32)
            self.objective.begin(images)
            self.keeps.begin(images)
        for index in range(len(done), self.config.steps + 1):
            # Restored coordinates have moved with the start up to the last point already.
            self._follow_schedule(index, carry=index > max(len(done) - 1, 0))
            # Before the update, so that step 0 shows the start itself.
            place = {name: value.clone() for name, value in self.average.items()}
            losses = self._advance(index)
            self.points.append(({name: value.cpu() for name, value in place.items()}, losses))
            yield self._as_steps(index, place, losses)
            if self._ended(index):
                return

    def _follow_schedule(self, index: int, carry: bool = False) -> None:
        """Set prompts and start of a step; `carry` moves the coordinates along with the start."""
        if self.schedule is None:
            return
        self.objective.weigh(self.schedule.weights(index))
        start = self.schedule.start(index)
        if start is None:
            return
        shift = self.movable.move_start(*start)
        if carry:
            with torch.no_grad():
                self.coordinates["latent"] += shift
                self.average["latent"] += shift

    def _ended(self, index: int) -> bool:
        return index >= self.config.steps or bool(self.stall.stalled.all())

    def _advance(self, index: int) -> dict[str, list[float]]:
        """Losses at `index`, each `[B]`; then, unless it is the last, one optimizer step."""
        last = index >= self.config.steps
        with torch.set_grad_enabled(not last):  # the caller may have switched gradients off
            latent = self.movable.decode(self.coordinates)
            images = synthesize(self.G, latent, self.config.force_fp32)
            distance, similarity = self.objective.of_images(images)
            keep = self.config.keep or 0.0
            terms = {
                "distance": distance,
                "prior": self.config.prior * self.movable.prior(self.coordinates),
                "keep": keep * self.movable.change(self.coordinates),
                **self.keeps.terms(images),
            }
            loss = reduce(torch.add, terms.values())
            # A sum, not a mean: each run gets the gradient that it would get alone.
            total = loss.sum()
        stalled = self.stall.add(loss)
        if not (last or stalled.all()):
            self._update(total, index, stalled.to(loss.device))
        terms |= {"similarity": similarity, "loss": loss}
        return {name: value.detach().tolist() for name, value in terms.items()}

    def _update(self, total: torch.Tensor, index: int, stalled: torch.Tensor) -> None:
        parameters = list(self.coordinates.values())
        # backward() would also fill .grad of the generator's weights where they require it.
        gradients = torch.autograd.grad(total, parameters)
        before = [value.detach().clone() for value in parameters] if stalled.any() else None
        for value, gradient in zip(parameters, gradients, strict=True):
            value.grad = gradient
        config = self.config
        rate = learning_rate(index, config.steps, config.lr, config.schedule)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        with torch.no_grad():
            self.movable.bound_({k: v.data for k, v in self.coordinates.items()}, self.limit)
            if before is not None:  # rows that stalled stay as if they had run alone
                for value, old in zip(parameters, before, strict=True):
                    value.data[stalled] = old[stalled]
            for name, value in self.coordinates.items():
                moved = self.average[name].lerp(value.detach(), 1 - config.ema)
                self.average[name][~stalled] = moved[~stalled]

    @torch.no_grad()
    def _render(self, latent: EditedLatent, move: Move) -> torch.Tensor:
        with user_transform(self.G, move.translate, move.rotate_deg):
            return synthesize(self.G, latent, self.config.force_fp32)

    @torch.no_grad()
    def _as_steps(
        self, index: int, place: Coordinates, losses: Mapping[str, list[float]]
    ) -> tuple[SteerStep, ...]:
        """The `SteerStep` of each set of prompts, for averaged coordinates and losses."""
        place = {name: value.to(self.movable.latent.ws) for name, value in place.items()}
        latent, sigma = self.movable.decode(place), self.movable.sigma(place).tolist()
        render = partial(self._render, move=self.moves[index] if self.moves else Move())
        return tuple(
            SteerStep(
                index=index,
                num_steps=self.config.steps,
                loss=losses["loss"][i],
                losses={name: value[i] for name, value in losses.items() if name != "loss"},
                latent=one_of(latent, i),
                sigma=sigma[i],
                render=render,
            )
            for i in range(len(latent.ws))
        )


def start_of(state: Mapping[str, Any], device: torch.device | str = "cpu") -> EditedLatent:
    """The latents that the run of a `SteeringRun.state_dict()` started from."""
    styles = {
        name.removeprefix(LATENT_STYLES): value.to(device)
        for name, value in state.items()
        if name.startswith(LATENT_STYLES)
    }
    return EditedLatent(state["latent.ws"].to(device), styles)
