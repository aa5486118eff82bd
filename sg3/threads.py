"""Threads on a machine that others use, too.

Small networks are many short parallel loops. At the end of each, threads wait for one another, by
default in a busy loop. Where other work holds a core, the waiting threads burn the rest of the
machine, and a step takes ten times as long or more (docs/PERFORMANCE.md).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

#: How the OpenMP libraries of GNU and of Intel wait. Whoever set one of these has decided.
WAITING = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
DECIDED = (*WAITING, "GOMP_SPINCOUNT")


def wait_politely() -> None:
    """Let OpenMP threads sleep while they wait. Only works before torch is imported."""
    if not any(name in os.environ for name in DECIDED):
        os.environ.update(WAITING)


@dataclass(frozen=True)
class CpuTimes:
    """What all cores together have done since the machine started, and this process, in ticks."""

    idle: int
    total: int
    own: float

    @staticmethod
    def now() -> CpuTimes | None:
        """None where the system does not say (anything but Linux)."""
        try:
            with open("/proc/stat", encoding="ascii") as file:
                ticks = [int(number) for number in file.readline().split()[1:9]]
            own = os.times()
            return CpuTimes(
                ticks[3] + ticks[4], sum(ticks), (own.user + own.system) * os.sysconf("SC_CLK_TCK")
            )
        except (OSError, ValueError, IndexError, AttributeError):
            return None


#: When this module was imported: the program's start.
START = CpuTimes.now()


def free_cores(since: CpuTimes | None = START, until: CpuTimes | None = None) -> int:
    """Cores that others have left alone between two times (since the program began, until now), at
    least 1; all of them where that is unknown."""
    until, cores = until or CpuTimes.now(), os.cpu_count() or 1
    if since is None or until is None or until.total <= since.total:
        return cores
    free = until.idle - since.idle + until.own - since.own
    return min(max(1, round(cores * free / (until.total - since.total))), cores)


def use_free_cores() -> None:
    """Give torch as many threads as there are free cores, unless OMP_NUM_THREADS says how many."""
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(min(torch.get_num_threads(), free_cores()))
