"""Reader of `torch.save` files that hold plain data and tensors only, such as training states."""

from __future__ import annotations

import os
from typing import Any

from sg3.checkpoints.layouts.flat import MAX_ENTRIES
from sg3.checkpoints.pickle_machine import Refused, Stub
from sg3.checkpoints.storage import MARGIN, TensorView
from sg3.checkpoints.torch_archive import read_archive
from sg3.errors import DAMAGE, UserError, brief

MAX_DEPTH = 16


def read_plain_archive(path: str | os.PathLike) -> Any:
    """Return the content of a `torch.save` file, with tensors on the CPU. No code of it runs.

    `torch.load` would do the same with `weights_only`, but trusts the sizes that a file claims.

    Raises ValueError for a damaged file, and for objects of other classes; OSError if it cannot
    be read.
    """
    try:
        content, size = read_archive(path)
        return _Copier(4 * size + MARGIN).copy(content)
    except DAMAGE as error:
        raise UserError(f"damaged: {type(error).__name__}") from None


class _Copier:
    """Copies content with all tensors read, within a number of bytes and entries."""

    def __init__(self, budget: int):
        self.budget, self.entries = budget, MAX_ENTRIES

    def copy(self, value: Any, depth: int = 0) -> Any:
        """Return a copy of `value`."""
        if isinstance(value, TensorView):
            self.budget -= value.nbytes
            if self.budget < 0:
                raise Refused("tensors take far more memory than the file")
            return value.read()
        if isinstance(value, Stub):
            raise Refused(f"holds an object of {brief(value.name)}, expected plain data")
        if isinstance(value, (dict, list, tuple)):
            self.entries -= len(value)
            if depth > MAX_DEPTH or self.entries < 0:
                raise Refused("nested too deeply, or too many entries (damaged or malicious)")
        if isinstance(value, dict):
            return {key: self.copy(each, depth + 1) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            copies = [self.copy(each, depth + 1) for each in value]
            return copies if isinstance(value, list) else tuple(copies)
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise Refused(f"holds {brief(value)}, expected plain data")
