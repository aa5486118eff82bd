"""One folder through four doors, dataset, train, metrics, adapt: all see the same pixels.

The folders hold what phones, Macs, Windows, microscopes and network drives leave in them.
"""

import io
import json
import os

import numpy as np
import pytest
from dataset_files import index_of, noise, pixels_of, prepare
from PIL import Image

from nada.target_images import load_target_images
from sg3.data import ImageDataset
from sg3.metrics.real import choose_real_images
from sg3.training.config import TrainConfig
from sg3.training.dry_run import open_training_data

SIZE = 32
HIDDEN = ("__MACOSX/cats/._a.png", ".ipynb_checkpoints/a.png", "@eaDir/a.png", "cats/Thumbs.db")


def exif(orientation):
    tags = Image.Exif()
    tags[0x112] = orientation
    return tags


def stored(pixels, orientation):
    """The image as a camera stores it whose EXIF orientation shows `pixels`."""
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's transpositions, inverted
    return Image.fromarray(pixels).transpose(undo[orientation])


def color_folder(root):
    """Return {name: pixels} of the pictures that count."""
    expected = {}

    def add(name, image, shown, **options):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, **options)
        expected[name] = shown

    for turn in range(2, 9):
        shown = noise(SIZE, SIZE, seed=turn)
        add(f"cats/{turn}.png", stored(shown, turn), shown, exif=exif(turn))
    shown = noise(SIZE, SIZE, seed=10)
    add("cats/t.tif", stored(shown, 6), shown, tiffinfo={0x112: 6})
    add("cats/w.webp", stored(shown, 8), shown, lossless=True, exif=exif(8))
    few = Image.fromarray(noise(SIZE, SIZE, seed=11)).quantize(16)
    add("cats/palette.gif", few, np.asarray(few.convert("RGB")))
    photo = Image.fromarray(noise(8, 8, seed=12)).resize((SIZE, SIZE))
    add("cats/photo.jpg", photo, None, exif=exif(6))
    upright = Image.open(root / "cats/photo.jpg").transpose(Image.Transpose.ROTATE_270)
    expected["cats/photo.jpg"] = np.asarray(upright)
    # A class folder that is a link, to a folder that leads back.
    elsewhere = root.parent / "elsewhere"
    elsewhere.mkdir()
    shown = noise(SIZE, SIZE, seed=13)
    Image.fromarray(shown).save(elsewhere / "d.png")
    (elsewhere / "back").symlink_to(root)
    (root / "dogs").symlink_to(elsewhere)
    expected["dogs/d.png"] = shown
    for name in (*HIDDEN, "cats/IMG_1.xcf", "inner.zip", "cats/none"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"no picture")
    with open(os.fsencode(root) + b"/cats/\xe9\xff.png", "wb") as file:  # not UTF-8
        file.write(b"damaged")
    labels = [[name.replace("/", "\\"), int(name > "d")] for name in expected]
    (root / "dataset.json").write_text(json.dumps({"labels": labels}))
    return expected


def gray_folder(root):
    """Return {name: pixels} of pictures with 8, 16 and 32 bits per pixel."""
    root.mkdir()
    shown = noise(SIZE, SIZE, channels=1)
    made = {
        "8.png": shown,
        "16.png": shown.astype(np.uint16) << 8 | 77,
        "16.tif": shown.astype(np.uint16) << 8,
        "float.tif": shown.astype(np.float32) / 255,
        "int32.tif": shown.astype(np.int32),
    }
    for name, values in made.items():
        Image.fromarray(values).save(root / name)
    Image.fromarray(shown.astype(np.float32) * 100).save(root / "unknown-range.tif")
    Image.fromarray(shown.astype(np.int32) * 100).save(root / "unknown-range2.tif")
    return dict.fromkeys(sorted(made), shown)


@pytest.mark.parametrize("make", [color_folder, gray_folder])
def test_every_door_shows_the_same_pixels(make, tmp_path):
    root = tmp_path / "in"
    expected = make(root)
    names = sorted(expected)
    notes, told = [], []

    kept, dropped = prepare(root, tmp_path / "o.zip", tell=notes.append)
    assert sorted(kept) == names
    reasons = {"unreadable"} if make is color_folder else {"unknown range"}
    assert set(dropped.values()) == reasons
    doors = {"dataset": [pixels_of(tmp_path / "o.zip", kept[name].name) for name in names]}

    config = TrainConfig(
        data=str(root), outdir="o", cfg="stylegan3-t", batch=4, gamma=1, device="cpu"
    )
    train = open_training_data(config)
    real = choose_real_images(train, full=True, limit=None).open()
    assert isinstance(real, ImageDataset)
    for door, data in {"train": train, "metrics": real}.items():
        # Without a cache a damaged image is found, and replaced, when it is read.
        shown = dict(zip(data._names, data.images(range(len(data))), strict=False))
        if data.in_memory:
            shown = dict(zip(names, data.images(range(len(data))), strict=True))
        doors[door] = [shown[name].permute(1, 2, 0).squeeze().numpy() for name in names]

    targets = load_target_images(root, SIZE, told.append)
    rows = ((targets + 1) * 127.5).round().to(dtype=train.images([0]).dtype)
    rows = rows.permute(0, 2, 3, 1).numpy()
    doors["adapt"] = list(rows if make is color_folder else rows[..., 0])

    for door, images in doors.items():
        assert len(images) == len(names), door
        for name, image in zip(names, images, strict=True):
            assert np.array_equal(image, expected[name]), (door, name)
    if make is color_folder:
        labels = [int(name > "d") for name in names]
        assert [label for _, label in index_of(tmp_path / "o.zip")["labels"]] == labels
        data = ImageDataset(root, use_labels=False, cache="ram")
        assert data.unused_labels == ("classes", 2)
        said = [
            f"skipped {len(HIDDEN)} hidden or system files, first .ipynb_checkpoints/a.png",
            "not read: 1 link to folders that are listed already: dogs/back",
            "not read: 1 .xcf, 1 .zip, 1 without extension",
        ]
        assert notes == said == train.notes and told[: len(said)] == [f"{root}: {x}" for x in said]


@pytest.mark.parametrize("orientation", range(2, 9))
def test_orientations_swap_sizes_that_are_known_from_the_header(tmp_path, orientation):
    shown = noise(16, 8, seed=orientation)
    stored(shown, orientation).save(tmp_path / "a.png", exif=exif(orientation))
    data = ImageDataset(tmp_path, cache="none")
    assert data.image_shape == (3, 8, 16)
    assert np.array_equal(data.images([0])[0].permute(1, 2, 0).numpy(), shown)


def test_jpeg_is_decoded_at_the_size_that_is_needed(tmp_path):
    """Draft decoding: the same picture to within the filters' difference, upright."""
    from sg3.data.transforms import fit_image, to_mode, transform_image

    yy, xx = np.mgrid[0:480, 0:640]
    smooth = np.stack([yy * 255 / 480, xx * 255 / 640, 128 + 100 * np.sin(xx / 25)], -1)
    for orientation in (1, 6):
        buffer = io.BytesIO()
        Image.fromarray(smooth.astype(np.uint8)).save(
            buffer, "jpeg", quality=95, exif=exif(orientation)
        )
        opened = Image.open(buffer)
        small = fit_image(opened, "RGB", "center-crop", (64, 64))
        assert max(opened.size) == 320  # half: at least twice the result
        whole = Image.open(buffer)
        whole = to_mode(whole, "RGB").transpose(4) if orientation == 6 else whole
        exact = transform_image(whole, "center-crop", (64, 64))
        assert np.abs(np.asarray(small, int) - np.asarray(exact, int)).mean() < 1
