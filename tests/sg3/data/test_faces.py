"""Alignment of faces: squares cut along the eyes and the mouth of given landmarks."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from dataset_files import fails, pixels_of, prepare, save
from PIL import Image

from sg3.data import find_faces
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
    fails("--landmarks: expected with --align", *where, "--landmarks", marks)
    fails("expected a square size", *both)
    fails("expected 68 points", *both, "--resolution", "32x32")
    fails("leave it out", *both, "--resolution", "32x32", "--transform", "center-crop")
    marks.write_text(json.dumps({"x.png": landmarks((9, 9), 0).tolist()}))
    fails("its first name is x.png, the first image a.png", *both, "--resolution", "32x32")
    assert not (tmp_path / "o.zip").exists()


class Rectangle:
    """dlib's rectangle of a face."""

    def __init__(self, *sides):
        self.sides = sides

    def left(self):
        return self.sides[0]

    def top(self):
        return self.sides[1]

    def right(self):
        return self.sides[2]

    def bottom(self):
        return self.sides[3]

    def area(self):
        return (self.sides[2] - self.sides[0]) * (self.sides[3] - self.sides[1])


def stand_in(pixels_seen):
    """A detector that finds a small and a large face in bright images, and their landmarks."""

    def detect(pixels, upsampled):
        pixels_seen.append(pixels.shape)
        return [Rectangle(0, 0, 4, 4), Rectangle(40, 40, 60, 60)] * bool(pixels.mean() > 50)

    def predict(pixels, rectangle):
        assert pixels.shape == (256, 256, 3)
        middle = (rectangle.left() + rectangle.right()) / 2
        points = [SimpleNamespace(x=x, y=y) for x, y in landmarks((middle, middle), 30)]
        return SimpleNamespace(parts=lambda: points)

    return detect, predict, Rectangle


def test_the_largest_face_is_found(tmp_path, monkeypatch):
    """In a reduced image; the landmarks are those of the whole one."""
    seen = []
    monkeypatch.setattr(find_faces, "DETECT_PX", 128)
    monkeypatch.setattr(find_faces, "_tools", lambda: stand_in(seen))
    monkeypatch.setattr("sg3.data.prepare.model_path", lambda: None)
    photo = smooth(256)
    assert find_faces.find_face(photo).centre == pytest.approx((100, 100))
    assert seen == [(128, 128, 3)]
    (tmp_path / "in").mkdir()
    photo.save(tmp_path / "in" / "a.png")
    Image.new("RGB", (256, 256)).save(tmp_path / "in" / "b.png")
    kept, dropped = prepare(
        tmp_path / "in", tmp_path / "o.zip", (SIDE, SIDE), align="faces", jobs=1
    )
    assert list(kept) == ["a.png"] and dropped == {"b.png": "no face"}
    shown = pixels_of(tmp_path / "o.zip", kept["a.png"].name)
    expected = cut_rotated(photo, aligned_square(landmarks((100, 100), 30)), SIDE)
    np.testing.assert_array_equal(shown, np.asarray(expected))


def test_without_dlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(find_faces, "MODEL", "missing.dat")
    smooth(64).save(tmp_path / "a.png")
    options = ("--resolution", "64x64", "--align", "faces")
    where = ("--source", tmp_path, "--dest", tmp_path / "o.zip")
    fails("pip install 'sg3[faces]', or give --landmarks", *where, *options)
    assert not (tmp_path / "o.zip").exists()


def test_the_astronaut_upright_and_turned():
    """A photograph that scikit-image ships, with dlib's own detector and landmarks."""
    pytest.importorskip("dlib", reason="the extra faces is not installed")
    data = pytest.importorskip("skimage.data")
    photo = Image.fromarray(data.astronaut())
    upright = find_faces.find_face(photo)
    assert upright.centre == pytest.approx((225, 107), abs=6)
    assert 150 < upright.side < 200 and abs(upright.axis[1]) < 0.12
    turned = photo.rotate(-20, Image.Resampling.BICUBIC, center=upright.centre)
    found = find_faces.find_face(turned)
    tilt = [np.degrees(np.arctan2(*square.axis[::-1])) for square in (upright, found)]
    assert tilt[1] - tilt[0] == pytest.approx(20, abs=4)
    a, b = (
        np.asarray(cut_rotated(image, square, 64).convert("L"), float)
        for image, square in ((photo, upright), (turned, found))
    )
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.95
