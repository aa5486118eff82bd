"""Our network files: one safetensors file with constructor arguments and provenance as JSON."""

from __future__ import annotations

import json
import os
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from sg3.checkpoints.networks import PARTS, Networks, assemble
from sg3.errors import UserError
from sg3.files import write_tensors

FORMAT, VERSION = "sg3-networks", "1"
#: Last parts of tensor names that half precision would spoil: the signal's geometry, averages.
KEEP_FP32 = {
    "freqs",
    "phases",
    "transform",
    "w_avg",
    "magnitude_ema",
    "up_filter",
    "down_filter",
    "resample_filter",
    "noise_strength",
    "p",
    "Hz_geom",
    "Hz_fbank",
}
FP16_MAX = 65504


def save(networks: Networks, path: str | os.PathLike, fp16: bool = False) -> None:
    """Write `networks` to `path` (.safetensors), atomically.

    `fp16` halves the file: weights are stored in half precision (loading gives float32 back),
    except those that would lose too much. Raises ValueError for networks that do not know their
    kind and arguments, OSError where the folder cannot be written to.
    """
    parts = networks.parts()
    if not parts:
        raise ValueError("networks: got none, expected at least G_ema")
    if not str(path).endswith(".safetensors"):
        raise UserError(f"{path}: expected a name ending in .safetensors")
    tensors: dict[str, torch.Tensor] = {}
    described: dict[str, Any] = {}
    for part, network in parts.items():
        if not hasattr(network, "kind") or not hasattr(network, "init_kwargs"):
            raise ValueError(f"{part}: has no kind and init_kwargs; make it with build_network")
        described[part] = {"kind": network.kind, "kwargs": network.init_kwargs}
        for name, tensor in network.state_dict().items():
            tensors[f"{part}.{name}"] = _stored(name, tensor, fp16)
    try:
        metadata = {
            "format": FORMAT,
            "version": VERSION,
            "networks": json.dumps(described),
            "provenance": json.dumps(networks.meta),
        }
    except TypeError as error:
        raise ValueError(f"networks: arguments or meta are not JSON-able: {error}") from None
    write_tensors(path, tensors, metadata)


def _stored(name: str, tensor: torch.Tensor, fp16: bool) -> torch.Tensor:
    fits = fp16 and tensor.is_floating_point() and name.split(".")[-1] not in KEEP_FP32
    if fits and tensor.numel() > 0 and tensor.abs().max() <= FP16_MAX:
        return tensor.to(torch.float16)
    return tensor


def load_safetensors(path: str | os.PathLike) -> Networks:
    """Networks of one of our files, on the CPU, in eval mode, without gradients.

    Raises UserError, one line, for a damaged file or one that is not ours.
    """
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = file.metadata() or {}
            described = _described(metadata)
            networks = Networks(meta=json_object(metadata, "provenance"))
            tensors: dict[str, dict[str, torch.Tensor]] = {part: {} for part in described}
            for key in list(file.keys()):
                part, _, name = key.partition(".")
                if part not in tensors:
                    raise UserError(f"it has a tensor {key[:80]!r} that belongs to no network")
                tensors[part][name] = file.get_tensor(key)
        for part, spec in described.items():
            network = assemble(part, spec["kind"], spec["kwargs"], tensors.pop(part))
            setattr(networks, part, network)
    except SafetensorError as error:
        raise UserError(f"{path}: damaged or no safetensors file: {error}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return networks


def _described(metadata: dict[str, str]) -> dict[str, dict[str, Any]]:
    if metadata.get("format") == "sg3-delta":
        raise UserError("a delta, expected a network; give it with --delta")
    if metadata.get("format") != FORMAT:
        raise UserError(
            "a safetensors file, but not one of ours "
            f"(its metadata says format {metadata.get('format')!r}, expected {FORMAT!r})"
        )
    if metadata.get("version") != VERSION:
        raise UserError(
            f"layout version {metadata.get('version')!r}, this program reads {VERSION!r}; update it"
        )
    described = json_object(metadata, "networks")
    for part, spec in described.items():
        fits = part in PARTS and isinstance(spec, dict)
        if (
            not fits
            or not isinstance(spec.get("kind"), str)
            or type(spec.get("kwargs")) is not dict
        ):
            raise UserError(f"its metadata describe {part!r} in an unknown way")
    return described


def json_object(metadata: dict[str, str], key: str) -> dict[str, Any]:
    try:
        value = json.loads(metadata.get(key, "{}"))
    except (json.JSONDecodeError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"its metadata entry {key!r} is not a JSON object")
    return value
