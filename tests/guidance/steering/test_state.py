"""Runs that are saved and resumed, as state and as file."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from steer_doubles import GOLDEN, QUICK, Colour

import guidance
import sg3
from guidance.steering.dissolve import dissolve
from guidance.steering.stall import Stall
from guidance.steering.state import read_state, write_state
from sg3.errors import UserError

OPTIONS = QUICK | {"steps": 6, "augment": "light", "cutouts": 2, "start": "seed"}


@pytest.fixture(scope="module")
def network():
    return sg3.load(GOLDEN / "official-sg3t-32.pkl").G_ema


def same(one, other) -> bool:
    return len(one) == len(other) and all(
        a.losses == b.losses and torch.equal(a.ws, b.ws)
        for first, second in zip(one, other, strict=True)
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"space": "s", "transform": "free"}, {"patience": 2}])
def test_a_loaded_state_continues_the_run(network, settings):
    def begin():
        return guidance.steer_batch(network, ["red", "blue"], Colour(), **(OPTIONS | settings))

    whole, half = list(begin()), begin()
    for _ in range(3):
        next(half)
    state = {k: v.clone() if torch.is_tensor(v) else v for k, v in half.state_dict().items()}
    rest = list(half)
    again = begin()
    next(again)  # a run that has already started continues from the state, too
    again.load_state_dict(state)
    again = list(again)
    assert [steps[0].index for steps in again] == list(range(len(whole)))
    assert same(again, whole) and same(again[3:], rest)


def test_the_state_before_the_first_step_is_a_state(network):
    run = guidance.steer_batch(network, ["red"], Colour(), **OPTIONS)
    state = {k: v.clone() if torch.is_tensor(v) else v for k, v in run.state_dict().items()}
    assert state["losses"] == [] and state["points.latent"].shape[0] == 0 and state["moves"] == 0
    whole = list(run)
    run.load_state_dict(state)  # back to the start
    assert same(list(run), whole)


def test_a_state_of_another_start_is_refused(network):
    run = guidance.steer_batch(network, ["red"], Colour(), **OPTIONS)
    other = guidance.steer_batch(network, ["red"], Colour(), **(OPTIONS | {"seed": 3}))
    with pytest.raises(ValueError, match="another latent"):
        run.load_state_dict(other.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("start", ["best", "seed"])
def test_a_dissolve_is_resumed(network, tmp_path, start):
    more = {k: v for k, v in OPTIONS.items() if k not in ("steps", "start")}

    def begin(**resume):
        texts = ["red", "blue"]
        return dissolve(network, texts, Colour(), steps_each=4, start=start, **more, **resume)

    whole, half = list(begin()), begin()
    for _ in range(5):
        next(half)
    half.save(tmp_path / "state")
    assert same(list(begin(resume_from=tmp_path / "state")), whole)


def test_the_file_keeps_its_names_and_reads_those_of_version_0_1(network, tmp_path):
    run = guidance.steer_batch(network, ["red"], Colour(), **OPTIONS)
    next(run)
    next(run)
    path = tmp_path / "state"
    run.save(path)
    with safe_open(path, "pt") as file:
        names, metadata = set(file.keys()), file.metadata()
    stall = {f"stall.{name}" for name in ("smooth", "best", "since", "stalled")}
    places = {f"{part}.latent" for part in ("now", "average", "points", "exp_avg", "exp_avg_sq")}
    assert names == {"latent.ws", "generators"} | stall | places
    assert metadata["format"] == "sg3-steering"

    old = dict(json.loads(metadata["numbers"]))
    old["stall_steps"] = old.pop("stall.steps")
    fingerprint = json.loads(metadata["fingerprint"])
    fingerprint["look"] = fingerprint.pop("perceptual")
    fingerprint["look_distance"] = fingerprint.pop("perceptual_distance")
    state = {k: v for k, v in run.state_dict().items() if torch.is_tensor(v)}
    write_state(tmp_path / "old", state | old, json.dumps(fingerprint))
    found = read_state(tmp_path / "old", metadata["fingerprint"])
    assert found["stall.steps"] == 2 and found["moves"] == 2
    resumed = guidance.steer_batch(
        network, ["red"], Colour(), resume_from=tmp_path / "old", **OPTIONS
    )
    fresh = guidance.steer_batch(network, ["red"], Colour(), **OPTIONS)
    assert same(list(resumed), list(fresh))


def test_other_files_are_refused(tmp_path):
    write_state(tmp_path / "a", {"x": torch.zeros(1), "losses": []}, '{"lr": 1, "seed": 2}')
    with pytest.raises(UserError, match="another lr"):
        read_state(tmp_path / "a", '{"lr": 3, "seed": 2}')
    for content in (b"x", b""):
        (tmp_path / "b").write_bytes(content)
        with pytest.raises(UserError, match=r"resume_from: .*cannot be read"):
            read_state(tmp_path / "b", "{}")
    with pytest.raises(UserError, match="no such file"):
        read_state(tmp_path / "c", "{}")


def test_a_stall_tracker_has_a_state():
    losses = [torch.tensor([1.0, 1.0 - 0.1 * i]) for i in range(8)]
    one = Stall(2, patience=3, min_delta=0.01)
    for loss in losses[:3]:
        one.add(loss)
    other = Stall(2, patience=3, min_delta=0.01)
    other.load_state_dict(one.state_dict())
    for loss in losses[3:]:
        assert torch.equal(one.add(loss), other.add(loss))
    assert other.stalled.tolist() == [True, False]
