"""Stopping a run: told once, within a step or a metric's batch, resumable bit for bit."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from tiny_runs import TINY_SG3, noise_images

from sg3.cli.processes import launch_arguments
from sg3.cli.stopping import StopRequest
from sg3.training.config import TrainConfig
from sg3.training.loop import train
from sg3.training.run_writer import LAST_IMAGES, MetricStopped, RunWriter
from sg3.training.state import newest_state

SMALL = TINY_SG3
METRIC = "fd0.2k_full_mini"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return noise_images(tmp_path_factory.mktemp("images"), 8)


def config_of(data, outdir, num_images, **changes):
    return TrainConfig(
        outdir=str(outdir), data=data, kimg=num_images / 1000, **{**SMALL, **changes}
    )


@pytest.mark.parametrize("rank, times", [("0", 1), ("1", 0)])
def test_signals_are_told_once_by_rank_0(monkeypatch, rank, times):
    written = []
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(os, "write", lambda handle, text: written.append(text))
    request = StopRequest("stopping")
    request.handle(signal.SIGTERM, None)
    request.handle(signal.SIGHUP, None)  # a closing terminal sends several
    assert request() and written == [b"stopping"] * times
    with pytest.raises(KeyboardInterrupt):
        request.handle(signal.SIGINT, None)


def test_torchrun_leaves_our_options_alone():
    """`--log` could be short for several of its own."""
    from torch.distributed.run import parse_args

    ours = ["train", "--log", "wandb", "--max-images=3", "-n"]
    parsed = parse_args(launch_arguments(2, ours))
    assert (parsed.training_script, parsed.training_script_args) == ("sg3", ours)
    assert parsed.module and parsed.nproc_per_node == "2"
    by_hand = ["train", "--loggers", "wandb"]
    parsed = parse_args(["--nproc-per-node=2", "-m", "sg3", *by_hand])
    assert parsed.training_script_args == by_hand


class Stop:
    """Returns True from the call number `first` on."""

    def __init__(self, first):
        self.first, self.calls = first, 0

    def __call__(self):
        self.calls += 1
        return self.calls >= self.first


def test_a_stop_ends_a_metric_and_the_run_resumes_exactly(data, tmp_path):
    """The third question is asked by the metric of tick 0, before its second batch."""
    options = {"metrics": (METRIC,)}
    stop = Stop(3)
    steps = list(train(config_of(data, tmp_path / "parts", 12, **options), stop=stop))
    (step,) = steps
    assert step.stopped and step.nimg == 4 and step.metrics == {}
    assert f"{METRIC} was stopped; sg3 metrics can measure the snapshot later" in step.notes
    assert not list(step.folder.glob("metric-*"))
    assert newest_state(step.folder)[0]["counters"]["cur_nimg"] == 4
    rest = list(train(config_of(data, tmp_path / "parts", 12, resume="latest", **options)))[-1]
    whole = list(train(config_of(data, tmp_path / "whole", 12)))[-1]
    one, other = (newest_state(x.folder)[0]["networks"] for x in (rest, whole))
    assert rest.folder == step.folder and METRIC in rest.metrics
    for name in one:
        for key, tensor in one[name].items():
            assert torch.equal(tensor, other[name][key]), key


def test_processes_ask_together_in_a_metric():
    """Not in the last batches: with 130 of 260 images, one process may have fewer than another."""

    class Team:
        size, asked = 2, 0

        def any(self, value):
            self.asked += 1
            return value

    class Trainer:
        team = Team()

    writer = RunWriter.__new__(RunWriter)
    writer.trainer = Trainer()
    check = writer._raise_if_stopped(lambda: False)
    for done in range(0, 131, 64):
        check("images", done, 130)
    assert writer.trainer.team.asked == 2 and LAST_IMAGES == 64  # at 0 and 64, not at 128
    with pytest.raises(MetricStopped):
        writer._raise_if_stopped(lambda: True)("images", 0, 130)
    writer._raise_if_stopped(lambda: True)("images", 128, 130)


def test_a_stop_at_the_end_of_the_run_is_its_end(data, tmp_path):
    """Asked after the step, then after the only tick, which is also the last."""
    step = list(train(config_of(data, tmp_path, 4), stop=Stop(2)))[-1]
    assert step.done and not step.stopped


COMMAND = """
    train --cfg stylegan3-t --batch 4 --aug noaug --z-dim 8 --w-dim 8 --num-layers 4
    --margin-size 4 --cbase 64 --cmax 8 --mbstd-group 2 --grid 3x2 --tick 0.04 --snap 1
    --workers 0 --device cpu --kimg 100 --metrics fd20k_full_mini
"""


@pytest.mark.slow
@pytest.mark.parametrize("gpus", ["1", "2"])
def test_ctrl_c_during_a_metric_is_told_once(data, tmp_path, gpus):
    """As in a terminal: the launcher and all processes get the signal."""
    words = [*COMMAND.split(), "--data", data, "--outdir", str(tmp_path), "--gpus", gpus]
    process = subprocess.Popen(
        [sys.executable, "-m", "sg3", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        for _ in range(1200):
            if list(tmp_path.glob("*/network-*.safetensors")):
                break
            time.sleep(0.1)
        time.sleep(1)
        os.killpg(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=100)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, out
    assert out.count("finishing this step, then saving") == 1
    assert out.count("state saved in") == 1 and "fd20k_full_mini was stopped" in out
    (folder,) = tmp_path.iterdir()
    assert newest_state(folder)[0]["counters"]["cur_nimg"] == 4
