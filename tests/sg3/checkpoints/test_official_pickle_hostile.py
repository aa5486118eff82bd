"""Malicious and damaged pickles: one-line errors, no code runs, memory stays bounded."""

import io
import pickle
import random
import resource
import struct
import sys
import warnings

import numpy as np
import pytest
import repository
import torch

import sg3
from sg3.checkpoints import official_pickle
from sg3.checkpoints.inert import Record, find_official
from sg3.checkpoints.pickle_machine import PickleMachine, Refused
from sg3.checkpoints.storage import read_storage, rebuild_tensor
from sg3.errors import UserError

GOLDEN = repository.GOLDEN / "official-sg3t-32.pkl"


def value(x) -> bytes:
    """Opcodes that push a plain value."""
    return pickle.dumps(x, 2)[2:-1]


def call(module: str, name: str, *arguments: bytes) -> bytes:
    """Opcodes that call a global."""
    return f"c{module}\n{name}\n(".encode() + b"".join(arguments) + b"tR"


def stream(body: bytes) -> bytes:
    return b"\x80\x04" + body + b"."


def storage_blob(tensor: torch.Tensor) -> bytes:
    """The bytes that torch writes for a tensor's storage."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(tensor.storage(), buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def value_bytes(data: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(data)) + data


def storage_stream(blob: bytes) -> bytes:
    return stream(call("torch.storage", "_load_from_bytes", value_bytes(blob)))


def refused(tmp_path, data: bytes) -> str:
    path = tmp_path / "hostile.pkl"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        sg3.load(path)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "posix.system",
        "builtins.eval",
        "builtins.exec",
        "builtins.getattr",
        "builtins.__import__",
        "torch.load",
        "numpy.load",
        "subprocess.Popen",
        "operator.attrgetter",
        "torch_utils.persistence.import_hook",
        "functools.partial",
        "evil_module.anything",
    ],
)
@pytest.mark.parametrize("modern", [False, True])
def test_globals_are_refused_by_name(tmp_path, monkeypatch, name, modern):
    marker = tmp_path / "executed"
    (tmp_path / "evil_module.py").write_text(f"open({str(marker)!r}, 'w')\nanything = print\n")
    monkeypatch.syspath_prepend(tmp_path)
    module, attribute = name.rsplit(".", 1)
    body = call(module, attribute, value(f"touch {marker}"))
    if modern:
        body = value(module) + value(attribute) + b"\x93(" + value(f"touch {marker}") + b"tR"
    assert repr(name) in refused(tmp_path, stream(body))
    assert not marker.exists() and "evil_module" not in sys.modules


def test_embedded_source_is_not_run(tmp_path):
    record = {"type": "class", "version": 6, "class_name": "Generator", "state": {}}
    record["module_src"] = f"open({str(tmp_path / 'executed')!r}, 'w')"
    made = call("torch_utils.persistence", "_reconstruct_persistent_obj", value(record))
    message = refused(tmp_path, stream(b"}" + value("G_ema") + made + b"s"))
    assert "architecture" in message and not (tmp_path / "executed").exists()


def test_pickle_inside_a_storage_is_refused(tmp_path):
    inner = stream(call("os", "system", value(f"touch {tmp_path / 'executed'}")))
    message = refused(tmp_path, storage_stream(inner))
    assert "inside a torch storage" in message and "'os.system'" in message
    blob = storage_blob(torch.zeros(3)).replace(b"ctorch\nFloatStorage\n", b"cos\nsystem\n")
    message = refused(tmp_path, storage_stream(blob))
    assert "'os.system'" in message and not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty"),
        (b"PK\x03\x04" + bytes(100), "zip archive"),
        (b"<!DOCTYPE html><html>", "web page"),
        (random.Random(0).randbytes(1000), "unknown format"),
        (stream(value({"weights": 1})), "no network G_ema"),
        (stream(value([1, 2])), "no network G_ema"),
        (stream(value({"G_ema": 3})), "no network G_ema"),
        (stream(value({})) + b"tail", "bytes follow"),
        (b"\x80\x04" + value({}), "truncated"),
        (stream(b"0"), "stack underflow"),
        (stream(b"h\x05"), "never stored"),
        (stream(b"KaKaR"), "not a known name"),
        (stream(value("x") + b"Q"), "persistent id"),
        (stream(b"P1\n"), "opcode 0x50"),
        (stream(b"\x8b" + struct.pack("<i", 2**31 - 1)), "opcode 0x8b"),
        (stream(b"\x8e" + struct.pack("<Q", 2**40)), "truncated"),
        (stream(b"\x8d" + struct.pack("<Q", 2**63)), "truncated"),
        (stream(b"}" + value((1, 2)) + b"Ks"), None),
        (stream(b"}(" + value((1, (2,))) + b"Nu"), "as a key"),
        (
            stream(call("dnnlib.tflib.network", "Network")),
            "network has an unknown form",
        ),
    ],
)
def test_damaged_streams(tmp_path, data, expected):
    message = refused(tmp_path, data)
    assert expected is None or expected in message


def test_memory_follows_the_size_of_the_file(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(tmp_path, stream(b"Nr" + struct.pack("<I", 2**32 - 1)))  # a memo entry far out
    refused(tmp_path, stream(b"]" * 100_000 + b"\x8e" + struct.pack("<Q", 2**36)))
    blob = storage_blob(torch.zeros(3))
    huge = blob.replace(b"K\x03N", b"\x8a\x06" + (10**12).to_bytes(6, "little") + b"N")
    huge = huge.replace(struct.pack("<q", 3) + bytes(12), struct.pack("<q", 10**12) + bytes(12))
    assert huge != blob
    message = refused(tmp_path, storage_stream(huge))
    assert "claims 1000000000000 elements, but holds 12 bytes" in message
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_opcodes_are_counted():
    with pytest.raises(Refused, match="more than 50 pickle opcodes"):
        PickleMachine(memoryview(stream(b"]" * 60)), max_steps=50).run()


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (1, (12,), (1,)),
        (0, (13,), (1,)),
        (0, (3, 4), (4, 2)),
        (0, (10**6, 10**6), (0, 0)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (2, 2), (1,)),
        (0, (True,), (1,)),
        (0, (2**70, 0), (1, 1)),
        (0, (0, 5, 7), (1, 1, 1)),
    ],
)
def test_tensors_stay_inside_their_storage(offset, size, stride):
    storage = read_storage(memoryview(storage_blob(torch.arange(12.0))))
    if size == (0, 5, 7):  # empty tensors are small whatever they claim
        assert rebuild_tensor(storage, offset, size, stride).nbytes == 0
        return
    with pytest.raises(Refused):
        rebuild_tensor(storage, offset, size, stride)


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        torch.float64,
        torch.float16,
        torch.int64,
        torch.int32,
        torch.uint8,
        torch.bool,
    ],
)
def test_storages_of_all_types_with_offset_and_stride(dtype):
    tensor = torch.from_numpy(np.random.RandomState(0).randint(0, 2, [2, 3, 4, 5])).to(dtype)
    tensor = tensor.to(memory_format=torch.channels_last)[1:, :, 1:, ::2]
    storage = read_storage(memoryview(storage_blob(tensor)))
    read = rebuild_tensor(storage, tensor.storage_offset(), tuple(tensor.shape), tensor.stride())
    assert torch.equal(read.read(), tensor) and read.read().dtype == dtype


@pytest.mark.slow
def test_every_truncation_is_refused(tmp_path):
    data = GOLDEN.read_bytes()
    for fraction in np.linspace(0.0001, 0.9999, 25):
        refused(tmp_path, data[: int(len(data) * fraction)])
    refused(tmp_path, data[:-1])


@pytest.mark.slow
def test_damaged_bytes_never_escape_as_other_errors():
    content = GOLDEN.read_bytes()
    randomness = random.Random(1)
    outcomes = []
    for _ in range(40):
        data = bytearray(content)
        for _ in range(randomness.choice([1, 5, 50])):
            data[randomness.randrange(len(data))] = randomness.randrange(256)
        machine = PickleMachine(memoryview(bytes(data)), 0, find_official)
        try:
            official_pickle.rebuild(machine.run(), 2**24)
            outcomes.append("read")
        except UserError:
            outcomes.append("refused")
    assert outcomes.count("refused") > 3


def golden_content() -> dict:
    return PickleMachine(memoryview(GOLDEN.read_bytes()), 0, find_official).run()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("img_resolution", 2**40),
        ("w_dim", 10**12),
        ("channel_base", 10**18),
        ("channel_max", 2**16),
        ("num_layers", 10**9),
        ("filter_size", 10**9),
        ("img_resolution", -5),
        ("img_resolution", "large"),
        ("z_dim", float("nan")),
        ("first_cutoff", 0),
        ("mapping_kwargs", {"num_layers": 10**9}),
        ("channel_max", [1] * 1000),
    ],
)
def test_absurd_arguments_reserve_nothing(name, number):
    content = golden_content()
    content["G_ema"].state["_init_kwargs"][name] = number
    with pytest.raises(UserError):
        official_pickle.rebuild(content, 2**24)


def test_modules_that_share_children_are_refused():
    leaf = Record("FullyConnectedLayer", {})
    for _ in range(40):  # 2⁴⁰ paths
        leaf = Record("Module", {"_modules": {"a": leaf, "b": leaf}})
    root = Record("Generator", {"_modules": {"synthesis": leaf}})
    with pytest.raises(Refused, match="shared"):
        official_pickle.rebuild({"G_ema": root}, 2**24)


def test_tensors_that_share_one_storage_are_limited():
    content = golden_content()
    with pytest.raises(Refused, match="far more memory"):
        official_pickle.rebuild(content, budget=1000)


def test_easydict_and_set_of_older_protocols():
    body = b"cdnnlib.util\nEasyDict\n)\x81(" + value("a") + value(1) + b"u"
    assert PickleMachine(memoryview(stream(body)), 0, find_official).run() == {"a": 1}
    body = call("builtins", "set", value(["x"]))
    assert PickleMachine(memoryview(stream(body)), 0, find_official).run() == {"x"}
    body = call("collections", "OrderedDict", value([["a", 1]]))
    with pytest.raises(Refused):
        PickleMachine(memoryview(stream(body)), 0, find_official).run()
