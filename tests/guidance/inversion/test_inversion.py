"""Projection and tuning: what was drawn is found again."""

from __future__ import annotations

import math

import pytest
import torch
from inversion_doubles import last, network, pictures

from guidance.inversion import project, tune
from guidance.inversion.config import ProjectConfig
from guidance.inversion.nuisance import Nuisance, inverse_moves, transform_of
from guidance.latents import map_latents, seed_latents
from guidance.learning_rate import learning_rate
from sg3.checkpoints.delta import apply_deltas, difference
from sg3.generate import inverse_transform


@pytest.fixture(scope="module")
def T():
    return network("stylegan3")


@pytest.fixture(scope="module")
def S2():
    return network("stylegan2")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stylegan3", "stylegan2"])
def test_projection_finds_an_image_of_the_network(kind, request):
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


def test_projection_is_reproducible_and_images_of_a_batch_are_independent(T):
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


@pytest.mark.slow
def test_the_transform_of_a_moved_image_is_found(T):
    from sg3.generate import user_transform

    ws = map_latents(T, seed_latents(5, 1, T.z_dim))
    with torch.no_grad(), user_transform(T, (0.06, -0.04), 8):
        target = T.synthesis(ws)
    options = {"steps": 60, "start_ws": ws, "exploration": 0, "prior": 1e-3}
    step = last(project(T, target, "scales", transform=True, **options))
    assert step.moved() == pytest.approx((0.06, -0.04, 8), abs=2.0) and step.moved()[2] > 4
    with torch.no_grad():
        torch.testing.assert_close(step.network(T).synthesis(step.ws), step.image)
    assert torch.equal(T.synthesis.input.transform, torch.eye(3))


def test_noise_stays_noise(S2):
    config = ProjectConfig()
    nuisance = Nuisance(S2, 2, config)
    names = {n for n, _ in S2.synthesis.named_buffers() if n.endswith("noise_const")}
    assert set(nuisance.buffers()) == names
    quiet = nuisance.noise_penalty().detach()
    with torch.no_grad():
        for noise in nuisance.noise.values():
            noise[1] = torch.linspace(-3, 5, noise.shape[-1])
    loud = nuisance.noise_penalty().detach()
    assert loud[0] == quiet[0] and loud[1] > 20 * quiet[1]
    nuisance.normalize_()
    for noise in nuisance.noise.values():
        assert noise.mean(dim=(1, 2, 3)).abs().max() < 1e-5
        torch.testing.assert_close(noise.square().mean(dim=(1, 2, 3)), torch.ones(2))


def test_the_network_of_a_step_renders_its_image_with_its_noise(S2):
    step = last(project(S2, pictures(S2, 5), "scales", steps=3, candidates=2))
    assert step.losses["noise"] > 0
    with torch.no_grad():
        torch.testing.assert_close(
            step.network(S2).synthesis(step.ws, noise_mode="const"), step.image
        )


def test_the_schedule_rises_and_falls():
    shares = [learning_rate(i, 100, 1.0) for i in range(100)]
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


def test_tuning_fits_a_copy_to_the_image(T):
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
    torch.testing.assert_close(again, steps[-1].image)


def test_tuning_stops_before_the_update_that_is_not_needed(T):
    ws = map_latents(T, seed_latents(1, 1, T.z_dim))
    steps = list(tune(T, ws, pictures(T, 1), "scales", steps=9))
    assert len(steps) == 1 and steps[0].reason == "close enough"


@pytest.mark.slow
def test_locality_preserves_other_images_and_is_reproducible(T):
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
