"""Peak memory and seconds of real training steps on random images.

On a CPU they run in a separate process, `python -m sg3.training.plan_measure`, so that its peak
memory is that of training alone.
"""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch

from sg3 import devices
from sg3.allocator import keep_large_blocks
from sg3.data.base import TrainingImages
from sg3.distributed import Team
from sg3.errors import UserError
from sg3.system import peak_memory_bytes
from sg3.training.config import TrainConfig
from sg3.training.trainer import Trainer, is_out_of_memory, prepare_device

NUM_IMAGES = 64
KILLED = -9  # exit status of a process that the system killed for memory


@dataclass(frozen=True)
class Measured:
    """Peak bytes and seconds of an average step; both are 0 if memory ran out."""

    peak: int
    seconds: float

    @property
    def out_of_memory(self) -> bool:
        """Whether memory ran out."""
        return self.peak == 0


class RandomImages(TrainingImages):
    """Random images of shape `[C, H, W]`, each with one of `label_dim` labels."""

    in_memory = True

    def __init__(self, image_shape: tuple[int, int, int], label_dim: int = 0):
        super().__init__("noise")
        self.image_shape, self._label_dim = image_shape, label_dim
        self._image = torch.randint(0, 256, [1, *image_shape], dtype=torch.uint8)

    def __len__(self) -> int:
        return NUM_IMAGES

    @property
    def label_dim(self) -> int:
        return self._label_dim

    @property
    def label_kind(self) -> str | None:
        return "classes" if self._label_dim else None

    def images(self, indices: Any) -> torch.Tensor:
        return self._image.repeat(len(indices), 1, 1, 1)

    def labels(self, indices: Any) -> torch.Tensor:
        if not self._label_dim:
            return torch.zeros([len(indices), 0])
        return torch.eye(self._label_dim)[torch.as_tensor(indices) % self._label_dim]


def _kinds_of_steps(intervals: list[int]) -> list[tuple[int, float]]:
    """Return one step index per combination of due phases, and the fraction of such steps.

    With intervals 1 and 16: (0, 1/16) and (1, 15/16).
    """
    cycle = math.lcm(*intervals)
    due = [tuple(index % k == 0 for k in intervals) for index in range(cycle)]
    return [(due.index(kind), count / cycle) for kind, count in Counter(due).items()]


def _run_steps(config: TrainConfig, image_shape: tuple[int, int, int], label_dim: int) -> Measured:
    """Run the steps in this process. Raises the device's error when memory runs out."""
    device = prepare_device(config)
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    images: Any = RandomImages(image_shape, label_dim)
    trainer = Trainer(config, images, Team(device=device))
    trainer.cur_nimg = round(config.kimg * 1000)  # the initial blur has faded
    seconds = 0.0
    try:
        trainer.step()  # compiles; all phases are due, so memory reaches its peak
        for index, fraction in _kinds_of_steps([phase.interval for phase in trainer.phases]):
            trainer.batch_idx = index
            started = time.perf_counter()
            trainer.step()
            devices.synchronize(device)
            seconds += fraction * (time.perf_counter() - started)
    finally:
        trainer.close()
    peak = torch.cuda.max_memory_allocated(device) if cuda else peak_memory_bytes()
    return Measured(peak, seconds)


def measure_steps_here(
    config: TrainConfig, image_shape: tuple[int, int, int], label_dim: int
) -> Measured:
    """Measure steps of one process, this one; a CPU's peak memory is that of all it has done."""
    try:
        return _run_steps(config, image_shape, label_dim)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return Measured(0, 0)


def measure_steps(
    config: TrainConfig, image_shape: tuple[int, int, int], label_dim: int = 0
) -> Measured:
    """Measure steps of one process on `config.device`, with a resolved `config`.

    Raises ValueError if a step fails for another reason than memory.
    """
    if torch.device(config.device).type == "cuda":
        return measure_steps_here(config, image_shape, label_dim)
    question = json.dumps([dataclasses.asdict(config), image_shape, label_dim])
    command = [sys.executable, "-m", "sg3.training.plan_measure"]
    process = subprocess.run(command, input=question, capture_output=True, text=True)
    if process.returncode == KILLED:
        return Measured(0, 0)
    if process.returncode:
        reason = process.stderr.strip().splitlines() or ["no reason given"]
        raise UserError(f"measure: the training step failed: {reason[-1]}")
    return Measured(*json.loads(process.stdout.splitlines()[-1]))


def main() -> None:
    """Measure for the question on standard input; print the answer as JSON."""
    keep_large_blocks()  # as `sg3 train` does
    options, image_shape, label_dim = json.loads(sys.stdin.read())
    found = measure_steps_here(TrainConfig(**options), tuple(image_shape), label_dim)
    print(json.dumps([found.peak, found.seconds]))


if __name__ == "__main__":
    main()
