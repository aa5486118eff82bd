"""Conversion to uint8, PNG, grids, sheets, videos; the manifest."""

import json
import time

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from sg3.files import atomic_path, check_folder, prepare_folder
from sg3.manifest import RunManifest
from sg3.media import VideoWriter, contact_sheet, image_grid, save_png, to_uint8


def noise(n=1, h=8, w=8, c=3):
    return np.random.RandomState(0).randint(0, 256, [n, h, w, c], dtype=np.uint8)


def test_official_rounding():
    values = torch.tensor([-2, -1, -0.5, 0, 0.5, 1, 2, 127.4 / 127.5 - 1])
    img = values.reshape(1, 1, 1, -1).expand(1, 3, 1, -1)
    expected = [0, 0, 64, 128, 191, 255, 255, 127]
    assert to_uint8(img)[0, 0, :, 0].tolist() == expected
    back = torch.from_numpy(noise(2)).permute(0, 3, 1, 2) / 127.5 - 1
    assert np.array_equal(to_uint8(back), noise(2))
    with pytest.raises(ValueError, match="expected \\[N, C, H, W\\]"):
        to_uint8(torch.zeros(3))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png(tmp_path, channels):
    img = noise(c=channels)[0]
    save_png(tmp_path / "a.png", img)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")).reshape(img.shape), img)
    save_png(tmp_path / "b.png", torch.from_numpy(img).permute(2, 0, 1)[None] / 127.5 - 1)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_grid():
    grid = image_grid(noise(5), columns=3)
    assert grid.shape == (16, 24, 3)
    assert np.array_equal(grid[8:, 8:16], noise(5)[4]) and not grid[8:, 16:].any()
    assert image_grid(noise(4)).shape == (16, 16, 3)
    with pytest.raises(ValueError, match="at least one image"):
        image_grid([])


def test_contact_sheet():
    plain = contact_sheet(noise(4), columns=2, min_size_px=8)
    assert plain.shape == (28, 28, 3)
    assert np.array_equal(plain[4:12, 4:12], noise(4)[0])
    assert (plain[:4] == 255).all()
    captions = ["a", "a much longer caption that wraps", "Supercalifragilisticexpialidocious", ""]
    sheet = contact_sheet(noise(4), captions=captions, columns=2)
    assert sheet.shape[0] > sheet.shape[1] and (sheet[110:130] < 128).any()
    with pytest.raises(ValueError, match="captions"):
        contact_sheet(noise(4), captions=["one"])


def test_a_word_of_any_length_is_cut_quickly():
    start = time.process_time()
    long = contact_sheet(noise(1), captions=["w" * 200_000 + " hat"], min_size_px=96)
    assert time.process_time() - start < 2
    assert (long == contact_sheet(noise(1), captions=["w" * 40 + " hat"], min_size_px=96)).all()


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"crf": 10}, {"bitrate": "1M"}])
def test_video(tmp_path, options):
    path = tmp_path / "a.mp4"
    with VideoWriter(path, fps=10, **options) as video:
        for i in range(10):
            video.add(np.full([33, 47, 3], 20 * i, dtype=np.uint8))
        assert not path.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    frames = [np.frombuffer(frame, np.uint8) for frame in reader]
    assert meta["size"] == (48, 34) and meta["fps"] == 10 and meta["codec"].startswith("h264")
    assert len(frames) == 10 and abs(frames[9].mean() - 180) < 4


def test_video_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="stop"), VideoWriter(tmp_path / "a.mp4") as video:
        video.add(noise(h=16, w=16)[0])
        raise RuntimeError("stop")
    with pytest.raises(ValueError, match="no frames"), VideoWriter(tmp_path / "a.mp4"):
        pass
    with pytest.raises(ValueError, match="expected"), VideoWriter(tmp_path / "a.mp4") as video:
        video.add(noise(h=16, w=16)[0])
        video.add(noise(h=18, w=16)[0])
    with pytest.raises(ValueError, match="mp4"):
        VideoWriter(tmp_path / "a.gif")
    with pytest.raises(ValueError, match="both"):
        VideoWriter(tmp_path / "a.mp4", bitrate="1M", crf=3)
    assert not list(tmp_path.iterdir())


def test_atomic_files(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert not path.exists() and temporary.suffix == ".txt"
    assert path.read_text() == "new" and path.stat().st_mode & 0o077
    with pytest.raises(KeyError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "new" and len(list(tmp_path.iterdir())) == 1


def test_folders(tmp_path):
    check_folder(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    assert prepare_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    for check in (check_folder, prepare_folder):
        with pytest.raises(ValueError, match="choose another"):
            check(tmp_path / "file" / "b")


def test_folder_without_permission(tmp_path, monkeypatch):
    monkeypatch.setattr("sg3.files.os.access", lambda path, mode: False)
    with pytest.raises(ValueError, match="cannot write"):
        check_folder(tmp_path / "a")


def test_manifest(tmp_path):
    (tmp_path / "in.txt").write_text("abc")
    with RunManifest(tmp_path, "generate", {"seeds": [1, 2], "out": tmp_path}) as manifest:
        manifest.add_input(tmp_path / "in.txt")
        with manifest.time("work"):
            pass
        manifest.add_output(tmp_path / "sub" / "seed0001.png")
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["finished"] and run["command"] == "generate" and run["arguments"]["seeds"] == [1, 2]
    assert run["inputs"][str(tmp_path / "in.txt")].startswith("ba7816bf")
    assert run["outputs"] == ["sub/seed0001.png"] and "work" in run["timings"]
    assert run["versions"]["torch"] and run["versions"]["sg3"]


def test_manifest_of_a_run_that_failed(tmp_path):
    with pytest.raises(KeyError), RunManifest(tmp_path, "x", {}):
        raise KeyError
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyError), RunManifest(tmp_path, "x", {}) as manifest:
        manifest.add_output(tmp_path / "a.png")
        raise KeyError
    assert json.loads((tmp_path / "run.json").read_text())["finished"] is False


def test_transparent_frames_are_composited_on_white(tmp_path):
    """Networks with an alpha channel make videos too."""
    frame = np.zeros([32, 32, 4], np.uint8)
    frame[:16] = (200, 0, 0, 255)
    frame[16:] = (200, 0, 0, 0)
    with VideoWriter(tmp_path / "a.mp4") as video:
        video.add(frame)
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "a.mp4"))
    size = next(reader)["size"]
    shown = np.frombuffer(next(reader), np.uint8).reshape(size[1], size[0], 3).astype(int)
    assert abs(shown[4, 16] - (200, 0, 0)).max() < 12 and shown[28, 16].min() > 245
