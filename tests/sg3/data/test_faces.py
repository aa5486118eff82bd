"""Alignment of faces: squares cut along the eyes and the mouth of given landmarks."""

import json

import numpy as np
import pytest
from dataset_files import fails, pixels_of, prepare, save
from PIL import Image

from sg3.data.faces import FaceSquare, aligned_square, cut_rotated

SIDE = 64


def smooth(size, seed=0):
    small = np.random.RandomState(seed).randint(0, 256, [6, 6, 3], np.uint8)
    return Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)


def landmarks(centre, angle, side=SIDE):
    """68 points of a face whose square has this centre, rotation in degrees, and side."""
    across = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
    down = np.array([-across[1], across[0]])
    a, b = side / 4 * across, side / 8 * down
    eyes = np.array(centre) - 0.1 * b
    points = np.zeros([68, 2])
    points[36:42], points[42:48] = eyes - a / 2, eyes + a / 2
    points[48], points[54] = eyes + b - across, eyes + b + across
    return points


@pytest.mark.parametrize("angle", [0, 30, -100])
def test_square_and_pixels_follow_the_landmarks(angle):
    photo = smooth(256)
    square = aligned_square(landmarks((120, 140), angle))
    assert square.centre == pytest.approx((120, 140)) and square.side == pytest.approx(SIDE)
    turned = photo.rotate(angle, Image.Resampling.BICUBIC, center=(120, 140))
    expected = np.asarray(turned.crop((120 - 32, 140 - 32, 120 + 32, 140 + 32)), int)
    found = np.asarray(cut_rotated(photo, square, SIDE), int)
    assert np.abs(found - expected).mean() < 1 and np.abs(found - expected).max() < 12


def test_five_points_do_too():
    points = landmarks((120, 140), 30)
    five = np.stack([points[36], points[42], points[30], points[48], points[54]])
    a, b = aligned_square(points), aligned_square(five)
    assert a.centre == pytest.approx(b.centre) and a.axis == pytest.approx(b.axis)
    with pytest.raises(ValueError, match="expected 68 points or 5"):
        aligned_square(points[:7])


def test_faces_larger_than_the_result_are_reduced_and_mirrored_outside():
    photo = smooth(256)
    square = aligned_square(landmarks((100, 100), 0, side=240))
    small = np.asarray(cut_rotated(photo, square, 60), int)
    expected = np.pad(np.asarray(photo), [(20, 0), (20, 0), (0, 0)], mode="symmetric")[:240, :240]
    expected = np.asarray(Image.fromarray(expected).resize((60, 60), Image.Resampling.LANCZOS), int)
    assert np.abs(small - expected).mean() < 1.5
    with pytest.raises(ValueError, match="too far outside"):
        cut_rotated(photo, FaceSquare((900, 100), 64), 16)


@pytest.mark.parametrize("align", ["faces", "faces-unaligned"])
def test_dataset_of_aligned_faces(tmp_path, align):
    photo = smooth(256)
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png", "none.png"):
        photo.save(tmp_path / "in" / name)
    table = {
        "./a.png": landmarks((120, 140), 30).tolist(),
        "B.png": landmarks((99, 90), 0).tolist(),
    }
    (tmp_path / "marks.json").write_text(json.dumps(table))
    options = {"align": align, "landmarks": tmp_path / "marks.json"}
    kept, dropped = prepare(tmp_path / "in", tmp_path / "o.zip", (SIDE, SIDE), **options)
    assert list(kept) == ["a.png", "b.png"] and dropped == {"none.png": "no landmarks"}
    shown = pixels_of(tmp_path / "o.zip", kept["a.png"].name)
    aligned = np.asarray(cut_rotated(photo, aligned_square(table["./a.png"]), SIDE))
    assert shown.shape == (SIDE, SIDE, 3) and np.array_equal(shown, aligned) == (align == "faces")
    prepare(tmp_path / "in", tmp_path / "p.zip", (SIDE, SIDE), jobs=2, **options)
    assert (tmp_path / "o.zip").read_bytes() == (tmp_path / "p.zip").read_bytes()


def test_wrong_alignments_are_one_line(tmp_path):
    save(tmp_path / "in" / "a.png", 32, 32)
    marks = tmp_path / "marks.json"
    marks.write_text('{"a.png": [[1, 2]]}')
    where = ("--source", tmp_path / "in", "--dest", tmp_path / "o.zip")
    both = (*where, "--align", "faces", "--landmarks", marks)
    fails("--align, --landmarks: got one of them", *where, "--align", "faces")
    fails("expected a square size", *both)
    fails("expected 68 points", *both, "--resolution", "32x32")
    fails("leave it out", *both, "--resolution", "32x32", "--transform", "center-crop")
    marks.write_text(json.dumps({"x.png": landmarks((9, 9), 0).tolist()}))
    fails("its first name is x.png, the first image a.png", *both, "--resolution", "32x32")
    assert not (tmp_path / "o.zip").exists()
