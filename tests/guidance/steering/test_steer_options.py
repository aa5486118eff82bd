"""`sg3 steer`: image prompts, spaces, variants, dissolve, resuming, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from safetensors import safe_open
from steer_doubles import GOLDEN, Colour

import sg3
from sg3.cli.main import cli

SG3, SG2 = str(GOLDEN / "official-sg3t-32.pkl"), str(GOLDEN / "official-sg2-32.pkl")
QUICK = ["--steps", "3", "--candidates", "2", "--generations", "0", "--cutouts", "1"]


@pytest.fixture(autouse=True)
def colour(monkeypatch):
    """An encoder that knows colours, where the name is 'mini'."""
    import guidance.encoders

    load = guidance.encoders.load_encoder

    def named(spec, device="cpu"):
        return Colour() if spec == "mini" else load(spec, device)

    monkeypatch.setattr("guidance.encoders.load_encoder", named)


def call(*arguments, network=SG3, quick=True):
    options = [*(QUICK if quick else []), "--network", network]
    result = CliRunner().invoke(cli, ["steer", *map(str, arguments), *options])
    return result, [line for line in result.output.splitlines() if line.startswith("Error")]


def png(path):
    return np.asarray(Image.open(path)).astype(int)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "options"),
    [(SG3, ["--space", "s", "--transform"]), (SG2, ["--space", "s"]), (SG3, ["--no-transform"])],
)
def test_generate_reproduces_a_steered_latent(tmp_path, network, options):
    result, _ = call("red", "--outdir", tmp_path, "--no-video", *options, network=network)
    assert result.exit_code == 0, result.output
    again = ["generate", "--network", network, "--latent", str(tmp_path / "latent.safetensors")]
    result = CliRunner().invoke(cli, [*again, "--outdir", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert abs(png(tmp_path / "end.png") - png(tmp_path / "latent0000.png")).max() <= 1
    # and steered on from there: it begins where the other ended
    latent, out = tmp_path / "latent.safetensors", tmp_path / "on"
    result, _ = call("blue", "--latent", latent, "--outdir", out, "--no-video", network=network)
    assert result.exit_code == 0, result.output
    assert abs(png(tmp_path / "end.png") - png(out / "start.png")).max() <= 2


@pytest.mark.slow
def test_variants_image_prompts_and_the_log(tmp_path):
    Image.new("RGB", (20, 20), "red").save(tmp_path / "red.png")
    arguments = ["grey:0.5", "--image", f"{tmp_path}/red.png:2", "--variants", "2", "--seed", "4"]
    more = ["--region", "0,0,32,16", "--perceptual", "0.5", "--perspective", "0.2", "--flip", "0.5"]
    result, _ = call(*arguments, *more, "--jitter", "0.3", "--outdir", tmp_path / "out")
    assert result.exit_code == 0, result.output
    out = tmp_path / "out"
    ends = [png(out / f"variant-{i}" / "end.png") for i in range(2)]
    assert abs(ends[0] - ends[1]).max() > 3
    assert (out / "variants.png").is_file() and (out / "variant-1" / "steer.mp4").is_file()
    rows = (out / "variant-1" / "losses.jsonl").read_text().splitlines()
    terms = [json.loads(row) for row in rows]
    assert [row["step"] for row in terms] == [0, 1, 2, 3]
    assert {"loss", "distance", "perceptual", "outside", "keep", "prior", "similarity"} <= set(
        terms[0]
    )
    run = json.loads((out / "run.json").read_text())
    assert run["results"]["variant-1-end"]["step"] == 3
    with safe_open(out / "variant-0" / "latent.safetensors", "pt") as file:
        assert json.loads(file.metadata()["prompts"]) == ["grey:0.5", f"{tmp_path}/red.png:2"]


@pytest.mark.slow
def test_dissolve_is_one_video(tmp_path):
    film = tmp_path / "films" / "out.mp4"
    arguments = ["red", "blue", "grey", "--dissolve", "4", "--motion", "circle", "--video", film]
    result, _ = call(*arguments, "--outdir", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert str(film) in result.output.split()
    assert imageio_ffmpeg.count_frames_and_secs(str(film))[0] == 13 + 10
    assert json.loads((tmp_path / "out" / "run.json").read_text())["results"]["end"]["step"] == 12


@pytest.mark.slow
@pytest.mark.parametrize("more", [["--steps", "6"], ["blue", "--dissolve", "3"]])
def test_a_stopped_run_is_resumed(tmp_path, monkeypatch, more):
    import guidance.steering.record

    call("red", *more, "--outdir", tmp_path / "whole")
    add = guidance.steering.record.SteeringRecord.add

    def stop_at_two(self, step):
        add(self, step)
        if step.index == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("guidance.steering.record.SteeringRecord.add", stop_at_two)
    arguments = ["red", *more, "--outdir", tmp_path / "out"]
    result, _ = call(*arguments)
    assert result.exit_code == 130 and (tmp_path / "out" / "progress.safetensors").is_file()
    monkeypatch.setattr("guidance.steering.record.SteeringRecord.add", add)
    result, lines = call(*arguments, "--lr", "0.5", "--resume")
    assert result.exit_code == 2 and "another lr" in lines[0]
    result, _ = call(*arguments, "--resume")
    assert result.exit_code == 0, result.output
    for name in ("end.png", "steer.mp4", "losses.jsonl", "contact_sheet.png"):
        whole, resumed = (tmp_path / folder / name for folder in ("whole", "out"))
        assert whole.read_bytes() == resumed.read_bytes(), name
    assert not (tmp_path / "out" / "progress.safetensors").exists()
    result, _ = call(*arguments, "--resume")
    assert result.exit_code == 0 and "already finished" in result.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", "none.png"], "not a file"),
        (["red", "--region", "0,0,99,9"], "within 32x32"),
        (["red", "--region", "{mask}"], "5x5 pixels, expected 32x32"),
        (["red", "--layers", "4-99"], "layers"),
        (["red", "--latent", "{latent}"], "made with"),
        (["red", "--latent", "none.safetensors"], "no such file"),
        (["red", "--clip", "mini", "--clip", "minni:0.5"], "nearest: mini"),
        (["red", "--templates", "imagnet"], "expected imagenet"),
        (["red", "--distance", "directional"], "--source"),
        (["red", "--identity", "1"], "face encoder"),
        (["red", "--identity", "1", "--identity-encoder", "x.pt"], "identity"),
        (["red", "--dissolve", "4"], "at least two"),
        (["red", "blue", "--dissolve", "4", "--variants", "2"], "--variants"),
        (["red", "--motion", "turn"], "--dissolve"),
        (["red", "blue", "--dissolve", "4", "--times", "0,0"], "rising"),
        (["--video", "red"], "texts come before --video"),
        (["red", "--space", "s", "--compile"], "compile"),
        (["red", "--flip", "2"], "flip"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(tmp_path, arguments, message):
    Image.new("L", (5, 5), 255).save(tmp_path / "mask.png")
    if "{latent}" in arguments:
        call("red", "--outdir", tmp_path / "other", "--no-video", network=SG2)
    names = {"mask": tmp_path / "mask.png", "latent": tmp_path / "other" / "latent.safetensors"}
    result, lines = call(*(a.format(**names) for a in arguments), "--outdir", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert len(lines) == 1 and message in lines[0], lines
    assert not (tmp_path / "out").exists()


def test_a_network_without_a_transform_is_refused(tmp_path):
    result, lines = call("red", "--transform", "--outdir", tmp_path / "out", network=SG2)
    assert result.exit_code == 2 and "only StyleGAN3" in lines[0]
    assert isinstance(sg3.load(SG2).G_ema.num_ws, int) and Path(SG2).is_file()
