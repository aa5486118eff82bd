"""Videos of a generator: interpolations, loops, a moving input (REFERENCE.md §9.2, §9.3).

    video = plan_video(G, VideoConfig(kind="lerp", seeds=range(32), grid=(4, 2)))
    for frame in video.frames:                    # uint8 [H, W, C], video.num_frames of them
        ...

Frames are rendered one at a time, as they are consumed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from scipy.interpolate import make_interp_spline
from scipy.ndimage import gaussian_filter1d

from sg3.errors import UserError
from sg3.generate import class_label, user_transform
from sg3.media import image_grid, to_uint8
from sg3.media.images import enlarge
from sg3.motion import Move, moves
from sg3.networks.generator import MappedGenerator
from sg3.video_config import KINDS, VideoConfig

__all__ = ["KINDS", "Video", "VideoConfig", "plan_video", "render", "seed_latents"]

WRAPS = 2  # how often the official tool repeats the keyframes on both sides
SMOOTHING = 0.5  # standard deviation of the filter of loops, in keyframes
PASS_PIXELS, MAX_BATCH = 1 << 19, 8  # pixels and images per forward pass


@dataclass(frozen=True)
class Video:
    """`num_frames` frames, uint8 `[H, W, 3 or 1]`, rendered while `frames` is iterated."""

    num_frames: int
    frames: Iterator[np.ndarray]


def plan_video(
    G: MappedGenerator,
    config: VideoConfig,
    ws: torch.Tensor | None = None,
    min_size_px: int = 192,
) -> Video:
    """Check the settings of a video and return it unrendered.

    Args:
        G: StyleGAN3 or StyleGAN2 generator.
        config: what moves.
        ws: keyframes `[N, num_ws, w_dim]` instead of those of `config.seeds`.
        min_size_px: smaller images are enlarged by whole factors; players would blur them.

    Raises ValueError for seeds that do not fill the grid, a missing or unknown class, a loop of
    given latents, and a moving input of a StyleGAN2.
    """
    columns, rows = config.grid
    if config.kind == "loop":
        if ws is not None:
            raise UserError("ws: a loop draws its own path from seeds; choose another kind")
        keys = _num_keyframes(config, len(config.seeds))
        path = loop_path(G, config, keys)
    else:
        count = len(config.seeds) if ws is None else len(ws)
        keys = _num_keyframes(config, count)
        ws = seed_latents(G, config) if ws is None else ws
        if ws.ndim != 3 or ws.shape[1:] != (G.num_ws, G.w_dim):
            raise UserError(f"ws: got shape {list(ws.shape)}, expected [N, {G.num_ws}, {G.w_dim}]")
        cells = cell_keyframes(ws.cpu(), columns * rows, keys, config.shuffle_seed)
        hold = config.kind == "transform"
        path = held_path(cells, config.w_frames) if hold else spline_path(cells, config.w_frames)
    steps = [Move()]
    if config.kind == "transform":
        steps = moves(config.motion, config.w_frames, config.amount)
        with torch.no_grad(), user_transform(G, (1, 0)):
            pass  # refuses a StyleGAN2 now rather than at the second frame
    frames = _frames(G, path, steps, columns, min_size_px)
    return Video(keys * config.w_frames, frames)


def _num_keyframes(config: VideoConfig, count: int) -> int:
    """Return the number of keyframes per cell for `count` seeds or latents."""
    cells = config.grid[0] * config.grid[1]
    if count < 1:
        raise UserError("seeds: got none, expected at least one")
    if config.num_keyframes is not None:
        return config.num_keyframes
    if count % cells:
        raise UserError(
            f"seeds: got {count}, expected a multiple of the {cells} cells of the grid; or set "
            "`num_keyframes`"
        )
    return count // cells


@torch.no_grad()
def seed_latents(G: MappedGenerator, config: VideoConfig) -> torch.Tensor:
    """Return the latents `[N, num_ws, w_dim]` of `config.seeds`, as in `generate_images`."""
    label = class_label(G, config.class_index)
    z = np.stack([np.random.RandomState(seed).randn(G.z_dim) for seed in config.seeds])
    return _mapped(G, z, label, config)


def _mapped(
    G: MappedGenerator, z: np.ndarray, label: torch.Tensor | None, config: VideoConfig
) -> torch.Tensor:
    """Map `z` `[N, z_dim]`, all of one class, to `[N, num_ws, w_dim]`."""
    latents = torch.from_numpy(z.astype(np.float32)).to(next(G.parameters()).device)
    labels = None if label is None else label.expand(len(latents), -1)
    return G.mapping(latents, labels, config.truncation_psi, config.truncation_cutoff)


def cell_keyframes(
    ws: torch.Tensor, cells: int, keyframes: int, shuffle_seed: int | None = None
) -> torch.Tensor:
    """Distribute latents `[N, num_ws, w_dim]`, repeated as needed: `[keyframes, cells, …]`.

    Consecutive latents are keyframes of one cell (REFERENCE.md §9.2) unless they are shuffled.
    """
    index = np.arange(cells * keyframes) % len(ws)
    if shuffle_seed is not None:
        np.random.RandomState(shuffle_seed).shuffle(index)
    return rearrange(
        ws[torch.from_numpy(index)], "(cells keys) num_ws w -> keys cells num_ws w", cells=cells
    )


def spline_path(keys: torch.Tensor, w_frames: int) -> Iterator[torch.Tensor]:
    """Yield latents `[cells, num_ws, w_dim]` on closed cubic splines through `keys`.

    `keys` are `[K, cells, num_ws, w_dim]`. Frame f is at time f/`w_frames`, with keyframes at
    whole numbers (REFERENCE.md §9.2).
    """
    num_ws = keys.shape[2]
    if torch.equal(keys, keys[:, :, :1].expand_as(keys)):
        keys = keys[:, :, :1]  # all layers have the same w: interpolate it once
    count = len(keys)
    # The official tool does not use a periodic spline but repeats the keyframes on both sides.
    times = np.arange(-count * WRAPS, count * (WRAPS + 1))
    spline = make_interp_spline(times, np.tile(keys.numpy(), [2 * WRAPS + 1, 1, 1, 1]), k=3)
    for frame in range(count * w_frames):
        at = torch.from_numpy(spline(frame / w_frames).astype(np.float32))
        yield at.expand(-1, num_ws, -1)


def held_path(keys: torch.Tensor, w_frames: int) -> Iterator[torch.Tensor]:
    """Yield each of `keys` `[K, cells, num_ws, w_dim]` for `w_frames` frames."""
    for key in keys:
        for _ in range(w_frames):
            yield key


@torch.no_grad()
def loop_path(G: MappedGenerator, config: VideoConfig, keyframes: int) -> Iterator[torch.Tensor]:
    """Yield latents `[cells, num_ws, w_dim]` along a smooth random path that closes.

    Each cell's seed draws normal z for all frames. They are smoothed by a Gaussian filter that
    wraps around, with a standard deviation of half a keyframe, and scaled to a root mean square of
    1 (REFERENCE.md §9.3).
    """
    label = class_label(G, config.class_index)
    count, cells = keyframes * config.w_frames, config.grid[0] * config.grid[1]
    seeds = [config.seeds[i % len(config.seeds)] for i in range(cells)]
    paths = []
    for i, seed in enumerate(seeds):
        # A repeated seed would show the same video in two cells.
        random = np.random.RandomState(seed if i < len(config.seeds) else [seed, i])
        z = random.randn(count, G.z_dim)
        z = gaussian_filter1d(z, SMOOTHING * config.w_frames, axis=0, mode="wrap")
        paths.append((z / np.sqrt(np.square(z).mean())).astype(np.float32))
    for frame in zip(*paths, strict=True):
        yield _mapped(G, np.stack(frame), label, config)


def _frames(
    G: MappedGenerator,
    path: Iterable[torch.Tensor],
    steps: Sequence[Move],
    columns: int,
    min_size_px: int,
) -> Iterator[np.ndarray]:
    for index, ws in enumerate(path):
        images = to_uint8(render(G, ws, steps[index % len(steps)]))[..., :3]  # no alpha channel
        yield image_grid(enlarge(images, min_size_px), columns)


@torch.no_grad()
def render(
    G: MappedGenerator, ws: torch.Tensor, move: Move | None = None, batch: int | None = None
) -> torch.Tensor:
    """Render `ws` `[N, num_ws, w_dim]` with constant noise to `[N, C, H, W]` on G's device.

    `move` transforms the input of a StyleGAN3. `batch` is the number of images per forward pass;
    None: one at 1024², up to eight smaller ones.
    """
    move, ws = move or Move(), ws.to(next(G.parameters()).device)
    batch = batch or max(1, min(MAX_BATCH, PASS_PIXELS // (G.img_height * G.img_width)))
    with user_transform(G, move.translate, move.rotate_deg):
        parts = [G.synthesis(part, noise_mode="const") for part in ws.split(batch)]
    return torch.cat(parts)
