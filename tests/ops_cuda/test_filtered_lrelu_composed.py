"""`filtered_lrelu` without Numba and Triton, against the reference in float64."""

import itertools

import pytest
import torch

from ops_cuda.filtered_lrelu import composed, filtered_lrelu, reference
from ops_cuda.filtered_lrelu.packed_states import packed
from ops_cuda.filtered_lrelu.reference import Geometry

FACTORS = list(itertools.product([1, 2, 4], repeat=2))


@pytest.fixture(autouse=True)
def plain_torch(monkeypatch):
    monkeypatch.setenv("SG3_OPS", "reference")


def filters(up: int, down: int, kind: str):
    torch.manual_seed(10 * up + down)
    taps = (6 * up - 1, 6 * down)
    if kind == "separable":
        return tuple(torch.randn(n, dtype=torch.float64) / n for n in taps)
    if kind == "two axes":
        return tuple(torch.randn(n, n + 1, dtype=torch.float64) / n for n in taps)
    return None, torch.rand(taps[1], dtype=torch.float64)


def close(got, expected, tolerance=1e-12) -> bool:
    return got.shape == expected.shape and bool(
        (got - expected).abs().max() <= tolerance * expected.abs().max()
    )


@pytest.mark.slow
@pytest.mark.parametrize("up, down", FACTORS)
@pytest.mark.parametrize("kind", ["separable", "two axes", "none"])
@pytest.mark.parametrize("clamp", [None, 0.2])
def test_equals_the_reference(up, down, kind, clamp):
    fu, fd = filters(up, down, kind)
    count = 0
    for padding, flip in itertools.product(
        [(9, 8, 9, 8), (-3, 20, 21, -2), (30, 41, 0, 5)], [False, True]
    ):
        geometry = Geometry(up, down, padding, 1.7, 0.2, clamp, flip)
        x, b = torch.randn(2, 3, 13, 18).double(), torch.randn(3).double()
        try:
            geometry.output_size(18, 13, fu, fd)
        except ValueError:
            continue
        count += 1
        y, states = reference.forward_with_states(x, fu, fd, b, geometry)
        own, own_states = composed.forward_with_states(x, fu, fd, b, geometry)
        assert close(own, y) and torch.equal(packed(states), own_states)
        assert (states == reference.CLAMPED).any() == (clamp is not None)
        assert close(composed.forward(x, fu, fd, b, geometry), y)
        dy, back = torch.randn_like(y), geometry.transposed(x.shape, fu, fd)
        dx = reference.linear(dy, fd, fu, states, back)
        assert close(composed.linear(dy, fd, fu, own_states, back), dx)
        forth = back.transposed(dy.shape, fd, fu)
        ddy = reference.linear(x, fu, fd, states, forth)
        assert close(composed.linear(x, fu, fd, own_states, forth), ddy)
    assert count >= 2


@pytest.mark.parametrize("chunk", [4 * 153 * 93, 153 * 40, 1])
def test_many_planes_rows_and_blocks_give_the_same_numbers(monkeypatch, chunk):
    """Several planes at a time, some rows of one, and the fewest rows there may be."""
    fu, fd = filters(2, 2, "separable")
    geometry = Geometry(2, 2, (9, 8, 9, 8), 1.7, 0.2, 0.7, False)
    back = geometry.transposed((3, 5, 40, 70), fu, fd)
    x = torch.randn(3, 5, 40, 70).double()

    def results(x):
        y, states = composed.forward_with_states(x, fu, fd, None, geometry)
        return y, composed.linear(y, fd, fu, states, back)

    expected, (_, states) = results(x), composed.forward_with_states(x, fu, fd, None, geometry)
    monkeypatch.setattr(composed, "CHUNK", chunk)
    monkeypatch.setattr(composed, "ROWS_PER_TAP", 2)
    assert torch.equal(composed.forward_with_states(x, fu, fd, None, geometry)[1], states)
    for same in (x, x.to(memory_format=torch.channels_last)):
        assert all(close(*pair, 1e-15) for pair in zip(results(same), expected, strict=True))


def test_scales_its_input():
    fu, fd = filters(2, 2, "separable")
    geometry = Geometry(2, 2, (9, 8, 9, 8), 1.7, 0.2, 0.7, False)
    x, b, scale = torch.randn(3, 5, 12, 14).double(), torch.randn(5).double(), torch.rand(3, 5)
    expected, states = reference.forward_with_states(
        x * scale.double()[:, :, None, None], fu, fd, b, geometry
    )
    assert close(composed.forward(x, fu, fd, b, geometry, scale.double()), expected)
    own = composed.forward_with_states(x, fu, fd, b, geometry, scale.double())
    assert close(own[0], expected) and torch.equal(own[1], packed(states))


def test_single_precision_is_as_exact_as_the_reference():
    torch.manual_seed(0)
    x, b, fu, fd = torch.randn(2, 4, 37, 41), torch.randn(4), torch.rand(24), torch.rand(12)
    geometry = Geometry(4, 2, (-6, -9, -6, -9), 2**0.5, 0.2, 256.0, False)
    exact = reference.forward(x.double(), fu.double(), fd.double(), b.double(), geometry)
    error, allowed = (
        float((path.forward(x, fu, fd, b, geometry) - exact).abs().max() / exact.abs().max())
        for path in (composed, reference)
    )
    assert error <= 2 * allowed + 1e-7


@pytest.mark.parametrize("shape", [(0, 3, 13, 18), (2, 0, 13, 18)])
def test_an_empty_batch(shape):
    fu, fd = filters(2, 2, "separable")
    geometry = Geometry(2, 2, (9, 8, 9, 8), 1.7, 0.2, None, False)
    x, b = torch.zeros(shape).double(), torch.zeros(shape[1]).double()
    expected, states = reference.forward_with_states(x, fu, fd, b, geometry)
    own, own_states = composed.forward_with_states(x, fu, fd, b, geometry)
    assert own.shape == expected.shape and own_states.shape == packed(states).shape


@pytest.mark.parametrize("up, down", [(2, 2), (4, 2), (2, 1)])
def test_penalties_on_gradients_equal_the_definition(up, down, monkeypatch):
    """R1 takes the gradient of a gradient: float32, through the differentiable operator."""
    fu, fd = (f.float() for f in filters(up, down, "separable"))
    random = torch.Generator().manual_seed(0)
    x, b = torch.randn(2, 3, 20, 22, generator=random), torch.randn(3, generator=random)
    found = {}
    for path in ("reference", "composed"):
        monkeypatch.setenv("SG3_OPS", path)
        leaf, bias = x.clone().requires_grad_(), b.clone().requires_grad_()
        # No clamp: at its edge rounding decides.
        y = filtered_lrelu(leaf, fu, fd, bias, up, down, padding=9)
        (dx,) = torch.autograd.grad(y.square().sum(), leaf, create_graph=True)
        found[path] = (y, dx, *torch.autograd.grad(dx.square().sum(), (leaf, bias)))
    for own, expected in zip(found["composed"], found["reference"], strict=True):
        assert close(own, expected, 1e-5)
