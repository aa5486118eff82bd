"""`upfirdn2d` on every CPU path: scipy, float64, numerical derivatives, bit equality."""

import itertools

import numpy as np
import pytest
import scipy.signal
import torch

import ops_cuda
from ops_cuda.planes import in_parallel, separable_terms
from ops_cuda.upfirdn2d import Resampling, numba_cpu, operator, reference

needs_numba = pytest.mark.skipif(bool(numba_cpu.missing()), reason="needs Numba")
PATHS = [reference, pytest.param(numba_cpu, marks=needs_numba)]
NAMES = ["composition", "numba"]
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels-last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "sliced": lambda x: torch.nn.functional.pad(x, [2, 1, 1, 3])[:, :, 1:-3, 2:-1],
}
FILTERS = {
    "none": None,
    "4 taps": torch.tensor([1.0, 3, 3, 1]) / 8,
    "5 taps": torch.tensor([1.0, -2, 5, 3, 1]) / 8,
    "12 taps": torch.linspace(-0.3, 0.9, 12).sin(),
    "43 taps": torch.linspace(-1, 1, 43).cos() / 20,
    "4x4 of rank 1": torch.tensor([1.0, 3, 3, 1]).outer(torch.tensor([1.0, 3, 3, 1])) / 64,
    "4x5 of rank 4": torch.tensor(
        [[3.0, 1, 4, 1, 5], [9, 2, 6, 5, 3], [5, 8, 9, 7, 9], [3, 2, 3, 8, 4]]
    ) / 90,
    "4x5 of rank 2": torch.arange(20.0).reshape(4, 5) / 190,
    "one row": torch.linspace(-0.2, 0.7, 12)[None],
    "one column": torch.linspace(-0.2, 0.7, 6)[:, None],
}  # fmt: skip


def error(got, expected) -> float:
    """Largest difference over the largest expected value; infinite for NaN or a wrong shape."""
    if got.shape != expected.shape:
        return float("inf")
    found = float((got.double() - expected).abs().max() / expected.abs().max())
    return found if found == found else float("inf")


def check(path, x, f, spec):
    """At most twice the error of the same composition in the same precision, plus a floor."""
    exact = reference.upfirdn2d_reference(x.double(), None if f is None else f.double(), spec)
    allowed = (
        2 * error(reference.upfirdn2d_reference(x, f, spec), exact) + 2 * torch.finfo(x.dtype).eps
    )
    assert error(path.run(x, f, spec), exact) <= allowed, spec


def oracle_upfirdn(x, f, up, down, padding, flip, gain):
    """One axis after the other in float64 through scipy's polyphase resampler."""
    left, right = padding
    taps = (f[::-1] if flip else f) * gain
    stuffed = np.zeros([*x.shape[:-1], x.shape[-1] * up])
    stuffed[..., ::up] = x
    if left < 0:
        stuffed = stuffed[..., -left:]
    if right < 0:
        stuffed = stuffed[..., :right]
    pads = [(0, 0)] * (x.ndim - 1) + [(max(left, 0), max(right, 0))]
    full = scipy.signal.upfirdn(taps, np.pad(stuffed, pads), axis=-1)
    valid = full[..., len(f) - 1 : full.shape[-1] - len(f) + 1]
    return valid[..., ::down]


@pytest.mark.slow
@pytest.mark.parametrize("up, down", list(itertools.product([1, 2, 3], [1, 2, 4])))
@pytest.mark.parametrize("flip", [False, True])
def test_upfirdn2d_equals_scipy(up, down, flip):
    random = np.random.RandomState(up * 10 + down)
    x, f = random.randn(2, 3, 9, 11), random.rand(5)
    expected = oracle_upfirdn(x, f, up, down, (4, -1), flip, 2**0.5)
    expected = oracle_upfirdn(expected.swapaxes(2, 3), f, up, down, (3, 5), flip, 2**0.5).swapaxes(
        2, 3
    )
    for kernel in (torch.tensor(f), torch.tensor(np.outer(f, f))):
        got = ops_cuda.upfirdn2d(
            torch.tensor(x), kernel, up=up, down=down, padding=[4, -1, 3, 5],
            flip_filter=flip, gain=2,
        )  # fmt: skip
        assert got.shape == expected.shape
        assert np.abs(got.numpy() - expected).max() < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("up, down", [(1, 2), (2, 1), (3, 2)])
def test_upfirdn2d_derivatives(up, down):
    torch.manual_seed(0)
    x = torch.randn([1, 2, 5, 6], dtype=torch.float64, requires_grad=True)
    f = torch.rand([3, 4], dtype=torch.float64)

    def function(x):
        return ops_cuda.upfirdn2d(x, f, up=up, down=down, padding=[2, 1, -1, 3], gain=1.5)

    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(function, x)


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=NAMES)
@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("up, down", list(itertools.product([1, 2, 3, 4], repeat=2)))
def test_as_exact_as_the_reference(path, name, up, down):
    """Odd and unequal sides, crops, both directions, three layouts, factors unequal by axis."""
    f, count = FILTERS[name], 0
    torch.manual_seed(up * 10 + down)
    paddings = [(1, 1, 1, 1), (6, 5, 6, 5), (-3, 7, 21, -2), (25, 26, 22, 21)]
    for padding, layout in itertools.product(paddings, LAYOUTS.values()):
        flip = padding[0] > 5
        x = layout(torch.randn(2, 3, 11, 17))
        for ups, downs in (((up, up), (down, down)), ((up, down), (1, up))):
            spec = Resampling(ups, downs, padding, flip, 1.7)
            try:
                spec.output_size(17, 11, f)
            except ValueError:
                continue
            count += 1
            check(path, x, f, spec)
    assert count >= 6


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 1, 70, 131), (2, 9, 40, 33), (130, 9, 6, 7), (1, 3, 1, 1)])
def test_wide_narrow_and_many_channels(path, layout, shape):
    torch.manual_seed(0)
    x = LAYOUTS[layout](torch.randn(shape))
    for f in (FILTERS["4x4 of rank 1"], FILTERS["12 taps"]):
        check(path, x, f, Resampling((1, 1), (2, 2), (7, 7, 7, 6), False, 1.0))
        check(path, x, f, Resampling((2, 2), (1, 1), (6, 5, 6, 5), True, 4.0))
        check(path, x, f, Resampling((1, 1), (1, 1), (6, 5, 6, 5), False, 1.0))


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
@pytest.mark.parametrize("shape", [(0, 3, 9, 11), (2, 0, 9, 11)])
def test_an_empty_batch(path, shape):
    spec = Resampling((2, 2), (1, 1), (2, 1, 2, 1), False, 4.0)
    assert path.run(torch.zeros(shape), FILTERS["4 taps"], spec).shape == (*shape[:2], 18, 22)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["4x4 of rank 1", "12 taps"])
def test_other_precisions(dtype, name):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 14, 15).to(dtype)
    check(reference, x, FILTERS[name], Resampling((2, 2), (1, 1), (6, 5, 6, 5), False, 4.0))
    assert ops_cuda.upfirdn2d(x, FILTERS[name], down=2, padding=6).dtype == dtype


@needs_numba
@pytest.mark.parametrize("up, down", [(1, 1), (2, 1), (1, 2), (4, 2), (2, 3)])
def test_every_output_is_written_and_spreads_nan_as_far_as_the_filter(monkeypatch, up, down):
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(float("nan")))
    torch.manual_seed(0)
    x, f = torch.randn(2, 3, 20, 24), FILTERS["12 taps"]
    spec = Resampling((up, up), (down, down), (9, 8, 9, -4), False, 1.0)
    assert not numba_cpu.run(x, f, spec).isnan().any()
    x[1, 2, 7, 11], x[0, 0, 3, 0] = float("nan"), float("inf")
    reached = (
        reference.upfirdn2d_reference((~x.isfinite()).double(), torch.ones(12).double(), spec) != 0
    )
    assert torch.equal(~numba_cpu.run(x, f, spec).isfinite(), reached)


@needs_numba
@pytest.mark.parametrize("name", ["4x4 of rank 1", "12 taps", "4x5 of rank 2"])
def test_threads_do_not_change_a_bit(monkeypatch, name):
    monkeypatch.setattr(numba_cpu, "ELEMENTS_PER_THREAD", 1000)
    torch.manual_seed(0)
    x, before = torch.randn(2, 3, 130, 140), torch.get_num_threads()
    spec, results = Resampling((2, 2), (1, 1), (6, 5, 6, 5), False, 4.0), []
    for threads in (1, 2, 3, 2):
        torch.set_num_threads(threads)
        results.append(numba_cpu.run(x, FILTERS[name], spec))
    torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("up, down", [(1, 1), (2, 1), (1, 2), (2, 3)])
def test_gradients_of_both_orders(layout, up, down):
    """The operator in float32 against autograd through the reference in float64."""
    torch.manual_seed(0)
    f, padding = FILTERS["12 taps"], [6, 5, 7, -2]
    x = LAYOUTS[layout](torch.randn(2, 3, 21, 34)).requires_grad_()
    exact_x = x.detach().double().requires_grad_()
    spec = Resampling((up, up), (down, down), tuple(padding), True, 1.5)
    y = ops_cuda.upfirdn2d(x, f, up, down, padding, flip_filter=True, gain=1.5)
    exact_y = reference.upfirdn2d_reference(exact_x, f.double(), spec)
    dy = torch.randn_like(y).requires_grad_()
    exact_dy = dy.detach().double().requires_grad_()
    (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
    (exact_dx,) = torch.autograd.grad(exact_y, exact_x, exact_dy, create_graph=True)
    weights = torch.randn_like(dx)
    (ddy,) = torch.autograd.grad(dx, dy, weights)
    (exact_ddy,) = torch.autograd.grad(exact_dx, exact_dy, weights.double())
    for got, expected in ((y, exact_y), (dx, exact_dx), (ddy, exact_ddy)):
        assert error(got.detach(), expected.detach()) < 2e-6


@pytest.mark.slow
@pytest.mark.parametrize("path", ["reference", pytest.param("cpu", marks=needs_numba)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(path, layout):
    x = LAYOUTS[layout](torch.randn(2, 3, 9, 11)).requires_grad_()
    for f in (FILTERS["4x4 of rank 1"], FILTERS["5 taps"], None):
        arguments = (x, f, [2, 1], [1, 2], [3, 4, 5, -1], False, 1.5, path)
        torch.library.opcheck(operator._upfirdn2d, arguments)


@pytest.mark.slow
@pytest.mark.parametrize("ops", ["auto", "reference"])
@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
def test_compiles_as_one_graph(monkeypatch, ops, layout):
    monkeypatch.setenv("SG3_OPS", ops)
    torch._dynamo.reset()
    x, f = LAYOUTS[layout](torch.randn(2, 3, 10, 12)).requires_grad_(), FILTERS["12 taps"]

    def function(x):
        return ops_cuda.downsample2d(ops_cuda.upsample2d(x, f) * 2, f)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    y, expected = compiled(x), function(x)
    assert torch.equal(y, expected) and y.stride() == expected.stride()
    weights = torch.randn_like(y)
    gradients = [torch.autograd.grad((out * weights).sum(), x)[0] for out in (y, expected)]
    assert torch.equal(*gradients)


@needs_numba
def test_sg3_ops_disables_the_fast_path(monkeypatch):
    used = []
    monkeypatch.setattr(numba_cpu, "run", lambda *a: (used.append(a), reference.run(*a))[1])
    monkeypatch.setattr(operator.OPERATOR, "_verdicts", {("cpu", "cpu"): ""})
    x = torch.randn(1, 3, 16, 16)
    for ops in ("reference", "triton", "auto", "cpu"):
        monkeypatch.setenv("SG3_OPS", ops)
        ops_cuda.upsample2d(x, FILTERS["4 taps"])
        assert len(used) == {"reference": 0, "triton": 0, "auto": 1, "cpu": 2}[ops]


@needs_numba
def test_a_wrong_path_is_noticed(monkeypatch):
    assert operator.check(numba_cpu, torch.device("cpu")) < 1e-6
    row = numba_cpu._plan_along_row
    monkeypatch.setattr(numba_cpu, "_plan_along_row", lambda *a: row(*a[:-2], a[-2] + 1, a[-1]))
    assert operator.check(numba_cpu, torch.device("cpu")) > 1e-2


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("gain", [1.0, -2.5])
def test_terms_add_up_to_the_filter(name, gain):
    f = FILTERS[name]
    x, y = separable_terms(f, True, gain)
    full = torch.ones(1, 1) if f is None else f.outer(f) if f.ndim == 1 else f
    assert error(torch.from_numpy(y.T @ x), full.double() * gain) < 1e-6
    assert len(x) == (int(name[-1]) if "rank" in name else 1)


def test_pieces_of_work_cover_everything_once_and_errors_surface(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for count, parts in itertools.product([0, 1, 2, 7, 100], [0, 1, 2, 50]):
        done = np.zeros(count, int)

        def kernel(first, last, step, done=done):
            done[first:last] += step

        in_parallel(kernel, count, (2,), parts)
        assert (done == 2).all()

    def failing(first, last):
        if first:
            raise RuntimeError("a thread failed")

    with pytest.raises(RuntimeError, match="a thread failed"):
        in_parallel(failing, 9, (), 3)


def test_helpers_keep_sizes_and_brightness():
    x, f = torch.ones(1, 3, 12, 16), ops_cuda.setup_filter([1, 3, 3, 1])
    for y, shape in (
        (ops_cuda.filter2d(x, f), (12, 16)),
        (ops_cuda.upsample2d(x, f), (24, 32)),
        (ops_cuda.downsample2d(x, f), (6, 8)),
        (ops_cuda.upsample2d(x, f, up=[2, 1]), (12, 32)),
    ):
        assert y.shape[2:] == shape
        assert torch.allclose(y[:, :, 3:-3, 3:-3], torch.tensor(1.0))
