"""Images from seeds or saved latents, identical to the official tool's (REFERENCE.md §9.1)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from sg3.devices import seeded
from sg3.errors import UserError
from sg3.media import to_uint8
from sg3.networks.generator import MappedGenerator
from sg3.networks.style_space import added_styles
from sg3.settings import ClassLabel

NOISE_MODES = ("const", "random", "none")


@dataclass(frozen=True)
class Generated:
    """One generated image.

    Attributes:
        name: file name without suffix, such as `seed0000`.
        image: uint8 `[H, W, C]`.
        ws: its latent `[1, num_ws, w_dim]`.
    """

    name: str
    image: np.ndarray
    ws: torch.Tensor


def generate_images(
    G: MappedGenerator,
    seeds: Sequence[int],
    *,
    truncation_psi: float = 1,
    truncation_cutoff: int | None = None,
    class_index: ClassLabel | None = None,
    noise_mode: str = "const",
    translate: tuple[float, float] = (0, 0),
    rotate_deg: float = 0,
) -> Iterator[Generated]:
    """Yield one image per seed, named `seed0000`; a seed gives the same image as the official tool.

    Args:
        G: generator, such as `sg3.load(...).G_ema`.
        seeds: each draws one z.
        truncation_psi: 1 for no truncation, 0 for the average image.
        truncation_cutoff: number of layers that are truncated; None: all.
        class_index: class label; required by conditional networks.
        noise_mode: "const", "random" (drawn from the seed) or "none"; StyleGAN3 has no noise.
        translate: (x, y), right and down, in units of the larger side; StyleGAN3 only.
        rotate_deg: degrees, counter-clockwise; StyleGAN3 only.

    Raises ValueError for a missing or unknown class, an unknown noise mode, and a transform of a
    StyleGAN2.
    """
    label = class_label(G, class_index)
    _check_noise_mode(noise_mode)
    device = next(G.parameters()).device
    with torch.no_grad(), user_transform(G, translate, rotate_deg):
        for seed in seeds:
            z = np.random.RandomState(seed).randn(1, G.z_dim).astype(np.float32)
            ws = G.mapping(torch.from_numpy(z).to(device), label, truncation_psi, truncation_cutoff)
            yield Generated(f"seed{seed:04d}", _render(G, ws, noise_mode, seed), ws)


def generate_from_latents(
    G: MappedGenerator,
    ws: torch.Tensor,
    styles: Mapping[str, torch.Tensor] | None = None,
    *,
    noise_mode: str = "const",
    translate: tuple[float, float] = (0, 0),
    rotate_deg: float = 0,
) -> Iterator[Generated]:
    """Yield one image per latent, named `latent0000`.

    Args:
        G: generator.
        ws: latents `[N, num_ws, w_dim]`.
        styles: offsets `[N or 1, channels]` by layer, added to the styles computed from `ws`.
        noise_mode, translate, rotate_deg: as for `generate_images`.

    Raises ValueError for a shape that is not the network's.
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


def class_label(G: MappedGenerator, class_index: ClassLabel | None) -> torch.Tensor | None:
    """Return the label `[1, c_dim]`, one-hot for an index; None for an unconditional network.

    Raises ValueError for a class that does not exist, for a label of another length, for an index
    if the network's labels are vectors, and for None if the network is conditional.
    """
    if G.c_dim == 0:
        if class_index is not None:
            raise UserError(f"class_index: got {class_index}, but this network has no classes")
        return None
    last = G.c_dim - 1
    vectors = getattr(G, "label_kind", "classes") == "vectors"
    wanted = f"0 to {last}"
    if vectors:
        numbers = "1 number like 5.0" if G.c_dim == 1 else f"{G.c_dim} numbers like 5.0,90"
        wanted = f"a label of {numbers}"
    if class_index is None:
        choose = wanted if vectors else f"a class, {wanted}"
        raise UserError(f"class_index: this network is conditional; choose {choose}")
    label = torch.zeros([1, G.c_dim], device=next(G.parameters()).device)
    if isinstance(class_index, int):
        if vectors or not 0 <= class_index <= last:
            raise UserError(f"class_index: got {class_index}, expected {wanted}")
        label[:, class_index] = 1
        return label
    if len(class_index) != G.c_dim:
        given = ",".join(f"{number:g}" for number in class_index)
        hint = wanted if vectors else f"{wanted}, or {G.c_dim} numbers"
        raise UserError(f"class_index: got {given}, expected {hint}")
    label[:] = torch.tensor(class_index)
    return label


def inverse_transform(translate: tuple[float, float], rotate_deg: float) -> torch.Tensor:
    """Return the matrix `[3, 3]` for `synthesis.input.transform` that moves the image like this.

    The buffer maps output to input coordinates, so it is the inverse of
    [[cos, sin, x], [−sin, cos, y], [0, 0, 1]], in units of the larger side (REFERENCE.md §9.1).
    """
    angle = rotate_deg * math.pi / 180
    matrix = np.eye(3)
    matrix[0] = [math.cos(angle), math.sin(angle), translate[0]]
    matrix[1] = [-math.sin(angle), math.cos(angle), translate[1]]
    return torch.from_numpy(np.linalg.inv(matrix)).to(torch.float32)


@contextmanager
def user_transform(
    G: MappedGenerator, translate: tuple[float, float] = (0, 0), rotate_deg: float = 0
) -> Iterator[None]:
    """Context in which G's images are translated and rotated; restores its transform afterwards.

    Raises ValueError for a network whose input cannot be transformed (StyleGAN2).
    """
    if not any(translate) and not rotate_deg:
        yield
        return
    if not all(map(math.isfinite, (*translate, rotate_deg))):
        raise UserError(
            f"translate, rotate_deg: got {translate}, {rotate_deg}, expected finite numbers"
        )
    buffer = getattr(getattr(G.synthesis, "input", None), "transform", None)
    if buffer is None:
        raise UserError("translate, rotate_deg: only StyleGAN3 networks can be transformed")
    before = buffer.clone()
    buffer.copy_(inverse_transform(translate, rotate_deg))
    try:
        yield
    finally:
        buffer.copy_(before)


def _check_noise_mode(noise_mode: str) -> None:
    if noise_mode not in NOISE_MODES:
        raise UserError(f"noise_mode: got {noise_mode!r}, expected one of {', '.join(NOISE_MODES)}")


def _render(G: MappedGenerator, ws: torch.Tensor, noise_mode: str, seed: int) -> np.ndarray:
    if noise_mode != "random":
        return to_uint8(G.synthesis(ws, noise_mode=noise_mode))[0]
    with seeded(ws.device, seed):
        return to_uint8(G.synthesis(ws, noise_mode=noise_mode))[0]
