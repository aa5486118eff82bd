"""`sg3.save` and `sg3.load`: round trips, atomic files, one-line errors."""

import doctest
import json
import resource
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import repository
import torch
from safetensors.torch import load_file, save_file

import sg3
from sg3.checkpoints.networks import assemble
from sg3.checkpoints.safetensors_io import KEEP_FP32
from sg3.errors import UserError
from sg3.files import ALIGNMENT_BYTES, aligned
from sg3.networks import build_network

GOLDEN = repository.GOLDEN


@pytest.fixture(scope="module")
def nets():
    return sg3.load(GOLDEN / "official-sg3t-32.pkl")


@pytest.fixture
def z():
    return torch.from_numpy(np.random.RandomState(0).randn(2, 16)).float()


def test_round_trip(nets, z, tmp_path):
    sg3.save(nets, tmp_path / "a.safetensors")
    again = sg3.load(tmp_path / "a.safetensors")
    assert again.parts().keys() == nets.parts().keys()
    assert torch.equal(again.G_ema(z), nets.G_ema(z))
    for part, network in nets.parts().items():
        other = getattr(again, part)
        assert other.kind == network.kind and other.init_kwargs == network.init_kwargs
        for name, tensor in network.state_dict().items():
            assert torch.equal(other.state_dict()[name], tensor), f"{part}.{name}"
            assert other.state_dict()[name].data_ptr() % ALIGNMENT_BYTES == 0, f"{part}.{name}"
    assert again.meta["training_set_kwargs"] == nets.meta["training_set_kwargs"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_half_precision(nets, z, tmp_path):
    sg3.save(nets, tmp_path / "a.safetensors")
    sg3.save(nets, tmp_path / "half.safetensors", fp16=True)
    sizes = [(tmp_path / n).stat().st_size for n in ("half.safetensors", "a.safetensors")]
    assert sizes[0] < 0.65 * sizes[1]
    half = sg3.load(tmp_path / "half.safetensors").G_ema
    error = (half(z) - nets.G_ema(z)).abs().max() / nets.G_ema(z).abs().max()
    assert 0 < error < 0.01
    for name, tensor in nets.G_ema.state_dict().items():
        assert half.state_dict()[name].dtype == tensor.dtype
        if name.split(".")[-1] in KEEP_FP32:
            assert torch.equal(half.state_dict()[name], tensor)


def test_shared_tensors_and_other_devices_are_saved(nets, tmp_path):
    twice = sg3.Networks(G_ema=nets.G_ema, G=nets.G_ema)
    sg3.save(twice, tmp_path / "a.safetensors")
    assert sg3.load(tmp_path / "a.safetensors").G is not None


def test_a_failed_save_leaves_the_old_file(nets, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            sg3.save(nets, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_what_cannot_be_saved(nets, tmp_path):
    with pytest.raises(ValueError, match="got none"):
        sg3.save(sg3.Networks(), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="build_network"):
        sg3.save(sg3.Networks(G_ema=torch.nn.Linear(1, 1)), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="ending in"):
        sg3.save(nets, tmp_path / "a.pkl")
    with pytest.raises(ValueError, match="JSON-serializable"):
        sg3.save(sg3.Networks(nets.G_ema, meta={"x": {1, 2}}), tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def fails(path, expected):
    with pytest.raises(UserError, match=expected) as caught:
        sg3.load(path)
    assert "\n" not in str(caught.value)


def rewritten(path, target, change):
    """A copy of a file with changed tensors or metadata."""
    with sg3.checkpoints.safetensors_io.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors, metadata)
    save_file(tensors, target, metadata)
    return target


def test_files_that_are_not_ours_or_damaged(nets, tmp_path):
    ours = tmp_path / "ours.safetensors"
    sg3.save(nets, ours)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(3)}, foreign)
    fails(foreign, "tensors x, no StyleGAN generator")
    save_file({"x": torch.zeros(3)}, foreign, {"format": "other"})
    fails(foreign, "a safetensors file of another program")
    cut = tmp_path / "cut.safetensors"
    for length in (5, 1000, ours.stat().st_size - 1):
        cut.write_bytes(ours.read_bytes()[:length])
        fails(cut, "cut.safetensors")
    cut.write_bytes(b"\xff" * 6 + b"\0\0{" + bytes(50))
    fails(cut, "cut.safetensors")

    def unknown(tensors, metadata):
        tensors["G_ema.extra"] = torch.zeros(1)

    def missing(tensors, metadata):
        del tensors["G_ema.mapping.w_avg"]

    def shape(tensors, metadata):
        tensors["G_ema.mapping.w_avg"] = torch.zeros(17)

    def kind(tensors, metadata):
        metadata["networks"] = metadata["networks"].replace("stylegan3", "os.system")

    def version(tensors, metadata):
        metadata["version"] = "99"

    def not_json(tensors, metadata):
        metadata["networks"] = "{"

    def huge(tensors, metadata):
        described = json.loads(metadata["networks"])
        described["G_ema"]["kwargs"]["channel_max"] = 2**40
        metadata["networks"] = json.dumps(described)

    for change, expected in [
        (unknown, "unknown tensor 'extra'"),
        (missing, "lacks tensor 'mapping.w_avg'"),
        (shape, r"shape \[17\] in the file, expected \[16\]"),
        (kind, "os.system"),
        (version, "file version '99'"),
        (not_json, "not a JSON object"),
        (huge, "channel_max"),
    ]:
        fails(rewritten(ours, tmp_path / "changed.safetensors", change), expected)


def test_names_folders_and_formats(nets, tmp_path):
    fails("stylegan3-t-fhq-1024", "nearest names: stylegan3-t-ffhq-1024")
    fails(tmp_path / "missing.pkl", "no such file")
    fails("ftp://example.com/a.pkl", "https://")
    fails("http://example.com/a.pkl", "https://")
    fails(tmp_path, "without network-")
    sg3.save(nets, tmp_path / "network-000010.safetensors")
    shutil.copy(GOLDEN / "official-sg2-32.pkl", tmp_path / "network-snapshot-000002.pkl")
    assert sg3.load(tmp_path).G_ema.kind == "stylegan3"
    (tmp_path / "network-000010.safetensors").unlink()
    assert sg3.load(tmp_path).G_ema.kind == "stylegan2"


def test_assembling_checks_types():
    with pytest.raises(UserError, match="expected stylegan3, stylegan2"):
        assemble("G_ema", "transformer", {}, {})
    with pytest.raises(UserError, match="arguments of stylegan3"):
        assemble("G_ema", "stylegan3", {"z_dim": 4}, {})


@pytest.mark.parametrize("function", [sg3.load, sg3.save, build_network])
def test_examples_in_docstrings_run(function, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = doctest.DocTestFinder(recurse=False).find(function, function.__name__)
    assert doctest.DocTestRunner().run(example).failed == 0 and example.examples


def test_misaligned_tensors_are_copied():
    there = torch.arange(40.0)
    assert aligned(there) is there
    moved = aligned(there[1:])
    assert torch.equal(moved, there[1:]) and moved.data_ptr() % ALIGNMENT_BYTES == 0


@pytest.mark.slow
def test_loading_does_not_import_the_compiler():
    """Operators that torch computes in Python on the meta device import it, for 2 seconds."""
    names = ["mini-faces", "mini-faces-stylegan2"]
    code = f"import sys, sg3; [sg3.load(name) for name in {names}]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "sg3.networks" in done.stdout and "torch._dynamo" not in done.stdout
