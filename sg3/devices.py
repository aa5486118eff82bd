"""What accelerators do differently: names, random states, sums, memory.

CUDA and the CPU are tested. Of Apple's (mps), Intel's (xpu) and further devices of
`torch.accelerator`, what they lack is simulated in tests; no run was made on the devices.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sg3.errors import UserError

EXPECTED = "auto, cpu, cuda, cuda:INDEX, mps, xpu or another accelerator of this torch"
#: Without float64, torch raises TypeError.
WITHOUT_FLOAT64 = ("mps",)


def accelerator() -> str:
    """Return the type of this machine's accelerator, such as cuda or mps; cpu if it has none."""
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    if hasattr(torch, "accelerator"):  # torch 2.6
        found = torch.accelerator.current_accelerator()
        if found is not None and torch.accelerator.is_available():
            return found.type
    return "xpu" if torch.xpu.is_available() else "cpu"


def resolve_device(name: str = "auto") -> torch.device:
    """Return the device called `auto`, `cpu`, `cuda`, `cuda:1`, `mps`, `xpu` and so on.

    `auto` is the machine's accelerator, or the CPU. Raises ValueError for a device that it does not
    have.
    """
    if name == "auto":
        return torch.device(accelerator())
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device: got {name!r}, expected {EXPECTED}") from None
    if device.type != "cpu" and (device.index or 0) >= _count(device.type):
        kind, count = device.type.upper(), _count(device.type)
        raise UserError(f"device: got {name!r}, but this machine has {count} {kind} devices")
    return device


def _count(kind: str) -> int:
    if kind == "cuda":
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    return torch.get_device_module(kind).device_count() if kind == accelerator() else 0


def of_process(device: torch.device) -> torch.device:
    """Give a device without an index that of the local rank of torchrun, and make it current.

    Raises UserError if there are fewer devices than processes.
    """
    local, size = (int(os.environ.get(n, d)) for n, d in (("LOCAL_RANK", "0"), ("WORLD_SIZE", "1")))
    if device.type == "mps" and size > 1:
        raise UserError("--gpus: Apple's GPU works for one process only; omit it, or --device cpu")
    if device.type in ("cpu", "mps") or device.index is not None:
        return device
    count = _count(device.type)
    if local >= count:
        raise UserError(
            f"--nproc-per-node: this is process {local + 1} of a machine with {count} GPUs; start "
            "one process per GPU"
        )
    device = torch.device(device.type, local)
    torch.get_device_module(device).set_device(device)
    return device


def backend(device: torch.device) -> str:
    """Return the name of the library that connects the processes on such devices."""
    return {"cuda": "nccl", "xpu": "xccl"}.get(device.type, "gloo")


def precise_device(device: torch.device) -> torch.device:
    """Return a device for float64: `device`, or the CPU if it has none."""
    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device


def precise(tensor: torch.Tensor) -> torch.Tensor:
    """Return `tensor` as float64, on the CPU if its device has none."""
    return tensor.to(precise_device(tensor.device)).to(torch.float64)


def sum_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype of sums that stay on `device`: float64, or float32 if it has none."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


def random_state(device: torch.device) -> torch.Tensor | None:
    """Return the state of the device's own random generator; None for the CPU."""
    return None if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)


def set_random_state(device: torch.device, state: torch.Tensor) -> None:
    """Restore what `random_state` returned."""
    torch.get_device_module(device).set_rng_state(state, device)


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the random generators of the CPU and `device`; they are as before after the block."""
    devices: list[Any] = [] if device.type == "cpu" else [device]
    kind = "cuda" if device.type == "cpu" else device.type
    with torch.random.fork_rng(devices, device_type=kind):
        torch.manual_seed(seed)
        yield


def synchronize(device: torch.device) -> None:
    """Wait until `device` has done its work."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


def empty_cache(device: torch.device) -> None:
    """Give memory that is not in use back to the device."""
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()
