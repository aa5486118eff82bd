"""Projection, tuning, distances, photos: on tiny networks and analytic cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from guidance.inversion import load_distance, project, tune
from guidance.inversion.beside import Beside, inverse_moves, transform_of
from guidance.inversion.distance import LPIPS_FILES, LpipsDistance, ScaleDistance
from guidance.inversion.locate import Likeness, choose_crop, find_crop, likeness_of
from guidance.inversion.photo import Crop, central_crop, cut, put_back, read_photo, to_target
from guidance.inversion.project import ProjectConfig, schedule
from guidance.latents import map_latents, seed_latents
from sg3.checkpoints.delta import apply_deltas, difference
from sg3.generate import inverse_transform
from sg3.networks import build_network

SG3 = {"channel_base": 512, "channel_max": 16, "num_layers": 6, "margin_size": 4}
SG2 = {"channel_base": 512, "channel_max": 16, "num_fp16_res": 0}


def network(kind: str, seed: int = 0, **more) -> torch.nn.Module:
    torch.manual_seed(seed)
    common = {"z_dim": 16, "w_dim": 16, "c_dim": 0, "img_resolution": 32, "img_channels": 3}
    extra = SG3 if kind == "stylegan3" else SG2
    G = build_network(kind, {**common, **extra, **more}).eval().requires_grad_(False)
    if kind == "stylegan2":
        for name, parameter in G.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.3)
    return G


@pytest.fixture(scope="module")
def T():
    return network("stylegan3")


@pytest.fixture(scope="module")
def S2():
    return network("stylegan2")


def pictures(G, *seeds: int) -> torch.Tensor:
    ws = torch.cat([map_latents(G, seed_latents(seed, 1, G.z_dim)) for seed in seeds])
    with torch.no_grad():
        return G.synthesis(ws, noise_mode="const")


def last(steps):
    for step in steps:
        found = step
    return found


# Distances -----------------------------------------------------------------------------------


def between(distance, a, b) -> torch.Tensor:
    return (distance.features(a) - distance.features(b)).square().sum(dim=1)


def test_scales_of_flat_pictures_are_their_squared_difference():
    distance, a, b = (
        ScaleDistance(),
        torch.full([2, 3, 32, 48], 0.3),
        torch.full([2, 3, 32, 48], -0.2),
    )
    b[1] = 0.3
    torch.testing.assert_close(between(distance, a, b), torch.tensor([0.25, 0.0]))
    large = [torch.full([1, 3, 128, 128], v) for v in (0.3, -0.2)]
    torch.testing.assert_close(between(distance, *large), torch.tensor([0.25]))


def test_scales_see_faint_edges_and_blur():
    distance = ScaleDistance()
    flat = torch.zeros(1, 3, 32, 32)
    sharp, soft = flat.clone(), flat.clone()
    sharp[..., 16:] = 0.2
    soft[..., 16:] = 0.2
    soft[..., 14:18] = torch.linspace(0.04, 0.16, 4)
    mse = (sharp - soft).square().mean()
    assert between(distance, sharp, soft) > 3 * mse
    noise = sharp + mse.sqrt()  # as far in squares, but only brighter
    assert between(distance, sharp, soft) > between(distance, sharp, noise)
    gray = torch.rand(1, 1, 32, 32)
    assert between(distance, gray, gray.expand(-1, 3, -1, -1)) == 0


def test_lpips_agrees_with_the_package(monkeypatch, tmp_path):
    package = pytest.importorskip("torch_fidelity.sample_similarity_lpips")
    from torchvision.models import vgg16

    torch.manual_seed(0)
    weights = {
        f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1)
        for i, c in enumerate((64, 128, 256, 512, 512))
    }
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    torch.save(weights, folder / LPIPS_FILES[0])
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert load_distance("auto").name == "scales"  # one of two files is not enough
    torch.save({}, folder / LPIPS_FILES[1])
    monkeypatch.setattr(package, "torchvision_load_pretrained_vgg16", lambda: vgg16(weights=None))
    distance = load_distance("auto")
    assert isinstance(distance, LpipsDistance)
    a, b = torch.rand(2, 3, 32, 32) * 2 - 1, torch.rand(2, 3, 32, 32) * 2 - 1
    expected = distance.network((a + 1) * 127.5, (b + 1) * 127.5)
    torch.testing.assert_close(between(distance, a, b), expected.flatten(), rtol=1e-4, atol=1e-6)


def test_lpips_without_a_network_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match="choose --distance scales") as error:
        load_distance("lpips")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="expected auto"):
        load_distance("vgg")


def test_a_hostile_file_of_weights_is_not_unpickled(monkeypatch, tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in LPIPS_FILES:
        torch.save({"x": print}, folder / name)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match="cannot be had"):
        load_distance("auto")


# Projection ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["stylegan3", "stylegan2"])
def test_projection_finds_a_picture_of_the_network_again(kind, request):
    G = request.getfixturevalue("T" if kind == "stylegan3" else "S2")
    target = pictures(G, 5)
    before = {name: value.clone() for name, value in G.state_dict().items()}
    steps = list(project(G, target, "scales", steps=40, candidates=8, noise=False, exploration=0))
    assert [step.index for step in steps] == list(range(41))
    assert steps[-1].distance < 0.4 * steps[0].distance
    assert all(torch.equal(value, before[name]) for name, value in G.state_dict().items())


def test_w_stays_one_vector_and_w_plus_does_not(T):
    target = pictures(T, 5)
    w = last(project(T, target, "scales", steps=3, candidates=2))
    torch.testing.assert_close(w.ws, w.ws[:, :1].expand_as(w.ws))
    assert w.losses["spread"] == 0
    plus = last(project(T, target, "scales", steps=3, candidates=2, space="w+"))
    assert (plus.ws - plus.ws[:, :1]).abs().max() > 1e-3
    assert plus.losses["spread"] > 0


def test_the_same_seed_gives_the_same_and_pictures_of_a_batch_are_alone(T):
    targets = pictures(T, 5, 6)
    options = {"distance": "scales", "steps": 4, "candidates": 3, "seed": 3}
    both = last(project(T, targets, **options))
    again = last(project(T, targets, **options))
    assert torch.equal(both.ws, again.ws)
    alone = last(project(T, targets[1:], **options))
    torch.testing.assert_close(both.ws[1:], alone.ws, rtol=1e-3, atol=1e-4)
    other = last(project(T, targets, **{**options, "seed": 4}))
    assert not torch.equal(both.ws, other.ws)


def test_moves_are_those_of_the_user_transform():
    move = torch.tensor([[0.1, -0.2, math.radians(25)], [0, 0, 0]])
    found = inverse_moves(move)
    torch.testing.assert_close(found[0], inverse_transform((0.1, -0.2), 25), rtol=0, atol=1e-6)
    torch.testing.assert_close(found[1], torch.eye(3))
    assert transform_of({"input.transform": found}) == pytest.approx((0.1, -0.2, 25), abs=1e-4)
    assert transform_of({}) is None


def test_a_moved_picture_is_found_by_its_transform(T):
    from sg3.generate import user_transform

    ws = map_latents(T, seed_latents(5, 1, T.z_dim))
    with torch.no_grad(), user_transform(T, (0.06, -0.04), 8):
        target = T.synthesis(ws)
    options = {"steps": 60, "start_ws": ws, "exploration": 0, "prior": 1e-3}
    step = last(project(T, target, "scales", transform=True, **options))
    assert step.moved() == pytest.approx((0.06, -0.04, 8), abs=2.0) and step.moved()[2] > 4
    with torch.no_grad():
        torch.testing.assert_close(step.network(T).synthesis(step.ws), step.images)
    assert torch.equal(T.synthesis.input.transform, torch.eye(3))


def test_noise_stays_noise(S2):
    config = ProjectConfig()
    beside = Beside(S2, 2, config)
    names = {n for n, _ in S2.synthesis.named_buffers() if n.endswith("noise_const")}
    assert set(beside.buffers()) == names
    quiet = beside.noise_penalty().detach()
    with torch.no_grad():
        for noise in beside.noise.values():
            noise[1] = torch.linspace(-3, 5, noise.shape[-1])
    loud = beside.noise_penalty().detach()
    assert loud[0] == quiet[0] and loud[1] > 20 * quiet[1]
    beside.settle_()
    for noise in beside.noise.values():
        assert noise.mean(dim=(1, 2, 3)).abs().max() < 1e-5
        torch.testing.assert_close(noise.square().mean(dim=(1, 2, 3)), torch.ones(2))


def test_the_network_of_a_step_makes_its_picture_with_its_noise(S2):
    step = last(project(S2, pictures(S2, 5), "scales", steps=3, candidates=2))
    assert step.losses["noise"] > 0
    with torch.no_grad():
        torch.testing.assert_close(
            step.network(S2).synthesis(step.ws, noise_mode="const"), step.images
        )


def test_the_schedule_rises_and_falls():
    shares = [schedule(i, 100) for i in range(100)]
    assert shares[0] == pytest.approx(0.2) and shares[50] == 1 and shares[99] < 0.01


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"space": "z"}, "space: got 'z'"),
        ({"steps": -1}, "steps"),
        ({"lr": math.nan}, "lr"),
        ({"class_index": 2}, "no classes"),
        ({"start_ws": torch.zeros(1, 2, 3)}, "start_ws"),
    ],
)
def test_bad_settings_are_refused_before_the_first_step(T, settings, message):
    with pytest.raises(ValueError, match=message):
        project(T, pictures(T, 1), "scales", **settings)


def test_bad_targets_are_refused(T, S2):
    for shape in ([1, 3, 16, 16], [1, 1, 32, 32], [0, 3, 32, 32], [3, 32, 32]):
        with pytest.raises(ValueError, match="targets: got shape"):
            project(T, torch.zeros(shape), "scales")
    with pytest.raises(ValueError, match="finite"):
        project(T, torch.full([1, 3, 32, 32], math.nan), "scales")
    with pytest.raises(ValueError, match="only StyleGAN3"):
        project(S2, torch.zeros(1, 3, 32, 32), "scales", transform=True)


# Tuning --------------------------------------------------------------------------------------


def test_tuning_bends_a_copy_until_the_picture_is_right(T):
    ws, target = map_latents(T, seed_latents(1, 1, T.z_dim)), pictures(T, 9)
    tuning = tune(T, ws, target, "scales", steps=25, stop=0.0, lr=3e-3, locality=0)
    steps = list(tuning)
    assert len(steps) == 26 and steps[-1].reason == "all steps done"
    assert steps[-1].distance < 0.5 * steps[0].distance
    torch.testing.assert_close(pictures(T, 9), target)  # the network that came stays
    assert not any(p.requires_grad for p in tuning.G.parameters())
    delta = difference(T, tuning.G, dtype=torch.float32)
    with torch.no_grad():
        again = apply_deltas(T, [(delta, 1.0)]).synthesis(ws)
    torch.testing.assert_close(again, steps[-1].images)


def test_tuning_stops_before_the_update_that_is_not_needed(T):
    ws = map_latents(T, seed_latents(1, 1, T.z_dim))
    steps = list(tune(T, ws, pictures(T, 1), "scales", steps=9))
    assert len(steps) == 1 and steps[0].reason == "close enough"


def test_locality_keeps_other_pictures_and_is_reproducible(T):
    ws, target = map_latents(T, seed_latents(1, 1, T.z_dim)), pictures(T, 9)
    before = pictures(T, 20, 21, 22)

    def change(**settings):
        tuning = tune(T, ws, target, "scales", steps=12, stop=0.0, lr=3e-3, **settings)
        steps = list(tuning)
        return (pictures(tuning.G, 20, 21, 22) - before).square().mean(), steps

    free, _ = change(locality=0)
    kept, steps = change(locality=3.0)
    assert kept < 0.8 * free
    assert steps[0].losses["locality"] < 1e-9 and steps[6].losses["locality"] > 0
    again, _ = change(locality=3.0)
    assert torch.equal(kept, again)


def test_bad_tuning_is_refused(T):
    with pytest.raises(ValueError, match="ws: got shape"):
        tune(T, torch.zeros(2, 3, 4), torch.zeros(1, 3, 32, 32), "scales")
    with pytest.raises(ValueError, match="lr"):
        tune(T, torch.zeros(1, T.num_ws, 16), torch.zeros(1, 3, 32, 32), "scales", lr=-1)


# Photos --------------------------------------------------------------------------------------


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
def test_what_is_no_photo_is_one_line(tmp_path, content):
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
    crop = Crop(120, 50, 40, 30)
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
    assert central_crop(photo.size, (32, 32)) == Crop(45, 30, 60)
    expected = photo.crop((15, 0, 75, 60)).resize((32, 32), Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(cut(photo, Crop(45, 30, 60), (32, 32))), np.asarray(expected))
    assert central_crop((60, 90), (32, 16)) == Crop(30, 45, 60)


@pytest.mark.parametrize("crop", [Crop(80, 60, 50), Crop(80, 60, 50, 33), Crop(5, 5, 40, -20)])
def test_what_was_cut_out_fits_back(crop):
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
    result = np.asarray(put_back(photo, Crop(32, 32, 64), np.full([32, 32, 3], 9, np.uint8)))
    assert result.shape == (64, 64, 4)
    assert (result[..., 3] == 77).all() and (result[..., :3] == 9).all()


def test_targets_have_the_channels_of_the_network():
    for channels in (1, 3, 4):
        target = to_target(ramp(8, 6), channels)
        assert target.shape == (1, channels, 6, 8)
        assert target.min() >= -1 and target.max() <= 1


# Where something lies ------------------------------------------------------------------------


def blob_photo(x: float, y: float, size: float, degrees: float) -> tuple[Image.Image, np.ndarray]:
    rng = np.random.RandomState(3)
    picture = np.repeat(np.repeat(rng.randint(0, 255, [6, 6, 3], dtype=np.uint8), 8, 0), 8, 1)
    noise = Image.fromarray(rng.randint(0, 255, [5, 6, 3], dtype=np.uint8))
    background = noise.resize((220, 180), Image.Resampling.BICUBIC)
    return put_back(background, Crop(x, y, size, degrees), picture), picture


@pytest.mark.parametrize("degrees", [0.0, 10.0])
def test_a_known_picture_is_found_in_a_photo(degrees):
    photo, picture = blob_photo(130, 80, 90, degrees)
    from guidance.inversion.locate import _unit_contrast

    small = to_target(Image.fromarray(picture).resize((16, 16), Image.Resampling.BOX), 3)
    likeness = Likeness((16, 16), _unit_contrast(small.flatten(1), (16, 16)))
    found = find_crop(likeness, photo, (64, 64))
    assert math.hypot(found.x - 130, found.y - 80) < 6
    assert found.size == pytest.approx(90, rel=0.08)
    assert found.degrees == pytest.approx(degrees, abs=5)
    assert find_crop(likeness, photo, (64, 64)) == found


def test_a_photo_cropped_for_the_network_is_taken_whole(T, monkeypatch):
    from guidance.inversion.locate import _unit_contrast

    photo, picture = blob_photo(130, 80, 90, 0)
    small = to_target(Image.fromarray(picture).resize((16, 16), Image.Resampling.BOX), 3)
    likeness = Likeness((16, 16), _unit_contrast(small.flatten(1), (16, 16)))
    monkeypatch.setattr("guidance.inversion.locate.likeness_of", lambda *args: likeness)
    whole = Image.fromarray(picture).resize((96, 96), Image.Resampling.BICUBIC)
    assert choose_crop(T, whole) == central_crop((96, 96), (32, 32))
    assert math.hypot(choose_crop(T, photo).x - 130, choose_crop(T, photo).y - 80) < 6


def test_the_network_is_known_by_its_pictures(T, monkeypatch):
    monkeypatch.setattr("guidance.inversion.locate.PICTURES", 24)
    likeness = likeness_of(T)
    assert likeness.size == (16, 16) and len(likeness.pictures) == 24
    assert likeness.cost(torch.rand(5, 3 * 16 * 16)).shape == (5,)
