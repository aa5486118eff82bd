"""The StyleGAN2 generator: reference numbers, state dict, noise, style mixing, errors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sg3.networks import build_network

GOLDEN = Path(__file__).parent / "golden"


def golden(name):
    """Network with the reference weights, and the reference numbers."""
    kwargs = json.loads((GOLDEN / f"{name}.json").read_text())["kwargs"]
    network = build_network("stylegan2", kwargs)
    network.load_state_dict(load_file(GOLDEN / f"{name}.safetensors"), strict=True)
    numbers = {k: torch.from_numpy(v) for k, v in np.load(GOLDEN / f"{name}.io.npz").items()}
    return network, numbers


def relative_error(got, expected):
    return ((got - expected).norm() / expected.norm().clamp(min=1e-12)).item()


@pytest.mark.parametrize("name", ["sg2-32", "sg2-32-resnet"])
def test_reference_numbers(name):
    network, ref = golden(name)
    assert relative_error(network.mapping(ref["z"], ref["c"]), ref["ws"]) < 1e-5
    truncated = network.mapping(ref["z"], ref["c"], truncation_psi=0.5)
    assert relative_error(truncated, ref["ws_psi05"]) < 1e-5
    none = network(ref["z"], ref["c"], noise_mode="none")
    assert relative_error(none, ref["img_none"]) < 1e-5
    ws = ref["ws"].requires_grad_(True)
    img = network.synthesis(ws, noise_mode="const")
    assert relative_error(img, ref["img_const"]) < 1e-5
    (dws,) = torch.autograd.grad(img, ws, ref["dimg"])
    assert relative_error(dws, ref["dws"]) < 1e-4
