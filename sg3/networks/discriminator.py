"""The discriminator of StyleGAN2 and StyleGAN3 (REFERENCE.md §3.6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange, repeat
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
    """Append channels with the mean standard deviation over groups of samples (REFERENCE.md §3.7).

    With G samples per group, sample `i` belongs to group `i mod (N/G)`.

    Args:
        x: `[N, C, H, W]`.
        group_size: samples per group, at most N; None: the whole batch.
        num_channels: number of channels to append; each averages C / num_channels channels.

    Returns:
        `[N, C + num_channels, H, W]`.

    Raises:
        ValueError: N is not a multiple of the group size, or C not one of `num_channels`.
    """
    n, c, h, w = x.shape
    group = n if group_size is None else min(group_size, n)
    if n == 0 or n % group:
        raise ValueError(
            f"batch: got {n} images, expected a multiple of the minibatch-std group size {group}; "
            "change the batch size or `mbstd_group_size`"
        )
    if c % num_channels:
        raise ValueError(f"mbstd_num_channels: got {num_channels}, expected a divisor of {c}")
    y = rearrange(x, "(g n) (f c) h w -> g n f c h w", g=group, f=num_channels)
    # Population variance (divided by G); the epsilon keeps the gradient of the root finite.
    variance = (y - y.mean(dim=0)).square().mean(dim=0)
    y = (variance + 1e-8).sqrt().mean(dim=[2, 3, 4])  # [N/G, F]
    return torch.cat([x, repeat(y, "n f -> (g n) f h w", g=group, h=h, w=w)], dim=1)


class MinibatchStdLayer(nn.Module):
    """`minibatch_std` as a module."""

    def __init__(self, group_size: int | None, num_channels: int = 1):
        super().__init__()
        self.group_size, self.num_channels = group_size, num_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, C, H, W]` → `[N, C + num_channels, H, W]`."""
        return minibatch_std(x, self.group_size, self.num_channels)


class DiscriminatorBlock(nn.Module):
    """Two 3×3 convolutions that halve the resolution, with skip or residual connections.

    Args:
        in_channels: input channels; 0 marks the first block, which starts from the image.
        tmp_channels: channels between the convolutions.
        out_channels: output channels.
        img_channels: channels of the image.
        first_layer_idx: index of the first layer, for `freeze_layers`.
        architecture: orig, skip or resnet.
        activation: an activation of `ops_cuda.bias_act`.
        resample_filter: low-pass filter of the downsampling.
        conv_clamp: clamp of convolution outputs; None: no clamp.
        use_fp16: compute in half precision on CUDA.
        fp16_channels_last: use channels-last in half precision.
        freeze_layers: number of layers to freeze (Freeze-D).
    """

    resample_filter: torch.Tensor
    half_dtype: torch.dtype

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

        def conv(in_channels: int, out_channels: int, kernel_size: int, **kwargs) -> Conv2dLayer:
            kwargs["trainable"] = first_layer_idx + self.num_layers >= freeze_layers
            kwargs["channels_last"] = self.channels_last
            self.num_layers += 1
            return Conv2dLayer(in_channels, out_channels, kernel_size, **kwargs)

        common: dict[str, Any] = {"activation": activation, "conv_clamp": conv_clamp}
        halve: dict[str, Any] = {"down": 2, "resample_filter": resample_filter}
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
        """Return features and image at half the resolution.

        Args:
            x: features `[N, in, H, W]`; None in the first block.
            img: image `[N, img_channels, H, W]`; None after the first block unless "skip".
            force_fp32: do not use half precision.
        """
        if x is not None:
            x = self._enter(x, force_fp32)
        if self.in_channels == 0 or self.architecture == "skip":
            assert img is not None
            img = self._enter(img, force_fp32)
            y = self.fromrgb(img)
            x = y if x is None else x + y
            skips = self.architecture == "skip"
            img = downsample2d(img, self.resample_filter) if skips else None
        if self.architecture == "resnet":
            # Both branches are scaled by √½, so that their sum keeps unit variance.
            y = self.skip(x, gain=RESIDUAL_GAIN)
            x = y + self.conv1(self.conv0(x), gain=RESIDUAL_GAIN)
        else:
            x = self.conv1(self.conv0(x))
        return x, img


class DiscriminatorEpilogue(nn.Module):
    """Maps features of `size` (4×4 for square images) to one logit per image.

    With labels the logit is the projection on the embedded label (projection discriminator).
    """

    mbstd: MinibatchStdLayer | None

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
        has_mbstd = mbstd_num_channels > 0
        self.mbstd = MinibatchStdLayer(mbstd_group_size, mbstd_num_channels) if has_mbstd else None
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
        """`x` `[N, C, H, W]`, `cmap` `[N, cmap_dim]` or None → logits `[N, 1]` in float32."""
        # Back from half precision, which the epilogue never uses (REFERENCE.md §3.1).
        dtype = self.conv.weight.dtype
        x = x.to(dtype)
        if self.architecture == "skip":
            assert img is not None
            x = x + self.fromrgb(img.to(dtype))
        if self.mbstd is not None:
            x = self.mbstd(x)
        x = self.out(self.fc(self.conv(x).flatten(1)))
        if cmap is not None:
            # √cmap_dim undoes the growth of the sum with the number of products.
            x = (x * cmap).sum(dim=1, keepdim=True) / self.cmap_dim**0.5
        return x


class Discriminator(nn.Module):
    """Maps images in [−1, 1] and labels to logits; positive means real (REFERENCE.md §3.6).

    Args:
        c_dim: size of the label; 0: unconditional.
        img_resolution: side of a square image in pixels, or (height, width).
        img_channels: number of image channels.
        architecture: resnet, skip or orig.
        channel_base: channels of a block are `channel_base / resolution` …
        channel_max: … but at most this.
        num_fp16_res: number of highest resolutions in half precision on CUDA.
        conv_clamp: clamp of convolution outputs; None: no clamp.
        cmap_dim: size of the embedded label; None: channels of the last block.
        block_kwargs: activation, resample_filter, freeze_layers, fp16_channels_last.
        mapping_kwargs: arguments of `sg3.networks.layers.MappingNetwork`.
        epilogue_kwargs: mbstd_group_size, mbstd_num_channels, activation.
        start_size: (height, width) of the last block; None: about 4 pixels. For files of forks.

    Raises:
        ValueError: invalid values.
    """

    mapping: MappingNetwork
    b4: DiscriminatorEpilogue

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
        start_size: Sequence[int] | None = None,
    ):
        super().__init__()
        check_architecture(architecture)
        image = ImageSize.of(img_resolution)
        self.c_dim, self.img_resolution, self.img_channels = c_dim, image.argument, img_channels
        start, *blocks = block_sizes(image, start_size).items()
        if not blocks:
            raise ValueError(f"img_resolution: got {img_resolution}, expected at least 8")
        self.block_resolutions = [r for r, _ in reversed(blocks)]
        channels = {
            r: channels_at(r, channel_base, channel_max)
            for r in [*self.block_resolutions, start[0]]
        }
        cmap_dim = channels[start[0]] if cmap_dim is None else cmap_dim
        common: dict[str, Any] = {
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
        # Named b4 for all image sizes, as in official files.
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
        """Compute logits.

        Args:
            img: images `[N, img_channels, H, W]` in [−1, 1].
            c: labels `[N, c_dim]`; only for conditional networks.
            update_emas: ignored; the discriminator has no moving averages.
            force_fp32: do not use half precision.

        Returns:
            Logits `[N, 1]`; positive means real.

        Raises:
            ValueError: wrong image or label shape, or a batch size that is not a multiple of the
                minibatch-std group size.
        """
        self._check(img, c)
        x, image = None, img
        for r in self.block_resolutions:
            x, image = getattr(self, f"b{r}")(x, image, force_fp32=force_fp32)
        cmap = self.mapping(None, c) if self.c_dim > 0 else None
        return self.b4(x, image, cmap)
