"""`sg3 push`: the network bit for bit, and a card made from the run, to a hub on loopback."""

import io
import json

import pytest
from fake_hub import READ, WRITE, hub  # noqa: F401
from PIL import Image
from program import fails, works

import sg3
from sg3.checkpoints import hub_files
from sg3.checkpoints.registry import ASSETS
from sg3.errors import UserError
from sg3.model_card import MARK, without_folders
from sg3.push import prepare, push
from sg3.push_config import PushConfig

NETWORK = ASSETS / "fashion-32.safetensors"


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(hub_files, "_found", {})


@pytest.fixture
def run(tmp_path):
    """The folder of a training run."""
    folder = tmp_path / "00000-run"
    folder.mkdir()
    for name in ("network-000300.safetensors", "network-000600.safetensors"):
        (folder / name).write_bytes(NETWORK.read_bytes())
    config = {"cfg": "stylegan2", "data": "/home/me/secret/fashion.zip", "batch": 32, "gamma": 10}
    (folder / "config.json").write_text(json.dumps({**config, "kimg": 600, "mirror": True}))
    lines = [
        {"results": {"fid": 9.25}, "metric": "fid", "snapshot": "network-000300.safetensors"},
        {"results": {"fid": 6.5}, "metric": "fid", "snapshot": "network-000600.safetensors"},
        {"results": {"fid": 7.5}, "metric": "fid", "snapshot": "network-000650.safetensors"},
    ]
    text = "\n".join(map(json.dumps, lines))
    (folder / "metric-fid.jsonl").write_text(text + "\n{a line cut sho")
    Image.new("RGB", (64, 32)).save(folder / "fakes000600.png")
    Image.new("RGB", (64, 32)).save(folder / "reals.png")
    return folder


def test_a_file_arrives_bit_for_bit(hub, monkeypatch):  # noqa: F811
    monkeypatch.setenv("HF_TOKEN", WRITE)
    output = works("push", NETWORK, "me/clothes", "--data", "Fashion-MNIST", "--message", "first")
    repo = hub.repos["me/clothes"]
    assert f"{hub.url}/me/clothes/commit/{repo.refs['main']}" in output
    assert "hf://me/clothes/fashion-32.safetensors" in output
    assert repo.files["fashion-32.safetensors"] == NETWORK.read_bytes()
    assert not repo.private and repo.messages[-1] == "first"
    monkeypatch.delenv("HF_TOKEN")
    nets = sg3.load("hf://me/clothes")
    assert nets.meta["sha256"] == sg3.load(NETWORK).meta["sha256"]
    card = repo.files["README.md"].decode()
    assert card.startswith("---\nlicense: apache-2.0\nlibrary_name: sg3\n") and MARK in card
    assert "| data | Fashion-MNIST |" in card and "python -m recipes.fashion train" in card
    assert "![Seeds 0 to 7, truncation 0.7.](samples.png)" in card
    picture = Image.open(io.BytesIO(repo.files["samples.png"]))
    assert picture.size == (4 * 32, 2 * 32) and picture.getextrema() != (0, 0)


def test_the_last_snapshot_of_a_run(hub, run, monkeypatch):  # noqa: F811
    monkeypatch.setenv("HF_TOKEN", WRITE)
    works("push", run, "me/run", "--private", "--licence", "cc-by-4.0")
    repo = hub.repos["me/run"]
    assert repo.private
    assert set(repo.files) - {".gitattributes"} == {
        "network-000600.safetensors",
        "samples.png",
        "fakes.png",
        "README.md",
    }
    card = repo.files["README.md"].decode()
    assert "| fid | 6.5 | network-000600.safetensors |" in card and "9.25" not in card
    command = "sg3 train --cfg stylegan2 --data fashion.zip --batch 32 --gamma 10 --kimg 600 "
    assert command + "--mirror\n" in card
    assert "license: cc-by-4.0\n" in card and "secret" not in card


def test_a_second_push_keeps_what_a_person_wrote(hub, monkeypatch):  # noqa: F811
    monkeypatch.setenv("HF_TOKEN", WRITE)
    works("push", NETWORK, "me/clothes")
    repo = hub.repos["me/clothes"]
    own = {**repo.files, "README.md": b"---\nlicense: mit\n---\nMy own words.\n"}
    repo.commit(own)
    works("push", "mini-faces", "me/clothes")
    assert repo.files["README.md"] == own["README.md"]
    assert {"fashion-32.safetensors", "mini-faces.safetensors"} <= set(repo.files)
    repo.commit({**own, "README.md": f"---\n---\n{MARK}\n".encode()})
    works("push", "mini-faces", "me/clothes")
    assert b"mini-faces" in repo.files["README.md"]


def test_a_dry_run_needs_no_hub(run):
    output = works("push", run, "me/clothes", "--dry-run")
    assert "license: apache-2.0" in output
    assert output.endswith("Files: network-000600.safetensors, samples.png, fakes.png, README.md\n")


def test_what_is_wrong_in_one_line(hub, run, tmp_path, monkeypatch):  # noqa: F811
    fails("needs a token with the right to write; log in by", "push", NETWORK, "me/clothes")
    assert hub.requests == []
    package = prepare(NETWORK, "me/clothes")
    for token, expected in ((READ, "the token does not allow this"), ("hf_old", "not accept the")):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(UserError, match=expected):
            push(package)
    assert hub.repos == {}
    monkeypatch.setenv("HF_TOKEN", WRITE)
    fails("expected OWNER/NAME", "push", NETWORK, "clothes")
    fails("no such file or folder", "push", tmp_path / "none", "me/clothes")
    fails("expected one network in the folder, found none", "push", tmp_path, "me/clothes")
    fails("safetensors", "push", __file__, "me/clothes")
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / name).write_bytes(NETWORK.read_bytes())
    fails("found a.safetensors, b.safetensors", "push", tmp_path, "me/clothes")
    assert hub.repos == {}


def test_the_licence_must_be_known(tmp_path):
    nets = sg3.load(NETWORK)
    nets.meta.pop("licence")
    sg3.save(nets, tmp_path / "a.safetensors")
    fails("--licence: a.safetensors does not say", "push", tmp_path, "me/a", "--dry-run")
    config = PushConfig(licence="NVIDIA, non-commercial")
    card = prepare(tmp_path, "me/a", config).card
    assert 'license: other\nlicense_name: "NVIDIA, non-commercial"\n' in card


def test_paths_of_this_machine_are_left_out():
    for text, expected in {
        "/home/me/a/data.zip": "data.zip",
        "--data=/home/me/data.zip": "--data=data.zip",
        "~/photos": "photos",
        r"C:\Users\me\photos.zip": "photos.zip",
        "1/2": "1/2",
        "https://example.com/a/b.pkl": "https://example.com/a/b.pkl",
        "hf://me/clothes": "hf://me/clothes",
        "ViT-B/32": "ViT-B/32",
    }.items():
        assert without_folders(text) == expected
