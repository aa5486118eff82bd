"""Images from seeds or saved latents, as the official tool makes them (REFERENCE.md §9.1)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from sg3.errors import UserError
from sg3.media import to_uint8
from sg3.networks.style_space import added_styles

NOISE_MODES = ("const", "random", "none")


@dataclass(frozen=True)
class Generated:
    """One image: `image` uint8 [H, W, C], the `ws` [1, num_ws, w_dim] behind it, its file name."""

    name: str
    image: np.ndarray
    ws: torch.Tensor


def generate_images(
    G: nn.Module,
    seeds: Sequence[int],
    *,
    truncation_psi: float = 1,
    truncation_cutoff: int | None = None,
    class_index: int | None = None,
    noise_mode: str = "const",
    translate: tuple[float, float] = (0, 0),
    rotate_deg: float = 0,
) -> Iterator[Generated]:
    """Yield one image per seed, named `seed0000`; the same seed gives the official tool's image.

    `class_index` is needed by conditional networks. `translate` (x, y in larger sides, to the
    right and down) and `rotate_deg` (counter-clockwise) move the picture of a StyleGAN3. With
    noise_mode 'random' the noise follows from the seed. Raises UserError for a class out of range
    or missing, an unknown noise mode, a transform on a StyleGAN2.
    """
    label = class_label(G, class_index)
    _check_noise_mode(noise_mode)
    device = next(G.parameters()).device
    with torch.no_grad(), user_transform(G, translate, rotate_deg):
        for seed in seeds:
            z = np.random.RandomState(seed).randn(1, G.z_dim).astype(np.float32)
            z = torch.from_numpy(z).to(device)
            ws = G.mapping(z, label, truncation_psi, truncation_cutoff)
            yield Generated(f"seed{seed:04d}", _render(G, ws, noise_mode, seed), ws)


def generate_from_latents(
    G: nn.Module,
    ws: torch.Tensor,
    styles: Mapping[str, torch.Tensor] | None = None,
    *,
    noise_mode: str = "const",
    translate: tuple[float, float] = (0, 0),
    rotate_deg: float = 0,
) -> Iterator[Generated]:
    """Yield one image per latent of `ws` [N, num_ws, w_dim], named `latent0000`.

    `styles` [N or 1, channels] by layer are added to what ws gives. The other arguments are those
    of `generate_images`. Raises UserError for a shape that is not the network's.
    """
    _check_noise_mode(noise_mode)
    if ws.ndim != 3 or ws.shape[1:] != (G.num_ws, G.w_dim):
        raise UserError(f"ws: got shape {list(ws.shape)}, expected [N, {G.num_ws}, {G.w_dim}]")
    ws = ws.to(next(G.parameters()).device, torch.float32)
    with torch.no_grad(), user_transform(G, translate, rotate_deg):
        for i, one in enumerate(ws.split(1)):
            own = {k: v[i : i + 1] if len(v) > 1 else v for k, v in (styles or {}).items()}
            with added_styles(G, own):
                image = _render(G, one, noise_mode, i)
            yield Generated(f"latent{i:04d}", image, one)


def class_label(G: nn.Module, class_index: int | None) -> torch.Tensor | None:
    """One-hot label [1, c_dim], or None for an unconditional network. Raises UserError."""
    if G.c_dim == 0:
        if class_index is not None:
            raise UserError(f"class: got {class_index}, but this network has no classes")
        return None
    if class_index is None:
        raise UserError(f"class: this network is conditional; choose a class, 0 to {G.c_dim - 1}")
    if not 0 <= class_index < G.c_dim:
        raise UserError(f"class: got {class_index}, expected 0 to {G.c_dim - 1}")
    label = torch.zeros([1, G.c_dim], device=next(G.parameters()).device)
    label[:, class_index] = 1
    return label


def inverse_transform(translate: tuple[float, float], rotate_deg: float) -> torch.Tensor:
    """The matrix [3, 3] for `synthesis.input.transform`: inverse of rotation, then translation.

    m = [[cos, sin, x], [-sin, cos, y], [0, 0, 1]] in larger sides (REFERENCE.md §9.1).
    """
    angle = rotate_deg * math.pi / 180
    matrix = np.eye(3)
    matrix[0] = [math.cos(angle), math.sin(angle), translate[0]]
    matrix[1] = [-math.sin(angle), math.cos(angle), translate[1]]
    return torch.from_numpy(np.linalg.inv(matrix)).to(torch.float32)


@contextmanager
def user_transform(
    G: nn.Module, translate: tuple[float, float] = (0, 0), rotate_deg: float = 0
) -> Iterator[None]:
    """Within the block G's pictures are moved; afterwards its transform is what it was.

    Raises UserError for a network whose input cannot be transformed (StyleGAN2).
    """
    if not any(translate) and not rotate_deg:
        yield
        return
    if not all(map(math.isfinite, (*translate, rotate_deg))):
        raise UserError(f"translate, rotate: got {translate}, {rotate_deg}, expected numbers")
    buffer = getattr(getattr(G.synthesis, "input", None), "transform", None)
    if buffer is None:
        raise UserError("translate, rotate: only StyleGAN3 networks can do that")
    before = buffer.clone()
    buffer.copy_(inverse_transform(translate, rotate_deg))
    try:
        yield
    finally:
        buffer.copy_(before)


def _check_noise_mode(noise_mode: str) -> None:
    if noise_mode not in NOISE_MODES:
        raise UserError(f"noise_mode: got {noise_mode!r}, expected {', '.join(NOISE_MODES)}")


def _render(G: nn.Module, ws: torch.Tensor, noise_mode: str, seed: int) -> np.ndarray:
    if noise_mode != "random":
        return to_uint8(G.synthesis(ws, noise_mode=noise_mode))[0]
    devices = [ws.device] if ws.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        return to_uint8(G.synthesis(ws, noise_mode=noise_mode))[0]
