"""rosinality's StyleGAN2 (stylegan2-pytorch), whose files many tools exchange.

The network is the official one under other names: `style.1`, … are the mapping, `conv1` and
`convs` the convolutions from coarse to fine, `noises` their constant noise. Weights have
a leading axis of 1, and the filter of the upsampling is stored with its gain of 4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from sg3.checkpoints.layouts.channels import power_of_two_channels
from sg3.checkpoints.layouts.flat import View
from sg3.checkpoints.pickle_machine import Refused

STYLE = re.compile(r"style\.(\d+)\.(weight|bias)")
LAYER = re.compile(r"(conv1|to_rgb1|convs|to_rgbs)(?:\.(\d+))?\.(.+)")
NOISE = re.compile(r"noises\.noise_(\d+)")
#: Names within a layer, and the axes to drop: `[1, O, I, k, k]`, `[1, O, 1, 1]`, `[1]`.
WITHIN = {
    "conv.weight": "weight",
    "conv.modulation.weight": "affine.weight",
    "conv.modulation.bias": "affine.bias",
    "noise.weight": "noise_strength",
    "activate.bias": "bias",
    "bias": "bias",
}
#: Filters of the upsampling, which follow from the arguments.
FILTERS = ("conv.blur.kernel", "upsample.kernel")
NOISE_SEED = 0


def read_rosinality(
    tensors: Mapping[str, View],
) -> tuple[dict[str, Any], dict[str, torch.Tensor], list[str]]:
    """Return constructor arguments, state dict and notes of a generator in rosinality's layout.

    Raises Refused for tensors that this architecture does not have.
    """
    kwargs = infer_arguments(tensors)
    state = {}
    for name, view in tensors.items():
        if name == "latent_avg" or name.endswith(FILTERS):
            continue
        target = official_name(name)
        if target is None:
            raise Refused(f"has an unknown tensor {name[:80]!r}")
        state[target] = _reshaped(target, view.read())
    return kwargs, state, _add_noise(state, kwargs["img_resolution"])


def official_name(name: str) -> str | None:
    """Return the official name of a tensor; None for unknown ones."""
    if match := STYLE.fullmatch(name):
        return f"mapping.fc{int(match[1]) - 1}.{match[2]}"
    if name == "input.input":
        return "synthesis.b4.const"
    if match := NOISE.fullmatch(name):
        return f"{_layer('convs', int(match[1]) - 1)}.noise_const"
    match = LAYER.fullmatch(name)
    if match is None or match[3] not in WITHIN:
        return None
    index = -1 if match[2] is None else int(match[2])
    return f"{_layer('to_rgbs' if 'rgb' in match[1] else 'convs', index)}.{WITHIN[match[3]]}"


def _layer(group: str, index: int) -> str:
    """Return the module of a layer; -1 is the layer of the 4×4 block."""
    if group == "to_rgbs":
        return f"synthesis.b{4 * 2 ** (index + 1)}.torgb"
    return f"synthesis.b{4 * 2 ** ((index + 2) // 2)}.conv{1 if index % 2 else 0}"


def _reshaped(name: str, tensor: torch.Tensor) -> torch.Tensor:
    last = name.split(".")[-1]
    if last == "noise_strength":
        return tensor.reshape([])
    if last == "noise_const":
        return tensor[0, 0]
    if last == "const" or (last == "weight" and tensor.ndim == 5):
        return tensor[0]
    return tensor.flatten() if last == "bias" else tensor


def infer_arguments(tensors: Mapping[str, View]) -> dict[str, Any]:
    """Return the constructor arguments that the shapes of the tensors tell."""
    sizes = {name: view.size for name, view in tensors.items()}
    try:
        images = [m for m in map(LAYER.fullmatch, sizes) if m and m[1] == "to_rgbs"]
        blocks = 1 + max((int(m[2]) for m in images), default=-1)
        channels = {4: sizes["conv1.conv.weight"][1]}
        for i in range(blocks):
            channels[8 << i] = sizes[f"convs.{2 * i + 1}.conv.weight"][1]
        layers = 1 + max(int(m[1]) for m in map(STYLE.fullmatch, sizes) if m) - 1
        w_dim = sizes["conv1.conv.modulation.weight"][1]
        z_dim = sizes["style.1.weight"][1]
        img_channels = sizes["to_rgb1.conv.weight"][1]
        height, width = sizes["input.input"][2:]
    except (KeyError, IndexError, ValueError) as error:
        raise Refused(f"lacks tensor {error} of a rosinality generator") from None
    if (height, width) != (4, 4):
        raise Refused(f"starts from {height}x{width} pixels, expected 4x4")
    return {
        "z_dim": z_dim,
        "c_dim": 0,
        "w_dim": w_dim,
        "img_resolution": 4 << blocks,
        "img_channels": img_channels,
        "mapping_kwargs": {"num_layers": layers, "w_avg_beta": 0.995},
        **power_of_two_channels(channels),
        "num_fp16_res": 0,
        "conv_clamp": None,
        **_filter(tensors),
    }


def _filter(tensors: Mapping[str, View]) -> dict[str, Any]:
    """Return the upsampling filter if it is not the usual one."""
    kernel = next((view for name, view in tensors.items() if name.endswith(FILTERS)), None)
    return {} if kernel is None else separable(kernel.read())


def separable(kernel: torch.Tensor) -> dict[str, Any]:
    """Return `resample_filter` of a 2-D kernel; empty for the default. Refuses others."""
    if kernel.ndim != 2 or kernel.sum() == 0:
        raise Refused("has an unknown upsampling filter")
    taps = kernel.sum(dim=0) / kernel.sum()
    if not torch.allclose(torch.outer(taps, taps), kernel / kernel.sum(), atol=1e-5):
        raise Refused("has an upsampling filter that is not separable, which is not supported")
    usual = torch.tensor([1.0, 3, 3, 1]) / 8
    if taps.shape == usual.shape and torch.allclose(taps, usual, atol=1e-5):
        return {}
    return {"resample_filter": [round(float(tap / taps.abs().max()), 6) for tap in taps]}


def _add_noise(state: dict[str, torch.Tensor], resolution: int) -> list[str]:
    """Add the constant noise that files of early versions lack; returns notes."""
    random = torch.Generator().manual_seed(NOISE_SEED)
    names = [_layer("convs", i) for i in range(-1, 2 * (resolution.bit_length() - 3))]
    missing = [name for name in names if f"{name}.noise_const" not in state]
    for name in missing:
        side = int(name.split(".")[1][1:])
        state[f"{name}.noise_const"] = torch.randn([side, side], generator=random)
    return ["holds no constant noise; it is drawn from a fixed seed"] if missing else []
