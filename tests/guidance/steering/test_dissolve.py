"""Prompts that follow one another."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from steer_doubles import GOLDEN, QUICK, Colour, redness

import sg3
from guidance.steering.dissolve import Timeline, dissolve
from sg3.errors import UserError


@pytest.fixture(scope="module")
def network():
    return sg3.load(GOLDEN / "official-sg3t-32.pkl").G_ema


def test_weights_cross_fade_around_the_times():
    line = Timeline((0, 10, 30), 40, 4.0)
    rows = [line.weights(step) for step in range(41)]
    assert all(sum(row) == pytest.approx(1) and min(row) >= 0 for row in rows)
    assert rows[0] == [1, 0, 0] and rows[8] == [1, 0, 0] and rows[12] == [0, 1, 0]
    assert rows[10] == pytest.approx([0.5, 0.5, 0]) and rows[40] == [0, 0, 1]
    assert Timeline((0, 5), 9, 0.0).weights(5) == [0, 1]
    for times, fade in (((1, 5), 1), ((0, 5, 5), 1), ((0, 9), 1), ((0, 5), 99), ((), 0)):
        with pytest.raises(UserError):
            Timeline(times, 9, fade)


@pytest.mark.slow
@pytest.mark.parametrize("space", ["w", "w+", "s"])
def test_the_image_follows_the_prompts(network, space):
    settings = {k: v for k, v in QUICK.items() if k not in ("steps", "keep", "lr")}
    run = dissolve(network, ["red", "blue"], Colour(), steps_each=10, space=space, **settings)
    steps = [step for (step,) in run]
    assert [step.index for step in steps] == list(range(21)) and steps[0].num_steps == 20
    assert redness(steps[6].image) > redness(steps[20].image) + 0.03
    jumps = [float((a.image - b.image).abs().mean()) for a, b in pairwise(steps)]
    assert max(jumps) < 0.2  # of a range of 2: no cut anywhere


@pytest.mark.slow
def test_the_frames_move_and_what_is_judged_does_not(network):
    settings = {k: v for k, v in QUICK.items() if k != "steps"}
    still, moved = (
        [s for (s,) in dissolve(network, ["red", "blue"], Colour(), steps_each=3, **more)]
        for more in (settings, settings | {"motion": "circle", "amount": 0.3})
    )
    assert [s.losses for s in still] == [s.losses for s in moved]
    torch.testing.assert_close(still[0].image, moved[0].image)
    assert (still[3].image - moved[3].image).abs().max() > 1e-3
    torch.testing.assert_close(network.synthesis.input.transform, torch.eye(3))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"steps_each": 0}, "at least 1"),
        ({"times": (0,)}, "one for each of 2 prompts"),
        ({"fade": 2.0}, "expected 0 to 1"),
        ({"motion": "jump"}, "motion"),
    ],
)
def test_wrong_times_are_refused(network, more, message):
    settings = {k: v for k, v in QUICK.items() if k != "steps"}
    with pytest.raises(UserError, match=message):
        dissolve(network, ["red", "blue"], Colour(), **settings, **more)


@pytest.mark.slow
def test_the_recipe_writes_a_video(tmp_path):
    from click.testing import CliRunner

    from recipes.dissolve import main

    options = ["--network", str(GOLDEN / "official-sg3t-32.pkl"), "--steps", "1"]
    prompts = ["--prompt", "a bald man", "--prompt", "a crown"]
    out = ["--outdir", str(tmp_path / "out")]
    result = CliRunner().invoke(main, [*options, *prompts, *out])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "dissolve.mp4").stat().st_size > 1000
    result = CliRunner().invoke(main, [*options, *prompts[:2], *out])
    assert result.exit_code == 2 and "at least two" in result.output
