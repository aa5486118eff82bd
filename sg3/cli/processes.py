"""One command in several processes, under torchrun."""

from __future__ import annotations

import logging
import os
import sys

from sg3.errors import UserError


def world_size() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def run_processes(num: int) -> None:
    """This same command in `num` processes, under torchrun; ends the program."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    if "WORLD_SIZE" in os.environ:
        raise UserError(
            f"--gpus: got {num}, but torchrun started {world_size()} processes; leave out --gpus"
        )
    logging.disable(logging.CRITICAL)  # the processes speak for themselves
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        main(["--standalone", f"--nproc-per-node={num}", "-m", "sg3", *sys.argv[1:]])
    except SignalException:  # the processes have saved their state and said so
        sys.exit(0)
    except ChildFailedError as error:  # and here they have said why
        codes = {failure.exitcode for failure in error.failures.values()}
        sys.exit(2 if 2 in codes else 1)
    sys.exit(0)
