"""`sg3 dataset`: CIFAR-10, MNIST, Hugging Face; LMDB is refused."""

import gzip
import io
import os
import pickle
import struct
import sys
import tarfile

import numpy as np
import pytest
from dataset_files import fails, index_of, noise, pixels_of, prepare
from PIL import Image

from sg3.data import cifar


def python2_pickle(array, labels):
    """Return {'data': array, 'labels': labels} as Python 2 pickles it, byte for byte."""

    def text(value):
        return b"U" + bytes([len(value)]) + value

    numbers = b"".join(b"K" + bytes([n]) for n in labels)
    rows = struct.pack("<H", len(array))
    return b"".join(
        [
            b"\x80\x02}q\x01(" + text(b"batch_label") + text(b"training batch 1 of 5"),
            text(b"labels") + b"]q\x02(" + numbers + b"e" + text(b"data"),
            b"cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85",
            text(b"b") + b"\x87Rq\x05(K\x01M" + rows + b"M\x00\x0c\x86",
            b"cnumpy\ndtype\nq\x06" + text(b"u1") + b"K\x00K\x01\x87Rq\x07(K\x03" + text(b"|"),
            b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89",
            b"T" + struct.pack("<I", array.size) + array.tobytes() + b"tb",
            text(b"filenames") + b"](" + text(b"a.png") + text(b"b.png") + b"eu.",
        ]
    )


def cifar_tar(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def cifar_batches(write):
    arrays = [np.random.RandomState(i).randint(0, 256, [2, 3072], np.uint8) for i in range(5)]
    labels = [[2 * i, 9 - i] for i in range(5)]
    pairs = zip(arrays, labels, strict=True)
    members = {f"data_batch_{i + 1}": write(a, n) for i, (a, n) in enumerate(pairs)}
    members["test_batch"] = b"is not read"
    return members, np.concatenate(arrays), [n for part in labels for n in part]


@pytest.mark.parametrize(
    "write",
    [
        python2_pickle,
        lambda array, labels: pickle.dumps({b"data": array, b"labels": labels}, 2),
        lambda array, labels: pickle.dumps({"data": array, "labels": labels}, 2),
    ],
    ids=["python2", "python3-bytes", "python3-text"],
)
def test_cifar(tmp_path, write):
    members, data, labels = cifar_batches(write)
    names = [f"class {i}" for i in range(10)]
    if write is not python2_pickle:
        members["batches.meta"] = pickle.dumps({"label_names": names}, 2)
    source = cifar_tar(tmp_path / "cifar-10-python.tar.gz", members)
    kept, dropped = prepare(source, tmp_path / "o.zip")
    assert not dropped and [item.label for item in kept.values()] == labels
    for row, item in zip(data, kept.values(), strict=True):
        red_green_blue = row.reshape(3, 32, 32)
        assert np.array_equal(
            pixels_of(tmp_path / "o.zip", item.name).transpose(2, 0, 1), red_green_blue
        )
    classes = index_of(tmp_path / "o.zip").get("classes")
    assert classes == (None if write is python2_pickle else names)
    prepare(source, tmp_path / "o.zip", labels="none")
    assert index_of(tmp_path / "o.zip") == {"labels": None}


class Calls:
    """An object that unpickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_hostile_cifar_executes_nothing(tmp_path, protocol):
    members, _, _ = cifar_batches(python2_pickle)
    hostile = {"data": Calls(os.system, f"touch {tmp_path / 'ran'}"), "labels": [0]}
    members["data_batch_3"] = pickle.dumps(hostile, protocol)
    source = cifar_tar(tmp_path / "cifar-10-python.tar.gz", members)
    fails("is not a readable CIFAR-10", "--source", source, "--dest", tmp_path / "o.zip")
    assert [p.name for p in tmp_path.iterdir()] == [source.name]


def test_damaged_cifar_is_one_line(tmp_path, monkeypatch):
    members, data, labels = cifar_batches(python2_pickle)
    source = tmp_path / "cifar-10-python.tar.gz"

    def refused(expected, changed):
        cifar_tar(source, {**members, **changed})
        fails(expected, "--source", source, "--dest", tmp_path / "o.zip")

    whole = members["data_batch_1"]
    refused("exhausted before", {"data_batch_1": whole[:-3]})
    refused("has the shape", {"data_batch_1": whole.replace(b"M\x02\x00M", b"M\x03\x00M")})
    refused("labels do not match the images", {"data_batch_1": python2_pickle(data[:2], [1])})
    refused("lacks data or labels", {"data_batch_1": pickle.dumps({"data": "x"}, 2)})
    refused("not a dictionary", {"data_batch_1": pickle.dumps([], 2)})
    refused("a NumPy array has type", {
        "data_batch_1": pickle.dumps({"data": np.zeros(2, "M8[s]"), "labels": labels}, 2),
    })  # fmt: skip
    del members["data_batch_2"]
    refused("data_batch_2 missing", {})
    monkeypatch.setattr(cifar, "MAX_UNPACKED", 20_000)
    refused("unpacks to more than", {})
    source.write_bytes(source.read_bytes()[:3000])
    fails("not a readable CIFAR-10", "--source", source, "--dest", tmp_path / "o.zip")


def write_idx(path, array):
    header = struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))
    return path


def test_mnist(tmp_path):
    digits = np.random.RandomState(0).randint(0, 256, [3, 28, 28], np.uint8)
    source = write_idx(tmp_path / "train-images-idx3-ubyte.gz", digits)
    kept, _ = prepare(source, tmp_path / "o.zip")
    assert index_of(tmp_path / "o.zip") == {"labels": None}
    for digit, item in zip(digits, kept.values(), strict=True):
        image = pixels_of(tmp_path / "o.zip", item.name)
        assert image.shape == (32, 32) and np.array_equal(image[2:30, 2:30], digit)
        assert image.sum() == digit.sum()
    labels = write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.array([5, 0, 4], np.uint8))
    kept, _ = prepare(source, tmp_path / "o.zip", labels="json", mode="rgb")
    assert [item.label for item in kept.values()] == [5, 0, 4]
    assert {item.shape for item in kept.values()} == {(3, 32, 32)}
    write_idx(labels, np.array([5, 0], np.uint8))
    fails("2 labels for 3 images", "--source", source, "--dest", tmp_path / "x.zip")
    labels.unlink()
    fails("got json, but", "--source", source, "--dest", tmp_path / "x.zip", "--labels", "json")
    source.write_bytes(gzip.compress(struct.pack(">4I", 0x803, 1 << 30, 28, 28)))
    fails("unknown header", "--source", source, "--dest", tmp_path / "x.zip")
    source.write_bytes(gzip.compress(struct.pack(">4I", 0x803, 3, 28, 28) + b"short"))
    fails("not a readable MNIST", "--source", source, "--dest", tmp_path / "x.zip")


def test_hugging_face(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"label": datasets.ClassLabel(names=["cat", "dog"]), "image": datasets.Image()}
    )
    images = [noise(8, 8, seed=i) for i in range(3)]
    rows = {"label": [1, 0, -1], "image": [Image.fromarray(p) for p in images]}
    table = datasets.Dataset.from_dict(rows, features=features)
    table.save_to_disk(str(tmp_path / "one"))
    kept, dropped = prepare(tmp_path / "one", tmp_path / "o.zip", labels="json")
    assert dropped == {"one[2]": "no label"}
    for image, item in zip(images[:2], kept.values(), strict=True):
        assert np.array_equal(pixels_of(tmp_path / "o.zip", item.name), image)
    labels = [["00000/img00000000.png", 1], ["00000/img00000001.png", 0]]
    assert index_of(tmp_path / "o.zip") == {"labels": labels, "classes": ["cat", "dog"]}
    datasets.DatasetDict({"a": table, "b": table}).save_to_disk(str(tmp_path / "two"))
    fails("has the splits a, b", "--source", tmp_path / "two", "--dest", tmp_path / "x.zip")
    kept, _ = prepare(tmp_path / "two" / "b", tmp_path / "o.zip")
    assert len(kept) == 3


def test_hugging_face_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "in").mkdir()
    for name in ("state.json", "dataset_info.json"):
        (tmp_path / "in" / name).write_text("{}")
    fails("pip install datasets", "--source", tmp_path / "in", "--dest", tmp_path / "o.zip")


def test_lmdb_is_refused_with_a_way_out(tmp_path):
    (tmp_path / "church_lmdb").mkdir()
    fails("an LMDB", "--source", tmp_path / "church_lmdb", "--dest", tmp_path / "o.zip")
