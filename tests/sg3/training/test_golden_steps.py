"""Training reproduces the reference's own training loop, and fast operators do not change it."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys

import pytest
import repository
import torch

from sg3.networks import build_network
from sg3.training.loss import GANLoss, LossConfig

SCRIPT = repository.ROOT / "tests" / "support" / "golden_steps.py"
#: Largest allowed error of any tensor after that many steps, relative to its norm. Both runs are
#: float64; StyleGAN3's many filters amplify rounding more than StyleGAN2's.
LIMITS = {"stylegan2": 1e-12, "stylegan3-t": 1e-7, "stylegan3-r": 1e-7}
#: The first step has every phase. A step by the reference operators takes seconds. All 32 agree as
#: well (docs/LOG.md): SG3_GOLDEN_STEPS=32 runs them.
STEPS = {"stylegan2": 16, "stylegan3-t": 4, "stylegan3-r": 2}
if "SG3_GOLDEN_STEPS" in os.environ:
    STEPS = dict.fromkeys(STEPS, int(os.environ["SG3_GOLDEN_STEPS"]))


@functools.cache
def errors(cfg: str, ops: str) -> dict[str, float]:
    paths = os.pathsep.join([str(repository.ROOT), str(SCRIPT.parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "SG3_OPS": ops, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), cfg, str(STEPS[cfg])],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cfg", "ops"),
    [
        ("stylegan2", "reference"),
        ("stylegan2", "auto"),  # its fast operators take float64; those of StyleGAN3 do not
        ("stylegan3-t", "reference"),
        ("stylegan3-r", "reference"),
    ],
)
def test_training_follows_the_reference(cfg, ops):
    found = errors(cfg, ops)
    recorded = [step for step in (0, 1, 2, 4, 16, 32) if step <= STEPS[cfg]]
    assert list(map(int, found)) == recorded
    assert max(found.values()) < LIMITS[cfg], found


NETWORKS = {
    "stylegan2": ("stylegan2", {"channel_base": 256, "channel_max": 8}),
    "stylegan3-t": ("stylegan3", {"channel_base": 256, "channel_max": 8, "num_layers": 4}),
    "stylegan3-r": (
        "stylegan3",
        {
            "channel_base": 512, "channel_max": 16, "num_layers": 4, "conv_kernel": 1,
            "use_radial_filters": True,
        },
    ),
}  # fmt: skip


def gradients(cfg: str, phase: str) -> dict[str, torch.Tensor | None]:
    """Gradients of one phase, for networks and inputs that depend on nothing else."""
    torch.manual_seed(0)
    kind, sizes = NETWORKS[cfg]
    common = {"c_dim": 0, "img_resolution": 32, "img_channels": 3}
    mapping = {"num_layers": 2}
    G = build_network(
        kind, {"z_dim": 16, "w_dim": 16, "mapping_kwargs": mapping, **common, **sizes}
    )
    D = build_network("discriminator", {"channel_base": 256, "channel_max": 16, **common})
    network = G if phase.startswith("G") else D
    G.train().requires_grad_(network is G)
    D.train().requires_grad_(network is D)
    pl_weight = 2.0 if cfg == "stylegan2" else 0.0
    config = LossConfig(
        r1_gamma=0.1, style_mixing_prob=0.9, pl_weight=pl_weight, blur_init_sigma=2,
        blur_fade_kimg=1,
    )  # fmt: skip
    real, z = torch.rand(4, 3, 32, 32) * 2 - 1, torch.randn(4, 16)
    empty = torch.zeros(4, 0)
    GANLoss(G, D, config).accumulate_gradients(phase, real, empty, z, empty, gain=1, cur_nimg=0)
    return {name: parameter.grad for name, parameter in network.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["Gmain", "Greg", "Dmain", "Dreg"])
@pytest.mark.parametrize("cfg", NETWORKS)
def test_fast_operators_give_the_gradients_of_the_reference(cfg, phase, monkeypatch):
    if phase == "Greg" and cfg != "stylegan2":
        pytest.skip("only StyleGAN2 regularizes path lengths")
    monkeypatch.setenv("SG3_OPS", "reference")
    expected = gradients(cfg, phase)
    monkeypatch.delenv("SG3_OPS")
    found = gradients(cfg, phase)
    missing = {name for name, gradient in expected.items() if gradient is None}
    assert {name for name, gradient in found.items() if gradient is None} == missing
    assert len(missing) < len(expected)
    scale = max(float(g.norm()) for g in expected.values() if g is not None)
    for name, gradient in expected.items():
        if gradient is not None:
            error = float((found[name] - gradient).norm())
            assert error <= 1e-5 * max(float(gradient.norm()), 1e-3 * scale), name
