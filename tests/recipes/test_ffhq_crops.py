"""The crops of FFHQ-U: squares around faces, metadata, comparison with the published ones."""

import json
import math

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from recipes import ffhq_unaligned_crops as crops
from sg3.data import faces as squares


def face(angle=0.0, scale=40.0, centre=(300.0, 200.0)):
    """68 landmarks: eyes at (∓1, 0), corners of the mouth at (∓0.7, 2), rotated clockwise."""
    points = np.zeros([68, 2])
    around = np.array([(math.cos(t), math.sin(t)) for t in np.arange(6) * math.pi / 3]) * 0.2
    eye = np.array([1.0, 0])
    points[36:42], points[42:48] = around - eye, around + eye
    points[48], points[54] = (-0.7, 2), (0.7, 2)
    cos, sin = math.cos(angle), math.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]]) * scale + centre


@pytest.mark.parametrize("angle", [0, 0.3, -0.7])
def test_aligned_square_follows_the_face(angle):
    square = squares.aligned_square(face(angle))
    assert square.side == pytest.approx(8 * 40)  # 4·|a| = 8 scales, 3.6·|b| = 7.2
    assert square.axis == pytest.approx((math.cos(angle), math.sin(angle)))
    below = 0.1 * 2 * 40
    expected = (300 - below * math.sin(angle), 200 + below * math.cos(angle))
    assert square.centre == pytest.approx(expected)
    # In coordinates of the square all faces are equal.
    upright = squares.aligned_square(face(0))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    own = (square.corners() - [300, 200]) @ turn
    np.testing.assert_allclose(own, upright.corners() - [300, 200], atol=1e-9)


def test_corners_are_in_the_published_order():
    corners = squares.FaceSquare((50, 60), 20).corners()
    np.testing.assert_allclose(corners, [[40, 50], [40, 70], [60, 70], [60, 50]])


def test_long_face_is_measured_from_eyes_to_mouth():
    points = face()
    points[[48, 54], 1] += 40  # |b| = 3 scales
    assert squares.aligned_square(points).side == pytest.approx(3.6 * 3 * 40)


def test_unaligned_square_is_upright_and_inside():
    square = squares.aligned_square(face(0.5))
    still = squares.unaligned_square(square, (900, 700), np.random.default_rng(0), shift=0)
    assert still.centre == square.centre and still.side == square.side and still.axis == (1, 0)
    random = np.random.default_rng(1)
    moved = [squares.unaligned_square(square, (900, 700), random) for _ in range(99)]
    boxes = np.array([m.box() for m in moved])
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= [900, 700]).all()
    assert 0.05 < np.std(boxes[:, 0]) / square.side < 0.3
    far = squares.aligned_square(face(scale=100))  # larger than the photograph
    assert squares.unaligned_square(far, (500, 400), np.random.default_rng(0)).centre == far.centre


@pytest.mark.parametrize("angle, centre", [(0.0, (300.0, 200.0)), (0.4, (260.4, 190.0))])
def test_crop_shows_the_eyes_where_the_head_tilts_them(angle, centre):
    photograph = np.zeros([400, 600, 3], np.uint8)
    points = face(angle, centre=centre)
    eyes = [points[36:42].mean(axis=0), points[42:48].mean(axis=0)]
    rows, columns = np.mgrid[:400, :600] + 0.5
    for channel, (x, y) in enumerate(eyes):
        photograph[..., channel] = 255 * (np.hypot(columns - x, rows - y) < 9)
    square = squares.aligned_square(points)
    square = squares.unaligned_square(square, (600, 400), np.random.default_rng(0), shift=0)
    crop = np.asarray(squares.cut(Image.fromarray(photograph), square, 256), np.float64)
    rows, columns = np.mgrid[:256, :256] + 0.5
    tilt = np.array([math.cos(angle), math.sin(angle)])
    middle = 128 - 0.1 * 2 / 8 * 256 * np.array([-tilt[1], tilt[0]])
    for channel, sign in enumerate((-1, 1)):
        weight = crop[..., channel] / crop[..., channel].sum()
        found = np.array([(weight * columns).sum(), (weight * rows).sum()])
        np.testing.assert_allclose(found, middle + sign * tilt * 256 / 8, atol=0.5)


def test_outside_of_the_photograph_is_mirrored():
    pixels = np.arange(40, dtype=np.uint8).repeat(40).reshape(40, 40).T[..., None].repeat(3, 2)
    crop = np.asarray(squares.cut(Image.fromarray(pixels), squares.FaceSquare((5, 20), 20), 20))
    np.testing.assert_array_equal(crop[0, :, 0], [4, 3, 2, 1, 0, *range(15)])
    with pytest.raises(ValueError, match="too far outside"):
        squares.cut(Image.fromarray(pixels), squares.FaceSquare((-50, 20), 20), 20)


@pytest.fixture
def ffhq(tmp_path):
    """Three entries like those of the published metadata; the third has no photograph."""
    entries = {}
    for i in range(3):
        landmarks = face(0.2 * i)
        wild = {
            "file_path": f"in-the-wild-images/00000/{i:05d}.png",
            "pixel_size": [600, 400],
            "face_landmarks": landmarks.tolist(),
            "face_quad": squares.aligned_square(landmarks).corners().tolist(),
        }
        entries[str(i)] = {"image": {"file_path": f"{i}.png"}, "in_the_wild": wild, "metadata": {}}
        path = tmp_path / wild["file_path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        if i < 2:
            Image.new("RGB", (600, 400), (90, 120, 40 * i)).save(path)
    metadata = tmp_path / "ffhq-dataset-v2.json"
    metadata.write_text(json.dumps(entries))
    return metadata


def test_crops_from_metadata(ffhq, tmp_path):
    args = ["--metadata", str(ffhq), "--source", str(tmp_path), "--dest", str(tmp_path / "out")]
    result = CliRunner().invoke(crops.main, [*args, "--size", "32"])
    assert result.exit_code == 0, result.output
    assert "2 crops, 1 dropped" in result.output and "dropped 2" in result.output
    files = sorted((tmp_path / "out").rglob("*.png"))
    assert [str(f.relative_to(tmp_path / "out")) for f in files] == [
        "00000/00000.png",
        "00000/00001.png",
    ]
    assert Image.open(files[1]).size == (32, 32) and Image.open(files[1]).getpixel((9, 9))[2] == 40
    times = [f.stat().st_mtime_ns for f in files]
    again = list(crops.write_crops(crops.read_faces(ffhq), tmp_path, tmp_path / "out", 32))
    assert [c.reason is None for c in again] == [True, True, False]
    assert [f.stat().st_mtime_ns for f in files] == times


def test_check_compares_with_the_published_squares(ffhq):
    faces = crops.read_faces(ffhq)
    assert crops.quad_errors(faces).max() < 1e-9
    result = CliRunner().invoke(crops.main, ["--metadata", str(ffhq), "--check"])
    assert "3 of 3 faces" in result.output


@pytest.mark.parametrize(
    "text, message",
    [
        ("[]", "not like ffhq-dataset-v2"),
        ('{"0": {"image": {}}}', "in_the_wild"),
        ('{"0": {"in_the_wild": {"file_path": "../x", "face_landmarks": []}}}', "within --source"),
        ("{", "not like ffhq-dataset-v2"),
    ],
)
def test_bad_metadata_are_one_line(tmp_path, text, message):
    path = tmp_path / "m.json"
    path.write_text(text)
    result = CliRunner().invoke(crops.main, ["--metadata", str(path), "--check"])
    assert result.exit_code == 2
    assert message in result.output and len(result.output.strip().splitlines()) == 1
