"""Files of directions, and of labelled latents from which directions are fitted."""

from __future__ import annotations

import json
import os

from torch import nn

from guidance.directions.base import Direction
from guidance.directions.linear import labelled_direction
from guidance.generator import generator_of
from sg3.checkpoints import Networks
from sg3.checkpoints.delta import weights_hash
from sg3.checkpoints.safetensors_io import json_object
from sg3.errors import UserError
from sg3.files import read_tensors, write_tensors
from sg3.latent_files import STYLE, check_styles, named_styles

DIRECTION_FORMAT = "sg3-direction"


def write_direction(
    path: str | os.PathLike, direction: Direction, network: Networks | nn.Module | str
) -> None:
    """Write a direction as safetensors, atomically.

    `network`: the network that it belongs to, or the `weights_hash` of its generator.
    """
    weights = network if isinstance(network, str) else weights_hash(generator_of(network))
    tensors = {STYLE + name: style for name, style in direction.styles.items()}
    if direction.ws is not None:
        tensors["ws"] = direction.ws
    content = json.dumps({"name": direction.name, "info": dict(direction.info)})
    metadata = {"format": DIRECTION_FORMAT, "version": "1", "weights": weights, "content": content}
    write_tensors(path, tensors, metadata)


def read_direction(
    path: str | os.PathLike,
    network: Networks | nn.Module,
    weights: str | None = None,
    force: bool = False,
) -> Direction:
    """Read a file of `write_direction`, or fit a direction to a file of labelled latents.

    The latter holds `ws` `[N, num_ws, w_dim]` or `[N, w_dim]` and `labels` `[N]`; see
    `labelled_direction`.

    Args:
        path: a safetensors file.
        network: networks of `sg3.load`, or a generator.
        weights: `weights_hash` of the generator, computed by default.
        force: accept a direction that was made for other weights.

    Raises ValueError for any other file, another shape or other weights.
    """
    G = generator_of(network)
    tensors, metadata = read_tensors(path, "direction")
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
    weights = weights_hash(G) if weights is None else weights
    if metadata.get("weights") != weights and not force:
        raise UserError(
            f"direction {path}: made for other weights ({metadata.get('weights', '')[:12]}), this "
            f"network's are {weights[:12]}; `force` accepts it if the shapes are the same"
        )
    content = json_object(metadata, "content")
    styles = named_styles(tensors)
    check_styles(path, styles, G)
    return Direction(content.get("name", stem), tensors.get("ws"), styles, content.get("info", {}))
