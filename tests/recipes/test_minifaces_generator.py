"""Training of the bundled generator: latents, regression, distillation."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from guidance.encoders.mini_vocabulary import ATTRIBUTES
from recipes.minifaces.generator import distil, latents, pretrain
from recipes.minifaces.generator.muon import ADAM_RMS, Muon
from recipes.minifaces.generator.pretrain_losses import EncoderDistance, pixel_distance
from recipes.minifaces.world.attributes import (
    HAIR_ODDS,
    HAT_ODDS,
    sample_attributes,
    sample_pose,
)
from recipes.minifaces.world.renderer import render
from sg3.networks import build_network


@pytest.fixture(scope="module")
def world():
    """Codes of 1500 identities, and latents that encode them."""
    codes = latents.code_of_seeds(np.arange(1500))
    return codes, latents.z_of(codes, np.random.RandomState(0))


@pytest.mark.slow
def test_latents_of_the_world_are_standard_normal(world):
    _, z = world
    assert z.shape == (1500, latents.Z_DIM)
    assert np.abs(z.mean(axis=0)).max() < 0.14
    assert np.abs(z.std(axis=0) - 1).max() < 0.14
    correlation = np.corrcoef(z.T) - np.eye(latents.Z_DIM)
    assert np.abs(correlation).max() < 0.15


def test_latents_decode_to_their_codes(world):
    codes, z = world
    assert latents.CODE_DIM == codes.shape[1] <= latents.Z_DIM
    assert np.array_equal(latents.code_of(z)[:, : -latents.POSE_DIM], codes[:, : -latents.POSE_DIM])
    np.testing.assert_allclose(
        latents.code_of(z)[:, -latents.POSE_DIM :], codes[:, -latents.POSE_DIM :], atol=1e-4
    )


def test_normal_latents_have_the_odds_of_the_world():
    values = latents.values_of(np.random.RandomState(1).randn(20_000, latents.Z_DIM))
    hats = np.bincount(values["hat"], minlength=4) / 20_000
    np.testing.assert_allclose(hats, HAT_ODDS, atol=0.015)
    women = values["gender"] == 1
    bald = ATTRIBUTES["hair_style"].index("bald")
    assert (values["hair_style"][~women] == bald).mean() == pytest.approx(
        HAIR_ODDS["man"][bald], abs=0.015
    )
    assert not (values["hair_style"][women] == bald).any()
    assert not ((values["hat"] > 0) & (values["hair_style"] == latents.MOHAWK)).any()


@pytest.fixture(scope="module")
def images_and_codes():
    codes = torch.from_numpy(latents.code_of_seeds(np.arange(16)))
    from recipes.minifaces.world.renderer import render_seed

    images = np.stack([render_seed(seed).transpose(2, 0, 1) for seed in range(16)])
    return torch.from_numpy(images), codes


def small(**changes) -> pretrain.PretrainConfig:
    sizes = dict(cbase=64, cmax=8, w_dim=16, dcbase=64, dcmax=16, map_depth=2)
    return pretrain.PretrainConfig(data="", **sizes, **changes)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"lr": 0.02}, {"lr": 0.02, "muon": True}])
def test_pretraining_lowers_the_distance(images_and_codes, changes):
    images, codes = images_and_codes
    config = small(kimg=0.32, **changes)
    *_, last = pretrain.pretrain(config, images, codes)
    real = images / 127.5 - 1
    with torch.no_grad():
        before = pixel_distance(pretrain.Pretrainer(config).G(codes), real)
        after = pixel_distance(last.networks.G(codes), real)
    assert last.nimg == 320
    assert after < 0.93 * before


@pytest.mark.slow
def test_pretraining_by_features_lowers_their_distance(images_and_codes):
    images, codes = images_and_codes
    config = small(kimg=0.32, lr=0.02, picture_weight=0, encoder="mini-a")
    *_, last = pretrain.pretrain(config, images, codes)
    distance, real = EncoderDistance("mini-a"), images / 127.5 - 1
    with torch.no_grad():
        before = distance(pretrain.Pretrainer(config).G(codes), real)
        after = distance(last.networks.G(codes), real)
    assert after < 0.96 * before


def to_images(*renders: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(renders)).permute(0, 3, 1, 2) / 127.5 - 1


def test_a_mouth_counts_for_more_in_features_than_in_pixels():
    face, pose = replace(sample_attributes(3), beard="none", mouth="smile"), sample_pose(3)
    versions = (face, replace(face, mouth="frown"))
    plain, frown = to_images(*(render(f, "human", "flat", 64, pose) for f in versions)).split(1)
    paler = (
        plain + pixel_distance(plain, frown) / 3
    )  # at the same distance in pixels, spread over the image
    torch.testing.assert_close(pixel_distance(plain, paler), pixel_distance(plain, frown))
    distance = EncoderDistance("mini-a")
    assert distance(plain, plain) == pytest.approx(0, abs=1e-5)
    assert distance(frown, plain) > 1.5 * distance(paler, plain)


def test_steps_of_muon_are_nearly_orthogonal():
    torch.manual_seed(0)
    kernels = [torch.zeros(shape, requires_grad=True) for shape in ([8, 6, 3, 3], [40, 12])]
    optimizer = Muon(kernels, lr=0.01)
    for kernel in kernels:
        kernel.grad = torch.randn_like(kernel)
    optimizer.step()
    for kernel in kernels:
        step = kernel.detach().flatten(1)
        size = torch.linalg.svdvals(step) / (0.01 * ADAM_RMS * max(step.shape) ** 0.5)
        assert size.min() > 0.5 and size.max() < 1.3
        assert (step * kernel.grad.flatten(1)).sum() < 0  # downhill


def test_muon_gets_the_matrices_of_the_synthesis_network_only():
    learner = pretrain.Pretrainer(small(muon=True))
    adam, muon = learner.g_optimizers
    matrices = muon.param_groups[0]["params"]
    names = {id(p): name for name, p in learner.G.named_parameters()}
    assert all(names[id(p)].startswith("synthesis.") and p.ndim >= 2 for p in matrices)
    both = [*matrices, *adam.param_groups[0]["params"]]
    assert sorted(map(id, both)) == sorted(names)


def test_adversarial_pretraining_moves_both_networks(images_and_codes):
    config = small(kimg=0.016, adversarial=True)
    first = pretrain.Pretrainer(config)
    steps = list(pretrain.pretrain(config, *images_and_codes))
    last = steps[-1]
    assert set(last.losses) == {"picture", "feature", "G", "D"}
    assert all(np.isfinite(list(last.losses.values())))
    pairs = [(first.G.synthesis, last.networks.G.synthesis), (first.D, last.networks.D)]
    for before, after in pairs:
        moved = zip(before.parameters(), after.parameters(), strict=True)
        assert all(not torch.equal(a, b) for a, b in moved)
    fixed = zip(first.G.mapping.parameters(), last.networks.G.mapping.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in fixed)


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return build_network("stylegan3", pretrain.generator_kwargs(small())).eval()


def test_distilled_latents_draw_the_faces_they_encode(teacher):
    student = distil.distil(teacher)
    assert distil.unexplained(teacher, student) < 0.06
    z = np.random.RandomState(3).randn(200, latents.Z_DIM).astype(np.float32)
    with torch.no_grad():
        w = student.mapping(torch.from_numpy(z))[:, 0]
        expected = teacher.mapping(torch.from_numpy(latents.code_of(z)))[:, 0]
        other = teacher.mapping(torch.from_numpy(latents.code_of(-z)))[:, 0]
        image = student.synthesis(student.mapping(torch.from_numpy(z[:2])))
        torch.testing.assert_close(student(torch.from_numpy(z[:2])), image)
    near, far = (w - expected).norm(dim=1), (w - other).norm(dim=1)
    assert (near < far).float().mean() > 0.99
    # Where no two coordinates of a block are close, only pose and length are approximate.
    assert near.median() < 0.2 * far.median()


def test_a_mohawk_is_not_seen_under_a_hat(teacher):
    """The only interaction of two blocks: a hat and a mohawk give short hair."""
    student = distil.distil(teacher)
    z = np.zeros([2, latents.Z_DIM], np.float32)
    z[:, 0] = 2  # a man
    for name in latents.BLOCKS:
        z[:, latents.start_of(name)] += 2
    z[:, latents.start_of("hair_style") + latents.MOHAWK] = 6
    z[1, latents.start_of("hat") + 2] = 6
    values = latents.values_of(z)
    assert values["hair_style"].tolist() == [latents.MOHAWK, latents.SHORT]
    with torch.no_grad():
        w = student.mapping(torch.from_numpy(z))[:, 0]
        expected = teacher.mapping(torch.from_numpy(latents.code_of(z)))[:, 0]
        crossed = teacher.mapping(torch.from_numpy(latents.code_of(z[::-1].copy())))[:, 0]
    assert ((w - expected).norm(dim=1) < 0.3 * (w - crossed).norm(dim=1)).all()
