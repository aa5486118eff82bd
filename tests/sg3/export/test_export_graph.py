"""Exported files compute what the network computes, out of operators that every runtime has."""

from __future__ import annotations

import pytest
import torch

import sg3
from sg3.errors import UserError
from sg3.export.compare import compare, ours
from sg3.export.config import ExportConfig
from sg3.export.graph import ExportedNetwork, export_network
from sg3.export.plain import plain_generator

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

GOLDEN = ("official-sg3t-32-cond", "official-sg3r-32", "official-sg2-32", "official-sg2ada-32")


@pytest.mark.parametrize("name", GOLDEN)
def test_plain_layers_compute_the_same(root, name):
    G = sg3.load(root / f"tests/golden/{name}.pkl").G_ema
    config = ExportConfig()
    network = ExportedNetwork(G, config)
    inputs = network.example_inputs(2)
    with torch.no_grad():
        image = network(**inputs)
    assert (image - torch.from_numpy(ours(G, config, inputs))).abs().max() < 1e-5


@pytest.mark.parametrize("name", GOLDEN[:3])
def test_onnx_file_agrees_for_any_batch(root, tmp_path, name):
    G = sg3.load(root / f"tests/golden/{name}.pkl").G_ema
    config = ExportConfig(dynamic_batch=True)
    export_network(G, tmp_path / "net.onnx", config)
    model = onnx.load(tmp_path / "net.onnx")
    assert {node.domain for node in model.graph.node} == {""}, "operators of ONNX itself only"
    labels = ["c"] if G.c_dim else []
    movable = ["transform"] if "sg3" in name else []
    inputs = [each.name for each in model.graph.input]
    assert inputs == ["z", *labels, "truncation_psi", *movable]
    assert [each.name for each in model.graph.output] == ["image"]
    assert compare(G, tmp_path / "net.onnx", config).difference < 1e-5
    assert list(tmp_path.iterdir()) == [tmp_path / "net.onnx"]


@pytest.mark.parametrize("part", ["mapping", "synthesis"])
def test_parts_in_pt2(root, tmp_path, part):
    G = sg3.load(root / "tests/golden/official-sg3t-32-cond.pkl").G_ema
    config = ExportConfig(format="pt2", part=part)
    export_network(G, tmp_path / "net.pt2", config)
    assert compare(G, tmp_path / "net.pt2", config).difference < 1e-5


def test_half_halves_the_file_and_computes_in_float32(tmp_path):
    G = sg3.load("fashion-32").G_ema
    sizes, differences = [], []
    for half in (False, True):
        config = ExportConfig(half=half)
        export_network(G, tmp_path / "net.onnx", config)
        sizes.append((tmp_path / "net.onnx").stat().st_size)
        differences.append(compare(G, tmp_path / "net.onnx", config).difference)
    assert sizes[1] < 0.75 * sizes[0]  # this network is small: its filters, in float32, count
    assert differences[0] < 1e-4 < 0.02 > differences[1]


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
