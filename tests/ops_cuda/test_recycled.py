"""Recycled memory: freed blocks are reused, blocks in use never are."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading

import pytest
import torch

import ops_cuda
from ops_cuda.filtered_lrelu.numba_cpu import missing
from ops_cuda.recycled import LARGE_BYTES, RECYCLER, Recycler

LARGE = [LARGE_BYTES // 4]


@pytest.fixture(autouse=True)
def needed(monkeypatch):
    """Enable recycling even if another test called `keep_large_blocks` in this process."""
    monkeypatch.setattr(Recycler, "needed", True)
    monkeypatch.setattr(RECYCLER, "needed", True)


def place(tensor):
    return tensor.untyped_storage().data_ptr()


def test_freed_blocks_are_reused_and_others_are_not():
    recycler = Recycler()
    first, second = (recycler.empty(LARGE, torch.float32).fill_(i) for i in (1, 2))
    was = place(first)
    assert place(second) != was
    del first
    third = recycler.empty([2, LARGE[0] // 2], torch.float32)
    assert place(third) == was and third.shape == (2, LARGE[0] // 2) and third.is_contiguous()
    third.fill_(3)
    assert (second == 2).all()


@pytest.mark.parametrize("hold", [lambda t: t[1:], lambda t: t.numpy(), lambda t: t.view(-1, 2)])
def test_views_keep_their_block(hold):
    recycler = Recycler()
    held = hold(recycler.empty(LARGE, torch.float32).fill_(1))
    recycler.empty(LARGE, torch.float32).fill_(2)
    assert (held == 1).all()


def test_saved_tensors_keep_their_block_until_backward():
    recycler = Recycler()
    x = recycler.empty(LARGE, torch.float32).fill_(3).requires_grad_()
    was, y = place(x), x.square().sum()
    del x
    assert place(recycler.empty(LARGE, torch.float32)) != was
    y.backward()
    del y
    gc.collect()
    assert place(recycler.empty(LARGE, torch.float32)) == was


def test_small_results_are_fresh_and_idle_memory_is_bounded():
    recycler = Recycler(idle_bytes=3 * LARGE_BYTES)
    assert recycler.empty([7, 3], torch.uint8).shape == (7, 3)
    many = [recycler.empty(LARGE, torch.float32) for _ in range(5)]
    places = [place(t) for t in many]
    while many:
        del many[0]
    again = [recycler.empty(LARGE, torch.float32) for _ in range(3)]
    assert {place(t) for t in again} == set(places[2:])


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
@pytest.mark.parametrize("keep", [False, True])
def test_recycling_is_off_where_glibc_keeps_freed_blocks(keep):
    code = "from sg3.allocator import keep_large_blocks\n" + "keep_large_blocks()\n" * keep
    code += "from ops_cuda.recycled import RECYCLER; print(RECYCLER.needed)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(not keep)


def test_the_smallest_fitting_block_is_used_unless_far_too_large():
    recycler = Recycler()
    sizes = {n: recycler.empty([n * LARGE_BYTES], torch.uint8) for n in (2, 3, 5)}
    places = {n: place(t) for n, t in sizes.items()}
    sizes.clear()
    small = recycler.empty([LARGE_BYTES], torch.uint8)
    assert place(small) == places[2]
    assert place(recycler.empty([2 * LARGE_BYTES], torch.uint8)) == places[3]
    assert place(recycler.empty([2 * LARGE_BYTES + 1], torch.uint8)) == places[3]
    assert place(recycler.empty([LARGE_BYTES], torch.uint8)) not in places.values()


@pytest.mark.slow
def test_threads_never_get_the_same_block():
    recycler, faults = Recycler(), []

    def work(number):
        for _ in range(20):
            mine = recycler.empty([LARGE_BYTES], torch.uint8).fill_(number)
            if not bool((mine == number).all()):
                faults.append(number)

    threads = [threading.Thread(target=work, args=[i]) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


@pytest.mark.skipif(bool(missing()), reason="needs Numba")
def test_results_of_operators_are_recycled_and_aligned():
    x, f = torch.randn(1, 8, 600, 600), torch.ones(12) / 12
    places = {
        place(ops_cuda.filtered_lrelu(x, fu=f, fd=f, up=2, down=2, padding=11)) for _ in range(4)
    }
    assert len(places) == 1 and places.pop() % 64 == 0
