"""Safe reader of official network pickles: StyleGAN3, StyleGAN2 and StyleGAN2-ADA for PyTorch.

The source code in the file is ignored, globals resolve to our own builders or to inert stubs, and
tensors are views into the file until they are read (REFERENCE.md §7).
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from sg3.checkpoints.inert import ArrayStub, Record, as_record, find_official
from sg3.checkpoints.networks import PARTS, Networks, assemble
from sg3.checkpoints.official_kwargs import recognize
from sg3.checkpoints.official_tensors import block_sizes_of, single_transform
from sg3.checkpoints.other_networks import name_content
from sg3.checkpoints.pickle_machine import (
    Builder,
    PickleMachine,
    Refused,
    Stub,
    TooLarge,
    Unsupported,
)
from sg3.checkpoints.small import check_small
from sg3.checkpoints.storage import MARGIN, TensorView, release
from sg3.checkpoints.tensorflow_pickle import convert, is_tensorflow, tensorflow_parts
from sg3.errors import DAMAGE, UserError

MAX_MODULES = 20_000
MAX_DEPTH = 16
MAX_NAME = 200


def load_official_pickle(path: str | os.PathLike, only_ema: bool = False) -> Networks:
    """Load the networks of an official `.pkl`, on the CPU, in eval mode, without gradients.

    With `only_ema` only G_ema is built. Other parts that cannot be are left out; `meta["notes"]`
    says why. Raises ValueError if G_ema cannot: an unknown architecture, truncation, tensors
    outside their storage, unknown or missing tensors.
    """
    try:
        content, size = _read(path)
        return rebuild(content, 4 * size + MARGIN, only_ema)
    except Unsupported as error:
        raise UserError(f"{path}: {error}") from None
    except ValueError as error:
        raise UserError(f"{path}: not a valid official network pickle: {error}") from None
    except DAMAGE as error:
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
    release(data)
    if machine.position != size:
        raise Refused(f"{size - machine.position} bytes follow the end of the pickle")
    return content, size


def rebuild(content: Any, budget: int, only_ema: bool = False) -> Networks:
    """Build the networks of the content of a pickle, whose tensors may take `budget` bytes."""
    if is_tensorflow(content):
        given: dict[str, Any] = tensorflow_parts(content)
    elif isinstance(content, dict) and as_record(content.get("G_ema")) is not None:
        given = content
    else:
        raise Unsupported(name_content(content))
    networks = Networks()
    for part in PARTS[:1] if only_ema else PARTS:
        if given.get(part) is None:
            continue
        try:
            network, taken = _part(part, given, budget)
        except TooLarge:
            raise
        except UserError as error:
            # Forks change D, and G_ema is all that most people need.
            if part == "G_ema":
                raise
            networks.meta["layout"] = "an official pickle"
            networks.meta.setdefault("notes", []).append(f"{part} is left out: {error}")
            continue
        setattr(networks, part, network)
        budget -= taken
    if isinstance(given.get("training_set_kwargs"), dict):
        check_small(given["training_set_kwargs"], "training_set_kwargs")
        networks.meta["training_set_kwargs"] = _plain(given["training_set_kwargs"])
    return networks


def _part(part: str, content: dict[str, Any], budget: int) -> tuple[nn.Module, int]:
    """Return the network of one part and the bytes of its tensors."""
    if is_tensorflow(content[part]):
        kind, kwargs, tensors = convert(part, content[part], budget)
    else:
        kind, kwargs, tensors = _official(part, content, budget)
    return assemble(part, kind, kwargs, tensors), sum(t.nbytes for t in tensors.values())


def _official(
    part: str, content: dict[str, Any], budget: int
) -> tuple[str, dict[str, Any], dict[str, torch.Tensor]]:
    """Return kind, constructor arguments and tensors of a module."""
    record, generator = as_record(content[part]), as_record(content["G_ema"])
    if record is None or generator is None:
        raise Refused(f"{part} is not a module")
    views = _collect(record)
    # Before any tensor is copied: many views of one storage would multiply the file's size.
    if sum(view.nbytes for view in views.values()) > budget:
        raise TooLarge("tensors take far more memory than the file")
    kind, kwargs = recognize(part, record)
    check_small(kwargs, f"arguments of {part}")
    _check_known(kwargs)
    kwargs = _plain(kwargs)
    sizes = block_sizes_of(generator)
    if sizes is not None and kind in ("stylegan2", "discriminator"):
        kwargs, views = sizes.arguments(kwargs), sizes.rename(views)
    tensors = {name: view.read() for name, view in views.items()}
    tensors = single_transform(tensors)
    return kind, kwargs, tensors


def _check_known(kwargs: dict[str, Any]) -> None:
    """Raise Refused for arguments of unknown types, also inside nested dictionaries."""
    for name, value in kwargs.items():
        if isinstance(value, dict) and (value or not isinstance(value, Stub)):
            _check_known(value)
        elif isinstance(value, (Stub, Builder)):
            raise Refused(f"argument {name} is of the unknown type {value.name!r}")


def _collect(root: Record) -> dict[str, TensorView]:
    """Return the state dict of a record, as views."""
    found: dict[str, TensorView] = {}
    for prefix, record in _walk(root):
        for group in ("_parameters", "_buffers"):
            hidden = record.hidden
            for name, value in record.part(group).items():
                if value is None or (group == "_buffers" and name in hidden):
                    continue
                if not isinstance(value, TensorView):
                    given = f", but of type {value.name!r}" if isinstance(value, Stub) else ""
                    raise Refused(f"{prefix}{name} is not a tensor{given}")
                found[f"{prefix}{name}"] = value
    return found


def _walk(root: Record) -> Iterator[tuple[str, Record]]:
    """Yield all records below `root`, depth first.

    Shared records are refused: nested sharing could multiply them exponentially.
    """
    # By state: the record of a stub is made anew each time.
    stack, seen = [("", root, 0)], {id(root.state)}
    while stack:
        prefix, record, depth = stack.pop()
        yield prefix, record
        for name, child in record.children.items():
            if id(child.state) in seen or depth >= MAX_DEPTH or len(seen) >= MAX_MODULES:
                raise Refused("modules are shared or nested too deeply (damaged or malicious)")
            if len(name) > MAX_NAME:
                raise Refused("a module name is too long (damaged or malicious)")
            seen.add(id(child.state))
            stack.append((f"{prefix}{name}.", child, depth + 1))


def _plain(value: Any) -> Any:
    """Return a JSON-serializable copy; objects other than plain data become short strings.

    `value` is small (`check_small`).
    """
    if isinstance(value, ArrayStub) and value.array is not None and value.array.size <= 256:
        value = value.array.tolist()
    if isinstance(value, (Stub, Builder)) and not (isinstance(value, dict) and value):
        return f"<{value.name}>"
    if isinstance(value, dict):
        return {str(k)[:MAX_NAME]: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return value[:4096] if isinstance(value, str) else f"<{type(value).__name__}>"
