"""Files of latents: `ws`, offsets of styles, and the network that made them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sg3.errors import UserError, brief
from sg3.files import first_nonfinite, read_metadata, read_tensors, write_tensors
from sg3.networks.style_space import style_layers
from sg3.other_latents import is_other_latent, read_other_latent

LATENT_FORMAT = "sg3-latent"
EXPECTED = "a latent written by sg3 steer, edit or project, or by another tool as .npz, .npy or .pt"
#: Prefix of tensors that hold offsets of a layer's styles.
STYLE = "styles."
#: Name of ws where the file also holds styles, so that no reader drops the styles unnoticed.
UNEDITED = "ws_before_styles"


@dataclass(frozen=True)
class LatentFile:
    """Contents of a file of latents.

    Attributes:
        ws: `[N, num_ws, w_dim]`.
        styles: offsets of styles, `[N or 1, channels]` by layer.
        metadata: strings by name, such as "network" and "network_sha256".
    """

    ws: torch.Tensor
    styles: Mapping[str, torch.Tensor] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_latent_file(
    path: str | os.PathLike,
    G: nn.Module | None = None,
    network_sha256: str | None = None,
    force: bool = False,
    allow_nonfinite: bool = False,
) -> LatentFile:
    """Read latents that `sg3 steer`, `project` or `edit` wrote, or other tools.

    Args:
        path: a safetensors file with a tensor 'ws' `[N, num_ws, w_dim]` or `[num_ws, w_dim]`, or
            a file of another tool (`sg3.other_latents`).
        G: the generator that the shapes must fit; None skips this check.
        network_sha256: hash of the network's file. A latent that names another one is refused;
            files that name none are accepted.
        force: accept latents of another network.
        allow_nonfinite: accept NaN and infinities, which make black images.

    Raises ValueError for any other file.
    """
    tensors, metadata = _read(path, G)
    ws = tensors.get("ws", tensors.get(UNEDITED))
    if ws is None:
        names = brief(", ".join(tensors))
        raise UserError(f"latent {path}: got tensors {names}, expected one named 'ws'")
    if not force:
        check_origin(path, metadata, network_sha256)
    ws = ws[None] if ws.ndim == 2 else ws
    styles = named_styles(tensors)
    _check_numbers(path, {"ws": ws, **styles}, allow_nonfinite)
    if G is not None:
        if ws.ndim != 3 or ws.shape[1:] != (G.num_ws, G.w_dim):
            raise UserError(
                f"latent {path}: got shape {list(ws.shape)}, expected [N, {G.num_ws}, {G.w_dim}]; "
                "it belongs to another network"
            )
        check_styles(path, styles, G)
    return LatentFile(ws, styles, metadata)


def _check_numbers(
    path: str | os.PathLike, tensors: Mapping[str, torch.Tensor], allow_nonfinite: bool
) -> None:
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not 1 <= tensor.ndim <= 3 or not tensor.numel():
            raise UserError(
                f"latent {path}: got {brief(name)} of type {tensor.dtype} and shape "
                f"{list(tensor.shape)}, expected numbers [N, num_ws, w_dim], or [N, channels] for "
                "a layer's styles"
            )
    bad = None if allow_nonfinite else first_nonfinite(tensors)
    if bad is not None:
        raise UserError(
            f"latent {path}: {brief(bad)} has values that are not finite; `allow_nonfinite` loads "
            "it anyway"
        )


def _read(
    path: str | os.PathLike, G: nn.Module | None
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors and metadata of a file of latents, ours or of another tool."""
    if not is_other_latent(path):
        return read_tensors(path, "latent", EXPECTED)
    num_ws: Any = None if G is None else G.num_ws
    return {"ws": read_other_latent(path, num_ws)}, {}


def latent_metadata(path: str | os.PathLike) -> dict[str, str]:
    """Read the metadata of a latent, which files of other tools do not have.

    Raises ValueError for a missing or damaged file.
    """
    return {} if is_other_latent(path) else read_metadata(path, "latent", EXPECTED)


def load_latents(
    path: str | os.PathLike,
    G: nn.Module | None = None,
    network_sha256: str | None = None,
    allow_nonfinite: bool = False,
) -> torch.Tensor:
    """Read ws `[N, num_ws, w_dim]` as `read_latent_file` does.

    Raises ValueError for latents with offsets of styles, too.
    """
    found = read_latent_file(path, G, network_sha256, allow_nonfinite=allow_nonfinite)
    if found.styles:
        raise UserError(
            f"latent {path}: has styles in addition to ws, expected ws alone; use it with sg3 "
            "generate, steer or edit"
        )
    return found.ws


def write_latent_file(
    path: str | os.PathLike,
    ws: torch.Tensor,
    styles: Mapping[str, torch.Tensor] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a file for `read_latent_file`, atomically."""
    tensors = {STYLE + name: style for name, style in (styles or {}).items()}
    tensors[UNEDITED if styles else "ws"] = ws
    write_tensors(path, tensors, {"format": LATENT_FORMAT, "version": "1", **(metadata or {})})


def named_styles(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a file that hold styles, by layer."""
    return {k.removeprefix(STYLE): t for k, t in tensors.items() if k.startswith(STYLE)}


def check_origin(
    path: str | os.PathLike, metadata: Mapping[str, str], network_sha256: str | None
) -> None:
    """Raise ValueError if `metadata` names a network with another file hash."""
    theirs = metadata.get("network_sha256")
    if theirs and network_sha256 and theirs != network_sha256:
        name = brief(metadata.get("network", "another network"))
        raise UserError(
            f"latent {path}: made with {name!r} ({theirs[:12]}), this network is "
            f"{network_sha256[:12]}; give that one as `network`"
        )


def check_styles(path: str | os.PathLike, styles: Mapping[str, torch.Tensor], G: nn.Module) -> None:
    """Raise ValueError unless all `styles` fit layers of `G`."""
    channels = {layer.name: layer.channels for layer in style_layers(G)} if styles else {}
    for name, style in styles.items():
        if style.shape[-1] != channels.get(name):
            expected = channels.get(name, "no such layer")
            raise UserError(
                f"{path}: styles of {brief(name)!r} have shape {list(style.shape)}, expected "
                f"{expected}; they belong to another network"
            )
