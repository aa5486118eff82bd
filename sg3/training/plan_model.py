"""What a pass costs, without computing it: bytes that live at once, and seconds on a device.

The pass runs on meta tensors, which have shapes and no numbers. Every operation it makes is seen
on its way: its results are followed until they are freed, and its arithmetic and traffic are
divided by the device's rates (the larger of the two counts: a roofline).
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

import ops_cuda  # noqa: F401  (its import defines the operators below)
from ops_cuda import choose
from ops_cuda.filtered_lrelu import operator as filtered_lrelu
from ops_cuda.filtered_lrelu.reference import Geometry
from ops_cuda.fir import filter_size
from ops_cuda.upfirdn2d import operator as upfirdn2d
from sg3.training.plan_rates import Rates

META = torch.device("meta")
RADIAL_TERMS = 3  # separable filters that make up a radial one (DESIGN 7)
OURS = torch.ops.ops_cuda
NO_TRAFFIC = {
    op for packet in (
        torch.ops.aten.empty, torch.ops.aten.new_empty, torch.ops.aten.empty_like,
        torch.ops.aten.empty_strided, torch.ops.aten.new_empty_strided,
    ) for op in (getattr(packet, name) for name in packet.overloads())
}  # fmt: skip
#: Where no fast path is, these are what their definitions do one step after another.
DEFINITIONS = {
    OURS.filtered_lrelu.default: filtered_lrelu._forward._init_fn,
    OURS.filtered_lrelu_linear.default: filtered_lrelu._linear._init_fn,
    OURS.upfirdn2d.default: upfirdn2d._upfirdn2d._init_fn,
}


class _Pretend(TorchFunctionMode):
    """Meta tensors say that they are on `device`, so that networks choose as they would there.

    A program that reads their numbers reads `number`.
    """

    def __init__(self, device: torch.device, number: float):
        super().__init__()
        self.device, self.number = device, number

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func == torch.Tensor.device.__get__:  # a new object at every access
            return self.device
        if func is torch.Tensor.tolist and args[0].is_meta:
            return [self.number] * args[0].numel()
        kwargs = dict(kwargs or {})
        if kwargs.get("device") is not None:
            kwargs["device"] = META
        args = tuple(META if isinstance(value, torch.device) else value for value in args)
        return func(*args, **kwargs)


class _Ledger(TorchDispatchMode):
    """Follows the results of all operations: bytes alive and their peak, device seconds."""

    def __init__(self, rates: Rates):
        super().__init__()
        self.rates = rates
        self.live = self.peak = self.operations = 0
        self.device_seconds = 0.0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in DEFINITIONS and args[-1] == "reference":
            with self:
                return DEFINITIONS[func](*args, **kwargs)
        out = func(*args, **kwargs)
        inputs = _tensors((args, kwargs))
        outputs = _tensors(out)
        self._follow(inputs, outputs)
        if not func.is_view and func not in NO_TRAFFIC:
            self.operations += 1
            self.device_seconds += self._seconds(func, args, kwargs, out, [*inputs, *outputs])
        return out

    def _follow(self, inputs, outputs) -> None:
        old = {t.untyped_storage()._cdata for t in inputs}
        for tensor in outputs:
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key in old or key in self._known:
                continue
            self._known.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._forget, key, size).atexit = False

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size

    def _seconds(self, func, args, kwargs, out, tensors) -> float:
        rates, flops = self.rates, 0
        rate = rates.half if any(t.dtype.itemsize == 2 for t in tensors) else rates.single
        if func in FIR_FLOPS:
            flops, rate = FIR_FLOPS[func](args, out), rates.fir
        elif func._overloadpacket in flop_registry:
            flops = flop_registry[func._overloadpacket](*args, **kwargs, out_val=out)
        # Of an expanded tensor only what is there is read.
        moved = sum(min(t.nbytes, t.untyped_storage().nbytes()) for t in tensors)
        return max(flops / rate, moved / rates.bandwidth)


def _tensors(tree) -> list[torch.Tensor]:
    return [leaf for leaf in tree_iter(tree) if isinstance(leaf, torch.Tensor)]


def _lrelu_flops(x, fu, fd, up, geometry: Geometry, y) -> float:
    """Two per multiply-add: polyphase, along x then y on the way up, y then x down."""
    in_h, out_w, out_h = x.shape[2], y.shape[3], y.shape[2]
    middle_w, middle_h = geometry.middle_size(x.shape[3], in_h, fu)
    taps_x, taps_y = filter_size(fu)
    macs = _terms(fu) * middle_w * (in_h * taps_x + middle_h * taps_y) / up
    taps_x, taps_y = filter_size(fd)
    macs += _terms(fd) * out_h * (middle_w * taps_y + out_w * taps_x)
    return 2 * x.shape[0] * x.shape[1] * macs


def _terms(f: torch.Tensor | None) -> int:
    """Separable filters whose sum is `f`; none for a single tap."""
    if max(filter_size(f)) == 1:
        return 0
    return RADIAL_TERMS if f.ndim == 2 else 1


def _forward_flops(args, out) -> float:
    x, _b, _scale, fu, fd, up, down, padding, gain, slope, clamp, flip = args[:12]
    geometry = Geometry(up, down, tuple(padding), gain, slope, clamp, flip)
    return _lrelu_flops(x, fu, fd, up, geometry, out[0])


def _linear_flops(args, out) -> float:
    x, fu, fd, _states, up, down, padding, gain, slope, flip = args[:10]
    geometry = Geometry(up, down, tuple(padding), gain, slope, None, flip)
    return _lrelu_flops(x, fu, fd, up, geometry, out)


def _upfirdn2d_flops(args, out) -> float:
    f, up = args[1], args[2]
    if f is None:
        return 0
    taps = filter_size(f)
    per_pixel = taps[0] * taps[1] / (up[0] * up[1]) if f.ndim == 2 else sum(taps) / min(up)
    return 2 * out.numel() * per_pixel


FIR_FLOPS = {
    OURS.filtered_lrelu.default: _forward_flops,
    OURS.filtered_lrelu_linear.default: _linear_flops,
    OURS.upfirdn2d.default: _upfirdn2d_flops,
}


@contextmanager
def _operator_paths(names: dict[str, str]) -> Iterator[None]:
    """Let every operator take the path that it has on the device in question."""
    original = choose.Operator.path
    choose.Operator.path = lambda operator, device_type, dtype: names[operator.name]
    try:
        yield
    finally:
        choose.Operator.path = original


def paths_of(device: torch.device, has_triton: bool = True) -> dict[str, str]:
    """Operator → the path that would compute it on `device`."""
    if device.type == "cuda":
        return {op.name: "triton" if has_triton else "reference" for op in choose.OPERATORS}
    return {op.name: op.path(device.type, torch.float32) for op in choose.OPERATORS}


@dataclass(frozen=True)
class Cost:
    """Peak of the bytes that `run` allocated, and its seconds."""

    peak: int
    seconds: float


def cost_of(
    run: Callable[[], None],
    device: torch.device,
    rates: Rates,
    paths: dict[str, str],
    number: float = 0,
) -> Cost:
    """What `run()`, on meta tensors, would cost on `device`; it reads `number` from a vector."""
    ledger = _Ledger(rates)
    with warnings.catch_warnings(), _operator_paths(paths), _Pretend(device, number), ledger:
        warnings.filterwarnings("ignore", "grad and param do not obey")  # strides say nothing here
        run()
    return Cost(ledger.peak, rates.total(ledger.device_seconds, ledger.operations))
