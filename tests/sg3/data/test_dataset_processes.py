"""`sg3 dataset`: processes, interruptions, full disks."""

import multiprocessing
import os
import resource
import signal
import sys
import time
from pathlib import Path

import pytest
from dataset_files import fails, save, zipped

from sg3.cli.main import cli
from sg3.data import ordered
from sg3.data.prepare import prepare_dataset


@pytest.fixture
def many(tmp_path):
    for i in range(40):
        save(tmp_path / "many" / f"{i:02d}.png", 9 + i % 5, 9 + i % 7, seed=i)
    (tmp_path / "many" / "10.png").write_bytes(b"no")
    return tmp_path / "many"


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(many, tmp_path, monkeypatch):
    options = {"resolution": (8, 8), "transform": "center-crop", "min_size": 10}

    def prepared(source, dest, jobs):
        return list(prepare_dataset(source, tmp_path / dest, jobs=jobs, **options))

    one = prepared(many, "1.zip", 1)
    assert {item.reason for item in one} == {None, "too small", "unreadable"}
    archive = zipped(tmp_path / "in.zip", {p.name: p.read_bytes() for p in many.iterdir()})
    assert prepared(archive, "2.zip", 1) == one
    assert prepared(many, "3.zip", 2) == one and prepared(archive, "4.zip", 3) == one
    monkeypatch.setattr(ordered, "START_METHOD", "spawn")  # of Windows and macOS
    assert prepared(archive, "5.zip", 2) == one
    assert len({(tmp_path / f"{i}.zip").read_bytes() for i in range(1, 6)}) == 1


def test_prefetching_is_bounded():
    taken = []
    results = ordered.map_in_order(abs, (taken.append(i) or -i for i in range(1000)), 2)
    assert [next(results) for _ in range(20)] == list(range(20))
    assert len(taken) <= 20 + ordered.AHEAD * 2
    results.close()


def kill_oneself(item):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_one_line():
    with pytest.raises(ValueError, match="jobs: one of 2 worker processes was killed"):
        list(ordered.map_in_order(kill_oneself, range(3), 2))


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("dest", ["o.zip", "out"])
def test_an_unfinished_run_leaves_nothing(many, tmp_path, dest, jobs):
    prepared = prepare_dataset(many, tmp_path / "new" / dest, (8, 8), jobs=jobs)
    for _ in range(5):
        next(prepared)
    assert len(list((tmp_path / "new").iterdir())) == 1
    assert not (tmp_path / "new" / dest).exists()
    prepared.close()
    assert not list((tmp_path / "new").iterdir())


def forked(function, *arguments):
    """Start another process, which need not import torch."""
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


def wait_until(condition, seconds=60):
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + seconds
        time.sleep(0.01)


def run_and_exit(log, arguments):
    sys.stdout = sys.stderr = open(log, "w", buffering=1)  # noqa: SIM115 - until it exits
    signal.signal(signal.SIGINT, signal.default_int_handler)
    cli(["dataset", *map(str, arguments)], prog_name="sg3")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_leave_nothing(many, tmp_path, number):
    new, log = tmp_path / "new", tmp_path / "log"
    slow = ["--resolution", "1024", "--jobs", "2", "--source", many, "--dest", new / "o.zip"]
    process = forked(run_and_exit, log, slow)
    wait_until(lambda: any(p.stat().st_size > 1_000_000 for p in new.glob(".tmp-*")))
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 1 and log.read_text().strip().endswith("Aborted!")
    assert "Traceback" not in log.read_text() and not list(new.iterdir())


def stop_after_one(source, dest, connection):
    steps = prepare_dataset(source, dest, (8, 8), jobs=2)
    next(steps)
    connection.send([child.pid for child in multiprocessing.active_children()])
    time.sleep(60)


def test_workers_do_not_outlive_a_killed_parent(many, tmp_path):
    ours, theirs = multiprocessing.Pipe()
    process = forked(stop_after_one, many, tmp_path / "o.zip", theirs)
    workers = ours.recv()
    assert len(workers) == 2 and all(is_alive(pid) for pid in workers)
    process.kill()
    process.join()
    wait_until(lambda: not any(is_alive(pid) for pid in workers))


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # a zombie that its new parent has not reaped yet


@pytest.mark.parametrize("dest", ["o.zip", "out"])
def test_a_full_disk_is_one_line_and_leaves_nothing(many, tmp_path, dest):
    new = tmp_path / "new"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))  # as if the disk were full
    try:
        fails(
            f"cannot write {new / dest}: File too large; nothing was written",
            *("--source", many, "--dest", new / dest, "--resolution", "128", "--jobs", "1"),
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(new.iterdir())


def test_an_existing_file_survives_a_failure(many, tmp_path):
    (tmp_path / "o.zip").write_bytes(b"precious")
    message = "00.png is 9x9 RGB, a size that no network supports; set --resolution"
    fails(message, "--source", many, "--dest", tmp_path / "o.zip", "--overwrite")
    assert (tmp_path / "o.zip").read_bytes() == b"precious"
