"""Near-duplicates, the page of dropped images, and sets of odd sizes."""

import numpy as np
import pytest
from dataset_files import fails, prepare, run, save
from PIL import Image

from sg3.data.duplicates import NearDuplicates, fingerprint


def picture(seed, size=64):
    """Smooth random colors, as photographs have."""
    small = np.random.RandomState(seed).randint(0, 256, [5, 5, 3], np.uint8)
    return Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)


@pytest.fixture
def copies(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for seed in range(4):
        picture(seed).save(folder / f"{seed}.png")
    picture(0).save(folder / "recompressed.jpg", quality=30)
    picture(1).resize((48, 48)).resize((64, 64)).save(folder / "resized.png")
    picture(2).point(lambda value: value * 0.95 + 6).save(folder / "retouched.png")
    picture(3).transpose(Image.Transpose.ROTATE_180).save(folder / "turned.png")
    return folder


def test_near_duplicates_are_dropped_or_counted(copies, tmp_path):
    kept, dropped = prepare(copies, tmp_path / "o.zip", near_duplicates="drop")
    assert sorted(kept) == ["0.png", "1.png", "2.png", "3.png", "turned.png"]
    assert set(dropped.values()) == {"near-duplicate"}
    notes = []
    options = {"near_duplicates": "report", "tell": notes.append}
    kept, dropped = prepare(copies, tmp_path / "o.zip", **options)
    assert len(kept) == 8 and not dropped
    assert notes == ["3 images with a near-duplicate, first recompressed.jpg looks like 0.png"]


def test_unrelated_pictures_are_no_near_duplicates():
    seen = NearDuplicates()
    for seed in range(1500):  # more than one block of memory
        look = fingerprint(picture(seed, 16))
        assert seen.find(look) is None
        seen.add(str(seed), look)
    assert seen.find(fingerprint(picture(1400, 64))) == "1400"
    flat = [fingerprint(Image.new("RGB", (8, 8), color)) for color in ("black", "white")]
    seen.add("black", flat[0])
    assert seen.find(flat[0]) == "black" and seen.find(flat[1]) is None


def test_report_shows_what_was_dropped(copies, tmp_path):
    save(copies / "<small>.png", 8, 8)
    (copies / "damaged.png").write_bytes(b"no image")
    (copies / "IMG_1.xcf").write_bytes(b"")
    page = tmp_path / "report.html"
    where = ("--source", copies, "--dest", tmp_path / "o.zip", "--report", page)
    run(*where, "--min-size", 32, "--near-duplicates", "drop")
    text = page.read_text()
    assert "<h2>near-duplicate: 3</h2>" in text and "looks like 0.png" in text
    assert "<h2>too small: 1</h2>" in text and "&lt;small&gt;.png" in text
    assert "<h2>unreadable: 1</h2>" in text and "<p>not read: 1 .xcf</p>" in text
    assert text.count("data:image/jpeg;base64,") == 4 and "5 of 10 images kept" in text
    assert "http" not in text
    fails("--near-duplicates", *where, "--near-duplicates", "remove")


@pytest.mark.parametrize("count", [1, 3])
def test_sets_of_few_images(tmp_path, count):
    from sg3.data import ImageDataset, open_loader

    for i in range(count):
        save(tmp_path / "in" / f"{i}.png", seed=i)
    prepare(tmp_path / "in", tmp_path / "o.zip", near_duplicates="report")
    data = ImageDataset(tmp_path / "o.zip")
    loader = open_loader(data, batch_size=8)  # larger than the set
    images, _ = loader.next()
    loader.close()
    assert images.shape == (8, 3, 8, 8) and data.describe().startswith(f"{count} image")


def test_strips_are_one_line(tmp_path):
    save(tmp_path / "in" / "a.png", width=64, height=1)
    where = ("--source", tmp_path / "in", "--dest", tmp_path / "o.zip", "--overwrite")
    fails("64x1 RGB, a size that no network supports", *where)
    for transform in ("none", "center-crop"):
        run(*where, "--resolution", "8x8", "--transform", transform)
    wide = run(*where, "--resolution", "8x8", "--transform", "center-crop-wide")
    assert wide.exit_code == 2 and "(1 wrong shape; first a.png: 64x1 pixels" in wide.output
