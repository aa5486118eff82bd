"""The program `sg3`: same images as Python, one line and exit code 2 for bad input."""

import errno
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import click
import numpy as np
import PIL.Image
import pytest
import repository
import torch
from PIL import Image
from program import fails, run, works
from safetensors.torch import save_file

import sg3
from sg3.cli.main import COMMANDS
from sg3.cli.options import resolve_device
from sg3.cli.parsers import parse_seeds, parse_vec2
from sg3.generate import generate_images, inverse_transform
from sg3.media import save_png, to_uint8

GOLDEN = repository.GOLDEN
T32 = str(GOLDEN / "official-sg3t-32.pkl")
COND = str(GOLDEN / "official-sg3t-32-cond.pkl")
SG2 = str(GOLDEN / "official-sg2-32.pkl")


def test_generate_equals_the_direct_computation(tmp_path):
    works("generate", "--network", T32, "--seeds", "0,2-3", "--trunc", "0.7", "--outdir", tmp_path)
    G = sg3.load(T32).G_ema
    for seed in (0, 2, 3):
        z = torch.from_numpy(np.random.RandomState(seed).randn(1, G.z_dim))
        save_png(tmp_path / "direct.png", G(z, None, truncation_psi=0.7))
        written = (tmp_path / f"seed{seed:04d}.png").read_bytes()
        assert written == (tmp_path / "direct.png").read_bytes()
    manifest = json.loads((tmp_path / "run.json").read_text())
    assert manifest["arguments"]["seeds"] == [0, 2, 3] and T32 in manifest["inputs"]
    assert manifest["outputs"] == ["seed0000.png", "seed0002.png", "seed0003.png"]


def test_generate_is_the_same_after_conversion(tmp_path):
    converted = tmp_path / "new" / "c.safetensors"
    output = works("convert", COND, converted)
    assert "G_ema: stylegan3" in output and "D: discriminator" in output
    for network, outdir in ((COND, "a"), (converted, "b")):
        common = ["--seeds", "5", "--class", "2", "--outdir", tmp_path / outdir]
        works("generate", "--network", network, *common)
    a, b = ((tmp_path / folder / "seed0005.png").read_bytes() for folder in "ab")
    assert a == b


def test_convert_options(tmp_path):
    works("convert", T32, tmp_path / "a.safetensors")
    works("convert", T32, tmp_path / "b.safetensors", "--fp16", "--only-ema")
    nets = sg3.load(tmp_path / "b.safetensors")
    assert list(nets.parts()) == ["G_ema"]
    sizes = [(tmp_path / name).stat().st_size for name in ("b.safetensors", "a.safetensors")]
    assert sizes[0] < sizes[1] / 3


def test_transform_matches_the_reference():
    G = sg3.load(T32).G_ema
    io = {k: torch.from_numpy(v) for k, v in np.load(GOLDEN / "sg3t-32.io.npz").items()}
    expected = io["transform_inverse"]
    m = torch.linalg.inv(expected.double())
    degrees = float(torch.rad2deg(torch.atan2(m[0, 1], m[0, 0])))
    move = (float(m[0, 2]), float(m[1, 2]))
    assert torch.allclose(inverse_transform(move, degrees), expected, atol=1e-6)
    with torch.no_grad(), sg3.generate.user_transform(G, move, degrees):
        error = (G(io["z"]) - io["img_transformed"]).abs().max() / io["img_transformed"].abs().max()
    assert error < 1e-4
    assert torch.equal(G.synthesis.input.transform, torch.eye(3))


def test_translate_moves_the_image_right(tmp_path):
    common = ["--network", T32, "--seeds", "1", "--outdir"]
    works("generate", *common, tmp_path / "a")
    works("generate", *common, tmp_path / "b", "--translate", "0.25,0")
    a, b = (np.asarray(Image.open(tmp_path / d / "seed0001.png")).astype(float) for d in "ab")
    still = np.abs(b[:, 8:] - a[:, 8:])[:, 4:-4].mean()
    moved = np.abs(b[:, 8:] - a[:, :-8])[:, 4:-4].mean()
    assert moved < 0.35 * still


def test_noise_modes_of_stylegan2(tmp_path):
    images = []
    for mode in ("const", "none", "random", "random"):
        outdir = tmp_path / str(len(images))
        works(
            *("generate", "--network", SG2, "--seeds", 0, "--noise-mode", mode),
            *("--outdir", outdir),
        )
        images.append((outdir / "seed0000.png").read_bytes())
    assert len(set(images)) == 3 and images[2] == images[3]


def test_latents_and_grid(tmp_path):
    G = sg3.load(T32).G_ema
    z = torch.from_numpy(np.random.RandomState(0).randn(3, G.z_dim))
    ws = G.mapping(z)
    save_file({"ws": ws}, tmp_path / "ws.safetensors")
    latent = ["--latent", tmp_path / "ws.safetensors", "--outdir", tmp_path / "out", "--grid"]
    works("generate", "--network", T32, *latent)
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    pngs = ["latent0000.png", "latent0001.png", "latent0002.png"]
    assert names == ["grid.png", *pngs, "run.json"]
    image = np.asarray(Image.open(tmp_path / "out" / "latent0002.png"))
    assert np.array_equal(image, to_uint8(G.synthesis(ws[2:]))[0])
    assert Image.open(tmp_path / "out" / "grid.png").size == (64, 64)
    save_file({"ws": ws[:, :3].contiguous()}, tmp_path / "ws.safetensors")
    fails("expected [N, 16, 16]", "generate", "--network", T32, *latent)
    save_file({"w": ws}, tmp_path / "ws.safetensors")
    fails("expected one named 'ws'", "generate", "--network", T32, *latent)


def test_processes_split_the_seeds(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, names in (("1", {"seed0001.png"}), ("0", {"seed0000.png", "seed0002.png"})):
        monkeypatch.setenv("RANK", rank)
        outdir = tmp_path / rank
        works("generate", "--network", T32, "--seeds", "0-2", "--outdir", outdir)
        assert {p.name for p in outdir.iterdir()} - {"run.json"} == names
        assert (outdir / "run.json").exists() == (rank == "0")


def test_bad_input_of_generate(tmp_path):
    out = ["--outdir", tmp_path / "out"]
    seeds = ["--seeds", "0", *out]
    (tmp_path / "text.txt").write_text("hello, this is no network")
    (tmp_path / "cut.pkl").write_bytes(Path(T32).read_bytes()[:100_000])
    for expected, arguments in [
        ("mini-faces", ["--network", "mini-fces", *seeds]),
        ("no such file", ["--network", "none.pkl", *seeds]),
        ("expected safetensors, an official", ["--network", tmp_path / "text.txt", *seeds]),
        ("truncated", ["--network", tmp_path / "cut.pkl", *seeds]),
        ("choose a class, 0 to 2", ["--network", COND, *seeds]),
        ("got 3, expected 0 to 2", ["--network", COND, "--class", "3", *seeds]),
        ("has no classes", ["--network", T32, "--class", "0", *seeds]),
        ("only StyleGAN3", ["--network", SG2, "--rotate", "5", *seeds]),
        ("expected numbers and ranges", ["--network", T32, "--seeds", "5-", *out]),
        ("two numbers", ["--network", T32, "--translate", "5", *seeds]),
        ("not one of 'const'", ["--network", T32, "--noise-mode", "loud", *seeds]),
        ("--seeds or --latent", ["--network", T32, *out]),
        ("No such option", ["--network", T32, "--colour", *seeds]),
        ("device", ["--network", T32, "--device", "tpu", *seeds]),
        ("device", ["--network", T32, "--device", "cuda:99", *seeds]),
    ]:
        fails(expected, "generate", *arguments)
    out = ["--outdir", tmp_path / "text.txt" / "sub"]
    fails("is not a folder", "generate", "--network", "nope", "--seeds", "0", *out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.pkl", "text.txt"]


def test_bad_input_of_convert(tmp_path):
    target = tmp_path / "out.safetensors"
    fails("no such file", "convert", "none.pkl", target)
    fails("ending in .safetensors", "convert", T32, tmp_path / "out.pkl")
    (tmp_path / "file").write_text("")
    fails("is not a folder", "convert", T32, tmp_path / "file" / "out.safetensors")
    fails("file is empty", "convert", tmp_path / "file", target)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_models(tmp_path, monkeypatch):
    monkeypatch.setenv("SG3_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("DNNLIB_CACHE_DIR", str(tmp_path))
    output = works("models")
    assert "stylegan3-t-ffhq-1024 " in output and "non-commercial" in output
    assert str(tmp_path) in output
    fails("stylegan3-t-ffhq-1024", "models", "get", "stylegan3-t-fhq-1024")
    fails("check the network connection", "models", "get", "stylegan3-t-ffhq-1024")


def test_group():
    output = works("--help")
    for name in COMMANDS:
        assert name in output
    fails("did you mean generate", "genrate")
    fails("one of generate", "zzzzz")
    fails("No such option", "--verbose")
    assert works("--version").startswith(f"sg3, version {sg3.__version__}")


def test_doctor_names_packages_that_other_projects_installed_too(monkeypatch):
    owners = {"guidance": ["sg3", "other-guidance"], "nada": ["sg3"]}
    monkeypatch.setattr(metadata, "packages_distributions", lambda: owners)
    output = works("doctor")
    assert "package guidance:" in output and "other-guidance" in output
    assert "environment of its own" in output and "package nada" not in output


def test_traceback_only_with_debug(tmp_path):
    result = run("generate", "--network", "nope", "--seeds", "0", "--outdir", tmp_path, "--debug")
    assert isinstance(result.exception, sg3.errors.UserError)
    result = run("--debug", "generate", "--network", "nope", "--seeds", "0", "--outdir", tmp_path)
    assert isinstance(result.exception, sg3.errors.UserError)


def test_errors_of_any_command_become_one_line(monkeypatch):
    @click.command()
    @click.argument("kind")
    def probe(kind):
        raise {"value": ValueError("two\nlines"), "os": PermissionError(13, "denied", "/x")}[kind]

    module = sys.modules[__name__]
    monkeypatch.setattr(module, "probe_command", probe, raising=False)
    monkeypatch.setitem(COMMANDS, "probe", (f"{__name__}:probe_command", "A probe."))
    monkeypatch.setitem(COMMANDS, "absent", ("no_such_module:x", "Missing."))
    fails("two lines", "probe", "value")
    fails("/x: denied", "probe", "os")
    fails("no_such_module", "absent")


def test_help_does_not_wait_for_torch():
    code = (
        "import sys; from sg3.cli.main import cli; cli(['--help'], standalone_mode=False);"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0 and b"generate" in done.stdout


def test_parsers():
    assert parse_seeds("1,2,5-10") == [1, 2, 5, 6, 7, 8, 9, 10]
    assert parse_seeds(" 3 - 4 ") == [3, 4]
    for text in ("", "a", "-1", "5-3", "1,,2", "0-99999999", str(2**32)):
        with pytest.raises(ValueError, match="seeds"):
            parse_seeds(text)
    assert parse_vec2("0.1,-2") == (0.1, -2.0)
    for text in ("1", "1,2,3", "a,b", ""):
        with pytest.raises(ValueError, match="two numbers"):
            parse_vec2(text)
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="device"):
        resolve_device("gpu")


def test_images_are_yielded_one_by_one():
    images = generate_images(sg3.load(T32).G_ema, range(10**9))
    assert next(images).name == "seed0000" and next(images).image.shape == (32, 32, 3)


@pytest.mark.parametrize(
    "command",
    [
        "generate --seeds 0 --outdir OUT/a",
        "convert NETWORK OUT/a.safetensors",
        "video --seeds 0-1 --w-frames 2 --output OUT/a.mp4",
        "spectra --num 2 --output OUT/a.svg",
        "inspect --seed 0 --output OUT/a.png",
        "metrics --metrics ppl2_wend",
        "blend NETWORK NETWORK --layers L0 --out OUT/a.safetensors",
        "delta make --source NETWORK --adapted NETWORK --out OUT/a.safetensors",
    ],
)
def test_what_as_states_reaches_every_command_that_loads_a_network(command, tmp_path):
    network = repository.ROOT / "tests" / "peerfiles" / "nv-sg3repo-t-state_dict.pt"
    words = command.replace("OUT", str(tmp_path)).replace("NETWORK", str(network)).split()
    if "NETWORK" not in command:
        words += ["--network", network]
    fails("stylegan9", *words, "--as", "stylegan9")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("video --motion turn --output v.mp4", "--motion: needs --kind transform"),
        ("video --kind loop --amount 0.2 --output v.mp4", "--amount: needs --kind transform"),
        ("video --column 0.2 --output v.mp4", "--column: needs --kind slices"),
        ("edit --seeds 0 --direction sefa:0 --frames 9 --outdir o", "--frames: needs --video"),
        ("adapt --source a --target b --auto-k 2 --layers all", "--auto-k: needs --layers auto"),
        ("steer hat --fade 0.2 --outdir o", "--fade: needs --dissolve"),
        ("steer hat --motion turn --outdir o", "--motion: needs --dissolve"),
        ("inspect --frames 9 --output i.png", "--frames: needs --output FILE.mp4"),
        ("edit --seeds 0 --direction sefa:-1 --outdir o", "expected sefa:N"),
        ("video --fps inf --output v.mp4", "--fps: got inf, expected a finite number"),
        ("video --fps 1e6 --output v.mp4", "--fps: got 1000000.0, expected at most 1000"),
        ("steer hat --candidates 999999999999", "--candidates: got 999999999999, expected at most"),
        ("steer hat --variants 999999999", "--variants: got 999999999, expected at most 256"),
        (f"steer {'x' * 3000}", "got 3000 characters, expected at most 2000"),
        ("generate --seeds 0 --outdir=", "--outdir: got an empty text"),
        (
            "train --cfg stylegan3-t --gpus 1 --batch 4 --gamma 1 --outdir o --data=",
            "--data: got an",
        ),
        ("generate --seeds 0 --outdir o --translate nan,0", "expected a finite number"),
    ],
)
def test_what_would_be_ignored_or_never_end_is_refused(tmp_path, monkeypatch, command, expected):
    monkeypatch.chdir(tmp_path)
    fails(expected, *command.split())
    assert not list(tmp_path.iterdir())


def test_nonfinite_networks_load_on_request(tmp_path):
    nets = sg3.load("mini-faces", only_ema=True)
    nets.G_ema.synthesis.input.weight.data[0, 0] = float("nan")
    path = tmp_path / "nan.safetensors"
    sg3.save(nets, path)
    arguments = ["generate", "--network", path, "--seeds", "0", "--outdir", tmp_path / "out"]
    fails("--allow-nonfinite loads it anyway", *arguments)
    works(*arguments, "--allow-nonfinite")


@pytest.mark.parametrize("place", ["save", "fsync"])
def test_a_full_disk_names_the_image(tmp_path, monkeypatch, place):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if place == "save":
        monkeypatch.setattr(PIL.Image.Image, "save", full)
    else:
        monkeypatch.setattr("sg3.files.os.fsync", full)
    out = fails("No space left", "generate", "--seeds", "0", "--outdir", tmp_path / "out")
    assert "seed0000.png" in out
    assert not list((tmp_path / "out").glob("*.png"))
