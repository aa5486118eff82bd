"""What a delta is, and its file: safetensors with JSON metadata."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from sg3.checkpoints.low_rank import Change, LowRank, stored_parts
from sg3.checkpoints.safetensors_io import json_object
from sg3.errors import UserError
from sg3.files import aligned, write_tensors

FORMAT, VERSION = "sg3-delta", "1"
DTYPES = (torch.float16, torch.float32)


@dataclass(frozen=True, eq=False)
class Delta:
    """Changes by tensor name, for the network whose `weights_hash` is `source_hash`.

    `meta` is JSON-able: `source` (the network's name), texts, licence. `name` stands before
    error messages; it is not kept in files.
    """

    changes: Mapping[str, Change]
    source_hash: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    name: str = "delta"

    @property
    def num_numbers(self) -> int:
        """How many numbers a file of it holds."""
        return sum(t.numel() for change in self.changes.values() for t in stored_parts(change))


def save_delta(delta: Delta, path: str | os.PathLike) -> None:
    """Write it to `path` (.safetensors), atomically. Raises ValueError for meta beyond JSON."""
    if not str(path).endswith(".safetensors"):
        raise UserError(f"{path}: expected a name ending in .safetensors")
    tensors, shapes = {}, {}
    for name, change in delta.changes.items():
        if isinstance(change, LowRank):
            shapes[name] = list(change.shape)
            tensors[f"left.{name}"], tensors[f"right.{name}"] = change.left, change.right
        else:
            tensors[f"dense.{name}"] = change
    try:
        meta = json.dumps(dict(delta.meta))
    except TypeError as error:
        raise ValueError(f"delta: its meta is not JSON-able: {error}") from None
    metadata = {"format": FORMAT, "version": VERSION, "source_hash": delta.source_hash}
    metadata |= {"shapes": json.dumps(shapes), "meta": meta}
    write_tensors(path, tensors, metadata)


def load_delta(path: str | os.PathLike) -> Delta:
    """The delta in `path`. Raises UserError, one line, for a damaged file or one of another kind.

    Whether it fits a network is seen when it is applied.
    """
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = file.metadata() or {}
            _check_kind(metadata)
            shapes, meta = json_object(metadata, "shapes"), json_object(metadata, "meta")
            tensors = {
                key: _checked(key, aligned(file.get_tensor(key))) for key in list(file.keys())
            }
        delta = Delta(_changes(tensors, shapes), metadata["source_hash"], meta)
    except SafetensorError as error:
        raise UserError(f"{path}: damaged or no safetensors file: {error}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return replace(delta, name=os.fspath(path))


def _check_kind(metadata: Mapping[str, str]) -> None:
    form = metadata.get("format")
    if form == "sg3-networks":
        raise UserError("a network, expected a delta; give it as --network")
    if form != FORMAT:
        raise UserError(f"no delta (its metadata says format {str(form)[:40]!r}, not {FORMAT!r})")
    if metadata.get("version") != VERSION:
        raise UserError(
            f"layout version {metadata.get('version')!r}, this program reads {VERSION!r}; update it"
        )
    if not re.fullmatch(r"[0-9a-f]{64}", metadata.get("source_hash", "")):
        raise UserError("its metadata do not say from which weights it was made")


def _checked(key: str, tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dtype not in DTYPES:
        raise UserError(f"tensor {key[:80]!r} is {tensor.dtype}, expected float16 or float32")
    if not tensor.isfinite().all():
        raise UserError(f"tensor {key[:80]!r} has values that are no finite numbers")
    return tensor


def _changes(tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, Any]) -> dict[str, Change]:
    """Tensors of a file, named `dense.NAME` or `left.NAME` and `right.NAME`, by NAME."""
    changes, used = {}, set()
    for name, shape in shapes.items():
        left, right = f"left.{name}", f"right.{name}"
        if left not in tensors or right not in tensors:
            raise UserError(f"{name[:80]!r} lacks one of its factors")
        if not isinstance(shape, list) or not all(type(size) is int for size in shape):
            raise UserError(f"{name[:80]!r} has a shape that is no list of numbers")
        changes[name] = LowRank(tensors[left], tensors[right], tuple(shape))
        used |= {left, right}
    for key in tensors.keys() - used:
        kind, _, name = key.partition(".")
        if kind != "dense" or name in changes:
            raise UserError(f"it has a tensor {key[:80]!r} that belongs to no change")
        changes[name] = tensors[key]
    return changes
