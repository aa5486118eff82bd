"""The GPU kernel of filtered_lrelu in Triton's interpreter, against the reference in float64."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
import triton_interpreter

from ops_cuda.filtered_lrelu import operator, packed_states, reference, triton_path, triton_tables
from ops_cuda.filtered_lrelu.reference import Geometry

tl = pytest.importorskip("triton.language")

PAIRS = list(itertools.product([1, 2, 4], repeat=2))
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SHAPE = triton_tables.Shape(2, 2, (12, 12), (12, 12), 1, 1, 4)
#: Small absolute floor, in units of the last place of the largest expected value.
FLOOR = 2


#: Without AOT autograd tracing, which takes seconds; the tests of the CPU paths include it.
OPCHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")


def error(got, expected) -> float:
    """Largest difference over the largest expected value; infinite where anything is NaN."""
    assert got.shape == expected.shape
    found = float((got.double() - expected).abs().max() / expected.abs().max())
    return found if found == found else float("inf")


def assert_close(got, composed, expected):
    """At most twice the error of a composition in the same precision."""
    limit = 2 * error(composed, expected) + FLOOR * torch.finfo(got.dtype).eps
    assert error(got, expected) <= limit, (error(got, expected), limit)


def radial(taps: int) -> torch.Tensor:
    """A 2-D filter of rank 3, not square."""
    return sum(torch.rand(taps - 1).outer(torch.rand(taps)) for _ in range(3)) / taps


def inputs(dtype=torch.float32, shape=(1, 1, 7, 10)):
    return torch.randn(shape).to(dtype), torch.randn(shape[1])


def padding_of(up, down):
    p = 3 * up + 3 * down
    return (p + 1, p - 2, p - 1, p)


def geometry_of(up, down, padding=None, clamp=1.5, flip=False):
    padding = padding or padding_of(up, down)
    return Geometry(up, down, padding, 1.25, 0.2, clamp, flip)


def reference_results(x, fu, fd, b, geometry, dtype):
    """Result and gradient of the reference in `dtype`: y, dx, and the function of dy."""
    x, fu, fd, b = (None if t is None else t.to(dtype) for t in (x, fu, fd, b))
    y, states = reference.forward_with_states(x, fu, fd, b, geometry)
    back = geometry.transposed(x.shape, fu, fd)
    return y, lambda dy, s=states: reference.linear(dy.to(dtype), fd, fu, s, back)


def check(x, fu, fd, b, geometry):
    """Forward, forward with states, backward: every value of all three."""
    y, states = triton_path.forward_with_states(x, fu, fd, b, geometry)
    assert y.dtype == x.dtype and states.dtype == torch.uint8
    assert list(states.shape) == triton_path.states_shape(x.shape, fu, fd, geometry)
    assert torch.equal(triton_path.forward(x, fu, fd, b, geometry), y)
    expected, carry_back = reference_results(x, fu, fd, b, geometry, torch.float64)
    composed, _ = reference_results(x, fu, fd, b, geometry, x.dtype)
    assert_close(y, composed, expected)
    width = geometry.middle_size(x.shape[3], x.shape[2], fu)[0]
    unpacked = packed_states.unpacked(states)
    assert not unpacked[..., width:].any(), "bits beyond the grid"
    unpacked = unpacked[..., :width]
    assert (unpacked <= 2).all()
    dy = torch.randn_like(y)
    # Both use the slopes that the kernel stored, so only the arithmetic is compared.
    back = geometry.transposed(x.shape, fu, fd)
    narrow = [None if f is None else f.to(x.dtype) for f in (fd, fu)]
    assert_close(
        triton_path.linear(dy, fd, fu, states, back),
        reference.linear(dy, *narrow, unpacked, back),
        carry_back(dy, unpacked),
    )
    return y, unpacked


def exact(up, down, flip):
    """Small integers over powers of two: values and states without rounding."""
    fu, fd = (torch.randint(-4, 5, [6 * k + 1]) / 8 for k in (up, down))
    x, b = torch.randint(-8, 9, [1, 1, 7, 11]).float(), torch.randint(-3, 4, [1]).float()
    geometry = Geometry(up, down, padding_of(up, down), 2, 0.25, 13, flip)
    y, states = reference.forward_with_states(x, fu, fd, b, geometry)
    own_y, own_states = check(x, fu, fd, b, geometry)
    assert torch.equal(own_y, y) and torch.equal(own_states, states)


def two_axes(up, down):
    fu, fd = torch.randn(6 * up) / 6, radial(6 * down)
    x, b = inputs()
    check(x, fu, fd, b, geometry_of(up, down))
    if up != down:
        check(x, fd, fu, b, geometry_of(down, up))


def precision(dtype, up, down):
    x, b = inputs(dtype, (1, 2, 6, 8))
    check(x, torch.randn(6 * up) / 6, torch.rand(6 * down) / 6, b, geometry_of(up, down))


def crops():
    x, b = inputs(shape=(1, 1, 15, 17))
    for padding in [(-3, 14, 9, -2), (5, -7, -8, 15)]:
        check(x, torch.randn(12) / 6, torch.randn(12) / 6, b[:1], geometry_of(2, 2, padding))
    for padding in [(-6, -9, -6, -9), (9, -40, -35, 41)]:
        check(x, torch.randn(24) / 6, torch.randn(12) / 6, b[:1], geometry_of(4, 2, padding))


def vectors_and_strips():
    """Sizes that allow vectors; more than one strip; more than one segment."""
    for padding, vectors in [((11, 10, 11, 10), (4, 4)), ((9, 8, 9, 8), (4, 2))]:
        x, b = inputs(torch.float16, (1, 1, 6, 20))
        y, _ = check(x, torch.randn(12) / 6, torch.randn(12) / 6, b, geometry_of(2, 2, padding))
        assert (triton_path._vector(x), triton_path._vector(y)) == vectors
    steps, triton_path.STEPS = triton_path.STEPS, 1
    try:
        x, b = inputs(shape=(1, 1, 36, 6))
        check(x, torch.randn(12) / 6, torch.randn(12) / 6, b[:1], geometry_of(2, 2, (9, 8, 9, 8)))
    finally:
        triton_path.STEPS = steps


def every_tile():
    """All tile sizes give the same result."""
    x, b = inputs(shape=(1, 1, 9, 16))
    fu, fd = torch.randn(12) / 6, torch.randn(12) / 6
    geometry = geometry_of(2, 2, (9, 8, 9, 8))
    expected = reference_results(x, fu, fd, b[:1], geometry, torch.float64)[0]
    found = triton_tables.tiles(SHAPE)
    assert len(found) >= 6
    for tile in found[::3]:
        y = triton_path.run(x, fu, fd, b[:1], geometry, tile, triton_path.triton_kernel.APPLY, None)
        assert error(y, expected) < 1e-6, tile


def no_filters_no_bias_no_clamp():
    x, _ = inputs()
    check(x, None, None, None, geometry_of(1, 1, (2, 1, -1, 3), None))
    check(x, torch.randn(4), None, None, geometry_of(2, 1, None, None))
    check(x, None, torch.randn(3, 5), None, geometry_of(1, 2, (3, 3, 3, 3), None))


def slopes_beyond_one():
    x, b = inputs()
    for slope in (-0.5, 1.5, 0.0, 1.0):
        geometry = Geometry(2, 2, (9, 8, 9, 8), 1.5, slope, 1.0, False)
        check(x, torch.randn(12) / 6, torch.rand(12) / 6, b, geometry)


def memory_formats():
    """Views give the bits of a contiguous copy; `precision` compares those with float64."""
    for dtype in (torch.float32, torch.bfloat16):
        x, b = inputs(dtype, (1, 2, 4, 4))
        fu, fd = torch.randn(12) / 6, torch.rand(12) / 6
        geometry = geometry_of(2, 2)
        y = triton_path.forward(x, fu, fd, b, geometry)
        last = x.contiguous(memory_format=torch.channels_last)
        y_last = triton_path.forward(last, fu, fd, b, geometry)
        assert y_last.is_contiguous(memory_format=torch.channels_last)
        assert y.is_contiguous() and torch.equal(y_last, y)
        sliced = torch.randn(1, 4, 6, 5).to(dtype)[:, ::4, 1:-1, 1:]
        for view in (sliced, x[:1, :1, :1, :1].expand(1, 1, 4, 4)):
            results = [
                triton_path.forward_with_states(t, fu, fd, b[:1], geometry)
                for t in (view, view.contiguous())
            ]
            assert all(map(torch.equal, *results))
            back = geometry.transposed(view.shape, fu, fd)
            states, dy = results[0][1], torch.randn_like(results[0][0])
            transposed = dy.mT.contiguous().mT  # the same values, columns first in memory
            gradients = [triton_path.linear(t, fd, fu, states, back) for t in (dy, transposed)]
            assert torch.equal(*gradients)
            if dtype == torch.float32:
                check(view, fu, fd, b[:1], geometry)


def scaled_input(dtype):
    """A factor per plane, as in demodulation, against a multiplication outside the kernel."""
    fu, fd = torch.randn(12) / 6, torch.rand(12) / 6
    x, b = inputs(dtype, (2, 2, 4, 4))
    scale = torch.randn(2, 2).to(dtype)
    for geometry, up_filter in [(geometry_of(2, 2), fu), (geometry_of(3, 2), torch.randn(18) / 6)]:
        y, states = triton_path.forward_with_states(x, up_filter, fd, b, geometry, scale=scale)
        assert torch.equal(triton_path.forward(x, up_filter, fd, b, geometry, scale=scale), y)
        factors = scale[:, :, None, None]
        wide = (x.double() * factors.double(), up_filter.double(), fd.double(), b.double())
        narrow = (x * factors, up_filter.to(dtype), fd.to(dtype), b.to(dtype))
        assert_close(y, reference.forward(*narrow, geometry), reference.forward(*wide, geometry))
        assert states.any()


def many_channels_last():
    """More channels than `MAX_STRIDED_CHANNELS`: copied, same values, same format."""
    x, b = inputs(shape=(1, triton_path.MAX_STRIDED_CHANNELS + 1, 4, 5))
    arguments = (torch.randn(12) / 6, torch.rand(12) / 6, b, geometry_of(2, 2))
    y = triton_path.forward(x.contiguous(memory_format=torch.channels_last), *arguments)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, triton_path.forward(x, *arguments))


def beyond_two_to_the_31():
    """Offsets of planes need 64 bits; nearly all of this memory is never touched."""
    torch.utils.deterministic.fill_uninitialized_memory = False
    memory = torch.empty(2**31 + 4096, dtype=torch.float16)
    torch.utils.deterministic.fill_uninitialized_memory = True
    x, b = inputs(torch.float16, (2, 1, 5, 8))
    far = memory.as_strided(x.shape, (2**31, 40, 8, 1))
    far.copy_(x)
    arguments = (torch.randn(12) / 6, torch.rand(12) / 6, b, geometry_of(2, 2))
    y = triton_path.forward(far, *arguments)
    assert torch.equal(y, triton_path.forward(x, *arguments))


def empty_batch():
    x, b = inputs(shape=(0, 2, 9, 13))
    y, states = triton_path.forward_with_states(x, torch.ones(12), None, b, geometry_of(2, 1))
    assert y.shape[0] == states.shape[0] == 0 and y.shape[1] == 2


def falls_back():
    """Filters of full rank and other factors use the reference, with the same packed states."""
    x, b = inputs()
    check(x, torch.randn(12) / 6, torch.randn(9, 9) / 9, b, geometry_of(2, 2))
    check(x, torch.randn(18) / 6, torch.randn(12) / 6, b, geometry_of(3, 2))


def same_bits_twice():
    x, b = inputs()
    arguments = (x, torch.randn(12), radial(12), b, geometry_of(2, 2))
    (y, states), (again, states_again) = (
        triton_path.forward_with_states(*arguments) for _ in range(2)
    )
    assert torch.equal(y, again) and torch.equal(states, states_again)


def filters_are_read_again_when_changed():
    x, b = inputs()
    f, geometry = torch.randn(12), geometry_of(2, 2)
    before = triton_path.forward(x, f, f, b, geometry)
    f.mul_(2)
    after = triton_path.forward(x, f, f, b, geometry)
    expected = reference.forward(x, f, f, b, geometry)
    assert error(after, expected.double()) < 1e-6 and not torch.equal(before, after)


def through_autograd():
    """Gradient and its gradient of the public operator, against autograd in float64."""
    operator.PATHS["triton"] = triton_path
    fu, fd = torch.randn(12) / 6, radial(12)
    x, b = inputs(shape=(1, 2, 9, 8))
    weight = torch.randn(1, 2, 9, 8).double()
    found = []
    for dtype, path in [(torch.float64, "reference"), (torch.float32, "triton")]:
        own_x, own_b, own_fu, own_fd = (t.to(dtype) for t in (x, b, fu, fd))
        own_x.requires_grad_(), own_b.requires_grad_()
        y, _ = operator._forward(
            own_x, own_b, None, own_fu, own_fd, 2, 2, [9, 8, 9, 8], 1.4, 0.2, 1.5, False, True, path
        )
        dy = torch.linspace(-1, 1, y.numel()).reshape(y.shape).to(dtype).requires_grad_()
        dx, db = torch.autograd.grad(y, (own_x, own_b), dy, create_graph=True)
        (ddy,) = torch.autograd.grad((dx * weight.to(dtype)).sum() + db.sum(), dy)
        found.append((y, dx, db, ddy))
    for expected, got in zip(*found, strict=True):
        assert error(got.detach(), expected.detach()) < 2e-6
    settings = (2, 2, [9, 8, 9, 8], 1.4, 0.2, 1.5, False, True, "triton")
    small, bias = x[:, :1, :4, :5].clone().requires_grad_(), b[:1].clone().requires_grad_()
    torch.library.opcheck(
        operator._forward, (small, bias, None, fu, fd, *settings), test_utils=OPCHECKS
    )


def three_products_of_tf32():
    """float32 products on tensor cores, which the interpreter does not model: tf32x3 is enough,
    one product of tf32 would not.
    """
    from triton.runtime import interpreter

    def cut(x, half):  # to 10 bits of mantissa, rounded or truncated
        bits = x.astype(np.float32).view(np.uint32) + np.uint32(half)
        return (bits & np.uint32(0xFFFFE000)).view(np.float32)

    def product(a, b):
        large_a, large_b = cut(a, 0x1000), cut(b, 0x1000)
        small_a, small_b = cut(a - large_a, 0), cut(b - large_b, 0)
        corrections = small_a @ large_b + large_a @ small_b if precise else 0
        return (corrections + large_a @ large_b).astype(np.float32)

    def dot(self, a, b, sum_, precision, imprecise):
        values = product(a.data, b.data) if a.data.dtype == np.float32 else a.data @ b.data
        return interpreter.TensorHandle((values + sum_.data).astype(np.float32), tl.float32)

    builder = interpreter.InterpreterBuilder
    original, builder.create_dot = builder.create_dot, dot
    try:
        x, b = inputs(shape=(1, 1, 8, 12))
        arguments = (x, torch.randn(12) / 6, radial(12), b, geometry_of(2, 2))
        precise = True
        check(*arguments)
        precise = False
        with pytest.raises(AssertionError):
            check(*arguments)
    finally:
        builder.create_dot = original


def wrong_kernels_are_noticed():
    """Mutation test: each of these mistakes must fail."""
    x, b = inputs()
    fu, fd, geometry = torch.randn(12) / 6, torch.rand(12) / 6, geometry_of(2, 2)
    expected, _ = reference_results(x, fu, fd, b, geometry, torch.float64)
    composed, _ = reference_results(x, fu, fd, b, geometry, torch.float32)
    tile = triton_tables.tiles(SHAPE)[0]
    mode = triton_path.triton_kernel.APPLY
    for got in [
        triton_path.forward(x, fu * 1.0001, fd, b, geometry),
        triton_path.forward(
            x, fu, fd, b, Geometry(2, 2, geometry.padding, 1.25, 0.201, 1.5, False)
        ),
        triton_path.run(
            x, fu, fd, b, geometry, triton_tables.Tile(16, 16, 16, 64, 16, 16), mode, None
        ),  # too few input columns
        torch.empty_like(composed),  # nothing written
    ]:
        with pytest.raises(AssertionError):
            assert_close(got, composed, expected)
    assert_close(triton_path.run(x, fu, fd, b, geometry, tile, mode, None), composed, expected)


CASES = {
    "wrong kernels are noticed": wrong_kernels_are_noticed,
    **{
        f"exact, up {u}, down {d}, flip {flip}": partial(exact, u, d, flip)
        for (u, d), flip in zip(PAIRS, itertools.cycle([False, True]))
    },
    **{f"two axes, up {u}, down {d}": partial(two_axes, u, d) for u, d in PAIRS if u <= d},
    **{
        f"{name}, up {u}, down {d}": partial(precision, dtype, u, d)
        for name, dtype in DTYPES.items()
        for u, d in [(2, 2), (4, 2), (2, 4), (1, 1)]
    },
    "crops": crops,
    "vectors, strips and segments": vectors_and_strips,
    "every tile": every_tile,
    "no filters, no bias, no clamp": no_filters_no_bias_no_clamp,
    "slopes beyond one": slopes_beyond_one,
    "memory formats": memory_formats,
    **{f"scaled input, {name}": partial(scaled_input, dtype) for name, dtype in DTYPES.items()},
    "many channels last": many_channels_last,
    "beyond 2^31": beyond_two_to_the_31,
    "empty batch": empty_batch,
    "falls back": falls_back,
    "same bits twice": same_bits_twice,
    "filters are read again when changed": filters_are_read_again_when_changed,
    "three products of tf32": three_products_of_tf32,
    "through autograd": through_autograd,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_in_the_interpreter(name):
    failure = triton_interpreter.outcomes(__file__)[name]
    assert not failure, failure


if __name__ == "__main__":
    triton_interpreter.run(CASES)
