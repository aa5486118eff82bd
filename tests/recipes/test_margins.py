"""Wider margins: same weights, same image inside, equivariance up to the border."""

from __future__ import annotations

import pytest
import torch

import sg3
from recipes.minifaces.generator.margins import move_delta, with_margin
from sg3.checkpoints.delta import apply_deltas, difference, load_delta, save_delta
from sg3.metrics import evaluate
from sg3.networks import build_network

SMALL = dict(
    z_dim=8, c_dim=0, w_dim=8, img_resolution=16, img_channels=3, channel_base=128, channel_max=8,
    num_layers=4, margin_size=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return build_network("stylegan3", SMALL).eval().requires_grad_(False)


def test_the_inside_does_not_change(small):
    z = torch.randn(4, 8)
    narrow, wide = small(z, None), with_margin(small, 12)(z, None)
    assert narrow.shape == wide.shape
    error = (narrow - wide).square()
    assert error[..., 6:10, 6:10].mean() < 0.1 * error.mean()
    assert torch.equal(with_margin(with_margin(small, 12), 3)(z, None), narrow)


def test_a_delta_is_renamed_with_its_network(small, tmp_path):
    adapted = with_margin(small, 3)
    for parameter in adapted.synthesis.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    path, z = tmp_path / "d.safetensors", torch.randn(2, 8)
    save_delta(difference(small, adapted), path)
    wide = with_margin(small, 8)
    move_delta(path, small, wide)
    moved = apply_deltas(wide, [(load_delta(path), 1)])(z, None)
    assert (moved - wide(z, None)).abs().max() > 0.1
    torch.testing.assert_close(moved, with_margin(adapted, 8)(z, None), atol=5e-3, rtol=0)
    with pytest.raises(ValueError, match="another network"):
        move_delta(path, small, wide)


@pytest.mark.slow
def test_the_bundled_network_is_equivariant():
    """A StyleGAN3-T should reach more than 50 dB (StyleGAN3, Table 1)."""
    found = evaluate("eqt0.05k_int", sg3.load("mini-faces").G_ema, None)["results"]
    assert found["eqt0.05k_int"] > 52


@pytest.mark.slow
def test_only_configuration_r_is_equivariant_to_rotations():
    """As in StyleGAN3, Table 1; both are equivariant to translations."""
    found = {
        name: evaluate("eqr0.02k", sg3.load(name).G_ema, None)["results"]["eqr0.02k"]
        for name in ("mini-faces", "mini-faces-r")
    }
    assert found["mini-faces"] < 15 and found["mini-faces-r"] > 26, found
    moved = evaluate("eqt0.02k_int", sg3.load("mini-faces-r").G_ema, None)["results"]
    assert moved["eqt0.02k_int"] > 50


def test_other_networks_are_refused():
    with pytest.raises(ValueError, match="only it has margins"):
        with_margin(sg3.load("mini-faces-stylegan2").G_ema, 7)
