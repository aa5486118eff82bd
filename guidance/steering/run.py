"""The run behind `steer`: an iterator of steps that can be saved and taken up again."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import nn

from guidance.directions.base import EditedLatent
from guidance.render import synthesised
from guidance.steering.config import SteerConfig
from guidance.steering.keep import KeepTerms
from guidance.steering.learning_rate import Stall, learning_rate
from guidance.steering.objective import Objective
from guidance.steering.spaces import Coordinates, Movable
from guidance.steering.state import Progress
from sg3.generate import user_transform
from sg3.motion import Move


@dataclass(frozen=True)
class Step:
    """One point of the way. `index` 0 is the start, `num_steps` the end unless it stalls before."""

    index: int
    num_steps: int
    #: What the optimiser minimises, for the latent before averaging and under augmentation.
    loss: float
    #: Its weighted terms: "distance", "prior", "keep", and where they are on "look", "identity"
    #: and "outside"; beside them "similarity", the mean cosine to the prompts.
    losses: dict[str, float]
    #: Averaged latent: ws `[1, num_ws, w_dim]` and what is added to its styles.
    latent: EditedLatent = dataclasses.field(repr=False, compare=False)
    #: Distance of what moves from the mean of W in standard deviations (samples of W lie near 1).
    sigma: float
    render: Callable[[EditedLatent], torch.Tensor] = dataclasses.field(repr=False, compare=False)

    @property
    def ws(self) -> torch.Tensor:
        """`[1, num_ws, w_dim]`: all of the latent where neither styles nor the transform move."""
        return self.latent.ws

    @cached_property
    def image(self) -> torch.Tensor:
        """Picture of `latent`, `[1, C, H, W]` float32, nominally in [−1, 1]; rendered on demand."""
        return self.render(self.latent)


class Steering(Iterator[tuple[Step, ...]]):
    """Yields B `Step`s at a time. `save` between two of them, and a run with that progress yields
    the same steps, the ones before (from the file) and the ones after (by going on).

    `limit`: bound in standard deviations of W, a number or `[B]`; 0 for none.
    """

    #: Called with the index of each step before it; it may change what is wanted.
    before_step: Callable[[int], None] | None = None
    #: How each step's picture (not what is judged) is moved; None: not at all.
    moves: Sequence[Move] | None = None

    def __init__(
        self,
        G: nn.Module,
        objective: Objective,
        keeps: KeepTerms,
        movable: Movable,
        config: SteerConfig,
        limit: float | torch.Tensor = 0.0,
        fingerprint: str = "",
        saved: Progress | None = None,
    ):
        self.G, self.objective, self.keeps, self.movable = G, objective, keeps, movable
        self.config, self.limit, self.fingerprint = config, limit, fingerprint
        self.coordinates: Coordinates = {
            name: place.detach().clone().requires_grad_(True)
            for name, place in movable.start.items()
        }
        with torch.no_grad():
            movable.bound_({k: v.data for k, v in self.coordinates.items()}, limit)
        self.average = {name: c.detach().clone() for name, c in self.coordinates.items()}
        unknown = list(self.coordinates.values())
        self.optimiser = torch.optim.Adam(unknown, lr=config.lr, betas=config.betas)
        batch = len(movable.latent.ws)
        self.stall = Stall(batch, config.patience, config.stall)
        self.progress = Progress(fingerprint, movable.latent)
        if saved is not None:
            self.progress = saved
            saved.restore(self)
        self._steps = self._run()

    def __next__(self) -> tuple[Step, ...]:
        return next(self._steps)

    def save(self, path: str | os.PathLike) -> None:
        """Write what it takes to go on from here, as safetensors, atomically."""
        self.progress.write(path, self)

    def _run(self) -> Iterator[tuple[Step, ...]]:
        done = list(self.progress.points)
        for index, (place, values) in enumerate(done):
            self._prepare(index)
            yield self._points(index, place, values)
        if done and self._ended(len(done) - 1):
            return
        if self.objective.needs_start or self.keeps.needs_start:
            with torch.no_grad():
                images = synthesised(self.G, self.movable.latent, self.config.force_fp32)
            self.objective.begin(images)
            self.keeps.begin(images)
        for index in range(len(done), self.config.steps + 1):
            self._prepare(index)
            place = {name: value.clone() for name, value in self.average.items()}
            values = self._advance(index)
            self.progress.add(place, values)
            yield self._points(index, place, values)
            if self._ended(index):
                return

    def _prepare(self, index: int) -> None:
        if self.before_step is not None:
            self.before_step(index)

    def _ended(self, index: int) -> bool:
        return index >= self.config.steps or bool(self.stall.stalled.all())

    def _advance(self, index: int) -> dict[str, list[float]]:
        """Losses at `index`, each `[B]`; then, unless it is the last, one step further."""
        last = index >= self.config.steps
        with torch.set_grad_enabled(not last):
            latent = self.movable.decode(self.coordinates)
            images = synthesised(self.G, latent, self.config.force_fp32)
            distance, similarity = self.objective.of_images(images)
            terms = {
                "distance": distance,
                "prior": self.config.prior * self.movable.prior(self.coordinates),
                "keep": self.config.keep * self.movable.change(self.coordinates),
                **self.keeps.terms(images),
            }
            loss = sum(terms.values())
            total = loss.sum()  # a consumer may have switched gradients off outside
        stalled = self.stall.add(loss)
        if not (last or stalled.all()):
            self._move(total, index, stalled.to(loss.device))
        terms |= {"similarity": similarity, "loss": loss}
        return {name: value.detach().tolist() for name, value in terms.items()}

    def _move(self, total: torch.Tensor, index: int, stalled: torch.Tensor) -> None:
        unknown = list(self.coordinates.values())
        # Only the latent's gradient: weights of G are left alone whatever their requires_grad.
        gradients = torch.autograd.grad(total, unknown)
        before = [value.detach().clone() for value in unknown] if stalled.any() else None
        for value, gradient in zip(unknown, gradients, strict=True):
            value.grad = gradient
        self.optimiser.param_groups[0]["lr"] = learning_rate(index, self.config)
        self.optimiser.step()
        with torch.no_grad():
            self.movable.bound_({k: v.data for k, v in self.coordinates.items()}, self.limit)
            if before is not None:  # what has stalled stays, as if it were alone
                for value, old in zip(unknown, before, strict=True):
                    value.data[stalled] = old[stalled]
            for name, value in self.coordinates.items():
                moved = self.average[name].lerp(value.detach(), 1 - self.config.ema)
                self.average[name][~stalled] = moved[~stalled]

    @torch.no_grad()
    def _render(self, latent: EditedLatent, move: Move) -> torch.Tensor:
        with user_transform(self.G, move.translate, move.rotate_deg):
            return synthesised(self.G, latent, self.config.force_fp32)

    @torch.no_grad()
    def _points(self, index: int, place: Coordinates, values) -> tuple[Step, ...]:
        """What a point of the way looks like from outside, one `Step` per set of prompts."""
        place = {name: value.to(self.movable.latent.ws) for name, value in place.items()}
        latent, sigma = self.movable.decode(place), self.movable.sigma(place).tolist()
        count = self.config.steps
        render = partial(self._render, move=self.moves[index] if self.moves else Move())
        return tuple(
            Step(
                index=index,
                num_steps=count,
                loss=values["loss"][i],
                losses={name: value[i] for name, value in values.items() if name != "loss"},
                latent=one_of(latent, i),
                sigma=sigma[i],
                render=render,
            )
            for i in range(len(latent.ws))
        )


def one_of(latent: EditedLatent, i: int) -> EditedLatent:
    """Latent number `i` of several that have styles of their own."""
    return EditedLatent(latent.ws[i : i + 1], {n: s[i : i + 1] for n, s in latent.styles.items()})
