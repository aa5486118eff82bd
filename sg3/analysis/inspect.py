"""Images of the layers of a generator, in space or as power spectra.

    from sg3.analysis import inspect, layers
    [layer.name for layer in layers.layers(G)]                  # "features", "input", "L0_…", …
    ws = G.mapping(z, None)
    for found in inspect.layer_images(G, ws, ["L3", "L6"], [0, 1, (0, 1, 2)]):
        found.layer.name, found.caption, found.image            # uint8 [H, W, 3]
    spectrum = inspect.LayerDisplay(domain="spectrum")
    inspect.layer_images(G, ws, "L3", ["all"], display=spectrum, rotate_deg=10)

One forward pass serves any number of layers and channels, and ends with the last requested layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image

from sg3.analysis.colours import viridis
from sg3.analysis.layer_display import LayerDisplay
from sg3.analysis.layers import Layer, activations
from sg3.errors import UserError
from sg3.media import contact_sheet, to_uint8
from sg3.motion import Move
from sg3.networks.generator import MappedGenerator

__all__ = ["Channel", "LayerDisplay", "LayerImage", "layer_images", "sheet", "sheet_frames"]

DEFAULT_DISPLAY = LayerDisplay()

#: One channel in gray, three as red, green and blue, or all (spectra only).
Channel = int | tuple[int, int, int] | Literal["all"]


@dataclass(frozen=True)
class LayerImage:
    """A channel of a layer as an image.

    Attributes:
        layer: the layer.
        channel: the channel or channels.
        image: uint8 `[H, W, 3]` at the layer's size.
        mean, std, max_abs: statistics of the activation.
    """

    layer: Layer
    channel: Channel
    image: np.ndarray
    mean: float
    std: float
    max_abs: float

    @property
    def caption(self) -> str:
        """Layer, channel and standard deviation in one line."""
        channel = self.channel
        shown = "+".join(map(str, channel)) if isinstance(channel, tuple) else channel
        return f"{self.layer.name} ch {shown} std {self.std:.3g}"


def layer_images(
    G: MappedGenerator,
    ws: torch.Tensor,
    layer: str | Sequence[str] | None,
    channels: Sequence[Channel],
    *,
    display: LayerDisplay = DEFAULT_DISPLAY,
    translate: tuple[float, float] = (0, 0),
    rotate_deg: float = 0,
    noise_mode: str = "const",
) -> list[LayerImage]:
    """Return images of channels of one or several layers, layer by layer.

    Args:
        G: generator.
        ws: one latent `[1, num_ws, w_dim]`.
        layer: name of one layer, names of several, or None for all.
        channels: of each layer. For several layers, channels that a layer lacks are skipped, and
            layers that are images are shown in color.
        display: how activations become images.
        translate: (x, y), right and down, in units of the larger side; StyleGAN3 only.
        rotate_deg: degrees, counter-clockwise; StyleGAN3 only.
        noise_mode: noise of a StyleGAN2.

    Raises ValueError for unknown layers or channels, and for a transform of a StyleGAN2.
    """
    if len(ws) != 1:
        raise UserError(f"ws: got {len(ws)} latents, expected one")
    names = [layer] if isinstance(layer, str) else layer

    def keep(found: Layer, x: torch.Tensor) -> list[LayerImage]:
        chosen = channels if isinstance(layer, str) else _existing(found, channels)
        return [_image(found, x[0], channel, display) for channel in chosen]

    kept = activations(
        G, ws, names, keep, translate=translate, rotate_deg=rotate_deg, noise_mode=noise_mode
    )
    return [image for images in kept.values() for image in images]


def _existing(layer: Layer, channels: Sequence[Channel]) -> Sequence[Channel]:
    """Return the channels that a layer has; those of an image are shown together, in color."""
    if layer.is_image and layer.channels >= 3:
        return [(0, 1, 2)]
    return [c for c in channels if c == "all" or max(np.atleast_1d(c)) < layer.channels]


def _image(layer: Layer, x: torch.Tensor, channel: Channel, display: LayerDisplay) -> LayerImage:
    """Return one image of the activation `x` `[C, H, W]`."""
    if channel == "all":
        if display.domain == "space":
            raise UserError("channels: got 'all', which only spectra have; name one or three")
        chosen = x
    else:
        index = list(channel) if isinstance(channel, tuple) else [channel]
        if len(index) not in (1, 3) or not all(0 <= i < len(x) for i in index):
            raise UserError(
                f"channels: got {channel} in {layer.name}, expected one or three of 0 to "
                f"{len(x) - 1}"
            )
        chosen = x[index]
    if display.domain == "spectrum":
        image = viridis((spectrum_db(chosen, display.beta) / display.range_db + 1) / 2)
    else:
        shown = chosen
        if display.normalize and not layer.is_image:
            shown = shown / shown.abs().amax(dim=(1, 2), keepdim=True).clamp(1e-8, 1e8)
        image = to_uint8(shown * 10 ** (display.gain_db / 20))[0]
        image = image.repeat(3, axis=2) if image.shape[2] == 1 else image
    statistics = chosen.mean(), chosen.std(), chosen.abs().max()
    return LayerImage(layer, channel, image, *map(float, statistics))


def spectrum_db(x: torch.Tensor, beta: float = 8) -> np.ndarray:
    """Return the power spectrum `[H, W]` of `x` `[C, H, W]`, in decibels relative to its mean.

    Power is summed over channels, after removing each channel's mean and applying a Kaiser window.
    Frequency zero is at row H // 2, column W // 2. A constant gives a constant, very small number.
    """
    x = x.detach().to("cpu", torch.float64)
    x = x - x.mean(dim=(1, 2), keepdim=True)
    windows = [torch.kaiser_window(n, False, beta, dtype=torch.float64) for n in x.shape[1:]]
    power = torch.fft.fft2(x * torch.outer(*windows)).abs().square().sum(0)
    power = torch.fft.fftshift(power)
    return (10 * (power / power.mean().clamp_min(1e-30)).clamp_min(1e-30).log10()).numpy()


def sheet(
    images: Sequence[LayerImage],
    columns: int | None = None,
    size_px: int = 128,
    captions: Sequence[str] | None = None,
) -> np.ndarray:
    """Return a contact sheet, uint8 `[H, W, 3]`, of images of any size.

    Args:
        images: results of `layer_images`.
        columns: images per row; None: one row per layer, or a square for a single layer.
        size_px: side of the square that each image is fitted into.
        captions: texts below the images; None: their own.
    """
    if not images:
        raise UserError("channels: these layers have none of them")
    squares = [_in_square(found.image, size_px) for found in images]
    texts = list(captions or (found.caption for found in images))
    names = [found.layer.name for found in images]
    if columns is None and len(set(names)) > 1:
        columns = max(names.count(name) for name in names)
        blank = np.full([size_px, size_px, 3], 255, np.uint8)
        for i in range(len(names) - 1, -1, -1):  # fill the row after each layer's last image
            if i + 1 == len(names) or names[i + 1] != names[i]:
                missing = columns - names.count(names[i])
                squares[i + 1 : i + 1], texts[i + 1 : i + 1] = [blank] * missing, [""] * missing
    return contact_sheet(squares, texts, columns)


def _in_square(image: np.ndarray, size_px: int) -> np.ndarray:
    """Fit `image` into a white square; small ones keep sharp pixels."""
    scale = size_px / max(image.shape[:2])
    height, width = (max(1, round(n * scale)) for n in image.shape[:2])
    how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    square = Image.new("RGB", (size_px, size_px), "white")
    small = Image.fromarray(image).resize((width, height), how)
    square.paste(small, ((size_px - width) // 2, (size_px - height) // 2))
    return np.asarray(square)


def sheet_frames(
    G: MappedGenerator,
    ws: torch.Tensor,
    layer: str | Sequence[str] | None,
    channels: Sequence[Channel],
    moves: Iterable[Move],
    *,
    display: LayerDisplay = DEFAULT_DISPLAY,
    columns: int | None = None,
    size_px: int = 128,
    noise_mode: str = "const",
) -> Iterator[np.ndarray]:
    """Yield one sheet per move of the input; other arguments as for `layer_images` and `sheet`.

    Captions are those of the first frame: changing numbers would distract from the images.
    """
    captions = None
    for move in moves:
        images = layer_images(
            G,
            ws,
            layer,
            channels,
            display=display,
            translate=move.translate,
            rotate_deg=move.rotate_deg,
            noise_mode=noise_mode,
        )
        captions = captions or [found.caption for found in images]
        yield sheet(images, columns, size_px, captions)
