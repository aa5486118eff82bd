"""Cost model: peak memory and seconds of a forward and backward pass, without computing it.

The pass runs on meta tensors, which have shapes but no data. A dispatch mode sees every operation:
it tracks the results until they are freed, and divides arithmetic and memory traffic by the
device's rates (the larger time counts: a roofline model).
"""

from __future__ import annotations

import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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
from sg3.training.cards import Card

META = torch.device("meta")
RADIAL_TERMS = 3  # separable filters whose sum is a radial one
OURS = torch.ops.ops_cuda
NO_TRAFFIC = {
    op for packet in (
        torch.ops.aten.empty, torch.ops.aten.new_empty, torch.ops.aten.empty_like,
        torch.ops.aten.empty_strided, torch.ops.aten.new_empty_strided,
    ) for op in (getattr(packet, name) for name in packet.overloads())
}  # fmt: skip
#: Our operators → their reference implementations, for devices without a fast path.
REFERENCES = {
    OURS.filtered_lrelu.default: filtered_lrelu._forward._init_fn,
    OURS.filtered_lrelu_linear.default: filtered_lrelu._linear._init_fn,
    OURS.upfirdn2d.default: upfirdn2d._upfirdn2d._init_fn,
}


#: FIR filters relative to convolutions on a GPU whose rates are measured: assumed.
FIR_EFFICIENCY = 0.7
LAUNCH_SECONDS = 15e-6  # of Python and the driver per operation, in parallel to the GPU
CPU_FIR_EFFICIENCY = 0.2  # relative to convolutions (docs/PERFORMANCE.md)
CPU_LAUNCH_SECONDS = 10e-6
#: Training steps relative to a single convolution or copy: with it, estimates were 0.9 to 1.3
#: times the seconds of four measured runs.
CPU_EFFICIENCY = 0.65
MIN_CALLS, MEASURE_SECONDS = 5, 0.5


@dataclass(frozen=True)
class Rates:
    """Rates that a device achieves.

    Attributes:
        half: FLOP/s of fp16 convolutions.
        single: FLOP/s of fp32 convolutions.
        fir_half, fir_single: FLOP/s of FIR filters on fp16 and fp32 tensors.
        bandwidth: bytes/s.
        launch: seconds of overhead per operation.
        overlaps: whether the overhead runs in parallel to the device.
    """

    half: float
    single: float
    fir_half: float
    fir_single: float
    bandwidth: float
    launch: float
    overlaps: bool

    @classmethod
    def of_card(cls, card: Card) -> Rates:
        """Return the published rates times `card.efficiency`."""
        reached = card.efficiency
        return cls(
            card.half * 1e12 * reached.half,
            card.single * 1e12 * reached.single,
            card.single * 1e12 * reached.fir_half,
            card.single * 1e12 * reached.fir_single,
            card.bandwidth * 1e9 * reached.bandwidth,
            LAUNCH_SECONDS,
            overlaps=True,
        )

    @classmethod
    def measured(cls, device: torch.device) -> Rates:
        """Measure convolutions and a copy on `device`, which takes a second or two."""
        on_gpu = device.type == "cuda"
        single = _convolution_rate(device, torch.float32)
        half = _convolution_rate(device, torch.float16) if on_gpu else single
        source = torch.zeros([64 << 20 if on_gpu else 16 << 20], device=device)
        target = torch.zeros_like(source)
        bandwidth = 2 * source.nbytes / _seconds(lambda: target.copy_(source), device)
        if on_gpu:
            fir = single * FIR_EFFICIENCY
            return cls(half, single, fir, fir, bandwidth, LAUNCH_SECONDS, overlaps=True)
        single, bandwidth = single * CPU_EFFICIENCY, bandwidth * CPU_EFFICIENCY
        fir = single * CPU_FIR_EFFICIENCY
        return cls(single, single, fir, fir, bandwidth, CPU_LAUNCH_SECONDS, overlaps=False)

    def total(self, device_seconds: float, operations: int) -> float:
        """Return the seconds of all operations together."""
        launches = operations * self.launch
        return max(device_seconds, launches) if self.overlaps else device_seconds + launches


def _convolution_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of a 3×3 convolution."""
    batch, channels, size = (16, 256, 128) if device.type == "cuda" else (4, 64, 64)
    x = torch.randn([batch, channels, size, size], device=device, dtype=dtype)
    w = torch.randn([channels, channels, 3, 3], device=device, dtype=dtype)
    seconds = _seconds(lambda: torch.conv2d(x, w, padding=1), device)
    return 2 * w.numel() * batch * size**2 / seconds


def _seconds(function: Callable[[], object], device: torch.device) -> float:
    """Return the mean time of a call over half a second, after one warm-up call.

    On a CPU this is process time, which other programs do not influence.
    """
    on_gpu = device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    function()
    calls, started = 0, clock()
    ends = time.perf_counter() + MEASURE_SECONDS
    while calls < MIN_CALLS or time.perf_counter() < ends:
        function()
        calls += 1
        if on_gpu:
            torch.cuda.synchronize(device)
    seconds = (clock() - started) / calls
    # Process time adds up all threads.
    return seconds if on_gpu else seconds / torch.get_num_threads()


class _FakeDevice(TorchFunctionMode):
    """Makes meta tensors report `device`, so that networks take the same branches as there.

    Code that reads the data of a meta tensor reads `number` instead.
    """

    def __init__(self, device: torch.device, number: float):
        super().__init__()
        self.device, self.number = device, number

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func == torch.Tensor.device.__get__:  # a new object at every access
            return self.device
        if func is torch.Tensor.tolist and args[0].is_meta:
            return [self.number] * args[0].numel()
        kwargs = dict(kwargs or {})
        # Tensors stay without data, whatever device the networks ask for.
        if kwargs.get("device") is not None:
            kwargs["device"] = META
        args = tuple(META if isinstance(value, torch.device) else value for value in args)
        return func(*args, **kwargs)


class _Ledger(TorchDispatchMode):
    """Counts live bytes, their peak, operations, and device seconds of everything dispatched."""

    def __init__(self, rates: Rates):
        super().__init__()
        self.rates = rates
        self.live = self.peak = self.operations = 0
        self.device_seconds = 0.0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # A mode is off in its own handler: on again, it sees the steps of the reference.
        if func in REFERENCES and args[-1] == "reference":
            with self:
                return REFERENCES[func](*args, **kwargs)
        out = func(*args, **kwargs)
        inputs = _tensors((args, kwargs))
        outputs = _tensors(out)
        self._track(inputs, outputs)
        if not func.is_view and func not in NO_TRAFFIC:
            self.operations += 1
            self.device_seconds += self._seconds(func, args, kwargs, out, [*inputs, *outputs])
        return out

    def _track(self, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
        old = {t.untyped_storage()._cdata for t in inputs}
        for tensor in outputs:
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            # Views and results in place allocate nothing.
            if key in old or key in self._known:
                continue
            self._known.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._forget, key, size).atexit = False

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size

    def _seconds(
        self, func: Any, args: tuple, kwargs: dict, out: Any, tensors: list[torch.Tensor]
    ) -> float:
        rates, flops = self.rates, 0.0
        is_half = any(t.dtype.itemsize == 2 for t in tensors)
        rate = rates.half if is_half else rates.single
        if func in FIR_FLOPS:
            flops = FIR_FLOPS[func](args, out)
            rate = rates.fir_half if is_half else rates.fir_single
        elif func._overloadpacket in flop_registry:
            flops = flop_registry[func._overloadpacket](*args, **kwargs, out_val=out)
        # An expanded tensor is larger than what is read of it.
        moved = sum(min(t.nbytes, t.untyped_storage().nbytes()) for t in tensors)
        return max(flops / rate, moved / rates.bandwidth)


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_iter(tree) if isinstance(leaf, torch.Tensor)]


def _lrelu_flops(x: Any, fu: Any, fd: Any, up: int, geometry: Geometry, y: Any) -> float:
    """FLOPs (2 per multiply-add) of polyphase filters: up along x then y, down along y then x."""
    in_h, out_w, out_h = x.shape[2], y.shape[3], y.shape[2]
    middle_w, middle_h = geometry.middle_size(x.shape[3], in_h, fu)
    taps_x, taps_y = filter_size(fu)
    macs = _terms(fu) * middle_w * (in_h * taps_x + middle_h * taps_y) / up
    taps_x, taps_y = filter_size(fd)
    macs += _terms(fd) * out_h * (middle_w * taps_y + out_w * taps_x)
    return 2 * x.shape[0] * x.shape[1] * macs


def _terms(f: torch.Tensor | None) -> int:
    """Return the number of separable filters whose sum is `f`; 0 for a single tap."""
    if f is None or max(filter_size(f)) == 1:
        return 0
    return RADIAL_TERMS if f.ndim == 2 else 1


def _forward_flops(args: tuple, out: Any) -> float:
    x, _b, _scale, fu, fd, up, down, padding, gain, slope, clamp, flip = args[:12]
    geometry = Geometry(up, down, tuple(padding), gain, slope, clamp, flip)
    return _lrelu_flops(x, fu, fd, up, geometry, out[0])


def _linear_flops(args: tuple, out: Any) -> float:
    x, fu, fd, _states, up, down, padding, gain, slope, flip = args[:10]
    geometry = Geometry(up, down, tuple(padding), gain, slope, None, flip)
    return _lrelu_flops(x, fu, fd, up, geometry, out)


def _upfirdn2d_flops(args: tuple, out: Any) -> float:
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
    """Make every operator take the path in `names` instead of one for meta tensors."""
    original = choose.Operator.path
    fixed = lambda operator, device_type, dtype: names[operator.name]  # noqa: E731
    setattr(choose.Operator, "path", fixed)  # noqa: B010 - mypy refuses to assign methods
    try:
        yield
    finally:
        setattr(choose.Operator, "path", original)  # noqa: B010


def paths_of(device: torch.device, has_triton: bool = True) -> dict[str, str]:
    """Return the path that each operator would take on `device`, by name."""
    if device.type == "cuda":
        return {op.name: "triton" if has_triton else "reference" for op in choose.OPERATORS}
    return {op.name: op.path(device.type, torch.float32) for op in choose.OPERATORS}


@dataclass(frozen=True)
class Cost:
    """Peak of allocated bytes, and seconds."""

    peak: int
    seconds: float


def cost_of(
    run: Callable[[], None],
    device: torch.device,
    rates: Rates,
    paths: dict[str, str],
    number: float = 0,
) -> Cost:
    """Return what `run()`, which works on meta tensors, would cost on `device`.

    Args:
        run: the computation.
        device: where it would run.
        rates: of that device.
        paths: operator paths on that device (`paths_of`).
        number: value that the computation reads wherever it reads data.
    """
    ledger = _Ledger(rates)
    with warnings.catch_warnings(), _operator_paths(paths), _FakeDevice(device, number), ledger:
        warnings.filterwarnings("ignore", "grad and param do not obey")  # strides of meta tensors
        run()
    return Cost(ledger.peak, rates.total(ledger.device_seconds, ledger.operations))
