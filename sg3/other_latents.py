"""Latents as other tools write them: `.npz`, `.npy` and `.pt`, read without running code.

projected_w.npz   of the official projector: w [1 or steps, num_ws, w_dim]
latents.pt        of e4e and pSp: a tensor [N, num_ws, w_dim]
latents.npy       of stylegan3-editing: a dictionary of arrays by image
NAME.pt           of rosinality's projector: {image: {latent, noise}}
"""

from __future__ import annotations

import math
import mmap
import os
import tokenize
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from sg3.checkpoints.inert import ArrayStub, Record
from sg3.checkpoints.layouts.flat import MAX_DEPTH, MAX_ENTRIES
from sg3.checkpoints.pickle_machine import Builder, PickleMachine, Refused, Stub
from sg3.checkpoints.storage import MARGIN, TensorView
from sg3.checkpoints.torch_archive import LEGACY_HEAD, find_inert, read_archive
from sg3.errors import DAMAGE, NetworkNote, UserError
from sg3.zip_files import DAMAGED_ZIP, check_entry, open_zip

#: Names of latents in such files, the most specific first.
NAMES = ("ws", "w", "w_plus", "latent", "latents", "projected_w")
NOISE = ("noise", "noises")
MAX_BYTES = 2**30  # of latents: 29 000 of a network at 1024 pixels
#: What damaged headers of arrays raise, which are Python literals.
DAMAGED_HEADER = (SyntaxError, tokenize.TokenError)
NPY_HEAD = b"\x93NUMPY"


def is_other_latent(path: str | os.PathLike) -> bool:
    """Whether the file begins like one of NumPy or torch; False if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(16).startswith((b"PK\3\4", NPY_HEAD, LEGACY_HEAD))
    except OSError:
        return False


def read_other_latent(path: str | os.PathLike, num_ws: int | None) -> torch.Tensor:
    """Return the latents of a file of another tool, float32 `[N, num_ws, w_dim]`.

    Latents in W are repeated for all layers. With `num_ws` None, they stay `[N, w_dim]`.

    Raises ValueError for files that hold no latents, or latents of several shapes.
    """
    try:
        found = [_as_rows(each, num_ws) for each in _latents(path)]
    except ValueError as error:
        raise UserError(f"latent {path}: {error}") from None
    except (*DAMAGE, *DAMAGED_ZIP, *DAMAGED_HEADER, OSError) as error:
        raise UserError(f"latent {path}: cannot be read ({type(error).__name__})") from None
    if not found:
        raise UserError(
            f"latent {path}: holds none of {', '.join(NAMES)}, expected latents [N, num_ws, w_dim]"
        )
    if len({rows.shape[1:] for rows in found}) > 1:
        shapes = ", ".join(str(list(rows.shape)) for rows in found[:3])
        raise UserError(f"latent {path}: holds latents of several shapes: {shapes}")
    return torch.cat(found)


def _as_rows(latents: torch.Tensor, num_ws: int | None) -> torch.Tensor:
    """Return latents `[w_dim]`, `[N, w_dim]`, `[num_ws, w_dim]` or `[…, num_ws, w_dim]` as ws."""
    latents = latents.to(torch.float32)
    if not 1 <= latents.ndim <= 5:
        raise Refused(f"got shape {list(latents.shape)[:8]}, expected [N, num_ws, w_dim]")
    if latents.ndim == 1:
        latents = latents[None]
    if latents.ndim == 2 and num_ws is not None and len(latents) == num_ws:
        latents = latents[None]
    if latents.ndim == 2:
        return latents if num_ws is None else latents[:, None].repeat(1, num_ws, 1)
    return latents.flatten(0, -3)


def _latents(path: str | os.PathLike) -> list[torch.Tensor]:
    with open(path, "rb") as file:
        head = file.read(len(LEGACY_HEAD))
    if head.startswith(NPY_HEAD):
        content = _read_npy(path)
    elif head.startswith(b"PK") and _is_npz(path):
        return _collect(_read_npz(path), MAX_BYTES)  # it checked sizes itself
    else:
        content, _ = read_archive(path)
    return _collect(content, 4 * os.path.getsize(path) + MARGIN)


def _is_npz(path: str | os.PathLike) -> bool:
    with open_zip(path) as archive:
        infos = archive.infolist()
        # Compressed arrays can be much larger than their file.
        for info in infos:
            check_entry(archive, info)
    if sum(info.file_size for info in infos) > MAX_BYTES:
        raise Refused(f"unpacks to more than {MAX_BYTES >> 20} MiB, which latents do not take")
    return any(info.filename.endswith(".npy") for info in infos)


def _read_npz(path: str | os.PathLike) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as arrays:
        named = [name for name in (*NAMES, *NOISE) if name in arrays.files]
        if not named and len(arrays.files) == 1:  # `np.savez(file, latents)` calls it arr_0
            return {NAMES[0]: arrays[arrays.files[0]]}
        return {name: arrays[name] for name in named}


def _read_npy(path: str | os.PathLike) -> Any:
    """Return the array of a `.npy`, or the pickled objects in it as inert data."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.nbytes > MAX_BYTES:
            raise Refused(f"holds {array.nbytes >> 20} MiB, which latents do not take")
        return array
    except ValueError as error:
        if "Array can't be memory-mapped" not in str(error):
            raise Refused(f"not a valid .npy file: {error}") from None
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        start = file.tell()
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    return PickleMachine(data, start, _find).run()


class _Objects(ArrayStub):
    """A NumPy array that may hold objects; `items` are these."""

    items: Any = ()

    def set_state(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], Stub):
            self.items = state[4]
        else:
            super().set_state(state)


def _find(module: str, name: str) -> Builder:
    if module.endswith("core.multiarray") and name == "_reconstruct":
        return Builder("numpy array", _Objects)
    return find_inert(module, name)


def _collect(content: Any, limit: int) -> list[torch.Tensor]:
    """Return the latents in a file, in their order; a note tells of noise that is left out.

    Raises Refused if they take more than `limit` bytes.
    """
    found = [content] if _is_array(content) else list(_search(content, [0]))
    if _has_noise(content):
        warnings.warn("the noise beside the latents is left out", NetworkNote, stacklevel=2)
    # As float32; one array in a file may occur in its content many times.
    sizes = [math.prod(_shape(each)) * 4 for each in found]
    if sum(sizes) > min(MAX_BYTES, limit):
        raise Refused("holds latents that take far more memory than the file")
    return [_tensor(each) for each in found]


def _is_array(value: Any) -> bool:
    if isinstance(value, ArrayStub):
        return value.array is not None
    return isinstance(value, (TensorView, np.ndarray))


def _shape(value: Any) -> tuple[int, ...]:
    if isinstance(value, TensorView):
        return value.size
    array: Any = value.array if isinstance(value, ArrayStub) else value
    return array.shape


def _tensor(value: Any) -> torch.Tensor:
    if isinstance(value, TensorView):
        return value.read()
    array: Any = value.array if isinstance(value, ArrayStub) else value
    if array.dtype.kind not in "fiu":
        raise Refused(f"holds an array of type {array.dtype}, expected numbers")
    return torch.from_numpy(np.array(array, dtype=np.float32))


def _search(value: Any, visited: list[int], depth: int = 0) -> Iterator[Any]:
    """Yield the latents in nested dictionaries and lists: those of a known name, else all."""
    visited[0] += 1
    if visited[0] > MAX_ENTRIES or depth > MAX_DEPTH:
        raise Refused("nested too deeply, or too many entries (damaged or malicious)")
    if _is_array(value):
        yield value
    elif isinstance(value, _Objects):
        yield from _search(value.items, visited, depth + 1)
    elif isinstance(value, dict):
        named = [value[name] for name in NAMES if name in value][:1]
        for child in named or value.values():
            yield from _search(child, visited, depth + 1)
    elif isinstance(value, (list, tuple)):
        # Of the iterations of an encoder, the last counts.
        steps = value[-1:] if depth > 1 and all(map(_is_array, value)) else value
        for child in steps:
            yield from _search(child, visited, depth + 1)
    elif isinstance(value, Record):
        raise Refused("holds a network, not latents; give it as `network`")


def _has_noise(content: Any) -> bool:
    if not isinstance(content, dict):
        return False
    parts = [content, *(part for part in content.values() if isinstance(part, dict))]
    return any(name in part for part in parts for name in NOISE)
