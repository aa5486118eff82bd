"""From a run's options to its networks, loss and augmentation (REFERENCE.md §4.8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sg3.networks.augment import PRESETS
from sg3.training.config import TrainConfig
from sg3.training.loss import LossConfig

if TYPE_CHECKING:
    from torch import nn


def loss_config(config: TrainConfig) -> LossConfig:
    """The loss of a resolved `config`."""
    settings = {"kind": config.loss, "r1_gamma": config.gamma}
    if config.cfg == "stylegan2":
        settings |= {"style_mixing_prob": 0.9, "pl_weight": 2}
    if config.blur_percent is not None:
        fade = config.kimg * config.blur_percent / 100
        settings |= {"blur_init_sigma": 10, "blur_fade_kimg": fade}
    elif config.cfg == "stylegan3-r" and not config.from_network:
        settings |= {"blur_init_sigma": 10, "blur_fade_kimg": config.batch * 200 / 32}
    return LossConfig(**settings)


def _given(pairs: dict) -> dict:
    return {name: value for name, value in pairs.items() if value is not None}


def _sizes(image_shape: tuple[int, int, int]) -> dict:
    channels, height, width = image_shape
    resolution = height if height == width else [height, width]
    return {"img_resolution": resolution, "img_channels": channels}


def generator_kwargs(
    config: TrainConfig,
    image_shape: tuple[int, int, int],
    label_dim: int,
    start: nn.Module | None = None,
) -> tuple[str, dict]:
    """Kind and constructor arguments of the generator for images `[C, H, W]`.

    Options that were left out are those of `start`, the generator that --resume brings, if it is
    of the same kind; else those of the preset.
    """
    kind = "stylegan2" if config.cfg == "stylegan2" else "stylegan3"
    radial = config.cfg == "stylegan3-r"
    factor = 2 if radial else 1  # R has 1×1 kernels and twice the channels
    kwargs = dict(
        z_dim=512, w_dim=512, channel_base=32768 * factor, channel_max=512 * factor,
        mapping_kwargs={"num_layers": 8 if kind == "stylegan2" else 2},
    )  # fmt: skip
    if kind == "stylegan3" and radial:
        kwargs |= {"conv_kernel": 1, "use_radial_filters": True}
    if start is not None and start.kind == kind:
        _check_same_family(start, kwargs)
        kwargs = {**start.init_kwargs}
    kwargs |= _given(
        dict(
            z_dim=config.z_dim,
            w_dim=config.w_dim,
            channel_base=config.cbase and config.cbase * factor,
            channel_max=config.cmax and config.cmax * factor,
        )
    )
    kwargs |= _sizes(image_shape) | {"c_dim": label_dim}
    if config.map_depth is not None:
        kwargs["mapping_kwargs"] = {
            **kwargs.get("mapping_kwargs", {}),
            "num_layers": config.map_depth,
        }
    if kind == "stylegan3":
        # A half-life of 20 000 images, whatever the batch.
        kwargs["magnitude_ema_beta"] = 0.5 ** (config.batch / 20e3)
        kwargs |= _given({"num_layers": config.num_layers, "margin_size": config.margin_size})
    return kind, kwargs | _precision(config)


def _check_same_family(start: nn.Module, kwargs: dict) -> None:
    """R resumes R, and T resumes T: their kernels differ."""
    name, own = "conv_kernel", kwargs.get("conv_kernel", 3)
    if start.kind == "stylegan3" and start.init_kwargs.get(name, 3) != own:
        other = "stylegan3-r" if start.init_kwargs.get(name, 3) == 1 else "stylegan3-t"
        raise ValueError(f"--resume: the network is a {other}; train it with --cfg {other}")


def augment_kwargs(config: TrainConfig) -> dict[str, float]:
    """Arguments of the augmentation pipe (REFERENCE.md §5.1). Raises ValueError for an unknown preset."""
    if config.augpipe not in PRESETS:
        raise ValueError(f"--augpipe: got {config.augpipe!r}, expected one of {', '.join(PRESETS)}")
    return PRESETS[config.augpipe]


def discriminator_kwargs(
    config: TrainConfig,
    image_shape: tuple[int, int, int],
    label_dim: int,
    start: nn.Module | None = None,
) -> dict:
    """Constructor arguments of the discriminator; `start` as in `generator_kwargs`."""
    kwargs = {"channel_base": 32768, "channel_max": 512} if start is None else start.init_kwargs
    kwargs = kwargs | _given(
        {
            "channel_base": config.dcbase or config.cbase,
            "channel_max": config.dcmax or config.cmax,
        }
    )
    kwargs |= _sizes(image_shape) | {"c_dim": label_dim}
    kwargs["block_kwargs"] = {
        **kwargs.get("block_kwargs", {}),
        "freeze_layers": config.freezed,
    }
    kwargs["epilogue_kwargs"] = {
        **kwargs.get("epilogue_kwargs", {}),
        "mbstd_group_size": config.mbstd_group,
    }
    return kwargs | _precision(config)


def _precision(config: TrainConfig) -> dict:
    return {"num_fp16_res": 0, "conv_clamp": None} if config.precision == "fp32" else {}
