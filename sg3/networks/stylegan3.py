"""The StyleGAN3 generator, configurations T and R (arXiv 2106.12423; REFERENCE.md §2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import einsum
from torch import nn

from ops_cuda import conv2d_before_scaling, filtered_lrelu
from sg3.networks.filters import design_lowpass_filter
from sg3.networks.generator import MappedGenerator
from sg3.networks.layer_schedule import LayerPlan, LayerSpec, plan_layers
from sg3.networks.layers import FullyConnectedLayer
from sg3.networks.sizes import ImageSize

NOISE_MODES = ("random", "const", "none")


class SynthesisInput(nn.Module):
    """Fourier features, translated and rotated by the latent (SG3 App. F; REFERENCE.md §2.5)."""

    transform: torch.Tensor
    freqs: torch.Tensor
    phases: torch.Tensor

    def __init__(self, w_dim: int, spec: LayerSpec):
        super().__init__()
        self.w_dim, self.channels, self.shape = w_dim, spec.channels, spec.shape
        self.sampling_rate, self.bandwidth = spec.sampling_rate, spec.cutoff
        # Gaussian directions; the radii are warped so that frequencies fill the disc of the band
        # uniformly.
        freqs, phases = torch.randn([self.channels, 2]), torch.rand([self.channels]).sub_(0.5)
        if not freqs.is_meta:  # a skeleton, see sg3.checkpoints.networks
            radii = freqs.square().sum(dim=1, keepdim=True).sqrt()
            freqs = freqs / (radii * radii.square().exp().pow(0.25)) * self.bandwidth
        self.weight = nn.Parameter(torch.randn([self.channels, self.channels]))
        self.affine = FullyConnectedLayer(w_dim, 4, weight_init=0)
        assert self.affine.bias is not None
        with torch.no_grad():  # (cos, sin, x, y): start without rotation and translation
            self.affine.bias.copy_(torch.tensor([1.0, 0, 0, 0]))
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", freqs)
        self.register_buffer("phases", phases)

    def transforms(self, w: torch.Tensor) -> torch.Tensor:
        """Return matrices `[N, 3, 3]` from output to input coordinates: learned · `transform`."""
        t = self.affine(w)
        # Makes (cos, sin) a unit vector. The translation is divided by the same norm.
        t = t / t[:, :2].norm(dim=1, keepdim=True)
        cos, sin, tx, ty = t.unbind(dim=1)
        one, zero = torch.ones_like(cos), torch.zeros_like(cos)
        rotation = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=1)
        translation = torch.stack([one, zero, -tx, zero, one, -ty, zero, zero, one], dim=1)
        return rotation.reshape(-1, 3, 3) @ translation.reshape(-1, 3, 3) @ self.transform

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        """`w` `[N, w_dim]` → features `[N, C, height, width]` of `shape`, float32."""
        m = self.transforms(w)
        phases = self.phases + (self.freqs @ m[:, :2, 2:]).squeeze(2)  # [N, C]
        freqs = self.freqs @ m[:, :2, :2]  # [N, C, 2]
        # Frequencies that `transform` scaled beyond the band fade out before they alias.
        excess = freqs.norm(dim=2) - self.bandwidth
        amplitudes = (1 - excess / (self.sampling_rate / 2 - self.bandwidth)).clamp(0, 1)
        # The angle is a sum of an x part and a y part: [N, C, 1, W] + [N, C, H, 1].
        angle_x = freqs[:, :, 0, None] * self._positions(self.shape.width) + phases[:, :, None]
        angle_y = freqs[:, :, 1, None] * self._positions(self.shape.height)
        angles = angle_x[:, :, None, :] + angle_y[:, :, :, None]
        features = torch.sin(angles * (2 * math.pi)) * amplitudes[:, :, None, None]
        weight = self.weight / self.channels**0.5
        return einsum(weight, features, "out c, n c h w -> n out h w")

    def _positions(self, num: int) -> torch.Tensor:
        """Return the positions of `num` samples from the centre, in units of the larger side."""
        index = torch.arange(num, device=self.freqs.device, dtype=torch.float32)
        return (index + 0.5 - num / 2) / self.sampling_rate


class SynthesisLayer(nn.Module):
    """Modulated convolution and filtered leaky ReLU (SG3 Fig. 4b; REFERENCE.md §2.7).

    Args:
        w_dim: size of w.
        plan: signals at input and output.
        conv_kernel: side of the convolution kernel.
        filter_size: taps of the low-pass filters per resampling factor.
        lrelu_upsampling: oversampling of the leaky ReLU.
        use_radial_filters: radially symmetric downsampling filters (configuration R).
        conv_clamp: clamp after the leaky ReLU; None: no clamp.
        magnitude_ema_beta: decay of the moving average of the input's mean square.
    """

    magnitude_ema: torch.Tensor
    up_filter: torch.Tensor | None
    down_filter: torch.Tensor | None

    def __init__(
        self,
        w_dim: int,
        plan: LayerPlan,
        conv_kernel: int = 3,
        filter_size: int = 6,
        lrelu_upsampling: int = 2,
        use_radial_filters: bool = False,
        conv_clamp: float | None = 256,
        magnitude_ema_beta: float = 0.999,
    ):
        super().__init__()
        source, target = plan.source, plan.target
        self.is_torgb, self.use_fp16 = plan.is_torgb, plan.use_fp16
        self.half_dtype = torch.float16
        self.conv_clamp, self.magnitude_ema_beta = conv_clamp, magnitude_ema_beta
        #: dtype of the convolution alone; None: that of the features.
        self.conv_dtype: torch.dtype | None = None
        self.in_channels, self.out_channels = source.channels, target.channels
        self.conv_kernel = 1 if plan.is_torgb else conv_kernel
        self.affine = FullyConnectedLayer(w_dim, source.channels, bias_init=1)
        shape = [target.channels, source.channels, self.conv_kernel, self.conv_kernel]
        self.weight = nn.Parameter(torch.randn(shape))
        self.bias = nn.Parameter(torch.zeros([target.channels]))
        self.register_buffer("magnitude_ema", torch.ones([]))

        # The nonlinearity runs at twice (`lrelu_upsampling`) the higher rate; ToRGB has none.
        rate = max(source.sampling_rate, target.sampling_rate)
        rate *= 1 if plan.is_torgb else lrelu_upsampling
        # Whole numbers but for rounding, as rates need not be integers.
        self.up_factor = round(rate / source.sampling_rate)
        self.down_factor = round(rate / target.sampling_rate)
        up_taps = filter_size * self.up_factor if self._resamples(self.up_factor) else 1
        down_taps = filter_size * self.down_factor if self._resamples(self.down_factor) else 1
        # Critically sampled layers keep separable filters in configuration R, too.
        radial = use_radial_filters and not plan.is_critically_sampled
        up_filter = design_lowpass_filter(up_taps, source.cutoff, source.half_width * 2, rate)
        down_filter = design_lowpass_filter(
            down_taps, target.cutoff, target.half_width * 2, rate, radial=radial
        )
        self.register_buffer("up_filter", up_filter)
        self.register_buffer("down_filter", down_filter)
        self.padding = [
            *self._padding(source.shape.width, target.shape.width, up_taps, down_taps),
            *self._padding(source.shape.height, target.shape.height, up_taps, down_taps),
        ]

    def _resamples(self, factor: int) -> bool:
        return factor > 1 and not self.is_torgb

    def _padding(self, in_size: int, out_size: int, up_taps: int, down_taps: int) -> list[int]:
        """Return the padding (low, high) of an axis of the fine grid (SG3 App. C.3)."""
        fine_out = (out_size - 1) * self.down_factor + 1
        fine_in = (in_size + self.conv_kernel - 1) * self.up_factor
        total = fine_out - fine_in + up_taps + down_taps - 2
        low = (total + self.up_factor) // 2
        return [low, total - low]

    def styles(self, w: torch.Tensor) -> torch.Tensor:
        """Return the styles `[N, in_channels]` of `w` `[N, w_dim]`."""
        return self.affine(w)

    def forward(
        self,
        x: torch.Tensor,
        w: torch.Tensor,
        force_fp32: bool = False,
        update_emas: bool = False,
    ) -> torch.Tensor:
        """`x` `[N, in_channels, H, W]`, `w` `[N, w_dim]` → `[N, out_channels, H', W']`."""
        # The mean square of the input is tracked during training and constant afterwards; unlike
        # instance normalization, it does not depend on the image.
        if update_emas:
            # Squares of float16 features could overflow.
            mean = x.detach().to(torch.float32).square().mean()
            self.magnitude_ema.copy_(mean.lerp(self.magnitude_ema, self.magnitude_ema_beta))
        styles = self.styles(w)
        if self.is_torgb:
            # Without demodulation nothing normalizes the weights: equalize the learning rate here.
            styles = styles / (self.in_channels * self.conv_kernel**2) ** 0.5
        half = self.use_fp16 and not force_fp32 and x.device.type == "cuda"
        dtype = self.half_dtype if half else torch.float32
        x, scale = conv2d_before_scaling(
            x.to(dtype),
            self.weight,
            styles,
            demodulate=not self.is_torgb,
            padding=self.conv_kernel - 1,
            input_gain=self.magnitude_ema.rsqrt(),
            conv_dtype=self.conv_dtype,
        )
        # gain √2 restores the variance that the leaky ReLU takes away; for ToRGB it is linear.
        return filtered_lrelu(
            x,
            fu=self.up_filter,
            fd=self.down_filter,
            b=self.bias.to(dtype),
            up=self.up_factor,
            down=self.down_factor,
            padding=self.padding,
            gain=1 if self.is_torgb else 2**0.5,
            slope=1 if self.is_torgb else 0.2,
            clamp=self.conv_clamp,
            scale=scale,
        )


class SynthesisNetwork(nn.Module):
    """Maps `ws` to images (REFERENCE.md §2.9).

    Args:
        w_dim: size of w.
        img_resolution: side of a square image in pixels, or (height, width).
        img_channels: number of image channels.
        channel_base, channel_max, num_layers, num_critical, first_cutoff, first_stopband,
            last_stopband_rel, margin_size, num_fp16_res: see
            `sg3.networks.layer_schedule.plan_layers`.
        output_scale: factor of the output.
        layer_kwargs: arguments of `SynthesisLayer`: conv_kernel, filter_size, lrelu_upsampling,
            use_radial_filters, conv_clamp, magnitude_ema_beta.
    """

    def __init__(
        self,
        w_dim: int,
        img_resolution: int | Sequence[int],
        img_channels: int,
        channel_base: float = 32768,
        channel_max: int = 512,
        num_layers: int = 14,
        num_critical: int = 2,
        first_cutoff: float = 2,
        first_stopband: float = 2**2.1,
        last_stopband_rel: float = 2**0.3,
        margin_size: int = 10,
        output_scale: float = 0.25,
        num_fp16_res: int = 4,
        **layer_kwargs,
    ):
        super().__init__()
        self.w_dim, self.num_ws = w_dim, num_layers + 2
        self.img_resolution, self.img_channels = ImageSize.of(img_resolution).argument, img_channels
        self.num_layers, self.output_scale = num_layers, output_scale
        plans = plan_layers(
            img_resolution,
            img_channels,
            channel_base,
            channel_max,
            num_layers,
            num_critical,
            first_cutoff,
            first_stopband,
            last_stopband_rel,
            margin_size,
            num_fp16_res,
        )
        self.plans = plans
        self.layer_names = [plan.name for plan in plans]
        self.input = SynthesisInput(w_dim, plans[0].source)
        for plan in plans:
            setattr(self, plan.name, SynthesisLayer(w_dim, plan, **layer_kwargs))

    def forward(
        self,
        ws: torch.Tensor,
        noise_mode: str = "random",
        force_fp32: bool = False,
        update_emas: bool = False,
    ) -> torch.Tensor:
        """Generate images from `ws`.

        Args:
            ws: `[N, num_ws, w_dim]`.
            noise_mode: no effect, for compatibility with StyleGAN2.
            force_fp32: do not use half precision.
            update_emas: update the moving averages of the layers (training only).

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
        first, *rest = ws.to(torch.float32).unbind(dim=1)
        x = self.input(first)
        for name, w in zip(self.layer_names, rest, strict=True):
            x = getattr(self, name)(x, w, force_fp32=force_fp32, update_emas=update_emas)
        return (x * self.output_scale).to(torch.float32)


class Generator(MappedGenerator):
    """The StyleGAN3 generator (REFERENCE.md §2).

    Arguments as for `sg3.networks.generator.MappedGenerator`; further keyword arguments are those
    of `SynthesisNetwork`. Any `img_resolution` is possible; discriminators support fewer sizes
    (`sg3.networks.sizes`). Frequencies are in cycles per larger side, and the translation of
    `synthesis.input.transform` is in units of the larger side. Layers are named
    `L{i}_{size}_{channels}`, with the size as `{width}x{height}` if it is not square.
    """

    synthesis: SynthesisNetwork

    SYNTHESIS = SynthesisNetwork
