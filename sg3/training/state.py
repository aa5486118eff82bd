"""The training state: everything needed to continue bit for bit, written so that it survives."""

from __future__ import annotations

import os
import pickle
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError

from sg3.errors import UserError
from sg3.training.trainer import Trainer

FORMAT = "sg3-training-state"
VERSION = 2
NAME = re.compile(r"training-state-(\d+)\.pt")


def _numpy_state(generator) -> dict:
    _, keys, position, has_gauss, gauss = generator.get_state()
    return {
        "keys": torch.from_numpy(keys.astype(np.int64)),
        "position": int(position),
        "has_gauss": int(has_gauss),
        "gauss": float(gauss),
    }


def _set_numpy_state(generator, state: dict) -> None:
    keys = state["keys"].numpy().astype(np.uint32)
    generator.set_state(("MT19937", keys, state["position"], state["has_gauss"], state["gauss"]))


def _capture_member(trainer: Trainer) -> dict:
    """What differs from process to process."""
    member = {
        "python": random.getstate(),
        "numpy": _numpy_state(np.random),
        "torch": torch.get_rng_state(),
        "stats": trainer.stats.state(),
        "loader": trainer.loader.state(),
        "ada": None if trainer.ada is None else trainer.ada.state(),
    }
    if trainer.device.type == "cuda":
        member["cuda"] = torch.cuda.get_rng_state(trainer.device)
    return member


def _restore_member(trainer: Trainer, member: dict) -> None:
    trainer.stats.load_state(member["stats"], trainer.device)
    trainer.loader.load_state(member["loader"])
    if trainer.ada is not None:
        trainer.ada.load_state(member["ada"])
    random.setstate(member["python"])
    _set_numpy_state(np.random, member["numpy"])
    torch.set_rng_state(member["torch"])
    if trainer.device.type == "cuda" and "cuda" in member:
        torch.cuda.set_rng_state(member["cuda"], trainer.device)


def capture(trainer: Trainer, **also) -> dict | None:
    """The complete state as tensors, numbers, strings, lists and dicts; None but on rank 0.

    Every process must call it. `also` are further entries of such values.
    """
    members = trainer.team.gather(_capture_member(trainer))
    if not trainer.team.leads:
        return None
    pipe = trainer.augment_pipe
    return {
        "format": FORMAT,
        "version": VERSION,
        "kwargs": {n: getattr(trainer, n).init_kwargs for n in ("G", "D")},
        "networks": {n: getattr(trainer, n).state_dict() for n in ("G", "D", "G_ema")},
        "optimizers": {n: o.state_dict() for n, o in trainer.optimizers().items()},
        "pl_mean": trainer.loss.pl_mean,
        "augment_p": None if pipe is None else pipe.p,
        "labels": _numpy_state(trainer._label_random),
        "latents": trainer._z_random.get_state(),
        "members": members,
        "counters": trainer.counters(),
        "threads": torch.get_num_threads(),
        **also,
    }


def restore(trainer: Trainer, state: dict) -> list[str]:
    """Put `state` (from `read_state`) into a trainer built from the same options.

    Returns lines that say in what the continuation is not bit for bit.
    """
    for name, tensors in state["networks"].items():
        getattr(trainer, name).load_state_dict(tensors)
    for name, optimizer in trainer.optimizers().items():
        optimizer.load_state_dict(state["optimizers"][name])
    trainer.loss.pl_mean.copy_(state["pl_mean"])
    if trainer.augment_pipe is not None:
        trainer.augment_pipe.p.copy_(state["augment_p"])
    _set_numpy_state(trainer._label_random, state["labels"])
    trainer._z_random.set_state(state["latents"])
    for name, value in state["counters"].items():
        setattr(trainer, name, value)
    members, size = state["members"], trainer.team.size
    if len(members) == size:
        _restore_member(trainer, members[trainer.team.rank])
        return []
    trainer.pass_size = min(trainer.pass_size, trainer.config.batch // size)
    trainer.loader.load_state(members[0]["loader"])
    return [
        f"going on with {size} processes instead of {len(members)}: what follows is as good, "
        "but not bit for bit what the others would have done"
    ]


def state_path(folder: Path, nimg: int) -> Path:
    """Where the state after `nimg` images lies."""
    return folder / f"training-state-{nimg:010d}.pt"


def state_paths(folder: Path) -> list[Path]:
    """States in a run's folder, oldest first."""
    return sorted(p for p in folder.iterdir() if NAME.fullmatch(p.name))


def write_state(folder: Path, state: dict, keep: int) -> Path:
    """Write atomically: a temporary file, synced, renamed, and the folder synced; old ones go.

    On any failure (a full disk) earlier states are untouched and the temporary file is removed;
    then raises UserError.
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
            _sync_folder(folder)
        finally:
            temporary.unlink(missing_ok=True)
        # A killed session may have left its own behind.
        for old in [*state_paths(folder)[:-keep], *folder.glob("training-state-*.pt.tmp")]:
            old.unlink()
    return path


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What keeps files of a run from being written becomes a `UserError`: what survives, what now.

    Writers report a full disk in their own ways: Python with OSError, torch with RuntimeError
    while an OSError is handled, safetensors with its own class.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = _why_not_written(error)
        if reason is None:
            raise
        earlier = state_paths(folder)
        rest = "no state was written before; make room, then start again"
        if earlier:
            rest = f"{earlier[-1].name} survives; make room, then --resume latest goes on"
        raise UserError(f"cannot write to {folder} ({reason}): {rest}") from error


def _why_not_written(error: BaseException | None) -> str | None:
    """The reason in words, or None if `error` has nothing to do with files."""
    text, found = " ".join(str(error).split()), None
    if isinstance(error, SafetensorError):
        found = text.split("I/O error: ")[-1].split(" (os error")[0]
    while error is not None and found is None:
        if isinstance(error, OSError):
            found = error.strerror or str(error)
        error = error.__context__
    return found or (text if "inline_container" in text else None)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_state(path: Path) -> dict:
    """Read a state without running code from it. Raises ValueError in one line if damaged."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"--resume: cannot read {path}: {reason}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"--resume: {path} is not a training state of sg3")
    if state["version"] != VERSION:
        raise ValueError(
            f"--resume: {path} has version {state['version']}, this program reads {VERSION}"
        )
    return state


def newest_state(folder: Path) -> tuple[dict, list[str]]:
    """The newest readable state of a run's folder, and lines about damaged ones passed over."""
    notes = []
    for path in reversed(state_paths(folder)):
        try:
            return read_state(path), notes
        except ValueError as error:
            notes.append(str(error))
    raise ValueError(notes[-1] if notes else f"--resume: {folder} holds no training state")
