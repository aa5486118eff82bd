"""Official network pickles (StyleGAN3, StyleGAN2 and StyleGAN2-ADA for PyTorch), read safely.

The file's source text is skipped, its names are looked up among our own builders, its tensors
are views into the file until a network asks for them (REFERENCE.md §7).
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import Any

from sg3.checkpoints.inert import ArrayStub, Record, find_official
from sg3.checkpoints.networks import PARTS, Networks, assemble
from sg3.checkpoints.official_kwargs import recognise
from sg3.checkpoints.pickle_machine import PickleMachine, Refused
from sg3.checkpoints.storage import TensorView
from sg3.errors import UserError

MAX_MODULES = 20_000
MAX_DEPTH = 16
MAX_NAME = 200


def load_official_pickle(path: str | os.PathLike) -> Networks:
    """Networks of an official `.pkl`, on the CPU, in eval mode, without gradients.

    Raises UserError, one line that names the file and says what was met, for anything that is
    not such a file: other globals, other opcodes, truncation, tensors outside their storage,
    unknown or missing tensors.
    """
    try:
        content, size = _read(path)
        return _rebuild(content, budget=4 * size + 2**20)
    except ValueError as error:
        raise UserError(f"{path}: refused as an official network pickle: {error}") from None
    except (RecursionError, MemoryError) as error:
        raise UserError(f"{path}: refused: {type(error).__name__} while reading it") from None


def _read(path: str | os.PathLike) -> tuple[Any, int]:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise Refused("it is empty")
        # Views into the map keep it alive; it goes when the last one does.
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    machine = PickleMachine(data, 0, find_official)
    content = machine.run()
    if machine.position != size:
        raise Refused(f"{size - machine.position} bytes follow the end of its pickle")
    return content, size


def _rebuild(content: Any, budget: int) -> Networks:
    if not isinstance(content, dict) or not isinstance(content.get("G_ema"), Record):
        found = ", ".join(map(str, content))[:80] if isinstance(content, dict) else type(content)
        raise Refused(f"it holds no network G_ema, only {found}")
    networks = Networks()
    for part in PARTS:
        record = content.get(part)
        if record is None:
            continue
        if not isinstance(record, Record):
            raise Refused(f"{part} in it is not a module")
        views = _collect(record)
        budget -= sum(view.nbytes for view in views.values())
        if budget < 0:
            raise Refused("its tensors take far more memory than the file")
        kind, kwargs = recognise(part, record)
        tensors = {name: view.read() for name, view in views.items()}
        setattr(networks, part, assemble(part, kind, _plain(kwargs), tensors))
    if isinstance(content.get("training_set_kwargs"), dict):
        networks.meta["training_set_kwargs"] = _plain(content["training_set_kwargs"])
    return networks


def _collect(root: Record) -> dict[str, TensorView]:
    """The state dict of a record: name → where its tensor lies."""
    found: dict[str, TensorView] = {}
    for prefix, record in _walk(root):
        for group in ("_parameters", "_buffers"):
            hidden = record.state.get("_non_persistent_buffers_set") or ()
            for name, value in record.part(group).items():
                if value is None or (group == "_buffers" and name in hidden):
                    continue
                if not isinstance(value, TensorView):
                    raise Refused(f"{prefix}{name} in it is not a tensor")
                found[f"{prefix}{name}"] = value
    return found


def _walk(root: Record) -> Iterator[tuple[str, Record]]:
    """All records below `root`, depth first, each at most once: shared ones could multiply."""
    stack, seen = [("", root, 0)], {id(root)}
    while stack:
        prefix, record, depth = stack.pop()
        yield prefix, record
        for name, child in record.children.items():
            if id(child) in seen or depth >= MAX_DEPTH or len(seen) >= MAX_MODULES:
                raise Refused("its modules are shared, or nested too deep (damaged or hostile)")
            if len(name) > MAX_NAME:
                raise Refused("a module name in it is too long (damaged or hostile)")
            seen.add(id(child))
            stack.append((f"{prefix}{name}.", child, depth + 1))


def _plain(value: Any, depth: int = 0) -> Any:
    """JSON-able copy: dictionaries, lists, numbers, texts; the rest as short text."""
    if depth > 8:
        raise Refused("its arguments are nested too deep (damaged or hostile)")
    if isinstance(value, ArrayStub):
        value = value.value
    if isinstance(value, dict):
        _few(value)
        return {str(k)[:MAX_NAME]: _plain(v, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        _few(value)
        return [_plain(v, depth + 1) for v in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return value[:4096] if isinstance(value, str) else f"<{type(value).__name__}>"


def _few(items: dict | list | tuple) -> None:
    if len(items) > 256:
        raise Refused(f"an argument in it has {len(items)} entries (damaged or hostile)")
