"""Reader of `torch.save` files, zip and legacy, that never runs or imports what a file names.

The pickle inside is interpreted by `PickleMachine`; names that network files do not use become
inert `Stub`s, and tensors stay views into the memory-mapped file until they are read.
"""

from __future__ import annotations

import mmap
import os
import struct
import zipfile
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from sg3.checkpoints.inert import find_official
from sg3.checkpoints.pickle_machine import (
    Builder,
    Find,
    Persistent,
    PickleMachine,
    Refused,
    Stateful,
    Stub,
)
from sg3.checkpoints.storage import (
    DTYPES,
    HEADER_STEPS,
    MAGIC,
    PROTOCOL,
    Storage,
    TensorView,
    check_dims,
    rebuild_tensor,
    storage_record,
)
from sg3.errors import brief, printable
from sg3.zip_files import open_zip

#: The first bytes of a legacy file: a pickle of the magic number.
LEGACY_HEAD = b"\x80\x02\x8a\x0a" + MAGIC.to_bytes(10, "little") + b"."
MAX_DIRECTORY = 2**22  # bytes of a zip's directory: 20 000 tensors take less than half
LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, length of name, length of extra field


def read_archive(path: str | os.PathLike, script: bool = False) -> tuple[Any, int]:
    """Return the content of a `torch.save` file and the size of the file in bytes.

    Tensors are `TensorView`s, and other objects than plain data are `Record`s and `Stub`s. With
    `script`, TorchScript programs are read too: the objects, not the code.
    Raises Refused for damaged files and for other zip archives.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        # The memory map stays open as long as there are views into it.
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        if data[: len(LEGACY_HEAD)] == LEGACY_HEAD:
            return _read_legacy(data), size
        return _read_zip(data, file, script), size


def find_inert(module: str, name: str) -> Builder:
    """Return the builder of a global: a storage, one of official files, or of a `Stub`."""
    if module == "torch" and name in DTYPES:
        return Builder(f"torch.{name}", _no_storage)
    return OWN.get((module, name)) or find_official(module, name)


@dataclass(frozen=True)
class ExpandedView(TensorView):
    """A tensor that `Tensor.expand` made larger than its storage; reading it multiplies nothing.

    Attributes:
        own: its size before.
    """

    own: tuple[int, ...]

    def read(self) -> torch.Tensor:
        """Return a view of a copy."""
        stored = TensorView(self.storage, self.offset, self.own, self.stride)
        return stored.read().expand(self.size)


def _rebuild(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> TensorView:
    """`torch._utils._rebuild_tensor_v2`, also of expanded tensors."""
    check_dims(size, stride, offset)
    if 0 not in stride:
        return rebuild_tensor(storage, offset, size, stride, *rest)
    own = tuple(min(n, 1) if step == 0 else n for n, step in zip(size, stride, strict=True))
    stored = rebuild_tensor(storage, offset, own, stride, *rest)
    return ExpandedView(stored.storage, stored.offset, tuple(size), stored.stride, own)


def _no_storage(*_: Any) -> None:
    raise Refused("creates a storage outside a tensor")


class _Ordered(dict, Stateful):
    """`OrderedDict`, which state dicts are; the versions that they carry as state are dropped."""

    def __init__(self, items: Any = ()):
        super().__init__()
        for key, value in items:
            if type(key) is not str:  # not of a state dict, and see MAX_NUMBER_KEYS
                raise Refused(f"uses a {type(key).__name__} as a key (damaged or malicious)")
            self[key] = value

    def set_state(self, state: Any) -> None:
        pass


#: Where the builders differ from those of official pickles.
OWN = {
    ("collections", "OrderedDict"): Builder("OrderedDict", _Ordered),
    ("torch._utils", "_rebuild_tensor_v2"): Builder("_rebuild_tensor_v2", _rebuild),
}


# Zip ------------------------------------------------------------------------------------------


def _entries(data: memoryview, file: Any) -> dict[str, memoryview]:
    """Return the contents of a zip archive by name, as views."""
    infos = open_zip(file, MAX_DIRECTORY).infolist()
    return {info.filename: _stored(data, info) for info in infos}


def _stored(data: memoryview, info: zipfile.ZipInfo) -> memoryview:
    start = max(info.header_offset, 0)
    header = data[start : start + LOCAL_HEADER.size]
    shown = brief(info.filename)
    if len(header) < LOCAL_HEADER.size or bytes(header[:4]) != b"PK\3\4":
        raise Refused(f"entry {shown!r} of the zip archive is damaged")
    if info.compress_type != zipfile.ZIP_STORED:
        return memoryview(b"")  # not from torch.save; never unpacked
    _, name, extra = LOCAL_HEADER.unpack(header)
    start += LOCAL_HEADER.size + name + extra
    content = data[start : start + info.file_size]
    if len(content) != info.file_size:
        raise Refused(f"entry {shown!r} of the zip archive reaches beyond the file (truncated)")
    return content


def _read_zip(data: memoryview, file: Any, script: bool) -> Any:
    entries = _entries(data, file)
    folder = next((n.removesuffix("data.pkl") for n in entries if n.endswith("/data.pkl")), None)
    if folder is None:
        raise Refused(_other_zip(entries))
    if f"{folder}constants.pkl" in entries and not script:
        raise Refused(
            "a TorchScript program, which contains code; give the state_dict of its network"
        )
    order = bytes(entries.get(f"{folder}byteorder", b"little"))
    if order != b"little":
        raise Refused(f"byte order {order[:10].decode('ascii', 'replace')!r}, expected little")

    def persistent(pid: Any) -> Storage:
        dtype, key, count = storage_record(pid)
        content = entries.get(f"{folder}data/{key}")
        if content is None:
            raise Refused(f"storage {key[:20]!r} is missing (damaged)")
        return _storage(content, dtype, count)

    return PickleMachine(entries[f"{folder}data.pkl"], 0, find_inert, persistent).run()


def _storage(content: memoryview, dtype: np.dtype, count: int) -> Storage:
    size = count * dtype.itemsize
    if len(content) < size:
        raise Refused(f"a storage claims {count} elements, but holds {len(content)} bytes")
    return Storage(content[:size], dtype)


def _other_zip(entries: dict[str, Any]) -> str:
    if entries and all(name.endswith(".npy") for name in entries):
        return "NumPy arrays (.npz), not a network; latents are given as `latent`"
    if any(name.lower().endswith((".png", ".jpg", ".jpeg")) for name in entries):
        return "a zip archive of images, not a network"
    return "a zip archive that torch.save did not write"


# Legacy ---------------------------------------------------------------------------------------


@dataclass
class _Scan:
    """The storages that a legacy pickle names, in a first pass which builds no tensors."""

    found: dict[str, tuple[np.dtype, int]] = field(default_factory=dict)

    def find(self, module: str, name: str) -> Builder:
        if module == "torch" and name in DTYPES:
            return Builder(f"torch.{name}", _no_storage)
        return Builder(printable(name[:80]), lambda *_: Stub(name))

    def persistent(self, pid: Any) -> None:
        if isinstance(pid, tuple) and pid[:1] == ("module",) and len(pid) > 1:
            return pid[1]  # a class with its source text, which is ignored
        dtype, key, count = storage_record(pid)
        if self.found.setdefault(key, (dtype, count)) != (dtype, count):
            raise Refused(f"storage {brief(key, 20)!r} has two types or sizes (damaged)")
        return None


def _read_legacy(data: memoryview) -> Any:
    position = 0

    def run(
        find: Find | None = None,
        persistent: Persistent | None = None,
        max_steps: int | None = None,
    ) -> Any:
        nonlocal position
        machine = PickleMachine(data, position, find, persistent, max_steps)
        result = machine.run()
        position = machine.position
        return result

    small = partial(run, max_steps=HEADER_STEPS)
    if small() != MAGIC or small() != PROTOCOL:
        raise Refused("a torch.save file of an unknown version")
    info = small()
    if not isinstance(info, dict) or info.get("little_endian") is not True:
        raise Refused("the byte order is not little-endian")
    start, scan = position, _Scan()
    run(find=scan.find, persistent=scan.persistent)
    keys = run()
    # The storages follow the pickle that refers to them.
    storages = _legacy_storages(data, position, keys, scan.found)

    def persistent(pid: Any) -> Any:
        return pid[1] if pid[:1] == ("module",) else storages[pid[2]]

    position = start
    return run(find=find_inert, persistent=persistent)


def _legacy_storages(
    data: memoryview, position: int, keys: Any, named: dict[str, tuple[np.dtype, int]]
) -> dict[str, Storage]:
    if not isinstance(keys, list) or any(type(k) is not str for k in keys):
        raise Refused("the list of storages is damaged")
    if missing := named.keys() - set(keys):
        raise Refused(f"storage {min(missing)[:20]!r} is missing (damaged)")
    storages = {}
    for key in keys:
        if key not in named:
            raise Refused(f"storage {key[:20]!r} belongs to no tensor (damaged)")
        dtype, count = named[key]
        if len(data) < position + 8:
            raise Refused("unexpected end of file (truncated)")
        (present,) = struct.unpack_from("<q", data, position)
        position += 8
        if present != count:
            raise Refused(f"a storage claims {count} elements, but holds {present}")
        storages[key] = _storage(data[position:], dtype, count)
        position += count * dtype.itemsize
    return storages
