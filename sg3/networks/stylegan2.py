"""The StyleGAN2 generator (arXiv 1912.04958; REFERENCE.md §3.3 to §3.5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from ops_cuda import setup_filter, upsample2d
from sg3.networks.conv_layers import (
    RESAMPLE_FILTER,
    RESIDUAL_GAIN,
    Conv2dLayer,
    channels_at,
    check_architecture,
    enter_block,
    lowest_fp16_resolution,
)
from sg3.networks.generator import MappedGenerator
from sg3.networks.sg2_layers import SynthesisLayer, ToRGBLayer
from sg3.networks.sizes import ImageSize, block_sizes

NOISE_MODES = ("random", "const", "none")


class SynthesisBlock(nn.Module):
    """The layers of one resolution: doubles the feature resolution, and adds to the image.

    Args:
        in_channels: input channels; 0 marks the first block, which starts from a constant.
        out_channels: output channels.
        w_dim: size of w.
        size: size of the output.
        img_channels: channels of the image.
        is_last: whether this is the block of the full resolution.
        architecture: skip, resnet or orig.
        resample_filter: low-pass filter of the upsampling.
        conv_clamp: clamp of convolution outputs; None: no clamp.
        use_fp16: compute in half precision on CUDA.
        fp16_channels_last: use channels-last in half precision.
        fused_modconv_default: recorded for compatibility; there is one form of the convolution.
        layer_kwargs: arguments of the layers: use_noise, activation.
    """

    resample_filter: torch.Tensor
    half_dtype: torch.dtype

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        size: ImageSize,
        img_channels: int,
        is_last: bool,
        architecture: str = "skip",
        resample_filter: Sequence[float] = RESAMPLE_FILTER,
        conv_clamp: float | None = 256,
        use_fp16: bool = False,
        fp16_channels_last: bool = False,
        fused_modconv_default: bool | str = True,
        **layer_kwargs,
    ):
        super().__init__()
        check_architecture(architecture)
        self.in_channels, self.size, self.is_last = in_channels, size, is_last
        self.architecture, self.use_fp16 = architecture, use_fp16
        self.channels_last, self.half_dtype = use_fp16 and fp16_channels_last, torch.float16
        self.fused_modconv_default = fused_modconv_default
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        self.num_conv = self.num_torgb = 0

        def layer(channels: int, **kwargs) -> SynthesisLayer:
            self.num_conv += 1
            kwargs |= {"conv_clamp": conv_clamp, "channels_last": self.channels_last}
            kwargs |= layer_kwargs
            return SynthesisLayer(channels, out_channels, w_dim, size, **kwargs)

        double: dict[str, Any] = {"up": 2, "resample_filter": resample_filter}
        if in_channels == 0:
            self.const = nn.Parameter(torch.randn([out_channels, size.height, size.width]))
        else:
            self.conv0 = layer(in_channels, **double)
        self.conv1 = layer(out_channels)
        if is_last or architecture == "skip":
            self.num_torgb += 1
            self.torgb = ToRGBLayer(
                out_channels,
                img_channels,
                w_dim,
                conv_clamp=conv_clamp,
                channels_last=self.channels_last,
            )
        if in_channels != 0 and architecture == "resnet":
            self.skip = Conv2dLayer(
                in_channels,
                out_channels,
                1,
                bias=False,
                channels_last=self.channels_last,
                **double,
            )

    def forward(
        self,
        x: torch.Tensor | None,
        img: torch.Tensor | None,
        ws: torch.Tensor,
        force_fp32: bool = False,
        noise_mode: str = "random",
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return features and image at the resolution of this block.

        Args:
            x: features `[N, in, H/2, W/2]`; None in the first block.
            img: image `[N, img_channels, H/2, W/2]`; None in the first block.
            ws: `[N, num_conv + num_torgb, w_dim]`.
            force_fp32: do not use half precision.
            noise_mode: random, const or none.
        """
        w = iter(ws.unbind(dim=1))
        if self.in_channels == 0:
            x = self.const.expand(ws.shape[0], -1, -1, -1)  # of einops, torch.export fixes n
        assert x is not None
        half = self.half_dtype if self.use_fp16 and not force_fp32 else None
        x = enter_block(x, half, torch.float32, self.channels_last)
        if self.in_channels == 0:
            x = self.conv1(x, next(w), noise_mode)
        elif self.architecture == "resnet":
            y = self.skip(x, gain=RESIDUAL_GAIN)
            x = self.conv0(x, next(w), noise_mode)
            x = y + self.conv1(x, next(w), noise_mode, gain=RESIDUAL_GAIN)
        else:
            x = self.conv0(x, next(w), noise_mode)
            x = self.conv1(x, next(w), noise_mode)
        if img is not None:
            img = upsample2d(img, self.resample_filter)
        if self.num_torgb:
            # The image is a sum over blocks: float32 keeps it free of repeated rounding.
            y = self.torgb(x, next(w)).to(torch.float32)
            img = y if img is None else img + y
        return x, img


class SynthesisNetwork(nn.Module):
    """Maps `ws` to images (REFERENCE.md §3.5).

    Args:
        w_dim: size of w.
        img_resolution: side of a square image in pixels, or (height, width).
        img_channels: number of image channels.
        channel_base: channels of a block are `channel_base / resolution` …
        channel_max: … but at most this.
        num_fp16_res: number of highest resolutions in half precision on CUDA.
        start_size: (height, width) of the first block; None: about 4 pixels. For files of forks.
        block_channels: channels of the blocks, coarse to fine, where `channel_base` does not give
            them; None: it does.
        block_kwargs: arguments of `SynthesisBlock`.
    """

    def __init__(
        self,
        w_dim: int,
        img_resolution: int | Sequence[int],
        img_channels: int,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 4,
        start_size: Sequence[int] | None = None,
        block_channels: Sequence[int] | None = None,
        **block_kwargs,
    ):
        super().__init__()
        image = ImageSize.of(img_resolution)
        self.w_dim, self.img_resolution, self.img_channels = w_dim, image.argument, img_channels
        sizes = block_sizes(image, start_size)
        self.block_resolutions = list(sizes)
        self.num_ws = 0
        in_channels = 0
        channels = block_channels or [channels_at(r, channel_base, channel_max) for r in sizes]
        if len(channels) != len(sizes):
            raise ValueError(f"block_channels: got {len(channels)}, expected {len(sizes)}")
        for (r, size), out_channels in zip(sizes.items(), channels, strict=True):
            is_last = size == image
            block = SynthesisBlock(
                in_channels,
                out_channels,
                w_dim=w_dim,
                size=size,
                img_channels=img_channels,
                is_last=is_last,
                use_fp16=r >= lowest_fp16_resolution(image.larger, num_fp16_res),
                **block_kwargs,
            )
            setattr(self, f"b{r}", block)
            # ToRGB uses the same w as the first convolution of the next block.
            self.num_ws += block.num_conv + (block.num_torgb if is_last else 0)
            in_channels = out_channels

    def forward(
        self,
        ws: torch.Tensor,
        noise_mode: str = "random",
        force_fp32: bool = False,
        update_emas: bool = False,
        fused_modconv: bool | None = None,
    ) -> torch.Tensor:
        """Generate images from `ws`.

        Args:
            ws: `[N, num_ws, w_dim]`.
            noise_mode: "random" draws from torch's generator, "const" uses the stored noise,
                "none" adds no noise.
            force_fp32: do not use half precision.
            update_emas, fused_modconv: ignored, for compatibility.

        Returns:
            float32 images `[N, img_channels, H, W]`, nominally in [−1, 1].

        Raises:
            ValueError: `ws` has another shape, or an unknown `noise_mode`.
        """
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(
                f"ws: got shape {tuple(ws.shape)}, expected [N, {self.num_ws}, {self.w_dim}]"
            )
        if noise_mode not in NOISE_MODES:
            raise ValueError(f"noise_mode: got {noise_mode!r}, expected one of {NOISE_MODES}")
        ws = ws.to(torch.float32)
        x = img = None
        first = 0
        for r in self.block_resolutions:
            block = getattr(self, f"b{r}")
            block_ws = ws[:, first : first + block.num_conv + block.num_torgb]
            x, img = block(x, img, block_ws, force_fp32=force_fp32, noise_mode=noise_mode)
            # Not `num_torgb`: ToRGB's row is also the next block's first (REFERENCE.md §3.3).
            first += block.num_conv
        assert img is not None, "the last block always has a ToRGB layer"
        return img


class Generator(MappedGenerator):
    """The StyleGAN2 generator (REFERENCE.md §3).

    Arguments as for `sg3.networks.generator.MappedGenerator`; further keyword arguments are those
    of `SynthesisNetwork` and `SynthesisBlock`: channel_base, channel_max, num_fp16_res, start_size,
    block_channels, architecture (skip, resnet, orig), resample_filter, conv_clamp,
    fp16_channels_last, fused_modconv_default, use_noise, activation.
    """

    synthesis: SynthesisNetwork

    SYNTHESIS = SynthesisNetwork
    MAPPING: ClassVar = {"num_layers": 8, "divide_bias": False}
