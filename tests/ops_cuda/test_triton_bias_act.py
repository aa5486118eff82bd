"""The GPU kernel of bias_act in Triton's interpreter, against the reference in float64."""

from functools import partial

import pytest
import torch
import triton_interpreter

from ops_cuda.bias_act import ACTIVATIONS, operator, reference, triton_path

pytest.importorskip("triton")

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def error(got, expected) -> float:
    """Largest difference over the largest expected value; infinite where anything is NaN."""
    assert got.shape == expected.shape
    scale = expected.abs().max().clamp(min=1e-3)
    found = float((got.detach().double() - expected.detach()).abs().max() / scale)
    return found if found == found else float("inf")


def derivatives(function, x, b, dy):
    """Value, gradients, and gradients of a function of the gradients."""
    x, b = x.clone().requires_grad_(), b.clone().requires_grad_()
    dy = dy.clone().requires_grad_()
    y = function(x, b)
    dx, db = torch.autograd.grad(y, (x, b), dy, create_graph=True)
    weight = torch.linspace(-1, 1, x.numel()).reshape(x.shape).to(x.dtype)
    second = torch.autograd.grad((dx * weight).sum() + db.sum(), (dy, x, b), allow_unused=True)
    return [y, dx, db, *(torch.zeros(1, dtype=x.dtype) if s is None else s for s in second)]


def check(x, b, *settings, tolerance):
    """Three orders of the operator against autograd through the reference in float64."""
    dy = torch.randn(x.shape)
    found = derivatives(lambda x, b: operator._forward(x, b, *settings, "triton"), x, b, dy.to(x))
    wide = derivatives(
        lambda x, b: reference.forward(x, b, *settings), x.double(), b.double(), dy.to(x).double()
    )
    for order, (got, expected) in enumerate(zip(found, wide, strict=True)):
        if got.shape != expected.shape:  # zero on one side, not asked for on the other
            assert not got.detach().any() and not expected.detach().any()
            continue
        assert error(got, expected) <= tolerance, (settings, order, error(got, expected))


def three_orders(act, dtype):
    # db sums in the dtype of x: a few units in the last place.
    tolerance = 4e-6 if dtype == torch.float32 else 8 * torch.finfo(dtype).eps
    x = torch.randn(2, 3, 4, 5).to(dtype) * 2
    for alpha, gain, clamp in [(0.2, 1.5, None), (0.3, 1.25, 1.0)]:
        check(x, torch.randn(3).to(dtype), 1, act, alpha, gain, clamp, tolerance=tolerance)


def unusual_slopes():
    x, b = torch.randn(2, 3, 4, 5), torch.randn(3)
    for alpha, gain in [(-0.5, 1.0), (0.2, -1.5), (1.5, 2.0)]:
        check(x, b, 1, "lrelu", alpha, gain, 1.0, tolerance=4e-6)


def layouts():
    """Long runs, short runs, channels last, rows of channels, views, against the reference."""
    cases = [
        (torch.randn(2, 3, 33, 32), 1),
        (torch.randn(2, 300, 2, 3), 1),
        (torch.randn(2, 5, 7, 3).contiguous(memory_format=torch.channels_last), 1),
        (torch.randn(7, 5), 1),
        (torch.randn(5, 7), 0),
        (torch.randn(3, 4, 5)[:, ::2, 1:], 2),
        (torch.randn(1, 4, 1).expand(3, 4, 5), 1),
        (torch.randn(6), 0),
    ]
    for x, dim in cases:
        for b in (torch.randn(x.shape[dim]), None):
            settings = (dim, "lrelu", 0.2, 1.5, 2.0)
            y = triton_path.forward(x, b, *settings)
            expected = reference.forward(x.double(), b, *settings)
            assert error(y, expected) < 1e-6, (x.shape, dim)
            assert y.stride() == torch.empty_like(x).stride()
            dy = torch.randn(x.shape[::-1]).permute(*range(x.ndim)[::-1])
            dx = triton_path.gradient(dy, y, None, *settings, 1)
            slope = torch.where(y > 0, 1, 0.2) * 1.5 * (y.abs() < 2)
            assert error(dx, (dy * slope).double()) < 1e-6


def empty_batch():
    y = triton_path.forward(torch.randn(0, 3, 2, 2), torch.randn(3), 1, "relu", 0.0, 1.0, None)
    assert y.shape == (0, 3, 2, 2)


def same_bits_twice():
    x, b = torch.randn(2, 3, 4, 5), torch.randn(3)
    first, second = (triton_path.forward(x, b, 1, "swish", 0.0, 1.4, 0.5) for _ in range(2))
    assert torch.equal(first, second)


def custom_operator():
    """Schema, fake kernel and autograd registration."""
    x, b = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(3, requires_grad=True)
    for act in ("lrelu", "swish"):
        torch.library.opcheck(operator._forward, (x, b, 1, act, 0.2, 1.4, 1.0, "triton"))
    last = x.detach().contiguous(memory_format=torch.channels_last)
    torch.library.opcheck(operator._forward, (last, b, 1, "tanh", 0.0, 1.0, None, "triton"))


def wrong_kernels_are_noticed():
    x, b = torch.randn(2, 3, 4, 5), torch.randn(3)
    y = reference.forward(x.double(), b.double(), 1, "lrelu", 0.2, 1.5, 1.0)
    right = triton_path.forward(x, b, 1, "lrelu", 0.2, 1.5, 1.0)
    assert error(right, y) < 1e-6
    assert error(triton_path.forward(x, b, 1, "lrelu", 0.201, 1.5, 1.0), y) > 1e-5
    assert error(triton_path.forward(x, b.flip(0), 1, "lrelu", 0.2, 1.5, 1.0), y) > 1e-2
    assert error(torch.empty_like(right), y) == float("inf"), "nothing written"


CASES = {
    "wrong kernels are noticed": wrong_kernels_are_noticed,
    **{
        f"{act}, {dtype}".replace("torch.", ""): partial(three_orders, act, dtype)
        for act in ACTIVATIONS
        for dtype in DTYPES
    },
    "unusual slopes": unusual_slopes,
    "layouts": layouts,
    "empty batch": empty_batch,
    "same bits twice": same_bits_twice,
    "custom operator": custom_operator,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_in_the_interpreter(name):
    failure = triton_interpreter.outcomes(__file__)[name]
    assert not failure, failure


@pytest.mark.slow
@pytest.mark.parametrize("act", ["linear", "relu", "lrelu"])
def test_the_operator_of_cpus(act):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(operator._forward, (x, b, 1, act, 0.2, 1.4, 1.0, "composed"))


def test_compiles_as_one_graph():
    from ops_cuda import bias_act

    x, b = torch.randn(2, 3, 4, 4), torch.randn(3)
    compiled = torch.compile(partial(bias_act, act="lrelu"), fullgraph=True, backend="eager")
    assert torch.equal(compiled(x, b), bias_act(x, b, act="lrelu"))


if __name__ == "__main__":
    triton_interpreter.run(CASES)
