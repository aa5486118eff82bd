"""`sg3 edit` on an official-format file with a small encoder from a file."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import imageio_ffmpeg
import pytest
import repository
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import sg3
from guidance.encoders.mini import MiniConfig, MiniEncoder
from sg3.cli.main import cli
from sg3.networks import build_network

GOLDEN = repository.GOLDEN
OTHER = str(GOLDEN / "official-sg2-32.pkl")


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> str:
    """A StyleGAN3 of few channels: the statistics render two images for each."""
    torch.manual_seed(0)
    sizes = {"z_dim": 8, "w_dim": 8, "c_dim": 0, "img_resolution": 32, "img_channels": 3}
    sizes |= {"channel_base": 64, "channel_max": 4, "num_layers": 4, "margin_size": 4}
    G = build_network("stylegan3", sizes)
    path = tmp_path_factory.mktemp("network") / "tiny.safetensors"
    sg3.save(sg3.Networks(G_ema=G.eval().requires_grad_(False)), path)
    return str(path)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    torch.manual_seed(0)
    sizes = {"widths": (4, 4, 4, 8), "hidden": 16, "embed_dim": 12, "text_width": 16}
    words = ("a", "smiling", "face", "hat")
    path = tmp_path_factory.mktemp("clip") / "tiny.safetensors"
    MiniEncoder(MiniConfig(words, **sizes)).save(path)
    return str(path)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("guidance.directions.cache.cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "directions"


@pytest.fixture
def call(network):
    """Runs `sg3 edit`; the result, and its lines of errors."""

    def run(*arguments: str):
        named = arguments if "--network" in arguments else (*arguments, "--network", network)
        result = CliRunner().invoke(cli, ["edit", *named])
        lines = [line for line in result.output.splitlines() if line.startswith("Error")]
        return result, lines

    return run


def pixels(path: Path) -> torch.Tensor:
    return torch.frombuffer(bytearray(Image.open(path).tobytes()), dtype=torch.uint8).int()


def test_a_text_writes_all_files_and_the_latent_reproduces_the_image(
    network, call, clip, cache, tmp_path
):
    out = tmp_path / "deep" / "out"
    options = ["--clip", clip, "--images", "1", "--beta", "0.01", "--columns", "3"]
    options += ["--video", str(out / "v.mp4"), "--frames", "4", "--seeds", "1-2"]
    options += ["--outdir", str(out), "--save-directions"]
    result, _ = call("--direction", "a smiling face", "--alpha", "-2..2", *options)
    assert result.exit_code == 0, result.output
    names = ["sheet.png", "latent.safetensors", "v.mp4", "direction-1.safetensors", "run.json"]
    assert result.output.split() == [str(out / name) for name in names]
    assert len(list(cache.iterdir())) == 1
    assert Image.open(out / "sheet.png").size[0] == 3 * 100 + 4
    frames, _ = imageio_ffmpeg.count_frames_and_secs(str(out / "v.mp4"))
    assert frames == 4 + 2  # there, and back without either end
    run = json.loads((out / "run.json").read_text())
    assert run["command"] == "edit" and run["finished"]
    assert run["results"]["directions"][0]["alpha"] == [-2, 2]
    assert run["results"]["directions"][0]["channels"] > 0

    # The direction is a file now; what it makes of the seeds is what the text made of them, and
    # the latent alone is that picture, too.
    again = ["--direction", str(out / "direction-1.safetensors"), "--seeds", "1-2"]
    result, _ = call(*again, "--alpha", "2", "--columns", "1", "--outdir", str(tmp_path / "b"))
    assert result.exit_code == 0, result.output
    generated = ["generate", "--network", network, "--outdir", str(tmp_path / "c")]
    generated += ["--latent", str(out / "latent.safetensors")]
    assert CliRunner().invoke(cli, generated).exit_code == 0
    nothing = ["--direction", "pca:0", "--alpha", "0", "--columns", "1"]
    latent = ["--latent", str(tmp_path / "b" / "latent.safetensors")]
    result, _ = call(*nothing, *latent, "--outdir", str(tmp_path / "d"))
    assert result.exit_code == 0, result.output
    sheets = [pixels(tmp_path / folder / "sheet.png") for folder in ("b", "d")]
    assert (sheets[0] != sheets[1]).float().mean() < 0.05  # captions differ
    first = torch.stack([pixels(tmp_path / "c" / f"latent000{i}.png") for i in range(2)])
    nets = sg3.load(network)
    with safe_open(tmp_path / "b" / "latent.safetensors", "pt") as file:
        image = nets.G_ema.synthesis(file.get_tensor("ws"), noise_mode="const")
        assert file.metadata()["network_sha256"] == nets.meta["sha256"]
    from sg3.media import to_uint8

    assert (torch.from_numpy(to_uint8(image)).int().flatten() - first.flatten()).abs().max() <= 1


def test_several_edits_mixing_and_centres(call, clip, tmp_path):
    options = ["--direction", "sefa:1", "--direction", "pca:2", "--alpha", "0..1", "--alpha", "-1"]
    options += ["--mix", "7:1-2", "--mix", "8:torgb", "--centres", "2", "--trunc", "0.7"]
    sheet = tmp_path / "some" / "sheet.png"
    result, _ = call(*options, "--seed", "3", "--layers", "0-3", "--sheet", str(sheet))
    assert result.exit_code == 0, result.output
    assert sheet.is_file() and (tmp_path / "some" / "run.json").is_file()
    run = json.loads((tmp_path / "some" / "run.json").read_text())
    assert [d["alpha"] for d in run["results"]["directions"]] == [[0, 1], [0, -1]]

    only = ["--mix", "7:1-2", "--seeds", "3-4", "--network", OTHER, "--outdir", str(tmp_path / "m")]
    result, _ = call(*only)
    assert result.exit_code == 0, result.output
    width, height = Image.open(tmp_path / "m" / "sheet.png").size
    assert width > height, "two latents without directions lie side by side"


@pytest.mark.slow
def test_stylegan2_keeps_styles_that_its_ws_cannot_hold(call, clip, tmp_path):
    options = ["--network", OTHER, "--clip", clip, "--images", "1", "--beta", "0.01"]
    options += ["--templates", "imagenet"]
    result, _ = call(
        "--direction", "a hat", *options, "--seed", "1", "--outdir", str(tmp_path / "a")
    )
    assert result.exit_code == 0, result.output
    latent = tmp_path / "a" / "latent.safetensors"
    with safe_open(latent, "pt") as file:
        names = list(file.keys())
    assert "ws" not in names and any(name.startswith("styles.") for name in names)
    options = ["--latent", str(latent), "--network", OTHER, "--outdir", str(tmp_path / "b")]
    result, _ = call("--direction", "pca:0", *options)
    assert result.exit_code == 0, result.output


def test_stopping_is_no_error_and_the_next_run_continues(call, clip, cache, tmp_path, monkeypatch):
    import guidance.directions.cache as module

    write = module.write_relevance

    def stop(path, relevance, whose):
        write(path, relevance, whose)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(module, "write_relevance", stop)
    options = ["--clip", clip, "--images", "2", "--beta", "0.01", "--seed", "1", "--columns", "2"]
    options += ["--direction", "a hat", "--outdir", str(tmp_path / "out")]
    result, _ = call(*options)
    assert result.exit_code == 130 and "run the same command again" in result.output
    assert not (tmp_path / "out").exists() and len(list(cache.iterdir())) == 1
    monkeypatch.setattr(module, "write_relevance", write)
    assert call(*options)[0].exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--direction", ""], "direction"),
        (["--direction", "a hat", "--neutral", " "], "neutral"),
        (["--direction", "a hat", "--clip", "minni"], "nearest: mini, mini-smooth"),
        (["--direction", "a hat", "--neutral", "a hat"], "the same"),
        (["--direction", "pca:99"], "pca:0"),
        (["--direction", "missing.safetensors"], "no file"),
        (["--direction", "pca:0", "--alpha", "1..x"], "alpha"),
        (["--direction", "pca:0", "--alpha", "1", "--alpha", "2"], "alpha: got 2 for 1"),
        (["--direction", "pca:0", "--video", "v.gif"], ".mp4"),
        (["--direction", "pca:0", "--sheet", "v.gif"], ".png"),
        (["--direction", "pca:0", "--trunc", "nan"], "trunc"),
        (["--direction", "pca:0", "--layers", "40"], "layers"),
        (["--direction", "pca:0", "--class", "3"], "no classes"),
        (["--direction", "pca:0", "--network", "stylegan3-t-fhq"], "stylegan3-t-ffhq"),
        (["--direction", "pca:0", "--device", "quantum"], "device"),
        (["--direction", "pca:0", "--latent", __file__], "give one of them"),
        (["--direction", "a hat", "--templates", "imagnet"], "expected imagenet"),
        (["--direction", "a hat", "--templates", __file__], "one {}"),
        (["--mix", "x:1"], "mix"),
        (["--mix", "1:99"], "layers"),
        ([], "got none"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(call, clip, tmp_path, arguments, message):
    if "--clip" not in arguments:
        arguments = [*arguments, "--clip", clip]
    result, lines = call(*arguments, "--seed", "1", "--outdir", str(tmp_path / "out"))
    assert result.exit_code == 2, result.output
    assert len(lines) == 1 and message in lines[0]
    assert "Traceback" not in result.output and not (tmp_path / "out").exists()


def test_files_of_another_network_are_refused(network, call, tmp_path):
    ws = torch.zeros(1, sg3.load(network).G_ema.num_ws, sg3.load(network).G_ema.w_dim)
    save_file({"ws": ws}, tmp_path / "a.safetensors", {"network_sha256": "ab" * 32})
    save_file({"ws": ws[:, :2]}, tmp_path / "b.safetensors")
    (tmp_path / "c.safetensors").write_bytes(b"nothing")
    metadata = {"format": "sg3-direction", "weights": "0" * 64, "content": "{}"}
    save_file({"ws": ws[0]}, tmp_path / "d.safetensors", metadata)
    end = ["--outdir", str(tmp_path / "out")]
    for name, message in (("a", "made with"), ("b", "shape"), ("c", "damaged")):
        latent = ["--latent", str(tmp_path / f"{name}.safetensors")]
        result, lines = call("--direction", "pca:0", *latent, *end)
        assert result.exit_code == 2 and len(lines) == 1 and message in lines[0], result.output
    direction = ["--direction", str(tmp_path / "d.safetensors"), "--seed", "1"]
    result, lines = call(*direction, *end)
    assert result.exit_code == 2 and "other weights" in lines[0]
    assert not (tmp_path / "out").exists()
    assert call(*direction, "--force", *end)[0].exit_code == 0
