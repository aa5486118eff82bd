"""Small files that claim or multiply much: refused within seconds and a small amount of memory."""

import io
import json
import pickle
import struct
import time
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
import repository
import torch
from safetensors.torch import save_file

import sg3
from sg3.checkpoints.delta_file import load_delta
from sg3.checkpoints.inert import find_official
from sg3.checkpoints.pickle_machine import MAX_STEPS, PickleMachine
from sg3.checkpoints.torchscript import script_state
from sg3.data.source import ImageSource
from sg3.errors import UserError, brief, printable
from sg3.files import parse_json
from sg3.latent_files import read_latent_file
from sg3.other_latents import read_other_latent
from sg3.zip_files import open_zip

SECONDS, MEGABYTES = 3, 200
PERSISTENT = b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n"


def value(x) -> bytes:
    """Opcodes that push a plain value; texts also store it as memo 0."""
    return pickle.dumps(x, 2)[2:-1]


def nested(make: bytes, levels: int) -> bytes:
    """Opcodes of a container that holds one twice, which holds one twice, and so on."""
    body = make
    for level in range(levels):
        body += b"q" + bytes([level + 5]) + b"h" + bytes([level + 5]) + b"\x86"
    return body


def record(**entries: bytes) -> bytes:
    items = b"".join(value(name) + body for name, body in entries.items())
    return PERSISTENT + b"(}(" + items + b"utR"


def module(**arguments: bytes) -> bytes:
    given = b"}(" + b"".join(value(name) + body for name, body in arguments.items()) + b"u"
    state = b"}(" + value("_init_kwargs") + given + value("_modules") + b"}u"
    name, kind = value("Generator"), value("class")
    return record(type=kind, version=b"K\x06", class_name=name, state=state)


def collisions(count: int, items: int = 1) -> bytes:
    keys = [(1 + i) * (2**61 - 1) for i in range(count)]
    return b"}(" + b"".join(value(k if items == 1 else (k,) * items) + b"N" for k in keys) + b"u"


STORAGE = io.BytesIO()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.save(torch.zeros(3).storage(), STORAGE, _use_new_zipfile_serialization=False)
LOAD = b"ctorch.storage\n_load_from_bytes\n"
BLOB = b"B" + struct.pack("<I", len(STORAGE.getvalue())) + STORAGE.getvalue()
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
LONG = b"(" + value(2**39) * 30_000 + b"t"
NUMBERS = b"](" + b"K\x01" * 50_000 + b"eq\x05"
TEXT = b"X" + struct.pack("<I", 2**20) + b"a" * 2**20 + b"q\x05"
DTYPE = b"cnumpy\ndtype\n(" + value("f4") + b"tR"
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n)R"

HOSTILE_PICKLES = {
    "text of shared containers": record(type=nested(b")", 60), version=b"K\x06"),
    "type of shared containers": b"cnumpy\ndtype\n" + nested(b")", 60) + b"\x85R",
    "argument of shared containers": module(resize=nested(b")", 60), img_resolution=b"K\x20"),
    "colliding integers": collisions(60_000),
    "colliding tuples": collisions(60_000, 2),
    "gaps in the memo": (b"Nr" + struct.pack("<I", 2**31 - 1) + b"0") * 100_000,
    "long size of a tensor": REBUILD + b"(" + LOAD + BLOB + b"\x85RK\x00" + LONG + LONG + b"tR",
    "long shape of an array": RECONSTRUCT + b"(K\x01" + LONG + DTYPE + b"NC\x00tb",
    "one list copied": NUMBERS + b"cbuiltins\nset\nh\x05\x85R" * 40_000,
    "one size copied": NUMBERS + b"ctorch\nSize\nh\x05\x85R" * 40_000,
    "one text encoded": TEXT + (b"c_codecs\nencode\nh\x05" + value("latin1") + b"\x86R") * 40_000,
    "one storage read": BLOB + b"q\x05" + (LOAD + b"h\x05\x85R0") * 100_000,
    "names of megabytes": TEXT + b"h\x05h\x05\x930" * 100_000,
    "lists": b"]" * 3_000_000,
}


def frugal(read) -> str:
    """Return the message of the UserError that `read` raises, within seconds and megabytes."""
    tracemalloc.start()
    try:
        message = quick(read)
        assert tracemalloc.get_traced_memory()[1] < MEGABYTES << 20
    finally:
        tracemalloc.stop()
    return message


def quick(read) -> str:
    """Return the message of the UserError that `read` raises, within seconds."""
    start = time.process_time()
    with pytest.raises(UserError) as caught:
        read()
    assert time.process_time() - start < SECONDS
    assert len(str(caught.value)) < 2000
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("name", HOSTILE_PICKLES)
def test_hostile_pickles(tmp_path, name):
    path = tmp_path / "hostile.pkl"
    path.write_bytes(b"\x80\x04}" + value("G_ema") + HOSTILE_PICKLES[name] + b"s.")
    quick(lambda: sg3.load(path))


@pytest.mark.parametrize(
    "body", [b"\x8f", b"C\x00", b"]", b"}", b"(", b"\x8c\x01a", b"G" + bytes(8)]
)
def test_memory_of_a_step(body):
    machine = PickleMachine(memoryview(b"\x80\x04" + body * 20_000), max_steps=20_000)
    tracemalloc.start()
    with pytest.raises(UserError, match="opcodes"):
        machine.run()
    assert tracemalloc.get_traced_memory()[0] * MAX_STEPS / 20_000 < MEGABYTES << 20
    tracemalloc.stop()


def test_steps_grow_with_the_file():
    assert PickleMachine(memoryview(bytes(64 * 10**6))).max_steps == MAX_STEPS + 10**6
    body = b"\x80\x02cbuiltins\nset\n(" + value([1] * 100) + b"tR."
    machine = PickleMachine(memoryview(body), 0, find_official)
    machine.run()
    assert machine.steps > 200  # the items once more


def archive(path, content: bytes, **entries: bytes):
    with zipfile.ZipFile(path, "w") as file:
        for name, data in {"data.pkl": content, **entries}.items():
            file.writestr(f"archive/{name}", data)
    return path


SCRIPT = {"constants.pkl": b"\x80\x02)."}
NEW = b"c__torch__\nM\n)\x81"


def test_torchscript_modules_are_not_multiplied(tmp_path):
    body = b"\x80\x02" + NEW + b"}" + value("w") + b"K\x01sb"
    for level in range(40):
        body += b"q" + bytes([level + 5]) + b"0" + NEW
        body += b"}(" + b"".join(value(n) + b"h" + bytes([level + 5]) for n in "ab") + b"ub"
    path = archive(tmp_path / "m.pt", body + b".", **SCRIPT)
    assert "nested too deeply" in frugal(lambda: script_state(path))


def test_views_of_a_torchscript_program_are_not_multiplied(tmp_path):
    pid = b"(" + value("storage") + b"ctorch\nFloatStorage\n" + value("0") + value("cpu")
    tensor = b"(" + pid + value(2**18) + b"tQK\x00" + value((2**18,)) + value((1,)) + b"\x89Nt"
    body = b"\x80\x02" + NEW + b"}(" + value("w0") + REBUILD + tensor + b"Rq\x63"
    body += b"".join(value(f"w{i}") + b"h\x63" for i in range(1, 3000)) + b"ub."
    path = archive(tmp_path / "m.pt", body, **SCRIPT, **{"data/0": bytes(2**20)})
    assert "far more memory" in frugal(lambda: script_state(path))


def test_generators_of_one_file_are_few(tmp_path):
    tensors = {f"a{i}.synthesis.input.freqs": torch.zeros(1) for i in range(3000)}
    save_file(tensors, tmp_path / "many.safetensors")
    assert "more than 16 generators" in frugal(lambda: sg3.load(tmp_path / "many.safetensors"))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"num_layers": 10**400},
        {"img_resolution": float("nan")},
        {"channel_base": [[1] * 64] * 64},
        {"mapping_kwargs": {"num_layers": -(10**30)}},
        {"filter_size": 10**9},
        {"x" * 10**6: 10**20},
    ],
    ids=str,
)
def test_arguments_in_json_are_bounded(tmp_path, kwargs):
    path = tmp_path / "n.safetensors"
    networks = {"G_ema": {"kind": "stylegan3", "kwargs": kwargs}}
    about = {"format": "sg3-networks", "version": "1", "networks": json.dumps(networks)}
    save_file({"G_ema.x": torch.zeros(1)}, path, about)
    frugal(lambda: sg3.load(path))


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 100_000, '{"a":' * 100_000, "[1e9", b"\xff{"])
def test_hostile_json_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_json(text)


def test_a_number_of_5000_digits_in_metadata(tmp_path):
    path = tmp_path / "n.safetensors"
    about = {"format": "sg3-networks", "version": "1", "networks": '{"a": ' + "9" * 5000 + "}"}
    save_file({"x": torch.zeros(1)}, path, about)
    assert "not a JSON object" in frugal(lambda: sg3.load(path))


def test_shapes_of_deltas_are_short(tmp_path):
    path = tmp_path / "d.safetensors"
    about = {"format": "sg3-delta", "version": "1", "source_hash": "0" * 64}
    shapes = {"w": [2**62] * 100_000}
    tensors = {"left.w": torch.zeros(2, 1), "right.w": torch.zeros(1, 2)}
    save_file(tensors, path, {**about, "shapes": json.dumps(shapes), "meta": "{}"})
    assert "invalid shape" in frugal(lambda: load_delta(path))


# Latents ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def G():
    return sg3.load("mini-faces").G_ema


@pytest.mark.parametrize(
    "tensors",
    [
        {"ws": torch.zeros([])},
        {"ws": torch.zeros([3])},
        {"ws": torch.zeros([1, 1, 1, 1, 1])},
        {"ws": torch.zeros([0, 4])},
        {"ws": torch.zeros([1, 4], dtype=torch.int64)},
        {"ws_before_styles": torch.zeros([1, 16, 64]), "styles.L0": torch.zeros([])},
    ],
)
def test_latents_of_wrong_shape(tmp_path, G, tensors):
    path = tmp_path / "latent.safetensors"
    save_file(tensors, path)
    assert "shape" in frugal(lambda: read_latent_file(path, G))


def test_latents_with_nan(tmp_path, G):
    path = tmp_path / "latent.safetensors"
    save_file({"ws": torch.full([1, G.num_ws, G.w_dim], float("nan"))}, path)
    assert "not finite; `allow_nonfinite`" in frugal(lambda: read_latent_file(path, G))
    assert read_latent_file(path, G, allow_nonfinite=True).ws.isnan().all()


def test_one_array_many_times(tmp_path):
    array = RECONSTRUCT + b"(K\x01" + value((2**18,)) + DTYPE + b"\x89B" + struct.pack("<I", 2**20)
    array += bytes(2**20) + b"tb"
    body = b"\x80\x02}(" + value("0") + array + b"q\x05"
    body += b"".join(value(str(i)) + b"h\x05" for i in range(1, 2000)) + b"u."
    head = io.BytesIO()
    np.save(head, np.array({}, dtype=object), allow_pickle=True)
    start = head.getvalue().index(b"\x80")
    path = tmp_path / "l.npy"
    path.write_bytes(head.getvalue()[:start] + body)
    assert "far more memory" in frugal(lambda: read_other_latent(path, 16))


def test_compressed_latents_that_unpack_to_much(tmp_path):
    path = tmp_path / "l.npz"
    np.savez_compressed(path, w=np.zeros([1, 30_000_000], np.float32))
    assert "claims" in frugal(lambda: read_other_latent(path, 16))


# Zip archives -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_entry_that_claims_much(tmp_path, method):
    path = tmp_path / "d.zip"
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("dataset.json", b"{}")
        file.writestr("a.png", b"x")
    data = bytearray(path.read_bytes())
    sizes = 24 if method else 20  # the size alone, or also the compressed one
    at = data.index(b"PK\1\2")
    data[at + sizes : at + 28] = struct.pack("<I", 2**30 - 1) * ((28 - sizes) // 4)
    path.write_bytes(data)
    source = ImageSource(path)
    tracemalloc.start()
    with pytest.raises(ValueError, match="claims"):
        source.read_index()
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


def test_a_directory_that_claims_much(tmp_path):
    path = tmp_path / "d.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.png", b"x")
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\5\6") + 12, 2**31)
    path.write_bytes(data)
    frugal(lambda: open_zip(path))


# Texts of files ---------------------------------------------------------------------------------


def test_names_cannot_control_the_terminal(tmp_path):
    evil = "\x1b]0;owned\x07\x1b[2J\u202e"
    assert printable(evil).isprintable() and printable("schön: 1×2") == "schön: 1×2"
    assert brief(evil).isprintable() and len(brief("a" * 10**6)) == 80
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x04c" + evil.encode() + b"\nx\n)R.")
    frugal(lambda: sg3.load(path))
    save_file({f"G_ema.{evil}": torch.zeros(1)}, tmp_path / "x.safetensors", {"format": evil})
    frugal(lambda: sg3.load(tmp_path / "x.safetensors"))


def test_weights_that_are_not_finite(tmp_path):
    nets = sg3.load(repository.GOLDEN / "official-sg3t-32.pkl", only_ema=True)
    nets.G_ema.mapping.fc0.weight.data[0] = float("nan")
    path = tmp_path / "nan.safetensors"
    sg3.save(nets, path)
    message = frugal(lambda: sg3.load(path))
    assert "G_ema.mapping.fc0.weight has values that are not finite" in message
    assert sg3.load(path, allow_nonfinite=True).G_ema is not None
