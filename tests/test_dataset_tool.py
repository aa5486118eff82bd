"""`sg3 dataset`: sources, transforms, labels, formats, what is dropped, what is refused."""

import gzip
import io
import json
import multiprocessing
import os
import pickle
import resource
import signal
import struct
import sys
import tarfile
import time
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import program
import pytest
from PIL import Image

from sg3.cli.main import cli
from sg3.data import ImageDataset, cifar, formats, ordered
from sg3.data.prepare import prepare_dataset
from sg3.data.transforms import Dropped, check_size, to_mode, transform_image


def noise(width, height, channels=3, seed=0):
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.RandomState(seed).randint(0, 256, shape, np.uint8)


def save(path, width=8, height=8, channels=3, seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = noise(width, height, channels, seed)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def zipped(path, entries, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png")
    return buffer.getvalue()


def prepare(source, dest, *args, **options):
    """What was kept, by source name, and why the others were dropped."""
    items = list(prepare_dataset(source, dest, *args, **options))
    assert [item.index for item in items] == list(range(items[0].total))
    kept = {item.source: item for item in items if item.reason is None}
    return kept, {item.source: item.reason for item in items if item.reason is not None}


def pixels_of(path, name):
    with zipfile.ZipFile(path) as archive:
        return np.asarray(Image.open(io.BytesIO(archive.read(name))))


def index_of(path):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("dataset.json"))


def run(*arguments):
    return program.run("dataset", *arguments)


def fails(expected, *arguments):
    program.fails(expected, "dataset", *arguments)


# Transforms ----------------------------------------------------------------------------------


def resized(pixels, size):
    return np.asarray(Image.fromarray(pixels).resize(size, Image.LANCZOS))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_transforms_against_slices(channels):
    def transformed(width, height, *how):
        pixels = noise(width, height, channels)
        return pixels, np.asarray(transform_image(Image.fromarray(pixels), *how))

    pixels, result = transformed(40, 20, "none", (8, 16))
    assert np.array_equal(result, resized(pixels, (8, 16)))
    pixels, result = transformed(40, 20, "none", None)
    assert np.array_equal(result, pixels)
    pixels, result = transformed(40, 20, "center-crop", (8, 8))
    assert np.array_equal(result, resized(pixels[:, 10:30], (8, 8)))
    pixels, result = transformed(20, 47, "center-crop", (8, 8))
    assert np.array_equal(result, resized(pixels[13:33], (8, 8)))
    pixels, result = transformed(40, 20, "center-crop", (16, 12))  # 4:3
    assert np.array_equal(result, resized(pixels[:, 6:33], (16, 12)))
    black = np.zeros([32, 32, channels][: 2 if channels == 1 else 3], np.uint8)
    pixels, result = transformed(64, 60, "center-crop-wide", (32, 16))
    expected = black.copy()
    expected[8:24] = resized(pixels[14:46], (32, 16))
    assert np.array_equal(result, expected)
    pixels, result = transformed(60, 64, "center-crop-tall", (16, 32))
    expected = black.copy()
    expected[:, 8:24] = resized(pixels[:, 14:46], (16, 32))
    assert np.array_equal(result, expected)


def test_tall_is_wide_on_its_side():
    image = Image.fromarray(noise(70, 50) // 2 + 64)  # no overshoot is clipped
    wide = transform_image(image, "center-crop-wide", (32, 16))
    sideways = image.transpose(Image.Transpose.TRANSPOSE)
    tall = transform_image(sideways, "center-crop-tall", (16, 32))
    difference = np.asarray(tall, int) - np.asarray(wide, int).transpose(1, 0, 2)
    assert np.abs(difference).max() <= 1  # Pillow rounds between its two directions


@pytest.mark.parametrize(
    "width, height, transform, size, reason",
    [
        (31, 40, "center-crop-wide", (32, 16), "too small"),
        (64, 30, "center-crop-wide", (32, 16), "wrong shape"),
        (40, 31, "center-crop-tall", (16, 32), "too small"),
        (30, 64, "center-crop-tall", (16, 32), "wrong shape"),
    ],
)
def test_what_does_not_reach_is_dropped(width, height, transform, size, reason):
    with pytest.raises(Dropped) as error:
        transform_image(Image.new("L", (width, height)), transform, size)
    assert error.value.reason == reason and f"{width}x{height}" in error.value.detail


def test_sizes_that_networks_take():
    for height, width in ((4, 4), (1024, 1024), (192, 256), (576, 1024), (32, 16)):
        check_size(height, width)
    for height, width in ((100, 100), (96, 96), (100, 60), (2, 2), (1 << 15, 1 << 15), (0, 8)):
        with pytest.raises(ValueError, match=f"got {width}x{height} pixels, which no network"):
            check_size(height, width)


# Modes ---------------------------------------------------------------------------------------


def test_modes_of_one_picture():
    deep = Image.fromarray((np.arange(4, dtype=np.uint16) << 8 | 255).reshape(2, 2))
    assert deep.mode == "I;16"
    assert np.asarray(to_mode(deep, "L")).tolist() == [[0, 1], [2, 3]]
    assert np.asarray(to_mode(deep, "RGB"))[1, 1].tolist() == [3, 3, 3]
    clear = Image.new("RGBA", (1, 2), (200, 0, 0, 0))
    clear.putpixel((0, 1), (200, 0, 0, 255))
    assert np.asarray(to_mode(clear, "RGB")).tolist() == [[[255] * 3], [[200, 0, 0]]]
    assert to_mode(clear, "RGBA") is clear
    palette = clear.convert("RGB").quantize(4)
    assert np.asarray(to_mode(palette, "RGB")).tolist() == [[[200, 0, 0]], [[200, 0, 0]]]
    palette.info["transparency"] = palette.getpixel((0, 0))
    assert np.asarray(to_mode(palette, "RGB")).tolist() == [[[255] * 3], [[255] * 3]]
    assert to_mode(Image.new("CMYK", (1, 1)), "RGB").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    "mode, channels",
    [("auto", 3), ("gray", 1), ("rgba", 4)],
)
def test_mixed_modes_become_one(tmp_path, mode, channels):
    for i, count in enumerate((1, 4, 3)):
        save(tmp_path / "in" / f"{i}.png", channels=count)
    kept, _ = prepare(tmp_path / "in", tmp_path / "o.zip", mode=mode)
    assert {item.shape for item in kept.values()} == {(channels, 8, 8)}
    assert ImageDataset(tmp_path / "o.zip").image_shape == (channels, 8, 8)


def test_auto_is_gray_if_all_are(tmp_path):
    gray = save(tmp_path / "in" / "0.png", channels=1)
    (tmp_path / "in" / "1.png").write_bytes(b"no")
    kept, dropped = prepare(tmp_path / "in", tmp_path / "o.zip")
    assert np.array_equal(pixels_of(tmp_path / "o.zip", kept["0.png"].name), gray)
    assert dropped == {"1.png": "unreadable"}
    kept, _ = prepare(tmp_path / "in", tmp_path / "o.zip", image_format="webp")
    assert kept["0.png"].shape == (3, 8, 8)


def test_orientation_and_animation(tmp_path):
    pixels = noise(8, 4)
    exif = Image.Exif()
    exif[0x112] = 6  # turn by 90 degrees, clockwise
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "0.png", exif=exif)
    kept, _ = prepare(tmp_path / "in", tmp_path / "o.zip")
    turned = pixels_of(tmp_path / "o.zip", kept["0.png"].name)
    assert np.array_equal(turned, np.rot90(pixels, -1))
    frames = [Image.new("L", (8, 4), value) for value in (10, 200)]
    frames[0].save(tmp_path / "in" / "1.gif", save_all=True, append_images=frames[1:])
    kept, _ = prepare(tmp_path / "in", tmp_path / "o.zip", (8, 8))
    assert (pixels_of(tmp_path / "o.zip", kept["1.gif"].name) == 10).all()


# Folders and zips ----------------------------------------------------------------------------


@pytest.fixture
def pets(tmp_path):
    for i, name in enumerate(("dog/1.png", "cat/deep/2.png", "cat/3.png", "owl/4.png")):
        save(tmp_path / "pets" / name, seed=i)
    return tmp_path / "pets"


def test_prepared_zip_trains(pets, tmp_path):
    labels = [["dog/1.png", 0], ["cat/deep/2.png", 1], ["cat/3.png", 2], ["owl/4.png", 1]]
    index = {"labels": labels, "classes": ["a", "b", "c"]}
    (pets / "dataset.json").write_text(json.dumps(index))
    (pets / "broken.png").write_bytes(b"no")
    result = run("--source", pets, "--dest", tmp_path / "o.zip", "--resolution", "4x4")
    assert result.exit_code == 0 and "4 images, dropped 1 (unreadable); 4x4 RGB" in result.output
    assert "dropped broken.png: unreadable (not an image" in result.stderr
    with zipfile.ZipFile(tmp_path / "o.zip") as archive:
        names = archive.namelist()
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
    numbers = (1, 2, 3, 4)  # 0 was broken.png
    assert names == [f"00000/img{i:08d}.png" for i in numbers] + ["dataset.json"]
    data = ImageDataset(tmp_path / "o.zip", use_labels=True, resolution=4)
    assert data.labels(range(4)).argmax(1).tolist() == [2, 1, 0, 1]  # cat/3, cat/deep, dog, owl
    assert data.class_names == ["a", "b", "c"]


def test_zip_gives_what_the_folder_gives(pets, tmp_path):
    entries = {p.relative_to(pets).as_posix(): p.read_bytes() for p in pets.rglob("*.png")}
    zipped(tmp_path / "in.zip", entries)
    prepare(pets, tmp_path / "a.zip", labels="folders")
    prepare(tmp_path / "in.zip", tmp_path / "b.zip", labels="folders")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    prepare(pets, tmp_path / "out", labels="folders")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        for name in archive.namelist():
            assert archive.read(name) == (tmp_path / "out" / name).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "b.zip", "in.zip", "out", "pets"]


def test_labels(pets, tmp_path):
    save(pets / "stray.png")
    kept, dropped = prepare(pets, tmp_path / "o.zip", labels="folders")
    index = index_of(tmp_path / "o.zip")
    assert index["classes"] == ["cat", "dog", "owl"]
    assert [label for _, label in index["labels"]] == [0, 0, 1, 2]
    assert {name: item.label for name, item in kept.items()}["owl/4.png"] == 2
    assert dropped == {"stray.png": "no label"}
    (pets / "dataset.json").write_text(json.dumps({"labels": [["stray.png", 7]]}))
    assert prepare(pets, tmp_path / "o.zip")[1] == {}
    assert index_of(tmp_path / "o.zip") == {"labels": None}  # some have none
    result = run("--source", pets, "--dest", tmp_path / "o.zip")
    assert "no labels were written: 4 pictures have none" in result.stderr
    kept, dropped = prepare(pets, tmp_path / "o.zip", labels="json")
    assert list(kept) == ["stray.png"] and set(dropped.values()) == {"no label"}
    assert index_of(tmp_path / "o.zip")["labels"] == [["00000/img00000004.png", 7]]
    prepare(pets, tmp_path / "o.zip", labels="none")
    assert index_of(tmp_path / "o.zip") == {"labels": None}


def test_small_pictures_and_their_number(pets, tmp_path):
    save(pets / "cat" / "small.png", 9, 7)
    kept, dropped = prepare(pets, tmp_path / "o.zip", (8, 8), min_size=8)
    assert len(kept) == 4 and dropped == {"cat/small.png": "too small"}
    kept, dropped = prepare(pets, tmp_path / "o.zip", (8, 8), max_images=3)
    assert list(kept) == ["cat/3.png", "cat/deep/2.png", "cat/small.png"]


def test_sizes_are_told(pets, tmp_path):
    kept, _ = prepare(pets, tmp_path / "o.zip")
    with zipfile.ZipFile(tmp_path / "o.zip") as archive:
        for source, item in kept.items():
            assert item.bytes == archive.getinfo(item.name).file_size
            assert item.source_bytes == (pets / source).stat().st_size
    result = run("--source", pets, "--dest", tmp_path / "o.zip", "--resolution", "64")
    total = sum(i.file_size for i in zipfile.ZipFile(tmp_path / "o.zip").infolist()[:-1])
    assert f"{total / 1e3:.1f} kB as png" in result.output and "webp takes less" in result.output


def test_webp_keeps_every_pixel(pets, tmp_path):
    kept, _ = prepare(pets, tmp_path / "o.zip", image_format="webp")
    for source, item in kept.items():
        assert item.name.endswith(".webp")
        expected = np.asarray(Image.open(pets / source))
        assert np.array_equal(pixels_of(tmp_path / "o.zip", item.name), expected)
    assert len(ImageDataset(tmp_path / "o.zip")) == 4


def test_names_in_archives_are_never_paths(tmp_path):
    names = ["../up.png", "/abs.png", "a/1.png", "b/2.png", "a/../../c.png"]
    source = zipped(tmp_path / "in.zip", {name: png(noise(8, 8)) for name in names})
    kept, dropped = prepare(source, tmp_path / "deep" / "out", labels="folders")
    assert set(kept) == {"a/1.png", "b/2.png", "a/../../c.png"}
    assert dropped == {"../up.png": "no label", "/abs.png": "no label"}
    files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    numbers = [i for i, name in enumerate(sorted(names)) if name in kept]
    pictures = [f"deep/out/00000/img{i:08d}.png" for i in numbers]
    assert files == sorted([*pictures, "deep/out/dataset.json", "in.zip"])


def test_terminals_get_no_control_characters(pets, tmp_path):
    (pets / "a\x1b[2J.png").write_bytes(b"no")
    result = run("--source", pets, "--dest", tmp_path / "o.zip")
    assert "a?[2J.png" in result.stderr and "\x1b" not in result.output


def test_many_dropped_files_are_few_lines(pets, tmp_path):
    for i in range(25):
        (pets / f"{i:02d}.png").write_bytes(b"no")
    result = run("--source", pets, "--dest", tmp_path / "o.zip")
    lines = result.stderr.splitlines()
    assert len(lines) == 21 and lines[-1] == "and 5 more dropped"
    assert result.stdout.startswith(f"{tmp_path / 'o.zip'}: 4 images, dropped 25 (unreadable); ")


# Bombs ---------------------------------------------------------------------------------------


def huge_png(side):
    """A header that claims a picture of `side` times `side`, and no pixels."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_bombs_are_dropped(pets, tmp_path, monkeypatch):
    (pets / "huge.png").write_bytes(huge_png(20_000))
    (pets / "large.png").write_bytes(huge_png(11_000))  # Pillow only warns; cut off, besides
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, dropped = prepare(pets, tmp_path / "o.zip")
        assert dropped == {"huge.png": "bomb", "large.png": "unreadable"}
        monkeypatch.setattr(formats, "MAX_PIXELS", 10_000 * 10_000)
        assert prepare(pets, tmp_path / "o.zip")[1]["large.png"] == "bomb"


def test_zip_bombs_are_dropped(tmp_path, monkeypatch):
    entries = {"a.png": png(noise(8, 8)), "b.png": b"\0" * (6 << 20), "c.png": b"\0" * (5 << 20)}
    source = zipped(tmp_path / "in.zip", entries)
    kept, dropped = prepare(source, tmp_path / "o.zip")
    assert list(kept) == ["a.png"] and dropped == {"b.png": "bomb", "c.png": "bomb"}  # by ratio
    monkeypatch.setattr(formats, "MAX_RATIO", 10_000)
    monkeypatch.setattr(formats, "MAX_BYTES", 5 << 20)
    assert prepare(source, tmp_path / "o.zip")[1] == {"b.png": "bomb", "c.png": "unreadable"}
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, data in entries.items():
        (folder / name).write_bytes(data)
    assert prepare(folder, tmp_path / "o.zip")[1] == {"b.png": "bomb", "c.png": "unreadable"}
    source = zipped(tmp_path / "lzma.zip", {"a.png": png(noise(8, 8))}, zipfile.ZIP_LZMA)
    with pytest.raises(ValueError, match=r"no picture of .* \(1 unreadable\)"):
        prepare(source, tmp_path / "o.zip")


def test_sizes_that_lie_unpack_no_more(tmp_path):
    data = b"\0" * (3 << 20)
    source = zipped(tmp_path / "in.zip", {"a.png": png(noise(8, 8)), "b.png": data})
    content = source.read_bytes()
    lying = content.replace(struct.pack("<I", len(data)), struct.pack("<I", 500))
    assert lying != content
    source.write_bytes(lying)
    assert prepare(source, tmp_path / "o.zip")[1] == {"b.png": "unreadable"}


# CIFAR-10, MNIST, Hugging Face, LMDB ---------------------------------------------------------


def python2_pickle(array, labels):
    """{'data': array, 'labels': labels} as Python 2 wrote it, byte for byte in its own opcodes."""

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
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_hostile_cifar_runs_nothing(tmp_path, protocol):
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
    refused("labels in it", {"data_batch_1": python2_pickle(data[:2], [1])})
    refused("lacks data or labels", {"data_batch_1": pickle.dumps({"data": "x"}, 2)})
    refused("not a dictionary", {"data_batch_1": pickle.dumps([], 2)})
    refused("holds a NumPy array of type", {
        "data_batch_1": pickle.dumps({"data": np.zeros(2, "M8[s]"), "labels": labels}, 2),
    })  # fmt: skip
    del members["data_batch_2"]
    refused("it lacks data_batch_2", {})
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
        picture = pixels_of(tmp_path / "o.zip", item.name)
        assert picture.shape == (32, 32) and np.array_equal(picture[2:30, 2:30], digit)
        assert picture.sum() == digit.sum()
    labels = write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.array([5, 0, 4], np.uint8))
    kept, _ = prepare(source, tmp_path / "o.zip", labels="json", mode="rgb")
    assert [item.label for item in kept.values()] == [5, 0, 4]
    assert {item.shape for item in kept.values()} == {(3, 32, 32)}
    write_idx(labels, np.array([5, 0], np.uint8))
    fails("2 labels for 3 pictures", "--source", source, "--dest", tmp_path / "o.zip")
    labels.unlink()
    fails("got json, but", "--source", source, "--dest", tmp_path / "x.zip", "--labels", "json")
    source.write_bytes(gzip.compress(struct.pack(">4I", 0x803, 1 << 30, 28, 28)))
    fails("its header", "--source", source, "--dest", tmp_path / "o.zip")
    source.write_bytes(gzip.compress(struct.pack(">4I", 0x803, 3, 28, 28) + b"short"))
    fails("not a readable MNIST", "--source", source, "--dest", tmp_path / "o.zip")


def test_hugging_face(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"label": datasets.ClassLabel(names=["cat", "dog"]), "image": datasets.Image()}
    )
    pictures = [noise(8, 8, seed=i) for i in range(3)]
    rows = {"label": [1, 0, -1], "image": [Image.fromarray(p) for p in pictures]}
    table = datasets.Dataset.from_dict(rows, features=features)
    table.save_to_disk(str(tmp_path / "one"))
    kept, dropped = prepare(tmp_path / "one", tmp_path / "o.zip", labels="json")
    assert dropped == {"one[2]": "no label"}
    for picture, item in zip(pictures[:2], kept.values(), strict=True):
        assert np.array_equal(pixels_of(tmp_path / "o.zip", item.name), picture)
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


# Processes, interruptions, full disks --------------------------------------------------------


@pytest.fixture
def many(tmp_path):
    for i in range(40):
        save(tmp_path / "many" / f"{i:02d}.png", 9 + i % 5, 9 + i % 7, seed=i)
    (tmp_path / "many" / "10.png").write_bytes(b"no")
    return tmp_path / "many"


def test_the_number_of_processes_changes_nothing(many, tmp_path, monkeypatch):
    options = {"resolution": (8, 8), "transform": "center-crop", "min_size": 10}

    def prepared(source, dest, jobs):
        return list(prepare_dataset(source, tmp_path / dest, jobs=jobs, **options))

    one = prepared(many, "1.zip", 1)
    assert {item.reason for item in one} == {None, "too small", "unreadable"}
    archive = zipped(tmp_path / "in.zip", {p.name: p.read_bytes() for p in many.iterdir()})
    assert prepared(archive, "2.zip", 1) == one
    assert prepared(many, "3.zip", 2) == one and prepared(archive, "4.zip", 3) == one
    monkeypatch.setattr(ordered, "START_METHOD", "spawn")  # of Windows and macOS
    assert prepared(archive, "5.zip", 2) == one
    assert len({(tmp_path / f"{i}.zip").read_bytes() for i in range(1, 6)}) == 1


def test_little_is_taken_ahead():
    taken = []
    results = ordered.map_in_order(abs, (taken.append(i) or -i for i in range(1000)), 2)
    assert [next(results) for _ in range(20)] == list(range(20))
    assert len(taken) <= 20 + ordered.AHEAD * 2
    results.close()


def kill_oneself(item):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_one_line():
    with pytest.raises(ValueError, match="--jobs: one of 2 worker processes was ended"):
        list(ordered.map_in_order(kill_oneself, range(3), 2))


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("dest", ["o.zip", "out"])
def test_what_is_not_finished_leaves_nothing(many, tmp_path, dest, jobs):
    prepared = prepare_dataset(many, tmp_path / "new" / dest, (8, 8), jobs=jobs)
    for _ in range(5):
        next(prepared)
    assert len(list((tmp_path / "new").iterdir())) == 1
    assert not (tmp_path / "new" / dest).exists()
    prepared.close()
    assert not list((tmp_path / "new").iterdir())


def forked(function, *arguments):
    """Another process, which needs no import of torch."""
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


def wait_until(condition, seconds=60):
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + seconds
        time.sleep(0.01)


def run_and_exit(log, arguments):
    sys.stdout = sys.stderr = open(log, "w", buffering=1)  # noqa: SIM115 - until it exits
    signal.signal(signal.SIGINT, signal.default_int_handler)
    cli(["dataset", *map(str, arguments)], prog_name="sg3")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_cleanly(many, tmp_path, number):
    new, log = tmp_path / "new", tmp_path / "log"
    slow = ["--resolution", "1024", "--jobs", "2", "--source", many, "--dest", new / "o.zip"]
    process = forked(run_and_exit, log, slow)
    wait_until(lambda: any(p.stat().st_size > 1_000_000 for p in new.glob(".tmp-*")))
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 1 and log.read_text().strip().endswith("Aborted!")
    assert "Traceback" not in log.read_text() and not list(new.iterdir())


def stop_after_one(source, dest, connection):
    steps = prepare_dataset(source, dest, (8, 8), jobs=2)
    next(steps)
    connection.send([child.pid for child in multiprocessing.active_children()])
    time.sleep(60)


def test_workers_do_not_outlive_a_killed_parent(many, tmp_path):
    ours, theirs = multiprocessing.Pipe()
    process = forked(stop_after_one, many, tmp_path / "o.zip", theirs)
    workers = ours.recv()
    assert len(workers) == 2 and all(is_alive(pid) for pid in workers)
    process.kill()
    process.join()
    wait_until(lambda: not any(is_alive(pid) for pid in workers))


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # its new parent may not have asked for it yet


@pytest.mark.parametrize("dest", ["o.zip", "out"])
def test_a_full_disk_is_one_line_and_leaves_nothing(many, tmp_path, dest):
    new = tmp_path / "new"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))  # as if the disk were full
    try:
        fails(
            f"cannot write {new / dest}: File too large; nothing was kept of it",
            *("--source", many, "--dest", new / dest, "--resolution", "128", "--jobs", "1"),
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(new.iterdir())


def test_what_was_there_survives_a_failure(many, tmp_path):
    (tmp_path / "o.zip").write_bytes(b"precious")
    message = "00.png is 9x9 RGB, a size that no network takes; use --resolution WxH"
    fails(message, "--source", many, "--dest", tmp_path / "o.zip")
    assert (tmp_path / "o.zip").read_bytes() == b"precious"


# Bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, expected",
    [
        (["--resolution", "8by8"], "got '8by8', expected width and height"),
        (["--resolution", "²x²"], "expected width and height"),
        (["--resolution", "0x8"], "expected width and height"),
        (["--resolution", "100x100"], "got 100x100 pixels, which no network takes"),
        (["--resolution", "32768"], "at most 16384"),
        (["--transform", "center-crop"], "--resolution: missing"),
        (["--transform", "squash"], "is not one of 'none'"),
        (["--transform", "center-crop-wide", "--resolution", "8x16"], "expected it to be wide"),
        (["--transform", "center-crop-tall", "--resolution", "16x8"], "expected it to be tall"),
        (["--labels", "json"], "has no labels in a dataset.json"),
        (["--labels", "xml"], "is not one of 'none'"),
        (["--format", "webp", "--mode", "gray"], "keeps RGB only"),
        (["--format", "jpeg"], "is not one of 'png', 'webp'"),
        (["--min-size", "-1"], "--min-size"),
        (["--min-size", "99"], "no picture of"),
        (["--jobs", "0"], "--jobs"),
    ],
)
def test_bad_options_are_one_line(pets, tmp_path, options, expected):
    arguments = ["--source", pets, "--dest", tmp_path / "o.zip", *options]
    if "99" in options:
        assert expected in run(*arguments).output
        assert run(*arguments).exit_code == 2
    else:
        fails(expected, *arguments)
    assert [p.name for p in tmp_path.iterdir()] == ["pets"]


def test_bad_places_are_one_line(pets, tmp_path):
    out = ["--dest", tmp_path / "o.zip"]
    fails("does not exist", "--source", tmp_path / "none", *out)
    (tmp_path / "text.txt").write_text("hello")
    fails("neither a folder nor a .zip", "--source", tmp_path / "text.txt", *out)
    (tmp_path / "empty").mkdir()
    fails("no image files found", "--source", tmp_path / "empty", *out)
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    fails("not a readable zip", "--source", tmp_path / "bad.zip", *out)
    fails("is not empty", "--source", pets, "--dest", pets)
    fails("is not empty", "--source", pets, "--dest", tmp_path / "text.txt")
    fails("cannot write", "--source", pets, "--dest", tmp_path / "text.txt" / "o.zip")
    source = zipped(tmp_path / "in.zip", {"a.png": png(noise(8, 8))})
    fails("is the source itself", "--source", source, "--dest", source)
    (tmp_path / "folder.zip").mkdir()
    fails("is a folder", "--source", pets, "--dest", tmp_path / "folder.zip")
    flat = ["--source", tmp_path / "pets" / "dog", *out, "--labels", "folders"]
    fails("no two sub-folders", *flat)


def test_python_refuses_what_the_command_line_refuses(pets, tmp_path):
    for option, value in (("labels", "x"), ("mode", "x"), ("image_format", "x"), ("jobs", 0),
                          ("min_size", -1), ("transform", "x")):  # fmt: skip
        with pytest.raises(ValueError, match=r"got .*expected"):
            list(prepare_dataset(pets, tmp_path / "o.zip", **{option: value}))


def test_sizes_without_a_resolution(tmp_path):
    save(tmp_path / "in" / "a.png", 10, 10)
    message = "a.png is 10x10 RGB, a size that no network takes"
    fails(message, "--source", tmp_path / "in", "--dest", tmp_path / "o.zip")
    save(tmp_path / "wide" / "a.png", 32, 16)
    kept, _ = prepare(tmp_path / "wide", tmp_path / "o.zip")
    assert kept["a.png"].shape == (3, 16, 32)
    save(tmp_path / "wide" / "b.png", 16, 16)
    message = "b.png is 16x16 RGB, but a.png is 32x16 RGB"
    fails(message, "--source", tmp_path / "wide", "--dest", tmp_path / "x.zip")


def test_help_has_an_example():
    output = run("--help").output
    assert "Example:" in output and "sg3 dataset --source" in output
