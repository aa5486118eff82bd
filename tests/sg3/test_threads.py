"""Fewer threads on a busy machine, unless the user sets a number."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from sg3 import threads
from sg3.threads import CpuTimes, free_cores


@pytest.mark.parametrize(
    ("idle", "own", "expected"), [(0, 0, 1), (400, 0, 4), (180, 20, 2), (290, 100, 4), (30, 90, 1)]
)
def test_free_cores_are_idle_or_used_by_this_process(monkeypatch, idle, own, expected):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    begin = CpuTimes(1000, 5000, 7.0)
    assert free_cores(begin, CpuTimes(1000 + idle, 5400, 7.0 + own)) == expected


def test_unknown_load_means_all_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert free_cores(None, CpuTimes(1, 2, 3.0)) == 3
    same = CpuTimes(1, 2, 3.0)
    assert free_cores(same, same) == 3


def test_torch_uses_free_cores_unless_the_number_is_set(monkeypatch):
    given = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(threads, "free_cores", lambda: 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    threads.use_free_cores()
    assert given == []
    monkeypatch.delenv("OMP_NUM_THREADS")
    threads.use_free_cores()
    assert given == [3]


@pytest.mark.parametrize("own", [{}, {"GOMP_SPINCOUNT": "5"}])
def test_the_program_sets_the_wait_policy_before_torch_is_imported(own):
    code = (
        "import os, sys; from sg3.cli import main\n"
        "main.cli = lambda **kw: print('torch' in sys.modules, os.environ.get('OMP_WAIT_POLICY'))\n"
        "main.main()"
    )
    environment = {k: v for k, v in os.environ.items() if k not in threads.USER_SETTINGS} | own
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["False", "None" if own else "passive"]
