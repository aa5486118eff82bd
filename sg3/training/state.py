"""The training state: everything needed to continue bit for bit, written so that it survives."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path

import numpy as np
import torch

from sg3.training.trainer import Trainer

FORMAT = "sg3-training-state"
VERSION = 1
FILE_NAME = "training-state.pt"


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


def capture(trainer: Trainer, config_record: dict) -> dict:
    """The complete state as tensors, numbers, strings, lists and dicts."""
    generators = {
        "python": random.getstate(),
        "numpy": _numpy_state(np.random),
        "labels": _numpy_state(trainer._label_random),
        "torch": torch.get_rng_state(),
        "latents": trainer._z_random.get_state(),
    }
    if trainer.device.type == "cuda":
        generators["cuda"] = torch.cuda.get_rng_state(trainer.device)
    return {
        "format": FORMAT,
        "version": VERSION,
        "config": config_record,
        "networks": {n: getattr(trainer, n).state_dict() for n in ("G", "D", "G_ema")},
        "optimizers": {n: o.state_dict() for n, o in trainer.optimizers().items()},
        "pl_mean": trainer.loss.pl_mean,
        "stats": trainer.stats.state(),
        "loader": trainer.loader.state(),
        "random": generators,
        "counters": trainer.counters(),
        "threads": torch.get_num_threads(),
    }


def restore(trainer: Trainer, state: dict) -> None:
    """Put `state` (from `read_state`) into a trainer built from the same options."""
    for name, tensors in state["networks"].items():
        getattr(trainer, name).load_state_dict(tensors)
    for name, optimizer in trainer.optimizers().items():
        optimizer.load_state_dict(state["optimizers"][name])
    trainer.loss.pl_mean.copy_(state["pl_mean"])
    trainer.stats.load_state(state["stats"], trainer.device)
    trainer.loader.load_state(state["loader"])
    for name, value in state["counters"].items():
        setattr(trainer, name, value)
    generators = state["random"]
    random.setstate(generators["python"])
    _set_numpy_state(np.random, generators["numpy"])
    _set_numpy_state(trainer._label_random, generators["labels"])
    torch.set_rng_state(generators["torch"])
    trainer._z_random.set_state(generators["latents"])
    if trainer.device.type == "cuda" and "cuda" in generators:
        torch.cuda.set_rng_state(generators["cuda"], trainer.device)


def write_state(path: Path, state: dict) -> None:
    """Write atomically: a temporary file, synced, renamed, and the folder synced.

    On any failure (a full disk) the previous file is untouched and the temporary one removed.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_state(path: Path) -> dict:
    """Read a state without running code from it. Raises ValueError in one line if damaged."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--resume: cannot read {path}: {reason}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"--resume: {path} is not a training state of sg3")
    if state["version"] != VERSION:
        raise ValueError(
            f"--resume: {path} has version {state['version']}, this program reads {VERSION}"
        )
    return state
