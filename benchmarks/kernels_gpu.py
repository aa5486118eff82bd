"""Speed of the Triton kernels on a GPU, relative to memory bandwidth.

    python -m benchmarks kernels_gpu

Not yet run: no GPU was available when it was written. In this order: bandwidth is measured by a
copy; each kind of layer is compared with the reference implementation in float64, and a failure
ends the benchmark; each layer of StyleGAN3 T and R at 256² and 1024² is timed (forward, with
states, gradient), and so are channels-last layouts and the other operators; a search over tile
sizes finds what `ops_cuda/filtered_lrelu/triton_tables.py` should prefer. Writes
out/bench/kernels_gpu.json.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import torch

from benchmarks._results import write_results
from ops_cuda.bias_act import triton_path as bias_act_path
from ops_cuda.filtered_lrelu import reference
from ops_cuda.filtered_lrelu import triton_path as path
from ops_cuda.filtered_lrelu.reference import Geometry
from ops_cuda.filtered_lrelu.triton_tables import tiles
from ops_cuda.upfirdn2d import triton_path as upfirdn2d_path
from ops_cuda.upfirdn2d.reference import Resampling
from recipes.arguments import argument_parser
from sg3.networks.layer_schedule import plan_layers
from sg3.networks.stylegan3 import SynthesisLayer

DEVICE = "cuda"
BATCH = 4
SCHEDULE = dict(
    img_channels=3, num_layers=14, num_critical=2, first_cutoff=2, first_stopband=2**2.1,
    last_stopband_rel=2**0.3, margin_size=10, num_fp16_res=4,
)  # fmt: skip
NETWORKS = {
    ("T", 256): dict(channel_base=16384, channel_max=512),
    ("T", 1024): dict(channel_base=32768, channel_max=512),
    ("R", 256): dict(channel_base=32768, channel_max=1024),
    ("R", 1024): dict(channel_base=65536, channel_max=1024),
}
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
PATIENCE_MS = dict(warmup=20, rep=100)
TILES_PER_SHAPE = 6


@dataclass(frozen=True, eq=False)
class Layer:
    """Arguments of filtered_lrelu in a layer."""

    name: str
    channels: int
    size: int
    dtype: torch.dtype
    fu: torch.Tensor | None
    fd: torch.Tensor | None
    geometry: Geometry

    def input(self, batch: int, channels: int | None = None) -> torch.Tensor:
        """Return a random input `[batch, channels, size, size]`."""
        shape = [batch, channels or self.channels, self.size, self.size]
        return torch.randn(shape, device=DEVICE).to(self.dtype)

    def kind(self) -> tuple:
        """Return a key that layers share which differ in their sizes only."""
        axes = [None if f is None else f.ndim for f in (self.fu, self.fd)]
        return (self.geometry.up, self.geometry.down, *axes, self.geometry.padding)


def layers(config: str, resolution: int) -> Iterator[Layer]:
    """Yield the layers of a network that use the fused operator."""
    plans = plan_layers(img_resolution=resolution, **SCHEDULE, **NETWORKS[config, resolution])
    radial, conv_kernel = config == "R", 1 if config == "R" else 3
    for plan in plans[:-1]:  # ToRGB uses bias_act
        narrow = replace(plan, source=replace(plan.source, channels=1))  # no memory for weights
        layer = SynthesisLayer(1, narrow, conv_kernel=conv_kernel, use_radial_filters=radial)
        fu, fd = (None if f is None else f.to(DEVICE) for f in (layer.up_filter, layer.down_filter))
        geometry = Geometry(
            layer.up_factor, layer.down_factor, tuple(layer.padding), 2**0.5, 0.2, 256.0, False
        )
        yield Layer(
            f"{config}-{resolution} {plan.name}", plan.target.channels,
            plan.source.size + conv_kernel - 1,
            torch.float16 if plan.use_fp16 else torch.float32, fu, fd, geometry,
        )  # fmt: skip


def milliseconds(run: Callable[[], object]) -> float:
    """Return the median time on the device, with a cold cache."""
    import triton

    return triton.testing.do_bench(run, return_mode="median", **PATIENCE_MS)


def copy_bandwidth() -> float:
    """Return bytes per millisecond of a large copy; bytes read and written both count."""
    source = torch.randn(2**28, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * source.nbytes / milliseconds(lambda: target.copy_(source))


def error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the relative error in the 2-norm; infinite if anything is NaN."""
    found = float((got.double() - expected).norm() / expected.norm())
    return found if found == found else float("inf")


def check(layer: Layer) -> dict[str, float]:
    """Return errors against float64, relative to the tolerance; raises SystemExit above 1."""
    x, b = layer.input(2, 3), torch.randn(3, device=DEVICE)
    fu, fd, geometry = layer.fu, layer.fd, layer.geometry
    wide = [None if t is None else t.double() for t in (x, fu, fd, b)]
    half = [None if t is None else t.to(x.dtype) for t in (x, fu, fd, b)]
    y, states = path.forward_with_states(x, fu, fd, b, geometry)
    dy, back = torch.randn_like(y), geometry.transposed(x.shape, fu, fd)
    slopes = path.unpacked(states)[..., : geometry.middle_size(x.shape[3], x.shape[2], fu)[0]]

    def carried(dy: torch.Tensor, fu: torch.Tensor, fd: torch.Tensor) -> torch.Tensor:
        return reference.linear(dy, fd, fu, slopes, back)

    triples = {
        "forward": (y, reference.forward(*half, geometry), reference.forward(*wide, geometry)),
        "gradient": (
            path.linear(dy, fd, fu, states, back),
            carried(dy, *half[1:3]),
            carried(dy.double(), *wide[1:3]),
        ),
    }
    found = {}
    for name, (own, composed, expected) in triples.items():
        allowed = 2 * error(composed, expected) + 2 * torch.finfo(x.dtype).eps
        found[name] = error(own, expected) / allowed
        if not found[name] <= 1:
            raise SystemExit(
                f"{layer.name}, {x.dtype}: {name} is wrong by {error(own, expected):.1e}"
            )
    if not torch.equal(path.forward(x, fu, fd, b, geometry), y):
        raise SystemExit(f"{layer.name}: forward differs with and without states")
    return found


def timed_parts(layer: Layer) -> dict[str, tuple[Callable[[], object], int]]:
    """Return for each part a function to time, and the minimum number of bytes it moves."""
    x, b = layer.input(BATCH), torch.randn(layer.channels, device=DEVICE)
    fu, fd, geometry = layer.fu, layer.fd, layer.geometry
    y, states = path.forward_with_states(x, fu, fd, b, geometry)
    dy, back = torch.randn_like(y), geometry.transposed(x.shape, fu, fd)
    moved = x.nbytes + y.nbytes
    last = x.contiguous(memory_format=torch.channels_last)

    def strided() -> torch.Tensor:
        before, path.MAX_STRIDED_CHANNELS = path.MAX_STRIDED_CHANNELS, layer.channels
        try:
            return path.forward(last, fu, fd, b, geometry)
        finally:
            path.MAX_STRIDED_CHANNELS = before

    return {
        "forward": (lambda: path.forward(x, fu, fd, b, geometry), moved),
        "with states": (
            lambda: path.forward_with_states(x, fu, fd, b, geometry), moved + states.nbytes,
        ),
        "gradient": (lambda: path.linear(dy, fd, fu, states, back), moved + states.nbytes),
        "channels-last": (lambda: path.forward(last, fu, fd, b, geometry), moved),
        "channels-last, strided": (strided, moved),
    }  # fmt: skip


def others() -> dict[str, tuple[Callable[[], object], int]]:
    """Return calls of upfirdn2d and bias_act as in a discriminator at 1024²."""
    x = torch.randn([BATCH, 64, 1024, 1024], device=DEVICE).half()
    last = x.contiguous(memory_format=torch.channels_last)
    b, f = torch.randn(64, device=DEVICE), torch.rand(4, 4, device=DEVICE) / 8
    down = Resampling((1, 1), (2, 2), (1, 1, 1, 1), False, 1.0)
    same = Resampling((1, 1), (1, 1), (2, 1, 2, 1), False, 1.0)
    lrelu = (1, "lrelu", 0.2, 2**0.5, 256.0)
    found = {}
    for name, t in {"contiguous": x, "channels-last": last}.items():
        found[f"upfirdn2d down 2, {name}"] = (
            lambda t=t: upfirdn2d_path.run(t, f, down), t.nbytes * 5 // 4,
        )  # fmt: skip
        found[f"upfirdn2d blur, {name}"] = (
            lambda t=t: upfirdn2d_path.run(t, f, same),
            t.nbytes * 2,
        )
        found[f"bias_act, {name}"] = (
            lambda t=t: bias_act_path.forward(t, b, *lrelu), t.nbytes * 2,
        )  # fmt: skip
        found[f"bias_act gradient, {name}"] = (
            lambda t=t: bias_act_path.gradient(t, t, None, *lrelu, 1), t.nbytes * 2,
        )  # fmt: skip
    return found


def measured(name: str, parts: dict, bandwidth: float) -> list[dict]:
    """Time all parts; one row each."""
    rows = []
    for part, (run, moved) in parts.items():
        ms = milliseconds(run)
        floor = moved / bandwidth
        rows.append(
            dict(what=name, part=part, ms=ms, bytes=moved, floor_ms=floor, ratio=ms / floor)
        )
        print(f"{name:28s} {part:24s} {ms:8.3f} {floor:9.3f} {ms / floor:6.2f}", flush=True)
    return rows


def search(layer: Layer) -> list[dict]:
    """Time other tiles and numbers of warps for all parts of a layer; the fastest come first."""
    x, b = layer.input(BATCH), torch.randn(layer.channels, device=DEVICE)
    y, states = path.forward_with_states(x, layer.fu, layer.fd, b, layer.geometry)
    back = layer.geometry.transposed(x.shape, layer.fu, layer.fd)
    kernel = path.triton_kernel
    calls = {
        "forward": (x, layer.fu, layer.fd, b, layer.geometry, kernel.APPLY, None),
        "with states": (x, layer.fu, layer.fd, b, layer.geometry, kernel.STORE, states),
        "gradient": (torch.randn_like(y), layer.fd, layer.fu, None, back, kernel.USE, states),
    }
    rows = []
    for part, (t, fu, fd, bias, geometry, mode, kept) in calls.items():
        shape = path.shape_of(t, fu, fd, geometry)
        candidates = {(c.sm, c.mid, c.out, c.in_x): c for c in reversed(tiles(shape))}
        for candidate in [*reversed(candidates.values())][:TILES_PER_SHAPE]:
            for num_warps in (1, 2, 4, 8):
                tile = replace(candidate, num_warps=num_warps)
                try:
                    ms = milliseconds(
                        lambda: path.run(t, fu, fd, bias, geometry, tile, mode, kept)  # noqa: B023
                    )
                except Exception as problem:  # too much shared memory
                    print(f"{layer.name} {part} {tile}: {type(problem).__name__}", flush=True)
                    continue
                rows.append(dict(what=layer.name, part=part, ms=ms, tile=asdict(tile)))
    rows.sort(key=lambda row: (row["part"], row["ms"]))
    for part in calls:
        best = next(row for row in rows if row["part"] == part)
        print(f"{layer.name:28s} {part:24s} {best['ms']:8.3f} best of the search: {best['tile']}")
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    argument_parser(__doc__).parse_args(arguments)
    missing = path.missing()
    if missing or not torch.cuda.is_available():
        print(f"kernels_gpu: nothing was measured; {missing or 'there is no CUDA device'}")
        return
    everything = [layer for network in NETWORKS for layer in layers(*network)]
    kinds = {layer.kind(): layer for layer in reversed(everything)}
    errors = [
        dict(what=layer.name, dtype=str(dtype), **check(replace(layer, dtype=dtype)))
        for layer in kinds.values()
        for dtype in DTYPES
    ]
    print(f"correct: {len(errors)} kinds of layers and dtypes, against float64")
    bandwidth = copy_bandwidth()
    print(f"copy: {bandwidth / 1e9:.2f} TB/s; batch {BATCH}")
    print("layer                        part                           ms  floor ms  ratio")
    rows = [
        row for layer in everything for row in measured(layer.name, timed_parts(layer), bandwidth)
    ]
    rows += measured("discriminator 1024", others(), bandwidth)
    found = [row for layer in kinds.values() for row in search(layer)]
    properties = torch.cuda.get_device_properties(0)
    report = dict(
        card=properties.name, torch=torch.__version__, bytes_per_ms=bandwidth, errors=errors,
        rows=rows, search=found,
    )  # fmt: skip
    print(write_results("kernels_gpu", report))


if __name__ == "__main__":
    main()
