"""The discriminator of StyleGAN2 and StyleGAN3, all configurations (REFERENCE.md §3.6)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ops_cuda import downsample2d, setup_filter
from sg3.networks.conv_layers import (
    RESAMPLE_FILTER,
    RESIDUAL_GAIN,
    Conv2dLayer,
    channels_at,
    check_architecture,
    enter_block,
    lowest_fp16_resolution,
)
from sg3.networks.layers import FullyConnectedLayer, MappingNetwork
from sg3.networks.sizes import ImageSize, block_sizes


def minibatch_std(
    x: torch.Tensor, group_size: int | None = 4, num_channels: int = 1
) -> torch.Tensor:
    """Append `num_channels` maps with the mean standard deviation of each group of samples.

    `x` `[N, C, H, W]` → `[N, C + num_channels, H, W]`. Sample `i` belongs to group
    `i mod (N/G)` with `G = min(group_size, N)` (None: the whole batch). Raises ValueError when
    groups do not fill the batch or channels do not divide. Source: REFERENCE.md §3.7.
    """
    n, c, h, w = x.shape
    group = n if group_size is None else min(group_size, n)
    if n == 0 or n % group:
        raise ValueError(
            f"batch: got {n} images, expected a multiple of the minibatch-std group of {group}; "
            "change the batch or mbstd_group_size"
        )
    if c % num_channels:
        raise ValueError(f"mbstd_num_channels: got {num_channels}, expected a divisor of {c}")
    y = x.reshape(group, n // group, num_channels, c // num_channels, h, w)
    variance = (y - y.mean(dim=0)).square().mean(dim=0)
    y = (variance + 1e-8).sqrt().mean(dim=[2, 3, 4])  # [N/G, F]
    y = y[:, :, None, None].repeat(group, 1, h, w)
    return torch.cat([x, y], dim=1)


class MinibatchStdLayer(nn.Module):
    """`minibatch_std` with fixed settings."""

    def __init__(self, group_size: int | None, num_channels: int = 1):
        super().__init__()
        self.group_size, self.num_channels = group_size, num_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, C, H, W]` → `[N, C + num_channels, H, W]`."""
        return minibatch_std(x, self.group_size, self.num_channels)


class DiscriminatorBlock(nn.Module):
    """Halves the resolution: two 3×3 convolutions, and what the architecture adds.

    `in_channels` 0 marks the first block, which starts from the image. Layers are counted from
    `first_layer_idx`; those below `freeze_layers` are frozen (Freeze-D).
    """

    def __init__(
        self,
        in_channels: int,
        tmp_channels: int,
        out_channels: int,
        img_channels: int,
        first_layer_idx: int,
        architecture: str = "resnet",
        activation: str = "lrelu",
        resample_filter: Sequence[float] = RESAMPLE_FILTER,
        conv_clamp: float | None = None,
        use_fp16: bool = False,
        fp16_channels_last: bool = False,
        freeze_layers: int = 0,
    ):
        super().__init__()
        check_architecture(architecture)
        self.in_channels, self.img_channels = in_channels, img_channels
        self.architecture, self.use_fp16 = architecture, use_fp16
        self.channels_last, self.half_dtype = use_fp16 and fp16_channels_last, torch.float16
        self.first_layer_idx, self.num_layers = first_layer_idx, 0
        self.register_buffer("resample_filter", setup_filter(resample_filter))

        def conv(*args, **kwargs) -> Conv2dLayer:
            trainable = first_layer_idx + self.num_layers >= freeze_layers
            self.num_layers += 1
            return Conv2dLayer(
                *args, **kwargs, channels_last=self.channels_last, trainable=trainable
            )

        common = {"activation": activation, "conv_clamp": conv_clamp}
        halve = {"down": 2, "resample_filter": resample_filter}
        if in_channels == 0 or architecture == "skip":
            self.fromrgb = conv(img_channels, tmp_channels, 1, **common)
        self.conv0 = conv(tmp_channels, tmp_channels, 3, **common)
        self.conv1 = conv(tmp_channels, out_channels, 3, **common, **halve)
        if architecture == "resnet":
            self.skip = conv(tmp_channels, out_channels, 1, bias=False, **halve)

    def _enter(self, x: torch.Tensor, force_fp32: bool) -> torch.Tensor:
        half = self.half_dtype if self.use_fp16 and not force_fp32 else None
        return enter_block(x, half, self.conv0.weight.dtype, self.channels_last)

    def forward(
        self, x: torch.Tensor | None, img: torch.Tensor | None, force_fp32: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Features `x` `[N, in, R, R]` (None in the first block) and image, both halved."""
        if x is not None:
            x = self._enter(x, force_fp32)
        if self.in_channels == 0 or self.architecture == "skip":
            img = self._enter(img, force_fp32)
            y = self.fromrgb(img)
            x = y if x is None else x + y
            skips = self.architecture == "skip"
            img = downsample2d(img, self.resample_filter) if skips else None
        if self.architecture == "resnet":
            y = self.skip(x, gain=RESIDUAL_GAIN)
            x = y + self.conv1(self.conv0(x), gain=RESIDUAL_GAIN)
        else:
            x = self.conv1(self.conv0(x))
        return x, img


class DiscriminatorEpilogue(nn.Module):
    """Features of `size` (4×4 for squares) to one logit per image.

    With labels the logit is a projection on the embedded label.
    """

    def __init__(
        self,
        in_channels: int,
        cmap_dim: int,
        size: ImageSize,
        img_channels: int,
        architecture: str = "resnet",
        mbstd_group_size: int | None = 4,
        mbstd_num_channels: int = 1,
        activation: str = "lrelu",
        conv_clamp: float | None = None,
    ):
        super().__init__()
        check_architecture(architecture)
        self.cmap_dim, self.architecture = cmap_dim, architecture
        if architecture == "skip":
            self.fromrgb = Conv2dLayer(img_channels, in_channels, 1, activation=activation)
        if mbstd_num_channels > 0:
            self.mbstd = MinibatchStdLayer(mbstd_group_size, mbstd_num_channels)
        else:
            self.mbstd = None
        self.conv = Conv2dLayer(
            in_channels + mbstd_num_channels,
            in_channels,
            3,
            activation=activation,
            conv_clamp=conv_clamp,
        )
        self.fc = FullyConnectedLayer(
            in_channels * size.height * size.width,
            in_channels,
            activation=activation,
            divide_bias=False,
        )
        self.out = FullyConnectedLayer(in_channels, cmap_dim or 1, divide_bias=False)

    def forward(
        self, x: torch.Tensor, img: torch.Tensor | None, cmap: torch.Tensor | None
    ) -> torch.Tensor:
        """`x` `[N, C, H, W]`, `cmap` `[N, cmap_dim]` or None → logits `[N, 1]`, never half."""
        dtype = self.conv.weight.dtype
        x = x.to(dtype)
        if self.architecture == "skip":
            x = x + self.fromrgb(img.to(dtype))
        if self.mbstd is not None:
            x = self.mbstd(x)
        x = self.out(self.fc(self.conv(x).flatten(1)))
        if cmap is not None:
            x = (x * cmap).sum(dim=1, keepdim=True) / self.cmap_dim**0.5
        return x


class Discriminator(nn.Module):
    """Images `[N, img_channels, H, W]` in [−1, 1] and labels to logits: positive means real.

    Constructor arguments as in REFERENCE.md §3.6: `architecture` is resnet, skip or orig; the last
    `num_fp16_res` resolutions may use half precision on CUDA; `block_kwargs` knows activation,
    resample_filter, freeze_layers, fp16_channels_last; `epilogue_kwargs` mbstd_group_size,
    mbstd_num_channels, activation; `mapping_kwargs` those of the mapping network.
    Raises ValueError for values that do not fit.
    """

    def __init__(
        self,
        c_dim: int,
        img_resolution: int | Sequence[int],
        img_channels: int,
        architecture: str = "resnet",
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 4,
        conv_clamp: float | None = 256,
        cmap_dim: int | None = None,
        block_kwargs: dict | None = None,
        mapping_kwargs: dict | None = None,
        epilogue_kwargs: dict | None = None,
    ):
        super().__init__()
        check_architecture(architecture)
        image = ImageSize.of(img_resolution)
        self.c_dim, self.img_resolution, self.img_channels = c_dim, image.argument, img_channels
        start, *blocks = block_sizes(image).items()
        if not blocks:
            raise ValueError(f"img_resolution: got {img_resolution}, expected at least 8")
        self.block_resolutions = [r for r, _ in reversed(blocks)]
        channels = {
            r: channels_at(r, channel_base, channel_max)
            for r in [*self.block_resolutions, start[0]]
        }
        cmap_dim = channels[start[0]] if cmap_dim is None else cmap_dim
        common = {
            "img_channels": img_channels,
            "architecture": architecture,
            "conv_clamp": conv_clamp,
        }
        first_layer_idx = 0
        for r in self.block_resolutions:
            block = DiscriminatorBlock(
                channels[r] if r < image.larger else 0,
                channels[r],
                channels[r // 2],
                first_layer_idx=first_layer_idx,
                use_fp16=r >= lowest_fp16_resolution(image.larger, num_fp16_res),
                **common,
                **(block_kwargs or {}),
            )
            setattr(self, f"b{r}", block)
            first_layer_idx += block.num_layers
        if c_dim > 0:
            options = {"num_layers": 8, "divide_bias": False, **(mapping_kwargs or {})}
            self.mapping = MappingNetwork(0, c_dim, cmap_dim, None, w_avg_beta=None, **options)
        self.b4 = DiscriminatorEpilogue(
            channels[start[0]],
            cmap_dim=cmap_dim if c_dim > 0 else 0,
            size=start[1],
            **common,
            **(epilogue_kwargs or {}),
        )

    def _check(self, img: torch.Tensor, c: torch.Tensor | None) -> None:
        size = ImageSize.of(self.img_resolution)
        shape = (self.img_channels, size.height, size.width)
        if img.ndim != 4 or img.shape[1:] != shape:
            raise ValueError(
                f"img: got shape {tuple(img.shape)}, expected [N, {', '.join(map(str, shape))}]"
            )
        if self.c_dim > 0 and (c is None or c.shape != (len(img), self.c_dim)):
            got = None if c is None else tuple(c.shape)
            raise ValueError(
                f"c: got {got}, expected labels [{len(img)}, {self.c_dim}] "
                "for this conditional network"
            )

    def forward(
        self,
        img: torch.Tensor,
        c: torch.Tensor | None = None,
        update_emas: bool = False,
        force_fp32: bool = False,
    ) -> torch.Tensor:
        """Logits `[N, 1]`. `update_emas` is accepted for symmetry and ignored.

        Raises ValueError on image or label shapes that do not fit, or a batch that is not a
        multiple of the minibatch-std group.
        """
        self._check(img, c)
        x = None
        for r in self.block_resolutions:
            x, img = getattr(self, f"b{r}")(x, img, force_fp32=force_fp32)
        cmap = self.mapping(None, c) if self.c_dim > 0 else None
        return self.b4(x, img, cmap)
