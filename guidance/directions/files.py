"""Files of latents, edited latents, labelled latents and directions: safetensors that name their
network, so that a wrong pairing is refused."""

from __future__ import annotations

import json
import os

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from guidance.directions.base import Direction, EditedLatent
from guidance.directions.linear import labelled_direction
from guidance.latents import LATENT_FORMAT
from guidance.style_space import style_layers
from sg3.errors import UserError
from sg3.files import aligned, write_tensors
from sg3.generate import STYLE, UNEDITED

DIRECTION_FORMAT = "sg3-direction"


def read_latent(
    path: str | os.PathLike, G: nn.Module, network_sha256: str | None = None, force: bool = False
) -> EditedLatent:
    """A latent as `sg3 steer`, `sg3 project` or `sg3 edit` wrote it, `[N, num_ws, w_dim]`.

    Raises UserError for another shape, or (unless `force`) another network than the one with the
    file hash `network_sha256`; files that name no network are taken.
    """
    tensors, metadata = _read(path)
    theirs = metadata.get("network_sha256")
    if theirs and network_sha256 and theirs != network_sha256 and not force:
        name = metadata.get("network", "another network")
        raise UserError(
            f"latent {path}: made with {name!r} ({theirs[:12]}), this network is "
            f"{network_sha256[:12]}; give that one as --network"
        )
    ws = tensors.get("ws", tensors.get(UNEDITED))
    if ws is None:
        raise UserError(f"latent {path}: holds no tensor 'ws', only {', '.join(tensors)[:80]}")
    ws = ws[None] if ws.ndim == 2 else ws
    if ws.ndim != 3 or ws.shape[1:] != (G.num_ws, G.w_dim):
        raise UserError(
            f"latent {path}: got shape {list(ws.shape)}, expected [N, {G.num_ws}, {G.w_dim}]; it "
            "was made with another network"
        )
    device = next(G.parameters()).device
    styles = {name: style.to(device) for name, style in _styles(path, tensors, G).items()}
    return EditedLatent(ws.to(device, torch.float32), styles)


def latent_metadata(path: str | os.PathLike) -> dict[str, str]:
    """What a file of a latent says about itself. Raises UserError for a damaged file."""
    return _read(path)[1]


def write_latent(path: str | os.PathLike, latent: EditedLatent, metadata: dict[str, str]) -> None:
    """Write a latent that `read_latent` reads, and `sg3 generate --latent` where it has no
    styles (`EditedLatent.folded`)."""
    named = {STYLE + name: style for name, style in latent.styles.items()}
    named["ws" if not latent.styles else UNEDITED] = latent.ws
    write_tensors(path, named, {"format": LATENT_FORMAT, "version": "1", **metadata})


def write_direction(path: str | os.PathLike, direction: Direction, weights: str) -> None:
    """Write a direction of the network whose `weights_hash` is `weights`."""
    tensors = {STYLE + name: style for name, style in direction.styles.items()}
    if direction.ws is not None:
        tensors["ws"] = direction.ws
    content = json.dumps({"name": direction.name, "info": dict(direction.info)})
    metadata = {"format": DIRECTION_FORMAT, "version": "1", "weights": weights, "content": content}
    write_tensors(path, tensors, metadata)


def read_direction(
    path: str | os.PathLike, G: nn.Module, weights: str, force: bool = False
) -> Direction:
    """A direction from a file of `write_direction`, or made from a file of labelled latents.

    The latter holds `ws` `[N, num_ws, w_dim]` or `[N, w_dim]` and `labels` `[N]` (see
    `labelled_direction`). Raises UserError for any other file, another shape, or (unless `force`)
    a direction of other weights than those whose hash is `weights`.
    """
    tensors, metadata = _read(path)
    stem = os.path.splitext(os.path.basename(path))[0]
    if metadata.get("format") != DIRECTION_FORMAT:
        if not {"ws", "labels"} <= set(tensors):
            raise UserError(
                f"direction {path}: got tensors {', '.join(tensors)[:80]}, expected a file of "
                "sg3 edit, or 'ws' and 'labels'"
            )
        ws = tensors["ws"]
        return labelled_direction(
            G, ws.mean(dim=1) if ws.ndim == 3 else ws, tensors["labels"], stem
        )
    if metadata.get("weights") != weights and not force:
        raise UserError(
            f"direction {path}: made for other weights ({metadata.get('weights', '')[:12]}), this "
            f"network's are {weights[:12]}; --force takes it where the shapes are the same"
        )
    content = json.loads(metadata.get("content", "{}"))
    styles = _styles(path, tensors, G)
    return Direction(content.get("name", stem), tensors.get("ws"), styles, content.get("info", {}))


def _read(path: str | os.PathLike) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            tensors = {name: aligned(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: damaged or no safetensors file ({error})") from None


def _styles(path, tensors: dict[str, torch.Tensor], G: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of styles by layer, checked against the network."""
    styles = {k.removeprefix(STYLE): t for k, t in tensors.items() if k.startswith(STYLE)}
    channels = {layer.name: layer.channels for layer in style_layers(G)} if styles else {}
    for name, style in styles.items():
        if style.shape[-1] != channels.get(name):
            raise UserError(
                f"{path}: styles of {name!r} have shape {list(style.shape)}, expected "
                f"{channels.get(name, 'no such layer')}; they are another network's"
            )
    return styles
