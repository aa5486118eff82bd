"""Prompts, distances, views and latents: the parts that steering is made of."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from guidance.cutouts import AUGMENTS, Augment, colour_matrices, pooling_matrices, random_views
from guidance.latents import LatentSpace, latent_statistics, map_latents, seed_latents
from guidance.prompts import Prompt, parse_prompt, parse_prompts
from guidance.steering.losses import cosine_distance, directional_distance, spherical_distance
from sg3.networks import build_network


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("red hair", [("red hair", 1.0)]),
        ("red hair:1.5", [("red hair", 1.5)]),
        ("  red   hair : .5 ", [("red hair", 0.5)]),
        ("a hat | beard:-0.5", [("a hat", 1.0), ("beard", -0.5)]),
        ("style: sketch", [("style: sketch", 1.0)]),
        ("at 10:30:1", [("at 10:30", 1.0)]),
    ],
)
def test_prompts_and_their_weights(text, expected):
    assert parse_prompt(text) == tuple(Prompt(*pair) for pair in expected)


@pytest.mark.parametrize("text", ["", "   ", "a | ", ":2", "hat:0"])
def test_unusable_prompts_are_refused(text):
    with pytest.raises(ValueError, match="prompt"):
        parse_prompt(text)


def test_several_texts_become_one_list():
    assert parse_prompts(["a|b:2", Prompt("c", 3)]) == (Prompt("a"), Prompt("b", 2), Prompt("c", 3))
    with pytest.raises(ValueError, match="got none"):
        parse_prompts([])


def test_spherical_distance_is_half_the_squared_angle():
    angles = torch.linspace(0.01, 3.1, 50, dtype=torch.float64)
    x = torch.stack([angles.cos(), angles.sin()], dim=1)
    y = torch.tensor([1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(spherical_distance(x, y), angles.square() / 2)
    torch.testing.assert_close(cosine_distance(x, y), 1 - angles.cos())


@pytest.mark.parametrize("sign", [1, -1])
def test_spherical_distance_has_a_finite_gradient_at_the_ends(sign):
    x = torch.tensor([1.0, 0.0], requires_grad=True)
    spherical_distance(x, sign * x.detach()).backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize(("start", "length", "out"), [(0, 40, 40), (3, 29, 16), (7, 33, 20)])
def test_pooling_matrices_are_adaptive_average_pooling(start, length, out):
    image = torch.randn(1, 2, 40, 40)
    left = min(2, start)
    crop = image[:, :, start : start + length, left : left + length]
    rows = pooling_matrices(torch.tensor([start]), torch.tensor([length]), 40, out)
    columns = pooling_matrices(torch.tensor([left]), torch.tensor([length]), 40, out)
    expected = F.adaptive_avg_pool2d(crop, out)
    torch.testing.assert_close(rows @ image @ columns.transpose(1, 2), expected)


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.slow
def test_cutouts_are_windows_of_the_image_with_the_sizes_of_the_recipe():
    side, size, count = 96, 32, 4000
    ramp = torch.arange(side).float().expand(side, side)
    image = torch.stack([ramp, ramp.T, torch.full_like(ramp, 5)])
    views = random_views(image[None], count, size, generators(1), Augment())[0]
    assert views.shape == (count, 3, size, size)
    torch.testing.assert_close(views[:, 2], torch.full_like(views[:, 2], 5))
    # A linear ramp pooled from s to `size` samples spans s·(1 − 1/size) or a little more.
    span = views[:, 0, 0, -1] - views[:, 0, 0, 0]
    assert span.min() >= 30 and span.max() <= 95
    # u^½ prefers large windows: mean side is m + (S − m)·2/3, against ½ for a uniform draw.
    assert span.mean().item() == pytest.approx((32 + 64 * 2 / 3) * (1 - 1 / 32), rel=0.03)


def test_small_images_are_shown_whole():
    image = torch.rand(2, 3, 24, 24)
    same = random_views(image, 3, 32, generators(0, 1), Augment())
    torch.testing.assert_close(same, image[:, None].expand(-1, 3, -1, -1, -1))
    light = random_views(image, 3, 32, generators(0, 1), AUGMENTS["light"])
    assert light.shape == same.shape
    assert 0.005 < (light - same).abs().mean() < 0.3


@pytest.mark.parametrize("side", [24, 48])
def test_views_of_an_image_do_not_depend_on_its_neighbours(side):
    images = torch.rand(2, 3, side, side)
    together = random_views(images, 4, 32, generators(5, 6), AUGMENTS["strong"])
    alone = random_views(images[1:], 4, 32, generators(6), AUGMENTS["strong"])
    torch.testing.assert_close(together[1:], alone)
    other = random_views(images[1:], 4, 32, generators(7), AUGMENTS["strong"])
    assert (other - alone).abs().mean() > 0.01


@pytest.mark.parametrize("side", [24, 48])
def test_gradients_reach_every_pixel(side):
    images = torch.rand(1, 3, side, side, requires_grad=True)
    random_views(images, 32, 32, generators(0), AUGMENTS["light"]).sum().backward()
    assert (images.grad > 0).float().mean() > 0.98


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    size = {"img_resolution": 16, "img_channels": 3, "channel_base": 256, "channel_max": 16}
    return build_network(
        "stylegan3", {"z_dim": 24, "c_dim": 0, "w_dim": 20, "num_layers": 4, **size}
    ).eval()


def test_statistics_describe_w(network):
    statistics = latent_statistics(network, components=20)
    z = torch.randn([4000, 24], generator=torch.Generator().manual_seed(1))
    ws = map_latents(network, z)
    torch.testing.assert_close(statistics.mean, ws[:, 0].mean(dim=0), atol=0.06, rtol=0)
    torch.testing.assert_close(statistics.std, ws[:, 0].std(dim=0), atol=0.06, rtol=0.05)
    coordinates = statistics.whiten(ws[:, 0])
    covariance = coordinates.T @ coordinates / len(coordinates)
    torch.testing.assert_close(covariance, torch.eye(20), atol=0.12, rtol=0)
    assert statistics.sigma(ws).square().mean().item() == pytest.approx(1, abs=0.05)
    at_mean = statistics.mean.expand(1, network.num_ws, -1)
    assert statistics.sigma(at_mean).item() == pytest.approx(0, abs=1e-5)


def test_statistics_are_kept_until_the_mapping_changes(network, monkeypatch):
    first = latent_statistics(network)
    with monkeypatch.context() as patch:
        patch.setattr("guidance.latents.map_latents", None)  # would fail if it were called
        torch.testing.assert_close(latent_statistics(network).mean, first.mean)
    with torch.no_grad():
        network.mapping.fc1.bias.add_(100)
        changed = latent_statistics(network)
        network.mapping.fc1.bias.sub_(100)
    assert (changed.mean - first.mean).abs().max() > 0.1


def test_seeds_are_those_of_the_official_tools(network):
    z = seed_latents(7, 3, 24)
    np.testing.assert_array_equal(z[:1], np.random.RandomState(7).randn(1, 24))


def test_classes_are_required_or_refused(network):
    with pytest.raises(ValueError, match="no classes"):
        map_latents(network, torch.zeros(1, 24), class_index=1)


@pytest.mark.parametrize("basis", ["pca", "std"])
@pytest.mark.parametrize("per_layer", [False, True])
def test_a_space_meets_its_start_exactly(network, basis, per_layer):
    statistics = latent_statistics(network, components=6)
    start = torch.randn(2, network.num_ws, 20)
    space = LatentSpace(statistics, start, basis, per_layer)
    assert space.start.shape[1] == (network.num_ws if per_layer else 1)
    torch.testing.assert_close(space.decode(space.start), start, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("basis", ["pca", "std"])
@pytest.mark.parametrize("per_layer", [False, True])
def test_the_bound_holds(network, basis, per_layer):
    statistics = latent_statistics(network, components=6)
    ws = map_latents(network, seed_latents(0, 2, 24))
    space = LatentSpace(statistics, ws, basis, per_layer)
    far = space.start + 4 * torch.randn(space.start.shape)
    assert statistics.sigma(space.decode(far)).min() > 1.5
    space.bound_(far, 1.5)
    sigma = statistics.sigma(space.decode(far))
    assert sigma.max() <= 1.5 + 1e-3
    assert sigma.min() > 1.2  # pulled to the bound, not to the middle
    near = space.start * 0.5
    kept = near.clone()
    space.bound_(near, 3.0)
    torch.testing.assert_close(near, kept)


def test_unbounded_means_unbounded(network):
    statistics = latent_statistics(network, components=6)
    space = LatentSpace(statistics, map_latents(network, seed_latents(0, 1, 24)), "pca", False)
    far = torch.full_like(space.start, 9.0)
    space.bound_(far, 0)
    assert far.max().item() == 9.0
    assert math.isclose(statistics.sigma(space.decode(far)).item(), 9.0, rel_tol=1e-3)


def test_a_rotated_disc_stays_a_disc_in_a_wide_image():
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(64.0), indexing="ij")
    disc = (12 - ((y - 15.5) ** 2 + (x - 31.5) ** 2).sqrt()).clamp(-1, 1)
    image = disc.expand(1, 3, 32, 64)
    views = random_views(image, 8, 64, generators(0), Augment(rotate_deg=40.0))[0]
    assert (views - image).abs().mean() < 0.02


def test_directional_distance_is_that_of_the_changes():
    wanted = torch.tensor([0.3, 0.4])
    far = torch.tensor([[30.0, 40.0], [-30.0, -40.0], [40.0, -30.0]])
    expected = torch.tensor([0.0, 2.0, 1.0])
    torch.testing.assert_close(directional_distance(far, wanted), expected, atol=1e-5, rtol=0)
    still = torch.zeros(2, requires_grad=True)
    distance = directional_distance(still, wanted, min_change=0.02)
    assert distance.item() == 1
    distance.backward()  # finite, and towards what is wanted
    torch.testing.assert_close(still.grad, -torch.tensor([0.6, 0.8]) / 0.02)


@pytest.mark.parametrize("side", [24, 48])
def test_flips_are_mirror_images(side):
    image = torch.rand(1, 3, side, side)
    plain = random_views(image, 2, 32, generators(3), Augment())
    mirrored = random_views(image, 2, 32, generators(3), Augment(flip=1.0))
    torch.testing.assert_close(mirrored, plain.flip(4), atol=1e-5, rtol=0)
    some = random_views(image, 400, 32, generators(3), Augment(flip=0.25))
    if side == 24:  # cutouts differ from one another
        left = (some - image[:, None]).abs().amax(dim=(0, 2, 3, 4)) < 1e-4
        assert 0.15 < 1 - left.float().mean() < 0.35


def test_perspective_brings_one_border_nearer():
    ramp = torch.linspace(-1, 1, 33).expand(33, 33)
    image = torch.stack([ramp, ramp.T, torch.ones_like(ramp)])[None]
    views = random_views(image, 300, 64, generators(2), Augment(perspective=0.4))[0]
    middle = views[:, :2, 16, 16]
    torch.testing.assert_close(middle, torch.zeros_like(middle), atol=1e-5, rtol=0)
    # At the right end of the middle row, x is 1/(1 + u) for a tilt u within 0.2.
    seen = views[:, 0, 16, 28] / (ramp[0, 28])
    assert 0.8 < seen.min() < 0.9 and 1.1 < seen.max() < 1.3
    assert views[:, 2].min() > 1 - 1e-5  # nothing beyond the border but its mirror image


def test_hue_turns_and_saturation_fades():
    third = torch.tensor(2 * math.pi / 3)
    turned = colour_matrices(third, torch.tensor(1.0))
    torch.testing.assert_close(turned @ torch.eye(3), torch.eye(3).roll(1, 0), atol=1e-6, rtol=0)
    grey = colour_matrices(torch.tensor(0.7), torch.tensor(0.0))
    torch.testing.assert_close(grey, torch.full([3, 3], 1 / 3), atol=1e-6, rtol=0)
    image = torch.rand(1, 3, 24, 24)
    views = random_views(image, 4, 32, generators(1), Augment(hue=90.0, saturation=0.5))
    torch.testing.assert_close(views.mean(dim=2), image.mean(dim=1)[:, None].expand(1, 4, 24, 24))
    assert (views - image[:, None]).abs().mean() > 0.02


@pytest.mark.parametrize("wrong", [{"perspective": 0.6}, {"flip": -0.1}, {"hue": 200}])
def test_unusable_ranges_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Augment(**wrong)


@pytest.mark.parametrize("prompts", [3, [3], ["a hat", None]])
def test_prompts_of_another_type_are_refused(prompts):
    with pytest.raises(ValueError, match=r"prompts: got .*, expected a text, an image or a list"):
        parse_prompts(prompts)
