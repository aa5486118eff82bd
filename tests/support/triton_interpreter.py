"""Runs test cases in Triton's interpreter: in a process of their own, since Triton reads
TRITON_INTERPRET when it is imported. Uninitialized memory is NaN there, and bytes are 255.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from functools import cache

import repository

ROOT = repository.ROOT
Cases = dict[str, Callable[[], None]]


@cache
def outcomes(file: str) -> dict[str, str]:
    """Name of each case in the test module `file` → empty if it passed, else what went wrong."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": paths}
    process = subprocess.run(
        [sys.executable, "-W", "ignore", file], env=environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def run(cases: Cases) -> None:
    """In the interpreter's process: run all cases and print their outcomes as JSON."""
    import torch

    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    found = {}
    for name, case in cases.items():
        torch.manual_seed(0)
        start = time.perf_counter()
        try:
            case()
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc()
        print(f"{time.perf_counter() - start:6.2f} s {name} {found[name]}", file=sys.stderr)
    print(json.dumps(found))
