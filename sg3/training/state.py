"""Training states: everything needed to resume bit for bit, written atomically."""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from sg3 import devices
from sg3.errors import UserError
from sg3.system import sync_folder
from sg3.training.run_folder import state_path, state_paths
from sg3.training.trainer import Trainer

FORMAT = "sg3-training-state"
VERSION = 2


def _numpy_state(generator: Any) -> dict[str, Any]:
    """`get_state()` of `numpy.random` or a RandomState, as types that torch.load accepts."""
    _, keys, position, has_gauss, gauss = generator.get_state()
    return {
        "keys": torch.from_numpy(keys.astype(np.int64)),
        "position": int(position),
        "has_gauss": int(has_gauss),
        "gauss": float(gauss),
    }


def _set_numpy_state(generator: Any, state: dict[str, Any]) -> None:
    keys = state["keys"].numpy().astype(np.uint32)
    generator.set_state(("MT19937", keys, state["position"], state["has_gauss"], state["gauss"]))


def _capture_member(trainer: Trainer) -> dict[str, Any]:
    """Return what differs between processes."""
    member: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": _numpy_state(np.random),
        "torch": torch.get_rng_state(),
        "stats": trainer.stats.state(),
        "loader": trainer.loader.state(),
        "ada": None if trainer.ada is None else trainer.ada.state(),
    }
    own = devices.random_state(trainer.device)
    if own is not None:
        member[trainer.device.type] = own
    return member


def _restore_member(trainer: Trainer, member: dict[str, Any]) -> None:
    trainer.stats.load_state(member["stats"], trainer.device)
    trainer.loader.load_state(member["loader"])
    if trainer.ada is not None:
        trainer.ada.load_state(member["ada"])
    # Last: nothing above may draw from the restored generators.
    random.setstate(member["python"])
    _set_numpy_state(np.random, member["numpy"])
    torch.set_rng_state(member["torch"])
    if trainer.device.type in member:  # a run may continue on another kind of device
        devices.set_random_state(trainer.device, member[trainer.device.type])


def capture(trainer: Trainer, **also: Any) -> dict[str, Any] | None:
    """Return the complete state as tensors, numbers, strings, lists and dicts on rank 0.

    Every process must call it; other ranks get None. `also` are further entries of such types.
    """
    members = trainer.team.gather(_capture_member(trainer))
    if not trainer.team.is_main:
        return None
    return {
        "format": FORMAT,
        "version": VERSION,
        "kwargs": {n: getattr(trainer, n).init_kwargs for n in ("G", "D")},
        "networks": {n: getattr(trainer, n).state_dict() for n in ("G", "D", "G_ema")},
        "power_ema": trainer.power_ema.state(),
        "optimizers": {n: o.state_dict() for n, o in trainer.optimizers().items()},
        "pl_mean": trainer.loss.pl_mean,
        "augment_p": trainer.augment_p,
        "labels": _numpy_state(trainer.label_random),
        "latents": trainer.z_random.get_state(),
        "members": members,
        "counters": trainer.counters(),
        "threads": torch.get_num_threads(),
        **also,
    }


def restore(trainer: Trainer, state: dict[str, Any]) -> list[str]:
    """Load `state` (from `read_state`) into a trainer built from the same options.

    Returns notes on why the rest of the run will not be bit for bit the same, if it will not.
    """
    for name, tensors in state["networks"].items():
        getattr(trainer, name).load_state_dict(tensors)
    trainer.power_ema.load_state(state.get("power_ema", []))
    for name, optimizer in trainer.optimizers().items():
        optimizer.load_state_dict(state["optimizers"][name])
    trainer.loss.pl_mean.copy_(state["pl_mean"])
    if trainer.augment_p is not None:
        trainer.augment_p.copy_(state["augment_p"])
    _set_numpy_state(trainer.label_random, state["labels"])
    trainer.z_random.set_state(state["latents"])
    for name, value in state["counters"].items():
        setattr(trainer, name, value)
    members, size = state["members"], trainer.team.size
    if len(members) == size:
        _restore_member(trainer, members[trainer.team.rank])
        return []
    # With more processes each has fewer images per step than the stored size.
    trainer.pass_size = min(trainer.pass_size, trainer.config.batch // size)
    trainer.loader.load_state(members[0]["loader"])
    # The random states of the others belong to no process here; the data position does.
    return [
        f"resuming with {size} processes instead of {len(members)}: equivalent, but not bit for "
        "bit the same"
    ]


def write_state(folder: Path, state: dict[str, Any], keep: int) -> Path:
    """Write a state atomically and delete all but the newest `keep`.

    The temporary file is synced, renamed, and the folder synced. On failure (a full disk) the
    temporary file is removed, earlier states stay, and UserError is raised.
    """
    path = state_path(folder, state["counters"]["cur_nimg"])
    temporary = path.with_name(path.name + ".tmp")
    with writing(folder):
        try:
            with open(temporary, "wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(folder)
        finally:
            temporary.unlink(missing_ok=True)
        # Temporary files too: a killed process may have left one.
        for old in [*state_paths(folder)[:-keep], *folder.glob("training-state-*.pt.tmp")]:
            old.unlink()
    return path


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn failures to write into a `UserError` that names the newest state.

    A full disk has three faces: OSError from Python, RuntimeError with an OSError as its context
    from torch, and an exception of its own from safetensors.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = _why_not_written(error)
        if reason is None:
            raise
        earlier = state_paths(folder)
        rest = "no training state exists yet; free disk space, then start again"
        if earlier:
            rest = f"{earlier[-1].name} is intact; free disk space, then run with `resume` latest"
        raise UserError(f"cannot write to {folder} ({reason}): {rest}") from error


def _why_not_written(error: BaseException | None) -> str | None:
    """Return the reason in words, or None if `error` is not about files."""
    text = " ".join(str(error).split())
    found: str | None = None
    if isinstance(error, SafetensorError):
        found = text.split("I/O error: ")[-1].split(" (os error")[0]
    while error is not None and found is None:
        if isinstance(error, OSError):
            found = error.strerror or str(error)
        error = error.__context__
    return found or (text if "inline_container" in text else None)


def read_state(path: Path) -> dict[str, Any]:
    """Read a state without executing code from it. Raises ValueError if it is damaged."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"resume: cannot read {path}: {reason}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"resume: {path} is not a training state of sg3")
    if state["version"] != VERSION:
        raise UserError(
            f"resume: {path} has version {state['version']}, this program reads {VERSION}"
        )
    return state


def newest_state(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the newest readable state of a run's folder, and notes on newer damaged ones.

    Raises ValueError if there is none.
    """
    notes: list[str] = []
    for path in reversed(state_paths(folder)):
        try:
            return read_state(path), notes
        except ValueError as error:
            notes.append(str(error))
    raise UserError(notes[-1] if notes else f"resume: {folder} holds no training state")
