"""Equivariance transforms against reference values; PSNR against direct sums."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from sg3.metrics import evaluate
from sg3.metrics.equivariance import (
    TRANSLATE_MAX,
    bandlimit_filter,
    draws,
    pseudo_rotate,
    psnr,
    rotate,
    rotation_matrix,
    translate_fractional,
    translate_integer,
)
from sg3.networks import build_network

KINDS = ("eqt{}k_int", "eqt{}k_frac", "eqr{}k")


@pytest.fixture(scope="module")
def golden(root):
    folder = root / "tests" / "golden"
    cases = json.loads((folder / "equivariance.json").read_text())
    return cases, np.load(folder / "equivariance.npz")


def value(name, G, **options):
    return evaluate(name, G, None, **options)["results"][name]


def test_translations_equal_the_reference(golden):
    cases, arrays = golden
    x = torch.from_numpy(arrays["x"])
    for case in (c for c in cases if "tx" in c):
        shift = case["tx"] * x.shape[3], case["ty"] * x.shape[2]
        whole = translate_integer(x, *map(round, shift))
        for name, (moved, mask) in (("int", whole), ("frac", translate_fractional(x, *shift))):
            key = f"{name}{case['i']}"
            np.testing.assert_allclose(moved.numpy(), arrays[key], atol=1e-5)
            np.testing.assert_array_equal(mask.numpy(), arrays[f"{key}_mask"])


def test_rotations_equal_the_reference(golden):
    cases, arrays = golden
    x = torch.from_numpy(arrays["x"])
    for case in (c for c in cases if "angle" in c):
        for name, operator in (("rot", rotate), ("prot", pseudo_rotate)):
            moved, mask = operator(x, case["angle"])
            key = f"{name}{case['i']}"
            np.testing.assert_allclose(moved.numpy(), arrays[key], atol=5e-5)
            np.testing.assert_array_equal(mask.numpy(), arrays[f"{key}_mask"])


def test_a_constant_is_preserved_inside_the_mask():
    x = torch.full([1, 1, 24, 40], 0.7, dtype=torch.float64)
    for moved, mask in (translate_fractional(x, 3.3, -2.6), rotate(x, 0.4), pseudo_rotate(x, 0.4)):
        assert mask.shape == moved.shape == x.shape and 0.1 < mask.mean() < 0.9
        assert float(((moved - 0.7) * mask).abs().max()) < 1e-9
    far, mask = translate_fractional(x, 100, -100)
    assert float(far.abs().max()) == float(mask.max()) == 0


def test_filters_band_limit_to_both_grids():
    taps = bandlimit_filter(rotation_matrix(0.3), up=4)
    assert taps.shape == (47, 47) and float(taps.sum()) == pytest.approx(1)
    response = torch.fft.fft2(taps, s=[256, 256]).abs()  # 4 taps per sample: 1/2 is bin 32
    assert float((response[:20, :20] - 1).abs().max()) < 0.15  # inside both squares
    assert float(response[0, 48:128].max()) < 0.05  # outside both


class WaveSynthesis(nn.Module):
    """Smooth waves of the transformed position, or of the original one if `stuck`."""

    def __init__(self, size, stuck):
        super().__init__()
        self.size, self.stuck, self.input = size, stuck, nn.Module()
        self.input.register_buffer("transform", torch.eye(3))

    def forward(self, ws, noise_mode, force_fp32):
        assert (noise_mode, force_fp32) == ("const", True)
        axis = (torch.arange(self.size, dtype=torch.float64) + 0.5) / self.size - 0.5
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        matrix = torch.eye(3) if self.stuck else self.input.transform
        here = torch.stack([x, y, torch.ones_like(x)])
        x, y = torch.tensordot(matrix.to(torch.float64), here, dims=1)[:2] * (2 * math.pi)
        phase = ws.to(torch.float64)[:, :, None, None].unbind(dim=1)
        parts = [torch.sin(3 * x + 2 * y + phase[0]), torch.cos(4 * y - x + phase[1])]
        parts.append(torch.sin(5 * x + phase[2]) * torch.cos(2 * y + phase[3]))
        return torch.stack(parts, dim=1).to(torch.float32) * 0.5


class Waves(nn.Module):
    """A generator that is exactly equivariant, or not at all if `stuck`."""

    c_dim, z_dim = 0, 4

    def __init__(self, size=64, stuck=False):
        super().__init__()
        self.synthesis = WaveSynthesis(size, stuck)
        self.scale = nn.Parameter(torch.ones([]))

    def mapping(self, z, c):
        return z * self.scale


def test_an_equivariant_generator_and_one_that_sticks():
    """For exact waves only rounding remains, and for rotations the filters' transition band."""
    found = [value(kind.format("0.012"), Waves()) for kind in KINDS]
    assert found[0] > 110 and found[1] > 60 and found[2] > 40
    stuck = [value(kind.format("0.012"), Waves(stuck=True)) for kind in KINDS]
    assert max(stuck) < 20


def tiny_network(**changes):
    torch.manual_seed(0)
    kwargs = dict(z_dim=8, c_dim=0, w_dim=8, img_resolution=32, img_channels=3, num_layers=4)
    kwargs.update(channel_base=64, channel_max=8, margin_size=4)
    return build_network("stylegan3", {**kwargs, **changes}).eval().requires_grad_(False)


def render(G, draw, matrix):
    transform = G.synthesis.input.transform
    before = transform.clone()
    transform.copy_(torch.as_tensor(matrix))
    images = G(draw.z, draw.c, noise_mode="const", force_fp32=True).numpy().astype(np.float64)
    transform.copy_(before)
    return images


def lanczos_matrix(size, shift):
    """`[size, size]` that shifts a row, from the kernel's formula."""
    x = np.arange(size)[:, None] - np.arange(size) - shift
    kernel = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
    reach = np.arange(-10, 10) - (shift - np.floor(shift))
    return kernel / np.sum(np.where(np.abs(reach) < 3, np.sinc(reach) * np.sinc(reach / 3), 0))


def test_translation_equals_direct_sums():
    """The published formula, written as matrices in float64."""
    G, size = tiny_network(), 32
    for whole, name in ((True, "eqt0.01k_int"), (False, "eqt0.01k_frac")):
        error = count = 0.0
        for draw in draws(G, None, 10, seed=3):
            assert max(np.abs(draw.shift)) <= TRANSLATE_MAX
            tx, ty = (t * size for t in draw.shift)
            tx, ty = (float(round(tx)), float(round(ty))) if whole else (tx, ty)
            still = render(G, draw, np.eye(3))
            image = render(G, draw, [[1, 0, -tx / size], [0, 1, -ty / size], [0, 0, 1]])
            target = lanczos_matrix(size, ty) @ still @ lanczos_matrix(size, tx).T
            before, after = (0, 0) if whole else (3, 2)  # read by the kernel on either side
            inside = [
                (np.arange(size) >= math.floor(t) + before)
                & (np.arange(size) < size + math.floor(t) - after)
                for t in (ty, tx)
            ]
            mask = np.broadcast_to(np.outer(*inside), image.shape)
            error += ((image - target) ** 2 * mask).sum()
            count += mask.sum()
        expected = 10 * math.log10(4 / (error / count))
        assert value(name, G, seed=3) == pytest.approx(expected, abs=1e-3)
    assert torch.equal(G.synthesis.input.transform, torch.eye(3))


def test_rotation_equals_the_same_in_float64():
    G = tiny_network(conv_kernel=1, use_radial_filters=True)
    error = count = 0.0
    for draw in draws(G, None, 6, seed=0):
        cos, sin = math.cos(draw.angle), math.sin(draw.angle)
        still = torch.from_numpy(render(G, draw, np.eye(3)))
        image = torch.from_numpy(render(G, draw, [[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]))
        (target, a), (image, b) = rotate(still, draw.angle), pseudo_rotate(image, draw.angle)
        error += float(((image - target).square() * a * b).sum())
        count += float((a * b).sum())
    assert value("eqr0.006k", G) == pytest.approx(psnr(error, count), abs=1e-2)


def test_images_that_are_not_square():
    found = value("eqt0.008k_int", tiny_network(img_resolution=(16, 32), margin_size=8))
    square = value("eqt0.008k_int", tiny_network(margin_size=8))
    assert found > 20 and square > 20


def test_psnr():
    assert psnr(4.0, 1.0) == pytest.approx(0)
    assert psnr(0.04, 1.0) == pytest.approx(20)
    assert psnr(0.0, 1.0) == math.inf


def test_stylegan2_has_no_transform():
    G = build_network(
        "stylegan2",
        dict(z_dim=8, c_dim=0, w_dim=8, img_resolution=16, img_channels=3, channel_base=64),
    )
    with pytest.raises(ValueError, match="StyleGAN3"):
        evaluate("eqr0.004k", G, None)
