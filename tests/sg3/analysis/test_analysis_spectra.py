"""Average power spectra, their charts, the command."""

from __future__ import annotations

import json
from collections import Counter
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import sg3
from sg3.analysis import charts
from sg3.analysis.spectra import (
    Normalization,
    Spectrum,
    average_spectrum,
    chart,
    difference_db,
    generated_bytes,
    heat_map,
    mean_and_std,
)
from sg3.cli.main import cli
from sg3.errors import UserError

NORM = Normalization(127.5, 50)


def noise(num: int, size: int = 16, seed: int = 0) -> torch.Tensor:
    values = np.random.RandomState(seed).randn(num, 3, size, size) * 50 + 127.5
    return torch.from_numpy(values.clip(0, 255).round().astype(np.uint8))


def test_against_the_definition():
    images = noise(2)
    found = average_spectrum("noise", [images], NORM)
    window = np.kaiser(16, 8)
    window = np.outer(window, window) / np.square(window).sum()
    x = (images.numpy().astype(np.float64) - 127.5) / 50 * window
    expected = np.square(np.abs(np.fft.fft2(x, s=(64, 64)))).mean(axis=(0, 1))
    assert np.allclose(found.power, expected, rtol=1e-9)
    assert found.size == 16 and found.num == 2


def test_white_noise_is_flat_at_zero_decibels():
    images = noise(200)
    found = average_spectrum("noise", images.split(32), mean_and_std([images]))
    assert abs(10 * np.log10(found.power.mean())) < 0.05
    assert np.abs(found.centred_db()).max() < 2


def test_batches_do_not_matter_and_sources_are_streamed():
    images = noise(9)
    one = average_spectrum("a", [images], NORM)
    asked = []
    some = average_spectrum("a", (asked.append(1) or part for part in images.split(2)), NORM)
    assert np.allclose(one.power, some.power) and len(asked) == 5
    norm = mean_and_std(images.split(4))
    assert norm.mean == pytest.approx(images.double().mean().item())
    assert norm.std == pytest.approx(images.double().std(unbiased=False).item())


def test_a_wave_is_a_peak_in_the_slice_of_its_direction():
    x = np.arange(32)
    wave = np.sin(2 * np.pi * 8 * x / 32) * 80 + 127.5
    along = torch.from_numpy(np.tile(wave, (1, 1, 32, 1)).astype(np.uint8))
    slices = average_spectrum("wave", [along], NORM).slices()
    frequency, db = slices[0]
    assert frequency[-1] == 16 and frequency[4:][db[4:].argmax()] == pytest.approx(8, abs=0.3)
    assert slices[45][0][-1] == pytest.approx(16 * 2**0.5)
    assert slices[45][1][8:].max() < db[4:].max() - 40
    diagonal = np.sin(2 * np.pi * 6 * (x[:, None] + x) / 32) * 80 + 127.5
    slanted = torch.from_numpy(diagonal[None, None].astype(np.uint8))
    frequency, db = average_spectrum("wave", [slanted], NORM).slices()[45]
    assert frequency[8:][db[8:].argmax()] == pytest.approx(6 * 2**0.5, abs=0.4)


def test_generated_images_follow_from_seed_and_index():
    G = sg3.load("mini-faces").G_ema
    (images,) = generated_bytes(G, 3, seed=5)
    z = np.random.RandomState(7).randn(G.z_dim).astype(np.float32)
    expected = (G(torch.from_numpy(z[None])) * 127.5 + 128).clamp(0, 255).to(torch.uint8)
    assert (images[2].int() - expected[0].int()).abs().max() <= 1


def test_distances():
    a = average_spectrum("a", [noise(20)], NORM)
    louder = Spectrum("b", a.power * 10, 16, 20)
    assert difference_db(a, a) == 0
    assert difference_db(a, louder) == pytest.approx(10, abs=1e-6)
    with pytest.raises(UserError, match="16"):
        difference_db(a, Spectrum("c", a.power, 32, 1))


@pytest.mark.parametrize(
    ("batches", "norm", "message"),
    [
        ([], NORM, "no images"),
        ([noise(1)[:, :, :8]], NORM, "16x8, expected square ones"),
        ([noise(1), noise(1, 32)], NORM, "expected 16x16"),
        ([noise(1)], Normalization(0, 0), "positive"),
    ],
)
def test_bad_images(batches, norm, message):
    with pytest.raises(UserError, match=message):
        average_spectrum("a", batches, norm)


@pytest.mark.slow
def test_charts(tmp_path):
    a = average_spectrum("a < b & $c$", [noise(20)], NORM)
    figure = chart([a, average_spectrum("d", [noise(20, seed=1)], NORM)], NORM)
    charts.save_figure(figure, tmp_path / "chart.svg")
    root = ElementTree.parse(tmp_path / "chart.svg").getroot()
    texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "a < b & $c$ (20)" in texts and "slice at 45°" in texts
    charts.save_figure(figure, tmp_path / "chart.png")
    image = np.asarray(Image.open(tmp_path / "chart.png"))[:, :, :3]
    assert image.shape == (*(np.array(figure.get_size_inches())[::-1] * charts.PNG_DPI), 3)
    assert (image == [0, 0x72, 0xB2]).all(axis=2).sum() > 500  # the second source's lines
    # White noise is 40 of the scale's 60 dB above its dark end.
    assert (heat_map(a) == heat_map(a)[0, 0]).all(axis=2).mean() > 0.3
    shown = Counter(map(tuple, image[: len(image) // 2].reshape(-1, 3)))
    assert shown[tuple(heat_map(a)[0, 0])] > 10_000
    with pytest.raises(UserError, match="one size"):
        chart([a, Spectrum("e", a.power, 32, 1)], NORM)


@pytest.mark.slow
def test_the_command(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    for i, image in enumerate(noise(6, 64)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    out = tmp_path / "new" / "spectra.svg"
    arguments = ["--data", str(folder), "--network", "mini-faces", "--num", "4"]
    result = CliRunner().invoke(cli, ["spectra", *arguments, "--output", str(out)])
    assert result.exit_code == 0, result.output
    assert "dB from faces" in result.output and "(bytes, faces)" in result.output
    manifest = json.loads(out.with_suffix(".json").read_text())
    assert manifest["results"]["faces"]["pictures"] == 4
    with np.load(out.parent / "spectra-mini-faces.npz") as file:
        assert file["spectrum"].shape == (256, 256) and file["image_size"] == 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--data"),
        (["--network", "mini-faces", "--mean", "100"], "--std"),
        (["--network", "mini-faces", "--network", "mini-faces"], "twice"),
        (["--network", "mini-faces", "--output", "chart.pdf"], ".svg or .png"),
        (["--data", "nowhere.zip"], "nowhere.zip"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, arguments, message):
    out = tmp_path / "new" / "spectra.svg"
    result = CliRunner().invoke(cli, ["spectra", "--output", str(out), *arguments])
    assert result.exit_code == 2 and message in result.output
    assert len(result.output.strip().splitlines()) == 1 and not out.parent.exists()
