"""Folders and zips as found in practice: sub-folder labels, image modes, damage, bombs."""

import io
import json
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from sg3.data import ImageDataset, open_dataset
from sg3.data import dataset as dataset_module
from sg3.data.decoding import DamagedImage, array_shape, decode, to_array
from sg3.data.source import ImageSource


def save(path, size=(8, 8), mode="RGB", seed=0, **options):
    random = np.random.RandomState(seed)
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    pixels = random.randint(0, 255, [size[1], size[0], channels], np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[:, :, 0] if mode == "L" else pixels).save(path, **options)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


@pytest.fixture
def classes(tmp_path):
    for i, name in enumerate(["dog/1.png", "cat/deep/2.png", "cat/3.png", "owl/4.png"]):
        save(tmp_path / "pets" / name, seed=i)
    return tmp_path / "pets"


def zipped(folder):
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.rglob("*.*"):
            archive.write(file, file.relative_to(folder).as_posix())
    return path


def test_labels_from_sub_folders(classes):
    for path in (classes, zipped(classes)):
        data = open_dataset(path, use_labels=True)
        assert data.class_names == ["cat", "dog", "owl"] and data.label_dim == 3
        # cat/3, cat/deep/2, dog/1, owl/4
        assert data.labels(range(4)).argmax(1).tolist() == [0, 0, 1, 2]
        assert not open_dataset(path).has_labels
    save(classes / "stray.png")
    with pytest.raises(ValueError, match="two or more sub-folders that contain all images"):
        open_dataset(classes, use_labels=True)


def test_class_names_from_dataset_json(classes):
    names = ["dog/1.png", "cat/deep/2.png", "cat/3.png", "owl/4.png"]
    labels = [[name, i % 2] for i, name in enumerate(names)]
    index = {"labels": labels, "classes": ["odd", "even"]}
    (classes / "dataset.json").write_text(json.dumps(index))
    data = open_dataset(classes, use_labels=True)
    assert data.class_names == ["odd", "even"] and data.label_dim == 2
    (classes / "dataset.json").write_text(json.dumps(index | {"classes": ["one"]}))
    with pytest.raises(ValueError, match="list of at least 2 names"):
        open_dataset(classes, use_labels=True)


@pytest.mark.parametrize("cache", ["ram", "none"])
@pytest.mark.parametrize("mode, channels", [("RGB", 3), ("RGBA", 4), ("L", 1)])
def test_shapes_and_flips(tmp_path, mode, channels, cache):
    expected = [save(tmp_path / f"{i}.png", (6, 4), mode, seed=i) for i in range(3)]
    data = open_dataset(tmp_path, max_size=2, xflip=True, yflip=True, random_seed=1, cache=cache)
    assert data.image_shape == (channels, 4, 6) and data.resolution == (4, 6) and len(data) == 8
    kept = [i for i in range(3) if any(torch.equal(expected[i], data[j][0]) for j in (0, 1))]
    two = torch.stack([expected[i] for i in kept])
    flips = [two, two.flip(3), two.flip(2), two.flip(2, 3)]
    assert torch.equal(data.images(range(8)), torch.cat(flips))


def test_random_labels_are_those_of_items(classes):
    data = open_dataset(classes, use_labels=True)
    labels = data.random_labels(np.random.RandomState(4), 50)
    drawn = np.random.RandomState(4).randint(4, size=50)
    assert torch.equal(labels, data.labels(drawn))
    assert open_dataset(classes).random_labels(np.random.RandomState(4), 5).shape == (5, 0)


@pytest.mark.parametrize("alone", [1, 512])
@pytest.mark.parametrize("cache", ["ram", "none"])
def test_damaged_files_are_skipped(tmp_path, cache, alone, monkeypatch):
    monkeypatch.setattr(dataset_module, "DECODE_TOGETHER", 2)
    monkeypatch.setattr(dataset_module, "DECODE_ALONE", alone)
    monkeypatch.setattr("os.cpu_count", lambda: 2)  # with and without processes
    kept = [save(tmp_path / f"{i}.png", seed=i) for i in range(1, 4)]
    (tmp_path / "0.png").write_bytes(b"no image")  # the first
    (tmp_path / "00.png").write_bytes(b"")
    whole = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(whole[: len(whole) // 2])  # an intact header
    data = open_dataset(tmp_path, cache=cache)
    assert len(data) == (2 if cache == "ram" else 3)
    images = data.images(range(len(data)))
    assert torch.equal(images[0], kept[0]) and torch.equal(images[-1], kept[2])
    assert cache == "ram" or torch.equal(images[1], kept[2])  # replaced by the next one
    assert data.num_skipped == 3
    assert sorted(line.split(":")[0] for line in data.skipped) == ["0.png", "00.png", "2.png"]
    assert "0.png: not an image that can be identified" in data.skipped


def test_nothing_readable_is_one_line(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"none of the images .* first a\.png: not an image"):
        open_dataset(tmp_path)
    save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:70])
    with pytest.raises(ValueError, match="none of the images can be decoded"):
        open_dataset(tmp_path, cache="ram")
    with pytest.raises(ValueError, match="is the disk still there"):
        open_dataset(tmp_path, cache="none").images([0])


def test_headers_of_large_datasets_are_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_module, "CHECK_ALL", 10)
    monkeypatch.setattr(dataset_module, "CHECK_SOME", 3)
    for i in range(12):
        save(tmp_path / f"{i:02d}.png")
    read = []
    monkeypatch.setattr(
        ImageSource, "image_shape", lambda self, name: read.append(name) or (3, 8, 8)
    )
    ImageDataset(tmp_path, cache="none")
    assert sorted(read) == ["00.png", "06.png", "11.png"]


def test_memory_is_shared_between_processes(monkeypatch):
    alone = dataset_module._memory_bytes()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert dataset_module._memory_bytes() == alone // 8


def test_zip_bomb_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr("sg3.data.source.MAX_FILE_BYTES", 100_000)
    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "png")
    with zipfile.ZipFile(tmp_path / "d.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", image.getvalue() + bytes(200_000))
        archive.writestr("b.png", image.getvalue())
    data = open_dataset(tmp_path / "d.zip", cache="ram")
    assert len(data) == 1 and "bytes, expected at most 100000" in data.skipped[0]


def test_pixel_bomb_is_not_decoded():
    """A header that claims 60000×60000 pixels allocates no memory."""

    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000)))
    with pytest.raises(DamagedImage, match="decompression bomb"):
        decode(data)


def test_eps_is_not_decoded():
    """Pillow runs Ghostscript for EPS, whatever the file's extension is."""
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    assert Image.open(io.BytesIO(data)).format == "EPS"
    with pytest.raises(DamagedImage, match="not an image"):
        decode(data)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_bytes_raise_damaged_image(tmp_path):
    """Whichever bytes are wrong, the result is an image or DamagedImage."""
    random, formats = np.random.RandomState(0), ("png", "jpeg", "webp", "gif", "bmp", "tiff")
    for kind in formats:
        buffer = io.BytesIO()
        Image.fromarray(random.randint(0, 255, [16, 16, 3], np.uint8)).save(buffer, kind)
        for _ in range(60):
            data = bytearray(buffer.getvalue())
            for place in random.randint(len(data), size=4):
                data[place] = random.randint(256)
            try:
                assert decode(bytes(data[: random.randint(len(data)) + 1])).dtype == np.uint8
            except DamagedImage as error:
                assert "\n" not in str(error)


def test_shape_is_known_from_the_header():
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F"):
        image = Image.new("RGB", (5, 3)).convert(mode)
        assert to_array(image).shape == array_shape(image), mode


def test_heic_is_upright(tmp_path):
    pytest.importorskip("pillow_heif")
    image = Image.new("RGB", (64, 32), (10, 20, 200))
    image.paste((250, 0, 0), (0, 0, 32, 16))
    exif = Image.Exif()
    exif[0x112] = 6  # a quarter turn clockwise
    image.save(tmp_path / "IMG_1.HEIC", quality=95, exif=exif.tobytes())
    data = open_dataset(tmp_path, cache="none")
    assert data.image_shape == (3, 64, 32)
    pixels = data.images([0])[0].int()
    assert (pixels[:, 2, -3] - torch.tensor([250, 0, 0])).abs().max() < 8


def test_twelve_bits_in_sixteen_are_told(tmp_path):
    ramp = np.linspace(0, 4095, 64).reshape(8, 8).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    for cache in ("ram", "none"):
        (note,) = open_dataset(tmp_path, cache=cache).notes
        assert note.startswith("no image is brighter than 15 of 255: if they have 12 bits")
    Image.fromarray(ramp * 16).save(tmp_path / "a.png")
    assert open_dataset(tmp_path).notes == []
