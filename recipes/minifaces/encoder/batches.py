"""Training batches of the encoder: pairs of images, single images, captions, augmentation.

The images of a pair show one identity and differ in domain, style or one attribute. Half of the
time the second is a blend of both, so that the encoder also sees intermediate images, as they occur
while a generator is adapted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from guidance.encoders.mini_vocabulary import CLASSES
from recipes.minifaces.encoder.pairs import HIDDEN, NAMES, Pairs, facts_of
from recipes.minifaces.world.captions import Mentions, caption, sample_mentions

_DOMAIN, _STYLE = NAMES.index("domain"), NAMES.index("style")


@dataclass(frozen=True)
class Batch:
    """P pairs and S single images.

    Attributes:
        images: [2P + S, 3, 64, 64] in [-1, 1]: first images, second images, single images.
        targets: soft class targets [2P + S, classes] by attribute; zero where it is hidden.
        alpha: [P], how far the second image of a pair is from the first; below 1 it is a blend.
        delta_texts: captions of the first and of the second images, P each.
        caption_rows: [C], rows of `images` that have a caption.
        captions: C true captions.
        wrong: C captions with one false mention each.
        agree: bool [C, 2C], which of `captions` and `wrong` hold for which image.
    """

    images: Tensor
    targets: dict[str, Tensor]
    alpha: Tensor
    delta_texts: tuple[list[str], list[str]]
    caption_rows: Tensor
    captions: list[str]
    wrong: list[str]
    agree: Tensor


def _pair_variants(rng: np.random.Generator) -> tuple[int, int]:
    """Draw two variants (`pairs.VARIANTS`): 40 % domain, 25 % style, 35 % one attribute."""
    u = rng.random()
    if u < 0.40:
        return 0, 1 + int(rng.integers(6))
    if u < 0.65:
        return 0, 7 + int(rng.integers(4))
    return 0, 14 + int(rng.integers(3))


def _delta_texts(one: Mentions, two: Mentions, rng: np.random.Generator) -> tuple[str, str]:
    """Return two captions that differ only where the images do, such as "face" and "zombie"."""
    differing = [n for n in NAMES if n in one and n in two and one[n] != two[n]]
    shared = [n for n in one if n in two and one[n] == two[n] and one[n] != "none" and n != "style"]
    extra = list(rng.choice(shared, size=min(len(shared), int(rng.integers(0, 3))), replace=False))
    if rng.random() < 0.4:
        extra = []
    a = {n: one[n] for n in [*differing, *extra]}
    b = {n: two[n] for n in [*differing, *extra]}
    if "hat_colour" in a:
        a["hat"], b["hat"] = one["hat"], two["hat"]
    if rng.random() < 0.5:  # people rarely mention the ordinary
        for m in (a, b):
            for name, plain in (("domain", "human"), ("style", "flat")):
                if m.get(name) == plain:
                    del m[name]
    seed = int(rng.integers(2**31))
    return caption(a, np.random.default_rng(seed)), caption(b, np.random.default_rng(seed))


def _corrupt(m: Mentions, rng: np.random.Generator) -> Mentions:
    """Make one mention false; of two colours, half of the time exchange them."""
    colours = [n for n in ("hair_colour", "hat_colour", "background", "eye_colour") if n in m]
    if len(colours) >= 2 and rng.random() < 0.5:
        a, b = rng.choice(colours, 2, replace=False)
        if m[a] != m[b] and m[b] in CLASSES[a] and m[a] in CLASSES[b]:
            return {**m, a: m[b], b: m[a]}
    name = list(m)[int(rng.integers(len(m)))]
    values = [
        v
        for v in CLASSES[name]
        if v != m[name] and not (name == "hat" and "hat_colour" in m and v == "none")
    ]
    return {**m, name: values[int(rng.integers(len(values)))]}


def _soft_masks(count: int, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return blend masks [count, 1, size, size] and their means [count]; half are 1 (no blend)."""
    masks = torch.ones(count, 1, size, size)
    alpha = torch.ones(count)
    for i in range(count):
        if rng.random() < 0.5:
            continue
        level = float(rng.uniform(0.15, 0.9))
        if rng.random() < 0.5:
            masks[i] = level
        else:
            coarse = torch.from_numpy(rng.normal(size=(1, 1, 4, 4)).astype(np.float32))
            field = F.interpolate(coarse, size=(size, size), mode="bicubic")[0]
            threshold = torch.quantile(field, 1 - level)
            masks[i] = torch.sigmoid((field - threshold) * 6)
        alpha[i] = masks[i].mean()
    return masks, alpha


def augment(images: Tensor, groups: Tensor, rng: torch.Generator) -> Tensor:
    """Augment `images` [N, 3, H, W]: an affine map per group, then blur, colour, noise per image.

    `groups` [N]: images of one group, such as a pair, must not differ by their augmentation in
    position.
    """
    n = images.shape[0]

    def uniform(count: int, low: float, high: float) -> Tensor:
        return torch.rand(count, generator=rng) * (high - low) + low

    g = int(groups.max()) + 1
    angle, scale = uniform(g, -0.14, 0.14), uniform(g, 0.9, 1.08)
    theta = torch.zeros(g, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = angle.cos() / scale
    theta[:, 0, 1], theta[:, 1, 0] = -angle.sin() / scale, angle.sin() / scale
    theta[:, :, 2] = uniform(2 * g, -0.08, 0.08).view(g, 2)
    keep = uniform(g, 0, 1) < 0.25
    theta[keep] = torch.eye(3)[:2]
    grid = F.affine_grid(theta[groups], list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    blur = (uniform(n, -1.0, 1.0)).clamp(min=0).view(n, 1, 1, 1)
    images = images + (blurred - images) * blur
    gain, shift = uniform(n, 0.88, 1.12), uniform(3 * n, -0.08, 0.08)
    images = images * gain.view(n, 1, 1, 1) + shift.view(n, 3, 1, 1)
    sigma = (uniform(n, -0.08, 0.10)).clamp(min=0).view(n, 1, 1, 1)
    return images + sigma * torch.randn(images.shape, generator=rng)


def to_float(images: np.ndarray) -> Tensor:
    """Convert uint8 [N, H, W, 3] to float32 [N, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _targets(labels: np.ndarray, other: np.ndarray, alpha: Tensor) -> dict[str, Tensor]:
    """Return soft class targets (1 − alpha)·other + alpha·labels; zero where either is hidden."""
    out = {}
    for column, name in enumerate(NAMES):
        first = torch.from_numpy(other[:, column].astype(np.int64))
        second = torch.from_numpy(labels[:, column].astype(np.int64))
        shown = ((second != HIDDEN) & ((first != HIDDEN) | (alpha == 1))).float()[:, None]
        classes = len(CLASSES[name])
        a = F.one_hot(first.clamp(min=0), classes) * (1 - alpha)[:, None]
        out[name] = (a + F.one_hot(second.clamp(min=0), classes) * alpha[:, None]) * shown
    return out


def make_batch(data: Pairs, seed: int, pairs: int = 60, singles: int = 24) -> Batch:
    """Return batch `seed`, a pure function of the data and the seed.

    Args:
        data: rendered identities.
        seed: index of the batch.
        pairs: number of pairs, P.
        singles: number of single images, S.
    """
    rng = np.random.default_rng([seed, 0xBA7C])
    torch_rng = torch.Generator().manual_seed(seed)
    count, variants = data.labels.shape[:2]
    identity = rng.integers(count, size=pairs)
    chosen = np.array([_pair_variants(rng) for _ in range(pairs)])
    swap = rng.random(pairs) < 0.3
    chosen[swap] = chosen[swap][:, ::-1]
    single = np.stack([rng.integers(count, size=singles), rng.integers(variants, size=singles)])
    first, second = data.labels[identity, chosen[:, 0]], data.labels[identity, chosen[:, 1]]
    alone = data.labels[single[0], single[1]]
    x1 = to_float(data.images[identity, chosen[:, 0]])
    x2 = to_float(data.images[identity, chosen[:, 1]])
    masks, alpha = _soft_masks(pairs, x1.shape[-1], rng)
    images = torch.cat([x1, x1 + masks * (x2 - x1), to_float(data.images[single[0], single[1]])])
    groups = torch.cat([torch.arange(pairs).repeat(2), pairs + torch.arange(singles)])
    labels = np.concatenate([first, second, alone])
    every_alpha = torch.cat([torch.ones(pairs), alpha, torch.ones(singles)])
    texts = [
        _delta_texts(facts_of(a), facts_of(b), rng) for a, b in zip(first, second, strict=True)
    ]
    rows = np.concatenate(
        [pairs + np.flatnonzero(alpha.numpy() == 1), 2 * pairs + np.arange(singles)]
    )
    mentions = [sample_mentions(facts_of(labels[r]), rng) for r in rows]
    wrong = [_corrupt(m, rng) for m in mentions]
    return Batch(
        images=augment(images, groups, torch_rng).contiguous(memory_format=torch.channels_last),
        targets=_targets(labels, np.concatenate([first, first, alone]), every_alpha),
        alpha=alpha,
        delta_texts=([a for a, _ in texts], [b for _, b in texts]),
        caption_rows=torch.from_numpy(rows),
        captions=[caption(m, rng) for m in mentions],
        wrong=[caption(m, rng) for m in wrong],
        agree=_agreement(labels[rows], [*mentions, *wrong]),
    )


def _agreement(labels: np.ndarray, mentions: list[Mentions]) -> Tensor:
    """Return bool [images, texts]: whether nothing in the text contradicts the image.

    A mention of a hidden attribute does not contradict it.
    """
    out = np.ones((len(labels), len(mentions)), dtype=bool)
    for j, m in enumerate(mentions):
        for name, value in m.items():
            column = labels[:, NAMES.index(name)]
            out[:, j] &= (column == CLASSES[name].index(value)) | (column == HIDDEN)
    return torch.from_numpy(out)


def soft_lowpass(x: Tensor, factor: int = 4) -> Tensor:
    """Low-pass filter `x` [N, C, H, W]: downsample by `factor` and interpolate."""
    size = math.ceil(x.shape[-1] / factor)
    return F.interpolate(F.adaptive_avg_pool2d(x, size), size=x.shape[-2:], mode="bilinear")
