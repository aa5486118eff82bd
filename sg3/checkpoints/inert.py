"""Stand-ins for the globals of official pickles: plain records and small arrays, no code."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from sg3.checkpoints.pickle_machine import Builder, Refused, Stateful
from sg3.checkpoints.storage import read_storage, rebuild_parameter, rebuild_tensor

MAX_ARRAY_ELEMENTS = 4096  # arrays outside the weights hold sizes, rates and gains


@dataclass
class Record:
    """A module of an official file: class name and instance dictionary."""

    class_name: str
    state: dict[str, Any] = field(repr=False)

    def part(self, name: str) -> dict[str, Any]:
        """Return a dictionary of the state (`_parameters`, `_modules`, …); empty if missing."""
        part = self.state.get(name)
        if part is None:
            return {}
        if not isinstance(part, dict):
            raise Refused(f"{self.class_name}.{name} is not a dictionary")
        return part

    @property
    def children(self) -> dict[str, Record]:
        """Child modules by name."""
        found = {name: child for name, child in self.part("_modules").items() if child is not None}
        for name, child in found.items():
            if not isinstance(child, Record) or not isinstance(name, str):
                raise Refused(f"{self.class_name}.{name} is not a module record")
        return found


def _record(meta: Any) -> Record:
    """`_reconstruct_persistent_obj(meta)`, ignoring the source text (REFERENCE.md §7.2)."""
    if not isinstance(meta, dict):
        raise Refused("a module record is not a dictionary")
    if meta.get("type") != "class" or meta.get("version") != 6:
        raise Refused(
            f"a module record has type {str(meta.get('type'))[:20]!r} and version "
            f"{str(meta.get('version'))[:20]!r}, expected 'class' and 6"
        )
    name, state = meta.get("class_name"), meta.get("state")
    if not isinstance(name, str) or not isinstance(state, dict):
        raise Refused("a module record lacks class_name or state")
    return Record(name[:80], state)


class DtypeStub(Stateful):
    """`numpy.dtype`, numeric types only."""

    order: Literal["<", ">", "|", "="]

    def __init__(self, code: Any, *_: Any):
        if not isinstance(code, str) or code not in _DTYPE_CODES:
            raise Refused(f"a NumPy array has type {str(code)[:20]!r}, expected numbers")
        self.code, self.order = code, "<"

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise Refused("a NumPy dtype has an unknown form")
        self.order = state[1]

    def resolve(self) -> np.dtype:
        """Return the NumPy dtype."""
        return np.dtype(self.code).newbyteorder(self.order)


_DTYPE_CODES = {f"{k}{n}" for k in "iu" for n in (1, 2, 4, 8)} | {"f2", "f4", "f8", "b1"}


class ArrayStub(Stateful):
    """A small `numpy.ndarray`; `value` is nested lists of Python numbers."""

    def __init__(self, *_: Any):
        self.value: Any = []

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise Refused("a NumPy array has an unknown form")
        _, shape, dtype, fortran, data = state
        self.value = _array(dtype, data, shape, "F" if fortran else "C").tolist()


def _array(dtype: Any, data: Any, shape: Any, order: Literal["C", "F"] = "C") -> np.ndarray:
    if not isinstance(dtype, DtypeStub) or not isinstance(data, memoryview):
        raise Refused("a NumPy value has an unknown form")
    resolved = dtype.resolve()
    if not isinstance(shape, tuple) or any(type(n) is not int or n < 0 for n in shape):
        raise Refused("a NumPy array has an unknown shape")
    count = int(np.prod(shape, dtype=object))
    if count > MAX_ARRAY_ELEMENTS or len(shape) > 8:
        raise Refused(f"a NumPy array of {count} elements outside the weights")
    if count * resolved.itemsize != len(data):
        raise Refused("a NumPy array does not have the number of bytes that it claims")
    return np.frombuffer(data, resolved).reshape(shape, order=order)


def _scalar(dtype: Any, data: Any) -> Any:
    return _array(dtype, data, ()).item()


def _no_arguments(kind: type, name: str) -> Builder:
    def make(*arguments: Any) -> Any:
        if any(arguments):
            raise Refused(f"{name} is constructed with unknown arguments")
        return kind()

    return Builder(name, make)


def _tensorflow(module: str, name: str) -> Builder:
    raise Refused(
        "a TensorFlow StyleGAN pickle, which is not supported; "
        "use the PyTorch release of the same network"
    )


def _never(*_: Any) -> Any:
    raise Refused("a type is called as a function")


_TABLE: dict[tuple[str, str], Builder] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): Builder("module record", _record),
    ("collections", "OrderedDict"): _no_arguments(dict, "OrderedDict"),
    ("dnnlib.util", "EasyDict"): _no_arguments(dict, "EasyDict"),
    ("builtins", "set"): Builder("set", lambda items=(): _set(items)),
    ("torch._utils", "_rebuild_tensor_v2"): Builder("_rebuild_tensor_v2", rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): Builder("_rebuild_parameter", rebuild_parameter),
    ("torch.storage", "_load_from_bytes"): Builder("_load_from_bytes", read_storage),
    ("numpy", "dtype"): Builder("numpy.dtype", DtypeStub),
    ("numpy", "ndarray"): Builder("numpy.ndarray", _never),
}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _TABLE[_module, "scalar"] = Builder("numpy scalar", _scalar)
    _TABLE[_module, "_reconstruct"] = Builder("numpy array", ArrayStub)


def _set(items: Any) -> set:
    if not isinstance(items, (list, tuple)) or any(type(item) is not str for item in items):
        raise Refused("a set has elements that are not strings")
    return set(items)


def find_official(module: str, name: str) -> Builder:
    """Return the builder for a global of official network files (REFERENCE.md §7.3).

    Raises Refused for all others.
    """
    if module == "dnnlib.tflib.network":
        return _tensorflow(module, name)
    if (module, name) not in _TABLE:
        shown = f"{module}.{name}"[:80]
        raise Refused(f"refers to {shown!r}, which official network files do not use")
    return _TABLE[module, name]
