"""Constructor arguments of generators in official state dicts, from shapes and buffers."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from sg3.checkpoints.layouts.channels import cutoff_channels, power_of_two_channels
from sg3.checkpoints.layouts.flat import View
from sg3.checkpoints.layouts.rosinality import separable
from sg3.checkpoints.networks import skeleton
from sg3.checkpoints.official_tensors import BlockSizes
from sg3.checkpoints.pickle_machine import Refused
from sg3.networks.layer_schedule import plan_layers
from sg3.networks.sizes import ImageSize

LAYER3 = re.compile(r"synthesis\.(L(\d+)_(\d+)(?:x(\d+))?_(\d+))\.weight")
BLOCK2 = re.compile(r"synthesis\.b(\d+)\.conv1\.weight")
#: What the layers of a StyleGAN3 are planned with, if nothing else fits.
SCHEDULE = {"first_cutoff": 2, "first_stopband": 2**2.1, "last_stopband_rel": 2**0.3}
TOLERANCE = 1e-5  # of taps of filters


def infer_arguments(kind: str, tensors: Mapping[str, View], stated: Mapping) -> dict[str, Any]:
    """Return the constructor arguments of a generator with these tensors.

    Args:
        kind: "stylegan2" or "stylegan3".
        tensors: its state dict, as views.
        stated: arguments that the user stated, which are not inferred.

    Raises:
        Refused: no arguments fit; the message asks for those that the tensors do not tell.
    """
    try:
        inferred = _stylegan3(tensors, stated) if kind == "stylegan3" else _stylegan2(tensors)
        return {**_mapping(kind, tensors), **inferred}
    except (KeyError, IndexError) as error:
        raise Refused(f"lacks tensor {error} of a {kind} generator") from None


def _mapping(kind: str, tensors: Mapping[str, View]) -> dict[str, Any]:
    """Return sizes of the latents and arguments of the mapping network."""
    layers = 0
    while f"mapping.fc{layers}.weight" in tensors:
        layers += 1
    if layers == 0:
        raise Refused("holds no mapping network, so that it has no latents z")
    first, last = (tensors[f"mapping.fc{i}.weight"].size for i in (0, layers - 1))
    w_dim, mapping = last[0], {"num_layers": layers}
    embed, c_dim = 0, 0
    if "mapping.embed.weight" in tensors:
        embed, c_dim = tensors["mapping.embed.weight"].size
        if embed != w_dim:
            mapping["embed_features"] = embed
    if layers > 1 and first[0] != w_dim:
        mapping["layer_features"] = first[0]
    return {"z_dim": first[1] - embed, "c_dim": c_dim, "w_dim": w_dim, "mapping_kwargs": mapping}


# StyleGAN2 -------------------------------------------------------------------------------------


def own_names(tensors: Mapping[str, View]) -> dict[str, View]:
    """Return the tensors of a generator with the blocks of non-square forks named as ours."""
    constant = tensors.get("synthesis.b4.const")
    start = () if constant is None else constant.size[1:]
    if len(start) != 2 or max(start) in (0, 4):
        return dict(tensors)
    return BlockSizes(ImageSize(*start), 0).rename(tensors)


def _stylegan2(tensors: Mapping[str, View]) -> dict[str, Any]:
    sizes = {int(m[1]): tensors[m[0]].size for m in map(BLOCK2.fullmatch, tensors) if m}
    blocks = sorted(sizes)
    first, last = f"synthesis.b{blocks[0]}", f"synthesis.b{blocks[-1]}"
    if f"{last}.torgb.weight" not in tensors:
        raise Refused(f"lacks tensor {last}.torgb.weight; its image has no colours")
    if f"{last}.skip.weight" in tensors:
        architecture = "resnet"
    else:
        skip = len(blocks) == 1 or f"{first}.torgb.weight" in tensors
        architecture = "skip" if skip else "orig"
    start = ImageSize(*tensors[f"{first}.const"].size[1:])
    kwargs = {
        **BlockSizes(start, len(blocks) - 1).arguments({}),
        "img_channels": tensors[f"{last}.torgb.weight"].size[0],
        **power_of_two_channels({r: sizes[r][0] for r in blocks}),
    }
    if architecture != "skip":
        kwargs["architecture"] = architecture
    if f"{last}.conv1.noise_strength" not in tensors:
        kwargs["use_noise"] = False
    return kwargs | separable(tensors[f"{last}.resample_filter"].read())


# StyleGAN3 -------------------------------------------------------------------------------------


def _stylegan3(tensors: Mapping[str, View], stated: Mapping) -> dict[str, Any]:
    layers = sorted((int(m[2]), m) for m in map(LAYER3.fullmatch, tensors) if m)
    if len(layers) < 2 or [i for i, _ in layers] != list(range(len(layers))):
        raise Refused("lacks layers of a stylegan3 generator")
    names = [m[1] for _, m in layers]
    last = layers[-1][1]
    width, height = int(last[3]), int(last[4] or last[3])
    fixed = {
        "img_resolution": width if width == height else [height, width],
        "img_channels": int(last[5]),
        "num_layers": len(layers) - 1,
    } | {k: stated[k] for k in ("img_resolution", "img_channels", "num_layers") if k in stated}
    kernel = tensors[f"synthesis.{names[0]}.weight"].size[-1]
    w_dim = tensors[f"synthesis.{names[0]}.affine.weight"].size[1]
    filters = [view.size for name, view in tensors.items() if name.endswith("_filter")]
    radial = any(len(size) == 2 for size in filters)
    layer = {"conv_kernel": kernel, "use_radial_filters": radial}
    for name, value in layer.items():
        if stated.get(name, value) != value:
            raise Refused(f"`as_` says {name}={stated[name]}, but its layers have {value}")
    schedule = {k: stated.get(k, usual) for k, usual in SCHEDULE.items()}
    for guess in _guesses(fixed["num_layers"], names, filters, stated):
        plan = {k: guess[k] for k in ("num_critical", "margin_size")} | schedule
        channels = _channels(names, fixed, plan, stated)
        if channels is None:
            continue
        plans = plan_layers(**fixed, **channels, **plan, num_fp16_res=0)
        found = fixed | layer | channels | schedule | guess
        if [p.name for p in plans] == names and _fits(found, tensors, w_dim):
            return {k: v for k, v in found.items() if v != DEFAULTS.get(k)}
    missing = [k for k in (*SCHEDULE, "num_critical", "margin_size") if k not in stated]
    raise Refused(
        f"has layers {names[0]} to {names[-1]}, which no usual arguments give; add what it was "
        f"trained with to `as_`: {', '.join(f'{k}=…' for k in missing) or 'other values'}"
    )


#: Constructor arguments that need not be stated.
DEFAULTS = {
    "conv_kernel": 3,
    "use_radial_filters": False,
    "num_layers": 14,
    "num_critical": 2,
    "margin_size": 10,
    "filter_size": 6,
    "lrelu_upsampling": 2,
    **SCHEDULE,
}


def _guesses(
    num_layers: int, names: list[str], filters: list[tuple[int, ...]], stated: Mapping
) -> Iterator[dict[str, int]]:
    """Yield possible values of what names and filters tell only together, likely ones first."""
    size = min(int(names[0].split("_")[1].split("x")[0]), 4096)
    criticals = [stated["num_critical"]] if "num_critical" in stated else range(num_layers)
    # The first layer has a margin on both sides of a power of two.
    margins = [(size - 2**k) // 2 for k in range(2, 13) if 2**k <= size and (size - 2**k) % 2 == 0]
    margins = [stated["margin_size"]] if "margin_size" in stated else margins
    product = min((taps[0] for taps in filters), default=12)
    samplings = [
        (stated.get("filter_size", product // up), stated.get("lrelu_upsampling", up))
        for up in (2, 4, 1, 8)
        # Without oversampling, only the layers that resample have filters, by a factor of 2.
        if product % up == 0
    ] + [(stated.get("filter_size", product // 2), stated.get("lrelu_upsampling", 1))]
    for sampling, margin, critical in itertools.product(
        samplings,
        sorted(margins, key=lambda m: m != 10),
        sorted(criticals, key=lambda n: n != 2),
    ):
        yield {
            "num_critical": critical,
            "margin_size": margin,
            "filter_size": sampling[0],
            "lrelu_upsampling": sampling[1],
        }


def _channels(
    names: list[str], fixed: dict[str, Any], plan: dict[str, Any], stated: Mapping
) -> dict[str, Any] | None:
    """Return `channel_base` and `channel_max` for these names of layers; None if none fit."""
    plans = plan_layers(**fixed, **plan, channel_base=2**15, channel_max=512, num_fp16_res=0)
    channels = [int(name.split("_")[-1]) for name in names]
    found = cutoff_channels(channels[:-1], [p.target.cutoff for p in plans][:-1])
    given = {k: stated[k] for k in ("channel_base", "channel_max") if k in stated}
    return found if found is None else found | given


def _fits(kwargs: dict[str, Any], tensors: Mapping[str, View], w_dim: int) -> bool:
    """Whether a generator of these arguments has the filters of the file (REFERENCE.md §2.3)."""
    try:
        own = skeleton("stylegan3", {"z_dim": w_dim, "c_dim": 0, "w_dim": w_dim, **kwargs})
    except ValueError:
        return False  # a radial filter with an odd number of taps
    wanted = {name: f for name, f in own.state_dict().items() if name.endswith("_filter")}
    given = {name: view for name, view in tensors.items() if name.endswith("_filter")}
    return wanted.keys() == given.keys() and all(
        wanted[name].shape == given[name].size and _close(wanted[name], given[name].read())
        for name in wanted
    )


def _close(wanted: torch.Tensor, given: torch.Tensor) -> bool:
    # Files in half precision have rounded filters.
    return torch.allclose(wanted.to(given.dtype).float(), given.float(), rtol=0, atol=TOLERANCE)
