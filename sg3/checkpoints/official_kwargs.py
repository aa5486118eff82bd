"""Kind and constructor arguments of networks in official pickles (REFERENCE.md §7.5)."""

from __future__ import annotations

from typing import Any

from sg3.checkpoints.inert import Record
from sg3.checkpoints.other_networks import name_architecture
from sg3.checkpoints.pickle_machine import Refused

#: Order of positional arguments of the official constructors.
GENERATOR_ORDER = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels", "mapping_kwargs")
DISCRIMINATOR_ORDER = ("c_dim", "img_resolution", "img_channels")

MAPPING = {
    "stylegan3": ("num_layers", "lr_multiplier", "w_avg_beta"),
    "stylegan2": (
        "num_layers",
        "embed_features",
        "layer_features",
        "activation",
        "lr_multiplier",
        "w_avg_beta",
    ),
}
GENERATOR = {
    "stylegan3": (
        "channel_base",
        "channel_max",
        "num_layers",
        "num_critical",
        "first_cutoff",
        "first_stopband",
        "last_stopband_rel",
        "margin_size",
        "output_scale",
        "num_fp16_res",
        "conv_kernel",
        "filter_size",
        "lrelu_upsampling",
        "use_radial_filters",
        "conv_clamp",
        "magnitude_ema_beta",
    ),
    "stylegan2": (
        "channel_base",
        "channel_max",
        "num_fp16_res",
        "architecture",
        "resample_filter",
        "conv_clamp",
        "use_noise",
        "activation",
    ),
}
DISCRIMINATOR = (
    "architecture",
    "channel_base",
    "channel_max",
    "num_fp16_res",
    "conv_clamp",
    "cmap_dim",
    "block_kwargs",
    "mapping_kwargs",
    "epilogue_kwargs",
)
DISCRIMINATOR_NESTED = {
    "block_kwargs": ("activation", "resample_filter", "freeze_layers"),
    "mapping_kwargs": MAPPING["stylegan2"],
    "epilogue_kwargs": ("mbstd_group_size", "mbstd_num_channels", "activation"),
}
AUGMENT = [
    "xflip",
    "rotate90",
    "xint",
    "scale",
    "rotate",
    "aniso",
    "xfrac",
    "brightness",
    "contrast",
    "lumaflip",
    "hue",
    "saturation",
    "imgfilter",
    "noise",
    "cutout",
    "xint_max",
    "scale_std",
    "rotate_max",
    "aniso_std",
    "xfrac_std",
    "brightness_std",
    "contrast_std",
    "hue_max",
    "saturation_std",
    "imgfilter_bands",
    "imgfilter_std",
    "noise_std",
    "cutout_size",
]

#: Defaults of the StyleGAN2-ADA release (PyTorch) that differ from ours.
ADA_ERA = {"num_fp16_res": 0, "conv_clamp": None}
ADA_ERA_W_AVG_BETA = 0.995


def recognize(part: str, record: Record) -> tuple[str, dict[str, Any]]:
    """Return kind and constructor arguments of a root record.

    Arguments that forks added are dropped: if they change the network, its tensors will not match.
    Raises Refused for an unknown architecture.
    """
    given = record.part("_init_kwargs")
    class_name = record.class_name.rpartition(".")[2]  # of whole modules: with its module
    if class_name == "AugmentPipe":
        return "augment", _keep(given, AUGMENT)
    if class_name == "Discriminator":
        return "discriminator", _discriminator(record, _with_positional(record, given))
    if class_name == "Generator":
        synthesis = record.children.get("synthesis")
        layers = synthesis.children if synthesis is not None else {}
        given = _with_positional(record, given)
        if "input" in layers:
            return "stylegan3", _generator("stylegan3", record, given)
        if "b4" in layers:
            return "stylegan2", _generator("stylegan2", record, given)
    raise Refused(name_architecture(part, record))


def _with_positional(record: Record, given: dict[str, Any]) -> dict[str, Any]:
    values = record.state.get("_init_args") or ()
    order = GENERATOR_ORDER if record.class_name == "Generator" else DISCRIMINATOR_ORDER
    if not isinstance(values, (tuple, list)) or len(values) > len(order):
        raise Refused(f"{record.class_name} has unknown positional arguments")
    return {**dict(zip(order, values, strict=False)), **given}


def _keep(given: dict[str, Any], names: tuple[str, ...] | list[str]) -> dict[str, Any]:
    return {name: given[name] for name in names if name in given}


def _nested(given: dict[str, Any], name: str) -> dict[str, Any]:
    value = given.get(name)
    if value is not None and not isinstance(value, dict):
        raise Refused(f"{name} is not a dictionary")
    return value or {}


def _generator(kind: str, record: Record, given: dict[str, Any]) -> dict[str, Any]:
    kwargs = _keep(given, GENERATOR_ORDER[:5])
    missing = [name for name in GENERATOR_ORDER[:5] if name not in kwargs]
    if missing:
        raise Refused(f"the generator lacks the arguments {', '.join(missing)}")
    mapping = _keep(_nested(given, "mapping_kwargs"), MAPPING[kind])
    synthesis = _keep({**given, **_nested(given, "synthesis_kwargs")}, GENERATOR[kind])
    if kind == "stylegan2" and _is_ada_era(record):
        synthesis = {**ADA_ERA, **synthesis}
        mapping = {"w_avg_beta": ADA_ERA_W_AVG_BETA, **mapping}
    if mapping:
        kwargs["mapping_kwargs"] = mapping
    return {**kwargs, **synthesis}


def _discriminator(record: Record, given: dict[str, Any]) -> dict[str, Any]:
    kwargs = _keep(given, DISCRIMINATOR_ORDER + DISCRIMINATOR)
    for name, known in DISCRIMINATOR_NESTED.items():
        nested = _keep(_nested(kwargs, name), known)
        kwargs.pop(name, None)
        if nested:
            kwargs[name] = nested
    return {**ADA_ERA, **kwargs} if _is_ada_era(record) else kwargs


def _is_ada_era(record: Record) -> bool:
    """Whether the record is from the StyleGAN2-ADA release.

    Its fully connected layers have no attribute `in_features`.
    """
    if "synthesis_kwargs" in record.part("_init_kwargs"):
        return True
    stack = [record]
    while stack:
        current = stack.pop()
        if current.class_name == "FullyConnectedLayer":
            return "in_features" not in current.state
        stack.extend(current.children.values())
    return False
