"""`hf://OWNER/NAME[/FILE][@REVISION]`, from a hub on loopback."""

import pytest
import torch
from fake_hub import READ, hub  # noqa: F401
from program import fails, works

import sg3
from sg3.checkpoints import hub_files
from sg3.checkpoints.hub_files import HubAddress, fetch_from_hub, parse_hub_address
from sg3.checkpoints.registry import ASSETS
from sg3.errors import UserError

NETWORK = (ASSETS / "fashion-32.safetensors").read_bytes()
OTHER = (ASSETS / "mini-faces.safetensors").read_bytes()
README = {"README.md": b"---\nlicense: mit\n---\n"}


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(hub_files, "_found", {})


def test_addresses():
    expected = {
        "hf://me/clothes": HubAddress("me/clothes"),
        "hf://me/clothes/": HubAddress("me/clothes"),
        "hf://me/clothes@v1.0": HubAddress("me/clothes", None, "v1.0"),
        "hf://me/clothes/a/b.pkl": HubAddress("me/clothes", "a/b.pkl"),
        "hf://me/clothes/a.pkl@refs/pr/1": HubAddress("me/clothes", "a.pkl", "refs/pr/1"),
    }
    for text, address in expected.items():
        assert parse_hub_address(text) == address
    for text in ("hf://me", "hf://", "hf:///x", "hf://a b/c", "hf://me/x/../../y", "hf://me/x/.."):
        with pytest.raises(UserError, match="expected hf://OWNER/NAME"):
            parse_hub_address(text)


def test_the_only_network_of_a_repository(hub):  # noqa: F811
    repo = hub.add("me/clothes", {"clothes.safetensors": NETWORK, **README})
    first = repo.refs["main"]
    nets = sg3.load("hf://me/clothes")
    assert nets.meta["source"] == "hf://me/clothes" and nets.meta["name"] == "clothes"
    expected = sg3.load("fashion-32").G_ema.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in nets.G_ema.state_dict().items())
    asked = len(hub.requests)
    assert fetch_from_hub("hf://me/clothes").read_bytes() == NETWORK
    # Only whether the hub answers: a page asks for its network with every image.
    assert all(method == "HEAD" for method, _, _ in hub.requests[asked:])
    repo.commit({"clothes.safetensors": OTHER})
    old, new = f"hf://me/clothes@{first}", "hf://me/clothes/clothes.safetensors@main"
    assert fetch_from_hub(old).read_bytes() == NETWORK
    assert fetch_from_hub(new).read_bytes() == OTHER


def test_the_program_takes_it_where_it_takes_a_network(hub, tmp_path):  # noqa: F811
    hub.add("me/clothes", {"nets/clothes.safetensors": NETWORK})
    works("generate", "--network", "hf://me/clothes", "--seeds", 0, "--outdir", tmp_path / "a")
    works("generate", "--network", "fashion-32", "--seeds", 0, "--outdir", tmp_path / "b")
    images = [next((tmp_path / name).glob("*.png")).read_bytes() for name in "ab"]
    assert images[0] == images[1]
    assert works("models", "get", "hf://me/clothes").strip().endswith("nets/clothes.safetensors")


def test_what_is_wrong_in_one_line(hub):  # noqa: F811
    many = {f"{i}.safetensors": NETWORK for i in range(9)}
    hub.add("me/many", many)
    hub.add("me/empty", README)
    hub.add("me/secret", {"a.pkl": NETWORK}, private=True)
    hub.add("me/gated", {"a.pkl": NETWORK}, gated=True)
    hub.add("me/page", {"a.pkl": b"<html>" * 99})
    for address, expected in {
        "hf://me/many": "has 9 networks, 0.safetensors, 1.safetensors",
        "hf://me/empty": "has no network (.safetensors, .pkl, .pt, .pth), only README.md",
        "hf://me/many/b.pkl": "no such file in the repository",
        "hf://me/many@v2": "no such revision",
        "hf://me/secret": "a private one that needs a token (log in by `hf auth login`",
        "hf://me/secret/a.pkl": "a private one that needs a token",
        "hf://me/gated": "its owner must grant you access",
        "hf://me/nothing": "no such repository",
        "hf://me": "expected hf://OWNER/NAME[/FILE][@REVISION]",
        "hf://me/page": "a web page",
    }.items():
        assert address in fails(expected, "models", "get", address) or address == "hf://me/page"


def test_a_token_opens_a_private_repository(hub, monkeypatch):  # noqa: F811
    hub.add("me/secret", {"a.safetensors": NETWORK}, private=True)
    monkeypatch.setenv("HF_TOKEN", READ)
    assert fetch_from_hub("hf://me/secret").read_bytes() == NETWORK
    with pytest.raises(UserError, match="a private one that your token may not read"):
        fetch_from_hub("hf://me/nothing")
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(UserError, match="does not accept the token"):
        fetch_from_hub("hf://me/other")


def test_without_a_connection_the_cache_is_used(hub, monkeypatch):  # noqa: F811
    from huggingface_hub import constants

    hub.add("me/clothes", {"clothes.safetensors": NETWORK, **README})
    fetch_from_hub("hf://me/clothes")
    monkeypatch.setattr(hub_files, "_found", {})
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert fetch_from_hub("hf://me/clothes").read_bytes() == NETWORK
    with pytest.raises(UserError, match=r"not in the cache .* cannot be reached") as caught:
        fetch_from_hub("hf://me/other")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="not in the cache"):
        fetch_from_hub("hf://me/clothes/other.pkl")


def test_nothing_is_told_about_this_machine(hub):  # noqa: F811
    hub.add("me/clothes", {"clothes.safetensors": NETWORK})
    fetch_from_hub("hf://me/clothes")
    agents = [headers.get("User-Agent", "") for _, _, headers in hub.requests]
    assert any(agent.startswith("sg3/") for agent in agents)
    assert not any("torch/" in agent for agent in agents)
    assert not any("agent-harnesses" in path for _, path, _ in hub.requests)
