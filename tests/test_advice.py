"""The training doctor: every finding once, none for a healthy run."""

import numpy as np
import pytest

from recipes.minifaces.world import render_seed
from sg3.training import tensorboard
from sg3.training.advice import TrainingDoctor, grid_diversity


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


def test_a_healthy_run_hears_nothing():
    random = np.random.RandomState(0)
    ticks = [
        (
            progress(sec_per_kimg=30 + random.rand() * 5, augment_p=min(i / 100, 0.7)),
            stats(g_loss=1 + random.rand(), signs_real=0.6),
            0.2 + 0.05 * random.rand(),
        )
        for i in range(100)
    ]
    assert all_advice(TrainingDoctor(), ticks) == []


CASES = {
    "nonfinite": ([(progress(nonfinite_gradients=i), stats(), None) for i in (0, 3, 9)], "3 grad"),
    "nan": ([(progress(), stats(real=float("nan")), None)] * 3, "not numbers any more"),
    "winning": (
        [(progress(), stats(signs_real=0.97, signs_fake=-0.99, g_loss=i), None) for i in range(9)],
        "--gamma",
    ),
    "high_p": ([(progress(augment_p=p), stats(), None) for p in (0.7, 0.85, 0.9)], "p = 0.85"),
    "collapse": (
        [(progress(), stats(), d) for d in (0.2, 0.25, 0.1, 0.2, 0.1, 0.09, 0.05)],
        "modes are being lost",
    ),
    "slow": (
        [(progress(sec_per_kimg=s), stats(), None) for s in [30.0] * 10 + [70.0, 80.0]],
        "2.3 times as long",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_finding_comes_once(case):
    ticks, words = CASES[case]
    advice = all_advice(TrainingDoctor(), ticks)
    assert len(advice) == 1 and words in advice[0]


def test_a_strong_d_whose_g_improves_is_no_finding():
    ticks = [
        (progress(), stats(signs_real=0.97, signs_fake=-0.99, g_loss=9 - i), None) for i in range(9)
    ]
    assert all_advice(TrainingDoctor(), ticks) == []


@pytest.mark.parametrize("case", CASES)
def test_a_continued_run_goes_on_where_it_stopped(case):
    ticks, _ = CASES[case]
    expected = all_advice(TrainingDoctor(), ticks)
    for cut in range(len(ticks)):
        first, second = TrainingDoctor(), TrainingDoctor()
        heard = all_advice(first, ticks[:cut])
        second.load_state(first.state())
        assert heard + all_advice(second, ticks[cut:]) == expected


def test_variety_falls_when_modes_are_lost():
    faces = np.stack([render_seed(i) for i in range(64)])
    faces = faces if faces.shape[1] == 3 else faces.transpose(0, 3, 1, 2)
    noise = np.random.RandomState(0).randint(-20, 20, faces.shape)

    def with_noise(images):
        return np.clip(images + noise, 0, 255).astype(np.uint8)

    healthy = grid_diversity(with_noise(faces))
    four_modes = grid_diversity(with_noise(faces[np.arange(64) % 4]))
    one_mode = grid_diversity(with_noise(faces[np.zeros(64, int)]))
    assert one_mode < 0.15 * healthy and one_mode < four_modes < healthy
    assert grid_diversity(faces[[5] * 8]) == pytest.approx(0, abs=1e-6)
    assert grid_diversity(np.zeros([3, 1, 5, 7], np.uint8)) == 0


def test_tensorboard_gets_every_number(monkeypatch):
    class Writer:
        def __init__(self):
            self.seen = {}

        def add_scalar(self, name, value, global_step):
            self.seen[name] = (value, global_step)

        def flush(self):
            pass

    writer = Writer()
    tensorboard.write_tick(writer, progress(note="text"), stats(), 4000)
    assert writer.seen["Progress/sec_per_kimg"] == (30.0, 4000)
    assert writer.seen["Loss/scores/real"] == (0.4, 4000)
    assert "Progress/note" not in writer.seen


def test_without_tensorboard_there_is_no_writer(monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert tensorboard.open_writer(tmp_path) is None


def test_real_events(tmp_path):
    pytest.importorskip("tensorboard")
    writer = tensorboard.open_writer(tmp_path)
    tensorboard.write_tick(writer, progress(), stats(), 4000)
    writer.close()
    assert list(tmp_path.glob("events.out.tfevents*"))
