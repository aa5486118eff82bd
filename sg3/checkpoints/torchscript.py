"""Weights of TorchScript programs, whose code is neither read nor run."""

from __future__ import annotations

import os

import torch

from sg3.checkpoints.layouts.flat import flatten
from sg3.checkpoints.pickle_machine import Refused
from sg3.checkpoints.storage import MARGIN
from sg3.checkpoints.torch_archive import read_archive
from sg3.errors import DAMAGE, UserError
from sg3.zip_files import open_zip


def is_torchscript(path: str | os.PathLike) -> bool:
    """Whether `path` is a zip archive that `torch.jit.save` wrote."""
    try:
        with open_zip(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, ValueError):
        return False


def script_state(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Return parameters and buffers of a TorchScript program, named as in its state_dict.

    Raises UserError for a damaged file.
    """
    try:
        content, size = read_archive(path, script=True)
        views = flatten(content)  # modules are objects whose attributes are tensors and modules
        if sum(view.nbytes for view in views.values()) > 4 * size + MARGIN:
            raise Refused("tensors take far more memory than the file")
        return {name: view.read() for name, view in views.items()}
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    except DAMAGE as error:
        raise UserError(f"{path}: damaged or malicious: {type(error).__name__}") from None
