"""Statistics as TensorBoard events, where that package is installed."""

from __future__ import annotations

from pathlib import Path


def open_writer(folder: Path, start_nimg: int | None = None):
    """A `SummaryWriter` into `folder`, or None where TensorBoard is missing or broken.

    A run that goes on gives `start_nimg`, its number of images: what an earlier session wrote
    beyond it, and will be done again, is then hidden.
    """
    purge_step = None if start_nimg is None else start_nimg + 1
    try:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder), purge_step=purge_step)
    except Exception:  # protobuf and numpy of other releases break it in many ways: an extra only
        return None


def write_tick(writer, progress: dict, stats: dict, nimg: int) -> None:
    """All numbers of a tick, at `nimg` images."""
    for name, value in progress.items():
        if isinstance(value, (int, float)):
            writer.add_scalar(f"Progress/{name}", value, global_step=nimg)
    for name, moments in stats.items():
        writer.add_scalar(name, moments["mean"], global_step=nimg)
    writer.flush()
