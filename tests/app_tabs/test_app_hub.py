"""The page can fetch an encoder that the user names, and asks no one else for anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import repository
from fake_hub import serve_hub

pytest.importorskip("gradio")

#: A tiny CLIP under a tag of its own, on the hub of HF_ENDPOINT.
SCRIPT = """
import json, socket, sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path

asked, lookup, connect = [], socket.getaddrinfo, socket.socket.connect
def note_lookup(host, *rest, **named):
    asked.append(str(host))
    return lookup(host, *rest, **named)
def note_connect(self, address):
    asked.append(str(address[0]))
    return connect(self, address)
socket.getaddrinfo, socket.socket.connect = note_lookup, note_connect

import app_tabs
import torch
from app_tabs.context import Context
from app_tabs.page import launch
import open_clip
open_clip.add_model_config(Path(sys.argv[1]))
tags = {"test": {"hf_hub": "me/tiny-clip/", "quick_gelu": False}}
open_clip.pretrained._PRETRAINED["tiny"] = tags
context = Context("fashion-32", "tiny/test", torch.device("cpu"), Path(sys.argv[1]) / "out")
demo, address = launch(context, "127.0.0.1", None, False)
try:
    found = {"dim": context.encoder().embed_dim}
except ValueError as error:
    found = {"error": str(error)}
demo.close(verbose=False)
from huggingface_hub import constants
found |= {"asked": asked, "telemetry": not constants.HF_HUB_DISABLE_TELEMETRY}
print(json.dumps(found))
"""
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
#: Names of this machine, which the page's own server is reached by.
LOCAL = ("127.0.0.1", "localhost", "0.0.0.0", "::1", "None")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The state of such a CLIP, as a safetensors file."""
    import open_clip
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("clip")
    (folder / "tiny.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder)
    model = open_clip.create_model("tiny", pretrained=None)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def test_the_page_fetches_the_encoder_that_it_is_told(weights, tmp_path):
    data = (weights / "open_clip_model.safetensors").read_bytes()
    with serve_hub() as hub:
        hub.add("me/tiny-clip", {"open_clip_model.safetensors": data})
        switches = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "GRADIO_ANALYTICS_ENABLED")
        env = {k: v for k, v in os.environ.items() if k not in switches}
        env |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
        process = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(weights)],
            cwd=repository.ROOT, env=env, capture_output=True, text=True,
        )  # fmt: skip
        requests = list(hub.requests)
    assert process.returncode == 0, process.stderr[-2000:]
    found = json.loads(process.stdout.splitlines()[-1])
    assert found.get("dim") == 16, found
    assert {name for name in found["asked"]} <= set(LOCAL)
    assert not found["telemetry"]
    paths = {path for _, path, _ in requests}
    assert "/me/tiny-clip/resolve/main/open_clip_model.safetensors" in paths
    assert not any("telemetry" in path or "harness" in path for path in paths)
    assert not any("torch/" in headers.get("User-Agent", "") for _, _, headers in requests)
