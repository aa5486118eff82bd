"""The class `Delta` and its file format: safetensors with JSON metadata."""

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
from sg3.errors import DAMAGE, UserError, brief
from sg3.files import aligned, write_tensors

FORMAT, VERSION = "sg3-delta", "1"
DTYPES = (torch.float16, torch.float32)


@dataclass(frozen=True, eq=False)
class Delta:
    """Weight changes of one network.

    Attributes:
        changes: changes by tensor name.
        source_hash: `weights_hash` of the network that they were made from.
        meta: JSON-serializable provenance: `source` (name of the network), prompts, licence.
        name: name in error messages; not stored in files.
    """

    changes: Mapping[str, Change]
    source_hash: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    name: str = "delta"

    @property
    def num_numbers(self) -> int:
        """Number of stored values."""
        return sum(t.numel() for change in self.changes.values() for t in stored_parts(change))


def save_delta(delta: Delta, path: str | os.PathLike) -> None:
    """Write `delta` to `path` (.safetensors), atomically.

    Raises ValueError for another suffix, or if `meta` is not JSON-serializable.
    """
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
        raise ValueError(f"delta: meta is not JSON-serializable: {error}") from None
    metadata = {"format": FORMAT, "version": VERSION, "source_hash": delta.source_hash}
    metadata |= {"shapes": json.dumps(shapes), "meta": meta}
    write_tensors(path, tensors, metadata)


def load_delta(path: str | os.PathLike) -> Delta:
    """Load the delta in `path`.

    Whether it matches a network is checked when it is applied. Raises ValueError for a damaged file
    or another kind of file.
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
        raise UserError(f"{path}: damaged, or not a safetensors file: {error}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    except DAMAGE as error:
        raise UserError(f"{path}: damaged or malicious: {type(error).__name__}") from None
    return replace(delta, name=os.fspath(path))


def _check_kind(metadata: Mapping[str, str]) -> None:
    form = metadata.get("format")
    if form == "sg3-networks":
        raise UserError("a network, expected a delta; pass it as `network`")
    if form != FORMAT:
        raise UserError(f"not a delta: metadata format {str(form)[:40]!r}, expected {FORMAT!r}")
    if metadata.get("version") != VERSION:
        raise UserError(
            f"file version {brief(metadata.get('version'))!r}, expected {VERSION!r}; update sg3"
        )
    if not re.fullmatch(r"[0-9a-f]{64}", metadata.get("source_hash", "")):
        raise UserError("metadata without a valid hash of the source weights")


def _checked(key: str, tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dtype not in DTYPES:
        raise UserError(
            f"tensor {key[:80]!r} has dtype {tensor.dtype}, expected float16 or float32"
        )
    if not tensor.isfinite().all():
        raise UserError(f"tensor {key[:80]!r} has values that are not finite")
    return tensor


def _changes(tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, Any]) -> dict[str, Change]:
    """Return changes by NAME from tensors `dense.NAME`, or `left.NAME` and `right.NAME`."""
    changes: dict[str, Change] = {}
    used: set[str] = set()
    for name, shape in shapes.items():
        left, right = f"left.{name}", f"right.{name}"
        if left not in tensors or right not in tensors:
            raise UserError(f"tensor {name[:80]!r} lacks a factor")
        if not isinstance(shape, list) or not all(type(size) is int for size in shape):
            raise UserError(f"shape of {name[:80]!r} is not a list of integers")
        changes[name] = LowRank(tensors[left], tensors[right], tuple(shape))
        used |= {left, right}
    for key in sorted(tensors.keys() - used):
        kind, _, name = key.partition(".")
        if kind != "dense" or name in changes:
            raise UserError(f"unknown tensor {key[:80]!r}")
        changes[name] = tensors[key]
    return changes
