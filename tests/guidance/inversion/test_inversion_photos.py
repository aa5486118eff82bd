"""Photos of any kind: read, found in, cut out, put back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from inversion_doubles import network
from PIL import Image

from guidance.inversion.crops import PhotoCrop, central_crop, cut, put_back
from guidance.inversion.locate import Likeness, choose_crop, find_crop, likeness_of
from sg3.data.photos import read_photo, to_target


@pytest.fixture(scope="module")
def T():
    return network("stylegan3")


def ramp(width: int, height: int) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=2).astype(np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "RGBA", "LA", "1", "I;16"])
def test_photos_of_every_mode_become_rgb(tmp_path, mode):
    if mode == "I;16":
        image = Image.fromarray(np.asarray(ramp(40, 30))[:, :, 0].astype(np.uint16) * 257)
    else:
        image = Image.merge("RGB", [ramp(40, 30).getchannel("R")] * 3).convert(mode)
    path = tmp_path / ("photo.tif" if mode == "CMYK" else "photo.png")
    image.save(path)
    photo = read_photo(path)
    assert photo.size == (40, 30) and photo.mode in ("RGB", "RGBA")
    red = np.asarray(photo.convert("RGB"))[:, :, 0].astype(int)
    assert red[:, -4:].mean() > 200 and red[:, :4].mean() < 60


def test_photos_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: stored rows are columns
    ramp(40, 30).save(tmp_path / "p.jpg", exif=exif, quality=95)
    photo = read_photo(tmp_path / "p.jpg")
    assert photo.size == (30, 40)
    red = np.asarray(photo)[:, :, 0].astype(int)
    assert red[-1].mean() > 230 and red[0].mean() < 25


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"x" * 40])
def test_other_files_are_one_line_errors(tmp_path, content):
    path = tmp_path / "p.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="photo") as error:
        read_photo(path)
    assert "\n" not in str(error.value)


def test_cut_short_small_and_missing_photos(tmp_path):
    ramp(300, 200).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    ramp(300, 8).save(tmp_path / "b.png")
    for name, message in (("a.png", "photo"), ("b.png", "300x8"), ("c.png", "not a file")):
        with pytest.raises(ValueError, match=message):
            read_photo(tmp_path / name)


def test_a_crop_cuts_what_its_corners_say():
    photo = ramp(200, 100)
    crop = PhotoCrop(120, 50, 40, 30)
    picture = np.asarray(cut(photo, crop, (20, 20))).astype(float)
    corners = crop.corners((20, 20))
    assert corners[0] == pytest.approx((120 - 20 * 1.3660 + 0, 50 - 20 * 0.3660), abs=0.1)
    # Red counts x: the first pixel lies half a step inside of the first corner.
    right, down = crop.axes((20, 20))
    place = corners[0] + (right + down) / 2
    assert picture[0, 0, 0] == pytest.approx(place[0] * 255 / 200, abs=2)
    assert picture[0, 0, 1] == pytest.approx(place[1] * 255 / 100, abs=4)


def test_the_central_crop_is_that_of_the_published_projector():
    photo = ramp(90, 60)
    assert central_crop(photo.size, (32, 32)) == PhotoCrop(45, 30, 60)
    expected = photo.crop((15, 0, 75, 60)).resize((32, 32), Image.Resampling.LANCZOS)
    assert np.array_equal(
        np.asarray(cut(photo, PhotoCrop(45, 30, 60), (32, 32))), np.asarray(expected)
    )
    assert central_crop((60, 90), (32, 16)) == PhotoCrop(30, 45, 60)


@pytest.mark.parametrize(
    "crop", [PhotoCrop(80, 60, 50), PhotoCrop(80, 60, 50, 33), PhotoCrop(5, 5, 40, -20)]
)
def test_a_crop_fits_back(crop):
    photo = ramp(160, 120)
    picture = np.asarray(cut(photo, crop, (64, 64)))
    result = np.asarray(put_back(photo, crop, picture)).astype(int)
    away = np.abs(result - np.asarray(photo).astype(int))
    assert away.max() <= 12 and away.mean() < 0.5
    red = np.asarray(put_back(photo, crop, np.full([64, 64, 3], (255, 0, 0), np.uint8)))
    x, y = round(crop.x), round(crop.y)
    assert tuple(red[y, x]) == (255, 0, 0)
    assert np.array_equal(red[-1], np.asarray(photo)[-1])  # far away nothing changes
    assert red.shape == (120, 160, 3)


def test_a_whole_photo_is_replaced_whole_and_keeps_its_transparency():
    photo = ramp(64, 64)
    photo.putalpha(77)
    result = np.asarray(put_back(photo, PhotoCrop(32, 32, 64), np.full([32, 32, 3], 9, np.uint8)))
    assert result.shape == (64, 64, 4)
    assert (result[..., 3] == 77).all() and (result[..., :3] == 9).all()


def test_targets_have_the_channels_of_the_network():
    for channels in (1, 3, 4):
        target = to_target(ramp(8, 6), channels)
        assert target.shape == (1, channels, 6, 8)
        assert target.min() >= -1 and target.max() <= 1


def blob_photo(x: float, y: float, size: float, degrees: float) -> tuple[Image.Image, np.ndarray]:
    rng = np.random.RandomState(3)
    picture = np.repeat(np.repeat(rng.randint(0, 255, [6, 6, 3], dtype=np.uint8), 8, 0), 8, 1)
    noise = Image.fromarray(rng.randint(0, 255, [5, 6, 3], dtype=np.uint8))
    background = noise.resize((220, 180), Image.Resampling.BICUBIC)
    return put_back(background, PhotoCrop(x, y, size, degrees), picture), picture


@pytest.mark.slow
@pytest.mark.parametrize("degrees", [0.0, 10.0])
def test_a_known_image_is_found_in_a_photo(degrees):
    photo, picture = blob_photo(130, 80, 90, degrees)
    from guidance.inversion.locate import _unit_contrast

    small = to_target(Image.fromarray(picture).resize((16, 16), Image.Resampling.BOX), 3)
    likeness = Likeness((16, 16), _unit_contrast(small.flatten(1), (16, 16)))
    found = find_crop(likeness, photo, (64, 64))
    assert math.hypot(found.x - 130, found.y - 80) < 6
    assert found.size == pytest.approx(90, rel=0.08)
    assert found.degrees == pytest.approx(degrees, abs=5)
    assert find_crop(likeness, photo, (64, 64)) == found


@pytest.mark.slow
def test_a_photo_cropped_for_the_network_is_taken_whole(T, monkeypatch):
    from guidance.inversion.locate import _unit_contrast

    photo, picture = blob_photo(130, 80, 90, 0)
    small = to_target(Image.fromarray(picture).resize((16, 16), Image.Resampling.BOX), 3)
    likeness = Likeness((16, 16), _unit_contrast(small.flatten(1), (16, 16)))
    monkeypatch.setattr("guidance.inversion.locate.likeness_of", lambda *args: likeness)
    whole = Image.fromarray(picture).resize((96, 96), Image.Resampling.BICUBIC)
    assert choose_crop(T, whole) == central_crop((96, 96), (32, 32))
    assert math.hypot(choose_crop(T, photo).x - 130, choose_crop(T, photo).y - 80) < 6


def test_likeness_of_a_network(T, monkeypatch):
    monkeypatch.setattr("guidance.inversion.locate.IMAGES", 24)
    likeness = likeness_of(T)
    assert likeness.size == (16, 16) and len(likeness.images) == 24
    assert likeness.cost(torch.rand(5, 3 * 16 * 16)).shape == (5,)
