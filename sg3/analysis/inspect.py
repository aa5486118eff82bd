"""Pictures of the layers of a generator, in space or as spectra: the data of an explorer.

    from sg3.analysis import inspect, layers
    [layer.name for layer in layers.layers(G)]                  # "features", "input", "L0_…", …
    ws = G.mapping(z, None)
    for picture in inspect.layer_pictures(G, ws, ["L3", "L6"], [0, 1, (0, 1, 2)]):
        picture.layer.name, picture.caption, picture.image      # uint8 [H, W, 3]
    inspect.layer_pictures(G, ws, "L3", ["all"], look=Look(domain="spectrum"), rotate_deg=10)

One pass serves any number of layers and channels, and ends with the last layer asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import nn

from sg3.analysis.colours import viridis
from sg3.analysis.layers import Layer, activations
from sg3.errors import UserError
from sg3.media import contact_sheet, to_uint8
from sg3.motion import Move

#: A channel in grey, three as red, green and blue, or all (spectra only).
Channel = int | tuple[int, int, int] | Literal["all"]
DOMAINS = ("space", "spectrum")


@dataclass(frozen=True)
class Look:
    """How signals become pictures; the defaults are the official viewer's, but for `normalize`.

    In space: each channel over its own largest magnitude if `normalize` (never channels that are
    a picture already), times `gain_db`. Spectra: mean removed, Kaiser window of `beta`, power of
    the channels summed, in decibels over its mean, ±`range_db` as dark to bright.
    """

    domain: Literal["space", "spectrum"] = "space"
    normalize: bool = True
    gain_db: float = 0
    range_db: float = 50
    beta: float = 8

    def __post_init__(self):
        if self.domain not in DOMAINS:
            raise UserError(f"domain: got {self.domain!r}, expected {' or '.join(DOMAINS)}")
        if not self.range_db > 0 or self.beta < 0:
            raise UserError(
                f"range_db, beta: got {self.range_db}, {self.beta}, expected above 0, at least 0"
            )


@dataclass(frozen=True)
class LayerPicture:
    """One channel of one layer: `image` uint8 `[H, W, 3]` at the layer's size, with statistics."""

    layer: Layer
    channel: Channel
    image: np.ndarray
    mean: float
    std: float
    max_abs: float

    @property
    def caption(self) -> str:
        """Name, channel, standard deviation."""
        channel = self.channel
        shown = "+".join(map(str, channel)) if isinstance(channel, tuple) else channel
        return f"{self.layer.name} ch {shown} std {self.std:.3g}"


def layer_pictures(
    G: nn.Module,
    ws: torch.Tensor,
    layer: str | Sequence[str] | None,
    channels: Sequence[Channel],
    *,
    look: Look = Look(),
    translate: tuple[float, float] = (0, 0),
    rotate_deg: float = 0,
    noise_mode: str = "const",
) -> list[LayerPicture]:
    """Pictures of `channels` in one or several layers (None: all) for the latent `ws`
    `[1, num_ws, w_dim]`, layer by layer.

    Where several layers are asked for, channels that a layer lacks are left out, and layers that
    are pictures are shown in colour. `translate` and `rotate_deg` move the input of a StyleGAN3.
    Raises UserError for unknown layers or channels, and for moves of a StyleGAN2.
    """
    if len(ws) != 1:
        raise UserError(f"ws: got {len(ws)} latents, expected one")
    names = [layer] if isinstance(layer, str) else layer

    def keep(found: Layer, x: torch.Tensor) -> list[LayerPicture]:
        wanted = channels if isinstance(layer, str) else _fitting(found, channels)
        return [_picture(found, x[0], channel, look) for channel in wanted]

    kept = activations(
        G, ws, names, keep, translate=translate, rotate_deg=rotate_deg, noise_mode=noise_mode
    )
    return [picture for pictures in kept.values() for picture in pictures]


def _fitting(layer: Layer, channels: Sequence[Channel]) -> Sequence[Channel]:
    if layer.is_picture and layer.channels >= 3:
        return [(0, 1, 2)]
    return [c for c in channels if c == "all" or max(np.atleast_1d(c)) < layer.channels]


def _picture(layer: Layer, x: torch.Tensor, channel: Channel, look: Look) -> LayerPicture:
    """`x` `[C, H, W]` → one picture."""
    if channel == "all":
        if look.domain == "space":
            raise UserError("channel: got 'all', which only spectra have; name one or three")
        chosen = x
    else:
        index = list(channel) if isinstance(channel, tuple) else [channel]
        if len(index) not in (1, 3) or not all(0 <= i < len(x) for i in index):
            raise UserError(
                f"channel: got {channel} in {layer.name}, expected one or three of 0 to "
                f"{len(x) - 1}"
            )
        chosen = x[index]
    if look.domain == "spectrum":
        image = viridis((spectrum_db(chosen, look.beta) / look.range_db + 1) / 2)
    else:
        shown = chosen
        if look.normalize and not layer.is_picture:
            shown = shown / shown.abs().amax(dim=(1, 2), keepdim=True).clamp(1e-8, 1e8)
        image = to_uint8(shown * 10 ** (look.gain_db / 20))[0]
        image = image.repeat(3, axis=2) if image.shape[2] == 1 else image
    statistics = chosen.mean(), chosen.std(), chosen.abs().max()
    return LayerPicture(layer, channel, image, *map(float, statistics))


def spectrum_db(x: torch.Tensor, beta: float = 8) -> np.ndarray:
    """Power spectrum of `x` `[C, H, W]`, summed over channels, in decibels over its mean `[H, W]`.

    The mean of each channel is removed and a Kaiser window of `beta` applied; frequency zero is at
    the centre (row H // 2, column W // 2). A constant gives a flat picture of very small numbers.
    """
    x = x.detach().to("cpu", torch.float64)
    x = x - x.mean(dim=(1, 2), keepdim=True)
    windows = [torch.kaiser_window(n, False, beta, dtype=torch.float64) for n in x.shape[1:]]
    power = torch.fft.fft2(x * torch.outer(*windows)).abs().square().sum(0)
    power = torch.fft.fftshift(power)
    return (10 * (power / power.mean().clamp_min(1e-30)).clamp_min(1e-30).log10()).numpy()


def sheet(
    pictures: Sequence[LayerPicture],
    columns: int | None = None,
    size_px: int = 128,
    captions: Sequence[str] | None = None,
) -> np.ndarray:
    """Contact sheet uint8 `[H, W, 3]` of pictures of any size, each in a square of `size_px`.

    One row for each layer unless `columns` are given, or there is one layer. `captions` are the
    pictures' own unless given.
    """
    if not pictures:
        raise UserError("pictures: got none; these layers have none of these channels")
    squares = [_in_square(picture.image, size_px) for picture in pictures]
    texts = list(captions or (picture.caption for picture in pictures))
    names = [picture.layer.name for picture in pictures]
    if columns is None and len(set(names)) > 1:
        columns = max(names.count(name) for name in names)
        blank = np.full([size_px, size_px, 3], 255, np.uint8)
        for i in range(len(names) - 1, -1, -1):  # fill up the row after each layer's last picture
            if i + 1 == len(names) or names[i + 1] != names[i]:
                missing = columns - names.count(names[i])
                squares[i + 1 : i + 1], texts[i + 1 : i + 1] = [blank] * missing, [""] * missing
    return contact_sheet(squares, texts, columns)


def _in_square(image: np.ndarray, size_px: int) -> np.ndarray:
    scale = size_px / max(image.shape[:2])
    height, width = (max(1, round(n * scale)) for n in image.shape[:2])
    how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    square = Image.new("RGB", (size_px, size_px), "white")
    small = Image.fromarray(image).resize((width, height), how)
    square.paste(small, ((size_px - width) // 2, (size_px - height) // 2))
    return np.asarray(square)


def sheet_frames(
    G: nn.Module,
    ws: torch.Tensor,
    layer: str | Sequence[str] | None,
    channels: Sequence[Channel],
    moves: Iterable[Move],
    *,
    look: Look = Look(),
    columns: int | None = None,
    size_px: int = 128,
    noise_mode: str = "const",
) -> Iterator[np.ndarray]:
    """Yield one sheet per move of the input; arguments as for `layer_pictures` and `sheet`.

    Captions are those of the first frame, so that only signals move.
    """
    captions = None
    for move in moves:
        pictures = layer_pictures(
            G,
            ws,
            layer,
            channels,
            look=look,
            translate=move.translate,
            rotate_deg=move.rotate_deg,
            noise_mode=noise_mode,
        )
        captions = captions or [picture.caption for picture in pictures]
        yield sheet(pictures, columns, size_px, captions)
