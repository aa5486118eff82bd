"""Constructor arguments of G and D that follow from the options of a run (REFERENCE.md §4.8).

This module does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sg3.errors import UserError
from sg3.training.config import SMALL, Sizes, TrainConfig

if TYPE_CHECKING:
    from torch import nn


def preset_sizes(config: TrainConfig) -> Sizes:
    """Return the sizes that `budget` and `cfg` stand for."""
    if config.budget == "small":
        return SMALL
    return Sizes(map_depth=8) if config.cfg == "stylegan2" else Sizes()


def generator_kwargs(
    config: TrainConfig,
    image_shape: tuple[int, int, int],
    label_dim: int,
    start: nn.Module | None = None,
    label_kind: str | None = None,
) -> tuple[str, dict[str, Any]]:
    """Return kind and constructor arguments of G.

    Args:
        config: options of the run.
        image_shape: `[C, H, W]` of the training images.
        label_dim: size of a label, 0 without labels.
        start: generator to start from. If it is of the same kind, it provides the sizes that
            `config` leaves open; otherwise the preset does.
        label_kind: 'classes', 'vectors', or None without labels.

    Raises ValueError if `start` is StyleGAN3-T and the run is R, or the other way round.
    """
    kind = "stylegan2" if config.cfg == "stylegan2" else "stylegan3"
    radial = config.cfg == "stylegan3-r"
    factor = 2 if radial else 1  # R has 1x1 kernels; twice the channels make up for it
    preset = preset_sizes(config)
    kwargs: dict[str, Any] = dict(
        z_dim=preset.z_dim,
        w_dim=preset.w_dim,
        channel_base=preset.cbase * factor,
        channel_max=preset.cmax * factor,
        mapping_kwargs={"num_layers": preset.map_depth},
    )
    if kind == "stylegan3":
        kwargs |= {"num_layers": preset.num_layers, "margin_size": preset.margin_size}
    if radial:
        kwargs |= {"conv_kernel": 1, "use_radial_filters": True}
    known: Any = start  # `kind` and `init_kwargs` are set by `build_network`
    if known is not None and known.kind == kind:
        _check_same_kernel(known.init_kwargs, kwargs)
        kwargs = dict(known.init_kwargs)
    kwargs |= _given(
        z_dim=config.z_dim,
        w_dim=config.w_dim,
        channel_base=config.cbase and config.cbase * factor,
        channel_max=config.cmax and config.cmax * factor,
    )
    kwargs |= _image_kwargs(image_shape, label_dim)
    kwargs.pop("label_kind", None)
    if label_kind == "vectors":  # only then: other programs do not know the argument
        kwargs["label_kind"] = label_kind
    if config.map_depth is not None:
        kwargs["mapping_kwargs"] = {
            **kwargs.get("mapping_kwargs", {}),
            "num_layers": config.map_depth,
        }
    if kind == "stylegan3":
        # A half-life of 20k images, whatever the batch size.
        kwargs["magnitude_ema_beta"] = 0.5 ** (config.batch / 20e3)
        kwargs |= _given(num_layers=config.num_layers, margin_size=config.margin_size)
    return kind, kwargs | _precision_kwargs(config)


def _check_same_kernel(start: dict[str, Any], own: dict[str, Any]) -> None:
    """R and T cannot start from each other: their kernels differ."""
    kernel = start.get("conv_kernel", 3)
    if kernel != own.get("conv_kernel", 3):
        other = "stylegan3-r" if kernel == 1 else "stylegan3-t"
        raise UserError(f"resume: the network is a {other}; set `cfg` to {other}")


def discriminator_kind(config: TrainConfig) -> str:
    """Return the kind of D, as `build_network` takes it."""
    return "projected" if config.discriminator == "projected" else "discriminator"


def discriminator_kwargs(
    config: TrainConfig,
    image_shape: tuple[int, int, int],
    label_dim: int,
    start: nn.Module | None = None,
    start_G: nn.Module | None = None,
) -> dict[str, Any]:
    """Return constructor arguments of D; loads a projected D's features.

    Args:
        config, image_shape, label_dim: as for `generator_kwargs`.
        start: discriminator to start from, which provides the sizes that `config` leaves open.
        start_G: generator to start from; without `start`, D gets the capacity of this one.

    Raises ValueError if the features cannot be loaded.
    """
    if config.discriminator == "projected":
        from sg3.networks.projected import projected_kwargs

        return projected_kwargs(config.features, **_image_kwargs(image_shape, label_dim))
    known: Any = start
    preset = preset_sizes(config)
    kwargs: dict[str, Any] = {"channel_base": preset.cbase, "channel_max": preset.cmax}
    if known is not None and known.kind == "discriminator":
        kwargs = dict(known.init_kwargs)
    elif start_G is not None:
        kwargs |= _capacity(start_G)
    kwargs |= _given(
        channel_base=config.dcbase or config.cbase, channel_max=config.dcmax or config.cmax
    )
    kwargs |= _image_kwargs(image_shape, label_dim)
    kwargs["block_kwargs"] = {**kwargs.get("block_kwargs", {}), "freeze_layers": config.freezed}
    kwargs["epilogue_kwargs"] = {
        **kwargs.get("epilogue_kwargs", {}),
        "mbstd_group_size": config.mbstd_group,
    }
    return kwargs | _precision_kwargs(config)


def _capacity(G: Any) -> dict[str, Any]:
    """Return the channel arguments of a D that belongs to `G`; R has twice those of its D."""
    known = G.init_kwargs
    factor = 2 if known.get("conv_kernel", 3) == 1 else 1
    names = ("channel_base", "channel_max")
    return {name: max(known[name] // factor, 1) for name in names if name in known}


def _given(**kwargs: Any) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if value is not None}


def _image_kwargs(image_shape: tuple[int, int, int], label_dim: int) -> dict[str, Any]:
    channels, height, width = image_shape
    resolution = height if height == width else [height, width]
    return {"img_resolution": resolution, "img_channels": channels, "c_dim": label_dim}


def _precision_kwargs(config: TrainConfig) -> dict[str, Any]:
    # Without half precision there is no narrow range that the clamp has to protect.
    return {"num_fp16_res": 0, "conv_clamp": None} if config.precision == "fp32" else {}
