"""Files of latents as `EditedLatent`s (`sg3.latent_files` reads and checks the tensors)."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from guidance.render import EditedLatent
from sg3.latent_files import read_latent_file, write_latent_file
from sg3.networks.generator import MappedGenerator


def read_latent(
    path: str | os.PathLike,
    G: MappedGenerator,
    network_sha256: str | None = None,
    force: bool = False,
    allow_nonfinite: bool = False,
) -> EditedLatent:
    """Read latents that `sg3 steer`, `project` or `edit` wrote, or other tools, on `G`'s device.

    Args:
        path: a file for `sg3.latent_files.read_latent_file`.
        G: the generator that the latents must fit.
        network_sha256: hash of the network's file (`nets.meta["sha256"]`). Latents that name
            another one are refused; files that name none are accepted.
        force: accept latents of another network of the same shape.
        allow_nonfinite: accept NaN and infinities.

    Raises ValueError for any other file.
    """
    found = read_latent_file(path, G, network_sha256, force, allow_nonfinite)
    device = next(G.parameters()).device
    styles = {name: style.to(device) for name, style in found.styles.items()}
    return EditedLatent(found.ws.to(device, torch.float32), styles)


def write_latent(
    path: str | os.PathLike, latent: EditedLatent, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a latent for `read_latent`, atomically.

    Commands that read ws alone accept it where it has no styles (see `EditedLatent.folded`).
    """
    write_latent_file(path, latent.ws, latent.styles, metadata)
