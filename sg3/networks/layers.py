"""Layers that all networks share: equalised fully connected layers and the mapping network."""

from __future__ import annotations

import torch
from torch import nn

from ops_cuda import bias_act


class FullyConnectedLayer(nn.Module):
    """`x` `[N, in]` → `act(x·(weight·g)ᵀ + bias·lr_multiplier)` `[N, out]` (REFERENCE.md §2.6).

    Weights are stored with variance 1 (divided by `lr_multiplier`) and scaled at run time by
    `g = lr_multiplier/√in`, so that one learning rate suits every layer. StyleGAN3 divides the
    initial bias too, StyleGAN2 does not (`divide_bias`).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        activation: str = "linear",
        bias: bool = True,
        lr_multiplier: float = 1,
        weight_init: float = 1,
        bias_init: float = 0,
        divide_bias: bool = True,
    ):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.activation = activation
        scale = weight_init / lr_multiplier
        self.weight = nn.Parameter(torch.randn([out_features, in_features]) * scale)
        if divide_bias:
            bias_init = bias_init / lr_multiplier
        values = torch.as_tensor(bias_init, dtype=torch.float32).expand(out_features)
        self.bias = nn.Parameter(values.contiguous().clone()) if bias else None
        self.weight_gain = lr_multiplier / in_features**0.5
        self.bias_gain = lr_multiplier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.weight.to(x.dtype) * self.weight_gain
        b = self.bias
        if b is not None:
            b = b.to(x.dtype)
            b = b * self.bias_gain if self.bias_gain != 1 else b
        if self.activation == "linear":
            return torch.nn.functional.linear(x, w, b)
        return bias_act(x @ w.t(), b, act=self.activation)


def normalize_2nd_moment(x: torch.Tensor) -> torch.Tensor:
    """Rows of `x` `[N, C]` scaled to unit mean square."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class MappingNetwork(nn.Module):
    """Latents and labels to intermediate latents (REFERENCE.md §2.10 for StyleGAN3, 3.4 for StyleGAN2).

    `z_dim` 0 maps labels only (the discriminator's). `num_ws` None returns `[N, w_dim]` without
    broadcasting; `w_avg_beta` None keeps no average.
    """

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        num_layers: int = 2,
        embed_features: int | None = None,
        layer_features: int | None = None,
        activation: str = "lrelu",
        lr_multiplier: float = 0.01,
        w_avg_beta: float | None = 0.998,
        divide_bias: bool = True,
    ):
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = z_dim, c_dim, w_dim, num_ws
        self.num_layers, self.w_avg_beta = num_layers, w_avg_beta
        embed_features = (embed_features or w_dim) if c_dim > 0 else 0
        widths = [z_dim + embed_features] + [layer_features or w_dim] * (num_layers - 1) + [w_dim]
        if c_dim > 0:
            self.embed = FullyConnectedLayer(c_dim, embed_features, divide_bias=divide_bias)
        for i in range(num_layers):
            layer = FullyConnectedLayer(
                widths[i],
                widths[i + 1],
                activation=activation,
                lr_multiplier=lr_multiplier,
                divide_bias=divide_bias,
            )
            setattr(self, f"fc{i}", layer)
        if num_ws is not None and w_avg_beta is not None:
            self.register_buffer("w_avg", torch.zeros([w_dim]))

    def _inputs(self, z: torch.Tensor | None, c: torch.Tensor | None) -> torch.Tensor:
        parts = []
        if self.z_dim > 0:
            if z is None or z.ndim != 2 or z.shape[1] != self.z_dim:
                got = None if z is None else tuple(z.shape)
                raise ValueError(f"z: got shape {got}, expected [N, {self.z_dim}]")
            parts.append(normalize_2nd_moment(z.to(torch.float32)))
        if self.c_dim > 0:
            if c is None or c.ndim != 2 or c.shape[1] != self.c_dim:
                got = None if c is None else tuple(c.shape)
                raise ValueError(
                    f"c: got {got}, expected labels [N, {self.c_dim}] for this conditional network"
                )
            parts.append(normalize_2nd_moment(self.embed(c.to(torch.float32))))
        if len({len(part) for part in parts}) > 1:
            raise ValueError(f"c: got {len(c)} labels, expected one for each of {len(z)} latents")
        return torch.cat(parts, dim=1)

    def forward(
        self,
        z: torch.Tensor | None,
        c: torch.Tensor | None = None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
    ) -> torch.Tensor:
        """`z` `[N, z_dim]`, `c` `[N, c_dim]` → `ws` `[N, num_ws, w_dim]`.

        `truncation_psi` pulls the first `truncation_cutoff` (None: all) entries towards the
        average latent; 1 leaves them, 0 gives the average.
        """
        x = self._inputs(z, c)
        for i in range(self.num_layers):
            x = getattr(self, f"fc{i}")(x)
        if update_emas and self.w_avg_beta is not None and self.num_ws is not None:
            mean = x.detach().mean(dim=0)
            self.w_avg.copy_(mean.lerp(self.w_avg, self.w_avg_beta))
        if self.num_ws is None:
            return x
        ws = x[:, None].repeat(1, self.num_ws, 1)
        if truncation_psi != 1:
            cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
            ws[:, :cutoff] = self.w_avg.lerp(ws[:, :cutoff], truncation_psi)
        return ws
