"""Devices other than CUDA and the CPU, as far as they can be simulated here."""

from pathlib import Path

import pytest
import torch
import yaml
from tiny_runs import TINY, TINY_SG3, noise_images
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sg3 import devices
from sg3.training import TrainConfig, train
from sg3.training.stats import Statistics

torchgen = pytest.importorskip("torchgen")
TABLE = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
#: Kernels that serve every device, besides its own.
COMMON = ("CompositeImplicitAutograd", "CompositeExplicitAutograd")


def operators_of(device: str) -> set[str]:
    """Names of the operators that this torch has for a device, by its own table."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    entries = yaml.load(TABLE.read_text(encoding="utf-8"), loader)
    table = {entry["func"].split("(")[0]: entry for entry in entries}

    def has(entry) -> bool:
        if "structured_delegate" in entry:
            return has(table[entry["structured_delegate"]])
        keys = ",".join(entry.get("dispatch", {COMMON[0]: ""})).replace(" ", "").split(",")
        return device in keys or any(key.startswith(COMMON) for key in keys)

    return {name for name, entry in table.items() if has(entry)}


class Recorded(TorchDispatchMode):
    """Names of operators that ran; with `single` raises for tensors in double precision."""

    def __init__(self, single: bool = True):
        super().__init__()
        self.names, self.single = set(), single

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.names.add(function.name())
        wide = [t for t in tree_leaves((args, result)) if isinstance(t, torch.Tensor)]
        if self.single and any(t.dtype in (torch.float64, torch.complex128) for t in wide):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return result


@pytest.mark.slow
@pytest.mark.parametrize(
    "cfg, settings", [("stylegan3-t", TINY_SG3), ("stylegan3-r", TINY_SG3), ("stylegan2", TINY)]
)
def test_a_training_step_needs_what_apple_has(cfg, settings, tmp_path, monkeypatch):
    """No float64, and only operators for MPS; ADA, R1 and path length included."""
    config = TrainConfig(
        cfg=cfg, data=noise_images(tmp_path), outdir=str(tmp_path / "runs"), kimg=0.02,
        metrics=(), gamma=1, **settings | {"aug": "ada"},
    )  # fmt: skip
    monkeypatch.setenv("SG3_OPS", "composed")
    monkeypatch.setattr(devices, "WITHOUT_FLOAT64", ("cpu",))
    steps = train(config)
    next(steps)  # filters are designed in float64 on the CPU; so are networks initialized
    with Recorded() as recorded:
        assert len(list(steps)) > 2
    own = {name.removeprefix("aten::") for name in recorded.names if name.startswith("aten::")}
    assert len(own) > 50 and "grid_sampler_2d_backward" in own
    assert own <= operators_of("MPS") and own <= operators_of("XPU")


@pytest.mark.slow
def test_the_composition_needs_what_apple_has(monkeypatch):
    """Inside the operator, where the test above does not see."""
    from ops_cuda.filtered_lrelu import composed
    from ops_cuda.filtered_lrelu.reference import Geometry

    x, f, geometry = torch.randn(2, 3, 9, 9), torch.rand(12), Geometry(2, 2, (9,) * 4, 1, 0.2, 1, 0)
    composed.forward_with_states(x, f, f, None, geometry)  # builds the matrices in float64
    back = geometry.transposed(x.shape, f, f)
    y, states = composed.forward_with_states(x, f, f, None, geometry)
    composed.linear(y, f, f, states, back)
    with Recorded() as recorded:
        y, states = composed.forward_with_states(x, f, f, torch.ones(3), geometry)
        composed.linear(y, f, f, states, back)
    own = {name.removeprefix("aten::") for name in recorded.names}
    assert "baddbmm_" in own and own <= operators_of("MPS") and own <= operators_of("XPU")


def test_the_double_refuses_float64():
    with pytest.raises(TypeError, match="float64"), Recorded():
        torch.zeros(2, dtype=torch.float64)
    assert "_pdist_forward" in operators_of("CPU") - operators_of("MPS")


def test_sums_in_single_precision_are_about_the_same(monkeypatch):
    values = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    found = []
    for lacking in ((), ("cpu",)):
        monkeypatch.setattr(devices, "WITHOUT_FLOAT64", lacking)
        stats = Statistics()
        for _ in range(20):
            stats.report("x", values)
        found.append(stats.pop()["x"])
    assert found[1]["num"] == found[0]["num"] == 20000
    assert found[1]["mean"] == pytest.approx(found[0]["mean"], rel=1e-5)
    assert found[1]["std"] == pytest.approx(found[0]["std"], rel=1e-4)


@pytest.mark.parametrize("kind", ["mps", "xpu", "maia"])
def test_names_of_devices(kind, monkeypatch):
    with pytest.raises(ValueError, match=f"0 {kind.upper()} devices"):
        devices.resolve_device(kind)
    module = type("Module", (), {"device_count": staticmethod(lambda: 2)})
    monkeypatch.setattr(devices, "accelerator", lambda: kind)
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    assert devices.resolve_device() == torch.device(kind)
    assert devices.resolve_device(f"{kind}:1") == torch.device(kind, 1)
    with pytest.raises(ValueError, match=f"got '{kind}:2', but this machine has 2"):
        devices.resolve_device(f"{kind}:2")
    with pytest.raises(ValueError, match="expected auto, cpu, cuda"):
        devices.resolve_device("gpu")


def test_apples_gpu_takes_one_process(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="one process only"):
        devices.of_process(torch.device("mps"))
