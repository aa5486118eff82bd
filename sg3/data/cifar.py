"""Reader of `cifar-10-python.tar.gz` that executes no pickle code (REFERENCE.md §4.12)."""

from __future__ import annotations

import gzip
import pickletools
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np
from einops import rearrange

from sg3.checkpoints.inert import DtypeStub
from sg3.checkpoints.pickle_machine import (
    Builder,
    PickleMachine,
    Refused,
    Stateful,
    allowed_steps,
)
from sg3.errors import brief

BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
META = "batches.meta"
SHAPE = (3, 32, 32)
MAX_MEMBER = 64 << 20  # bytes per file; a real batch has 30 MiB
MAX_UNPACKED = 512 << 20  # bytes of the whole archive; the real one has 178 MiB


def read_cifar(path: Path) -> tuple[np.ndarray, list[int], list[str] | None]:
    """Return training images uint8 `[N, 32, 32, 3]`, class indices, and class names if stored.

    Raises ValueError for any other archive.
    """
    members = _read_members(path)
    missing = [name for name in BATCHES if name not in members]
    if missing:
        raise ValueError(f"{', '.join(missing)} missing")
    parts = [_batch(_load(members[name])) for name in BATCHES]
    images = np.concatenate([images for images, _ in parts])
    labels = [label for _, labels in parts for label in labels]
    return images, labels, _class_names(_load(members[META])) if META in members else None


class _Limited:
    """A stream that raises ValueError after `left` bytes."""

    def __init__(self, file: gzip.GzipFile, left: int):
        self._file, self._left = file, left

    def read(self, count: int = -1) -> bytes:
        data = self._file.read(count)
        self._left -= len(data)
        if self._left < 0:
            raise ValueError(f"unpacks to more than {MAX_UNPACKED >> 20} MiB")
        return data


def _read_members(path: Path) -> dict[str, bytes]:
    found = {}
    with (
        # Unpacked here, not by tarfile, which sets no limit to the unpacked size.
        gzip.open(path) as file,
        tarfile.open(fileobj=cast(Any, _Limited(file, MAX_UNPACKED)), mode="r|") as archive,
    ):
        for entry in archive:
            archive.members = []  # type: ignore[attr-defined]  # do not keep all headers
            name = PurePosixPath(entry.name).name
            if not entry.isreg() or name not in (*BATCHES, META):
                continue
            if entry.size > MAX_MEMBER:
                raise ValueError(f"{name} has {entry.size} bytes, expected at most {MAX_MEMBER}")
            member = archive.extractfile(entry)
            assert member is not None  # a regular file
            found[name] = member.read()
    return found


class _Array(Stateful):
    """A pickled NumPy array of uint8."""

    def __init__(self, *_: Any):
        self.value = np.zeros([0], np.uint8)

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise Refused("a NumPy array has an unknown format")
        _, shape, dtype, fortran, data = state
        # Latin-1 maps bytes to characters one to one, so this restores them.
        if isinstance(data, str):
            data = data.encode("latin-1")
        if not isinstance(dtype, DtypeStub) or dtype.resolve() != np.uint8 or fortran:
            raise Refused("a NumPy array is not uint8 in C order")
        if not isinstance(data, (bytes, memoryview)) or not isinstance(shape, tuple):
            raise Refused("a NumPy array has an unknown format")
        if shape != (len(data) // int(np.prod(SHAPE)), int(np.prod(SHAPE))):
            shown = ", ".join(brief(size, 20) for size in shape[:4])
            raise Refused(f"a NumPy array has the shape ({shown}), expected [N, 3072]")
        self.value = np.frombuffer(data, np.uint8, int(np.prod(shape))).reshape(shape)


def _encode(text: Any, encoding: Any) -> str:
    """Stand-in for `_codecs.encode`, with which Python 3 writes bytes in protocol 2.

    Returns the text itself, which is also what strings of Python 2 become here.
    """
    if not isinstance(text, str) or encoding != "latin1":
        raise Refused("uses an encoding other than Latin-1")
    return text


def _never(*_: Any) -> Any:
    raise Refused("calls a type")


_TABLE = {
    ("numpy", "dtype"): Builder("numpy.dtype", DtypeStub),
    ("numpy", "ndarray"): Builder("numpy.ndarray", _never),
    ("numpy.core.multiarray", "_reconstruct"): Builder("numpy array", _Array),
    ("numpy._core.multiarray", "_reconstruct"): Builder("numpy array", _Array),
    ("_codecs", "encode"): Builder("encode", _encode),
}


def _find(module: str, name: str) -> Builder:
    if (module, name) not in _TABLE:
        shown = f"{module}.{name}"[:80]
        raise Refused(f"names {shown!r}, which no CIFAR file does")
    return _TABLE[module, name]


def _load(data: bytes) -> dict:
    """Return a pickled dictionary with text keys, written by Python 2 or 3 in protocol 2."""
    patched, limit = bytearray(data), allowed_steps(len(data))
    # Python 2 strings have their own opcodes, which `PickleMachine` does not implement. Two that
    # it does have the same layout: short strings become text, long ones bytes.
    for count, (opcode, _, position) in enumerate(pickletools.genops(data)):
        assert position is not None  # None only for pickles read from a stream
        if opcode.name == "SHORT_BINSTRING":
            patched[position] = 0x8C
        elif opcode.name == "BINSTRING":
            patched[position] = ord("B")
        if count > limit:
            raise Refused(f"more than {limit} pickle opcodes")
    content = PickleMachine(memoryview(bytes(patched)), 0, _find).run()
    if not isinstance(content, dict):
        raise Refused("not a dictionary")
    return content


def _batch(content: dict) -> tuple[np.ndarray, list[int]]:
    data, labels = content.get("data"), content.get("labels")
    if not isinstance(data, _Array) or not isinstance(labels, list):
        raise Refused("a batch lacks data or labels")
    if len(labels) != len(data.value) or any(type(n) is not int or n < 0 for n in labels):
        raise Refused("labels do not match the images")
    channels, height, width = SHAPE
    images = rearrange(data.value, "n (c h w) -> n h w c", c=channels, h=height, w=width)
    return np.ascontiguousarray(images), labels


def _class_names(content: dict) -> list[str] | None:
    names = content.get("label_names")
    if not isinstance(names, list) or any(type(name) is not str for name in names):
        return None
    return names
