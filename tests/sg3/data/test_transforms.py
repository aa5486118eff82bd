"""Transforms and modes of images that `sg3 dataset` prepares."""

import numpy as np
import pytest
from dataset_files import noise, pixels_of, prepare, save
from PIL import Image

from sg3.data import ImageDataset
from sg3.data.transforms import Dropped, check_size, to_mode, transform_image


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


def test_center_crop_tall_is_wide_transposed():
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
def test_images_that_do_not_fill_the_size_are_dropped(width, height, transform, size, reason):
    with pytest.raises(Dropped) as error:
        transform_image(Image.new("L", (width, height)), transform, size)
    assert error.value.reason == reason and f"{width}x{height}" in error.value.detail


def test_sizes_that_networks_support():
    for height, width in ((4, 4), (1024, 1024), (192, 256), (576, 1024), (32, 16)):
        check_size(height, width)
    for height, width in ((100, 100), (96, 96), (100, 60), (2, 2), (1 << 15, 1 << 15), (0, 8)):
        with pytest.raises(ValueError, match=f"got {width}x{height} pixels, which no network"):
            check_size(height, width)


def test_modes_of_one_image():
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


def test_mode_auto_is_gray_if_all_images_are(tmp_path):
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
    exif[0x112] = 6  # rotate by 90 degrees clockwise
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "0.png", exif=exif)
    kept, _ = prepare(tmp_path / "in", tmp_path / "o.zip")
    rotated = pixels_of(tmp_path / "o.zip", kept["0.png"].name)
    assert np.array_equal(rotated, np.rot90(pixels, -1))
    frames = [Image.new("L", (8, 4), value) for value in (10, 200)]
    frames[0].save(tmp_path / "in" / "1.gif", save_all=True, append_images=frames[1:])
    kept, _ = prepare(tmp_path / "in", tmp_path / "o.zip", (8, 8))
    assert (pixels_of(tmp_path / "o.zip", kept["1.gif"].name) == 10).all()
