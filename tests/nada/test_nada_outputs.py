"""What an adaptation shows and checks: spectrum, curves, walk, target images."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import pytest
import torch
from PIL import Image

from nada.adaptation_record import walk
from nada.curves import draw_curves
from nada.spectrum import VISIBLE, spectral_change
from nada.target_images import load_target_images
from sg3.errors import UserError


def test_the_spectral_check_finds_grids():
    random = torch.Generator().manual_seed(0)
    before = 0.2 * torch.randn([8, 3, 32, 40], generator=random)
    nothing = spectral_change(before, before)
    assert (nothing.top_octave, nothing.axes, nothing.diagonal, nothing.advice) == (0, 0, 0, None)
    louder = spectral_change(before, 2 * before)  # twice the amplitude, four times the power
    assert louder.top_octave == pytest.approx(6.02, abs=0.2)
    assert 5 < louder.axes < 6.1 and 5 < louder.diagonal < 6.1
    signs = torch.tensor([1.0, -1.0])
    lines = 0.08 * signs.repeat(20).expand(32, 40)
    board = lines * signs.repeat(16)[:, None]
    columns, checks = (spectral_change(before, before + grid) for grid in (lines, board))
    assert columns.axes > 6 > 1 > abs(columns.diagonal)
    assert checks.diagonal > 6 > 1 > abs(checks.axes)
    assert "grid" in columns.advice and "grid" in checks.advice


def test_the_power_of_a_wave_is_its_variance():
    """A wave of amplitude 0.3 has the variance 0.045, under any window."""
    wave = 0.3 * torch.cos(torch.arange(64) * 2 * torch.pi * 0.3).expand(1, 1, 64, 64)
    change = spectral_change(torch.zeros([1, 1, 64, 64]), wave)
    expected = 10 * math.log10((0.045 + VISIBLE**2) / VISIBLE**2)
    assert change.top_octave == pytest.approx(expected, abs=0.1)
    assert abs(change.axes) < 0.01 and abs(change.diagonal) < 0.01


def test_changes_too_faint_to_see_are_no_grid():
    smooth = torch.linspace(-0.5, 0.5, 32).expand(2, 3, 32, 32)
    signs = torch.tensor([1.0, -1.0]).repeat(16)
    assert spectral_change(smooth, smooth + 0.005 * signs).advice is None
    assert spectral_change(smooth, smooth + 0.05 * signs).advice is not None


@pytest.mark.slow
def test_curves_survive_whatever_the_records_hold():
    records = [{"step": 0, "loss": None, "agreement": 0.0}, {"step": 1, "loss": float("nan")}]
    for some in ([], records[:1], records, [*records, {"step": 2, "loss": 0.5, "length": 3}]):
        root = ET.fromstring(draw_curves(some, "a < b & c", floor=0.4))
        assert "a < b & c" in "".join(root.itertext())
        assert "nan" not in ET.tostring(root, encoding="unicode")


def test_a_walk_is_closed_and_visits_every_latent():
    ws = torch.randn([8, 3, 4])
    way = walk(ws, 64, 64)
    assert way.shape == (6 * 24, 3, 4)
    torch.testing.assert_close(way[::24], ws[:6])
    torch.testing.assert_close(way[12], (ws[0] + ws[1]) / 2)
    steps = (way - way.roll(1, 0)).norm(dim=(1, 2))
    assert steps.max() < 0.1 * (ws[:6] - ws[:6].roll(1, 0)).norm(dim=(1, 2)).max()
    assert len(walk(ws, 1024, 1024)) == 6 * 4


def test_target_images_are_cropped_and_scaled(tmp_path):
    image = Image.new("RGB", (30, 20), "white")
    image.paste("red", (0, 0, 5, 20))
    image.save(tmp_path / "a.png")
    Image.new("L", (7, 9), 0).save(tmp_path / "b.jpg")
    images = load_target_images(tmp_path, 16)
    assert images.shape == (2, 3, 16, 16)
    assert images[0].min() == 1 and images[1].max() == -1
    (tmp_path / "c.png").write_bytes(b"not an image")
    told = []
    assert torch.equal(load_target_images(tmp_path, 16, told.append), images)
    assert told == [
        f"skipped: cannot read image c.png in {tmp_path}: not an image that can be identified"
    ]
    (tmp_path / "a.png").unlink(), (tmp_path / "b.jpg").unlink()
    with pytest.raises(UserError, match=r"target_images: cannot read image c\.png"):
        load_target_images(tmp_path, 16)
