"""Run a command in several processes, under torchrun."""

from __future__ import annotations

import logging
import os
import sys
from typing import NoReturn

from sg3.errors import UserError

#: Time in which stopped processes finish their step and save; torchrun's default is 30 seconds.
SHUTDOWN_SEC = "120"


def world_size() -> int:
    """Return the number of processes that torchrun started; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launch_arguments(num: int, arguments: list[str]) -> list[str]:
    """Return torchrun's arguments for `sg3` with `arguments` in `num` processes.

    After "--", torchrun takes none of them for its own: `--log` would be short for several.
    """
    return ["--standalone", f"--nproc-per-node={num}", "-m", "--", "sg3", *arguments]


def run_processes(num: int) -> NoReturn:
    """Run the current command in `num` processes under torchrun, then exit with their status.

    Raises UserError if torchrun is already running.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    if "WORLD_SIZE" in os.environ:
        raise UserError(
            f"--gpus: got {num}, but torchrun started {world_size()} processes; omit --gpus"
        )
    logging.disable(logging.CRITICAL)  # torchrun's log would repeat what the processes print
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SHUTDOWN_SEC)
    try:
        main(launch_arguments(num, sys.argv[1:]))
    except SignalException:  # the processes have saved their state and printed so
        sys.exit(0)
    except ChildFailedError as error:  # and here they have printed why
        codes = {failure.exitcode for failure in error.failures.values()}
        sys.exit(2 if 2 in codes else 1)
    sys.exit(0)
