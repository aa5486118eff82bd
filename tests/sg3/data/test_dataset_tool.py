"""`sg3 dataset`: folders and zips, labels, dropped images, invalid options."""

import json
import struct
import warnings
import zipfile
import zlib

import numpy as np
import program
import pytest
from dataset_files import fails, index_of, noise, pixels_of, png, prepare, run, save, zipped
from PIL import Image

from sg3.data import ImageDataset, formats
from sg3.data.prepare import prepare_dataset

# Folders and zips ----------------------------------------------------------------------------


@pytest.fixture
def pets(tmp_path):
    for i, name in enumerate(("dog/1.png", "cat/deep/2.png", "cat/3.png", "owl/4.png")):
        save(tmp_path / "pets" / name, seed=i)
    return tmp_path / "pets"


def test_a_prepared_zip_is_a_dataset(pets, tmp_path):
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


def test_a_zip_gives_the_same_as_its_folder(pets, tmp_path):
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
    result = run("--source", pets, "--dest", tmp_path / "o.zip", "--overwrite")
    assert "no labels were written: 4 images have none" in result.stderr
    kept, dropped = prepare(pets, tmp_path / "o.zip", labels="json")
    assert list(kept) == ["stray.png"] and set(dropped.values()) == {"no label"}
    assert index_of(tmp_path / "o.zip")["labels"] == [["00000/img00000004.png", 7]]
    prepare(pets, tmp_path / "o.zip", labels="none")
    assert index_of(tmp_path / "o.zip") == {"labels": None}


def test_min_size_and_max_images(pets, tmp_path):
    save(pets / "cat" / "small.png", 9, 7)
    kept, dropped = prepare(pets, tmp_path / "o.zip", (8, 8), min_size=8)
    assert len(kept) == 4 and dropped == {"cat/small.png": "too small"}
    kept, dropped = prepare(pets, tmp_path / "o.zip", (8, 8), max_images=3)
    assert list(kept) == ["cat/3.png", "cat/deep/2.png", "cat/small.png"]


def test_file_sizes_are_reported(pets, tmp_path):
    kept, _ = prepare(pets, tmp_path / "o.zip")
    with zipfile.ZipFile(tmp_path / "o.zip") as archive:
        for source, item in kept.items():
            assert item.bytes == archive.getinfo(item.name).file_size
            assert item.source_bytes == (pets / source).stat().st_size
    out = tmp_path / "64.zip"
    result = run("--source", pets, "--dest", out, "--resolution", "64")
    total = sum(i.file_size for i in zipfile.ZipFile(out).infolist()[:-1])
    assert (
        f"{total / 1e3:.1f} kB as png" in result.output
        and "--format webp is smaller" in result.output
    )


def test_an_existing_zip_is_replaced_only_on_request(pets, tmp_path):
    out = tmp_path / "o.zip"
    out.write_bytes(b"precious")
    fails("exists; --overwrite replaces it", "--source", pets, "--dest", out)
    assert out.read_bytes() == b"precious"
    assert run("--source", pets, "--dest", out, "--overwrite").exit_code == 0
    assert zipfile.is_zipfile(out)


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
    images = [f"deep/out/00000/img{i:08d}.png" for i in numbers]
    assert files == sorted([*images, "deep/out/dataset.json", "in.zip"])


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
    """Return a PNG header for `side` × `side` pixels without any pixels."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_bombs_are_dropped(pets, tmp_path, monkeypatch):
    (pets / "huge.png").write_bytes(huge_png(20_000))
    (pets / "large.png").write_bytes(huge_png(11_000))  # Pillow only warns; truncated too
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
    with pytest.raises(
        ValueError, match=r"no image in .* can be used \(1 unreadable; first a\.png: "
    ):
        prepare(source, tmp_path / "o.zip")


def test_wrong_sizes_in_a_zip_bound_decompression(tmp_path):
    data = b"\0" * (3 << 20)
    source = zipped(tmp_path / "in.zip", {"a.png": png(noise(8, 8)), "b.png": data})
    content = source.read_bytes()
    lying = content.replace(struct.pack("<I", len(data)), struct.pack("<I", 500))
    assert lying != content
    source.write_bytes(lying)
    assert prepare(source, tmp_path / "o.zip")[1] == {"b.png": "unreadable"}


# Bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, expected",
    [
        (["--resolution", "8by8"], "got '8by8', expected width and height"),
        (["--resolution", "²x²"], "expected width and height"),
        (["--resolution", "0x8"], "expected width and height"),
        (["--resolution", "100x100"], "got 100x100 pixels, which no network supports"),
        (["--resolution", "32768"], "at most 16384"),
        (
            ["--transform", "center-crop"],
            "--resolution: got none, expected a size for --transform center-crop",
        ),
        (["--transform", "squash"], "is not one of 'none'"),
        (
            ["--transform", "center-crop-wide", "--resolution", "8x16"],
            "--resolution: got 8x16, expected width at least height",
        ),
        (
            ["--transform", "center-crop-tall", "--resolution", "16x8"],
            "--resolution: got 16x8, expected height at least width",
        ),
        (["--labels", "json"], "has no labels in a dataset.json"),
        (["--labels", "xml"], "is not one of 'none'"),
        (
            ["--format", "webp", "--mode", "gray"],
            "--format: got webp, which stores RGB only, for --mode gray",
        ),
        (["--format", "jpeg"], "is not one of 'png', 'webp'"),
        (["--min-size", "-1"], "--min-size: got -1, expected at least 0"),
        (["--min-size", "99"], "no image in"),
        (["--max-images", "0"], "--max-images: got 0, expected at least 1"),
        (["--jobs", "0"], "--jobs: got 0, expected at least 1"),
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
    fails(f"--source: {tmp_path / 'none'} does not exist", "--source", tmp_path / "none", *out)
    (tmp_path / "text.txt").write_text("hello")
    fails("expected a folder of images, a .zip, cifar-10", "--source", tmp_path / "text.txt", *out)
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
    fails("does not have two sub-folders", *flat)


def test_python_rejects_what_the_command_line_rejects(pets, tmp_path):
    for option, value in (("labels", "x"), ("mode", "x"), ("image_format", "x"), ("jobs", 0),
                          ("max_images", 0), ("min_size", -1), ("transform", "x")):  # fmt: skip
        with pytest.raises(ValueError, match=rf"^{option}: got .*expected"):
            list(prepare_dataset(pets, tmp_path / "o.zip", **{option: value}))


def test_sizes_without_a_resolution(tmp_path):
    save(tmp_path / "in" / "a.png", 10, 10)
    message = "a.png is 10x10 RGB, a size that no network supports"
    fails(message, "--source", tmp_path / "in", "--dest", tmp_path / "o.zip")
    save(tmp_path / "wide" / "a.png", 32, 16)
    kept, _ = prepare(tmp_path / "wide", tmp_path / "o.zip")
    assert kept["a.png"].shape == (3, 16, 32)
    save(tmp_path / "wide" / "b.png", 16, 16)
    message = "b.png is 16x16 RGB, but a.png is 32x16 RGB"
    fails(message, "--source", tmp_path / "wide", "--dest", tmp_path / "x.zip")


def test_the_example_in_the_help_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program.run_examples("dataset")
    assert len(ImageDataset("photos.zip", resolution=64)) == 10


def test_progress_is_a_bar_on_request(pets, tmp_path, capsys):
    prepare(pets, tmp_path / "o.zip")
    assert capsys.readouterr().err == ""
    prepare(pets, tmp_path / "o.zip", progress=True)
    assert "prepare: 100%" in capsys.readouterr().err


# Deep images ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype, most, shown",
    [
        (np.float32, 1, (0, 255)),
        (np.float32, 255, "floats from 0 to 255, expected 0 to 1"),
        (np.int32, 255, (0, 255)),
        (np.int32, 65535, "32-bit integers from 0 to 65535, expected 0 to 255"),
        (np.uint16, 4095, (0, 15)),
        (np.uint16, 65535, (0, 255)),
    ],
)
def test_ranges_of_deep_images(tmp_path, dtype, most, shown):
    ramp = np.linspace(0, most, 64).reshape(8, 8).astype(dtype)
    (tmp_path / "in").mkdir()
    Image.fromarray(ramp).save(tmp_path / "in" / "a.tif")
    save(tmp_path / "in" / "b.png", channels=1)
    notes = []
    items = list(prepare_dataset(tmp_path / "in", tmp_path / "o.zip", jobs=1, tell=notes.append))
    if isinstance(shown, str):
        assert (items[0].reason, items[0].detail) == ("unknown range", shown)
    else:
        pixels = pixels_of(tmp_path / "o.zip", items[0].name)
        assert (pixels.min(), pixels.max()) == shown
    dark = ["1 images of 16 bits never exceed 4095: if they have 12 bits, they are too dark; "]
    assert [note[: len(dark[0])] for note in notes] == (dark if most == 4095 else [])
