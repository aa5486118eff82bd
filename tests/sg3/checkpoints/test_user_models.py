"""The user's own names of networks, in a file."""

import hashlib
import json

import pytest
from program import fails, works

import sg3
from sg3.checkpoints.registry import ASSETS, REGISTRY, find_entry, known_networks
from sg3.errors import UserError

NETWORK = (ASSETS / "fashion-32.safetensors").read_bytes()
DIGEST = hashlib.sha256(NETWORK).hexdigest()


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Write the user's file."""
    path = tmp_path / "models.json"
    monkeypatch.setenv("SG3_MODELS", str(path))

    def write(content):
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def test_a_name_of_a_file(models, tmp_path):
    (tmp_path / "clothes.safetensors").write_bytes(NETWORK)
    entry = {"source": "clothes.safetensors", "sha256": DIGEST.upper(), "licence": "cc0-1.0"}
    models({"My-Clothes": {**entry, "resolution": 32}, "remote": "https://example.com/a.pkl"})
    nets = sg3.load("My-Clothes")
    assert nets.meta["name"] == "My-Clothes" and nets.meta["licence"] == "cc0-1.0"
    assert nets.meta["sha256"] == DIGEST
    assert list(known_networks())[: len(REGISTRY)] == list(REGISTRY)
    assert find_entry("remote").bundled is None
    lines = works("models").splitlines()
    mine = next(line for line in lines if line.startswith("My-Clothes"))
    assert "32x32" in mine and " file " in mine and str(tmp_path) in mine
    assert next(line for line in lines if line.startswith("remote")).split()[1] == "-"
    models({"My-Clothes": {**entry, "sha256": "0" * 64}})
    fails("SHA-256 of", "models", "get", "My-Clothes")
    (tmp_path / "clothes.safetensors").unlink()
    fails("clothes.safetensors is missing", "models", "get", "My-Clothes")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "cannot be read as JSON"),
        ([], "expected an object of names"),
        ({"mini-faces": "a.pkl"}, "mini-faces: expected a name"),
        ({"a/b": "a.pkl"}, "a/b: expected a name"),
        ({"a": 3}, "a: expected a source"),
        ({"a": {}}, "a: expected a source"),
        ({"a": {"source": "b", "hash": "c"}}, "a: got 'hash', expected source, sha256"),
        ({"a": {"source": "b", "size_bytes": "5"}}, "size_bytes: got '5', expected a whole"),
        ({"a": {"source": "b", "sha256": "abc"}}, "expected 64 hexadecimal digits"),
    ],
)
def test_a_malformed_file_is_named(models, content, expected):
    path = models(content)
    message = fails(expected, "models")
    assert str(path) in message
    assert REGISTRY["mini-faces"] == find_entry("mini-faces")  # what needs no file still works


def test_a_missing_file(models, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"SG3_MODELS: .* no such file"):
        known_networks()
    monkeypatch.delenv("SG3_MODELS")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert known_networks() == REGISTRY
