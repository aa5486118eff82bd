"""Safe reader of official network pickles: StyleGAN3, StyleGAN2 and StyleGAN2-ADA for PyTorch.

The source code in the file is ignored, globals resolve to our own builders, and tensors are views
into the file until they are read (REFERENCE.md §7).
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import Any

from sg3.checkpoints.inert import ArrayStub, Record, find_official
from sg3.checkpoints.networks import PARTS, Networks, assemble
from sg3.checkpoints.official_kwargs import recognize
from sg3.checkpoints.pickle_machine import PickleMachine, Refused
from sg3.checkpoints.storage import TensorView
from sg3.errors import UserError

MAX_MODULES = 20_000
MAX_DEPTH = 16
MAX_NAME = 200


def load_official_pickle(path: str | os.PathLike) -> Networks:
    """Load the networks of an official `.pkl`, on the CPU, in eval mode, without gradients.

    Raises ValueError for anything else: other globals, other opcodes, truncation, tensors outside
    their storage, unknown or missing tensors.
    """
    try:
        content, size = _read(path)
        return rebuild(content, budget=4 * size + 2**20)
    except ValueError as error:
        raise UserError(f"{path}: not a valid official network pickle: {error}") from None
    except (RecursionError, MemoryError) as error:
        raise UserError(
            f"{path}: not a valid official network pickle: {type(error).__name__}"
        ) from None


def _read(path: str | os.PathLike) -> tuple[Any, int]:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise Refused("the file is empty")
        # The memory map stays open as long as there are views into it.
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    machine = PickleMachine(data, 0, find_official)
    content = machine.run()
    if machine.position != size:
        raise Refused(f"{size - machine.position} bytes follow the end of the pickle")
    return content, size


def rebuild(content: Any, budget: int) -> Networks:
    if not isinstance(content, dict) or not isinstance(content.get("G_ema"), Record):
        found = ", ".join(map(str, content))[:80] if isinstance(content, dict) else type(content)
        raise Refused(f"no network G_ema, only {found}")
    networks = Networks()
    for part in PARTS:
        record = content.get(part)
        if record is None:
            continue
        if not isinstance(record, Record):
            raise Refused(f"{part} is not a module")
        views = _collect(record)
        # Before any tensor is copied: many views of one storage would multiply the file's size.
        budget -= sum(view.nbytes for view in views.values())
        if budget < 0:
            raise Refused("tensors take far more memory than the file")
        kind, kwargs = recognize(part, record)
        tensors = {name: view.read() for name, view in views.items()}
        setattr(networks, part, assemble(part, kind, _plain(kwargs), tensors))
    if isinstance(content.get("training_set_kwargs"), dict):
        networks.meta["training_set_kwargs"] = _plain(content["training_set_kwargs"])
    return networks


def _collect(root: Record) -> dict[str, TensorView]:
    """Return the state dict of a record, as views."""
    found: dict[str, TensorView] = {}
    for prefix, record in _walk(root):
        for group in ("_parameters", "_buffers"):
            hidden = record.state.get("_non_persistent_buffers_set") or ()
            for name, value in record.part(group).items():
                if value is None or (group == "_buffers" and name in hidden):
                    continue
                if not isinstance(value, TensorView):
                    raise Refused(f"{prefix}{name} is not a tensor")
                found[f"{prefix}{name}"] = value
    return found


def _walk(root: Record) -> Iterator[tuple[str, Record]]:
    """Yield all records below `root`, depth first.

    Shared records are refused: nested sharing could multiply them exponentially.
    """
    stack, seen = [("", root, 0)], {id(root)}
    while stack:
        prefix, record, depth = stack.pop()
        yield prefix, record
        for name, child in record.children.items():
            if id(child) in seen or depth >= MAX_DEPTH or len(seen) >= MAX_MODULES:
                raise Refused("modules are shared or nested too deeply (damaged or malicious)")
            if len(name) > MAX_NAME:
                raise Refused("a module name is too long (damaged or malicious)")
            seen.add(id(child))
            stack.append((f"{prefix}{name}.", child, depth + 1))


def _plain(value: Any, depth: int = 0) -> Any:
    """Return a JSON-serializable copy; objects other than plain data become short strings."""
    if depth > 8:
        raise Refused("arguments are nested too deeply (damaged or malicious)")
    if isinstance(value, ArrayStub):
        value = value.value
    if isinstance(value, dict):
        _check_count(value)
        return {str(k)[:MAX_NAME]: _plain(v, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        _check_count(value)
        return [_plain(v, depth + 1) for v in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return value[:4096] if isinstance(value, str) else f"<{type(value).__name__}>"


def _check_count(items: dict | list | tuple) -> None:
    if len(items) > 256:
        raise Refused(f"an argument has {len(items)} entries (damaged or malicious)")
