"""The processes that work on one run: those of torchrun, or this one alone."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from sg3 import devices
from sg3.distributed.rendezvous import attempt_store
from sg3.errors import UserError

T = TypeVar("T")
TIMEOUT_MINUTES = 10.0  # default of SG3_DIST_TIMEOUT_MINUTES


class SharedError(UserError):
    """An error of one process, raised on all of them; rank 0 reports it."""


class Team:
    """Rank, world size, and collectives that are no-ops with a single process.

    `Team()` is a single process. `Team.join()` joins the processes that torchrun started, over
    NCCL for CUDA devices, XCCL for Intel's and gloo otherwise.

    Attributes:
        rank: 0 to size − 1.
        size: world size.
        device: where this process computes.
    """

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | None = None):
        self.rank, self.size = rank, size
        self.device = device or torch.device("cpu")

    @classmethod
    def join(cls, device: torch.device) -> Team:
        """Join the processes of torchrun's environment variables; without them, work alone.

        A GPU without an index becomes that of the local rank. Raises UserError if there
        are fewer GPUs than processes, or if not all processes start in time.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        device = devices.of_process(device)
        if size == 1:
            return cls(device=device)
        if not dist.is_initialized():
            minutes = float(os.environ.get("SG3_DIST_TIMEOUT_MINUTES", TIMEOUT_MINUTES))
            timeout = datetime.timedelta(minutes=minutes)
            store, rank, size = attempt_store(timeout)
            backend = devices.backend(device)
            with _lost_process_in_one_line():
                dist.init_process_group(
                    backend, store=store, rank=rank, world_size=size, timeout=timeout
                )
        return cls(dist.get_rank(), dist.get_world_size(), device)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and prints."""
        return self.rank == 0

    def close(self) -> None:
        """Destroy the process group."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def shard(self, items: torch.Tensor) -> torch.Tensor:
        """Return this rank's part of `items` `[N, …]`: every `size`-th, starting at `rank`.

        D's minibatch statistics group images at the same stride (REFERENCE.md §3.7), so no group
        is split and several processes compute what one would.
        """
        return items[self.rank :: self.size]

    def broadcast(self, network: nn.Module) -> None:
        """Copy the parameters and buffers of rank 0 to all ranks."""
        if self.size == 1:
            return
        with _lost_process_in_one_line():
            for tensor in [*network.parameters(), *network.buffers()]:
                # Detached, since autograd refuses to overwrite a parameter in place. Contiguous,
                # since gloo sends memory in its order: a transposed tensor would arrive scrambled.
                own = tensor.detach()
                sent = own.contiguous()
                dist.broadcast(sent, src=0)
                if sent.data_ptr() != own.data_ptr():
                    own.copy_(sent)

    def mean_(self, tensors: Iterable[torch.Tensor]) -> None:
        """Average `tensors` over ranks in place, with a single all-reduce."""
        tensors = list(tensors)
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([t.detach().reshape(-1).to(torch.float32) for t in tensors])
        with _lost_process_in_one_line():
            dist.all_reduce(flat)
        parts = flat.div_(self.size).split([t.numel() for t in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum `tensor` over ranks in place and return it."""
        if self.size > 1:
            with _lost_process_in_one_line():
                dist.all_reduce(tensor)
        return tensor

    def any(self, value: bool) -> bool:
        """Return True on every rank if `value` is true on at least one."""
        if self.size == 1:
            return value
        return bool(self.sum_(torch.full([1], float(value), device=self.device)) > 0)

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in order, on rank 0; an empty list elsewhere."""
        if self.size == 1:
            return [value]
        found: list[Any] | None = [None] * self.size if self.is_main else None
        with _lost_process_in_one_line():
            dist.gather_object(value, found, dst=0)
        return found or []

    def broadcast_object(self, value: T) -> T:
        """Return rank 0's `value` on every rank."""
        if self.size == 1:
            return value
        box = [value]
        with _lost_process_in_one_line():
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def agree(self, work: Callable[[], T]) -> T:
        """Run `work()`, which must not communicate, on every rank and return its result.

        If it raises ValueError or OSError on any rank, all ranks raise the error of the lowest
        such rank as `SharedError`: no rank waits for one that gave up, and the user sees the
        message once.
        """
        if self.size == 1:
            return work()
        error: ValueError | OSError | None = None
        try:
            result = work()
        except (ValueError, OSError) as caught:
            error = caught
        texts = self.gather(None if error is None else _one_line(error))
        first = self.broadcast_object(next((text for text in texts if text is not None), None))
        if first is not None:
            raise SharedError(first) from error
        return result


def _one_line(error: ValueError | OSError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())


@contextmanager
def _lost_process_in_one_line() -> Iterator[None]:
    """Turn the error of a collective into one line."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"another process stopped responding ({reason}); see its own message. A training run "
            "continues from its last state with `resume` latest"
        ) from error


def restarted_by_torchrun() -> bool:
    """Whether torchrun restarted this process after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
