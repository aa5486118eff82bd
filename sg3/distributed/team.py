"""The processes that train together: torchrun's, or this one alone."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from sg3.distributed.rendezvous import attempt_store
from sg3.errors import UserError

TIMEOUT_MINUTES = 10.0  # SG3_DIST_TIMEOUT_MINUTES changes it


class ToldError(UserError):
    """What went wrong on some process, as every process learns it; rank 0 tells the user."""


class Team:
    """Rank and size of the group, and the few things its members tell one another.

    With one process every method returns at once. Use `Team.join()` inside a program that
    torchrun started; `torch.distributed` then runs on NCCL for CUDA devices and gloo otherwise.
    """

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | None = None):
        self.rank, self.size = rank, size
        self.device = device or torch.device("cpu")

    @classmethod
    def join(cls, device: torch.device) -> Team:
        """The team of torchrun's environment variables, or a team of one.

        A CUDA device without an index becomes that of the local rank.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if device.type == "cuda" and device.index is None:
            index = int(os.environ.get("LOCAL_RANK", "0"))
            if index >= torch.cuda.device_count():
                raise UserError(
                    f"--nproc-per-node: this is process {index + 1} of a machine with "
                    f"{torch.cuda.device_count()} GPUs; start one process per GPU"
                )
            device = torch.device("cuda", index)
            torch.cuda.set_device(device)
        if size == 1:
            return cls(device=device)
        if not dist.is_initialized():
            minutes = float(os.environ.get("SG3_DIST_TIMEOUT_MINUTES", TIMEOUT_MINUTES))
            timeout = datetime.timedelta(minutes=minutes)
            store, rank, size = attempt_store(timeout)
            backend = "nccl" if device.type == "cuda" else "gloo"
            with _explained():
                dist.init_process_group(
                    backend, store=store, rank=rank, world_size=size, timeout=timeout
                )
        return cls(dist.get_rank(), dist.get_world_size(), device)

    @property
    def leads(self) -> bool:
        """Whether this process writes the files and speaks."""
        return self.rank == 0

    def leave(self) -> None:
        """End the group."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def share(self, items: torch.Tensor) -> torch.Tensor:
        """This member's part of `items` `[N, …]`: every `size`-th, from its rank.

        Minibatch statistics group images at such strides too (REFERENCE.md §3.7), so a group never
        straddles members and several members compute what one would.
        """
        return items[self.rank :: self.size]

    def broadcast(self, network: nn.Module) -> None:
        """Give every member the parameters and buffers of rank 0."""
        if self.size == 1:
            return
        with _explained():
            for tensor in [*network.parameters(), *network.buffers()]:
                dist.broadcast(tensor.detach(), src=0)

    def mean_(self, tensors: Iterable[torch.Tensor]) -> None:
        """Average `tensors` over the members, in place, in one flat message."""
        tensors = list(tensors)
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([t.detach().reshape(-1).to(torch.float32) for t in tensors])
        with _explained():
            dist.all_reduce(flat)
        parts = flat.div_(self.size).split([t.numel() for t in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum `tensor` over the members, in place; returns it."""
        if self.size > 1:
            with _explained():
                dist.all_reduce(tensor)
        return tensor

    def any(self, value: bool) -> bool:
        """True on every member if it is on one."""
        if self.size == 1:
            return value
        return bool(self.sum_(torch.full([1], float(value), device=self.device)) > 0)

    def gather(self, value: Any) -> list[Any]:
        """Every member's `value`, in order of rank, on rank 0; an empty list elsewhere."""
        if self.size == 1:
            return [value]
        found: list[Any] | None = [None] * self.size if self.leads else None
        with _explained():
            dist.gather_object(value, found, dst=0)
        return found or []

    def tell(self, value: Any) -> Any:
        """Rank 0's `value`, on every member."""
        if self.size == 1:
            return value
        box = [value]
        with _explained():
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def agree(self, work: Callable[[], Any]) -> Any:
        """`work()`, which sends no messages, on every member.

        When it raises ValueError or OSError anywhere, all members raise the first one's error as
        `ToldError`: nobody waits for a member that gave up, and the user reads it once.
        """
        if self.size == 1:
            return work()
        result = error = None
        try:
            result = work()
        except (ValueError, OSError) as caught:
            error = caught
        texts = self.gather(None if error is None else _one_line(error))
        first = self.tell(next((text for text in texts if text is not None), None))
        if first is not None:
            raise ToldError(first) from error
        return result


def _one_line(error: ValueError | OSError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())


@contextmanager
def _explained() -> Iterator[None]:
    """A lost member becomes one line."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"another process of this run stopped answering ({reason}); its own message says why. "
            "The last state is in the run's folder: repeat the command with --resume latest"
        ) from error


def restarted_by_torchrun() -> bool:
    """Whether torchrun started this process again after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
