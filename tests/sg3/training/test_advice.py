"""Training doctor: every finding once, none for a healthy run."""

import json

import numpy as np
import pytest

from recipes.minifaces.world.renderer import render, sample_attributes, sample_pose
from sg3.training.advice import COLLAPSED_FRACTION, TrainingDoctor, grid_diversity


def stats(real=0.4, fake=-0.4, signs_real=0.5, signs_fake=-0.5, g_loss=0.9):
    means = {
        "Loss/scores/real": real,
        "Loss/scores/fake": fake,
        "Loss/signs/real": signs_real,
        "Loss/signs/fake": signs_fake,
        "Loss/G/loss": g_loss,
    }
    return {name: {"num": 100, "mean": mean, "std": 1.0} for name, mean in means.items()}


def progress(**changes):
    return {"sec_per_kimg": 30.0, "nonfinite_gradients": 0, "augment_p": 0.3, **changes}


def all_advice(doctor, ticks):
    return [text for tick in ticks for text in doctor.check(*tick)]


def test_a_healthy_run_gets_no_advice():
    random = np.random.RandomState(0)
    ticks = [
        (
            progress(sec_per_kimg=30 + random.rand() * 5, augment_p=min(i / 100, 0.7)),
            stats(g_loss=1 + random.rand(), signs_real=0.6),
            0.7 + 0.2 * random.rand(),
        )
        for i in range(100)
    ]
    assert all_advice(TrainingDoctor(), ticks) == []


CASES = {
    "nonfinite": ([(progress(nonfinite_gradients=i), stats(), None) for i in (0, 3, 9)], "3 grad"),
    "nan": ([(progress(), stats(real=float("nan")), None)] * 3, "scores are NaN"),
    "winning": (
        [(progress(), stats(signs_real=0.97, signs_fake=-0.99, g_loss=i), None) for i in range(9)],
        "`gamma`",
    ),
    "high_p": ([(progress(augment_p=p), stats(), None) for p in (0.7, 0.85, 0.9)], "p = 0.85"),
    "collapse": (
        [(progress(), stats(), d) for d in (0.8, 0.9, 0.4, 0.8, 0.4, 0.36, 0.2)],
        "only 36% as diverse as real ones: modes are missing; return to an earlier network",
    ),
    "inherited collapse": (
        [(progress(), stats(), d, True) for d in (0.3, 0.31, 0.28)],
        "the network that `resume` names has lost them",
    ),
    "collapse after a good start": (
        [(progress(), stats(), d, True) for d in (0.7, 0.31, 0.28)],
        "return to an earlier network",
    ),
    "slow": (
        [(progress(sec_per_kimg=s), stats(), None) for s in [30.0] * 10 + [80.0, 75.0, 80.0]],
        "2.5 times as long",
    ),
    "waiting": (
        [(progress(waiting=w), stats(), None) for w in (0.5, 0.0, 0.12, 0.2, 0.4, 0.5)],
        "24% of the time for 3 ticks: try more `workers`",
    ),
    "winning without signs": (
        [(progress(), stats(real=2.5, fake=-2.0, g_loss=2 + i), None) for i in range(9)],
        "`dlr`",
    ),
    "null scores": ([(progress(), stats(fake=None), None)] * 3, "scores are NaN"),
}


@pytest.mark.parametrize("case", CASES)
def test_every_finding_comes_once(case):
    ticks, words = CASES[case]
    advice = all_advice(TrainingDoctor(), ticks)
    assert len(advice) == 1 and words in advice[0]


def steadily(g_losses):
    return [
        (progress(), stats(signs_real=0.97, signs_fake=-0.99, g_loss=g), None) for g in g_losses
    ]


NO_CASES = {
    "strong D, G improves": steadily([9.0 - i / 10 for i in range(40)]),
    **{
        f"strong D, flat G, seed {seed}": steadily(4 + 0.2 * np.random.RandomState(seed).randn(100))
        for seed in range(5)
    },
    "strong D for a short while": steadily([1, 2, 3, 4, 5]),
    "one slow tick": [
        (progress(sec_per_kimg=200.0 if i in (0, 15) else 30.0), stats(), None) for i in range(30)
    ],
    "one odd grid": [(progress(), stats(), d) for d in (0.8, 0.8, 0.2, 0.8, 0.2, 0.8)],
    "diversity grows from nothing": [(progress(), stats(), d) for d in (0.01, 0.1, 0.2, 0.4, 0.7)],
    # Seen in runs on Fashion-MNIST: noise before training, then smooth first images.
    "a healthy run's first grids": [(progress(), stats(), d) for d in (0.69, 0.59, 0.66, 0.9)],
    "waiting for single ticks": [
        (progress(waiting=w), stats(), None) for w in (0.3, 0.3, 0.1, 0.3, 0.3, 0.02, 0.0)
    ],
    "no fakes yet": [(progress(), {}, None)] * 20,
}


@pytest.mark.parametrize("case", NO_CASES)
def test_harmless_patterns_are_no_finding(case):
    assert all_advice(TrainingDoctor(), NO_CASES[case]) == []


def test_advice_is_one_sentence_that_names_something_to_try():
    for case, (ticks, _) in CASES.items():
        (text,) = all_advice(TrainingDoctor(), ticks)
        assert "\n" not in text and ". " not in text, case
        assert "`" in text or "check for" in text, case


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_does_not_repeat_advice(case):
    ticks, _ = CASES[case]
    expected = all_advice(TrainingDoctor(), ticks)
    for cut in range(len(ticks)):
        first, second = TrainingDoctor(), TrainingDoctor()
        before = all_advice(first, ticks[:cut])
        state = first.state()
        second.load_state(json.loads(json.dumps(state)))
        assert second.state() == state
        assert before + all_advice(second, ticks[cut:]) == expected


def faces(identity):
    """64 renders: face `i` has the features of `identity(i)` and its own pose."""
    images = [render(sample_attributes(identity(i)), pose=sample_pose(i)) for i in range(64)]
    return np.stack(images).transpose(0, 3, 1, 2)


def test_diversity_falls_when_modes_are_lost():
    healthy = grid_diversity(faces(lambda i: i))
    assert grid_diversity(faces(lambda i: i + 64)) == pytest.approx(healthy, rel=0.1)
    few, one = grid_diversity(faces(lambda i: i % 8)), grid_diversity(faces(lambda i: 0))
    assert one < few < COLLAPSED_FRACTION * healthy


def test_diversity_ignores_noise():
    healthy = faces(lambda i: i)
    noise = np.random.RandomState(0).randint(-20, 20, healthy.shape)
    copies = np.clip(healthy[np.arange(64) % 4] + noise, 0, 255).astype(np.uint8)
    assert grid_diversity(copies) < 0.2 * grid_diversity(healthy)


def test_diversity_of_copies_and_of_odd_shapes():
    assert grid_diversity(faces(lambda i: i)[[5] * 8]) == pytest.approx(0, abs=1e-6)
    assert grid_diversity(np.zeros([3, 1, 5, 7], np.uint8)) == 0
    assert grid_diversity(np.full([1, 3, 16, 16], 9, np.uint8)) == 0
