"""The operators as torch.library custom operators: opcheck, torch.compile, derivatives by path."""

import numpy as np
import pytest
import torch

import ops_cuda
import sg3
from ops_cuda.filtered_lrelu import numba_cpu, operator
from ops_cuda.filtered_lrelu.reference import Geometry
from sg3.networks.compiled import compile_synthesis

PATHS = ["reference", "composed"] + ([] if numba_cpu.missing() else ["cpu"])
GEOMETRY = Geometry(2, 2, (9, 8, 9, 8), 2**0.5, 0.2, 1.0, False)


def forward_arguments(path: str, keep_states: bool, requires_grad: bool = False):
    torch.manual_seed(0)
    g = GEOMETRY
    x = torch.randn(2, 3, 9, 11, requires_grad=requires_grad)
    fu, fd = torch.rand(12), torch.rand(12, 12)
    settings = (g.up, g.down, list(g.padding), g.gain, g.slope, g.clamp, g.flip_filter)
    return x, torch.randn(3), torch.rand(2, 3), fu, fd, *settings, keep_states, path


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("keep_states", [False, True])
def test_opcheck_of_the_forward_pass(path, keep_states):
    arguments = forward_arguments(path, keep_states, requires_grad=keep_states)
    torch.library.opcheck(operator._forward, arguments)
    x = arguments[0].detach().to(memory_format=torch.channels_last)
    torch.library.opcheck(operator._forward, (x, *arguments[1:]), test_utils="test_faketensor")


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_opcheck_of_the_gradient(path):
    x, b, _, fu, fd, *_ = forward_arguments(path, True)
    y, states = operator.PATHS[path].forward_with_states(x, fu, fd, b, GEOMETRY)
    back = GEOMETRY.transposed(x.shape, fu, fd)
    settings = (back.up, back.down, list(back.padding), back.gain, back.slope, back.flip_filter)
    dy = torch.randn_like(y).requires_grad_(True)
    arguments = (dy, fd, fu, states, *settings, list(back.offset), path)
    torch.library.opcheck(operator._linear, arguments)


@pytest.mark.parametrize("ops", ["auto", "reference"])
def test_compiles_as_one_graph(monkeypatch, ops):
    monkeypatch.setenv("SG3_OPS", ops)
    torch._dynamo.reset()
    torch.manual_seed(0)
    x, b, f = torch.randn(2, 3, 9, 11, requires_grad=True), torch.randn(3), torch.rand(12)

    def function(x):
        return ops_cuda.filtered_lrelu(x, f, f, b, up=2, down=2, padding=[9, 8, 9, 8], clamp=1.0)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    y, expected = compiled(x), function(x)
    assert torch.equal(y, expected)
    weights = torch.randn_like(y)
    gradients = [torch.autograd.grad((out * weights).sum(), x)[0] for out in (y, expected)]
    assert torch.equal(*gradients)


@pytest.mark.slow
def test_a_whole_generator_compiles_as_one_graph():
    torch._dynamo.reset()
    G = sg3.load("mini-faces").G_ema
    ws = G.mapping(torch.from_numpy(np.random.RandomState(0).randn(1, G.z_dim)))
    compiled = torch.compile(G.synthesis, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(ws), G.synthesis(ws), atol=1e-4)


def test_no_states_are_stored_without_a_gradient(monkeypatch):
    kept = []
    monkeypatch.setattr(operator, "_forward", lambda *a: (kept.append(a[-2]), a[:1])[1])
    x, f = torch.randn(1, 2, 9, 9), torch.rand(12)
    ops_cuda.filtered_lrelu(x, f, f, up=2, down=2, padding=9)
    with torch.no_grad():
        ops_cuda.filtered_lrelu(x.requires_grad_(True), f, f, up=2, down=2, padding=9)
    ops_cuda.filtered_lrelu(x, f, f, up=2, down=2, padding=9)
    assert kept == [False, False, True]


@pytest.mark.skipif(bool(numba_cpu.missing()), reason="needs Numba")
def test_states_take_two_bits():
    x, f = torch.randn(1, 20, 148, 148), torch.rand(12)
    _, states = numba_cpu.forward_with_states(x, f, f, None, GEOMETRY)
    middle = GEOMETRY.middle_size(148, 148, f)
    assert states.numel() < 1.4 * 20 * middle[0] * middle[1] / 4


@pytest.mark.slow
@pytest.mark.parametrize("small_batches", [False, True])
def test_a_compiled_generator_is_the_same_generator(small_batches):
    """In place: names, images and gradients stay (inductor itself needs a C++ compiler)."""
    G = sg3.load("mini-faces").G_ema
    ws = G.mapping(torch.randn(1, G.z_dim)).requires_grad_(True)
    names, expected = list(G.state_dict()), G.synthesis(ws)
    (gradient,) = torch.autograd.grad(expected.square().sum(), ws)
    compile_synthesis(G, small_batches, backend="aot_eager")
    images = G.synthesis(ws)
    (compiled_gradient,) = torch.autograd.grad(images.square().sum(), ws)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert list(G.state_dict()) == names
    assert torch.allclose(images, expected, atol=1e-4)
    assert torch.allclose(compiled_gradient, gradient, rtol=1e-3, atol=1e-3 * gradient.abs().max())


def test_compiling_without_a_compiler_is_one_line(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ValueError, match=r"compile: needs a C\+\+ compiler"):
        compile_synthesis(sg3.load("mini-faces").G_ema)
