"""Stand-ins for the globals of official pickles: plain records and array views, no code."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from sg3.checkpoints.pickle_machine import (
    Builder,
    Refused,
    Stateful,
    Stub,
    find_or_stub,
    hashable,
)
from sg3.checkpoints.storage import (
    TensorView,
    check_dims,
    read_storage,
    rebuild_parameter,
    rebuild_tensor,
)
from sg3.errors import brief, printable


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
        """Child modules by name, also those of unknown classes."""
        found = {name: child for name, child in self.part("_modules").items() if child is not None}
        return {str(name): self._child(str(name), child) for name, child in found.items()}

    @property
    def hidden(self) -> set[Any]:
        """Names of buffers that its state dict leaves out."""
        names = self.state.get("_non_persistent_buffers_set")
        return names if isinstance(names, set) else set()

    def _child(self, name: str, child: Any) -> Record:
        record = as_record(child)
        if record is None:
            raise Refused(f"{self.class_name}.{name} is not a module record")
        return record


def as_record(value: Any) -> Record | None:
    """Return `value` as a module: a record itself, or a stub with a module's state; else None."""
    if isinstance(value, Stub) and isinstance(value.state, dict) and "_modules" in value.state:
        return Record(value.name, value.state)
    return value if isinstance(value, Record) else None


def _record(meta: Any) -> Record:
    """`_reconstruct_persistent_obj(meta)`, ignoring the source text (REFERENCE.md §7.2)."""
    if not isinstance(meta, dict):
        raise Refused("a module record is not a dictionary")
    if meta.get("type") != "class" or meta.get("version") != 6:
        raise Refused(
            f"a module record has type {brief(meta.get('type'), 20)!r} and version "
            f"{brief(meta.get('version'), 20)!r}, expected 'class' and 6"
        )
    name, state = meta.get("class_name"), meta.get("state")
    if not isinstance(name, str) or not isinstance(state, dict):
        raise Refused("a module record lacks class_name or state")
    return Record(printable(name[:80]), state)


class DtypeStub(Stateful):
    """`numpy.dtype`, numeric types only. Raises Refused for others."""

    order: Literal["<", ">", "|", "="]

    def __init__(self, code: Any, *_: Any):
        if not isinstance(code, str) or code not in _DTYPE_CODES:
            raise Refused(f"a NumPy array has type {brief(code, 20)!r}, expected numbers")
        self.code, self.order = code, "<"

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise Refused("a NumPy dtype has an unknown form")
        self.order = state[1]

    def resolve(self) -> np.dtype:
        """Return the NumPy dtype."""
        return np.dtype(self.code).newbyteorder(self.order)


_DTYPE_CODES = {f"{k}{n}" for k in "iu" for n in (1, 2, 4, 8)} | {"f2", "f4", "f8", "b1"}


def _dtype(code: Any, *_: Any) -> DtypeStub | Stub:
    known = isinstance(code, str) and code in _DTYPE_CODES
    return DtypeStub(code) if known else Stub(f"numpy.dtype {brief(code, 20)}")


class ArrayStub(Stateful):
    """`numpy.ndarray`; `array` is a view into the file, or None if its type is not numeric."""

    def __init__(self, *_: Any, array: np.ndarray | None = None):
        self.array = array

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise Refused("a NumPy array has an unknown form")
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, Stub):
            self.array = _array(dtype, data, shape, "F" if fortran else "C")


def _array(dtype: Any, data: Any, shape: Any, order: Literal["C", "F"] = "C") -> np.ndarray:
    if not isinstance(dtype, DtypeStub) or not isinstance(data, memoryview):
        raise Refused("a NumPy value has an unknown form")
    resolved = dtype.resolve()
    check_dims(shape, shape)
    # Python integers: the product of a hostile shape could overflow int64 and look small.
    if math.prod(shape) * resolved.itemsize != len(data):
        raise Refused("a NumPy array does not have the number of bytes that it claims")
    return np.frombuffer(data, resolved).reshape(shape, order=order)


def _scalar(dtype: Any, data: Any) -> Any:
    return _array(dtype, data, ()).item()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any = "C") -> ArrayStub:
    """`_frombuffer` of NumPy, which protocol 5 uses for contiguous arrays."""
    if order not in ("C", "F"):
        raise Refused("a NumPy array has an unknown order")
    return ArrayStub(array=_array(dtype, data, shape, order))


def _from_type(function: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    """`torch._tensor._rebuild_from_type_v2`: a tensor with attributes, which are dropped."""
    if not isinstance(function, Builder) or not isinstance(arguments, tuple):
        raise Refused("a tensor with attributes has an unknown form")
    found = function.call(*arguments) if function.name.startswith("_rebuild") else None
    if not isinstance(found, TensorView):
        raise Refused("a tensor with attributes has an unknown form")
    return found


def _encode(text: Any, encoding: Any = "latin1") -> memoryview:
    """`_codecs.encode(text, "latin1")`: how protocol 2 stores bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused("bytes have an unknown encoding")
    try:
        return memoryview(text.encode("latin-1"))
    except UnicodeEncodeError:
        raise Refused("bytes contain other characters") from None


def _bytes(data: Any = memoryview(b""), *encoding: Any) -> memoryview:  # noqa: B008
    return _encode(data, *encoding) if isinstance(data, str) else memoryview(data)


def _no_arguments(kind: type, name: str) -> Builder:
    def make(*arguments: Any) -> Any:
        if any(arguments):
            raise Refused(f"{name} is constructed with unknown arguments")
        return kind()

    return Builder(name, make)


def _never(*_: Any) -> Any:
    raise Refused("a type is called as a function")


_TABLE: dict[tuple[str, str], Builder] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): Builder("module record", _record),
    ("collections", "OrderedDict"): _no_arguments(dict, "OrderedDict"),
    ("dnnlib.util", "EasyDict"): _no_arguments(dict, "EasyDict"),
    ("torch._utils", "_rebuild_tensor_v2"): Builder("_rebuild_tensor_v2", rebuild_tensor),
    ("torch._utils", "_rebuild_tensor"): Builder("_rebuild_tensor", rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): Builder("_rebuild_parameter", rebuild_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): Builder(
        "_rebuild_parameter_with_state", rebuild_parameter
    ),
    ("torch._tensor", "_rebuild_from_type_v2"): Builder("_rebuild_from_type_v2", _from_type),
    ("torch", "Size"): Builder("torch.Size", lambda sizes=(): tuple(sizes)),
    ("torch.storage", "_load_from_bytes"): Builder("_load_from_bytes", read_storage),
    ("numpy", "dtype"): Builder("numpy.dtype", _dtype),
    ("numpy", "ndarray"): Builder("numpy.ndarray", _never),
}
for _core in ("numpy.core", "numpy._core"):  # before NumPy 2, and since
    _TABLE[f"{_core}.multiarray", "scalar"] = Builder("numpy scalar", _scalar)
    _TABLE[f"{_core}.multiarray", "_reconstruct"] = Builder("numpy array", ArrayStub)
    _TABLE[f"{_core}.numeric", "_frombuffer"] = Builder("numpy array", _from_buffer)


#: Items of a set: the names of buffers, which are few. They may collide, as keys may.
MAX_SET = 1000


def _set(items: Any = ()) -> set:
    if not isinstance(items, (list, tuple)):
        raise Refused("a set is made from something other than a list")
    if len(items) > MAX_SET:
        raise Refused("a set is too large (damaged or malicious)")
    return {hashable(item) for item in items}


for _module in ("builtins", "__builtin__"):  # protocol 2 writes the names of Python 2
    _TABLE[_module, "set"] = _TABLE[_module, "frozenset"] = Builder("set", _set)
    _TABLE[_module, "bytes"] = _TABLE[_module, "bytearray"] = Builder("bytes", _bytes)
_TABLE["_codecs", "encode"] = Builder("encode", _encode)

#: The builder of a global of official network files (REFERENCE.md §7.3); others build stubs.
find_official = find_or_stub(_TABLE)
