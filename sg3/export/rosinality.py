"""`sg3 convert --layout rosinality`: a StyleGAN2 as `{g_ema, latent_avg}` of stylegan2-pytorch.

StyleGAN-NADA, StyleCLIP, pSp, e4e and JoJoGAN read this layout. The network is the official one
under other names, with a leading axis of 1 on weights, and with the gain of 4 in the filters.
"""

from __future__ import annotations

from typing import Any

import torch

from sg3.checkpoints.networks import Networks
from sg3.errors import UserError

#: Arguments that this layout cannot express, with the only values that it has.
FIXED = {"c_dim": (0,), "img_channels": (3,), "architecture": ("skip",), "use_noise": (True,)}
#: Arguments of the mapping, likewise.
FIXED_MAPPING = {"activation": ("lrelu",), "lr_multiplier": (0.01,)}


def rosinality_content(nets: Networks) -> tuple[dict[str, Any], list[str]]:
    """Return `{"g_ema": state dict, "latent_avg": w_avg}`, and notes on what differs.

    Raises ValueError for networks that this code base does not have.
    """
    G = nets.G_ema
    _check(G)
    own = {name: tensor.detach().cpu() for name, tensor in G.state_dict().items()}
    taps = own["synthesis.b4.resample_filter"]
    found: dict[str, torch.Tensor] = {}
    for i in range(G.mapping.num_layers):  # style.0 has no tensors: it normalizes z
        for last in ("weight", "bias"):
            found[f"style.{i + 1}.{last}"] = own[f"mapping.fc{i}.{last}"]
    found["input.input"] = own["synthesis.b4.const"][None]
    index = 0
    for r in G.synthesis.block_resolutions:
        block = f"synthesis.b{r}"
        for conv in ("conv0", "conv1") if r > 4 else ("conv1",):
            target = "conv1" if r == 4 else f"convs.{index - 1}"
            found |= _conv(own, f"{block}.{conv}", target)
            if conv == "conv0":
                found[f"{target}.conv.blur.kernel"] = taps * 4
            found[f"noises.noise_{index}"] = own[f"{block}.{conv}.noise_const"][None, None]
            index += 1
        rgb = "to_rgb1" if r == 4 else f"to_rgbs.{r.bit_length() - 4}"
        found |= _modulated(own, f"{block}.torgb", rgb)
        found[f"{rgb}.bias"] = own[f"{block}.torgb.bias"][None, :, None, None]
        if r > 4:
            found[f"{rgb}.upsample.kernel"] = taps * 4
    # Copies, since torch.save writes all of a view's memory.
    state = {name: tensor.clone().contiguous() for name, tensor in found.items()}
    notes = []
    if G.init_kwargs.get("conv_clamp", 256) is not None:
        notes.append(
            f"this layout has no clamp: images differ where activations exceed "
            f"{G.init_kwargs.get('conv_clamp', 256)}, which is rare"
        )
    return {"g_ema": state, "latent_avg": own["mapping.w_avg"].clone()}, notes


def _conv(own: dict[str, torch.Tensor], source: str, target: str) -> dict[str, torch.Tensor]:
    return {
        **_modulated(own, source, target),
        f"{target}.noise.weight": own[f"{source}.noise_strength"].reshape([1]),
        f"{target}.activate.bias": own[f"{source}.bias"],
    }


def _modulated(own: dict[str, torch.Tensor], source: str, target: str) -> dict[str, torch.Tensor]:
    return {
        f"{target}.conv.weight": own[f"{source}.weight"][None],
        f"{target}.conv.modulation.weight": own[f"{source}.affine.weight"],
        f"{target}.conv.modulation.bias": own[f"{source}.affine.bias"],
    }


def _check(G: Any) -> None:
    """Raise ValueError unless rosinality's generator can hold `G`."""
    if G.kind != "stylegan2":
        raise UserError(f"layout: rosinality holds StyleGAN2, this is a {G.kind}; try official")
    kwargs, mapping = G.init_kwargs, G.init_kwargs.get("mapping_kwargs") or {}
    sizes = {"z_dim": kwargs["z_dim"], "w_dim": kwargs["w_dim"]}
    sizes["layer_features"] = mapping.get("layer_features") or kwargs["w_dim"]
    if len(set(sizes.values())) > 1:
        got = ", ".join(f"{name} {value}" for name, value in sizes.items())
        raise UserError(f"layout: rosinality's mapping has one width, this network has {got}")
    for source, fixed in ((kwargs, FIXED), (mapping, FIXED_MAPPING)):
        for name, values in fixed.items():
            if source.get(name, values[0]) not in values:
                raise UserError(
                    f"layout: rosinality has {name} {values[0]!r}, this network {source[name]!r}"
                )
    if kwargs.get("activation", "lrelu") != "lrelu" or isinstance(
        kwargs["img_resolution"], (list, tuple)
    ):
        raise UserError("layout: rosinality has square images and leaky ReLUs, this network others")
