"""The processes of `recipes.minifaces.generator.pretrain` end together."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recipes.minifaces.world.dataset import write_dataset

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def processes_of(pid: int) -> set[int]:
    """Return all descendants of `pid`."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return set()
    started = {int(word) for word in text.split()}
    return started.union(*map(processes_of, started))


def workers_of(pid: int) -> set[int]:
    """Return the training processes of `pid`: torch spawns them, pools fork theirs."""
    return {p for p in processes_of(pid) if b"spawn_main" in command_of(p)}


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def runs(pid: int) -> bool:
    """Return whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until(true, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not true():
        time.sleep(0.1)
    return true()


@pytest.mark.slow
def test_a_signal_to_the_first_ends_all(tmp_path, root):
    write_dataset(tmp_path / "faces.zip", 8)
    command = [sys.executable, "-m", "recipes.minifaces.generator.pretrain", "--data", "faces.zip"]
    command += ["--out", "out.safetensors", "--kimg", "1000", "--processes", "2"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with open(tmp_path / "log.txt", "w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=log, stdout=log)
    workers: set[int] = set()
    try:
        assert wait_until(lambda: len(workers_of(process.pid)) == 2, 120)
        workers = workers_of(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143, (tmp_path / "log.txt").read_text()
        assert wait_until(lambda: not any(map(runs, workers)), 30)
    finally:
        for pid in [process.pid, *workers, *processes_of(process.pid)]:
            if runs(pid):
                os.kill(pid, signal.SIGKILL)
        process.wait()
