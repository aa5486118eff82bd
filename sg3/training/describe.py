"""What a run's options mean for its data, networks and loss, before anything is trained."""

from __future__ import annotations

import dataclasses

from sg3.data import open_dataset
from sg3.data.transforms import check_size
from sg3.metrics import check_names
from sg3.training.config import TrainConfig
from sg3.training.presets import (
    augment_kwargs,
    discriminator_kwargs,
    generator_kwargs,
    loss_config,
)
from sg3.training.run_folder import run_description


def make_dataset(config: TrainConfig):
    """The real images that `config` names. Raises ValueError if no network takes their size."""
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
    except ValueError:
        raise ValueError(
            f"data: images of {config.data} are {width}x{height}, a size that no network takes; "
            "prepare them with: sg3 dataset --resolution WxH --transform center-crop"
        ) from None
    return dataset


def describe(config: TrainConfig, num_processes: int = 1) -> dict:
    """What a run would do, without doing it: the resolved options, and the networks' arguments.

    Raises ValueError for options or data that do not fit.
    """
    check_names(config.metrics)
    dataset = make_dataset(config)
    shape = tuple(dataset.image_shape)
    config = config.resolved(max(shape[1:]), num_processes)
    start = None
    if config.start_network is not None:
        import sg3

        start, config = sg3.load(config.start_network), config.begun_with_network()
    kind, kwargs = generator_kwargs(config, shape, dataset.label_dim, start and start.G_ema)
    return {
        "options": plain(config),
        "folder": run_description(config, dataset.name, num_processes),
        "data": {"images": len(dataset), "shape": shape, "label_dim": dataset.label_dim},
        "G": {"kind": kind, **kwargs},
        "D": discriminator_kwargs(config, shape, dataset.label_dim, start and start.D),
        "augment": None if config.aug == "noaug" else augment_kwargs(config),
        "loss": dataclasses.asdict(loss_config(config)),
    }


def plain(config: TrainConfig) -> dict:
    """The options as files store them: lists for tuples."""
    record = dataclasses.asdict(config)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in record.items()}
