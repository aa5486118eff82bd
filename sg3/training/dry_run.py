"""What a run would do and cost, without starting it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch

from sg3.checkpoints.load import load
from sg3.checkpoints.networks import Networks
from sg3.data import ImageDataset, ShardDataset, open_dataset
from sg3.data.transforms import check_size
from sg3.errors import UserError
from sg3.metrics import check_names
from sg3.networks import build_network
from sg3.training import run_folder
from sg3.training.architecture import discriminator_kwargs, generator_kwargs
from sg3.training.augmentation import image_augmentation
from sg3.training.config import TrainConfig
from sg3.training.forecast import GB, DiskUse, end_date, format_duration, remaining
from sg3.training.freezing import trained_parameters
from sg3.training.loggers import check_loggers
from sg3.training.loss import loss_config
from sg3.training.plan import estimate_run


def describe(
    config: TrainConfig, num_processes: int = 1, with_estimate: bool = False
) -> dict[str, Any]:
    """Return what a run would do: resolved options, folder name, data, network arguments, loss.

    `with_estimate` adds what it would cost, which takes seconds. Nothing is written. Raises
    ValueError for options or data that do not fit.
    """
    check_names(config.metrics)
    check_loggers(config.log)
    dataset = open_training_data(config)
    shape = dataset.image_shape
    config = config.resolved(max(shape[1:]), num_processes)
    start = Networks()
    if config.start_network is not None:
        start, config = load(config.start_network), config.begun_with_network()
    start_G = start.G or start.G_ema
    kind, kwargs = generator_kwargs(config, shape, dataset.label_dim, start_G, dataset.label_kind)
    if config.freeze_g:
        trained_parameters(build_network(kind, kwargs), config)  # raises for too many layers
    augment = image_augmentation(config)
    found = {
        "options": plain(config),
        "folder": run_folder.run_description(config, dataset.name, num_processes),
        "data": {"images": len(dataset), "shape": shape, "label_dim": dataset.label_dim},
        "G": {"kind": kind, **kwargs},
        "D": discriminator_kwargs(config, shape, dataset.label_dim, start.D, start_G),
        "augment": None if augment is None else {"kind": augment[0], **augment[1]},
        "loss": dataclasses.asdict(loss_config(config)),
    }
    if with_estimate:
        found["estimate"] = _estimate(config, shape, dataset.label_dim, num_processes, start)
    return found


def _estimate(
    config: TrainConfig,
    shape: tuple[int, int, int],
    label_dim: int,
    num_processes: int,
    start: Networks,
) -> dict[str, Any]:
    """Return the cost of a new run; `config` is resolved."""
    device = torch.device(config.device)
    if device.type == "cpu" and num_processes > 1:  # as `--gpus` starts them
        config = dataclasses.replace(config, threads=config.threads or 1)
    given = start if start.parts() else None
    row, sizes = estimate_run(config, shape, label_dim, num_processes, device, given)
    assert config.grid is not None, "options are resolved"
    to_come = remaining(config)
    grid_bytes = math.prod(config.grid) * math.prod(shape)
    disk = DiskUse(
        snapshots=to_come.snapshots,
        snapshot_bytes=sizes.snapshot_bytes + grid_bytes,
        present_bytes=0,
        states=min(config.keep_states, to_come.ticks),
        state_bytes=sizes.state_bytes,
    )
    found: dict[str, Any] = {"device": str(device)}
    if row is not None and row.seconds_per_kimg is not None and row.memory_gib is not None:
        seconds = row.seconds_per_kimg * config.kimg
        found |= {
            "source": {"measured": "measured steps", "estimated": "cost model"}[row.source],
            "images_per_sec": _short(1000 / row.seconds_per_kimg),
            "sec_per_kimg": _short(row.seconds_per_kimg),
            "days": _short(seconds / 86400),
            "duration": format_duration(seconds),
            "end": end_date(seconds),
            "memory_gib_per_process": _short(row.memory_gib),
        }
    return found | {
        "snapshots": disk.snapshots,
        "snapshot_gb": _short(disk.snapshot_bytes / GB),
        "states": disk.states,
        "state_gb": _short(disk.state_bytes / GB),
        "disk_gb": _short(disk.total_bytes / GB),
        "note": "Times leave out reading images, metrics, and writing files. Image grids count "
        "uncompressed. The run itself measures its speed in the first steps.",
    }


def _short(value: float) -> float:
    """Round to three significant digits."""
    return float(f"{value:.3g}")


SMALLEST_PX = 8  # larger side, for D


def open_training_data(config: TrainConfig) -> ImageDataset | ShardDataset:
    """Open the real images of `config`. Raises ValueError if no network has their size."""
    dataset = open_dataset(
        config.data,
        use_labels=config.cond,
        max_size=config.max_images,
        xflip=config.mirror,
        yflip=config.mirror_y,
        random_seed=config.seed,
        cache=config.cache,
    )
    _, height, width = dataset.image_shape
    try:
        check_size(height, width)
        if max(height, width) < SMALLEST_PX:
            raise ValueError
    except ValueError:
        raise UserError(
            f"data: images in {config.data} are {width}x{height}, which no network supports; "
            "prepare them with: sg3 dataset --resolution WxH --transform center-crop"
        ) from None
    return dataset


def plain(config: TrainConfig) -> dict[str, Any]:
    """Return the options as files store them, with lists for tuples."""
    record = dataclasses.asdict(config)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in record.items()}
