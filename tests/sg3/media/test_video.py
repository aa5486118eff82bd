"""Videos: keyframes, splines, loops, moving inputs, the command."""

from __future__ import annotations

import json

import imageio_ffmpeg
import numpy as np
import program
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from scipy.interpolate import CubicSpline

import sg3
from sg3.animation import (
    VideoConfig,
    cell_keyframes,
    loop_path,
    plan_video,
    seed_latents,
    spline_path,
)
from sg3.cli.main import cli
from sg3.cli.parsers import parse_grid
from sg3.errors import UserError
from sg3.generate import generate_images
from sg3.motion import moves
from sg3.networks import build_network


@pytest.fixture(scope="module")
def mini():
    return sg3.load("mini-faces").G_ema


@pytest.fixture(scope="module")
def stylegan2():
    kwargs = {"z_dim": 8, "c_dim": 3, "w_dim": 8, "img_resolution": 16, "img_channels": 3}
    torch.manual_seed(0)
    return build_network("stylegan2", {**kwargs, "channel_max": 8}).eval().requires_grad_(False)


def test_consecutive_seeds_are_keyframes_of_one_cell():
    ws = torch.arange(6.0).reshape(6, 1, 1)
    assert cell_keyframes(ws, 2, 3).squeeze().T.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert cell_keyframes(ws[:2], 2, 2).squeeze().T.tolist() == [[0, 1], [0, 1]]
    mixed = cell_keyframes(ws, 2, 3, shuffle_seed=1)
    assert sorted(mixed.flatten().tolist()) == list(range(6)) and mixed.flatten()[0] != 0


@pytest.mark.parametrize("rows", [1, 3])
def test_a_path_passes_through_its_keyframes_and_closes(rows):
    keys = torch.from_numpy(np.random.RandomState(0).randn(5, 2, rows, 4).astype(np.float32))
    keys = keys.expand(-1, -1, 3, -1)
    path = list(spline_path(keys, 10))
    assert len(path) == 50 and path[0].shape == (2, 3, 4)
    assert torch.allclose(torch.stack(path[::10]), keys, atol=1e-5)
    # The official tool repeats the keyframes; far from the ends that is the periodic spline.
    closed = np.concatenate([keys, keys[:1]])
    periodic = CubicSpline(np.arange(6), closed, bc_type="periodic")(np.arange(50) / 10)
    assert np.abs(torch.stack(path).numpy() - periodic).max() < 1e-3


def test_the_first_frame_is_the_image_of_the_first_seed(mini):
    video = plan_video(mini, VideoConfig(seeds=(5, 6), w_frames=2), min_size_px=0)
    frames = list(video.frames)
    assert video.num_frames == len(frames) == 4
    for frame, found in zip(frames[::2], generate_images(mini, (5, 6)), strict=True):
        assert np.abs(frame.astype(int) - found.image).max() <= 1


def test_small_images_are_enlarged_in_a_grid(mini):
    video = plan_video(mini, VideoConfig(seeds=(1, 2), grid=(2, 1), w_frames=1), min_size_px=100)
    (frame,) = video.frames
    assert frame.shape == (128, 256, 3)
    assert (frame[::2, ::2] == frame[1::2, 1::2]).all()


def test_a_loop_is_smooth_also_where_it_closes(mini):
    config = VideoConfig(kind="loop", seeds=(1, 2), grid=(2, 1), num_keyframes=2, w_frames=30)
    path = torch.stack(list(loop_path(mini, config, 2)))[:, :, 0]
    steps = (path - path.roll(1, 0)).norm(dim=2)  # [frames, cells]; the first one closes
    assert path.shape == (60, 2, mini.w_dim)
    assert steps[0].max() < 2 * steps[1:].max()
    apart = (path - path.roll(30, 0)).norm(dim=2).mean()
    assert steps.mean() < 0.3 * apart
    assert not torch.equal(path[:, 0], path[:, 1])


def test_a_moving_input_moves_the_image_and_comes_back(mini):
    config = VideoConfig(kind="transform", seeds=(3,), motion="shift", amount=0.25, w_frames=4)
    up, right, middle, left = plan_video(mini, config, min_size_px=0).frames
    assert (up == middle).all()
    assert np.abs(right[8:-8, 24:-8].astype(int) - np.roll(up, 16, 1)[8:-8, 24:-8]).mean() < 3
    assert np.abs(left[8:-8, 8:-24].astype(int) - np.roll(up, -16, 1)[8:-8, 8:-24]).mean() < 3
    assert torch.equal(mini.synthesis.input.transform, torch.eye(3))


def test_moves_close_and_start_upright():
    for motion in ("shift", "circle", "turn", "both"):
        path = moves(motion, 8, 0.2)
        assert path[0].translate == (0, 0) and path[0].rotate_deg == 0
        assert max(max(map(abs, move.translate)) for move in path) <= 0.2 + 1e-9
    assert [move.rotate_deg for move in moves("turn", 4)] == [0, 90, 180, 270]


def test_classes_and_latents(stylegan2):
    config = VideoConfig(seeds=(0, 1), w_frames=1, class_index=2)
    ws = seed_latents(stylegan2, config)
    by_seed = list(plan_video(stylegan2, config).frames)
    by_latent = list(plan_video(stylegan2, VideoConfig(w_frames=1), ws).frames)
    assert all((a == b).all() for a, b in zip(by_seed, by_latent, strict=True))
    with pytest.raises(UserError, match="choose a class"):
        plan_video(stylegan2, VideoConfig())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "walk"}, "kind"),
        ({"kind": "transform", "motion": "jump"}, "motion"),
        ({"grid": (0, 1)}, "grid"),
        ({"grid": (3, 1)}, "multiple of the 3 cells"),
        ({"seeds": ()}, "seeds"),
        ({"kind": "transform", "class_index": 0}, "StyleGAN3"),
    ],
)
def test_bad_settings_are_refused_before_the_first_frame(stylegan2, changes, message):
    with pytest.raises(UserError, match=message):
        plan_video(stylegan2, VideoConfig(**{"class_index": 0, **changes}))


def test_a_loop_takes_no_latents(mini):
    with pytest.raises(UserError, match="loop"):
        plan_video(mini, VideoConfig(kind="loop"), torch.zeros(1, mini.num_ws, mini.w_dim))


def test_grids():
    assert parse_grid("4x2") == (4, 2) and parse_grid("10X1") == (10, 1)
    for text in ("0x2", "4", "4x", "axb", "-1x2"):
        with pytest.raises(UserError):
            parse_grid(text)


def frames_of(path) -> list[np.ndarray]:
    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    return [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]


def test_the_command_writes_a_video_and_a_manifest(tmp_path):
    out = tmp_path / "new" / "video.mp4"
    arguments = ["video", "--seeds", "0-3", "--grid", "2x1", "--w-frames", "2", "--delta", "zombie"]
    result = CliRunner().invoke(cli, [*arguments, "--output", str(out), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    shown = frames_of(out)
    assert len(shown) == 4 and shown[0].shape == (192, 384, 3) and shown[0].std() > 20
    manifest = json.loads(out.with_suffix(".json").read_text())
    assert manifest["finished"] and manifest["outputs"] == ["video.mp4"]
    assert len(manifest["inputs"]) == 2
    assert sorted(path.name for path in out.parent.iterdir()) == ["video.json", "video.mp4"]


@pytest.mark.slow
def test_three_kinds_of_network_side_by_side(tmp_path):
    out, names = tmp_path / "slices.mp4", ("mini-faces", "mini-faces-r", "mini-faces-stylegan2")
    arguments = ["video", "--kind", "slices", "--seeds", "0-1", "--w-frames", "4"]
    networks = [part for name in names for part in ("--network", name)]
    shown = program.works(*arguments, *networks, "--output", out, "--device", "cpu")
    found = json.loads(out.with_suffix(".json").read_text())["results"]["stickiness"]
    assert list(found) == list(names) and all(0 < value < 1 for value in found.values())
    assert all(f"stickiness of {name}: {found[name]:.4f}" in shown for name in names)
    alone = tmp_path / "alone.mp4"
    program.works(*arguments, "--network", "mini-faces-r", "--output", alone, "--device", "cpu")
    (width, height), part = (Image.open(p.with_suffix(".png")).size for p in (out, alone))
    assert (width, height) == (3 * part[0], part[1]) or (width, height) == (part[0], 3 * part[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0-2", "--grid", "2x1"], "multiple of the 2 cells"),
        (["--grid", "2by1"], "4x2"),
        (["--network", "mini-faces", "--network", "mini-faces"], "slices"),
        (["--kind", "slices", "--seeds", "1"], "fewer than 2"),
        (["--bitrate", "fast"], "12M"),
        (["--output", "video.avi"], ".mp4"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, arguments, message):
    out = tmp_path / "new" / "video.mp4"
    result = CliRunner().invoke(cli, ["video", "--output", str(out), *arguments])
    assert result.exit_code == 2 and message in result.output
    assert len(result.output.strip().splitlines()) == 1 and not out.parent.exists()
