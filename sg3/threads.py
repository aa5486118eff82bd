"""OpenMP threads on shared machines.

Small networks run many short parallel loops. At the end of each loop threads wait for each other,
by default in a busy loop. If another process occupies a core, the waiting threads use up the other
cores, and a step takes ten times as long or more (docs/PERFORMANCE.md).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

#: Wait policy of the OpenMP libraries of GNU and Intel.
WAITING = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
#: If one of these variables is set, the user has chosen a policy.
USER_SETTINGS = (*WAITING, "GOMP_SPINCOUNT")


def use_passive_waiting() -> None:
    """Make OpenMP threads sleep while they wait. Must be called before torch is imported.

    It sets environment variables of the whole process, so only programs call it.
    """
    if not any(name in os.environ for name in USER_SETTINGS):
        os.environ.update(WAITING)


@dataclass(frozen=True)
class CpuTimes:
    """CPU time since boot, in ticks: idle and total of all cores, and of this process."""

    idle: int
    total: int
    own: float

    @staticmethod
    def now() -> CpuTimes | None:
        """Return the current times; None on systems other than Linux."""
        try:
            with open("/proc/stat", encoding="ascii") as file:
                # Without the guest times at the end, which user time already includes.
                ticks = [int(number) for number in file.readline().split()[1:9]]
            own = os.times()
            return CpuTimes(
                ticks[3] + ticks[4], sum(ticks), (own.user + own.system) * os.sysconf("SC_CLK_TCK")
            )
        except (OSError, ValueError, IndexError, AttributeError):
            return None


#: Times when this module was imported, at the start of the program.
START = CpuTimes.now()


def free_cores(since: CpuTimes | None = START, until: CpuTimes | None = None) -> int:
    """Return the number of cores not used by other processes, at least 1.

    Measured between two times, by default from the start of the program until now. Returns the
    number of all cores if the times are unknown.
    """
    until, cores = until or CpuTimes.now(), os.cpu_count() or 1
    if since is None or until is None or until.total <= since.total:
        return cores
    free = until.idle - since.idle + until.own - since.own
    return min(max(1, round(cores * free / (until.total - since.total))), cores)


def use_free_cores() -> None:
    """Limit torch's threads to the number of free cores, unless OMP_NUM_THREADS is set."""
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(min(torch.get_num_threads(), free_cores()))
