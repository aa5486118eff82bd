"""Layers as images, learned transforms, texture sticking."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import sg3
from sg3.analysis.colours import viridis
from sg3.analysis.inspect import LayerDisplay, layer_images, sheet, sheet_frames, spectrum_db
from sg3.analysis.layers import activations, input_transforms, layers
from sg3.analysis.stickiness import SliceVideo, Stickiness, high_pass
from sg3.animation import VideoConfig, plan_video
from sg3.cli.inspect import parse_channels
from sg3.cli.main import cli
from sg3.errors import UserError
from sg3.generate import user_transform
from sg3.media import to_uint8
from sg3.motion import moves
from sg3.networks import build_network


@pytest.fixture(scope="module")
def mini():
    return sg3.load("mini-faces").G_ema


@pytest.fixture(scope="module")
def ws(mini):
    return mini.mapping(torch.randn([1, mini.z_dim], generator=torch.Generator().manual_seed(1)))


@pytest.fixture(scope="module")
def stylegan2():
    kwargs = {"z_dim": 8, "c_dim": 0, "w_dim": 8, "img_resolution": 16, "img_channels": 3}
    torch.manual_seed(0)
    return build_network("stylegan2", {**kwargs, "channel_max": 8}).eval().requires_grad_(False)


# Layers


def test_layers_are_the_outputs_of_a_pass(mini, ws, stylegan2):
    for G, latent in ((mini, ws), (stylegan2, stylegan2.mapping(torch.randn(1, 8)))):
        shapes = activations(G, latent, None, lambda layer, x: tuple(x.shape))
        expected = {x.name: (1, x.channels, x.height, x.width) for x in layers(G)}
        assert shapes == expected and list(shapes) == [layer.name for layer in layers(G)]
        image = activations(G, latent, ["output"], lambda layer, x: x)["output"]
        assert torch.equal(image, G.synthesis(latent, noise_mode="const"))


def test_a_pass_ends_with_the_last_requested_layer(mini, ws, stylegan2):
    later = mini.synthesis.L3_78_48.register_forward_hook(lambda *_: pytest.fail("continued"))
    found = activations(mini, ws, ["L2", "features"], lambda layer, x: x)
    later.remove()
    assert list(found) == ["features", "L2_46_48"]
    # The block that holds the constant ends after its first layer.
    latent = stylegan2.mapping(torch.randn(1, 8))
    assert set(activations(stylegan2, latent, ["const", "b4.conv1"], lambda _, x: x)) == {
        "const",
        "b4.conv1",
    }
    assert not any(module._forward_hooks for module in mini.modules())


def test_features_are_the_waves_that_the_input_mixes(mini, ws):
    found = activations(mini, ws, ["features", "input"], lambda layer, x: x)
    source = mini.synthesis.input
    mixed = torch.einsum("oi,nihw->nohw", source.weight / source.channels**0.5, found["features"])
    assert torch.allclose(mixed, found["input"], atol=1e-5)
    assert found["features"].abs().max() <= 1 + 1e-6
    # Wave i has the frequency that the network keeps for it, turned by what the latent learned.
    m = source.transforms(ws[:, 0])[0]
    wave = source.freqs[0] @ m[:2, :2]
    x = (torch.arange(30) + 0.5 - 15) / 16
    phase = source.phases[0] + source.freqs[0] @ m[:2, 2]
    row = torch.sin(2 * np.pi * (x * wave[0] + x[5] * wave[1] + phase))
    assert torch.allclose(found["features"][0, 0, 5], row, atol=1e-4)


def test_layers_move_with_the_input_by_their_own_rate(mini, ws):
    """An eighth of the image is a whole number of samples in every layer."""
    for name, skip in (("L1", 8), ("L3", 24), ("output", 20)):
        (still,) = activations(mini, ws, [name], lambda _, x: x).values()
        (moved,) = activations(mini, ws, [name], lambda _, x: x, translate=(0.125, 0)).values()
        (layer,) = (x for x in layers(mini) if x.name.split("_")[0] == name)
        by = round(layer.sampling_rate / 8)
        inside = (slice(None), slice(None), slice(skip, -skip), slice(skip, -skip))
        error = (moved - still.roll(by, 3))[inside].square().mean() / still[inside].var()
        assert error < 2e-3, name


def test_unknown_layers_and_moves_of_stylegan2_are_refused(mini, ws, stylegan2):
    with pytest.raises(UserError, match=r"L99.*features, input"):
        layer_images(mini, ws, "L99", [0])
    with pytest.raises(UserError, match="StyleGAN3"):
        latent = stylegan2.mapping(torch.randn(1, 8))
        layer_images(stylegan2, latent, "output", [0], rotate_deg=5)
    with pytest.raises(UserError, match="StyleGAN3"):
        input_transforms(stylegan2, latent)


def test_the_learned_transform_is_the_motion_of_the_input(mini, ws):
    (learned,) = input_transforms(mini, ws)
    G = sg3.load("mini-faces").G_ema
    drawn = activations(G, ws, ["features"], lambda _, x: x)["features"]
    G.synthesis.input.affine.weight.zero_()
    G.synthesis.input.affine.bias.copy_(torch.tensor([1.0, 0, 0, 0]))
    plain = activations(
        G,
        ws,
        ["features"],
        lambda _, x: x,
        translate=learned.translate,
        rotate_deg=learned.rotate_deg,
    )["features"]
    assert abs(learned.rotate_deg) > 0.1
    assert torch.allclose(drawn, plain, atol=1e-4)
    with user_transform(mini, (0.3, 0.1), 40):  # the user's own move is not the latent's
        (same,) = input_transforms(mini, ws)
    assert np.allclose(same.translate, learned.translate, atol=1e-6)


# Images


def test_images_of_one_layer(mini, ws):
    x = activations(mini, ws, ["L3"], lambda _, x: x[0])["L3_78_48"]
    grey, colour = layer_images(mini, ws, "L3", [5, (0, 1, 2)])
    assert grey.image.shape == colour.image.shape == (78, 78, 3)
    assert (grey.image == to_uint8(x[5:6] / x[5].abs().max())[0]).all()
    assert abs(grey.max_abs - float(x[5].abs().max())) < 1e-5 and "L3_78_48 ch 5" in grey.caption
    (raw,) = layer_images(mini, ws, "L3", [5], display=LayerDisplay(normalize=False, gain_db=20))
    assert (raw.image == to_uint8(x[5:6] * 10)[0]).all()
    for channel in (48, (0, 1), (0, 1, 48), "all"):
        with pytest.raises(UserError, match="channel"):
            layer_images(mini, ws, "L3", [channel])


def test_a_wave_is_two_points_in_its_spectrum():
    x = torch.arange(64.0)
    wave = torch.sin(2 * np.pi * 10 * x / 64).expand(1, 64, 64) + 5
    db = spectrum_db(wave)
    peaks = np.argwhere(db > db.max() - 0.01)
    assert peaks.tolist() == [[32, 22], [32, 42]]
    assert db[32, 32] < db.max() - 60  # the mean has gone
    assert np.isfinite(spectrum_db(torch.ones(2, 8, 8))).all()


def test_features_stay_below_their_bandwidth(mini, ws):
    def power(layer, x):
        return 10 ** (spectrum_db(x[0]) / 10)

    found = activations(mini, ws, ["features"], power)["features"]
    yx = (np.indices(found.shape) - 15) * 16 / 30  # cycles per image
    inside = np.hypot(*yx) < 2 + 2.5  # the window's own width
    assert found[inside].sum() / found.sum() > 0.9999


def test_a_sheet_has_a_row_for_each_layer(mini, ws):
    images = layer_images(mini, ws, ["L1", "output"], [0, 1, 99])
    assert [(p.layer.name, p.channel) for p in images] == [
        ("L1_30_48", 0),
        ("L1_30_48", 1),
        ("output", (0, 1, 2)),
    ]
    shown = sheet(images, size_px=100)
    assert 200 < shown.shape[1] < 230 and shown.shape[0] > 200
    with pytest.raises(UserError, match="none"):
        sheet([])
    frames = list(sheet_frames(mini, ws, "L1", [0], moves("turn", 4)))
    assert len(frames) == 4 and (frames[0] != frames[1]).any()


def test_viridis():
    assert viridis(np.array([-1, 0, 1, 2])).tolist() == [[68, 1, 84]] * 2 + [[253, 231, 37]] * 2
    assert viridis(np.full([3, 4], 0.5)).shape == (3, 4, 3)
    luminance = viridis(np.linspace(0, 1, 50)) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > 0).all()


# Stickiness


def pattern(seed: int, size: int = 64) -> np.ndarray:
    return np.random.RandomState(seed).randn(1, 3, size, size)


def measured(frames) -> float:
    measure = Stickiness()
    for frame in frames:
        measure.add(frame)
    return measure.value


def test_a_pattern_that_never_moves_sticks():
    assert measured(pattern(0) for _ in range(8)) == pytest.approx(1, abs=1e-9)
    # Whatever is smooth does not count, however it moves; nor does the unit.
    ramp = np.linspace(-1, 1, 64)
    moving = (100 * (pattern(0) + 50 * np.sin(i) * ramp) for i in range(8))
    assert measured(moving) == pytest.approx(1, abs=0.05)


def test_a_pattern_that_moves_does_not_stick():
    assert abs(measured(np.roll(pattern(0), (3 * i, 7 * i), (2, 3)) for i in range(8))) < 0.02
    assert abs(measured(pattern(i) for i in range(8))) < 0.02


@pytest.mark.parametrize("fraction", [0.25, 0.7])
def test_stickiness_is_the_fraction_of_energy_that_is_fixed(fraction):
    frames = [
        fraction**0.5 * pattern(0) + (1 - fraction) ** 0.5 * np.roll(pattern(1), 5 * i, 3)
        for i in range(12)
    ]
    assert measured(frames) == pytest.approx(fraction, abs=0.03)
    one = Stickiness()
    one.add(np.concatenate(frames))
    assert one.value == pytest.approx(measured(frames), abs=1e-9)  # batches do not matter


def test_few_or_flat_frames():
    with pytest.raises(UserError, match="at least 2"):
        measured([pattern(0)])
    assert measured([np.ones([1, 3, 8, 8])] * 3) == 0
    assert abs(high_pass(np.ones([1, 1, 16, 16]))).max() < 1e-12


def test_slices_show_one_column_over_time(mini):
    config = VideoConfig(seeds=(0, 1), w_frames=5)
    video = SliceVideo([("T", mini)], config, column=0.5, min_size_px=0)
    frames = list(video.frames)
    assert len(frames) == video.num_frames == 10 and (video.image == frames[-1]).all()
    past = frames[-1][-64:, -10:]
    images = list(plan_video(mini, config, min_size_px=0).frames)
    for i, image in enumerate(images):
        assert np.abs(past[:, i].astype(int) - image[:, 32]).max() <= 1
    assert (frames[3][-64:, -10:][:, 4:] == 255).all()  # not yet
    assert 0 < video.stickiness["T"] < 0.9


def test_slices_need_titles_and_a_walk(mini):
    with pytest.raises(UserError, match="title"):
        SliceVideo([("T", mini), ("T", mini)], VideoConfig())
    with pytest.raises(UserError, match="walk"):
        SliceVideo([("T", mini)], VideoConfig(seeds=(1,)))


# The command


def test_channels_are_parsed():
    assert parse_channels("0-2, 0+1+2,all,7") == [0, 1, 2, (0, 1, 2), "all", 7]
    for text in ("", "a", "3-1", "0+1", "-1"):
        with pytest.raises(UserError):
            parse_channels(text)


def test_the_command_lists_layers_and_writes_a_sheet_and_a_video(tmp_path):
    run = CliRunner().invoke
    listed = run(cli, ["inspect", "--list"])
    assert listed.exit_code == 0 and "L3_78_48" in listed.output and "cutoff 16" in listed.output
    out = tmp_path / "new" / "layers.png"
    result = run(cli, ["inspect", "--seed", "3", "--rotate", "10", "--output", str(out)])
    assert result.exit_code == 0, result.output
    assert "learned transform" in result.output and Image.open(out).size[0] > 600
    manifest = json.loads(out.with_suffix(".json").read_text())
    assert np.array(manifest["results"]["input_transform"]["matrix"]).shape == (3, 3)
    video = tmp_path / "video.mp4"
    result = run(cli, ["inspect", "--layers", "L1", "--frames", "2", "--output", str(video)])
    assert result.exit_code == 0 and video.stat().st_size > 500, result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--output"),
        (["--output", "layers.gif"], ".png or .mp4"),
        (["--output", "{}", "--layers", "L9"], "L6_64_3"),
        (["--output", "{}", "--channels", "x"], "0+1+2"),
        (["--output", "{}", "--layers", "L3", "--channels", "all"], "only spectra"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, arguments, message):
    out = tmp_path / "new" / "layers.png"
    result = CliRunner().invoke(cli, ["inspect", *(a.format(out) for a in arguments)])
    assert result.exit_code == 2 and message in result.output
    assert len(result.output.strip().splitlines()) == 1 and not out.parent.exists()
