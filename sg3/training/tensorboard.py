"""Statistics as TensorBoard events, where that package is installed."""

from __future__ import annotations

from pathlib import Path


def open_writer(folder: Path):
    """A `SummaryWriter` into `folder`, or None without the package `tensorboard`."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))


def write_tick(writer, progress: dict, stats: dict, nimg: int) -> None:
    """All numbers of a tick, at `nimg` images."""
    for name, value in progress.items():
        if isinstance(value, (int, float)):
            writer.add_scalar(f"Progress/{name}", value, global_step=nimg)
    for name, moments in stats.items():
        writer.add_scalar(name, moments["mean"], global_step=nimg)
    writer.flush()
