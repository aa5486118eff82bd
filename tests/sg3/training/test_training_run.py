"""Training runs: files, exact resume, start from a network, bad options."""

import json

import pytest
import torch
from tiny_runs import TINY_SG3, noise_images

import sg3
from sg3.training.config import TrainConfig
from sg3.training.dry_run import describe
from sg3.training.loop import train
from sg3.training.run_folder import append_jsonl, state_path

SMALL = TINY_SG3


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return noise_images(tmp_path_factory.mktemp("faces"))


def run(data, outdir, num_images, **changes):
    """Train up to `num_images` and return the last step."""
    config = TrainConfig(outdir=str(outdir), data=data, kimg=num_images / 1000, **SMALL, **changes)
    return list(train(config))[-1]


def tensors_of(folder, num_images):
    state = torch.load(state_path(folder, num_images), weights_only=True)
    assert state["counters"]["cur_nimg"] == num_images
    flat = {}
    for name, tensors in state["networks"].items():
        flat |= {f"{name}.{k}": v for k, v in tensors.items()}
    for name, optimizer in state["optimizers"].items():
        for index, slots in optimizer["state"].items():
            flat |= {f"{name}.{index}.{k}": v for k, v in slots.items()}
    return flat


def assert_equal_runs(one, other, num_images):
    expected, got = tensors_of(one, num_images), tensors_of(other, num_images)
    assert expected.keys() == got.keys() and len(expected) > 100
    for name, tensor in expected.items():
        assert torch.equal(tensor, got[name]), name


@pytest.mark.slow
def test_resumed_run_equals_unbroken_run(data, tmp_path):
    whole = run(data, tmp_path / "whole", 24)
    half = run(data, tmp_path / "parts", 12)
    rest = run(data, tmp_path / "parts", 24, resume="latest")
    assert half.folder == rest.folder
    assert_equal_runs(whole.folder, rest.folder, 24)
    names = {path.name for path in rest.folder.iterdir()}
    for expected in ("reals.png", "fakes_init.png", "stats.jsonl", "config.json"):
        assert expected in names
    nets = sg3.load(str(rest.folder))
    assert nets.G_ema is not None and nets.D is not None
    assert nets.G_ema(torch.randn(2, 8)).shape == (2, 3, 16, 16)


@pytest.mark.slow
def test_resume_after_a_start_from_a_network(data, tmp_path):
    """The same command with 'latest' resumes, although the start changed the EMA ramp-up."""
    first = run(data, tmp_path / "source", 4)
    network = str(first.snapshot)
    whole = run(data, tmp_path / "whole", 16, resume=network)
    run(data, tmp_path / "parts", 8, resume=network)
    rest = run(data, tmp_path / "parts", 16, resume="latest")
    assert_equal_runs(whole.folder, rest.folder, 16)


@pytest.mark.slow
def test_stop_saves_and_the_run_resumes(data, tmp_path):
    whole = run(data, tmp_path / "whole", 16)
    config = TrainConfig(outdir=str(tmp_path / "parts"), data=data, kimg=0.016, **SMALL)
    steps = []
    for step in train(config, stop=lambda: len(steps) == 1):
        steps.append(step)
    assert steps[-1].stopped and steps[-1].nimg == 8
    rest = run(data, tmp_path / "parts", 16, resume="latest")
    # Statistics restart at the stop, weights do not.
    expected, got = tensors_of(whole.folder, 16), tensors_of(rest.folder, 16)
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_progress_bar(data, tmp_path, capsys):
    config = TrainConfig(outdir=str(tmp_path), data=data, kimg=0.012, **SMALL)
    assert len(list(train(config, progress=True))) == 3
    assert "train: 100%" in capsys.readouterr().err


def test_other_options_do_not_resume(data, tmp_path):
    run(data, tmp_path, 8)
    with pytest.raises(
        ValueError,
        match=r"^glr: got 0\.1, but the run in .* was started with 0\.0025; use the same",
    ):
        run(data, tmp_path, 16, resume="latest", glr=0.1)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"batch": 3}, "^mbstd_group: "),
        ({"cfg": "stylegan4"}, "^cfg: got 'stylegan4'"),
        ({"gamma": -1.0}, "^gamma: "),
        ({"aug": "adaptive"}, "^aug: "),
        ({"kimg": 0}, "^kimg: got 0, expected above 0$"),
    ],
)
def test_wrong_options(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**{"outdir": "out", "data": "data", **SMALL, **changes}).resolved(16)


def test_missing_data_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        run(str(tmp_path / "nowhere"), tmp_path / "out", 8)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_latest_or_else_a_network(data, tmp_path):
    network = str(run(data, tmp_path / "source", 4).snapshot)
    first = run(data, tmp_path / "runs", 8, resume=f"latest,{network}")
    assert first.start.startswith(f"starting from {network}")
    second = run(data, tmp_path / "runs", 12, resume=f"latest,{network}")
    assert second.start.startswith("resuming at 0.0 kimg") and second.folder == first.folder


@pytest.mark.slow
def test_metrics_at_every_save_change_nothing_else(data, tmp_path):
    plain = run(data, tmp_path / "plain", 12)
    measured = run(data, tmp_path / "measured", 12, metrics=("fd0.02k_full_mini",))
    assert_equal_runs(plain.folder, measured.folder, 12)
    lines = (measured.folder / "metric-fd0.02k_full_mini.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["kimg"] for record in records] == [0.004, 0.012]
    assert all(record["results"]["fd0.02k_full_mini"] > 0 for record in records)
    names = [record["snapshot"] for record in records]
    assert names == ["network-000000.safetensors", "network-000000k012.safetensors"]
    page = (measured.folder / "progress.html").read_text()
    assert '"fd0.02k_full_mini"' in page
    with pytest.raises(ValueError, match="nearest: fid50k_full"):
        run(data, tmp_path / "wrong", 4, metrics=("fid50k_ful",))
    assert not (tmp_path / "wrong").exists()


def test_a_truncated_line_does_not_damage_the_next(tmp_path):
    path = tmp_path / "stats.jsonl"
    append_jsonl(path, {"a": 1})
    with open(path, "a") as file:
        file.write('{"a": 2, "b')
    append_jsonl(path, {"a": float("nan")})
    assert path.read_text().splitlines() == ['{"a": 1}', '{"a": 2, "b', '{"a": null}']


def test_a_longer_run_records_its_length(data, tmp_path):
    run(data, tmp_path, 8)
    rest = run(data, tmp_path, 16, resume="latest")
    options = json.loads((rest.folder / "config.json").read_text())
    assert options["kimg"] == 0.016 and options["generator"]["z_dim"] == 8


def test_describe_is_what_a_run_does(data, tmp_path):
    config = TrainConfig(outdir=str(tmp_path), data=data, kimg=0.004, **SMALL)
    plan = describe(config)
    assert not list(tmp_path.iterdir())
    step = list(train(config))[-1]
    assert step.folder.name.endswith(plan["folder"])
    nets = sg3.load(str(step.folder))
    kind = plan["G"].pop("kind")
    assert nets.G.kind == kind and nets.G.init_kwargs == plan["G"]
    assert nets.D.init_kwargs == plan["D"]
    assert plan["options"]["gamma"] == 10  # of few channels
