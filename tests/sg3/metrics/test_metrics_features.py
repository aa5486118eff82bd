"""Feature networks: names, registration, the bundled one end to end; and the command."""

import importlib.util
import json
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import program
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

import sg3
from recipes.minifaces.world.renderer import render_seed
from sg3 import plugins
from sg3.cli.main import COMMANDS, cli
from sg3.cli.metrics import run_data
from sg3.data import open_dataset
from sg3.media.images import as_rgb
from sg3.metrics import (
    check_names,
    detectors,
    evaluate,
    features,
    load_features,
    load_perceptual_distance,
    parse_name,
    real,
    register_features,
    register_perceptual_distance,
)
from sg3.training.run_folder import OPTIONS


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(real, "cache_dir", lambda: tmp_path / "cache")


def write_faces(folder, num, domain="human"):
    folder.mkdir()
    for i in range(num):
        face = render_seed(9 * 10**8 + i, domain, "flat", 64)
        Image.fromarray(face).save(folder / f"{i:03d}.png")
    return str(folder)


@pytest.mark.slow
def test_the_bundled_generator_generates_humans(tmp_path):
    """With the bundled encoder: close to its own domain, far from another."""
    G = sg3.load("mini-faces").G_ema
    distances = {}
    for domain in ("human", "robot"):
        dataset = open_dataset(write_faces(tmp_path / domain, 80, domain))
        found = evaluate("fid0.08k_full", G, dataset, features="mini")
        assert found["features"] == "mini"
        distances[domain] = found["results"]["fd0.08k_full_mini"]
    assert distances["human"] < 0.2
    assert distances["robot"] > 4 * distances["human"]


def test_gray_and_transparent_images():
    gray = torch.arange(8, dtype=torch.uint8).reshape(2, 1, 2, 2)
    assert torch.equal(as_rgb(gray)[:, 2], gray[:, 0])
    rgba = torch.arange(16, dtype=torch.uint8).reshape(1, 4, 2, 2)
    assert torch.equal(as_rgb(rgba), rgba[:, :3])
    mini = load_features("mini")
    images = torch.zeros([2, 1, 48, 80], dtype=torch.uint8)
    assert mini(images).shape == (2, mini.dim)
    with pytest.raises(ValueError, match="2 channels"):
        as_rgb(gray.reshape(1, 2, 2, 2))


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("incepton", "expected inception"),
        ("inception:", "expected inception"),
        ("inception:/nowhere.pth", "no such file"),
        ("vgg16:/nowhere.pt", "no such file"),
        ("clip:nosuchmodel", "nosuchmodel"),
    ],
)
def test_bad_features(spec, hint):
    pytest.importorskip("torch_fidelity")
    with pytest.raises(ValueError, match=hint) as error:
        load_features(spec)
    assert "\n" not in str(error.value)


class Plain:
    """A feature network, and a perceptual distance."""

    dim = 3

    def __init__(self, device, argument=None):
        self.name, self.device = f"plain-{argument}", device

    def __call__(self, images):
        return images.float().mean(dim=[2, 3])

    features = __call__


@pytest.fixture
def own_tables(monkeypatch):
    """Tables of loaders without plug-ins, and restored after the test."""
    for table in (features.FEATURES, features.PERCEPTUAL):
        loaders = {k: v for k, v in table._loaders.items() if k.partition(":")[0] in BUILT_IN}
        monkeypatch.setattr(table, "_loaders", loaders)
    monkeypatch.setattr(plugins, "PROJECT", Path("nowhere"))
    plugins.load_plugins.cache_clear()
    yield
    plugins.load_plugins.cache_clear()


BUILT_IN = ("inception", "vgg16", "dinov2", "timm")


def test_registered_features_are_found_by_name(own_tables):
    register_features("plain", Plain)
    register_features("plain:WORD", Plain)
    register_perceptual_distance("plain:WORD", Plain)
    assert load_features("plain").name == "plain-None"
    network = load_features("plain:a:b", "cpu")
    assert network.name == "plain-a:b" and network.device == torch.device("cpu")
    assert parse_name("fid1k_plain:x").features == "plain:x"
    assert load_perceptual_distance("plain:x").name == "plain-x"
    check_names(["ppl1k_wend_plain:x"])
    for spec in ("plain:", "plane"):
        with pytest.raises(ValueError, match=r"expected inception, .*plain,.* plain:WORD"):
            load_features(spec)
    with pytest.raises(ValueError, match="unknown name"):
        check_names(["ppl1k_wend_plain"])


def entry(value):
    return EntryPoint("test", value, features.ENTRY_POINTS)


def test_packages_above_register_through_entry_points(own_tables, monkeypatch):
    """As an installed package declares it; nothing is imported while built-in names suffice."""
    asked = []
    points = [entry("guidance.encoders.features:register")]
    monkeypatch.setattr(plugins, "entry_points", lambda group: asked.append(group) or points)
    check_names(["fid1k_full_dinov2", "pr1k3"])
    assert not asked
    check_names(["fid1k_full_mini", "cmmd", "ppl1k_wend_scales", "ppl1k_wend_lpips"])
    assert asked == ["sg3.features"]  # once
    assert load_features("mini-a").name == "mini-a"


def test_a_plugin_that_fails_is_a_warning(own_tables, monkeypatch):
    points = [entry("nowhere_at_all:register"), entry("guidance.encoders.features:register")]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)
    with pytest.warns(UserWarning, match="cannot load plug-in nowhere_at_all:register: No module"):
        assert load_features("mini").name == "mini"


def test_without_packages_above(own_tables, monkeypatch):
    monkeypatch.setattr(plugins, "entry_points", lambda group: [])
    with pytest.raises(ValueError, match="expected inception, vgg16, dinov2, inception:FILE"):
        load_features("mini")


def test_a_checkout_declares_its_entry_points(root):
    """They are read from pyproject.toml where the installed metadata lack them."""
    found = {point.name: point for point in plugins.declared_here("sg3.features")}
    assert found["guidance"].value == "guidance.encoders.features:register"
    assert found["recipes"].value == "recipes.classifier:register"
    assert all(callable(point.load()) for point in found.values())
    assert plugins.declared_here("sg3.nothing") == []
    if sys.version_info >= (3, 11):
        import tomllib

        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert project["entry-points"]["sg3.features"] == {
            name: point.value for name, point in found.items()
        }


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for attempt in (lambda: check_names(["fid50k_full"]), lambda: load_features("inception")):
        with pytest.raises(ValueError, match=r"pip install .sg3\[metrics\]"):
            attempt()
    check_names(["fd50k_full_mini", "eqt50k_int"])


def test_weights_need_a_network(monkeypatch, tmp_path):
    """What users see offline; the tests have no network either."""
    monkeypatch.setenv("SG3_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(detectors, "require_torch_fidelity", lambda: None)
    for name in ("inception", "vgg16"):
        with pytest.raises(ValueError, match=f"cannot download .*{name}:FILE; .* mini") as error:
            detectors._fetch(getattr(detectors, f"{name.upper()}_URL"), name)
        assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """A state dict of the right shapes with random weights."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    kind = module.FeatureExtractorInceptionV3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(kind, "load_state_dict", lambda *_: None)
        torch.manual_seed(0)
        network = kind("inception", ["2048"])
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.slow
def test_inception_from_a_file(inception_file):
    network = load_features(f"inception:{inception_file}")
    assert (network.name, network.dim) == ("inception:random", 2048)
    images = torch.from_numpy(np.random.RandomState(0).randint(0, 256, [2, 1, 32, 32], np.uint8))
    features = network(images)
    assert features.shape == (2, 2048) and features.dtype == torch.float32
    assert float(features.std()) > 0
    sums = network.probabilities(images).sum(dim=1)
    assert torch.allclose(sums, torch.ones(2), atol=1e-5)


def test_files_of_a_different_kind(tmp_path):
    pytest.importorskip("torch_fidelity")
    bad = {"text.pth": "hello", "module.pth": nn.Linear(2, 2), "other.pth": {"w": torch.ones(2)}}
    for name, content in bad.items():
        torch.save(content, tmp_path / name)
    (tmp_path / "noise.pth").write_bytes(b"no zip")
    for name in (*bad, "noise.pth"):
        with pytest.raises(ValueError, match=name) as error:
            load_features(f"inception:{tmp_path / name}")
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="TorchScript"):
        load_features(f"vgg16:{tmp_path / 'noise.pth'}")


class FakeVGG(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, detectors.VGG16_DIM)

    def forward(self, x, return_features: bool = False):
        return self.head(x.float().mean(dim=[2, 3])) if return_features else x


def test_vgg16_from_a_torchscript_file(tmp_path):
    path = tmp_path / "small.pt"
    torch.jit.script(FakeVGG()).save(path)
    network = load_features(f"vgg16:{path}")
    images = torch.zeros([3, 1, 8, 8], dtype=torch.uint8)
    assert network(images).shape == (3, 4096) and network.name == "vgg16:small"


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setitem(COMMANDS, "metrics", ("sg3.cli.metrics:metrics", ""))
    return lambda *args: CliRunner().invoke(cli, ["metrics", *args])


def test_command(run, tmp_path):
    faces, out = write_faces(tmp_path / "faces", 12), tmp_path / "out"
    names = "fid0.012k_full,eqt0.004k_int"
    result = run("--metrics", names, "--data", faces, "--features", "mini", "--outdir", str(out))
    assert result.exit_code == 0, result.output
    first, second = (json.loads(line) for line in result.stdout.splitlines())
    assert first["results"].keys() == {"fd0.012k_full_mini"} and first["num_real"] == 12
    assert second["results"]["eqt0.004k_int"] > 30 and second["features"] is None
    assert (out / "metric-eqt0.004k_int.jsonl").is_file()
    manifest = json.loads((out / "run.json").read_text())
    assert manifest["finished"] and "fd0.012k_full_mini" in manifest["results"]


@pytest.mark.slow
def test_the_examples_in_the_help_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program.run_examples("metrics")


@pytest.mark.slow
def test_a_run_provides_its_images(run, tmp_path):
    folder = tmp_path / "00000-run"
    folder.mkdir()
    options = folder / OPTIONS
    faces = write_faces(tmp_path / "faces", 12)
    ours = {"data": faces, "max_images": 8, "mirror": True, "mirror_y": False, "seed": 3}
    options.write_text(json.dumps(ours))
    nets = sg3.load("mini-faces")
    sg3.save(sg3.Networks(G_ema=nets.G_ema), folder / "network-snapshot-000001.safetensors")
    result = run("--metrics", "fid0.1k", "--features", "mini", "--network", str(folder))
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["num_real"] == 16  # eight and their flipped copies
    (line,) = (folder / "metric-fd0.1k_mini.jsonl").read_text().splitlines()
    assert json.loads(line)["snapshot"].endswith("network-snapshot-000001.safetensors")
    official = {"path": faces, "use_labels": False, "max_size": 12, "xflip": False}
    options.unlink()
    options = folder / "training_options.json"
    options.write_text(json.dumps({"training_set_kwargs": official}))
    assert run_data(folder) == {"path": faces, "max_size": 12, "xflip": False}
    for text in ("{}", "[1]", "no JSON"):
        options.write_text(text)
        assert run_data(folder) is None


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["--metrics", "fdi50k_full"], "nearest: fid50k_full"),
        (["--metrics", "fid1k", "--features", "mini"], "fd1k_mini needs real images; set --data"),
        (["--metrics", "fid1k", "--features", "mimi"], "--features: got 'mimi'"),
        (["--metrics", "eqr1k", "--mirror"], "--mirror needs --data"),
        (["--metrics", "eqr1k", "--network", "nosuch"], "nosuch"),
        (["--metrics", "fd1k_mini", "--data", "/nowhere"], "/nowhere does not exist"),
    ],
)
def test_bad_input_is_one_line(run, args, hint):
    result = run(*args)
    assert result.exit_code == 2
    assert hint in result.output and len(result.output.strip().splitlines()) == 1
