"""The discriminator: reference numbers, state dict, Freeze-D, minibatch std, errors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from sg3.networks import build_network
from sg3.networks.discriminator import Discriminator, minibatch_std

GOLDEN = Path(__file__).parent / "golden"


def golden(name):
    """Network with the reference weights, and the reference numbers."""
    kwargs = json.loads((GOLDEN / f"{name}.json").read_text())["kwargs"]
    network = build_network("discriminator", kwargs)
    network.load_state_dict(load_file(GOLDEN / f"{name}.safetensors"), strict=True)
    numbers = {k: torch.from_numpy(v) for k, v in np.load(GOLDEN / f"{name}.io.npz").items()}
    return network, numbers


def relative_error(got, expected):
    return ((got - expected).norm() / expected.norm().clamp(min=1e-12)).item()


@pytest.mark.parametrize("name", ["disc-32", "disc-32-cond"])
def test_reference_numbers(name):
    network, ref = golden(name)
    img = ref["img"].requires_grad_(True)
    logits = network(img, ref["c"])
    (r1_grads,) = torch.autograd.grad(logits.sum(), img, create_graph=True)
    penalty = r1_grads.square().sum([1, 2, 3])
    assert relative_error(logits, ref["logits"]) < 1e-5
    assert relative_error(r1_grads, ref["r1_grads"]) < 1e-5
    assert relative_error(penalty, ref["r1_penalty"]) < 1e-5
    (F.softplus(-logits).squeeze(1) + 5 * penalty).mean().backward()
    names = [k.removeprefix("grad_norm/") for k in ref if k.startswith("grad_norm/")]
    assert sorted(names) == sorted(n for n, _ in network.named_parameters())
    for n, p in network.named_parameters():
        assert relative_error(p.grad.norm(), ref[f"grad_norm/{n}"]) < 1e-4, n
