"""Equalized fully connected layers and the mapping network, used by all networks."""

from __future__ import annotations

import torch
from torch import nn

from ops_cuda import bias_act


class FullyConnectedLayer(nn.Module):
    """`x` `[N, in]` → `act(x·(weight·g)ᵀ + bias·lr_multiplier)` `[N, out]` (REFERENCE.md §2.6).

    Weights are stored with unit variance divided by `lr_multiplier` and scaled at run time by
    `g = lr_multiplier/√in`. Adam's steps do not depend on the scale of a gradient, so this sets
    the effective learning rate of the layer.

    Args:
        in_features, out_features: sizes.
        activation: an activation of `ops_cuda.bias_act`.
        bias: add a bias.
        lr_multiplier: learning rate relative to other layers.
        weight_init: standard deviation of the initial effective weights, times √in.
        bias_init: initial value of the effective bias.
        divide_bias: divide the stored initial bias by `lr_multiplier` (StyleGAN3, not StyleGAN2).
    """

    bias: nn.Parameter | None

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
        self.weight = nn.Parameter(torch.randn([out_features, in_features]).mul_(scale))
        # The forward pass multiplies the stored bias by `lr_multiplier`: undo that here.
        if divide_bias:
            bias_init = bias_init / lr_multiplier
        values = torch.as_tensor(bias_init, dtype=torch.float32).expand(out_features)
        self.bias = nn.Parameter(values.contiguous().clone()) if bias else None
        self.weight_gain = lr_multiplier / in_features**0.5
        self.bias_gain = lr_multiplier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` `[N, in]` → `[N, out]` in the dtype of `x`."""
        w = self.weight.to(x.dtype) * self.weight_gain
        b: torch.Tensor | None = self.bias
        if b is not None:
            b = b.to(x.dtype)
            b = b * self.bias_gain if self.bias_gain != 1 else b
        if self.activation == "linear":
            return torch.nn.functional.linear(x, w, b)
        return bias_act(x @ w.t(), b, act=self.activation)


def normalize_2nd_moment(x: torch.Tensor) -> torch.Tensor:
    """Scale the rows of `x` `[N, C]` to unit mean square."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class MappingNetwork(nn.Module):
    """Maps latents and labels to W (REFERENCE.md §2.10 for StyleGAN3, §3.4 for StyleGAN2).

    Args:
        z_dim: size of the latent; 0 maps labels only (discriminator).
        c_dim: size of the label; 0: unconditional.
        w_dim: size of the intermediate latent.
        num_ws: rows of the result; None: no broadcasting.
        num_layers: number of fully connected layers.
        embed_features: size of the label embedding; None: `w_dim`.
        layer_features: size of hidden layers; None: `w_dim`.
        activation: an activation of `ops_cuda.bias_act`.
        lr_multiplier: learning rate relative to other layers.
        w_avg_beta: decay of the moving average of w; None: no average.
        divide_bias: see `FullyConnectedLayer`.
    """

    w_avg: torch.Tensor
    embed: FullyConnectedLayer

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
            # Only the direction of z matters: inputs lie on a hypersphere.
            parts.append(normalize_2nd_moment(z.to(torch.float32)))
        if self.c_dim > 0:
            if c is None or c.ndim != 2 or c.shape[1] != self.c_dim:
                got = None if c is None else tuple(c.shape)
                raise ValueError(
                    f"c: got {got}, expected labels [N, {self.c_dim}] for this conditional network"
                )
            parts.append(normalize_2nd_moment(self.embed(c.to(torch.float32))))
        # Sizes, not `len`, which torch.export would take for constants.
        latents, labels = parts[0].shape[0], parts[-1].shape[0]
        if latents != labels:
            raise ValueError(f"c: got {labels} labels, expected one for each of {latents} latents")
        return torch.cat(parts, dim=1)

    def forward(
        self,
        z: torch.Tensor | None,
        c: torch.Tensor | None = None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
    ) -> torch.Tensor:
        """Map latents and labels to W.

        Args:
            z: latents `[N, z_dim]`, standard normal; None if `z_dim` is 0.
            c: labels `[N, c_dim]`; only if `c_dim` is not 0.
            truncation_psi: pulls w towards the average latent; 1: no truncation, 0: the average.
            truncation_cutoff: number of rows to truncate, coarsest first; None: all.
            update_emas: update the average latent (training only).

        Returns:
            `ws` `[N, num_ws, w_dim]` with equal rows before truncation; `[N, w_dim]` if `num_ws`
            is None.

        Raises:
            ValueError: `z` or `c` is missing or has another shape.
        """
        x = self._inputs(z, c)
        for i in range(self.num_layers):
            x = getattr(self, f"fc{i}")(x)
        if update_emas and self.w_avg_beta is not None and self.num_ws is not None:
            # Of w before truncation, which reads this average itself (REFERENCE.md §2.11).
            mean = x.detach().mean(dim=0)
            self.w_avg.copy_(mean.lerp(self.w_avg, self.w_avg_beta))
        if self.num_ws is None:
            return x
        # Tensor.repeat copies. einops.repeat returns a view, where the assignment would fail.
        ws = x[:, None].repeat(1, self.num_ws, 1)
        if truncation_psi != 1:
            cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
            ws[:, :cutoff] = self.w_avg.lerp(ws[:, :cutoff], truncation_psi)
        return ws
