"""The code runs where what Windows lacks is hidden (`tests/support/windows`)."""

import ctypes
import os
import subprocess
import sys
import types

import pytest
from repository import ROOT
from tiny_runs import noise_images

from sg3 import system
from sg3.cli.parsers import parse_delta

HIDING = ROOT / "tests" / "support" / "windows"


def as_on_windows(code, *arguments, folder):
    """Write Python `code` to `folder` and run it there in a process that looks like Windows."""
    paths = (HIDING, ROOT, ROOT / "tests" / "support")
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, paths)), "PYTHONIOENCODING": "cp1252",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    # A file, since processes that are spawned import the main module from it.
    (folder / "program.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-W", "ignore", "program.py", *map(str, arguments)]
    found = subprocess.run(command, capture_output=True, env=env, cwd=folder)
    assert found.returncode == 0, (found.stdout + found.stderr).decode("cp1252")


REFUSALS = """
import io, os, sys
namespace = {"__name__": "sg3.made_up"}
for line in ("import resource", "import fcntl", "import os; os.sysconf", "from os import fork",
             "import signal; signal.SIGKILL", "import os; os.open('.', os.O_RDONLY)",
             "import multiprocessing; multiprocessing.get_context('fork')",
             "open('12:30.txt', 'w')", "open('a.txt', 'w').write('\u2192')",
             "file = open('b.txt', 'w'); import os; os.replace('a.txt', 'b.txt')",
             "import pathlib; pathlib.Path('b.txt').unlink()",
             "import mmap; memory = mmap.mmap(open('c', 'rb').fileno(), 7, access=1);"
             "open('d', 'w').close(); os.replace('d', 'c')"):
    if "mmap" in line:
        open("c", "wb").write(b"content")
    try:
        exec(line, namespace)
    except (ImportError, AttributeError, OSError, ValueError) as error:
        continue
    sys.exit(f"allowed: {line}")
exec("import sys, os; assert (sys.platform, os.name) == ('win32', 'nt')", namespace)
"""


def test_the_double_refuses_what_windows_does(tmp_path):
    as_on_windows(REFUSALS, folder=tmp_path)


IMPORTS = """
import importlib, pkgutil
import ops_cuda, sg3, guidance, nada, recipes, app_tabs
for package in (ops_cuda, sg3, guidance, nada, recipes, app_tabs):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        # The last is a program that starts when it is imported.
        if not module.name.endswith("__main__") and module.name != "recipes.space.app":
            importlib.import_module(module.name)
"""


@pytest.mark.slow
def test_all_modules_can_be_imported(tmp_path):
    as_on_windows(IMPORTS, folder=tmp_path)


WORK = r"""
import sys
from pathlib import Path

def main():
    data, out = sys.argv[1], Path(sys.argv[2])
    from click.testing import CliRunner
    import sg3
    from sg3.cli.main import cli
    from sg3.files import link_or_copy
    from sg3.training import TrainConfig, train
    from tiny_runs import TINY_SG3

    # Spawned processes, an archive, and files of a run that are written again and again.
    arguments = ["dataset", "--source", data, "--dest", str(out / "data.zip"), "--jobs", "2"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    def run(kimg, resume=None):
        settings = TINY_SG3 | {"keep_states": 1, "workers": 2, "cache": "none"}
        config = TrainConfig(
            cfg="stylegan3-t", data=str(out / "data.zip"), outdir=str(out / "runs"), kimg=kimg,
            resume=resume, posthoc_ema=(0.05, 0.1), metrics=(), gamma=1, **settings,
        )
        return list(train(config))[-1]
    first = run(0.008)
    last = run(0.016, "latest")
    assert last.folder == first.folder and last.nimg == 16
    best = out / "best.safetensors"
    for snapshot in (first.snapshot, last.snapshot, first.snapshot):  # replaced while loaded
        link_or_copy(snapshot, best)
        network = sg3.load(str(best))

    adapt = ["adapt", "--source", "face", "--target", "zombie", "--outdir", str(out / "adapt")]
    for more in ([], ["--resume"]):
        result = CliRunner().invoke(cli, [*adapt, "--batch", "2", "--steps", "1", *more])
        assert result.exit_code == 0, result.output
    assert (out / "adapt" / "delta.safetensors").is_file()

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_training_resuming_and_adapting(tmp_path):
    (tmp_path / "images").mkdir()
    data = noise_images(tmp_path / "images", 40)
    as_on_windows(WORK, data, tmp_path, folder=tmp_path)


@pytest.mark.parametrize(
    "text", [r"C:\x\zombie.safetensors", r"\\server\a b\zombie.safetensors", r"..\zombie.pt"]
)
def test_deltas_with_drives_and_back_slashes(tmp_path, monkeypatch, text):
    """`FILE:STRENGTH` where the file's own name has colons."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / text).touch()
    assert parse_delta(text) == (text, 1.0)
    assert parse_delta(f"{text}:0.7") == (text, 0.7)
    assert parse_delta(f"{text}:-1e-1") == (text, -0.1)


def test_memory_is_asked_of_the_kernel(monkeypatch):
    """The structures have the sizes that Windows documents, and are passed by their size."""

    def fill_status(pointer):
        status = pointer._obj
        assert status.length == 64
        status.total = 16 << 30
        return 1

    def fill_counters(process, pointer, size):
        assert size == pointer._obj.size == 72
        pointer._obj.peak = 3 << 30
        return 1

    kernel = types.SimpleNamespace(
        GlobalMemoryStatusEx=fill_status,
        GetCurrentProcess=lambda: 2**64 - 1,
        K32GetProcessMemoryInfo=fill_counters,
    )
    # Functions of a real library have attributes; so have Python's.
    monkeypatch.setattr(ctypes, "windll", types.SimpleNamespace(kernel32=kernel), raising=False)
    monkeypatch.setattr(system.sys, "platform", "win32")
    assert system.memory_bytes() == 16 << 30
    assert system.peak_memory_bytes() == 3 << 30


def test_locks_on_windows(tmp_path, monkeypatch):
    """Without `fcntl`, one byte is locked with `msvcrt`."""
    taken = []

    def locking(handle, mode, count):
        if taken:
            raise PermissionError(13, "Permission denied")
        taken.append((mode, count))

    fake = types.SimpleNamespace(locking=locking, LK_LOCK=1, LK_NBLCK=2)
    monkeypatch.setitem(sys.modules, "msvcrt", fake)
    monkeypatch.setattr(system, "fcntl", None)
    with open(tmp_path / "lock", "a+", encoding="utf-8") as file:
        assert system.lock(file, wait=False)
        assert not system.lock(file, wait=False)
    assert taken == [(2, 1)]
