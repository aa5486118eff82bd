"""Loaders: batches do not depend on workers and resume exactly."""

import contextlib
import io
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sg3.data import ImageDataset, ShuffleSampler, open_dataset, open_loader
from sg3.data.source import ImageSource


@pytest.fixture
def folder(tmp_path):
    random = np.random.RandomState(0)
    for i in range(11):
        path = tmp_path / "images" / f"{i % 3}" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.randint(0, 255, [6, 8, 3], np.uint8)).save(path)
    return tmp_path / "images"


def batches(loader, count):
    return [loader.next() for _ in range(count)]


def assert_same(one, other):
    assert len(one) == len(other)
    for (images, labels), (other_images, other_labels) in zip(one, other, strict=True):
        assert torch.equal(images, other_images) and torch.equal(labels, other_labels)


def through_file(state):
    """Return `state` after saving and loading it."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("cache, workers", [("none", 2), ("none", 3), ("ram", 2)])
def test_workers_change_nothing(folder, cache, workers):
    data = open_dataset(folder, use_labels=True, xflip=True, yflip=True, cache=cache)
    with_workers = open_loader(data, 4, seed=1, workers=workers)
    without = open_loader(ImageDataset(folder, True, None, True, yflip=True), 4, seed=1)
    got = batches(with_workers, 15)
    assert_same(got, batches(without, 15))
    with_workers.close()
    without.close()


@pytest.mark.slow
@pytest.mark.parametrize("before, after", [(0, 0), (2, 2), (2, 0), (0, 2)])
def test_resume_from_the_middle(folder, before, after):
    data = open_dataset(folder, use_labels=True, cache="none")
    whole = open_loader(data, 4, seed=3)
    expected = batches(whole, 9)
    first = open_loader(data, 4, seed=3, workers=before)
    got = batches(first, 5)
    state = through_file(first.state())
    second = open_loader(data, 4, seed=9, workers=after)
    second.next()  # prefetched batches are discarded
    second.load_state(state)
    assert_same(expected, got + batches(second, 4))
    untouched = open_loader(data, 4, seed=3, workers=after)
    untouched.load_state(through_file(open_loader(data, 4, seed=3).state()))
    assert_same(expected[:2], batches(untouched, 2))
    for loader in (whole, first, second, untouched):
        loader.close()


def test_two_processes_share_the_sequence_of_one(folder):
    data = open_dataset(folder, cache="ram")
    one = open_loader(data, 4, seed=2)
    two = [open_loader(data, 2, seed=2, rank=rank, replicas=2) for rank in (0, 1)]
    for _ in range(4):
        parts = [loader.next()[0] for loader in two]
        assert torch.equal(one.next()[0], torch.stack(parts, dim=1).flatten(0, 1))
    states = [loader.state() for loader in two]
    assert str(states[0]) == str(states[1])  # one file fits all ranks
    alone = open_loader(data, 4, seed=2)
    alone.load_state(states[1])
    assert torch.equal(one.next()[0], alone.next()[0])
    for loader in (one, alone, *two):
        loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_image_is_replaced_by_the_next(folder, workers):
    whole = ImageDataset(folder, True)
    broken = folder / "1" / "04.png"  # the sixth name: 0/00 0/03 0/06 0/09 1/01 1/04 1/07 …
    broken.write_bytes(broken.read_bytes()[:80])
    data = open_dataset(folder, use_labels=True, cache="none")
    assert len(data) == 11 and data.num_skipped == 0  # the header is intact
    loader = open_loader(data, 11, seed=0, workers=workers)
    images, labels = loader.next()
    assert data.skipped[0].startswith("1/04.png: ") and data.num_skipped == 1
    found = [next(i for i in range(11) if torch.equal(image, whole[i][0])) for image in images]
    asked = ShuffleSampler(11, seed=0).take(11)
    assert 5 in asked and found == [6 if item == 5 else item for item in asked]
    assert torch.equal(labels, whole.labels(found))
    loader.close()


def test_dead_worker_is_one_clear_error(folder):
    loader = open_loader(open_dataset(folder, cache="none"), 4, workers=2)
    loader.next()
    for process in loader._pool._processes:
        os.kill(process.pid, signal.SIGTERM)  # as a batch system does; workers ignore it
        os.kill(process.pid, signal.SIGINT)
    loader.next()
    os.kill(loader._pool._processes[1].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"decoding process \d+ was killed by SIGKILL"):
        batches(loader, 4)
    with pytest.raises(RuntimeError, match="decoding process"):
        loader.next()
    loader.close()


@pytest.mark.slow
def test_workers_end_with_the_training_process(folder):
    """Even if it is killed, and with two pools, one of which inherits from the other."""
    code = f"""if True:
        import os, signal
        from sg3.data import open_dataset, open_loader
        data = open_dataset({str(folder)!r}, cache="none")
        loaders = [open_loader(data, 4, workers=2) for _ in range(2)]
        pids = [p.pid for l in loaders if l.next() for p in l._pool._processes]
        print(*pids, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 4
    deadline = time.time() + 10
    while any(os.path.exists(f"/proc/{pid}") for pid in pids) and time.time() < deadline:
        time.sleep(0.05)
    alive = [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
    states = [Path(f"/proc/{pid}/stat").read_text().split()[2] for pid in alive]
    assert all(state == "Z" for state in states)  # zombies: there may be no process to reap them


@pytest.mark.slow
def test_an_unclosed_loader_does_not_block_exit(folder):
    code = f"""if True:
        from sg3.data import open_dataset, open_loader
        loader = open_loader(open_dataset({str(folder)!r}, cache="none"), 4, workers=2)
        loader.next()
        raise SystemExit(3)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 3 and not done.stderr


def test_different_size_found_while_training(folder, monkeypatch):
    monkeypatch.setattr("sg3.data.dataset.CHECK_ALL", 5)
    monkeypatch.setattr("sg3.data.dataset.CHECK_SOME", 2)
    Image.new("RGB", (8, 9)).save(folder / "1" / "04.png")
    data = open_dataset(folder, cache="none")
    for workers in (0, 2):
        loader = open_loader(data, 11, workers=workers)
        with pytest.raises(ValueError, match=r"1/04\.png is 8x9 RGB, but 0/00\.png is 8x6 RGB"):
            loader.next()
        loader.close()


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_process_forked_while_a_thread_reads_can_read(folder, kind, tmp_path):
    path = folder
    if kind == "zip":
        path = shutil.make_archive(str(tmp_path / "images"), "zip", folder)
    source = ImageSource(path)
    name = source.image_names[0]
    locks = [source._lock] + ([source._zip._lock] if kind == "zip" else [])
    held, done = threading.Event(), threading.Event()

    def hold():
        with contextlib.ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    process = multiprocessing.get_context("fork").Process(
        target=source.read, args=[name], daemon=True
    )
    process.start()
    process.join(30)
    done.set()
    thread.join()
    assert process.exitcode == 0
