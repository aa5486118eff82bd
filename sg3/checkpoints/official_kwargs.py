"""Kind and constructor arguments of networks in official pickles (REFERENCE.md §7.5)."""

from __future__ import annotations

from typing import Any

from sg3.checkpoints.inert import Record
from sg3.checkpoints.other_networks import name_architecture, name_other
from sg3.checkpoints.pickle_machine import Refused, Unsupported
from sg3.checkpoints.small import check_small

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
SG2_W_AVG_BETA = 0.998  # our default
#: Arguments that layers keep as attributes, with our defaults.
LAYER = {"conv_clamp": 256, "activation": "lrelu", "use_noise": True}


def recognize(part: str, record: Record) -> tuple[str, dict[str, Any]]:
    """Return kind and constructor arguments of a root record.

    Arguments that forks added are dropped: if they change the network, its tensors will not match.
    Raises Refused for an unknown architecture, and for arguments that change the picture but not
    the tensors.
    """
    given = record.part("_init_kwargs")
    class_name = record.class_name.rpartition(".")[2]  # of whole modules: with its module
    if class_name == "AugmentPipe":
        return "augment", _keep(given, AUGMENT)
    if class_name == "Discriminator" and "b4" in record.children:
        return "discriminator", _discriminator(record, _with_positional(record, given))
    if class_name == "Generator" and not name_other(record):
        synthesis = record.children.get("synthesis")
        layers = synthesis.children if synthesis is not None else {}
        given = _with_positional(record, given)
        if "input" in layers:
            return "stylegan3", _generator("stylegan3", record, given)
        if "b4" in layers:
            return "stylegan2", _generator("stylegan2", record, given)
    raise Unsupported(name_architecture(part, record))


def _with_positional(record: Record, given: dict[str, Any]) -> dict[str, Any]:
    values = record.state.get("_init_args") or ()
    is_generator = record.class_name.endswith("Generator")
    order = GENERATOR_ORDER if is_generator else DISCRIMINATOR_ORDER
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
    flat = {**given, **_nested(given, "synthesis_kwargs")}
    _refuse_resizing(flat, kwargs["img_resolution"])
    if kind == "stylegan3" and (flat.get("square") is False or flat.get("init_res")):
        raise Unsupported("a StyleGAN3 fork for other than square images, which is not supported")
    mapping = _keep(_nested(given, "mapping_kwargs"), MAPPING[kind])
    synthesis = _keep(flat, GENERATOR[kind])
    if kind == "stylegan2":
        blocks = record.children["synthesis"].children
        synthesis = {**_of_layers(record, blocks, "conv1", synthesis), **synthesis}
        mapping = {**_of_mapping(record), **mapping}
    if mapping:
        kwargs["mapping_kwargs"] = mapping
    return {**kwargs, **synthesis}


def _refuse_resizing(given: dict[str, Any], img_resolution: Any) -> None:
    size = given.get("resize")
    check_small((size, img_resolution), "resize")
    if size not in (None, img_resolution):
        raise Unsupported(
            f"the generator resizes its images of {img_resolution} pixels (argument "
            f"resize={str(size)[:40]}, as DragGAN writes it), which is not supported; save it with "
            "resize=None"
        )


def _of_mapping(record: Record) -> dict[str, Any]:
    """Return the decay of w_avg where it is not our default; the network itself knows it best."""
    mapping = record.children.get("mapping")
    state = mapping.state if mapping is not None else {}
    if "w_avg_beta" in state:
        beta = state["w_avg_beta"]
        return {} if beta == SG2_W_AVG_BETA else {"w_avg_beta": beta}
    return {"w_avg_beta": ADA_ERA_W_AVG_BETA} if _is_ada_era(record) else {}


def _of_layers(
    record: Record, blocks: dict[str, Record], layer: str, given: dict[str, Any]
) -> dict[str, Any]:
    """Return the arguments that `given` lacks, where they are not our defaults.

    Defaults changed between the releases, and forks mix them, so the attributes of the layers come
    first; only records without them are judged by the release.
    """
    found = dict(ADA_ERA) if _is_ada_era(record) else {}
    first = next(iter(blocks.values())).children.get(layer)
    state = first.state if first is not None else {}
    for name, default in LAYER.items():
        if name in state and name not in given:
            found.pop(name, None)
            if state[name] != default:
                found[name] = state[name]
    half = [block.state["use_fp16"] for block in blocks.values() if "use_fp16" in block.state]
    if half and "num_fp16_res" not in given:
        found["num_fp16_res"] = sum(map(bool, half))
    return found


def _discriminator(record: Record, given: dict[str, Any]) -> dict[str, Any]:
    kwargs = _keep(given, DISCRIMINATOR_ORDER + DISCRIMINATOR)
    blocks = {name: child for name, child in record.children.items() if "conv0" in child.children}
    found = _of_layers(record, blocks, "conv0", kwargs) if blocks else {}
    for name, known in DISCRIMINATOR_NESTED.items():
        nested = _keep(_nested(kwargs, name), known)
        kwargs.pop(name, None)
        if nested:
            kwargs[name] = nested
    return {**{name: found[name] for name in ADA_ERA if name in found}, **kwargs}


def _is_ada_era(record: Record) -> bool:
    """Whether the record is from the StyleGAN2-ADA release.

    Its fully connected layers have no attribute `in_features`. Nested `synthesis_kwargs` only tell
    if there are no such layers: forks of the newer code have them too.
    """
    stack = [record]
    while stack:
        current = stack.pop()
        if current.class_name.endswith("FullyConnectedLayer"):
            return "in_features" not in current.state
        stack.extend(current.children.values())
    return "synthesis_kwargs" in record.part("_init_kwargs")
