"""StyleGAN3 mappings of other widths, in the form that the official class has.

Our `MappingNetwork` has hidden layers and label embeddings of any width, the official StyleGAN3's
are all as wide as w. A network whose layers have other widths is the same as one in which all have
the largest of them: the further units have zero weights, so that they are zero and nothing reads
them. Weights are stored without the gain 1/√inputs (REFERENCE.md §2.6), so that a layer with more
inputs stores its weights times √(new/old).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

#: Arguments of our StyleGAN3 mapping that the official class lacks.
OWN_WIDTHS = ("layer_features", "embed_features")


def widened(
    kwargs: dict[str, Any], state: dict[str, torch.Tensor]
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return arguments and state dict of the StyleGAN3 with one width that computes the same.

    Returns its arguments unchanged if all layers are as wide as w already.
    """
    mapping = dict(kwargs.get("mapping_kwargs") or {})
    widths = [mapping.pop(name, None) or kwargs["w_dim"] for name in OWN_WIDTHS]
    if not kwargs["c_dim"]:
        widths = widths[:1]  # there is no embedding
    own, width = {kwargs["w_dim"], *widths}, max(kwargs["w_dim"], *widths)
    if own != {width}:
        state = {name: _wider(name, tensor, kwargs, width) for name, tensor in state.items()}
    kwargs = {name: value for name, value in kwargs.items() if name != "mapping_kwargs"}
    return {**kwargs, "w_dim": width, **({"mapping_kwargs": mapping} if mapping else {})}, state


def _wider(name: str, tensor: torch.Tensor, kwargs: dict[str, Any], width: int) -> torch.Tensor:
    """Return a tensor of the network in which w, hidden layers and labels have `width` units."""
    parts = name.split(".")
    if name == "mapping.w_avg":
        return _padded(tensor, width)
    if parts[0] == "mapping" and parts[-1] == "bias":
        return _padded(tensor, width)
    if name == "mapping.embed.weight":  # its inputs are labels
        return _padded(tensor.t(), width).t().contiguous()
    if name == "mapping.fc0.weight":
        z_dim, inputs = kwargs["z_dim"], tensor.shape[1]
        latents, labels = tensor[:, :z_dim], tensor[:, z_dim:]
        if labels.shape[1]:
            # Normalized by the mean over all units, wider labels come out larger.
            labels = _padded(labels * math.sqrt(labels.shape[1] / width), width)
        joined = torch.cat([latents, labels], dim=1) * math.sqrt((z_dim + labels.shape[1]) / inputs)
        return _padded(joined.t(), width).t().contiguous()
    if parts[0] == "mapping":
        scaled = _padded(tensor * math.sqrt(width / tensor.shape[1]), width)
        return _padded(scaled.t(), width).t().contiguous()
    if name.endswith("affine.weight"):
        return _padded(tensor * math.sqrt(width / tensor.shape[1]), width)
    return tensor


def _padded(tensor: torch.Tensor, width: int) -> torch.Tensor:
    """Return `tensor` with zeros up to `width` along its last axis."""
    return F.pad(tensor, [0, width - tensor.shape[-1]])
