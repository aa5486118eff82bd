"""`sg3 project` on photos of every kind, and what reads its results."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import repository
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import sg3
from guidance.commands.project_options import parse_crop
from sg3.checkpoints.delta import load_delta
from sg3.cli.main import cli

GOLDEN = repository.GOLDEN
T, S2 = str(GOLDEN / "official-sg3t-32.pkl"), str(GOLDEN / "official-sg2-32.pkl")
FILES = {"target.png", "start.png", "end.png", "comparison.png", "photo.png", "run.json"}
FILES |= {"latent.safetensors"}
QUICK = ["--steps", "3", "--candidates", "2", "--distance", "scales"]


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> str:
    """A CMYK photo from a camera that was turned."""
    path = tmp_path_factory.mktemp("photo") / "a photo.jpg"
    x, y = np.meshgrid(np.linspace(0, 255, 90), np.linspace(0, 255, 60))
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(np.stack([x, y, 255 - x], axis=2).astype(np.uint8)).convert("CMYK")
    image.save(path, exif=exif)
    return str(path)


def call(*arguments: str, command: str = "project"):
    result = CliRunner().invoke(cli, [command, *arguments])
    return result, [line for line in result.output.splitlines() if line.startswith("Error")]


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


@pytest.mark.slow
def test_latent_and_delta_reproduce_the_image(photo, tmp_path):
    out, again = tmp_path / "deep" / "out", tmp_path / "again"
    options = ["--network", T, *QUICK, "--tune", "2", "--tune-lr", "0.01", "--tune-stop", "0"]
    result, _ = call(photo, *options, "--crop", "30,45,50,10", "--outdir", str(out))
    assert result.exit_code == 0, result.output
    written = FILES | {"project.mp4", "delta.safetensors"}
    assert {path.name for path in out.iterdir()} == written
    assert {Path(line).name for line in result.output.splitlines()} == written

    files = ["--latent", str(out / "latent.safetensors"), "--delta", str(out / "delta.safetensors")]
    result, _ = call("--network", T, *files, "--outdir", str(again), command="generate")
    assert result.exit_code == 0, result.output
    made, end = pixels(again / "latent0000.png"), pixels(out / "end.png")
    assert np.abs(made - end).max() <= 1
    assert pixels(out / "target.png").shape == (32, 32, 3)
    assert pixels(out / "photo.png").shape == (90, 60, 3)  # upright
    assert np.array_equal(pixels(out / "photo.png")[0], np.asarray(_upright(photo))[0])

    nets = sg3.load(T)
    with safe_open(out / "latent.safetensors", "pt") as file:
        assert file.get_tensor("ws").shape == (1, nets.G_ema.num_ws, nets.G_ema.w_dim)
        assert file.metadata()["network_sha256"] == nets.meta["sha256"]
        assert len(json.loads(file.metadata()["moved"])) == 3
    assert "synthesis.input.transform" in load_delta(out / "delta.safetensors").changes
    run = json.loads((out / "run.json").read_text())
    assert run["command"] == "project" and run["finished"]
    assert run["results"]["projected"]["step"] == 3 and run["results"]["tuned"]["step"] == 2
    assert run["results"]["crop"] == {"x": 30, "y": 45, "size": 50, "degrees": 10}
    assert set(run["inputs"]) == {T, photo}
    frames, _ = imageio_ffmpeg.count_frames_and_secs(str(out / "project.mp4"))
    assert frames == 4 + 3 + 10


def test_without_tuning_and_transform_there_is_no_delta(photo, tmp_path):
    options = ["--network", T, *QUICK, "--no-transform", "--no-video", "--crop", "centre"]
    result, _ = call(photo, *options, "--outdir", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert np.array_equal(
        pixels(tmp_path / "photo.png")[:15], np.asarray(_upright(photo)).astype(int)[:15]
    )


def _upright(photo: str) -> Image.Image:
    from PIL import ImageOps

    return ImageOps.exif_transpose(Image.open(photo)).convert("RGB")


@pytest.mark.slow
@pytest.mark.parametrize("space", ["w", "w+"])
def test_noise_of_a_stylegan2_is_in_the_delta(photo, tmp_path, space):
    out, again = tmp_path / "out", tmp_path / "again"
    options = ["--network", S2, *QUICK, "--no-video", "--space", space, "--crop", "centre"]
    result, _ = call(photo, *options, "--outdir", str(out))
    assert result.exit_code == 0, result.output
    names = load_delta(out / "delta.safetensors").changes
    assert names and all(name.endswith("noise_const") for name in names)
    files = ["--latent", str(out / "latent.safetensors"), "--delta", str(out / "delta.safetensors")]
    result, _ = call("--network", S2, *files, "--outdir", str(again), command="generate")
    assert result.exit_code == 0, result.output
    assert np.abs(pixels(again / "latent0000.png") - pixels(out / "end.png")).max() <= 1


@pytest.mark.slow
def test_the_same_seed_gives_the_same_files(photo, tmp_path):
    for name in "ab":
        options = ["--network", T, *QUICK, "--tune", "1", "--no-video", "--seed", "5"]
        result, _ = call(photo, *options, "--crop", "centre", "--outdir", str(tmp_path / name))
        assert result.exit_code == 0, result.output
    for name in ("latent.safetensors", "delta.safetensors"):
        a, b = (load_file(tmp_path / folder / name) for folder in "ab")
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert np.array_equal(pixels(tmp_path / "a" / "end.png"), pixels(tmp_path / "b" / "end.png"))


@pytest.mark.slow
@pytest.mark.parametrize("network", [T, S2])
def test_an_earlier_run_is_continued(photo, tmp_path, network):
    options = ["--network", network, "--distance", "scales", "--no-video", "--tune", "2"]
    tuning = ["--tune-lr", "0.01", "--tune-stop", "0"]
    first, second = tmp_path / "first", tmp_path / "second"
    where = ["--crop", "30,45,50,10", "--outdir", str(first)]
    result, _ = call(photo, *options, *tuning, "--steps", "3", "--candidates", "2", *where)
    assert result.exit_code == 0, result.output
    files = ["--latent", str(first / "latent.safetensors")]
    files += ["--delta", str(first / "delta.safetensors")]
    result, _ = call(photo, *options, *tuning, "--steps", "0", *files, "--outdir", str(second))
    assert result.exit_code == 0, result.output
    assert np.abs(pixels(second / "start.png") - pixels(first / "end.png")).max() <= 1
    runs = [json.loads((folder / "run.json").read_text()) for folder in (first, second)]
    assert runs[0]["results"]["crop"] == runs[1]["results"]["crop"]
    assert runs[1]["results"]["tuned"]["distance"] < runs[0]["results"]["tuned"]["distance"]
    # The second delta holds the first: the network as it was loaded, and it, are the picture.
    files = ["--latent", str(second / "latent.safetensors")]
    files += ["--delta", str(second / "delta.safetensors"), "--outdir", str(tmp_path / "g")]
    result, _ = call("--network", network, *files, command="generate")
    assert result.exit_code == 0, result.output
    made = pixels(tmp_path / "g" / "latent0000.png")
    assert np.abs(made - pixels(second / "end.png")).max() <= 1


def test_a_delta_of_an_earlier_run_does_not_stay_behind(photo, tmp_path):
    quick = ["--network", T, "--distance", "scales", "--no-video", "--steps", "0"]
    quick += ["--candidates", "1", "--crop", "centre", "--outdir", str(tmp_path)]
    call(photo, *quick)
    assert (tmp_path / "delta.safetensors").exists()  # of the input transform
    result, _ = call(photo, *quick, "--no-transform")
    assert result.exit_code == 0 and {path.name for path in tmp_path.iterdir()} == FILES


@pytest.mark.slow
@pytest.mark.parametrize("at", [2, 5])
def test_stopping_writes_the_files(photo, tmp_path, monkeypatch, at):
    import guidance.inversion.projection_record

    add, seen = guidance.inversion.projection_record.ProjectionRecord.add, []

    def stop(self, step):
        add(self, step)
        seen.append(step)
        if len(seen) == at:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("guidance.inversion.projection_record.ProjectionRecord.add", stop)
    options = ["--network", T, *QUICK, "--tune", "5", "--crop", "centre"]
    result, _ = call(photo, *options, "--outdir", str(tmp_path))
    assert result.exit_code == 130, result.output
    assert {path.name for path in tmp_path.iterdir()} >= FILES | {"project.mp4"}
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["finished"] is False and run["results"]["projected"]["step"] == min(at - 1, 3)
    assert ("tuned" in run["results"]) == (at == 5)


def test_a_failure_leaves_no_half_of_a_video(photo, tmp_path, monkeypatch):
    def fail(self, step):
        raise ValueError("no")

    monkeypatch.setattr("guidance.inversion.projection_record.ProjectionRecord.add", fail)
    where = ["--crop", "centre", "--outdir", str(tmp_path)]
    result, lines = call(photo, "--network", T, *QUICK, *where)
    assert result.exit_code == 2 and lines == ["Error: no"]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.jpg"], "not a file"),
        ([__file__], "photo"),
        ([], "Missing argument"),
        (["PHOTO", "--crop", "1,2"], "crop"),
        (["PHOTO", "--crop", "500,2,30"], "60x90"),
        (["PHOTO", "--space", "s"], "space"),
        (["PHOTO", "--class", "3"], "no classes"),
        (["PHOTO", "--network", "stylegan3-t-fhq"], "stylegan3-t-ffhq"),
        (["PHOTO", "--network", S2, "--transform"], "only StyleGAN3"),
        (["PHOTO", "--distance", "lpips"], "or use scales"),
        (["PHOTO", "--lr", "-1"], "lr"),
        (["PHOTO", "--delta", "nothing"], "no such file"),
        (["PHOTO", "--latent", "nothing"], "no such file"),
        (["PHOTO", "--latent", __file__], "damaged"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(photo, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    arguments = [photo if a == "PHOTO" else a for a in arguments]
    if "--network" not in arguments:
        arguments += ["--network", T]
    result, lines = call(*arguments, *QUICK[:4], "--outdir", str(tmp_path / "out"))
    assert result.exit_code == 2, result.output
    assert len(lines) == 1 and message in lines[0]
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_crops_are_read():
    assert parse_crop("auto") == "auto" and parse_crop("centre") == "centre"
    assert parse_crop("1,2.5,30") == (1, 2.5, 30) and parse_crop("1,2,30,-5") == (1, 2, 30, -5)
    for text in ("", "1", "1,2,x", "1,2,0", "1,2,nan", "1,2,3,4,5"):
        with pytest.raises(ValueError, match="crop"):
            parse_crop(text)


def test_a_latent_of_another_network_is_refused(photo, tmp_path):
    out = tmp_path / "out"
    options = ["--network", T, *QUICK[:2], "--candidates", "1", "--no-video", "--no-transform"]
    result, _ = call(photo, *options, "--crop", "centre", "--outdir", str(out))
    assert result.exit_code == 0, result.output
    latent = ["--latent", str(out / "latent.safetensors"), "--outdir", str(tmp_path / "g")]
    result, lines = call("--network", S2, *latent, command="generate")
    assert result.exit_code == 2 and len(lines) == 1 and "made with" in lines[0]
    assert not (tmp_path / "g").exists()
    result, lines = call("--network", S2, *latent, "--force", command="generate")
    assert "made with" not in result.output  # what its shape is decides
