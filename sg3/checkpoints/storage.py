"""Tensors of official pickles: legacy torch.save streams, read safely (REFERENCE.md §7.4)."""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sg3.checkpoints.pickle_machine import Builder, PickleMachine, Refused, find_in
from sg3.errors import brief

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
MAX_INDEX = 2**40
RELEASE_BYTES = 2**18  # tensors from this size on release what is mapped
HEADER_STEPS = 100  # each of the five small pickles before the data takes about ten
MAX_DIMS = 8
MARGIN = 2**20  # bytes that tensors of a file may take beyond four times its size

DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
    "BFloat16Storage": "V2",  # NumPy has no such type: two opaque bytes
}


@dataclass(frozen=True)
class Storage:
    """A flat array: a view into the file."""

    data: memoryview
    dtype: np.dtype

    @property
    def count(self) -> int:
        """Number of elements."""
        return len(self.data) // self.dtype.itemsize


@dataclass(frozen=True)
class TensorView:
    """Position of a tensor in a storage; only `read` copies data."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the tensor in bytes."""
        return math.prod(self.size) * self.storage.dtype.itemsize

    def read(self) -> torch.Tensor:
        """Return a contiguous copy."""
        flat = np.frombuffer(self.storage.data, self.storage.dtype)[self.offset :]
        strides = [step * self.storage.dtype.itemsize for step in self.stride]
        # as_strided checks no bounds: `rebuild_tensor` did.
        view = np.lib.stride_tricks.as_strided(flat, self.size, strides, writeable=False)
        if view.dtype.kind == "V":
            view = view.view("<i2")
        # Into memory of torch, whose alignment the networks keep: this is the only copy.
        tensor = torch.empty(self.size, dtype=_TORCH[view.dtype.str[1:]])
        np.copyto(tensor.numpy(), view)
        if self.nbytes >= RELEASE_BYTES:
            release(self.storage.data)
        return tensor.view(torch.bfloat16) if self.storage.dtype.kind == "V" else tensor


def release(data: memoryview) -> None:
    """Let the system drop the pages of a memory-mapped file from this process; data stay valid.

    Pages that were read count as memory of the process until then: the file and its tensors
    together would take twice the size of the file.
    """
    if isinstance(data.obj, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        data.obj.madvise(mmap.MADV_DONTNEED)


_TORCH = {
    code: torch.from_numpy(np.zeros(0, code)).dtype
    for code in ("f4", "f8", "f2", "i8", "i4", "i2", "i1", "u1", "b1")
}


def read_storage(blob: Any) -> Storage:
    """Return the single storage in `blob`, the argument of `torch.storage._load_from_bytes`."""
    if not isinstance(blob, memoryview):
        raise Refused("a torch storage is not a byte string")
    types = {("torch", name): Builder(f"torch.{name}", _never_called) for name in DTYPES}
    position = 0

    def next_pickle(persistent=None) -> Any:
        nonlocal position
        machine = PickleMachine(blob, position, find_in(types), persistent, HEADER_STEPS)
        result = machine.run()
        position = machine.position
        return result

    try:
        if next_pickle() != MAGIC or next_pickle() != PROTOCOL:
            raise Refused("not in the legacy torch.save format")
        info = next_pickle()
        if not isinstance(info, dict) or info.get("little_endian") is not True:
            raise Refused("the byte order is not little-endian")
        dtype, key, count = next_pickle(storage_record)
        if next_pickle() != [key]:
            raise Refused("expected exactly one storage")
    except Refused as error:
        raise Refused(f"inside a torch storage: {error}") from None
    return Storage(_numbers(blob, position, dtype, count), dtype)


def _numbers(blob: memoryview, position: int, dtype: np.dtype, count: int) -> memoryview:
    data = blob[position + 8 :]
    present = struct.unpack_from("<q", blob, position)[0] if len(blob) >= position + 8 else -1
    if present != count or len(data) != count * dtype.itemsize:
        raise Refused(f"a torch storage claims {count} elements, but holds {len(data)} bytes")
    return data


def _never_called(*_: Any) -> None:
    raise Refused("creates a storage outside a tensor")


def storage_record(pid: Any) -> tuple[np.dtype, str, int]:
    """Parse ('storage', class, key, location, count[, None]) into dtype, key, count."""
    fits = isinstance(pid, tuple) and 5 <= len(pid) <= 6 and pid[0] == "storage"
    if not fits or not isinstance(pid[1], Builder) or pid[5:] not in ((), (None,)):
        raise Refused("a storage record has an unknown form")
    name, key, count = pid[1].name.removeprefix("torch."), pid[2], pid[4]
    if name not in DTYPES:
        raise Refused(f"a storage of type {brief(name)!r}, expected {', '.join(DTYPES)}")
    if not isinstance(key, str) or type(count) is not int or count < 0:
        raise Refused("a storage record has an unknown form")
    return np.dtype(DTYPES[name]), key, count


def rebuild_tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any = False, *_: Any
) -> TensorView:
    """`torch._utils._rebuild_tensor_v2`, with all numbers checked against the storage."""
    if not isinstance(storage, Storage):
        raise Refused("a tensor has no storage")
    check_dims(size, stride, offset)
    # Python integers: the product of a hostile size could overflow int64 and look small.
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    # A tensor larger than its storage repeats elements: never in networks, but in memory bombs.
    if count > storage.count or (count > 0 and last >= storage.count):
        raise Refused(
            f"a tensor of size {list(size)} reaches outside its storage of {storage.count} elements"
        )
    return TensorView(storage, offset, tuple(size), tuple(stride))


def check_dims(size: Any, stride: Any, offset: Any = 0) -> None:
    """Raise Refused unless `size` and `stride` are equally long and hold possible numbers.

    Their length comes first: the product of a long one would take forever.
    """
    short = all(isinstance(n, (tuple, list)) and len(n) <= MAX_DIMS for n in (size, stride))
    # Not isinstance, which would accept True and False.
    if (
        not short
        or len(size) != len(stride)
        or not all(type(n) is int and 0 <= n < MAX_INDEX for n in (offset, *size, *stride))
    ):
        raise Refused("a tensor has an invalid size, stride or offset")


def rebuild_parameter(tensor: Any, requires_grad: Any = False, *_: Any) -> TensorView:
    """`torch._utils._rebuild_parameter`: returns the tensor."""
    if not isinstance(tensor, TensorView):
        raise Refused("a parameter is not a tensor")
    return tensor
