"""Networks from files of other tools: torch archives and plain safetensors."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from sg3.checkpoints.inert import Record
from sg3.checkpoints.layouts import Stated, networks_of_tensors
from sg3.checkpoints.layouts.flat import View, flatten
from sg3.checkpoints.networks import Networks
from sg3.checkpoints.official_pickle import rebuild
from sg3.checkpoints.storage import MARGIN
from sg3.checkpoints.torch_archive import read_archive
from sg3.errors import DAMAGE, UserError
from sg3.files import read_metadata


def load_torch_archive(path: str | os.PathLike, stated: Stated, only_ema: bool = False) -> Networks:
    """Load the generators of a `torch.save` file, on the CPU, in eval mode, without gradients.

    Nothing that the file names is imported or run. With `only_ema` only G_ema is built.

    Raises ValueError for anything else, with what the file is.
    """
    try:
        content, size = read_archive(path)
        budget = 4 * size + MARGIN
        modules = whole_modules(content)
        if modules is None:
            return networks_of_tensors(flatten(content), stated, budget, only_ema)
        check_unstated(stated)
        networks = rebuild(modules, budget, only_ema)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    except DAMAGE as error:
        raise UserError(f"{path}: damaged or malicious: {type(error).__name__}") from None
    networks.meta["layout"] = "official modules saved by torch.save"
    return networks


def check_unstated(stated: Stated) -> None:
    """Raise ValueError if the user states arguments of a file that records its own."""
    if stated:
        raise UserError("as_: the file records the arguments of its networks; leave this out")


def whole_modules(content: Any) -> dict[str, Any] | None:
    """Return the official modules in `content` by part, if it holds any whole generator."""
    if isinstance(content, Record):
        return {"G_ema": content}
    if not isinstance(content, dict):
        return None
    if isinstance(content.get("G_ema"), Record):
        return content
    return {**content, "G_ema": content["G"]} if isinstance(content.get("G"), Record) else None


@dataclass(frozen=True)
class SafetensorsView:
    """A tensor of an open safetensors file, copied when it is read."""

    file: Any
    name: str

    @property
    def size(self) -> tuple[int, ...]:
        return tuple(self.file.get_slice(self.name).get_shape())

    @property
    def nbytes(self) -> int:
        return math.prod(self.size) * 4  # as float32, the largest usual type

    def read(self) -> torch.Tensor:
        return self.file.get_tensor(self.name)


def is_plain_safetensors(path: str | os.PathLike) -> bool:
    """Whether a safetensors file is a plain state dict rather than a file of this project."""
    return read_metadata(path, "network").get("format") in (None, "pt")


def load_plain_safetensors(
    path: str | os.PathLike, stated: Stated, only_ema: bool = False
) -> Networks:
    """Load the generators of a state dict saved as safetensors; errors as `load_torch_archive`."""
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            flat: dict[str, View] = {k: SafetensorsView(file, k) for k in list(file.keys())}
            budget = 4 * os.path.getsize(path) + MARGIN
            return networks_of_tensors(flat, stated, budget, only_ema)
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path}: {error}") from None
    except DAMAGE as error:
        raise UserError(f"{path}: damaged or malicious: {type(error).__name__}") from None
