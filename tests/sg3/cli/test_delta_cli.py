"""`sg3 delta`, `sg3 blend` and `--delta` of other commands, end to end."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import repository
import torch
from PIL import Image
from program import fails, works
from safetensors import safe_open

import sg3
from sg3.blend import blend, layer_fractions, split_fractions
from sg3.checkpoints.delta import apply_deltas, load_delta, weights_hash
from sg3.cli.parsers import parse_delta
from sg3.files import sha256_of
from sg3.media import to_uint8
from sg3.networks.layer_units import layer_names, tensors_by_layer
from sg3.slider import slider_frames

GOLDEN = repository.GOLDEN
T32 = str(GOLDEN / "official-sg3t-32.pkl")
SG2 = str(GOLDEN / "official-sg2-32.pkl")


def perturbed(G, seed):
    """A copy with all parameters moved a little."""
    random = torch.Generator().manual_seed(seed)
    G = copy.deepcopy(G)
    for parameter in G.parameters():
        parameter += 0.05 * torch.randn(parameter.shape, generator=random)
    return G


@pytest.fixture(scope="module")
def G():
    return sg3.load(T32).G_ema


@pytest.fixture(scope="module")
def folder(G, tmp_path_factory):
    """A network before and after, and two deltas of it."""
    folder = tmp_path_factory.mktemp("deltas")
    for seed, name in ((1, "a"), (2, "b")):
        sg3.save(sg3.Networks(G_ema=perturbed(G, seed)), folder / f"{name}-net.safetensors")
        networks = ["--source", T32, "--adapted", folder / f"{name}-net.safetensors"]
        works("delta", "make", *networks, "--out", folder / f"{name}.safetensors")
    return folder


def read_image(path):
    return np.asarray(Image.open(path))


@pytest.mark.slow
def test_generate_with_deltas(G, folder, tmp_path):
    a, b = folder / "a.safetensors", folder / "b.safetensors"
    deltas = ["--delta", f"{a}:0.7", "--delta", f"{b}:-0.4"]
    works("generate", "--network", T32, *deltas, "--seeds", "3", "--outdir", tmp_path / "x")
    changed = apply_deltas(G, [(load_delta(a), 0.7), (load_delta(b), -0.4)])
    z = torch.from_numpy(np.random.RandomState(3).randn(1, G.z_dim)).float()
    seen = read_image(tmp_path / "x" / "seed0003.png")
    assert np.array_equal(seen, to_uint8(changed(z, None))[0])
    assert not np.array_equal(seen, to_uint8(G(z, None))[0])
    manifest = json.loads((tmp_path / "x" / "run.json").read_text())
    assert manifest["arguments"]["deltas"] == [[str(a), 0.7], [str(b), -0.4]]
    assert manifest["inputs"][str(a)] == sha256_of(a)
    assert manifest["inputs"][str(b)] == sha256_of(b)

    net = tmp_path / "net.safetensors"
    works("delta", "apply", "--network", T32, *deltas, "--out", net)
    assert weights_hash(sg3.load(net).G_ema) == weights_hash(changed)
    assert sg3.load(net).meta["deltas"] == [[str(a), 0.7], [str(b), -0.4]]


def test_steering_a_network_with_a_delta(tmp_path):
    G, net = sg3.load("mini-faces").G_ema, tmp_path / "net.safetensors"
    sg3.save(sg3.Networks(G_ema=perturbed(G, 1)), net)
    delta = tmp_path / "d.safetensors"
    works("delta", "make", "--source", "mini-faces", "--adapted", net, "--out", delta)
    options = ["--steps", 0, "--start", "seed", "--no-video", "--outdir", tmp_path]
    works("steer", "a man", "--delta", f"{delta}:0.3", *options)
    with safe_open(tmp_path / "latent.safetensors", "pt") as file:
        ws, metadata = file.get_tensor("ws"), file.metadata()
    assert json.loads(metadata["deltas"]) == [[str(delta), 0.3]]
    shown = to_uint8(apply_deltas(G, [(load_delta(delta), 0.3)]).synthesis(ws))[0].astype(int)
    assert np.abs(read_image(tmp_path / "end.png") - shown).max() <= 1
    manifest = json.loads((tmp_path / "run.json").read_text())
    assert manifest["arguments"]["deltas"] == [[str(delta), 0.3]]
    assert manifest["inputs"][str(delta)] == sha256_of(delta)


def test_make_info_and_merge(folder, tmp_path):
    out = tmp_path / "new" / "low.safetensors"
    networks = ["--source", T32, "--adapted", folder / "a-net.safetensors"]
    output = works("delta", "make", *networks, "--rank", 2, "--dtype", "fp32", "--out", out)
    assert "of the change is kept" in output
    output = works("delta", "info", out)
    assert 'source: "official-sg3t-32"' in output and 'adapted: "a-net"' in output
    assert "rank 2" in output and "full rank" in output
    parts = [f"{folder / 'a.safetensors'}:0.5", folder / "b.safetensors"]
    works("delta", "merge", *parts, "--out", tmp_path / "m.safetensors")
    merged = load_delta(tmp_path / "m.safetensors")
    assert [part["strength"] for part in merged.meta["merged"]] == [0.5, 1]


def test_info_knows_the_bundled_deltas():
    assert "weights of the source: " in works("delta", "info", "zombie")


def test_info_prints_no_control_characters(tmp_path):
    from sg3.checkpoints.delta import Delta, save_delta

    meta = {"\x1b[31mx": "\x1b]0;title\x07"}
    save_delta(Delta({"\x1b[2J": torch.ones(3)}, "0" * 64, meta), tmp_path / "d.safetensors")
    assert "\x1b" not in works("delta", "info", tmp_path / "d.safetensors")


@pytest.mark.slow
def test_slider_video(G, folder, tmp_path):
    deltas = ["--delta", folder / "a.safetensors", "--delta", f"{folder / 'b.safetensors'}:0.5"]
    options = ["--strengths", "-1..1.5", "--seeds", "0-2", "--frames", 6, "--fps", 12]
    out = tmp_path / "new" / "v.mp4"
    works("delta", "video", "--network", T32, *deltas, *options, "--out", out)
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(out))
    assert frames == 6 and seconds == pytest.approx(0.5, abs=0.1)
    a, b = (load_delta(folder / f"{name}.safetensors") for name in "ab")
    first, last = slider_frames(G, [(a, 1), (b, 0.5)], [0, 2], [5], truncation_psi=0.7)
    z = torch.from_numpy(np.random.RandomState(5).randn(1, G.z_dim)).float()
    moved = apply_deltas(G, [(a, 2), (b, 1)])
    for frame, network in ((first, G), (last, moved)):
        expected = to_uint8(network(z, None, truncation_psi=0.7))[0]
        assert np.array_equal(frame[:192:6, ::6], expected)  # 32 pixels, enlarged to 192
    assert not np.array_equal(first[192:], last[192:])  # the slider moves


def test_a_strength_may_follow_any_file_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("z.safetensors", "a:0.5", "C:\\z.safetensors"):
        Path(name).write_text("")
    assert parse_delta("z.safetensors") == ("z.safetensors", 1)
    assert parse_delta("z.safetensors:-0.5") == ("z.safetensors", -0.5)
    assert parse_delta("z.safetensors:1.5e1") == ("z.safetensors", 15)
    assert parse_delta("a:0.5") == ("a:0.5", 1)
    assert parse_delta("a:0.5:2") == ("a:0.5", 2)
    assert parse_delta("C:\\z.safetensors") == ("C:\\z.safetensors", 1)
    assert parse_delta("C:\\z.safetensors:0.7") == ("C:\\z.safetensors", 0.7)
    for text in ("none", "none:1", "", ":", ":1", "z.safetensors:1:1", "."):
        with pytest.raises(ValueError, match="no such file"):
            parse_delta(text)
    for number in ("nan", "inf", "-inf", "", "strong"):
        with pytest.raises(ValueError, match="expected a number like"):
            parse_delta(f"z.safetensors:{number}")


@pytest.mark.parametrize("network", [T32, SG2])
def test_blending_takes_whole_layers(network):
    a = sg3.load(network).G_ema
    b = perturbed(a, 1)
    names, tensors = layer_names(a), tensors_by_layer(a)
    split = names[3]
    result = blend(a, b, split_fractions(a, split)).state_dict()
    theirs = [name for layer in names[3:] for name in tensors[layer]]
    assert any("affine" in name for name in theirs)
    for name, tensor in result.items():
        expected = (b if name in theirs else a).state_dict()[name]
        assert torch.equal(tensor, expected), name
    everything = dict.fromkeys(tensors, 1)
    assert weights_hash(blend(a, b, everything)) == weights_hash(b)
    assert weights_hash(blend(a, b, {})) == weights_hash(a)
    quarter = blend(a, b, {names[3]: 0.25}).state_dict()
    name = tensors[names[3]][0]
    expected = 0.75 * a.state_dict()[name].double() + 0.25 * b.state_dict()[name].double()
    assert torch.allclose(quarter[name].double(), expected, atol=1e-7)


def test_shares(G):
    names = layer_names(G)
    assert list(split_fractions(G, "L1").values())[:4] == [0, 0, 1, 1]
    assert split_fractions(G, "L1") == split_fractions(G, "L1", 1)
    assert list(split_fractions(G, "L2", 2).values())[:5] == [0, 0, 0.25, 0.75, 1]
    assert set(split_fractions(G, "input").values()) == {1}
    listed = layer_fractions(G, "mapping,L0-L2,torgb")
    assert {name for name in listed if listed[name]} == {"mapping", "L0", "L1", "L2", "torgb"}
    assert list(listed) == ["mapping", *names]
    for shares in ({"L0": 1.5}, {"L0": float("nan")}, {"L99": 1}):
        with pytest.raises(ValueError, match="fractions: got"):
            blend(G, G, shares)


def test_blend_command(G, folder, tmp_path):
    b = folder / "b-net.safetensors"
    out = tmp_path / "new" / "x.safetensors"
    output = works("blend", T32, b, "--split", "L2", "--width", 2, "--out", out)
    assert "L2: 75% of b-net" in output
    nets, other = sg3.load(out), sg3.load(b).G_ema
    expected = blend(G, other, split_fractions(G, "L2", 2))
    assert weights_hash(nets.G_ema) == weights_hash(expected)
    assert [part["name"] for part in nets.meta["blend_of"]] == ["official-sg3t-32", "b-net"]
    works("blend", T32, b, "--layers", "L0-L1,torgb", "--out", out)
    expected = blend(G, other, layer_fractions(G, "L0-L1,torgb"))
    assert weights_hash(sg3.load(out).G_ema) == weights_hash(expected)


@pytest.mark.slow
def test_bad_input_is_one_line_and_leaves_nothing(folder, tmp_path):
    a, net = folder / "a.safetensors", folder / "a-net.safetensors"
    (tmp_path / "text").write_text("hello")
    out, mp4 = ["--out", tmp_path / "x.safetensors"], ["--out", tmp_path / "x.mp4"]
    make = ["delta", "make", "--source", T32]
    video = ["delta", "video", "--network", T32, "--delta", a, *mp4]
    generate = ["generate", "--network", T32, "--seeds", "0", "--outdir", tmp_path / "out"]
    for expected, arguments in [
        ("no such file", [*generate, "--delta", "none.safetensors:1"]),
        ("got 'nan'", [*generate, "--delta", f"{a}:nan"]),
        ("pass it as --network", [*generate, "--delta", f"{net}:1"]),
        ("damaged", [*generate, "--delta", tmp_path / "text"]),
        ("expected at most 1000000000", [*generate, "--delta", f"{a}:1e300"]),
        ("made from 'official-sg3t-32'", ["generate", *generate[3:], "--delta", a]),
        ("same network", [*make, "--adapted", T32, *out]),
        ("has no tensor", [*make, "--adapted", SG2, *out]),
        ("not in the range", [*make, "--adapted", net, "--rank", "0", *out]),
        ("ending in .safetensors", [*make, "--adapted", net, "--out", "x.pkl"]),
        ("is not a folder", [*make, "--adapted", net, "--out", tmp_path / "text/x.safetensors"]),
        ("made from", ["delta", "apply", "--network", net, "--delta", a, *out]),
        ("--delta: got none", ["delta", "apply", *out]),
        ("Missing argument", ["delta", "merge", *out]),
        ("two numbers like 0..1.2", [*video, "--strengths", "0-1"]),
        ("got nan", [*video, "--strengths", "0..nan"]),
        ("neither a known name", [*video, "--network", "nope"]),
        ("ending in .mp4", ["delta", "video", "--delta", a, "--out", "x.avi"]),
        ("damaged", ["delta", "info", tmp_path / "text"]),
        ("No such command", ["delta", "zip"]),
        ("--split or --layers", ["blend", T32, net, *out]),
        ("--width requires", ["blend", T32, net, "--layers", "L0", "--width", "2", *out]),
        ("expected one of input, L0", ["blend", T32, net, "--split", "L99", *out]),
        (
            "no layer 'L99'; layers are mapping, input, L0",
            ["blend", T32, net, "--layers", "L99", *out],
        ),
        ("width: got -1", ["blend", T32, net, "--split", "L2", "--width", "-1", *out]),
        ("do not match", ["blend", T32, SG2, "--split", "L2", *out]),
    ]:
        fails(expected, *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["text"]
    forced = ["delta", "apply", "--network", net, "--delta", a, "--force", *out]
    works(*forced)
