"""Network output as uint8 arrays, PNG files, grids and captioned contact sheets."""

from __future__ import annotations

import bisect
import math
import os
from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont

from sg3.files import atomic_path

CAPTION_SIZE_PX = 12


def to_uint8(img: torch.Tensor) -> np.ndarray:
    """Convert float `[N, C, H, W]` or `[C, H, W]`, nominally in [−1, 1], to uint8 `[N, H, W, C]`.

    v·127.5 + 128, clamped and truncated, not rounded: as in the official release (REFERENCE.md
    §1.1). Raises ValueError for other shapes; C is 1, 3 or 4.
    """
    if img.ndim == 3:
        img = img[None]
    if img.ndim != 4 or img.shape[1] not in (1, 3, 4):
        shape = list(img.shape)
        raise ValueError(f"img: got shape {shape}, expected [N, C, H, W] with C 1, 3 or 4")
    img = img.detach().to(torch.float32) * 127.5 + 128
    return img.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def as_rgb(images: torch.Tensor) -> torch.Tensor:
    """Return `[N, C, H, W]` with C 1, 3 or 4 as `[N, 3, H, W]`: gray is repeated, alpha dropped."""
    if images.shape[1] not in (1, 3, 4):
        raise ValueError(f"images: got {images.shape[1]} channels, expected 1, 3 or 4")
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images[:, :3]


def _as_uint8(img: torch.Tensor | np.ndarray) -> np.ndarray:
    """Return any single image as uint8 `[H, W, C]`."""
    if isinstance(img, torch.Tensor) and img.is_floating_point():
        img = to_uint8(img)
    img = np.asarray(img)
    if img.ndim == 4 and img.shape[0] == 1:
        img = img[0]
    if img.ndim == 2:
        img = img[:, :, None]
    if img.ndim != 3 or img.dtype != np.uint8:
        raise ValueError(
            f"img: got {img.dtype} of shape {list(img.shape)}, expected one image: "
            "float [C, H, W] or uint8 [H, W, C]"
        )
    return img


def _as_batch(imgs: torch.Tensor | np.ndarray | Sequence) -> np.ndarray:
    """Return several images of one size as uint8 `[N, H, W, C]`."""
    if isinstance(imgs, torch.Tensor) and imgs.is_floating_point():
        return to_uint8(imgs)
    images = [_as_uint8(img) for img in imgs]
    if not images:
        raise ValueError("imgs: got none, expected at least one image")
    return np.stack(images)


def _to_pil(img: np.ndarray) -> Image.Image:
    return Image.fromarray(img[:, :, 0] if img.shape[2] == 1 else img)


def save_png(path: str | os.PathLike, img: torch.Tensor | np.ndarray) -> None:
    """Write one image, float `[C, H, W]` in [−1, 1] or uint8 `[H, W, C]`, as PNG, atomically."""
    image = _to_pil(_as_uint8(img))
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")


def image_grid(
    imgs: torch.Tensor | np.ndarray | Sequence, columns: int | None = None
) -> np.ndarray:
    """Arrange images row by row in one image, without gaps.

    Args:
        imgs: float `[N, C, H, W]` in [−1, 1], uint8 `[N, H, W, C]`, or a list of single images.
        columns: images per row; None: the square root of N, rounded up.

    Returns:
        uint8 `[rows·H, columns·W, C]`; empty cells are black.
    """
    batch = _as_batch(imgs)
    n, height, width, channels = batch.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    cells = np.zeros([rows * columns, height, width, channels], dtype=np.uint8)
    cells[:n] = batch
    grid = rearrange(cells, "(rows columns) h w c -> (rows h) (columns w) c", columns=columns)
    return np.ascontiguousarray(grid)


def enlarge(imgs: np.ndarray, min_size_px: int) -> np.ndarray:
    """Enlarge images `[N, H, W, C]` by a whole factor so that both sides have `min_size_px`."""
    factor = max(1, math.ceil(min_size_px / min(imgs.shape[1:3])))
    return imgs.repeat(factor, axis=1).repeat(factor, axis=2)


def contact_sheet(
    imgs: torch.Tensor | np.ndarray | Sequence,
    captions: Sequence[str] | None = None,
    columns: int | None = None,
    margin_px: int = 4,
    min_size_px: int = 96,
) -> np.ndarray:
    """Arrange images on a white sheet with margins, and captions below them.

    Args:
        imgs: as for `image_grid`.
        captions: one per image, wrapped to its width.
        columns: images per row; None: the square root of N, rounded up.
        margin_px: space between images.
        min_size_px: narrower images are enlarged by a whole factor to at least this width.

    Returns:
        uint8 `[H, W, 3]`.
    """
    batch = _as_batch(imgs)
    n = len(batch)
    if captions is not None and len(captions) != n:
        raise ValueError(f"captions: got {len(captions)}, expected one per image, {n}")
    scale = max(1, math.ceil(min_size_px / batch.shape[2]))
    height, width = batch.shape[1] * scale, batch.shape[2] * scale
    font = ImageFont.load_default(CAPTION_SIZE_PX)
    texts: list[list[str]] = [[]] * n
    if captions is not None:
        texts = [_wrap(text, font, width) for text in captions]
    line_px = CAPTION_SIZE_PX + 3
    cell_w = width + margin_px
    cell_h = height + margin_px + line_px * max(len(text) for text in texts)
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    size = (columns * cell_w + margin_px, rows * cell_h + margin_px)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for i, (img, lines) in enumerate(zip(batch, texts, strict=True)):
        x, y = margin_px + i % columns * cell_w, margin_px + i // columns * cell_h
        enlarged = _to_pil(img).convert("RGB").resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(enlarged, (x, y))
        for j, line in enumerate(lines):
            draw.text((x, y + height + 1 + j * line_px), line, fill="black", font=font)
    return np.asarray(sheet)


def _wrap(
    text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width_px: int
) -> list[str]:
    """Break `text` between words into lines of at most `width_px`; longer words are cut off."""
    lines = [""]
    # A word may have thousands of letters; none of them is narrower than a quarter of a pixel.
    for word in (word[: 4 * width_px] for word in text.split()):
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width_px or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return [_cut(line, font, width_px) for line in lines]


def _cut(line: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width_px: int) -> str:
    """Return the longest beginning of `line` that is at most `width_px` wide."""
    if font.getlength(line) <= width_px:
        return line
    fits = bisect.bisect_right(
        range(len(line)), width_px, key=lambda n: math.ceil(font.getlength(line[:n]))
    )
    return line[: max(fits - 1, 0)]
