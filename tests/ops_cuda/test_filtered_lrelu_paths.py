"""The error of a fast path is at most twice that of the reference in the same precision."""

import pytest
import torch

from ops_cuda.filtered_lrelu import composed, numba_cpu, numba_plan, reference
from ops_cuda.filtered_lrelu.reference import Geometry
from sg3.networks import build_network
from sg3.networks.filters import design_lowpass_filter

PATHS = {"composed": composed} | ({} if numba_cpu.missing() else {"cpu": numba_cpu})
FLOOR = 2e-7


def relative_error(got, expected):
    return float((got.double() - expected).abs().max() / expected.abs().max())


def lowpass(taps, radial=False):
    return design_lowpass_filter(taps, cutoff=8, width=6, fs=64, radial=radial)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("radial", [False, True])
@pytest.mark.parametrize("up", [1, 2, 4])
@pytest.mark.parametrize("down", [1, 2, 4])
def test_error_is_at_most_twice_that_of_the_reference(path, radial, up, down):
    """Values and gradients; no clamp, since at its edge rounding decides."""
    torch.manual_seed(0)
    x, b = torch.randn(2, 3, 13, 18), torch.randn(3)
    fu, fd = lowpass(6 * up), lowpass(6 * down, radial)
    geometry = Geometry(up, down, (9, 8, 11, 7), 2**0.5, 0.2, None, False)
    wide = [t.double() for t in (x, fu, fd, b)]
    expected = reference.forward(*wide, geometry)
    plain = relative_error(reference.forward(x, fu, fd, b, geometry), expected)
    fast, states = PATHS[path].forward_with_states(x, fu, fd, b, geometry)
    assert relative_error(fast, expected) <= 2 * plain + FLOOR
    alone = PATHS[path].forward(x, fu, fd, b, geometry)
    assert relative_error(alone, expected) <= 2 * plain + FLOOR

    dy, back = torch.randn_like(fast), geometry.transposed(x.shape, fu, fd)
    _, slopes = reference.forward_with_states(x, fu, fd, b, geometry)
    expected = reference.linear(dy.double(), wide[2], wide[1], slopes, back)
    plain = relative_error(reference.linear(dy, fd, fu, slopes, back), expected)
    fast = PATHS[path].linear(dy, fd, fu, states, back)
    # A sign that flips by rounding changes single gradients: rare, so compare the mean.
    wrong = (fast.double() - expected).abs() > (2 * plain + FLOOR) * expected.abs().max()
    assert wrong.float().mean() < 0.01


@pytest.mark.parametrize("path", PATHS)
def test_every_number_of_the_result_is_written(path, monkeypatch):
    """Memory filled with NaN shows what a path does not write; empty batches stay empty."""
    empty = torch.empty

    def poisoned(*size, **options):
        t = empty(*size, **options)
        return t.fill_(float("nan")) if t.is_floating_point() else t.fill_(255)

    x, f = torch.randn(2, 5, 11, 15), lowpass(12)
    geometry = Geometry(2, 2, (7, -3, 9, 12), 2**0.5, 0.2, 256.0, False)
    monkeypatch.setattr(torch, "empty", poisoned)
    y, states = PATHS[path].forward_with_states(x, f, f, None, geometry)
    dx = PATHS[path].linear(y, f, f, states, geometry.transposed(x.shape, f, f))
    assert y.isfinite().all() and dx.isfinite().all()
    assert PATHS[path].forward(x[:0], f, f, None, geometry).shape == (0, *y.shape[1:])


@pytest.mark.parametrize("path", PATHS)
def test_layouts_and_repetition_give_the_same_bits(path):
    x, f = torch.randn(2, 6, 20, 14), lowpass(12)
    geometry = Geometry(2, 2, (9, 8, 9, 8), 2**0.5, 0.2, 256.0, False)
    y = PATHS[path].forward(x, f, f, None, geometry)
    layouts = (x, x.to(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().mT)
    for same in layouts:
        assert torch.equal(PATHS[path].forward(same, f, f, None, geometry), y)


def several_terms(count, symmetric):
    """`[12, 12]`, a sum of separable filters."""
    random = torch.Generator().manual_seed(0)
    f = torch.zeros(12, 12)
    for strength in (1, 0.1, 0.01, 0.002, 0.001)[:count]:
        y, x = torch.rand(2, 12, generator=random)
        if symmetric:
            y, x = y + y.flip(0), x + x.flip(0)
        f += strength * torch.outer(y, x)
    return f / f.sum()


@pytest.mark.skipif("cpu" not in PATHS, reason="needs Numba")
@pytest.mark.parametrize("up", [2, 4])
@pytest.mark.parametrize("terms", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("symmetric", [True, False])
def test_filters_of_several_terms(up, terms, symmetric):
    """Symmetric filters run columns first; others and tall images give the same result."""
    torch.manual_seed(0)
    x, fu, fd = torch.randn(1, 5, 60, 14), lowpass(6 * up), several_terms(terms, symmetric)
    geometry = Geometry(up, 2, (9, 8, 11, 7), 2**0.5, 0.2, None, False)
    first = numba_plan.downsampling(fd, geometry).kind == numba_plan.COLUMNS_FIRST
    assert first == (symmetric and terms > 1)
    expected = reference.forward(x.double(), fu.double(), fd.double(), None, geometry)
    plain = relative_error(reference.forward(x, fu, fd, None, geometry), expected)
    y = numba_cpu.forward(x, fu, fd, None, geometry)
    assert relative_error(y, expected) <= 2 * plain + FLOOR

    x[0, 2, 5, 3] = float("nan")
    reached = reference.forward(x, fu, fd, None, geometry).isnan()
    assert torch.equal(numba_cpu.forward(x, fu, fd, None, geometry).isnan(), reached)


def test_the_radial_filters_of_r_run_columns_first():
    G = build_network("stylegan3", dict(
        z_dim=8, c_dim=0, w_dim=8, img_resolution=64, img_channels=3, channel_base=512,
        channel_max=8, conv_kernel=1, use_radial_filters=True,
    ))  # fmt: skip
    layers = [getattr(G.synthesis, name) for name in G.synthesis.layer_names]
    halving = [m for m in layers if m.down_factor == 2 and m.down_filter.ndim == 2]
    assert len(halving) > 8
    for layer in halving:
        geometry = Geometry(layer.up_factor, 2, (0, 0, 0, 0), 1, 0.2, None, False)
        kind = numba_plan.downsampling(layer.down_filter, geometry).kind
        assert kind == numba_plan.COLUMNS_FIRST
