"""Dispatch of operators: SG3_OPS, comparison with the reference, fallback."""

import subprocess
import sys
import warnings
from types import ModuleType

import pytest
import torch
from click.testing import CliRunner

import ops_cuda
from ops_cuda import choose
from ops_cuda.filtered_lrelu import numba_cpu, operator, reference

needs_numba = pytest.mark.skipif(bool(numba_cpu.missing()), reason="needs Numba")


@pytest.fixture
def filters():
    return torch.rand(12), torch.rand(12)


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(operator.OPERATOR, "_verdicts", {})


def chosen(dtype=torch.float32) -> str:
    return operator.OPERATOR.path("cpu", dtype)


@needs_numba
def test_auto_uses_the_fused_path(monkeypatch):
    monkeypatch.delenv("SG3_OPS", raising=False)
    assert chosen() == "cpu"
    assert chosen(torch.float64) == "reference"
    monkeypatch.setenv("SG3_OPS", "cpu")
    assert chosen() == "cpu"


def test_without_numba_the_torch_path_is_used(monkeypatch):
    monkeypatch.delenv("SG3_OPS", raising=False)
    monkeypatch.setattr(numba_cpu, "missing", lambda: "Numba is not installed")
    assert chosen() == "composed"
    monkeypatch.setenv("SG3_OPS", "cpu")
    assert chosen() == "composed"


@pytest.mark.parametrize("value", ["reference", "triton"])
def test_a_path_can_be_disabled(monkeypatch, value):
    monkeypatch.setenv("SG3_OPS", value)
    assert chosen() == "reference"


def test_an_unknown_choice_is_refused(filters, monkeypatch):
    monkeypatch.setenv("SG3_OPS", "fast")
    with pytest.raises(ValueError, match="SG3_OPS: got 'fast'"):
        ops_cuda.filtered_lrelu(torch.randn(1, 2, 9, 9), *filters, up=2, down=2, padding=8)


def broken_path(forward):
    """A path that is correct except for its forward pass."""
    functions = {name: getattr(reference, name) for name in ("forward_with_states", "linear")}
    functions |= {"forward": forward, "missing": lambda: ""}
    path = ModuleType("broken")
    vars(path).update(functions, DEVICE_TYPE="cpu", DTYPES=(torch.float32,))
    return path


def wrong(*arguments):
    return reference.forward(*arguments) * 1.001


def failing(*arguments):
    raise RuntimeError("no compiler here")


def not_a_number(*arguments):
    return reference.forward(*arguments) * float("nan")


@pytest.mark.parametrize(
    "forward, reason",
    [(wrong, "differs from the reference by 1.0e-03"), (failing, "no compiler here"),
     (not_a_number, "differs from the reference by inf")],
)  # fmt: skip
def test_a_wrong_path_is_disabled_with_one_warning(monkeypatch, forward, reason):
    monkeypatch.delenv("SG3_OPS", raising=False)
    monkeypatch.setitem(operator.PATHS, "cpu", broken_path(forward))
    with pytest.warns(UserWarning, match=reason):
        assert chosen() == "composed"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert chosen() == "composed"
    assert reason in choose.report()["filtered_lrelu, cpu"]


@pytest.mark.slow
def test_doctor_reports_the_paths(monkeypatch):
    from sg3.cli.main import cli

    monkeypatch.delenv("SG3_OPS", raising=False)
    output = CliRunner().invoke(cli, ["doctor"]).output
    assert "torch:" in output and "gpu:" in output
    expected = numba_cpu.missing() or "agrees with the reference"
    assert expected in output
    monkeypatch.setenv("SG3_OPS", "reference")
    assert "disabled by SG3_OPS=reference" in CliRunner().invoke(cli, ["doctor"]).output
    monkeypatch.setenv("SG3_OPS", "quick")
    result = CliRunner().invoke(cli, ["doctor"])
    assert result.exit_code == 2 and "SG3_OPS: got 'quick'" in result.output


@pytest.mark.slow
def test_everything_works_where_numba_and_triton_are_missing():
    code = (
        "import sys; sys.modules |= {'numba': None, 'triton': None}\n"
        "import torch, ops_cuda\n"
        "from ops_cuda import choose\n"
        "x, f = torch.randn(1, 2, 9, 9), torch.rand(12)\n"
        "y = ops_cuda.filtered_lrelu(x, f, f, up=2, down=2, padding=9)\n"
        "ops_cuda.upfirdn2d(x, f, padding=6), ops_cuda.bias_act(x, act='lrelu')\n"
        "found = choose.report()\n"
        "print(y.shape, found['filtered_lrelu, cpu'], found['bias_act, triton'])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "Numba is not installed" in result.stdout
    assert "or newer is not installed" in result.stdout
