"""How far a steering has come: its points so far, and what the next step needs."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open

from guidance.directions.base import EditedLatent
from sg3.errors import UserError
from sg3.files import aligned, write_tensors

if TYPE_CHECKING:
    from guidance.steering.run import Steering
    from guidance.steering.spaces import Coordinates

FORMAT = "sg3-steering"
MOMENTS = ("exp_avg", "exp_avg_sq")
STALL = ("smooth", "best", "since", "stalled")


class Progress:
    """Points of a run, `(averaged coordinates, losses)`, and the latent where it began."""

    def __init__(self, fingerprint: str, latent: EditedLatent):
        self.fingerprint, self.latent = fingerprint, latent
        self.points: list[tuple[Coordinates, dict[str, list[float]]]] = []
        self._tensors: dict[str, torch.Tensor] = {}
        self._moves = self._stall_steps = 0

    def add(self, place: Coordinates, values: dict[str, list[float]]) -> None:
        """Take the next point."""
        self.points.append(({name: value.cpu() for name, value in place.items()}, values))

    def write(self, path: str | os.PathLike, run: Steering) -> None:
        """Write these points and the state of `run`, atomically. Raises OSError where it cannot."""
        named = {"latent.ws": self.latent.ws}
        named |= {f"latent.styles.{name}": style for name, style in self.latent.styles.items()}
        moves = 0
        for name, value in run.coordinates.items():
            named[f"now.{name}"], named[f"average.{name}"] = value, run.average[name]
            state = run.optimiser.state.get(value, {})
            moves = int(state.get("step", 0))
            named |= {f"{part}.{name}": state[part] for part in MOMENTS if part in state}
            named[f"points.{name}"] = torch.stack([place[name] for place, _ in self.points])
        states = [generator.get_state() for generator in run.objective.generators]
        named["generators"] = torch.stack(states)
        named |= {f"stall.{part}": getattr(run.stall, part) for part in STALL}
        numbers = {"losses": [values for _, values in self.points], "moves": moves}
        numbers["stall_steps"] = run.stall.steps
        metadata = {"format": FORMAT, "version": "1", "fingerprint": self.fingerprint}
        write_tensors(path, named, {**metadata, "numbers": json.dumps(numbers)})

    @staticmethod
    def read(path: str | os.PathLike, fingerprint: str) -> Progress:
        """The progress in a file. Raises UserError for a damaged file or another run's."""
        try:
            with safe_open(os.fspath(path), framework="pt") as file:
                tensors = {name: aligned(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
                metadata = file.metadata() or {}
        except (OSError, SafetensorError) as error:
            raise UserError(f"progress: {path} cannot be read ({error})") from None
        if metadata.get("format") != FORMAT:
            raise UserError(f"progress: {path} is no file of a steering")
        if metadata["fingerprint"] != fingerprint:
            raise UserError(
                f"progress: {path} belongs to a run with {_changed(metadata, fingerprint)}; repeat "
                "its command, or choose another folder"
            )
        styles = {
            name.removeprefix("latent.styles."): tensor
            for name, tensor in tensors.items()
            if name.startswith("latent.styles.")
        }
        found = Progress(fingerprint, EditedLatent(tensors["latent.ws"], styles))
        numbers = json.loads(metadata["numbers"])
        names = [n.removeprefix("now.") for n in tensors if n.startswith("now.")]
        places = {name: tensors[f"points.{name}"] for name in names}
        for i, values in enumerate(numbers["losses"]):
            found.points.append(({name: place[i] for name, place in places.items()}, values))
        found._tensors, found._moves = tensors, numbers["moves"]
        found._stall_steps = numbers["stall_steps"]
        return found

    def restore(self, run: Steering) -> None:
        """Give `run`, built from `latent`, the state that was written."""
        for name, value in run.coordinates.items():
            value.data.copy_(self._tensors[f"now.{name}"])
            run.average[name].copy_(self._tensors[f"average.{name}"])
            if self._moves:
                moments = {part: self._tensors[f"{part}.{name}"].to(value) for part in MOMENTS}
                step = torch.tensor(float(self._moves))
                run.optimiser.state[value] = {"step": step, **moments}
        for generator, state in zip(
            run.objective.generators, self._tensors["generators"], strict=True
        ):
            generator.set_state(state.clone())  # of its own memory: a row is refused
        for part in STALL:
            setattr(run.stall, part, self._tensors[f"stall.{part}"])
        run.stall.steps = self._stall_steps


def _changed(metadata: dict[str, str], fingerprint: str) -> str:
    """Names of the settings that differ."""
    theirs, ours = json.loads(metadata["fingerprint"]), json.loads(fingerprint)
    names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    return f"another {' and another '.join(names)}"
