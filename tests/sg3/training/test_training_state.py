"""Training states: exact for every kind of run, complete after kill -9, safe on a full disk."""

import errno
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from tiny_runs import TINY, noise_images

from sg3.training import loop, run_folder, run_writer
from sg3.training import state as state_module
from sg3.training.config import TrainConfig
from sg3.training.loop import train
from sg3.training.run_folder import new_run_folder, state_paths
from sg3.training.state import newest_state, read_state

SMALL = TINY
SG3 = dict(num_layers=4, margin_size=4)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return noise_images(tmp_path_factory.mktemp("images"))


def run(data, outdir, num_images, **changes):
    """Train up to `num_images` and return the run's folder."""
    options = {**SMALL, **changes}
    config = TrainConfig(outdir=str(outdir), data=data, kimg=num_images / 1000, **options)
    return list(train(config))[-1].folder


def flat(value, path=""):
    """Return every tensor and number of a state by path, except for clocks."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        return {path: value}
    found = {}
    for key, part in items:
        if key not in ("seconds", "config", "output", "stats"):
            found |= flat(part, f"{path}/{key}")
    return found


def assert_equal_states(one, other):
    expected, got = flat(one), flat(other)
    assert expected.keys() == got.keys() and len(expected) > 200
    for name, value in expected.items():
        same = torch.equal(value, got[name]) if torch.is_tensor(value) else value == got[name]
        assert same, name


CASES = {
    "t": SG3,
    "r": dict(cfg="stylegan3-r", **SG3),
    "sg2": dict(cfg="stylegan2"),
    "ada": dict(aug="ada", initial_p=0.3, **SG3),
    "workers": dict(workers=2, cache="none", **SG3),
    "accumulation": dict(batch_gpu=2, **SG3),
    "rpgan": dict(loss="rpgan", **SG3),
    "gamma_end": dict(gamma_end=0.01, gamma_kimg=0.02, **SG3),
    "posthoc-ema": dict(posthoc_ema=(0.05, 0.1), **SG3),
    "apa": dict(aug="apa", initial_p=0.5, cfg="stylegan2"),
    "diffaug": dict(aug="diffaug", loss="rpgan", d_reg_interval=1, **SG3),
    "projected": dict(loss="hinge", discriminator="projected", aug="diffaug", cfg="stylegan2"),
    "frozen": dict(freeze_g=3, freeze_mapping=True, cfg="stylegan2"),
    "mirrored": dict(mirror=True, max_images=7, freezed=1, **SG3),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_resumed_run_equals_unbroken_run(data, tmp_path, case):
    """Networks, averages, optimizers, ADA, every random generator, sampler, counters."""
    options = CASES[case]
    whole = run(data, tmp_path / "whole", 24, **options)
    half = run(data, tmp_path / "parts", 12, **options)
    rest = run(data, tmp_path / "parts", 24, resume="latest", **options)
    assert half == rest
    assert_equal_states(newest_state(whole)[0], newest_state(rest)[0])


def test_outdir_may_be_the_folder_of_the_run(data, tmp_path):
    folder = run(data, tmp_path, 8, **SG3)
    assert run(data, folder, 12, **SG3) == folder
    assert newest_state(folder)[0]["counters"]["cur_nimg"] == 12


@pytest.mark.slow
def test_only_the_newest_states_are_kept(data, tmp_path):
    folder = run(data, tmp_path, 40, keep_states=2, **SG3)
    assert [p.name for p in state_paths(folder)] == [
        "training-state-0000000036.pt",
        "training-state-0000000040.pt",
    ]


def test_a_damaged_state_is_skipped(data, tmp_path):
    folder = run(data, tmp_path, 16, **SG3)
    newest = state_paths(folder)[-1]
    newest.write_bytes(newest.read_bytes()[:-2000])
    state, notes = newest_state(folder)
    assert state["counters"]["cur_nimg"] == 12
    assert len(notes) == 1 and newest.name in notes[0]
    assert run(data, tmp_path, 24, resume="latest", **SG3) == folder


def test_a_state_never_runs_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    path = tmp_path / "training-state-0000000004.pt"
    torch.save({"format": state_module.FORMAT, "evil": Evil()}, path)
    with pytest.raises(ValueError, match="cannot read"):
        read_state(path)
    assert not (tmp_path / "ran").exists()


def test_full_disk_keeps_the_previous_state(data, tmp_path, monkeypatch):
    folder = run(data, tmp_path, 8, **SG3)
    before = {p.name: p.read_bytes() for p in state_paths(folder)}

    def full(state, file):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(state_module.torch, "save", full)
    with pytest.raises(ValueError, match=r"No space left.*0000000008\.pt is intact"):
        run(data, tmp_path, 16, resume="latest", **SG3)
    assert {p.name: p.read_bytes() for p in state_paths(folder)} == before
    assert not list(folder.glob("*.tmp"))


def fail_at(monkeypatch, name, call, error):
    """Make the `call`-th call of `sg3.training.run_writer.NAME` raise."""
    original, calls = getattr(run_writer, name), []

    def failing(*args, **options):
        calls.append(name)
        if len(calls) == call:
            raise error
        return original(*args, **options)

    monkeypatch.setattr(run_writer, name, failing)


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, call, error",
    [
        ("save_grid", 4, FULL),  # after reals.png, fakes_init.png and the first fakes
        (
            "snapshot_networks",
            2,
            SafetensorError("I/O error: No space left on device (os error 28)"),
        ),
        ("append_jsonl", 2, FULL),
        ("write_result", 2, FULL),
    ],
)
def test_full_disk_at_any_write_is_one_line(data, tmp_path, monkeypatch, name, call, error):
    fail_at(monkeypatch, name, call, error)
    pattern = r"\(No space left on device\): training-state-0000000004\.pt is intact; free disk"
    with pytest.raises(ValueError, match=pattern):
        run(data, tmp_path, 16, metrics=("fd0.02k_full_mini",), **SG3)
    (folder,) = tmp_path.iterdir()
    assert newest_state(folder)[0]["counters"]["cur_nimg"] == 4
    assert not [p.name for p in folder.iterdir() if "tmp" in p.name]
    monkeypatch.undo()
    assert run(data, tmp_path, 16, resume="latest", **SG3) == folder


def test_a_run_survives_failures_of_the_page_and_the_log(data, tmp_path, monkeypatch):
    def full(*args, **options):
        raise FULL

    monkeypatch.setattr(loop, "write_progress_page", full)
    log = run_writer.Path.open
    monkeypatch.setattr(
        run_writer,
        "open",
        lambda path, *a, **k: full() if path.name == "log.txt" else log(path, *a),
        raising=False,
    )
    folder = run(data, tmp_path, 8, **SG3)
    assert newest_state(folder)[0]["counters"]["cur_nimg"] == 8
    assert not (folder / "log.txt").exists() and not (folder / "progress.html").exists()


def test_leftovers_of_a_killed_process_are_removed(data, tmp_path):
    folder = run(data, tmp_path, 8, **SG3)
    for name in ("training-state-0000000006.pt.tmp", ".tmp-abc.safetensors"):
        (folder / name).write_bytes(b"half of it")
    run(data, tmp_path, 12, resume="latest", **SG3)
    assert not [p.name for p in folder.iterdir() if "tmp" in p.name]


HOLD = """
import fcntl, sys
file = open(sys.argv[1], "a+")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_two_processes_do_not_train_one_run(data, tmp_path):
    folder = run(data, tmp_path, 8, **SG3)
    command = [sys.executable, "-c", HOLD, str(folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(ValueError, match="another process is training in"):
            run(data, tmp_path, 12, resume="latest", **SG3)
        other.kill()  # releases the lock
    assert run(data, tmp_path, 12, resume="latest", **SG3) == folder


def test_run_numbers_are_unique(tmp_path, monkeypatch):
    (tmp_path / "00007-notes.txt").write_text("not a run")
    assert new_run_folder(tmp_path, "x").name == "00008-x"
    (tmp_path / "00009-x").mkdir()
    found = run_folder._numbered
    stale = iter([[], []])  # the listing of a run that starts at the same moment
    monkeypatch.setattr(run_folder, "_numbered", lambda p: next(stale, None) or found(p))
    (tmp_path / "00000-x").mkdir()
    assert new_run_folder(tmp_path, "x").name == "00010-x"


COMMAND = """
    train --cfg stylegan3-t --batch 4 --aug ada --z-dim 8 --w-dim 8 --num-layers 4
    --margin-size 4 --cbase 64 --cmax 8 --mbstd-group 2 --grid 3x2 --tick 0.004 --snap 1
    --workers 0 --device cpu --threads 1 --kimg 100 --resume latest
"""


def sg3_train(data, outdir):
    words = [*COMMAND.split(), "--data", data, "--outdir", str(outdir)]
    return [sys.executable, "-m", "sg3", *words]


@pytest.mark.slow
def test_killed_runs_resume_from_complete_states(data, tmp_path):
    """kill -9 at random moments; benchmarks/kill_runs.py does this many times."""
    random, shown = np.random.RandomState(0), 0
    command = sg3_train(data, tmp_path)
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert "resuming at" in process.stdout.readline() or shown == 0
        time.sleep(random.uniform(0.3, 1.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        (folder,) = tmp_path.iterdir()
        state, notes = newest_state(folder)
        assert not notes and state["counters"]["cur_nimg"] > shown
        shown = state["counters"]["cur_nimg"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_exits_0(data, tmp_path, number):
    command = sg3_train(data, tmp_path)
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # nohup ignores it
    )
    process.stdout.readline()
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "state saved in" in out and "--resume latest" in out


@pytest.mark.slow
def test_a_closed_pipe_saves_the_state(data, tmp_path):
    """As after `sg3 train … | head -1`."""
    command = sg3_train(data, tmp_path)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(timeout=60) == 0 and errors == ""
    (folder,) = tmp_path.iterdir()
    assert newest_state(folder)[0]["counters"]["cur_nimg"] >= 8


def test_a_run_from_before_an_option_can_be_resumed(data, tmp_path):
    """A state without `pl_weight` and `gamma_end` belongs to a run with their defaults."""
    options = dict(cfg="stylegan2")
    folder = run(data, tmp_path, 8, **options)
    path = state_paths(folder)[-1]
    state = read_state(path)
    for name in ("pl_weight", "style_mixing_prob", "gamma_end", "budget"):
        del state["config"][name]
    torch.save(state, path)
    with pytest.raises(ValueError, match="pl_weight: got 1"):
        run(data, tmp_path, 16, resume="latest", pl_weight=1.0, **options)
    assert run(data, tmp_path, 16, resume="latest", **options) == folder
