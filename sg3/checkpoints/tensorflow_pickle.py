"""StyleGAN2 of the TensorFlow releases: a pickled tuple of networks (REFERENCE.md §7.6)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from sg3.checkpoints.inert import ArrayStub
from sg3.checkpoints.networks import skeleton
from sg3.checkpoints.pickle_machine import Builder, Refused, Stub, TooLarge, Unsupported

MODULES = ("dnnlib.tflib.network.Network", "tfutil.Network")
#: Variables that do not change the picture: those of progressive growing, which has ended.
UNUSED = re.compile(r"lod|.*_lod[1-9]\d*/\w+")
MAX_VARIABLES = 10_000
#: Our argument → theirs, and their default.
SYNTHESIS = {
    "img_channels": ("num_channels", 3),
    "channel_max": ("fmap_max", 512),
    "num_fp16_res": ("num_fp16_res", 0),
    "conv_clamp": ("conv_clamp", None),
    "resample_filter": ("resample_kernel", [1, 3, 3, 1]),
    "activation": ("nonlinearity", "lrelu"),
}
MAPPING = {
    "embed_features": ("label_fmaps", None),
    "layer_features": ("mapping_fmaps", None),
    "activation": ("mapping_nonlinearity", "lrelu"),
    "lr_multiplier": ("mapping_lrmul", 0.01),
    "w_avg_beta": ("w_avg_beta", 0.995),
}


def is_tensorflow(content: Any) -> bool:
    """Whether the content of a pickle is one or more TensorFlow networks."""
    found = content if isinstance(content, (tuple, list)) else [content]
    return any(isinstance(network, Stub) and network.name in MODULES for network in found)


def tensorflow_parts(content: Any) -> dict[str, Stub]:
    """Return the networks of a pickle by part: the tuple is (G, D, G_ema).

    Raises Unsupported for other tuples.
    """
    if isinstance(content, Stub):
        return {"G_ema": content}
    if len(content) != 3 or not isinstance(content[2], Stub):
        raise Unsupported(f"{len(content)} TensorFlow networks, expected three: G, D and Gs")
    parts = {"G_ema": content[2], "G": content[0], "D": content[1]}
    return {part: network for part, network in parts.items() if isinstance(network, Stub)}


def convert(
    part: str, network: Stub, budget: int
) -> tuple[str, dict[str, Any], dict[str, torch.Tensor]]:
    """Return kind, constructor arguments and tensors of a network.

    Raises Unsupported for other networks than StyleGAN2, Refused for damaged ones, and TooLarge
    if the tensors take more than `budget` bytes.
    """
    if network.name == MODULES[1]:
        raise Unsupported("a Progressive GAN network (TensorFlow), which is not supported")
    variables, given = _collect(network)
    if sum(array.nbytes for array in variables.values()) > budget:
        raise TooLarge("tensors take far more memory than the file")
    if any("StyleMod" in name or "/AdaIN" in name for name in variables) or _version(network) < 4:
        raise Unsupported("a StyleGAN1 network (TensorFlow), which is not supported")
    if any("LabelConcat" in name for name in variables):
        raise Unsupported(
            "a conditional TensorFlow StyleGAN2 that concatenates labels and latents "
            "(LabelConcat), which is not supported"
        )
    if given.get("normalize_latents", True) is not True:
        raise Unsupported("a network without normalize_latents, which is not supported")
    used: set[str] = set()
    is_generator = part != "D"
    kind, kwargs = (
        _generator(variables, given)
        if is_generator
        else _discriminator(variables, given, str(network.state.get("build_func_name")))
    )
    change_of = _of_generator if is_generator else _of_discriminator
    tensors = {}
    for name, own in skeleton(kind, kwargs).state_dict().items():
        if not name.endswith("resample_filter"):
            source, change = change_of(name)
            source = _existing(source, variables, kwargs["img_resolution"])
            used.add(source)
            try:
                own = torch.from_numpy(np.array(change(variables[source]), order="C"))
            except (ValueError, IndexError, TypeError):
                raise Refused(f"the variable {source[:80]!r} has an unknown shape") from None
        tensors[name] = own
    unknown = [name for name in variables.keys() - used if not UNUSED.fullmatch(name)]
    if unknown:
        raise Unsupported(f"{part} has the unknown variable {min(unknown)[:80]!r}")
    return kind, kwargs, tensors


def _version(network: Stub) -> int:
    version = network.state.get("version")
    return version if type(version) is int else 0


def _collect(network: Stub, depth: int = 0) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return variables by name, with the component as prefix, and arguments."""
    state = network.state
    if not isinstance(state, dict) or not isinstance(state.get("variables"), list) or depth > 2:
        raise Refused("a TensorFlow network has an unknown form")
    found: dict[str, np.ndarray] = {}
    given: dict[str, Any] = {}
    for component, inner in _dictionary(state, "components").items():
        if not isinstance(inner, Stub):
            raise Refused("a component of a TensorFlow network has an unknown form")
        variables, arguments = _collect(inner, depth + 1)
        found |= {f"{component}/{name}": value for name, value in variables.items()}
        given |= arguments
        _check_count(len(found), len(given))
    _check_count(len(state["variables"]))
    for item in state["variables"]:
        name, value = item if isinstance(item, tuple) and len(item) == 2 else (None, None)
        array = value.array if isinstance(value, ArrayStub) else None
        if isinstance(value, (int, float)):
            array = np.asarray(value, np.float32)
        if not isinstance(name, str) or array is None or array.dtype.kind != "f":
            raise Refused("a variable of a TensorFlow network has an unknown form")
        found[name] = array
    return found, {**given, **_dictionary(state, "static_kwargs")}


def _check_count(*counts: int) -> None:
    # Of a component that is shared, the variables would multiply.
    if max(counts) > MAX_VARIABLES:
        raise Refused(f"a TensorFlow network has more than {MAX_VARIABLES} variables")


def _dictionary(state: dict[str, Any], name: str) -> dict[str, Any]:
    value = state.get(name) or {}
    if not isinstance(value, dict) or any(isinstance(item, Builder) for item in value.values()):
        raise Refused(f"{name} of a TensorFlow network have an unknown form")
    arrays = {k: v.array for k, v in value.items() if isinstance(v, ArrayStub)}
    return {**value, **{k: v.tolist() for k, v in arrays.items() if v is not None and v.size < 64}}


def _arguments(names: Mapping[str, tuple[str, Any]], given: dict[str, Any]) -> dict[str, Any]:
    found = {own: given.get(theirs, default) for own, (theirs, default) in names.items()}
    return {own: value for own, value in found.items() if value is not None or own == "conv_clamp"}


def _generator(
    variables: Mapping[str, np.ndarray], given: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    layers = [name for name in variables if re.fullmatch(r"mapping/Dense\d+/weight", name)]
    mapping = {"num_layers": len(layers), **_arguments(MAPPING, given)}
    if "dlatent_avg_beta" in given:
        mapping["w_avg_beta"] = given["dlatent_avg_beta"]
    return "stylegan2", {
        "z_dim": given.get("latent_size", 512),
        "c_dim": given.get("label_size", 0),
        "w_dim": given.get("dlatent_size", 512),
        "img_resolution": given.get("resolution", 1024),
        "channel_base": given.get("fmap_base", 16384) * 2,
        "architecture": _architecture(variables, "synthesis/4x4/ToRGB/weight"),
        "use_noise": "synthesis/noise0" in variables,
        "mapping_kwargs": mapping,
        **_arguments(SYNTHESIS, given),
    }


def _discriminator(
    variables: Mapping[str, np.ndarray], given: dict[str, Any], function: str
) -> tuple[str, dict[str, Any]]:
    options = _arguments(SYNTHESIS, given)
    common = {"activation": options.pop("activation")}
    # The default of the first release was 4, that of StyleGAN2-ADA None (REFERENCE.md §7.6).
    group = given.get("mbstd_group_size", 4 if "stylegan" in function else None)
    features = given.get("mapping_fmaps") if given.get("label_size") else None
    mapping = {"num_layers": given.get("mapping_layers", 0), "embed_features": features}
    mapping |= {"layer_features": features, "lr_multiplier": given.get("mapping_lrmul", 0.1)}
    return "discriminator", {
        "c_dim": given.get("label_size", 0),
        "img_resolution": given.get("resolution", 1024),
        "channel_base": given.get("fmap_base", 16384) * 2,
        "architecture": _architecture(variables, "4x4/FromRGB/weight"),
        "cmap_dim": features,
        "block_kwargs": {**common, "resample_filter": options.pop("resample_filter")},
        "mapping_kwargs": mapping,
        "epilogue_kwargs": {
            **common,
            "mbstd_group_size": group,
            "mbstd_num_channels": given.get("mbstd_num_features", 1),
        },
        **options,
    }


def _architecture(variables: Mapping[str, np.ndarray], skip: str) -> str:
    if any(name.endswith("/Skip/weight") for name in variables):
        return "resnet"
    return "skip" if skip in variables else "orig"


def _existing(name: str, variables: Mapping[str, np.ndarray], resolution: int) -> str:
    """Return `name`, or the name of the same layer in a network that grew while it trained."""
    grown = name
    if found := re.fullmatch(r"(.*?)(\d+)x\2/(ToRGB|FromRGB)/(\w+)", name):
        lod = int(math.log2(resolution / int(found[2])))
        grown = f"{found[1]}{found[3]}_lod{lod}/{found[4]}"
    for candidate in (name, grown):
        if candidate in variables:
            return candidate
    raise Refused(f"lacks the variable {name[:80]!r}")


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _kernel(x: np.ndarray) -> np.ndarray:
    """Height, width, in, out → out, in, height, width."""
    return x.transpose(3, 2, 0, 1)


def _reversed(x: np.ndarray) -> np.ndarray:
    return _kernel(x[::-1, ::-1])


LAYER = {
    "weight": ("weight", _kernel),
    "bias": ("bias", _same),
    "noise_strength": ("noise_strength", _same),
    "affine.weight": ("mod_weight", np.transpose),
    "affine.bias": ("mod_bias", lambda x: x + 1),
}
DENSE = {"weight": ("weight", np.transpose), "bias": ("bias", _same)}


def _of_generator(name: str) -> tuple[str, Any]:
    """Return the TensorFlow name of a tensor, and the change from their layout to ours."""
    if name == "mapping.w_avg":
        return "dlatent_avg", _same
    if name == "synthesis.b4.const":
        return "synthesis/4x4/Const/const", lambda x: x[0]
    network, first, rest = name.split(".", 2)
    if network == "mapping":
        tensor, change = DENSE[rest]
        layer = "LabelEmbed" if first == "embed" else first.replace("fc", "Dense")
        return f"mapping/{layer}/{tensor}", change
    r, (layer, rest) = int(first[1:]), rest.split(".", 1)
    if rest == "noise_const":
        index = 2 * r.bit_length() - (7 if layer == "conv0" else 6)
        return f"synthesis/noise{index}", lambda x: x[0, 0]
    tensor, change = LAYER[rest]
    names = {"conv0": "Conv0_up", "conv1": "Conv1" if r > 4 else "Conv"}
    names |= {"torgb": "ToRGB", "skip": "Skip"}
    # Their upsampling convolutions are transposed ones, with kernels the other way round.
    change = _reversed if layer in ("conv0", "skip") and rest == "weight" else change
    return f"synthesis/{r}x{r}/{names[layer]}/{tensor}", change


def _of_discriminator(name: str) -> tuple[str, Any]:
    """As `_of_generator`."""
    first, layer, rest = name.split(".")
    if first == "mapping":
        own = "LabelEmbed" if layer == "embed" else layer.replace("fc", "Mapping")
        return f"{own}/{rest}", DENSE[rest][1]
    r = int(first[1:])
    if layer in ("fc", "out"):
        return f"{'4x4/Dense0' if layer == 'fc' else 'Output'}/{rest}", DENSE[rest][1]
    names = {"fromrgb": "FromRGB", "conv0": "Conv0", "conv1": "Conv1_down", "conv": "Conv"}
    return f"{r}x{r}/{(names | {'skip': 'Skip'})[layer]}/{rest}", LAYER[rest][1]
