"""The class `Networks`, and safe construction of networks from untrusted files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from sg3.checkpoints.small import check_small
from sg3.errors import UserError, brief
from sg3.files import aligned
from sg3.networks.build import KINDS, build_network

PARTS = ("G_ema", "G", "D", "augment_pipe")


@dataclass
class Networks:
    """The networks of one file. Missing ones are None.

    Attributes:
        G_ema: generator with averaged weights, the one to generate images with.
        G: generator as trained.
        D: discriminator.
        augment_pipe: augmentation with its current probability.
        meta: JSON-serializable provenance: name, licence, source, sha256, format,
            training_set_kwargs.
    """

    # Modules or None. `Any`, since the attributes of a module have no static type, and since
    # `sg3.load` always returns a G_ema.
    G_ema: Any = None
    G: Any = None
    D: Any = None
    augment_pipe: Any = None
    meta: dict[str, Any] = field(default_factory=dict)

    def parts(self) -> dict[str, nn.Module]:
        """Return the networks that are not None by name, G_ema first."""
        found = {name: getattr(self, name) for name in PARTS}
        return {name: network for name, network in found.items() if network is not None}

    def to(self, device: str | torch.device) -> Networks:
        """Move all networks to `device`. Returns self."""
        for name, network in self.parts().items():
            setattr(self, name, network.to(device))
        return self


#: Upper bounds of constructor arguments in files: far above any real network, and far below values
#: that would take noticeable time or memory before the tensors are compared.
LIMITS = {
    "img_resolution": 2**14,
    "img_channels": 64,
    "num_layers": 64,
    "filter_size": 32,
    "lrelu_upsampling": 16,
    "conv_kernel": 9,
    "margin_size": 1024,
    "num_fp16_res": 64,
    "channel_max": 2**16,
    "w_dim": 2**16,
    "cmap_dim": 2**16,
    "embed_features": 2**16,
    "layer_features": 2**16,
}
MAX_NUMBER = 2**24


def check_kwargs(kwargs: Mapping[str, Any], prefix: str = "") -> None:
    """Raise ValueError for constructor arguments out of the range of real networks."""
    check_small(kwargs, "arguments")
    for name, value in kwargs.items():
        shown = prefix + brief(name)
        if isinstance(value, Mapping):
            check_kwargs(value, f"{shown}.")
            continue
        values = value if isinstance(value, (list, tuple)) else [value]
        if len(values) > 64:
            raise UserError(f"argument {shown} has {len(values)} entries, expected at most 64")
        for number in values:
            if number is None or isinstance(number, (bool, str)):
                continue
            limit = LIMITS.get(name, MAX_NUMBER)
            # Not math.isfinite, which cannot take large integers.
            if not isinstance(number, (int, float)) or not abs(number) <= limit:
                got = brief(number, 40)
                raise UserError(f"argument {shown} is {got}, expected at most {limit}")


class _WithoutMemory(TorchFunctionMode):
    """Within the block, tensors of constants and random numbers are created on the meta device.

    `torch.device("meta")` would also affect the small filters, which constructors compute.
    """

    FACTORIES = (torch.empty, torch.full, torch.ones, torch.zeros)
    RANDOM = (torch.rand, torch.randn)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in self.RANDOM:  # on the meta device, these import torch._dynamo, for 2 seconds
            func = torch.empty
        if func in self.FACTORIES:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


def skeleton(kind: str, kwargs: dict[str, Any]) -> nn.Module:
    """Build a network whose parameters take no memory; its filters are those of the arguments.

    Raises ValueError for invalid arguments.
    """
    check_kwargs(kwargs)
    try:
        with _WithoutMemory():
            return build_network(kind, kwargs)
    except (ValueError, TypeError, ArithmeticError, LookupError, RuntimeError) as error:
        raise UserError(f"invalid arguments: {brief(str(error), 300)}") from None


def assemble(
    part: str, kind: str, kwargs: dict[str, Any], tensors: Mapping[str, torch.Tensor]
) -> nn.Module:
    """Build a network with the given tensors, in eval mode and without gradients.

    The network is first built without memory and its shapes are compared. So a file cannot reserve
    more memory than its own tensors take, and the random generators are not advanced.

    Args:
        part: name of the network, for messages.
        kind: a kind of `build_network`.
        kwargs: its constructor arguments.
        tensors: its state dict.

    Raises:
        ValueError: unknown kind, invalid arguments, or tensors that do not match.
    """
    if kind not in KINDS:
        raise UserError(f"{part}: got kind {brief(kind, 40)!r}, expected {', '.join(KINDS)}")
    try:
        network = skeleton(kind, kwargs)
    except UserError as error:
        raise UserError(f"{part}: {error}") from None
    expected = network.state_dict()
    _compare_names(part, expected, tensors)
    fitted = {name: _fit(f"{part}.{name}", expected[name], tensors[name]) for name in expected}
    # assign, because the tensors of `network` are on the meta device and cannot be copied to.
    network.load_state_dict(fitted, assign=True)
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        assert not tensor.is_meta, f"{part}.{name} is not in the state dict"
    return network.eval().requires_grad_(False)


def _compare_names(part: str, expected: Mapping, given: Mapping) -> None:
    missing, unknown = sorted(expected.keys() - given), sorted(given.keys() - expected)
    if missing or unknown:
        facts = [f"lacks {_first(missing)}"] if missing else []
        facts += [f"has unknown {_first(unknown)}"] if unknown else []
        raise UserError(
            f"{part}: the file {' and '.join(facts)}; expected the tensors of its arguments"
        )


def _first(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"tensor {names[0][:80]!r}{more}"


def _fit(name: str, expected: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    if expected.shape != given.shape:
        raise UserError(
            f"{name}: shape {list(given.shape)} in the file, expected {list(expected.shape)}"
        )
    if expected.is_floating_point() != given.is_floating_point():
        raise UserError(f"{name}: type {given.dtype} in the file, expected {expected.dtype}")
    return aligned(given.to(expected.dtype))
