"""Files of torch.save by other tools: they load, and give what the tool that wrote them gives."""

import argparse
import pathlib
import sys
import types
import zipfile

import numpy as np
import pytest
import repository
import torch
from safetensors.torch import save_file

import sg3
from sg3.checkpoints.layouts.rosinality import official_name
from sg3.errors import NetworkNote, UserError
from sg3.networks import build_network

PEERS = repository.ROOT / "tests" / "peerfiles"
GOLDEN = repository.GOLDEN
SMALL = {"z_dim": 24, "c_dim": 0, "w_dim": 16, "img_resolution": 32, "img_channels": 3}
NARROW = {"channel_base": 256, "channel_max": 32}


@pytest.fixture(autouse=True)
def notes(recwarn):
    """The notes that loading printed."""
    return lambda: [str(w.message) for w in recwarn if issubclass(w.category, NetworkNote)]


def network(kind="stylegan2", seed=0, **kwargs):
    """A generator with random weights, noise and average."""
    torch.manual_seed(seed)
    G = build_network(kind, SMALL | NARROW | kwargs)
    for name, tensor in [*G.named_parameters(), *G.named_buffers()]:
        if name.endswith(("bias", "noise_strength", "w_avg")):
            torch.nn.init.normal_(tensor)
    return G.eval().requires_grad_(False)


def image(G, ws=None):
    random = torch.Generator().manual_seed(1)
    z = torch.randn([2, G.z_dim], generator=random)
    c = torch.eye(G.c_dim)[:2] if G.c_dim else None
    ws = G.mapping(z, c, truncation_psi=0.7) if ws is None else ws
    return G.synthesis(ws, noise_mode="const")


def relative_error(got, expected):
    return float((got - expected).abs().max() / expected.abs().max())


def assert_same(path, G, as_=None):
    loaded = sg3.load(path, as_=as_).G_ema
    assert relative_error(image(loaded), image(G)) < 1e-5
    return loaded


def to_rosinality(G):
    """The state dict of a StyleGAN2 under rosinality's names."""
    state, found = G.state_dict(), {}
    sides = range(len(G.synthesis.block_resolutions))
    names = [f"style.{i + 1}.{k}" for i in range(G.mapping.num_layers) for k in ("weight", "bias")]
    layers = ["conv1", *(f"convs.{i}" for i in range(2 * (len(sides) - 1)))]
    images = ["to_rgb1", *(f"to_rgbs.{i}" for i in range(len(sides) - 1))]
    inner = ["conv.weight", "conv.modulation.weight", "conv.modulation.bias"]
    names += [f"{n}.{k}" for n in layers for k in (*inner, "noise.weight", "activate.bias")]
    names += [f"{n}.{k}" for n in images for k in (*inner, "bias")]
    names += ["input.input", *(f"noises.noise_{i}" for i in range(len(layers)))]
    for name in names:
        tensor = state[official_name(name)].clone()
        shapes = {"noise.weight": [1], "input.input": [1, *tensor.shape]}
        if name.endswith("conv.weight"):
            shapes = {"conv.weight": [1, *tensor.shape]}
        if "noises" in name:
            shapes = {name: [1, 1, *tensor.shape]}
        if "rgb" in name and name.endswith(".bias") and "modulation" not in name:
            shapes = {name: [1, len(tensor), 1, 1]}
        shape = next((s for end, s in shapes.items() if name.endswith(end)), tensor.shape)
        found[name] = tensor.reshape(shape)
    for i in range(0, len(layers) - 1, 2):
        taps = torch.tensor([1.0, 3, 3, 1]) / 8
        found[f"convs.{i}.conv.blur.kernel"] = torch.outer(taps, taps) * 4
    return found


@pytest.mark.parametrize(
    "name", ["rosi-convert_weight", "rosi-bare-state_dict", "rosi-train", "nadasg2-convert_weight"]
)
def test_rosinality_files_give_the_images_of_their_tools(name, notes):
    nets = sg3.load(PEERS / f"{name}.pt")
    G = nets.G_ema
    io = {k: torch.from_numpy(v) for k, v in np.load(PEERS / f"{name}.pt.io.npz").items()}
    assert relative_error(G.mapping(io["z"]), io["ws1"]) < 1e-5
    assert relative_error(image(G, io["ws"]), io["img"]) < 1e-5
    if "convert_weight" in name:
        assert relative_error(G.mapping(io["z"], truncation_psi=0.7), io["ws"]) < 1e-5
        assert notes() == []
    else:
        assert "estimated from 10,000 samples" in notes()[0]
        z = torch.randn([10_000, G.z_dim], generator=torch.Generator().manual_seed(5))
        w = G.mapping(z)[:, 0]
        assert (G.mapping.w_avg - w.mean(dim=0)).abs().max() < 6 * w.std(dim=0).max() / 100
    assert (nets.G is not None) == (name == "rosi-train")
    assert G.synthesis.b32.conv1.conv_clamp is None


def test_stylegan3_files_of_editors_and_of_the_official_code(notes):
    plain = sg3.load(PEERS / "nv-sg3repo-t-state_dict.pt").G_ema
    assert_same(PEERS / "editing-t-state_dict.pt", plain)
    assert notes() == []
    decoder = assert_same(PEERS / "editing-t-psp.pt", plain)
    given = torch.load(PEERS / "editing-t-psp.pt", weights_only=True)["latent_avg"]
    assert torch.equal(decoder.mapping.w_avg, given)
    assert notes() == [
        "editing-t-psp.pt is a pSp or e4e encoder's checkpoint: its encoder is left out"
    ]


SHAPES = {
    "t": ("stylegan3", {}),
    "r": ("stylegan3", {"conv_kernel": 1, "use_radial_filters": True, "channel_base": 512}),
    "t-64-labels": ("stylegan3", {"c_dim": 5, "img_resolution": 64}),
    "t-gray-deep": ("stylegan3", {"img_channels": 1, "mapping_kwargs": {"num_layers": 5}}),
    "t-layers": ("stylegan3", {"num_layers": 9, "num_critical": 1, "margin_size": 6}),
    "t-taps": ("stylegan3", {"filter_size": 4, "lrelu_upsampling": 4}),
    "t-plain-relu": ("stylegan3", {"filter_size": 8, "lrelu_upsampling": 1}),
    "t-wide": ("stylegan3", {"img_resolution": (24, 32)}),
    "2": ("stylegan2", {}),
    "2-resnet-labels": ("stylegan2", {"architecture": "resnet", "c_dim": 3}),
    "2-orig-one-layer": (
        "stylegan2",
        {"architecture": "orig", "mapping_kwargs": {"num_layers": 1}},
    ),
    "2-16-rgba": ("stylegan2", {"img_resolution": 16, "img_channels": 4, "channel_base": 8192}),
    "2-uneven": ("stylegan2", {"block_channels": [8, 24, 12, 20]}),
    "2-wide": ("stylegan2", {"img_resolution": (32, 48)}),
    "2-no-noise": ("stylegan2", {"use_noise": False, "resample_filter": [1, 2, 1]}),
    "2-features": (
        "stylegan2",
        {"c_dim": 4, "mapping_kwargs": {"embed_features": 7, "layer_features": 12}},
    ),
}


@pytest.mark.parametrize("case", SHAPES)
def test_state_dict_tells_the_arguments(case, tmp_path):
    kind, kwargs = SHAPES[case]
    G = network(kind, **kwargs)
    torch.save(G.state_dict(), tmp_path / "G.pt")
    loaded = assert_same(tmp_path / "G.pt", G)
    assert loaded.img_resolution == G.img_resolution and loaded.z_dim == 24
    sg3.save(sg3.Networks(G_ema=loaded), tmp_path / "copy.safetensors")
    assert_same(tmp_path / "copy.safetensors", G)


def test_arguments_that_shapes_do_not_tell_are_asked_for(tmp_path):
    custom = {"first_cutoff": 2.5, "last_stopband_rel": 1.4}
    G = network("stylegan3", **custom)
    torch.save(G.state_dict(), tmp_path / "G.pt")
    with pytest.raises(UserError, match=r"add what .* `as_`: first_cutoff=…, first_stopband"):
        sg3.load(tmp_path / "G.pt")
    stated = "stylegan3-t,first_cutoff=2.5,last_stopband_rel=1.4"
    assert_same(tmp_path / "G.pt", G, as_=stated)


@pytest.mark.parametrize(
    ("as_", "message"),
    [
        ("stylegan2", "says stylegan2, but it holds a stylegan3"),
        ("stylegan3-r", "says conv_kernel=1, but its layers have 3"),
        ("stylegan4", "as_: got 'stylegan4', expected one of"),
        ("tempo=3", "as_: got argument 'tempo', expected some of"),
        ("conv_clamp=much", "as_: got conv_clamp=much, expected a number"),
        ("part=G", "has no generator 'G', only"),
        ("channel_max=8", "no usual arguments"),
    ],
)
def test_stated_arguments_that_do_not_fit(as_, message):
    with pytest.raises(UserError, match=message):
        sg3.load(PEERS / "editing-t-state_dict.pt", as_=as_)


def test_files_with_arguments_of_their_own_take_no_others():
    for path in (GOLDEN / "official-sg2-32.pkl", "mini-faces"):
        with pytest.raises(UserError, match="as_: the file records the arguments"):
            sg3.load(path, as_="stylegan2")


def test_assumed_clamp_is_told_and_can_be_stated(tmp_path, notes):
    G = network(conv_clamp=None)
    torch.save({"G_ema": G.state_dict()}, tmp_path / "G.pt")
    assert sg3.load(tmp_path / "G.pt").G_ema.synthesis.b8.conv1.conv_clamp == 256
    assert "does not record conv_clamp; assumed 256" in notes()[0]
    loaded = assert_same(tmp_path / "G.pt", G, as_="conv_clamp=none")
    assert loaded.synthesis.b8.conv1.conv_clamp is None and len(notes()) == 1


FORMS = {
    "prefixed": lambda G: {f"module.{k}": v for k, v in G.state_dict().items()},
    "parameters": lambda G: dict(G.named_parameters()) | dict(G.named_buffers()),
    "whole": lambda G: G,
    "data parallel": torch.nn.DataParallel,
    "of several": lambda G: {"G": network(seed=7).state_dict(), "G_ema": G, "step": 3},
    "lightning": lambda G: {"state_dict": {f"ema.{k}": v for k, v in G.state_dict().items()}},
    "with odd values": lambda G: {
        "G_ema": G.state_dict(),
        "args": argparse.Namespace(path=pathlib.PurePosixPath("a")),
        "loss": np.float32(2),
        "scores": np.arange(3),
        "names": {"a", "b"},
        "device": torch.device("cpu"),
        "types": torch.float16,
    },
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_forms_of_one_network(form, legacy, tmp_path):
    G = network()
    for p in G.parameters():
        p.note = "an attribute"
    torch.save(FORMS[form](G), tmp_path / "G.pt", _use_new_zipfile_serialization=not legacy)
    assert_same(tmp_path / "G.pt", G)


def test_plain_safetensors_and_bf16(tmp_path):
    G = network("stylegan3")
    save_file(G.state_dict(), tmp_path / "G.safetensors")
    assert_same(tmp_path / "G.safetensors", G)
    half = {k: v.bfloat16() for k, v in G.state_dict().items()}
    torch.save(half, tmp_path / "G.pt")
    loaded = sg3.load(tmp_path / "G.pt").G_ema
    assert torch.equal(loaded.synthesis.input.weight, half["synthesis.input.weight"].float())


@pytest.mark.parametrize("resolution", [8, 64])
@pytest.mark.parametrize("layers", [1, 18])
def test_rosinality_shapes(resolution, layers, tmp_path, notes):
    sizes = {"img_resolution": resolution, "img_channels": 1, "z_dim": 16}
    mapping = {"num_layers": layers}
    G = network(conv_clamp=None, num_fp16_res=0, mapping_kwargs=mapping, **sizes)
    state = to_rosinality(G)
    torch.save({"g": state, "latent_avg": G.mapping.w_avg.expand(6, -1)}, tmp_path / "g.pt")
    assert_same(tmp_path / "g.pt", G)
    assert "without averaged weights; G_ema is its 'g'" in notes()[0]
    early = {k: v for k, v in state.items() if "noises" not in k}
    torch.save({"g_ema": early}, tmp_path / "early.pt")
    sg3.load(tmp_path / "early.pt")
    assert "no constant noise" in notes()[1]


class Persistent:
    """Pickles like a module whose class embeds its source text."""

    def __init__(self, module, name):
        state = {k: v for k, v in vars(module).items() if k.startswith("_")}
        children = {k: Persistent(child, "Layer") for k, child in module._modules.items()}
        state |= {"_modules": children, "_init_kwargs": getattr(module, "init_kwargs", {})}
        self.meta = {"type": "class", "version": 6, "class_name": name, "state": state}
        self.meta["module_src"] = "raise SystemExit"

    def __reduce__(self):
        return _reconstruct_persistent_obj, (self.meta,)


def _reconstruct_persistent_obj(meta):
    raise AssertionError("must not be called")


def test_module_of_the_official_code(tmp_path, monkeypatch):
    """`torch.save(G)` of a class that pickles its source text, as PTI does."""
    persistence = types.ModuleType("torch_utils.persistence")
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj
    monkeypatch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, "torch_utils.persistence", persistence)
    monkeypatch.setattr(_reconstruct_persistent_obj, "__module__", "torch_utils.persistence")
    G = network("stylegan3")
    whole = Persistent(G, "Generator")
    for name, content in {"bare": whole, "dict": {"G_ema": whole}, "g": {"G": whole}}.items():
        torch.save(content, tmp_path / f"{name}.pt")
        loaded = assert_same(tmp_path / f"{name}.pt", G)
        assert loaded.init_kwargs == G.init_kwargs


def test_transform_of_a_batch(tmp_path):
    G = network("stylegan3")
    state = G.state_dict()
    rows = torch.eye(3).repeat(3, 1, 1)
    torch.save({**state, "synthesis.input.transform": rows}, tmp_path / "G.pt")
    assert_same(tmp_path / "G.pt", G)
    rows[1, 0, 2] = 0.5
    torch.save({**state, "synthesis.input.transform": rows}, tmp_path / "G.pt")
    with pytest.raises(UserError, match="3 different matrices, one per image"):
        sg3.load(tmp_path / "G.pt")
    plain = sg3.load(PEERS / "nv-sg3repo-t-state_dict.pt").G_ema
    assert_same(PEERS / "nv-sg3repo-t-batch-transform.pkl", plain)


class Evil:
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("ran-code"),)


WRONG = {
    "images.zip": (lambda p: zipped(p, {"a.png": b""}), "a zip archive of images"),
    "arrays.npz": (lambda p: np.savez(p, w=np.zeros(3)), "NumPy arrays"),
    "other.zip": (lambda p: zipped(p, {"a.txt": b"a"}), "that torch.save did not write"),
    "script.pt": (
        lambda p: zipped(p, {"a/data.pkl": b"", "a/constants.pkl": b""}),
        "a TorchScript program",
    ),
    "cut.pt": (lambda p: p.write_bytes(saved(p)[:3000]), "damaged or truncated zip archive"),
    "optimizer.pt": (
        lambda p: torch.save({"state": {0: {"exp_avg": torch.zeros(2)}}}, p),
        "tensors state.0.exp_avg, no StyleGAN generator",
    ),
    "latents.pt": (
        lambda p: torch.save({"a.png": {"latent": torch.zeros(4, 8)}}, p),
        "latents, not a network",
    ),
    "D.pt": (
        lambda p: torch.save({"b4.out.weight": torch.zeros(1, 2)}, p),
        "a StyleGAN discriminator without a generator",
    ),
    "synthesis.pt": (
        lambda p: torch.save(network().synthesis.state_dict(), p),
        "a synthesis network without its mapping",
    ),
    "eg3d.pt": (
        lambda p: torch.save(
            {f"backbone.{k}": v for k, v in network().state_dict().items()}
            | {"superresolution.block0.conv0.weight": torch.zeros(1)},
            p,
        ),
        "an EG3D network, which is not supported",
    ),
    "clip.pt": (
        lambda p: torch.save({"logit_scale": torch.zeros(1)}, p),
        "a CLIP model, which is not supported",
    ),
    "two.pt": (
        lambda p: torch.save({k: network().state_dict() for k in ("frozen", "tuned")}, p),
        "holds several generators: .*; choose one with `as_`, as in part=",
    ),
    "evil.pt": (lambda p: torch.save({"a": Evil()}, p), "no tensors"),
    "not-finished.pt": (
        lambda p: torch.save(
            {k: v for k, v in network().state_dict().items() if "fc0" not in k}, p
        ),
        "holds no mapping network",
    ),
    "cut-legacy.pt": (
        lambda p: p.write_bytes(saved(p, _use_new_zipfile_serialization=False)[:-8]),
        "claims .* elements, but holds",
    ),
}


def zipped(path, entries):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def saved(path, **options):
    torch.save(network().state_dict(), path, **options)
    return path.read_bytes()


@pytest.mark.parametrize("name", WRONG)
def test_other_files_are_named(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write, message = WRONG[name]
    write(tmp_path / name)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=message) as caught:
        sg3.load(tmp_path / name)
    assert "\n" not in str(caught.value) and name in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_shared_storages_do_not_multiply_memory(tmp_path):
    G = network()
    big = torch.zeros(2**16)
    state = G.state_dict() | {f"extra.{i}": big for i in range(200)}
    torch.save(state, tmp_path / "G.pt")
    with pytest.raises(UserError, match="far more memory than the file"):
        sg3.load(tmp_path / "G.pt")
