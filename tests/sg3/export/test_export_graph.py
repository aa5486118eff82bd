"""Exported files compute what the network computes, out of operators that every runtime has."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import sg3
from sg3.errors import UserError
from sg3.export.compare import compare, ours
from sg3.export.config import ExportConfig
from sg3.export.graph import ExportedNetwork, export_network
from sg3.export.plain import plain_generator
from sg3.generate import generate_images
from sg3.networks import build_network

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

GOLDEN = ("official-sg3t-32-cond", "official-sg3r-32", "official-sg2-32", "official-sg2ada-32")


@pytest.mark.parametrize("filters", ["depthwise", "grouped"])
@pytest.mark.parametrize("name", GOLDEN)
def test_plain_layers_compute_the_same(root, name, filters):
    G = sg3.load(root / f"tests/golden/{name}.pkl").G_ema
    config = ExportConfig(filters=filters)
    network = ExportedNetwork(G, config)
    inputs = network.example_inputs(2)
    with torch.no_grad():
        image = network(**inputs)
    assert (image - torch.from_numpy(ours(G, config, inputs))).abs().max() < 1e-5


#: A few layers with every operator: tracing takes seconds per layer.
SMALL = dict(z_dim=8, w_dim=8, img_resolution=16, img_channels=3, channel_base=128, channel_max=8)


def small(kind, c_dim=0, **options):
    """A generator with random weights."""
    torch.manual_seed(0)
    layers = {} if kind == "stylegan2" else dict(num_layers=4, margin_size=4)
    return build_network(kind, {**SMALL, **layers, "c_dim": c_dim, **options}).eval()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "c_dim"), [("stylegan3", 3), ("stylegan2", 0)])
def test_onnx_file_agrees_for_any_batch(tmp_path, kind, c_dim):
    G = small(kind, c_dim)
    config = ExportConfig(dynamic_batch=True)
    export_network(G, tmp_path / "net.onnx", config)
    model = onnx.load(tmp_path / "net.onnx")
    assert {node.domain for node in model.graph.node} == {""}, "operators of ONNX itself only"
    labels = ["c"] if G.c_dim else []
    movable = ["transform"] if kind == "stylegan3" else []
    inputs = [each.name for each in model.graph.input]
    assert inputs == ["z", *labels, "truncation_psi", *movable]
    assert [each.name for each in model.graph.output] == ["image"]
    assert compare(G, tmp_path / "net.onnx", config).difference < 1e-5
    assert list(tmp_path.iterdir()) == [tmp_path / "net.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "name"), [("mapping", "official-sg3t-32-cond"), ("synthesis", "official-sg2-32")]
)
def test_parts_in_pt2(root, tmp_path, part, name):
    G = sg3.load(root / f"tests/golden/{name}.pkl").G_ema
    config = ExportConfig(format="pt2", part=part)
    export_network(G, tmp_path / "net.pt2", config)
    assert compare(G, tmp_path / "net.pt2", config).difference < 1e-5


@pytest.mark.slow
def test_half_stores_half_and_computes_in_float32(root, tmp_path):
    G = sg3.load("fashion-32").G_ema
    for parameter in G.parameters():
        parameter.data.mul_(1 + 2**-13)  # the bundled weights are in half precision
    config = ExportConfig(half=True)
    export_network(G, tmp_path / "net.onnx", config)
    weights = sum(4 * parameter.numel() for parameter in G.parameters())
    # The network is small: its filters and small weights, in float32, count.
    assert (tmp_path / "net.onnx").stat().st_size < 0.75 * weights
    assert 1e-5 < compare(G, tmp_path / "net.onnx", config).difference < 0.02


SCRIPT = re.compile(r"```python\n(# render\.py.*?)```", re.DOTALL)


@pytest.mark.slow
def test_the_documented_script_renders_what_sg3_generates(root, tmp_path):
    G = sg3.load(root / "tests/golden/official-sg3r-32.pkl").G_ema
    config = ExportConfig()
    export_network(G, tmp_path / "net.onnx", config)
    assert compare(G, tmp_path / "net.onnx", config).difference < 1e-5
    script = SCRIPT.search((root / "docs/EXPORT.md").read_text(encoding="utf-8"))
    (tmp_path / "render.py").write_text(script[1])
    command = [sys.executable, "render.py", "net.onnx", "3", "face.png"]
    subprocess.run(command, cwd=tmp_path, env={"PATH": ""}, check=True)
    (own,) = generate_images(G, [3], truncation_psi=0.7, translate=(0.1, 0))
    found = np.asarray(Image.open(tmp_path / "face.png"), np.int16)
    assert np.abs(found - own.image).max() <= 1


def test_the_network_itself_is_left_alone():
    G = sg3.load("mini-faces").G_ema
    before = {name: tensor.clone() for name, tensor in G.state_dict().items()}
    plain_generator(G)
    ExportedNetwork(G, ExportConfig(half=True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in G.state_dict().items())


def test_bad_targets_write_nothing(tmp_path):
    G = sg3.load("fashion-32").G_ema
    with pytest.raises(
        UserError, match=r"output: got .*net\.pkl, expected a name ending in \.onnx"
    ):
        export_network(G, tmp_path / "net.pkl", ExportConfig())
    with pytest.raises(ValueError, match="format: got 'tflite'"):
        ExportConfig(format="tflite")
    assert not list(tmp_path.iterdir())
