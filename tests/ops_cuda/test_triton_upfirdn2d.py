"""The GPU kernel of upfirdn2d in Triton's interpreter, against the reference in float64."""

import itertools
from functools import partial

import pytest
import torch
import triton_interpreter

from ops_cuda.upfirdn2d import Resampling, operator, reference, triton_path

pytest.importorskip("triton")

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
FORMATS = (torch.contiguous_format, torch.channels_last)


#: Without AOT autograd tracing, which takes seconds; the tests of the CPU paths include it.
OPCHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")


def error(got, expected) -> float:
    """Largest difference over the largest expected value; infinite where anything is NaN."""
    assert got.shape == expected.shape
    found = float((got.double() - expected).abs().max() / expected.abs().max())
    return found if found == found else float("inf")


def check(x, f, spec):
    """At most twice the error of a composition in the same precision, plus two last places."""
    expected = reference.upfirdn2d_reference(x.double(), None if f is None else f.double(), spec)
    composed = reference.upfirdn2d_reference(x, f, spec)
    limit = 2 * error(composed, expected) + 2 * torch.finfo(x.dtype).eps
    y = triton_path.run(x, f, spec)
    assert y.dtype == x.dtype
    assert error(y, expected) <= limit, (spec, error(y, expected), limit)
    return y


def factors(up, down):
    """Equal and different axes; separable, 2-D and no filter; crops; both layouts."""
    x, f = torch.randn(1, 1, 4, 5), torch.randn(5)
    other = {1: 2, 2: 4, 4: 1}
    for ups, downs in [((up, up), (down, down)), ((up, other[up]), (other[down], down))]:
        for padding, flip in [((4, 3, 5, 2), False), ((-1, 6, 7, -2), True)]:
            spec = Resampling(ups, downs, padding, flip, 1.5)
            y = check(x, f, spec)
            last = x.expand(1, 2, 4, 5).contiguous(memory_format=torch.channels_last)
            assert torch.equal(triton_path.run(last, f, spec), y.expand(1, 2, *y.shape[2:]))
            check(x, torch.randn(4, 3), spec)
    check(x, None, Resampling((up, up), (down, down), (1, 0, -1, 2), False, 2.0))


def precisions(dtype):
    for memory_format, f in itertools.product(FORMATS, (torch.rand(8) / 4, torch.rand(4, 4) / 8)):
        x = torch.randn(1, 2, 5, 6).to(dtype).contiguous(memory_format=memory_format)
        y = check(x, f, Resampling((2, 2), (1, 1), (6, 5, 6, 5), False, 4.0))
        assert y.is_contiguous(memory_format=memory_format)
        check(x, f, Resampling((1, 1), (2, 2), (5, 5, 5, 5), False, 1.0))


def sizes_and_views():
    """Several blocks, one pixel, views, an expanded tensor, a filter that is a view."""
    spec = Resampling((1, 1), (1, 1), (1, 1, 1, 1), False, 1.0)
    f = torch.randn(5, 6)[1:4, ::2]
    for x in [
        torch.randn(1, 1, 17, 66),
        torch.randn(1, 3, 2, 70).contiguous(memory_format=torch.channels_last),
        torch.randn(1, 66, 2, 2).contiguous(memory_format=torch.channels_last),
        torch.randn(2, 1, 1, 1),
        torch.randn(1, 4, 6, 6)[:, ::2, 1:, :-2],
        torch.randn(1, 1, 1, 1).expand(2, 1, 5, 4),
    ]:
        check(x, f, spec)


def beyond_two_to_the_31():
    """Offsets of images need 64 bits; nearly all of this memory is never touched."""
    torch.utils.deterministic.fill_uninitialized_memory = False
    memory = torch.empty(2**31 + 4096, dtype=torch.float16)
    torch.utils.deterministic.fill_uninitialized_memory = True
    x, f = torch.randn(2, 1, 5, 8).half(), torch.rand(4, 4)
    far = memory.as_strided(x.shape, (2**31, 40, 8, 1))
    far.copy_(x)
    spec = Resampling((1, 1), (2, 2), (1, 1, 1, 1), False, 1.0)
    assert torch.equal(triton_path.run(far, f, spec), triton_path.run(x, f, spec))


def empty_batch():
    spec = Resampling((2, 2), (1, 1), (2, 1, 2, 1), False, 4.0)
    assert triton_path.run(torch.randn(0, 3, 4, 5), torch.rand(4, 4), spec).shape == (0, 3, 8, 10)


def same_bits_twice():
    spec = Resampling((2, 2), (1, 1), (2, 1, 2, 1), False, 4.0)
    x, f = torch.randn(1, 2, 5, 6), torch.rand(4)
    assert torch.equal(triton_path.run(x, f, spec), triton_path.run(x, f, spec))


def through_autograd():
    """First and second gradients, and `opcheck` of the custom operator."""
    operator.PATHS["triton"] = triton_path
    f = torch.rand(4, 3)
    settings = ([2, 1], [1, 2], [2, 1, 0, 3], False, 1.5)
    x = torch.randn(1, 2, 3, 4)
    found = []
    for dtype, path in [(torch.float64, "reference"), (torch.float32, "triton")]:
        own = x.to(dtype).requires_grad_()
        y = operator._upfirdn2d(own, f.to(dtype), *settings, path)
        dy = torch.linspace(-1, 1, y.numel()).reshape(y.shape).to(dtype).requires_grad_()
        (dx,) = torch.autograd.grad(y, own, dy, create_graph=True)
        (ddy,) = torch.autograd.grad(dx.square().sum(), dy)
        found.append((y, dx, ddy))
    for expected, got in zip(*found, strict=True):
        assert error(got.detach(), expected.detach()) < 1e-6
    own = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    torch.library.opcheck(operator._upfirdn2d, (own, f, *settings, "triton"), test_utils=OPCHECKS)


def wrong_kernels_are_noticed():
    x, f = torch.randn(1, 2, 7, 9), torch.rand(5)
    spec = Resampling((2, 2), (1, 1), (2, 2, 2, 2), False, 4.0)
    expected = reference.upfirdn2d_reference(x.double(), f.double(), spec)
    right = triton_path.run(x, f, spec)
    assert error(right, expected) < 1e-6
    assert error(triton_path.run(x, f * 1.0001, spec), expected) > 1e-5
    assert error(triton_path.run(x, f.flip(0), spec), expected) > 1e-2
    shifted = Resampling((2, 2), (1, 1), (1, 3, 2, 2), False, 4.0)
    assert error(triton_path.run(x, f, shifted), expected) > 1e-2
    assert error(torch.empty_like(right), expected) == float("inf"), "nothing written"


CASES = {
    "wrong kernels are noticed": wrong_kernels_are_noticed,
    **{
        f"up {u}, down {d}": partial(factors, u, d)
        for u, d in itertools.product([1, 2, 4], repeat=2)
    },
    **{str(dtype).removeprefix("torch."): partial(precisions, dtype) for dtype in DTYPES},
    "sizes and views": sizes_and_views,
    "beyond 2^31": beyond_two_to_the_31,
    "empty batch": empty_batch,
    "same bits twice": same_bits_twice,
    "through autograd": through_autograd,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_in_the_interpreter(name):
    failure = triton_interpreter.outcomes(__file__)[name]
    assert not failure, failure


if __name__ == "__main__":
    triton_interpreter.run(CASES)
