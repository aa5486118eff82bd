"""Steering: the latent follows the prompt, stays near the manifold, and is reproducible."""

from __future__ import annotations

import pytest
import torch
from steer_doubles import GOLDEN, QUICK, Colour, last, redness

import guidance
import sg3
from guidance.latents import latent_statistics, map_latents, seed_latents
from guidance.learning_rate import learning_rate


@pytest.fixture(scope="module")
def network():
    return sg3.load(GOLDEN / "official-sg3t-32.pkl").G_ema


@pytest.mark.slow
def test_a_prompt_attracts_and_its_negative_repels(network):
    steps = list(guidance.steer(network, "red", Colour(), start="mean", **QUICK))
    assert [step.index for step in steps] == list(range(13))
    assert all(step.num_steps == 12 for step in steps)
    start, end = steps[0], steps[-1]
    assert end.ws.shape == (1, network.num_ws, network.w_dim)
    assert end.image.shape == (1, 3, 32, 32)
    assert redness(end.image) > redness(start.image) + 0.02
    assert end.loss < start.loss
    assert end.losses["similarity"] > start.losses["similarity"]
    away = last(guidance.steer(network, "red:-1", Colour(), start="mean", **QUICK))
    assert redness(away.image) < redness(start.image)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{}, {"space": "w+"}, {"basis": "std"}, {"distance": "cosine"}]
)
def test_every_space_and_distance_gets_closer(network, settings):
    steps = list(guidance.steer(network, "blue", Colour(), start="seed", **QUICK, **settings))
    assert steps[-1].losses["distance"] < steps[0].losses["distance"] - 0.005
    rows = steps[-1].ws[0]
    same = torch.allclose(rows, rows[:1].expand_as(rows), atol=1e-5)
    assert same == (settings.get("space") != "w+")


@pytest.mark.slow
def test_the_same_seed_gives_the_same_result_and_another_seed_another(network):
    options = {**QUICK, "steps": 3, "augment": "light", "cutouts": 2}
    a = last(guidance.steer(network, "red", Colour(), seed=5, **options))
    torch.manual_seed(99)
    b = last(guidance.steer(network, "red", Colour(), seed=5, **options))
    c = last(guidance.steer(network, "red", Colour(), seed=6, **options))
    assert torch.equal(a.ws, b.ws) and a.loss == b.loss
    assert (a.ws - c.ws).abs().max() > 1e-3


@pytest.mark.slow
def test_side_by_side_equals_one_by_one(network):
    options = {**QUICK, "steps": 4, "augment": "light", "cutouts": 2}
    sets = ["red", ["blue:2", "grey"]]
    batch = list(guidance.steer_batch(network, sets, Colour(), seeds=[3, 4], **options))[-1]
    for i, seed in enumerate([3, 4]):
        alone = last(guidance.steer(network, sets[i], Colour(), seed=seed, **options))
        torch.testing.assert_close(batch[i].ws, alone.ws, atol=2e-3, rtol=1e-3)
        assert batch[i].loss == pytest.approx(alone.loss, abs=1e-3)


def test_the_start_is_the_best_candidate(network):
    encoder, options = Colour(), {**QUICK, "steps": 0, "candidates": 16}
    start = last(guidance.steer(network, "red", encoder, start="best", **options))
    statistics = latent_statistics(network)
    ws = statistics.mean.lerp(map_latents(network, seed_latents(0, 16, network.z_dim)), 0.7)
    images = network.synthesis(ws, noise_mode="const")
    scores = encoder.encode_images(images) @ encoder.encode_texts(["red"])[0]
    torch.testing.assert_close(start.ws[0], ws[scores.argmax()], atol=1e-5, rtol=1e-5)
    alone = last(guidance.steer(network, "red", encoder, start="seed", **options))
    torch.testing.assert_close(alone.ws[0], ws[0], atol=1e-5, rtol=1e-5)


def test_a_given_start_is_where_it_begins(network):
    ws = map_latents(network, seed_latents(11, 1, network.z_dim))
    first = next(guidance.steer(network, "red", Colour(), start_ws=ws, **QUICK))
    torch.testing.assert_close(first.ws, ws, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="start_ws"):
        guidance.steer(network, "red", Colour(), start_ws=ws[:, :1])


@pytest.mark.slow
def test_the_bound_and_the_prior_keep_the_latent_near(network):
    far = {**QUICK, "lr": 0.8, "start": "seed", "prior": 0}
    free = last(guidance.steer(network, "red", Colour(), **far, max_sigma=0))
    bound = last(guidance.steer(network, "red", Colour(), **far, max_sigma=1.2))
    assert free.sigma > 1.5 > 1.21 >= bound.sigma
    pulled = last(guidance.steer(network, "red", Colour(), **(far | {"prior": 5}), max_sigma=0))
    assert pulled.sigma < free.sigma / 2


@pytest.mark.slow
def test_keep_preserves_the_rest(network):
    """`keep` holds the coordinates near the start; the loss that is shown contains it."""
    moved = []
    for keep in (0, 5):
        steps = list(guidance.steer(network, "red", Colour(), **(QUICK | {"keep": keep})))
        moved.append(float((steps[-1].ws - steps[0].ws).norm()))
        terms = steps[-1].losses
        assert steps[-1].loss == pytest.approx(sum(terms[k] for k in ("distance", "prior", "keep")))
    assert moved[1] < 0.5 * moved[0]


@pytest.mark.slow
def test_small_images_get_more_candidates(network, monkeypatch):
    seen = []
    forward = network.synthesis.forward
    monkeypatch.setattr(
        network.synthesis, "forward", lambda ws, **o: (seen.append(len(ws)), forward(ws, **o))[1]
    )
    options = {name: value for name, value in QUICK.items() if name != "candidates"}
    next(guidance.steer(network, "red", Colour(), **options))
    assert network.img_resolution <= 64
    assert sum(seen) - 1 == 128
    seen.clear()
    options = options | {"candidates": 16, "generations": None}
    next(guidance.steer(network, "red", Colour(), **options))
    assert sum(seen) - 1 == 16 + 4 * 8


def test_how_much_it_keeps_depends_on_the_start(network):
    options = {name: value for name, value in QUICK.items() if name != "keep"} | {"steps": 1}

    def keep_term(**settings):
        term = last(guidance.steer(network, "red", Colour(), **options | settings)).losses["keep"]
        given = last(guidance.steer(network, "red", Colour(), **options | settings, keep=1.0))
        return term / given.losses["keep"]

    assert keep_term(start="best") == pytest.approx(1)
    assert keep_term(start="seed") == pytest.approx(0.1)


@pytest.mark.slow
def test_crossing_the_best_finds_a_better_start(network):
    options = QUICK | {"steps": 0, "start": "best"}

    def similarity(**settings):
        return last(guidance.steer(network, "red", Colour(), **options | settings)).losses[
            "similarity"
        ]

    bred = similarity(candidates=8, generations=4)
    assert bred == similarity(candidates=8, generations=4)
    assert bred > similarity(candidates=8)
    assert bred > similarity(candidates=24)  # as many pictures, none of them bred


def test_images_are_rendered_on_first_use(network, monkeypatch):
    calls = []
    forward = network.synthesis.forward
    monkeypatch.setattr(
        network.synthesis, "forward", lambda ws, **o: (calls.append(len(ws)), forward(ws, **o))[1]
    )
    steps = list(guidance.steer(network, "red", Colour(), **(QUICK | {"steps": 3})))
    assert calls == [4, 1, 1, 1, 1]  # candidates, then one per loss
    assert steps[2].image is steps[2].image
    assert len(calls) == 6


def test_weights_of_the_network_are_left_alone(network):
    copy = sg3.load(GOLDEN / "official-sg3t-32.pkl").G_ema.requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in copy.state_dict().items()}
    last(guidance.steer(copy, "red", Colour(), **(QUICK | {"steps": 2})))
    assert all(p.grad is None for p in copy.parameters())
    assert all(torch.equal(before[name], t) for name, t in copy.state_dict().items())


def test_it_runs_inside_no_grad(network):
    with torch.no_grad():
        steps = list(guidance.steer(network, "red", Colour(), start="seed", **QUICK))
    assert steps[-1].loss < steps[0].loss


def test_grey_and_conditional_networks():
    from sg3.networks import build_network

    torch.manual_seed(0)
    size = {"img_resolution": 16, "img_channels": 1, "channel_base": 256, "channel_max": 8}
    grey = build_network(
        "stylegan3", {"z_dim": 8, "c_dim": 3, "w_dim": 8, "num_layers": 4, **size}
    ).eval()
    options = QUICK | {"steps": 1}
    step = last(guidance.steer(grey, "red", Colour(), class_index=2, **options))
    assert step.image.shape == (1, 1, 16, 16)
    with pytest.raises(ValueError, match="class"):
        guidance.steer(grey, "red", Colour(), **options)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"space": "z"}, "space: got 'z', expected w, w+ or s"),
        ({"start": "nowhere"}, "start"),
        ({"steps": -1}, "steps"),
        ({"candidates": 0}, "candidates"),
        ({"generations": -1}, "generations"),
        ({"lr": float("nan")}, "lr"),
        ({"max_sigma": -1}, "max_sigma"),
        ({"ema": 1}, "ema"),
        ({"cutouts": 0}, "cutouts"),
        ({"class_index": 1}, "class"),
    ],
)
def test_unusable_settings_are_refused_before_the_first_step(network, settings, message):
    with pytest.raises(ValueError) as caught:
        guidance.steer(network, "red", Colour(), **settings)
    assert message in str(caught.value)


@pytest.mark.parametrize("prompts", ["", [], ["red", " "]])
def test_empty_prompts_are_refused(network, prompts):
    with pytest.raises(ValueError, match="prompt"):
        guidance.steer(network, prompts, Colour())


def test_the_learning_rate_rises_holds_and_falls():
    rates = [learning_rate(i, 100, 0.2) for i in range(100)]
    assert rates[0] == pytest.approx(0.04)
    assert rates[4:75] == pytest.approx([0.2] * 71)
    assert rates[99] < 0.001
    assert rates[5:] == sorted(rates[5:], reverse=True)
