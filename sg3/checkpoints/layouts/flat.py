"""Tensors of any nested content by their dotted names, as a state dict names them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch

from sg3.checkpoints.inert import Record
from sg3.checkpoints.pickle_machine import Refused, Stub
from sg3.checkpoints.storage import TensorView

MAX_DEPTH = 16
MAX_ENTRIES = 300_000
MAX_NAME = 300


class View(Protocol):
    """A tensor in a file, which `read` copies into memory."""

    @property
    def size(self) -> tuple[int, ...]:
        """Its shape."""

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""

    def read(self) -> torch.Tensor:
        """Return a contiguous copy."""


def flatten(content: Any) -> dict[str, View]:
    """Return all tensors in `content` by dotted name.

    Modules, whether saved whole or as state dicts, give the same names. Raises Refused if
    `content` is nested too deeply or has too many entries: shared parts could multiply them.
    """
    found: dict[str, View] = {}
    stack = [("", content, 0)]
    visited = 0
    while stack:
        prefix, value, depth = stack.pop()
        for name, child in _children(value):
            visited += 1
            name = f"{prefix}{name}"
            if visited > MAX_ENTRIES or depth > MAX_DEPTH or len(name) > MAX_NAME:
                raise Refused("nested too deeply, or too many entries (damaged or malicious)")
            if isinstance(child, TensorView):
                found[name] = child
            elif isinstance(child, (dict, Record)):
                stack.append((f"{name}.", child, depth + 1))
    return found


def _children(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, TensorView):
        yield "tensor", value
    state = value.state if isinstance(value, (Record, Stub)) else None
    if isinstance(state, dict) and isinstance(state.get("_modules"), dict):
        yield from _module(state)
        return
    if isinstance(state, dict):
        yield from state.items()
    if isinstance(value, dict):
        yield from value.items()


def _module(state: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Yield parameters, persistent buffers and child modules of a module's instance dictionary."""
    hidden = Record("", state).hidden
    for group in ("_parameters", "_buffers", "_modules"):
        part = state.get(group)
        for name, child in part.items() if isinstance(part, dict) else ():
            if group != "_buffers" or name not in hidden:
                yield name, child
