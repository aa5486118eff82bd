"""Films of a generator: interpolations, loops, a moving input (REFERENCE.md §9.2, §9.3).

    film = plan_film(G, VideoConfig(kind="lerp", seeds=range(32), grid=(4, 2)))
    for frame in film.frames:                    # uint8 [H, W, C], film.num_frames of them
        ...

Frames are made when they are asked for; none is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.interpolate import make_interp_spline
from scipy.ndimage import gaussian_filter1d
from torch import nn

from sg3.errors import UserError
from sg3.generate import class_label, user_transform
from sg3.media import image_grid, to_uint8
from sg3.media.images import enlarge
from sg3.motion import MOTIONS, Move, moves

KINDS = ("lerp", "loop", "transform")
WRAPS = 2  # how often the official tool repeats the keyframes on both sides
SMOOTHING = 0.5  # of loops: standard deviation of their filter, in keyframes
PASS_PIXELS, MOST = 1 << 19, 8  # of pictures that are drawn together


@dataclass(frozen=True)
class VideoConfig:
    """What moves. All kinds last `num_keyframes`·`w_frames` frames and close.

    "lerp": every cell of `grid` (columns, rows) passes through its keyframes, seed after seed, on
    a cubic spline in W. "loop": every cell follows a smooth random path in Z that its seed draws.
    "transform": the input of a StyleGAN3 moves along `motion` by `amount` (`sg3.motion.moves`), for
    each keyframe once. Seeds are repeated until the keyframes of all cells are full.
    """

    kind: str = "lerp"
    seeds: Sequence[int] = (0, 1, 2, 3)
    grid: tuple[int, int] = (1, 1)
    num_keyframes: int | None = None  # seeds over cells, which must divide
    w_frames: int = 120  # from one keyframe to the next
    shuffle_seed: int | None = None
    truncation_psi: float = 1
    truncation_cutoff: int | None = None
    class_index: int | None = None
    motion: str = "circle"
    amount: float = 0.1

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError(f"kind: got {self.kind!r}, expected one of {', '.join(KINDS)}")
        if self.motion not in MOTIONS:
            raise UserError(f"motion: got {self.motion!r}, expected one of {', '.join(MOTIONS)}")
        if min(self.grid) < 1 or self.w_frames < 1 or (self.num_keyframes or 1) < 1:
            raise UserError(
                f"grid, w_frames, num_keyframes: got {self.grid}, {self.w_frames}, "
                f"{self.num_keyframes}, expected at least 1"
            )


@dataclass(frozen=True)
class Film:
    """`num_frames` pictures uint8 `[H, W, 3 or 1]`, made while `frames` is drained."""

    num_frames: int
    frames: Iterator[np.ndarray]


def plan_film(
    G: nn.Module, config: VideoConfig, ws: torch.Tensor | None = None, min_size_px: int = 192
) -> Film:
    """The film of `config`; keyframes are the latents `ws` `[N, num_ws, w_dim]` if given, else
    those of its seeds.

    Pictures smaller than `min_size_px` are enlarged by whole factors: players blur them otherwise.
    Raises UserError for numbers that do not fit together, a class that is missing or unknown, a
    loop of latents, and a moving input of a StyleGAN2.
    """
    columns, rows = config.grid
    if config.kind == "loop":
        if ws is not None:
            raise UserError("latent: a loop draws its own path from seeds; choose another kind")
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
    ways = [Move()]
    if config.kind == "transform":
        ways = moves(config.motion, config.w_frames, config.amount)
        with torch.no_grad(), user_transform(G, (1, 0)):
            pass  # a StyleGAN2 is refused here, not at the second frame
    frames = _frames(G, path, ways, columns, min_size_px)
    return Film(keys * config.w_frames, frames)


def _num_keyframes(config: VideoConfig, count: int) -> int:
    """Keyframes of each cell."""
    cells = config.grid[0] * config.grid[1]
    if count < 1:
        raise UserError("seeds: got none, expected at least one")
    if config.num_keyframes is not None:
        return config.num_keyframes
    if count % cells:
        raise UserError(
            f"seeds: got {count}, expected a multiple of the {cells} cells of the grid; or say "
            "--num-keyframes"
        )
    return count // cells


@torch.no_grad()
def seed_latents(G: nn.Module, config: VideoConfig) -> torch.Tensor:
    """`[N, num_ws, w_dim]` of the seeds, as `sg3 generate` draws them."""
    label = class_label(G, config.class_index)
    z = np.stack([np.random.RandomState(seed).randn(G.z_dim) for seed in config.seeds])
    return _mapped(G, z, label, config)


def _mapped(G: nn.Module, z: np.ndarray, label, config: VideoConfig) -> torch.Tensor:
    z = torch.from_numpy(z.astype(np.float32)).to(next(G.parameters()).device)
    label = None if label is None else label.expand(len(z), -1)
    return G.mapping(z, label, config.truncation_psi, config.truncation_cutoff)


def cell_keyframes(
    ws: torch.Tensor, cells: int, keyframes: int, shuffle_seed: int | None = None
) -> torch.Tensor:
    """Latents `[N, num_ws, w_dim]`, repeated as needed → `[keyframes, cells, …]`.

    Consecutive latents are keyframes of one cell (REFERENCE.md §9.2), unless `shuffle_seed` mixes them.
    """
    index = np.arange(cells * keyframes) % len(ws)
    if shuffle_seed is not None:
        np.random.RandomState(shuffle_seed).shuffle(index)
    return ws[torch.from_numpy(index)].unflatten(0, (cells, keyframes)).transpose(0, 1)


def spline_path(keys: torch.Tensor, w_frames: int) -> Iterator[torch.Tensor]:
    """Latents `[cells, num_ws, w_dim]` of every frame on closed cubic splines through `keys`
    `[K, cells, num_ws, w_dim]`; frame f is at time f/`w_frames` in keyframes (REFERENCE.md §9.2).
    """
    num_ws = keys.shape[2]
    if torch.equal(keys, keys[:, :, :1].expand_as(keys)):
        keys = keys[:, :, :1]  # all layers have the same w: one of them will do
    count = len(keys)
    times = np.arange(-count * WRAPS, count * (WRAPS + 1))
    spline = make_interp_spline(times, np.tile(keys.numpy(), [2 * WRAPS + 1, 1, 1, 1]), k=3)
    for frame in range(count * w_frames):
        at = torch.from_numpy(spline(frame / w_frames).astype(np.float32))
        yield at.expand(-1, num_ws, -1)


def held_path(keys: torch.Tensor, w_frames: int) -> Iterator[torch.Tensor]:
    """Each of `keys` `[K, cells, num_ws, w_dim]` for `w_frames` frames."""
    for key in keys:
        for _ in range(w_frames):
            yield key


@torch.no_grad()
def loop_path(G: nn.Module, config: VideoConfig, keyframes: int) -> Iterator[torch.Tensor]:
    """Latents `[cells, num_ws, w_dim]` of every frame of a smooth random path that closes.

    Each cell's seed draws normal z for all frames; a Gaussian filter of half a keyframe that wraps
    around smooths them, and their root mean square is made one again (REFERENCE.md §9.3).
    """
    label = class_label(G, config.class_index)
    count, cells = keyframes * config.w_frames, config.grid[0] * config.grid[1]
    seeds = [config.seeds[i % len(config.seeds)] for i in range(cells)]
    paths = []
    for i, seed in enumerate(seeds):
        # A seed that comes again would show the same film in two cells.
        random = np.random.RandomState(seed if i < len(config.seeds) else [seed, i])
        z = random.randn(count, G.z_dim)
        z = gaussian_filter1d(z, SMOOTHING * config.w_frames, axis=0, mode="wrap")
        paths.append((z / np.sqrt(np.square(z).mean())).astype(np.float32))
    for z in zip(*paths, strict=True):
        yield _mapped(G, np.stack(z), label, config)


def _frames(
    G: nn.Module,
    path: Iterable[torch.Tensor],
    ways: Sequence[Move],
    columns: int,
    min_size_px: int,
) -> Iterator[np.ndarray]:
    for index, ws in enumerate(path):
        pictures = to_uint8(render(G, ws, ways[index % len(ways)]))[..., :3]  # no transparency
        yield image_grid(enlarge(pictures, min_size_px), columns)


@torch.no_grad()
def render(
    G: nn.Module, ws: torch.Tensor, move: Move | None = None, batch: int | None = None
) -> torch.Tensor:
    """Pictures `[N, C, H, W]` of `ws` on G's device with constant noise, `batch` (one for 1024²,
    up to eight smaller ones) at a time."""
    move, ws = move or Move(), ws.to(next(G.parameters()).device)
    batch = batch or max(1, min(MOST, PASS_PIXELS // (G.img_height * G.img_width)))
    with user_transform(G, move.translate, move.rotate_deg):
        parts = [G.synthesis(part, noise_mode="const") for part in ws.split(batch)]
    return torch.cat(parts)
