"""`sg3.save`, and our file format: safetensors with arguments and provenance as JSON metadata."""

from __future__ import annotations

import json
import os
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from sg3.checkpoints.networks import PARTS, Networks, assemble
from sg3.errors import DAMAGE, UserError, brief
from sg3.files import parse_json, write_tensors

FORMAT, VERSION = "sg3-networks", "1"
#: Last parts of names of tensors that stay in float32: signal geometry, filters, averages.
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
MAX_METADATA = 2**22  # characters; ours take a few thousand


def save(networks: Networks, path: str | os.PathLike, fp16: bool = False) -> None:
    """Write networks to a file, atomically. `sg3.load` reads it.

    Args:
        networks: the networks, made by `sg3.load` or `build_network`.
        path: file name ending in .safetensors.
        fp16: store weights in half precision, except those that would lose too much. Halves the
            file; `sg3.load` returns float32.

    Raises:
        ValueError: no networks, networks not made by `build_network`, another suffix, or `meta`
            that is not JSON-serializable.
        OSError: the file cannot be written.

    Example:
        >>> import sg3
        >>> nets = sg3.load("mini-faces")
        >>> sg3.save(nets, "copy.safetensors", fp16=True)
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
            raise ValueError(f"{part}: lacks kind and init_kwargs; construct it with build_network")
        described[part] = {"kind": network.kind, "kwargs": network.init_kwargs}
        for name, tensor in network.state_dict().items():
            tensors[f"{part}.{name}"] = as_stored(name, tensor, fp16)
    try:
        metadata = {
            "format": FORMAT,
            "version": VERSION,
            "networks": json.dumps(described),
            "provenance": json.dumps(networks.meta),
        }
    except TypeError as error:
        raise ValueError(
            f"networks: arguments or meta are not JSON-serializable: {error}"
        ) from None
    write_tensors(path, tensors, metadata)


def as_stored(name: str, tensor: torch.Tensor, fp16: bool) -> torch.Tensor:
    """Return a tensor as files store it: with `fp16` in half precision where it loses little."""
    fits = fp16 and tensor.is_floating_point() and name.split(".")[-1] not in KEEP_FP32
    if fits and tensor.numel() > 0 and tensor.abs().max() <= FP16_MAX:
        return tensor.to(torch.float16)
    return tensor


def load_safetensors(path: str | os.PathLike, only_ema: bool = False) -> Networks:
    """Load the networks of one of our files, on the CPU, in eval mode, without gradients.

    With `only_ema` the tensors of other networks than G_ema are not read.

    Raises ValueError for a damaged file or another kind of file.
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
                    raise UserError(f"tensor {brief(key)!r} belongs to no network")
                if part == "G_ema" or not only_ema:
                    tensors[part][name] = file.get_tensor(key)
        for part, spec in described.items():
            if only_ema and part != "G_ema":
                continue
            network = assemble(part, spec["kind"], spec["kwargs"], tensors.pop(part))
            setattr(networks, part, network)
    except SafetensorError as error:
        raise UserError(f"{path}: damaged, or not a safetensors file: {error}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    except DAMAGE as error:
        raise UserError(f"{path}: damaged or malicious: {type(error).__name__}") from None
    return networks


def _described(metadata: dict[str, str]) -> dict[str, dict[str, Any]]:
    if metadata.get("format") == "sg3-delta":
        raise UserError("a delta, expected a network; pass it as `delta`")
    if metadata.get("format") != FORMAT:
        raise UserError(
            "a safetensors file of another program: "
            f"metadata format {brief(metadata.get('format'))!r}, expected {FORMAT!r}"
        )
    if metadata.get("version") != VERSION:
        raise UserError(
            f"file version {brief(metadata.get('version'))!r}, expected {VERSION!r}; update sg3"
        )
    described = json_object(metadata, "networks")
    for part, spec in described.items():
        fits = part in PARTS and isinstance(spec, dict)
        if (
            not fits
            or not isinstance(spec.get("kind"), str)
            or type(spec.get("kwargs")) is not dict
        ):
            raise UserError(f"metadata of {brief(part)!r} have an unknown form")
    return described


def json_object(metadata: dict[str, str], key: str) -> dict[str, Any]:
    """Parse a metadata entry that must be a JSON object. Raises ValueError otherwise."""
    try:
        text = metadata.get(key, "{}")
        value = parse_json(text) if len(text) <= MAX_METADATA else None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UserError(f"metadata entry {key!r} is not a JSON object")
    return value
