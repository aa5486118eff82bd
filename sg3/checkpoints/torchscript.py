"""Weights of TorchScript programs, whose code is neither read nor run."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from typing import Any

import torch

from sg3.checkpoints.pickle_machine import Refused, Stub
from sg3.checkpoints.storage import TensorView
from sg3.checkpoints.torch_archive import read_archive
from sg3.errors import UserError

MAX_DEPTH = 32  # modules in modules


def is_torchscript(path: str | os.PathLike) -> bool:
    """Whether `path` is a zip archive that `torch.jit.save` wrote."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def script_state(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Return parameters and buffers of a TorchScript program, named as in its state_dict.

    Raises UserError for a damaged file.
    """
    try:
        content, _ = read_archive(path, script=True)
        return {name: view.read() for name, view in _tensors(content)}
    except Refused as error:
        raise UserError(f"{path}: {error}") from None


def _tensors(module: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, TensorView]]:
    """Yield the tensors among the attributes of a module and of those inside it."""
    if depth > MAX_DEPTH:
        raise Refused("modules are nested too deeply")
    if not isinstance(module, Stub) or not isinstance(module.state, dict):
        return
    for name, value in module.state.items():
        if isinstance(value, TensorView):
            yield f"{prefix}{name}", value
        else:
            yield from _tensors(value, f"{prefix}{name}.", depth + 1)
