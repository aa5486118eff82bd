"""Choosing the path of an operator: SG3_OPS, the comparison with the definition, the fallback."""

import warnings
from types import ModuleType

import pytest
import torch
from click.testing import CliRunner

import ops_cuda
from ops_cuda import choose
from ops_cuda.filtered_lrelu import definition, numba_cpu, operator

needs_numba = pytest.mark.skipif(numba_cpu.numba is None, reason="needs Numba")


@pytest.fixture
def case():
    return torch.randn(1, 2, 9, 9), torch.rand(12), torch.rand(12)


@pytest.fixture(autouse=True)
def forget():
    choose._verdict.cache_clear()
    yield
    choose._verdict.cache_clear()


@needs_numba
def test_auto_takes_the_fused_path(case, monkeypatch):
    monkeypatch.delenv("SG3_OPS", raising=False)
    assert operator._path(*case) is numba_cpu
    monkeypatch.setenv("SG3_OPS", "cpu")
    assert operator._path(*case) is numba_cpu


@pytest.mark.parametrize("value", ["reference", "triton"])
def test_a_path_can_be_switched_off(case, monkeypatch, value):
    monkeypatch.setenv("SG3_OPS", value)
    assert operator._path(*case) is definition


def test_an_unknown_choice_is_refused(case, monkeypatch):
    monkeypatch.setenv("SG3_OPS", "fast")
    with pytest.raises(ValueError, match="SG3_OPS: got 'fast'"):
        ops_cuda.filtered_lrelu(case[0], case[1], case[2], up=2, down=2, padding=8)


def broken_path(forward):
    """A path that is right but for its forward pass."""
    functions = {name: getattr(definition, name) for name in ("forward_with_states", "linear")}
    functions |= {"forward": forward, "supports": lambda *arguments: True}
    path = ModuleType("broken")
    vars(path).update(functions)
    return path


def wrong(*arguments):
    return definition.forward(*arguments) * 1.001


def failing(*arguments):
    raise RuntimeError("no compiler here")


def not_a_number(*arguments):
    return definition.forward(*arguments) * float("nan")


@pytest.mark.parametrize(
    "forward, reason",
    [(wrong, "differs from the definition by 1.0e-03"), (failing, "no compiler here"),
     (not_a_number, "differs from the definition by inf")],
)  # fmt: skip
def test_a_path_that_is_wrong_is_left_out_with_one_warning(case, monkeypatch, forward, reason):
    monkeypatch.delenv("SG3_OPS", raising=False)
    path = broken_path(forward)
    monkeypatch.setattr(operator, "fast_paths", lambda: {"cpu": (path, "cpu", "")})
    with pytest.warns(UserWarning, match=reason):
        assert operator._path(*case) is definition
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert operator._path(*case) is definition
    assert reason in choose.report()["cpu"]


def test_doctor_says_what_is_in_use(monkeypatch):
    from sg3.cli.main import cli

    monkeypatch.delenv("SG3_OPS", raising=False)
    output = CliRunner().invoke(cli, ["doctor"]).output
    assert "torch:" in output and "gpu:" in output
    expected = "in use" if numba_cpu.numba else "Numba is not installed"
    assert expected in output
    monkeypatch.setenv("SG3_OPS", "reference")
    assert "switched off by SG3_OPS=reference" in CliRunner().invoke(cli, ["doctor"]).output
    monkeypatch.setenv("SG3_OPS", "quick")
    result = CliRunner().invoke(cli, ["doctor"])
    assert result.exit_code == 2 and "SG3_OPS: got 'quick'" in result.output
