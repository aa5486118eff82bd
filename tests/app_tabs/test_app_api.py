"""Endpoints of the page, called from a script: each action, two visitors, invalid uploads."""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio")

from click.testing import CliRunner
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from sg3.cli.main import cli

pytest_plugins = ["app_page"]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

STEER = {"latent_file": None, "images": None, "mask": None, "steps": 10, "candidates": 4}
ENDPOINTS = {
    "generate", "steer", "steer_continue", "steer_stop", "deltas", "adapt", "adapt_continue",
    "adapt_stop", "edit", "edit_video", "edit_stop", "learn", "find", "find_stop", "explore",
    "explore_move", "explore_stop", "plan", "train", "train_stop", "train_end",
}  # fmt: skip


@pytest.fixture
def visitor(address):
    """A function that opens a session."""
    opened = []

    def open_one() -> Client:
        opened.append(Client(address, verbose=False))
        return opened[-1]

    yield open_one
    for client in opened:
        client.close()


@pytest.fixture(scope="module")
def client(address):
    """A session that several tests share."""
    client = Client(address, verbose=False)
    yield client
    client.close()


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def text_of(html: str) -> str:
    return re.sub(r"<[^>]*>", " ", html).strip()


@pytest.fixture
def photo(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "photo.png"
    Image.fromarray(rng.integers(0, 255, [96, 96, 3], np.uint8)).save(path)
    return path


def test_endpoints_have_names_and_parameters(client):
    api = client.view_api(return_format="dict")["named_endpoints"]
    assert {name.strip("/") for name in api} == ENDPOINTS
    names = [parameter["parameter_name"] for parameter in api["/generate"]["parameters"]]
    assert names[:4] == ["network", "seed", "psi", "class_index"]


def test_two_visitors_have_separate_images(visitor):
    ann, bob = visitor(), visitor()
    first, path = ann.predict(seed=3, api_name="/generate")
    other, _ = bob.predict(seed=4, point="0.5,-0.5", deg=30, api_name="/generate")
    again, _ = ann.predict(seed=3, api_name="/generate")
    assert Path(path).name == "seed0003.png"
    assert pixels(path).shape == (64, 64, 3)
    assert (pixels(first) == pixels(again)).all()
    assert np.abs(pixels(first) - pixels(other)).mean() > 10


def test_jobs_wait_in_a_queue_and_stop_affects_only_the_own_job(visitor):
    ann, bob = visitor(), visitor()
    long = ann.submit(**STEER | {"steps": 400}, api_name="/steer")
    while len(long.outputs()) < 3:
        time.sleep(0.1)
    short = bob.submit(**STEER, api_name="/steer")
    while short.status().code.name == "STARTING":
        time.sleep(0.1)
    assert (short.status().code.name, short.status().rank) == ("IN_QUEUE", 0)
    bob.predict(api_name="/explore_stop")
    ann.predict(api_name="/steer_stop")
    assert "Stopped after" in text_of(long.result(timeout=60)[2])
    start, now, line, png, video, latent = short.result(timeout=60)
    assert "Done after 10 steps" in text_of(line)
    assert (pixels(start) != pixels(now)).any()
    assert all(Path(path).stat().st_size > 500 for path in (png, video, latent))
    on = bob.predict(**STEER, prompt="a bald man", api_name="/steer_continue")
    assert (pixels(on[0]) == pixels(now)).mean() > 0.9, "it continues where it ended"
    with pytest.raises(AppError, match="no run to continue"):
        visitor().predict(**STEER, api_name="/steer_continue")


def test_a_text_with_markup_is_only_a_text(client):
    prompt = "a man <img src=x onerror=alert(1)> with <b>glasses</b>"
    *_, line, _, _, _ = client.predict(**STEER, prompt=prompt, api_name="/steer")
    assert "<img" not in line and "<b>" not in line
    assert "onerror" in line
    with pytest.raises(AppError, match="map: got '&lt;b&gt;'"):
        client.predict(point="<b>", api_name="/generate")


def test_endless_texts_are_refused(client):
    with pytest.raises(AppError, match="prompt: got 20000 characters, expected at most 2000"):
        client.predict(**STEER, prompt="w" * 20_000, api_name="/steer")


def test_deltas_and_a_new_adaptation(client):
    off = {"strength_1": 0, "strength_2": 0}
    plain = client.predict(**off, api_name="/deltas")
    zombies = client.predict(strength_1=1, api_name="/deltas")
    assert np.abs(pixels(plain) - pixels(zombies)).mean() > 5
    adapted = client.predict(images=None, steps=10, api_name="/adapt")
    assert "After 10 steps" in text_of(adapted[2])
    assert Path(adapted[3]).name == "delta.safetensors"
    mine = "My delta 1: zombie, 10 steps"
    own = client.predict(delta_1=mine, strength_1=1, strength_2=0, api_name="/deltas")
    assert (pixels(own) != pixels(plain)).any()
    with pytest.raises(AppError, match="no stopped run"):
        client.predict(images=None, api_name="/adapt_continue")


def test_edits_of_a_seed_and_of_a_photo(client, photo):
    both, line, _, latent = client.predict(latent_file=None, api_name="/edit")
    assert "a smiling face" in text_of(line)
    assert np.abs(pixels(both[0]) - pixels(both[1])).mean() > 1
    found = {"photo": handle_file(photo), "steps": 0, "tune_steps": 0, "centre": True}
    assert "Found at" in text_of(client.predict(**found, api_name="/find")[1])
    sources = {"source": "Photo", "latent_file": None}
    of_photo, *_ = client.predict(**sources, amount=2, api_name="/edit")
    assert (pixels(of_photo[0]) != pixels(of_photo[1])).any()
    sources = {"source": "Latent file", "latent_file": handle_file(latent)}
    of_latent, *_ = client.predict(**sources, alpha_1=0, api_name="/edit")
    assert np.abs(pixels(of_latent[0]) - pixels(both[1])).mean() < 2


def test_invalid_uploads_are_refused_in_one_line(client, photo, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"<svg onload=alert(1)>")
    find = {"steps": 0, "tune_steps": 0}
    with pytest.raises(AppError, match=r"cannot read bad\.png"):
        client.predict(photo=handle_file(bad), **find, api_name="/find")
    huge = tmp_path / "huge.png"
    Image.new("1", (9000, 9000)).save(huge)
    with pytest.raises(AppError, match="9000x9000 pixels"):
        client.predict(photo=handle_file(huge), **find, api_name="/find")
    with pytest.raises(AppError, match="got none"):
        client.predict(photo=None, **find, api_name="/find")
    fake = tmp_path / "fake.safetensors"
    fake.write_bytes(photo.read_bytes())
    sources = {"source": "Latent file", "latent_file": handle_file(fake)}
    with pytest.raises(AppError, match="safetensors"):
        client.predict(**sources, api_name="/edit")


def test_layers(client):
    whole = client.predict(api_name="/explore")
    one = client.predict(layer="L3_78_48", domain="Spectrum", api_name="/explore")
    assert pixels(whole).shape != pixels(one).shape
    two = client.predict(other="mini-faces-stylegan2", deg=10, api_name="/explore")
    assert len(pixels(two)) > len(pixels(whole)), "the StyleGAN2 is below, not moved"
    with pytest.raises(AppError, match="channel: got 99"):
        client.predict(layer="L3_78_48", channel=99, api_name="/explore")


def test_plans_need_images(client, tmp_path):
    with pytest.raises(AppError, match="nowhere"):
        client.predict(data=str(tmp_path / "nowhere"), api_name="/plan")


def test_equivalent_commands_are_accepted_by_the_command_line(served, tmp_path):
    from app_tabs import adapt, delta_sliders, edit, explore, generate, steer, train

    context, _ = served
    visitor = type("Request", (), {"session_hash": "commands"})
    edits = {"network": None, "source": "Seed", "seed": 1, "latent_file": None, "neutral": "a face"}
    edits |= {"text_1": "a hat", "alpha_1": 2.0, "beta_1": 0.1, "component": 3, "amount": -1.0}
    edits |= {"text_2": "", "alpha_2": 0, "beta_2": 0.12}
    layers = {"network": None, "other": None, "seed": 0, "layer": "L3_78_48", "channel": 0}
    layers |= {"domain": "Space", "x": -0.1, "y": 0, "deg": -20}
    moved = generate.FIRST | {"x": -0.2, "deg": 30.0, "show": "3×3"}
    mixed = generate.FIRST | {"mix": True, "point": "0.1,-0.5", "deg": 5.0}
    rows = {"delta_1": "zombie", "strength_1": 0.5, "delta_2": "(none)", "strength_2": 0}
    steering = {"prompt": "-a 'b'", "steps": 10, "start": "Best candidate", "seed": 0}
    steering |= {"candidates": 4, "latent_file": None, "space": "w+: one per layer"}
    steering |= {"layers": "0-3", "cutouts": 2, "images": None, "image_weight": 1, "mask": None}
    run = {"data": "x", "cfg": "stylegan3-t", "size": "Small", "batch": 8, "gamma": 0.5}
    run |= {"kimg": 1.0, "mirror": True, "resume": ""}
    lines = [
        generate.command(context, visitor, **moved),
        generate.command(context, visitor, **mixed),
        steer.command(context, visitor, None, **steering),
        delta_sliders.command(context, visitor, None, 0, **rows),
        adapt.command(context, visitor, "a", "b", None, None, 10, "all"),
        edit.command(context, visitor, **edits),
        explore.command(context, visitor, **layers),
        train.command(context, visitor, **run),
    ]
    photograph = tmp_path / "a photo.png"
    Image.new("RGB", (80, 80), "white").save(photograph)
    found = {"photo": str(photograph), "steps": 30, "tune_steps": 20, "centre": True}
    photo_line = edit.command(context, visitor, **edits | {"source": "Photo"} | found)
    lines += [
        photo_line,
        adapt.command(context, visitor, "", "", [str(photograph)], None, 10, "all"),
    ]
    painted = Image.new("RGBA", (64, 64))
    painted.paste((0, 0, 0, 255), (8, 8, 40, 40))
    steering |= {"images": [str(photograph)], "mask": {"layers": [painted]}}
    lines += steer.command(context, visitor, None, **steering).split("\n")
    context.session(visitor).results["steer_latent"] = "out/latent.safetensors"
    lines += steer.command(context, visitor, None, **steering).split("\n")
    assert len(lines) == 13 and "--latent" in lines[-1]
    assert all(word in photo_line for word in ("a photo.png", "--steps 30", "--tune 20", "centre"))
    for line in " && ".join(lines).split(" && "):
        _, name, *words = shlex.split(line)
        if "--latent" in words:  # a file that the command before would write
            words[words.index("--latent") + 1] = __file__
        if "--delta" in words and words[words.index("--delta") + 1].startswith("out/"):
            words[words.index("--delta") + 1] = "zombie"
        command = cli.get_command(None, name)
        command.make_context(name, words)
        for option in ("--region", "--target-images"):
            if option in words:
                assert Path(words[words.index(option) + 1]).exists()


def test_equivalent_commands_make_the_same_images(client, served, tmp_path):
    """For a seed, a steered prompt, and its continuation."""
    from app_tabs import generate, steer

    context, _ = served
    visitor = type("Request", (), {"session_hash": client.session_hash})

    def same(line: str, folder: str, name: str, drawn) -> None:
        _, command, *words = shlex.split(line)
        done = CliRunner().invoke(cli, [command, *words, "--outdir", str(tmp_path / folder)])
        assert done.exit_code == 0, done.output
        made = pixels(tmp_path / folder / name)
        assert np.abs(made - pixels(drawn)).mean() < 0.5, line

    wanted = {"seed": 5, "deg": 20.0, "x": 0.1}
    _, drawn = client.predict(**wanted, api_name="/generate")
    line = generate.command(context, visitor, **generate.FIRST | wanted)
    same(line, "generate", "seed0005.png", drawn)
    values = {**STEER, "prompt": "a man with a green hat", "start": next(iter(steer.STARTS))}
    values |= {"seed": 0, "space": next(iter(steer.SPACES)), "layers": "", "cutouts": 0}
    values |= {"image_weight": 1}
    *_, drawn, _, latent = client.predict(**values, api_name="/steer")
    on = client.predict(**values, api_name="/steer_continue")
    line, _ = steer.command(context, visitor, None, **values).split("\n")
    same(line, "steer", "end.png", drawn)
    context.session(visitor).results["steer_latent"] = latent
    _, line = steer.command(context, visitor, None, **values).split("\n")
    same(line, "on", "end.png", on[3])
