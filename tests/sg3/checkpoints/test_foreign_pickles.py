"""Pickles of forks, of the TensorFlow release and of other programs (shared/peerfiles)."""

import gzip
import io
import pickle
import struct
import zipfile

import numpy as np
import pytest
import repository
import torch

import sg3
from sg3.checkpoints import official_pickle
from sg3.checkpoints.inert import ArrayStub, find_official
from sg3.checkpoints.pickle_machine import PickleMachine, Stub
from sg3.checkpoints.tensorflow_pickle import convert
from sg3.errors import UserError

PEERFILES = repository.ROOT / "tests/peerfiles"
GOLDEN = repository.GOLDEN


def content_of(path):
    return PickleMachine(memoryview(path.read_bytes()), 0, find_official).run()


def run(data: bytes):
    return PickleMachine(memoryview(data), 0, find_official).run()


def error(got, expected):
    return float((got - torch.from_numpy(expected)).abs().max() / np.abs(expected).max())


@pytest.mark.parametrize("name", ["tf-sg2-config-f", "human-c0", "eps696-4x2", "eps696-4x6"])
def test_networks_give_the_numbers_of_the_tool_that_wrote_them(name):
    nets, io_ = sg3.load(PEERFILES / f"{name}.pkl"), np.load(PEERFILES / f"{name}.io.npz")
    G = nets.G_ema
    z, psi = torch.from_numpy(io_["z"]), float(io_["psi"])
    assert error(G.mapping(z), io_["ws1"]) < 1e-5
    assert error(G.mapping(z, truncation_psi=psi), io_["ws"]) < 1e-5
    images = G.synthesis(torch.from_numpy(io_["ws"]), noise_mode="const")
    assert error(images, io_["img"]) < 1e-5
    assert nets.D(images).shape == (2, 1)


def with_first_block(content, height, width):
    """Change the constant and noise of a StyleGAN2 generator to those of a fork."""
    synthesis = content["G_ema"].children["synthesis"]
    randomness = np.random.RandomState(0)
    for name, block in synthesis.children.items():
        scale = int(name[1:]) // 4
        for layer in block.children.values():
            if "noise_const" in layer.part("_buffers"):
                layer.state["_buffers"]["noise_const"] = view(
                    randomness.randn(height * scale, width * scale)
                )
    constant = synthesis.children["b4"].state["_parameters"]["const"]
    values = view(randomness.randn(constant.size[0], height, width))
    synthesis.children["b4"].state["_parameters"]["const"] = values
    return content


def view(values):
    from sg3.checkpoints.storage import Storage, rebuild_tensor

    values = np.ascontiguousarray(values, np.float32)
    storage = Storage(memoryview(values.tobytes()), np.dtype("<f4"))
    strides = tuple(step // 4 for step in values.strides)
    return rebuild_tensor(storage, 0, values.shape, strides)


@pytest.mark.parametrize("size", [(4, 8), (8, 4), (8, 8), (6, 4), (5, 7), (3, 4)])
def test_any_first_block(size, tmp_path):
    content = with_first_block(content_of(GOLDEN / "official-sg2-32.pkl"), *size)
    nets = official_pickle.rebuild({"G_ema": content["G_ema"]}, 2**24)
    expected = (1, 3, size[0] * 8, size[1] * 8)
    z = torch.randn(1, nets.G_ema.z_dim)
    images = nets.G_ema(z, noise_mode="const")
    assert images.shape == expected
    sg3.save(nets, tmp_path / "own.safetensors")
    again = sg3.load(tmp_path / "own.safetensors").G_ema
    assert torch.equal(again(z, noise_mode="const"), images)


def test_unknown_names_refuse_only_what_depends_on_them():
    for name in ("attr-ns", "attr-path", "attr-tsk-path"):
        nets = sg3.load(PEERFILES / f"{name}.pkl")
    assert nets.meta["training_set_kwargs"]["path"] == "<pathlib.PurePosixPath>"
    content = content_of(GOLDEN / "official-sg3t-32.pkl")
    content["D"] = Stub("fork.Discriminator")
    nets = official_pickle.rebuild(content, 2**24)
    assert nets.D is None and nets.G is not None
    assert nets.meta["notes"] == ["D is left out: D is not a module"]
    content["G_ema"].state["_init_kwargs"]["z_dim"] = Stub("fork.Size")
    with pytest.raises(UserError, match=r"argument z_dim is of the unknown type 'fork\.Size'"):
        official_pickle.rebuild(content, 2**24)
    content = content_of(GOLDEN / "official-sg3t-32.pkl")
    content["G_ema"].children["mapping"].state["_buffers"]["w_avg"] = Stub("fork.Average")
    with pytest.raises(UserError, match=r"mapping\.w_avg is not a tensor, but .*'fork\.Average'"):
        official_pickle.rebuild(content, 2**24)


def test_a_stub_makes_stubs():
    body = b"cfork\nlookup\n(tR(K\x01tR" + b"}K\x02K\x03sb"
    made = run(b"\x80\x04" + body + b".")
    assert isinstance(made, Stub) and made.name == "fork.lookup" and made.state == {2: 3}
    assert isinstance(run(b"\x80\x04ccollections\nOrderedDict\n(cfork\nx\n)RtR."), Stub)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("r3gan", "an R3GAN network, which is not supported"),
        ("drag-sg2-resize", "resizes its images of 32 pixels (argument resize=16"),
    ],
)
def test_other_architectures_are_named(name, expected):
    with pytest.raises(UserError) as caught:
        sg3.load(PEERFILES / f"{name}.pkl")
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def embedding():
    stub = Stub("torch.nn.modules.sparse.Embedding")
    stub.set_state({"_modules": {}, "_parameters": {"weight": view(np.zeros((10, 3)))}})
    return stub


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda G: G.children["mapping"].state["_modules"].update(embed=embedding()),
            "a StyleGAN-XL network: its mapping embeds classes, which is not supported",
        ),
        (lambda G: setattr(G, "class_name", "TriPlaneGenerator"), "an EG3D network"),
        (
            lambda G: setattr(G.state["_modules"]["synthesis"], "class_name", "FastganSynthesis"),
            "FastGAN's generator",
        ),
        (lambda G: setattr(G, "class_name", "Unheard"), "'Unheard' with an unknown architecture"),
        (lambda G: G.state["_init_kwargs"].update(square=False), "other than square images"),
    ],
)
def test_kinds_of_networks(change, expected):
    content = content_of(GOLDEN / "official-sg3t-32.pkl")
    change(content["G_ema"])
    with pytest.raises(UserError, match=expected):
        official_pickle.rebuild(content, 2**24)


def npz():
    buffer = io.BytesIO()
    np.savez(buffer, w=np.zeros((1, 16, 512), np.float32))
    return buffer.getvalue()


def zip_of_images():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("00000/img00000000.png", b"\x89PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run `git lfs pull`"),
        (gzip.compress(b"x" * 100), "a gzip archive; unpack it first"),
        (b"\n <!DOCTYPE html><html>", "a web page"),
        (npz(), "NumPy arrays"),
        (zip_of_images(), "a zip archive of images"),
        (pickle.dumps({"ema": 1}), "no network G_ema, only ema"),
    ],
    ids=["lfs", "gzip", "html", "npz", "zip", "no-network"],
)
def test_kinds_of_files(tmp_path, data, expected):
    path = tmp_path / "network.pkl"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        sg3.load(path)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_a_module_pickled_alone_is_named():
    content = content_of(GOLDEN / "official-sg3t-32.pkl")
    with pytest.raises(UserError, match="'Generator' pickled alone; expected a dictionary"):
        official_pickle.rebuild(content["G_ema"], 2**24)


def test_the_clamp_of_the_newer_code_with_nested_arguments():
    for explicit in (False, True):
        content = content_of(GOLDEN / "official-sg2-32.pkl")
        G = content["G_ema"]
        kwargs = G.state["_init_kwargs"]
        names = ("channel_base", "channel_max", "num_fp16_res", "conv_clamp")
        kwargs["synthesis_kwargs"] = {k: kwargs.pop(k) for k in names if k in kwargs}
        kwargs["synthesis_kwargs"].pop("conv_clamp", None)
        if not explicit:  # a fork without the attribute
            for block in G.children["synthesis"].children.values():
                for layer in block.children.values():
                    layer.state.pop("conv_clamp", None)
        loaded = official_pickle.rebuild({"G_ema": G}, 2**24).G_ema
        assert loaded.synthesis.b8.conv0.conv_clamp == 256


def test_the_clamp_of_the_layers_counts_where_the_arguments_lack_it():
    content = content_of(GOLDEN / "official-sg2-32.pkl")
    content["G_ema"].state["_init_kwargs"].pop("conv_clamp", None)
    for block in content["G_ema"].children["synthesis"].children.values():
        for layer in block.children.values():
            layer.state["conv_clamp"] = None
    loaded = official_pickle.rebuild({"G_ema": content["G_ema"]}, 2**24).G_ema
    assert loaded.synthesis.b8.conv0.conv_clamp is None


def test_different_transforms_are_refused():
    content = content_of(PEERFILES / "nv-sg3repo-t-batch-transform.pkl")
    generator = official_pickle.rebuild(content, 2**24).G_ema
    assert torch.equal(generator.synthesis.input.transform, torch.eye(3))
    layer = content["G_ema"].children["synthesis"].children["input"]
    different = np.stack([np.eye(3), 2 * np.eye(3)])
    layer.state["_buffers"]["transform"] = view(different)
    with pytest.raises(UserError, match="2 different matrices"):
        official_pickle.rebuild(content, 2**24)


def test_protocol_5_arrays_of_both_spellings_of_numpy():
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    for array in (values, np.asfortranarray(values)):
        data = pickle.dumps(array, 5)
        assert b"_frombuffer" in data and b"\x96" in data
        for old in (
            data,
            data.replace(b"\x8c\x13numpy._core.numeric", b"\x8c\x12numpy.core.numeric"),
        ):
            made = run(old)
            assert isinstance(made, ArrayStub)
            np.testing.assert_array_equal(made.array, values)
    assert isinstance(run(pickle.dumps(np.array(["text"]), 5)), Stub)


def test_values_of_older_and_newer_protocols():
    given = {"set": {"a", 1}, "bytes": b"\xff\0", "scalar": np.float32(0.5), "flag": np.bool_(True)}
    for protocol in (2, 3, 4, 5):
        made = run(pickle.dumps(given, protocol))
        assert made["set"] == {"a", 1} and bytes(made["bytes"]) == b"\xff\0"
        assert made["scalar"] == 0.5 and made["flag"] is True
    assert run(pickle.dumps(frozenset({1, 2}), 4)) == {1, 2}
    assert bytes(run(pickle.dumps(bytearray(b"xy"), 5))) == b"xy"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_with_attributes_and_half_precision(protocol):
    parameter = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3).t().bfloat16())
    parameter.note = "kept by torch"
    for given in (parameter, parameter.detach()):
        data = pickle.dumps(given, protocol)
        read = run(data).read()
        assert read.dtype == torch.bfloat16 and torch.equal(read, given.detach())


def tensorflow():
    return content_of(PEERFILES / "tf-sg2-config-f.pkl")


def components(network):
    return network.state["components"]["synthesis"].state["variables"]


def renamed(variables, old, new):
    return [(name.replace(old, new), value) for name, value in variables]


def test_tensorflow_networks_that_grew():
    """Configurations A to D name the colours of a resolution by its level of detail."""
    network = tensorflow()[2]
    variables = components(network)
    last = [(n.replace("32x32/ToRGB", "ToRGB_lod0"), v) for n, v in variables if "ToRGB" in n]
    last = [(n, v) for n, v in last if "lod0" in n]
    others = [(n, v) for n, v in variables if "ToRGB" not in n]
    coarse = [(n.replace("lod0", "lod1"), v) for n, v in last]
    components(network)[:] = others + last + coarse
    kind, kwargs, tensors = convert("G_ema", network, 2**24)
    assert kind == "stylegan2" and kwargs["architecture"] == "orig"
    assert "synthesis.b16.torgb.weight" not in tensors and "synthesis.b32.torgb.weight" in tensors


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda n: components(n).append(("4x4/StyleMod/weight", 0.0)), "a StyleGAN1 network"),
        (lambda n: components(n).append(("LabelConcat/weight", 0.0)), "concatenates labels"),
        (lambda n: components(n).append(("4x4/Extra/weight", 0.0)), "unknown variable"),
        (lambda n: components(n).pop(), "lacks the variable"),
        (lambda n: n.state["static_kwargs"].update(resolution=64), "lacks the variable"),
        (lambda n: n.state.update(version=3), "a StyleGAN1 network"),
        (lambda n: n.state["static_kwargs"].update(normalize_latents=False), "normalize_latents"),
        (lambda n: setattr(n, "name", "tfutil.Network"), "a Progressive GAN network"),
        (lambda n: n.state.update(variables=3), "unknown form"),
    ],
)
def test_other_tensorflow_networks_are_named(change, expected):
    content = tensorflow()
    change(content[2])
    with pytest.raises(UserError, match=expected):
        official_pickle.rebuild(content, 2**24)
    if expected != "unknown form":
        with pytest.raises(UserError, match="more memory"):
            official_pickle.rebuild(tensorflow(), 1000)


def test_only_ema_builds_nothing_else(monkeypatch, tmp_path):
    built = []
    original = official_pickle.assemble
    monkeypatch.setattr(
        official_pickle,
        "assemble",
        lambda part, *rest: (built.append(part), original(part, *rest))[1],
    )
    nets = sg3.load(GOLDEN / "official-sg2-32.pkl", only_ema=True)
    assert built == ["G_ema"] and list(nets.parts()) == ["G_ema"]
    sg3.save(sg3.load(GOLDEN / "official-sg2-32.pkl"), tmp_path / "all.safetensors")
    assert list(sg3.load(tmp_path / "all.safetensors", only_ema=True).parts()) == ["G_ema"]


def test_tensors_are_copied_once_into_aligned_memory():
    for parameter in sg3.load(GOLDEN / "official-sg2-32.pkl", only_ema=True).G_ema.parameters():
        assert parameter.data_ptr() % 64 == 0


def test_array_of_a_wrong_size_is_refused():
    data = pickle.dumps(np.zeros(3, np.float32), 4)
    with pytest.raises(UserError, match="number of bytes"):
        run(data.replace(struct.pack("<BB", 0x4B, 3), struct.pack("<BB", 0x4B, 4)))
