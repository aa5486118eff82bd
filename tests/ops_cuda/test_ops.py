"""Operators against independent oracles, by numerical differentiation, and path against path."""

import itertools

import pytest
import torch

import ops_cuda
from ops_cuda.filtered_lrelu import numba_cpu, numba_plan, reference
from ops_cuda.filtered_lrelu.reference import Geometry
from sg3.networks.filters import design_lowpass_filter

CPU_PATH = pytest.mark.skipif(bool(numba_cpu.missing()), reason="needs Numba")


@pytest.mark.parametrize("act", sorted(ops_cuda.bias_act.__globals__["ACTIVATIONS"]))
def test_bias_act_derivatives(act):
    torch.manual_seed(0)
    x = torch.randn([3, 2, 4], dtype=torch.float64, requires_grad=True)
    b = torch.randn([2], dtype=torch.float64, requires_grad=True)

    def function(x, b):
        return ops_cuda.bias_act(x, b, act=act, gain=1.3, clamp=0.9)

    assert torch.autograd.gradcheck(function, (x, b))
    assert torch.autograd.gradgradcheck(function, (x, b))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 2, 7, 6), (0, 2, 7, 6)])
def test_filtered_lrelu_derivatives(shape):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    b = torch.randn([2], dtype=torch.float64, requires_grad=True)
    fu, fd = torch.rand([4], dtype=torch.float64), torch.rand([3, 3], dtype=torch.float64)

    def function(x, b):
        return ops_cuda.filtered_lrelu(
            x, fu, fd, b, up=2, down=2, padding=[3, 2, 4, 1], gain=1.4, clamp=3.0
        )

    if shape[0] == 0:
        assert function(x, b).shape[0] == 0
        return
    assert torch.autograd.gradcheck(function, (x, b))
    assert torch.autograd.gradgradcheck(function, (x, b))


@pytest.mark.slow
def test_scale_is_a_product_before_the_bias():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 7, 6, dtype=torch.float64, requires_grad=True)
    b, scale = (torch.randn(*n).double().requires_grad_(True) for n in ([3], [2, 3]))
    f = torch.rand([4], dtype=torch.float64)
    options = dict(up=2, down=2, padding=[3, 2, 4, 1], clamp=3.0)

    def function(x, b, scale):
        return ops_cuda.filtered_lrelu(x, f, f, b, scale=scale, **options)

    expected = ops_cuda.filtered_lrelu(x * scale[:, :, None, None], f, f, b, **options)
    assert torch.allclose(function(x, b, scale), expected, rtol=1e-12)
    assert torch.autograd.gradcheck(function, (x, b, scale))
    assert torch.autograd.gradgradcheck(function, (x, b, scale))


@CPU_PATH
def test_scale_on_the_fused_path():
    torch.manual_seed(0)
    x, b, f = torch.randn(2, 5, 19, 23), torch.randn(5), torch.rand(12) / 6
    scale, results = torch.rand(2, 5), []
    for dtype in (torch.float32, torch.float64):
        inputs = [t.to(dtype).requires_grad_(True) for t in (x, b, scale)]
        y = ops_cuda.filtered_lrelu(
            inputs[0], f.to(dtype), f.to(dtype), inputs[1], up=2, down=2, padding=9,
            scale=inputs[2],
        )  # fmt: skip
        results.append([y, *torch.autograd.grad(y.sin().sum(), inputs)])
    for got, expected in zip(*results, strict=True):
        assert relative_error(got, expected) < 5e-6


def relative_error(got, expected):
    return float((got - expected).abs().max() / expected.abs().max().clamp(min=1e-9))


def cases():
    for up, down in itertools.product([1, 2, 3, 4], repeat=2):
        for padding in [(9, 8, 9, 8), (5, 7, 8, 3), (-3, 20, 11, -2)]:
            for taps in [(6 * up, 6 * down), (5, 7), None]:
                yield up, down, padding, taps


@pytest.mark.slow
@CPU_PATH
@pytest.mark.parametrize("flip", [False, True])
def test_fused_cpu_path_equals_the_reference(flip):
    """Forward, forward keeping states, backward and its own backward: all shapes in one go.

    Small whole numbers keep the upsampled signal exact, so that no sign depends on rounding.
    """
    torch.manual_seed(0)

    def filter_of(taps):
        return torch.randint(-4, 5, [taps]) / 8

    count = 0
    for up, down, padding, taps in cases():
        fu, fd = (None, None) if taps is None else map(filter_of, taps)
        geometry = Geometry(up, down, padding, 2.0, 0.25, 13.0, flip)
        x, b = torch.randint(-8, 9, [3, 11, 17, 21]).float(), torch.randint(-3, 4, [11]).float()
        try:
            geometry.output_size(21, 17, fu, fd)
        except ValueError:
            continue
        count += 1
        y, states = reference.forward_with_states(x, fu, fd, b, geometry)
        fused, fused_states = numba_cpu.forward_with_states(x, fu, fd, b, geometry)
        assert relative_error(fused, y) < 5e-6
        assert torch.equal(numba_cpu.forward(x, fu, fd, b, geometry), fused)
        dy = torch.randn_like(y)
        back = geometry.transposed(x.shape, fu, fd)
        dx = reference.linear(dy, fd, fu, states, back)
        fused_dx = numba_cpu.linear(dy, fd, fu, fused_states, back)
        assert relative_error(fused_dx, dx) < 5e-6
        forth = back.transposed(dy.shape, fd, fu)
        ddy = reference.linear(x, fu, fd, states, forth)
        assert relative_error(numba_cpu.linear(x, fu, fd, fused_states, forth), ddy) < 5e-6
    assert count > 120


@CPU_PATH
@pytest.mark.parametrize("up, down, rank", [(1, 1, 3), (2, 2, 3), (4, 2, 3), (2, 1, 9)])
def test_fused_cpu_path_takes_filters_with_two_axes(up, down, rank):
    """Rank 3 or more, not square, for downsampling and (in the gradient) for upsampling."""
    torch.manual_seed(0)
    fu = torch.randint(-4, 5, [6 * up]) / 8
    fd = sum(torch.rand(11).outer(torch.rand(12)) for _ in range(rank))
    x, b = torch.randint(-8, 9, [2, 5, 19, 23]).float(), torch.randint(-3, 4, [5]).float()
    geometry = Geometry(up, down, (9, 8, 11, 7), 2.0, 0.25, 13.0, False)
    y, states = reference.forward_with_states(x, fu, fd, b, geometry)
    fused, fused_states = numba_cpu.forward_with_states(x, fu, fd, b, geometry)
    assert relative_error(fused, y) < 5e-6
    dy, back = torch.randn_like(y), geometry.transposed(x.shape, fu, fd)
    dx = reference.linear(dy, fd, fu, states, back)
    assert relative_error(numba_cpu.linear(dy, fd, fu, fused_states, back), dx) < 5e-6


@CPU_PATH
def test_radial_filters_need_three_terms():
    f = design_lowpass_filter(12, cutoff=8, width=6, fs=64, radial=True)
    assert f.ndim == 2
    x, y = numba_plan._terms(f, flip_filter=True)
    assert len(x) == 3
    assert relative_error(torch.from_numpy(y.T @ x), f) < 4e-6


@CPU_PATH
@pytest.mark.parametrize("up, down", [(2, 2), (4, 2), (2, 4)])
def test_nan_stays_in_its_own_plane(up, down):
    """Planes share rows; NaN spreads as in the reference and never to another plane."""
    torch.manual_seed(0)
    x, fu, fd = torch.randn(1, 9, 20, 22), torch.rand(6 * up), torch.rand(6 * down)
    geometry = Geometry(up, down, (9, 8, 9, 8), 2.0, 0.2, 3.0, False)
    clean = numba_cpu.forward(x, fu, fd, None, geometry)
    x[0, 4, 10, 11] = float("nan")
    y = numba_cpu.forward(x, fu, fd, None, geometry)
    assert torch.equal(y.isnan(), reference.forward(x, fu, fd, None, geometry).isnan())
    others = [i for i in range(9) if i != 4]
    assert torch.equal(y[0, others], clean[0, others])


@CPU_PATH
def test_fused_cpu_path_is_deterministic_over_threads():
    torch.manual_seed(0)
    x, f = torch.randn(2, 20, 28, 28), torch.rand(12)
    geometry = Geometry(2, 2, (9, 8, 9, 8), 2**0.5, 0.2, 256.0, False)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(numba_cpu.forward(x, f, f, None, geometry))
    torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("up, down", [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("flip_weight", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_conv2d_resample_equals_separate_steps(up, down, kernel, flip_weight, groups):
    torch.manual_seed(0)
    x = torch.randn(2, 4, 8, 10, dtype=torch.float64)
    w = torch.randn(6, 4 // groups, kernel, kernel, dtype=torch.float64)
    f = ops_cuda.setup_filter([1, 3, 3, 1]).double()
    pads = [kernel // 2] * 4
    if up > 1:
        pads = [pads[0] + 2, pads[1] + 1, pads[2] + 2, pads[3] + 1]
    if down > 1:
        pads = [p + 1 for p in pads]
    expected = ops_cuda.upfirdn2d(x, f if up > 1 else None, up=up, padding=pads, gain=up**2)
    weights = w if flip_weight else w.flip([2, 3])
    expected = torch.conv2d(expected, weights, groups=groups)
    if down > 1:
        expected = ops_cuda.upfirdn2d(expected, f, down=down)
    got = ops_cuda.conv2d_resample(
        x, w, f, up=up, down=down, padding=kernel // 2, groups=groups, flip_weight=flip_weight
    )
    assert got.shape == expected.shape
    assert (got - expected).abs().max() < 1e-12


def test_modulated_conv_equals_per_sample_weights():
    torch.manual_seed(0)
    x, w = torch.randn(3, 4, 6, 6).double(), torch.randn(5, 4, 3, 3).double()
    s, gain = torch.randn(3, 4).double(), torch.rand(4).double()
    w_normal = w / w.square().mean([1, 2, 3], keepdim=True).sqrt()
    s_normal = s / s.square().mean().sqrt()
    expected = []
    for i in range(3):
        weights = w_normal * s_normal[i][None, :, None, None]
        weights = weights / (weights.square().sum([1, 2, 3], keepdim=True) + 1e-8).sqrt()
        weights = weights * gain[None, :, None, None]
        expected.append(torch.conv2d(x[i : i + 1], weights, padding=2))
    got = ops_cuda.modulated_conv2d(x, w, s, padding=2, input_gain=gain)
    assert (got - torch.cat(expected)).abs().max() < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("dtype, error", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_one_sample_and_frozen_weights_give_the_same_gradients(kernel, dtype, error):
    torch.manual_seed(0)
    w = torch.randn(5, 4, kernel, kernel, dtype=dtype)
    x = torch.randn(1, 4, 9, 9, dtype=dtype, requires_grad=True)
    s = torch.randn(1, 4, dtype=dtype, requires_grad=True)

    def conv(x, s):
        return ops_cuda.modulated_conv2d(x, w, s, padding=kernel // 2)

    fast = conv(x, s)
    dy = torch.randn_like(fast)
    trained = ops_cuda.modulated_conv2d(x, w.clone().requires_grad_(), s, padding=kernel // 2)
    assert (fast - trained).abs().max() < error * trained.abs().max()
    grads = (torch.autograd.grad(y, (x, s), dy, retain_graph=True) for y in (fast, trained))
    for a, b in zip(*grads, strict=True):
        assert (a - b).abs().max() < 10 * error * b.abs().max()
    if dtype == torch.float32:
        twice = torch.autograd.grad(fast, x, dy, create_graph=True)[0].square().sum()
        assert torch.autograd.grad(twice, s)[0].isfinite().all()
        return
    assert torch.autograd.gradcheck(conv, (x, s)) and torch.autograd.gradgradcheck(conv, (x, s))


@pytest.mark.parametrize(
    "call, name",
    [
        (lambda x: ops_cuda.upfirdn2d(x, torch.ones(20)), "x"),
        (lambda x: ops_cuda.upfirdn2d(x[0], None), "x"),
        (lambda x: ops_cuda.upfirdn2d(x, None, up=0), "up"),
        (lambda x: ops_cuda.upfirdn2d(x, None, padding=[1, 2, 3]), "padding"),
        (lambda x: ops_cuda.bias_act(x, act="lreul"), "act"),
        (lambda x: ops_cuda.bias_act(x, torch.zeros(3)), "b"),
        (lambda x: ops_cuda.filtered_lrelu(x, torch.ones(40), up=2), "x"),
        (lambda x: ops_cuda.filtered_lrelu(x, scale=torch.ones(2)), "scale"),
        (lambda x: ops_cuda.modulated_conv2d(x, torch.ones(1, 3, 1, 1), torch.ones(1, 2)), "x, w"),
        (lambda x: ops_cuda.setup_filter(torch.ones(2, 2, 2)), "f"),
    ],
)
def test_wrong_arguments_name_themselves(call, name):
    with pytest.raises(ValueError, match=f"^{name}: got|^{name}"):
        call(torch.ones(1, 2, 8, 8))
