"""Training in several processes: gradients equal to one process, errors, lost processes."""

import os
import signal
import subprocess
import sys
import time
import types
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import repository
import torch
from PIL import Image
from team_script import everything, make_trainer

from sg3.cli.train import _explain, _run, _StopRequest
from sg3.distributed import SharedError, Team
from sg3.training.trainer import split_in_strides

SCRIPT = repository.ROOT / "tests" / "support" / "team_script.py"
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


def environment(**extra):
    root = str(repository.ROOT)
    return {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", **extra}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    random = np.random.RandomState(0)
    for i in range(20):
        Image.fromarray(random.randint(0, 255, [16, 16, 3], np.uint8)).save(folder / f"{i:02}.png")
    return str(folder)


@pytest.fixture(scope="module")
def alone(data):
    return everything(data, Team())


def assert_close(expected, got, tolerance):
    assert expected.keys() == got.keys() and len(expected) > 20
    for name, tensor in expected.items():
        scale = tensor.abs().max().clamp(min=1e-6)
        error = float((tensor - got[name]).abs().max() / scale)
        assert error < tolerance, (name, error)


@pytest.mark.slow
def test_two_processes_equal_one(data, alone, tmp_path):
    """Half the batch each, with two minibatch statistics groups of 4 in all."""
    out = tmp_path / "out.pt"
    command = [*LAUNCH, "--nproc-per-node=2", str(SCRIPT), data, str(out)]
    subprocess.run(command, env=environment(), check=True, timeout=300, capture_output=True)
    together = torch.load(out, weights_only=True)
    assert_close(alone["gradients"], together["gradients"], 1e-4)
    assert_close(alone["weights"], together["weights"], 5e-3)
    moved = make_trainer(data, Team())
    start = moved.G.state_dict()
    moved.close()
    difference = max(float((alone["weights"][f"G.{n}"] - t).abs().max()) for n, t in start.items())
    assert difference > 5e-3  # the five steps changed something
    assert together["broadcast"] == [[[0, 1], [2, 3], [4, 5]]] * 2


@pytest.mark.slow
def test_passes_equal_the_whole_batch(data, alone):
    """Passes of one statistics group each accumulate the gradients of the whole batch."""
    split = everything(data, Team(), batch_gpu=4)
    # Moving averages inside G are updated once per pass; these gradients do not depend on it.
    assert_close(alone["gradients"], split["gradients"], 2e-3)


def test_strides_keep_statistics_groups():
    whole = torch.arange(8)
    assert [part.tolist() for part in split_in_strides(whole, 2)] == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert Team(1, 2).shard(whole).tolist() == [1, 3, 5, 7]


@pytest.mark.parametrize("auto", [True, False])
def test_out_of_memory_halves_the_passes(data, alone, auto):
    lines = []
    trainer = make_trainer(data, Team(), batch_gpu="auto" if auto else 8)
    trainer.log = lines.append
    accumulate = trainer.loss.accumulate_gradients

    def limited(phase, real, *rest, **options):
        if len(real) > 4:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        accumulate(phase, real, *rest, **options)

    trainer.loss.accumulate_gradients = limited
    if not auto:
        with pytest.raises(RuntimeError, match="out of memory"):
            trainer.step()
        trainer.close()
        return
    trainer.step()
    assert trainer.pass_size == 4 and trainer.cur_nimg == 8
    assert lines == ["out of memory: continuing with 4 images per pass"]
    trainer.close()


def test_memory_that_cannot_be_halved_is_one_line(data):
    trainer = make_trainer(data, Team(), batch_gpu="auto")

    def never(*args, **options):
        raise MemoryError

    trainer.loss.accumulate_gradients = never
    with pytest.raises(ValueError, match=r"^batch_gpu: out of memory with 4 images per pass"):
        trainer.step()
    trainer.close()


class Pair(Team):
    """Rank 0 of two; rank 1 reports the error `other`, or None."""

    def __init__(self, other):
        super().__init__(0, 2)
        self.other = other

    def gather(self, value):
        return [value, self.other]

    def broadcast_object(self, value):
        return value


def test_an_error_of_one_process_ends_all():
    assert Pair(None).agree(lambda: 7) == 7
    with pytest.raises(SharedError, match="its disk is full"):
        Pair("its disk is full").agree(lambda: 7)

    def full():
        raise OSError(28, "No space left on device", "log.txt")

    with pytest.raises(SharedError, match=r"^log\.txt: No space left on device$"):
        Pair("another line").agree(full)


def test_errors_of_rank_0_are_printed_once():
    with pytest.raises(SystemExit) as ended:
        _explain(SharedError("no room"), "1")
    assert ended.value.code == 2
    with pytest.raises(SharedError, match="no room"):
        _explain(SharedError("no room"), "0")
    with pytest.raises(ValueError, match="process 1: of my own"):
        _explain(ValueError("of my own"), "1")


@pytest.mark.parametrize("size, stops", [("2", True), ("1", False)])
def test_processes_stop_when_torchrun_is_gone(monkeypatch, size, stops):
    """A single process may outlive the shell, as with nohup."""
    monkeypatch.setenv("WORLD_SIZE", size)
    request = _StopRequest("")
    assert not request()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert request() == stops


@pytest.mark.parametrize(
    "machines, asked, fails", [(2, False, True), (2, True, False), (1, False, False)]
)
def test_a_stop_of_another_machine_is_no_success(monkeypatch, machines, asked, fails):
    """Its torchrun was killed, or it alone got a signal: this machine's torchrun has to restart."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(2 // machines))
    request = _StopRequest("")
    request.asked = asked
    steps = iter([types.SimpleNamespace(is_main=False, stopped=stopped) for stopped in (0, 1)])
    with pytest.raises(SharedError, match="another machine") if fails else nullcontext():
        _run(steps, request)


def sg3_train(data, outdir, *more):
    options = (
        f"--cfg stylegan3-t --data {data} --outdir {outdir} --batch 4 --aug noaug --z-dim 8 "
        "--w-dim 8 --num-layers 4 --margin-size 4 --cbase 64 --cmax 8 --mbstd-group 2 --grid 3x2 "
        "--tick 0.008 --snap 1 --workers 0 --device cpu"
    )
    return ["-m", "sg3", "train", *options.split(), *more]


def wait_for(condition, output=None, seconds=240):
    for _ in range(seconds * 10):
        if condition():
            return
        time.sleep(0.1)
    text = output.read_text() if output else ""
    raise AssertionError(f"nothing happened in {seconds} seconds; output so far:\n{text}")


@pytest.mark.slow
def test_a_dead_process_stops_the_others_and_torchrun_resumes(data, tmp_path):
    """kill -9 of rank 1: rank 0 reports it and exits; torchrun's restart resumes from the state."""
    command = [*LAUNCH, "--nproc-per-node=2", "--max-restarts=3", *sg3_train(data, tmp_path)]
    output = tmp_path / "out.txt"
    with open(output, "w") as log:
        process = subprocess.Popen(
            [*command, "--kimg", "100"],
            env=environment(SG3_DIST_TIMEOUT_MINUTES="3"),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(lambda: len(list(tmp_path.glob("*/training-state-*.pt"))) >= 2, output)
        os.kill(_rank(process.pid, 1), signal.SIGKILL)
        wait_for(lambda: "resuming at" in output.read_text(), output)
        text = output.read_text()
        assert "another process stopped responding" in text
        assert len(list(tmp_path.glob("0*"))) == 1  # the same run
        os.killpg(process.pid, signal.SIGTERM)
        wait_for(lambda: process.poll() is not None, output)
        assert "state saved in" in output.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def _rank(launcher: int, rank: int) -> int:
    """Return the process that torchrun started as `rank`."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
            variables = (path / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if parent == launcher and f"RANK={rank}".encode() in variables:
            return int(path.name)
    raise AssertionError(f"no rank {rank}")


@pytest.mark.slow
def test_gpus_starts_processes_and_a_signal_saves(data, tmp_path):
    command = [sys.executable, *sg3_train(data, tmp_path / "runs"), "--gpus", "2", "--kimg", "100"]
    process = subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        wait_for(lambda: list(tmp_path.glob("runs/*/training-state-*.pt")))
        process.send_signal(signal.SIGTERM)
        text, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, text
    assert "To continue, repeat the command with --resume latest" in text
    assert "Traceback" not in text


@pytest.mark.slow
def test_gpus_and_bad_data_is_exit_2(tmp_path):
    command = [sys.executable, *sg3_train(tmp_path / "none", tmp_path / "runs"), "--gpus", "2"]
    result = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 2
    # Both processes find it, one prints it.
    assert "does not exist" in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()
