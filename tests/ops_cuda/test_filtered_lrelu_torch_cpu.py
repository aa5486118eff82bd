"""`filtered_lrelu` without Numba: banded matrix products against the reference in float64."""

import itertools

import pytest
import torch

from ops_cuda.filtered_lrelu import reference, torch_cpu
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
        own, own_states = torch_cpu.forward_with_states(x, fu, fd, b, geometry)
        assert close(own, y) and torch.equal(states, own_states)
        assert (states == reference.CLAMPED).any() == (clamp is not None)
        assert close(torch_cpu.forward(x, fu, fd, b, geometry), y)
        dy, back = torch.randn_like(y), geometry.transposed(x.shape, fu, fd)
        dx = reference.linear(dy, fd, fu, states, back)
        assert close(torch_cpu.linear(dy, fd, fu, states, back), dx)
        forth = back.transposed(dy.shape, fd, fu)
        ddy = reference.linear(x, fu, fd, states, forth)
        assert close(torch_cpu.linear(x, fu, fd, states, forth), ddy)
    assert count >= 2


def test_many_chunks_and_blocks_give_the_same_numbers(monkeypatch):
    fu, fd = filters(2, 2, "separable")
    geometry = Geometry(2, 2, (9, 8, 9, 8), 1.7, 0.2, 0.7, False)
    x = torch.randn(3, 5, 40, 70).double()
    expected = torch_cpu.forward(x, fu, fd, None, geometry)
    monkeypatch.setattr(torch_cpu, "CHUNK", 4 * 153 * 93)
    assert close(torch_cpu.forward(x, fu, fd, None, geometry), expected, 1e-15)
    channels_last = x.to(memory_format=torch.channels_last)
    assert close(torch_cpu.forward(channels_last, fu, fd, None, geometry), expected, 1e-15)


def test_scales_its_input():
    fu, fd = filters(2, 2, "separable")
    geometry = Geometry(2, 2, (9, 8, 9, 8), 1.7, 0.2, 0.7, False)
    x, b, scale = torch.randn(3, 5, 12, 14).double(), torch.randn(5).double(), torch.rand(3, 5)
    expected, states = reference.forward_with_states(
        x * scale.double()[:, :, None, None], fu, fd, b, geometry
    )
    assert close(torch_cpu.forward(x, fu, fd, b, geometry, scale.double()), expected)
    own = torch_cpu.forward_with_states(x, fu, fd, b, geometry, scale.double())
    assert close(own[0], expected) and torch.equal(own[1], states)


def test_single_precision_is_as_exact_as_the_reference():
    torch.manual_seed(0)
    x, b, fu, fd = torch.randn(2, 4, 37, 41), torch.randn(4), torch.rand(24), torch.rand(12)
    geometry = Geometry(4, 2, (-6, -9, -6, -9), 2**0.5, 0.2, 256.0, False)
    exact = reference.forward(x.double(), fu.double(), fd.double(), b.double(), geometry)
    error, allowed = (
        float((path.forward(x, fu, fd, b, geometry) - exact).abs().max() / exact.abs().max())
        for path in (torch_cpu, reference)
    )
    assert error <= 2 * allowed + 1e-7


@pytest.mark.parametrize("shape", [(0, 3, 13, 18), (2, 0, 13, 18)])
def test_an_empty_batch(shape):
    fu, fd = filters(2, 2, "separable")
    geometry = Geometry(2, 2, (9, 8, 9, 8), 1.7, 0.2, None, False)
    x, b = torch.zeros(shape).double(), torch.zeros(shape[1]).double()
    expected, states = reference.forward_with_states(x, fu, fd, b, geometry)
    own, own_states = torch_cpu.forward_with_states(x, fu, fd, b, geometry)
    assert own.shape == expected.shape and own_states.shape == states.shape
