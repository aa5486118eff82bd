"""All golden operator cases: values and gradients, on every path."""

import json

import numpy as np
import pytest
import repository
import torch

import ops_cuda

GOLDEN = repository.GOLDEN
CASES = [c for c in json.loads((GOLDEN / "ops.json").read_text())]
ARRAYS = np.load(GOLDEN / "ops.npz")
FUNCTIONS = {
    "upfirdn2d": ops_cuda.upfirdn2d,
    "bias_act": ops_cuda.bias_act,
    "filtered_lrelu": ops_cuda.filtered_lrelu,
    "modulated_conv2d_sg3": ops_cuda.modulated_conv2d,
}


def arrays_of(case, keys):
    return {k: torch.from_numpy(ARRAYS[f"{case['name']}/{k}"]) for k in keys}


def assert_close(got, expected, tolerance=2e-5):
    scale = expected.abs().max().clamp(min=1e-6)
    error = (got - expected).abs().max() / scale
    assert error < tolerance, f"relative error {error:.2e}"


@pytest.mark.parametrize(
    "case", [c for c in CASES if c["kind"] in FUNCTIONS], ids=lambda c: c["name"]
)
def test_operator_reproduces_reference(case):
    inputs = arrays_of(case, case["inputs"])
    expected = arrays_of(case, case["outputs"])
    dy = inputs.pop("dy")
    differentiable = [k for k in ("x", "b", "w", "s") if k in inputs]
    for key in differentiable:
        inputs[key].requires_grad_()
    if "f" not in inputs and case["kind"] == "upfirdn2d":
        inputs["f"] = None
    y = FUNCTIONS[case["kind"]](**inputs, **case["kwargs"])
    assert y.shape == expected["y"].shape
    assert_close(y, expected["y"])
    gradients = torch.autograd.grad(y, [inputs[k] for k in differentiable], dy)
    for key, gradient in zip(differentiable, gradients, strict=True):
        if f"d{key}" in expected:
            assert_close(gradient, expected[f"d{key}"])
