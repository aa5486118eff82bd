"""Files of interrupted steering runs (`SteeringRun.state_dict`)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import torch

from sg3.errors import DAMAGE, UserError
from sg3.files import parse_json, read_tensors, write_tensors

FORMAT = "sg3-steering"
#: Names in files written by version 0.1 → names now.
RENAMED = {
    "stall_steps": "stall.steps",
    "look": "perceptual",
    "look_distance": "perceptual_distance",
}


def write_state(path: str | os.PathLike, state: Mapping[str, Any], fingerprint: str) -> None:
    """Write a state of tensors and JSON values as safetensors, atomically.

    Args:
        path: the file.
        state: `SteeringRun.state_dict()`.
        fingerprint: JSON of everything that a resumed run must have in common with this one.
    """
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    numbers = {name: value for name, value in state.items() if name not in tensors}
    metadata = {"format": FORMAT, "version": "1", "fingerprint": fingerprint}
    write_tensors(path, tensors, {**metadata, "numbers": json.dumps(numbers)})


def read_state(path: str | os.PathLike, fingerprint: str) -> dict[str, Any]:
    """Read what `write_state` wrote.

    Raises ValueError for another or a damaged file, or if the fingerprints differ.
    """
    try:
        tensors, metadata = read_tensors(path)
    except UserError as error:
        raise UserError(f"resume_from: {path} cannot be read ({error})") from None
    if metadata.get("format") != FORMAT:
        raise UserError(f"resume_from: {path} is not the state of a steering run")
    try:
        theirs, numbers = (_renamed(parse_json(metadata[k])) for k in ("fingerprint", "numbers"))
    except (ValueError, *DAMAGE) as error:
        raise UserError(f"resume_from: {path} is damaged ({type(error).__name__})") from None
    ours = parse_json(fingerprint)
    changed = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    if changed:
        raise UserError(
            f"resume_from: {path} belongs to a run with another {' and another '.join(changed)}; "
            "use the same settings, or start in another folder"
        )
    return {**tensors, **numbers}


def _renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {RENAMED.get(name, name): value for name, value in values.items()}
