"""Where in a photo something lies that the generator could have made.

Crops of the photo are compared with a few hundred random pictures of the generator, at a few pixels
a side and unit contrast: the crop that correlates most with any of them wins. No detector of faces
is needed, and other things than faces are found as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from guidance.latents import map_latents, seed_latents
from guidance.render import pictures_at_once, renderer
from sg3.data.photos import Crop, central_crop
from sg3.data.transforms import to_mode
from sg3.media.images import as_rgb

#: Larger side of what is compared, in pixels.
SIDE_PX = 16
#: Crops of less contrast (root of the sum of squares) are not stretched to the full one.
FAINT = 3.0
#: How many pictures: of small networks, and of large ones.
PICTURES, FEW_PICTURES, SMALL_PX = 400, 120, 128
#: Sizes of crops that are tried, as a share of the largest, and the ratio between two of them.
SMALLEST_SHARE, RATIO = 0.2, 1.19
#: Larger side of the largest crop at which a photo is searched: twice what its smallest need.
PHOTO_PX = round(2 * SIDE_PX / SMALLEST_SHARE)
#: Of the places that are tried, in the pixels of what is compared.
STRIDE = 2
#: How far something may be turned, at first; refinement goes on from the nearest.
ANGLES = (-15.0, 0.0, 15.0)
#: Refinement, of the best: the best of so many crops around the last one, ever nearer.
BEST, TRIES, ROUNDS = 12, 48, 6
#: Within these of the central crop, in its sides, a crop is the central one.
NEAR, NEAR_DEGREES = 0.08, 10.0


@dataclass(frozen=True)
class Likeness:
    """Small pictures of a generator, `[N, 3·h·w]`, of unit contrast; `size` is (w, h)."""

    size: tuple[int, int]
    pictures: torch.Tensor

    def cost(self, crops: torch.Tensor) -> torch.Tensor:
        """1 − correlation of each of `crops` `[M, 3·h·w]` with the nearest picture, `[M]`."""
        return 1 - (_unit_contrast(crops, self.size) @ self.pictures.T).amax(dim=1)


def _unit_contrast(pictures: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """`[N, 3·h·w]` → colours and edges, each of mean 0 and length 1 over the square root of 2.

    Light and its colour say little about what it falls on; what has no edges is no picture.
    """
    x = pictures.unflatten(1, (3, size[1], size[0]))
    colours = (x - x.mean(dim=(2, 3), keepdim=True)).flatten(1)
    edges = [(x[..., 1:] - x[..., :-1]).flatten(1), (x[..., 1:, :] - x[..., :-1, :]).flatten(1)]
    parts = [colours, torch.cat(edges, dim=1)]
    return torch.cat([p / p.norm(dim=1, keepdim=True).clamp_min(FAINT) for p in parts], 1) / 2**0.5


@torch.no_grad()
def likeness_of(G: nn.Module, class_index: int | None = None, seed: int = 0) -> Likeness:
    """Pictures of `G` at a few pixels a side."""
    height, width = G.img_height, G.img_width
    share = SIDE_PX / max(height, width)
    size = (max(4, round(width * share)), max(4, round(height * share)))
    count = PICTURES if max(height, width) <= SMALL_PX else FEW_PICTURES
    ws = map_latents(G, seed_latents(seed, count, G.z_dim), class_index, truncation_psi=0.8)
    render = renderer(G)
    small = [
        F.interpolate(as_rgb(render(part)).clamp(-1, 1), size=size[::-1], mode="area").flatten(1)
        for part in ws.split(min(16, pictures_at_once(G)))
    ]
    return Likeness(size, _unit_contrast(torch.cat(small).cpu(), size))


@torch.no_grad()
def find_crop(likeness: Likeness, photo: Image.Image, picture: tuple[int, int]) -> Crop:
    """The crop of the shape of a `picture` that looks most like the generator's pictures.

    Size and place are searched everywhere within the photo, upright and turned a little either
    way, then refined together with the angle.
    The same photo gives the same crop.
    """
    small = _shrunk(photo, picture)
    scale, largest = photo.width / small.width, central_crop(small.size, picture).size
    whole, found = _tensor(small), []
    for degrees in ANGLES:
        # Turned back, what is turned in the photo is upright.
        turned = small.rotate(-degrees, Image.Resampling.BICUBIC, expand=True)
        image = _tensor(turned)
        for level in range(1 + int(math.log(1 / SMALLEST_SHARE) / math.log(RATIO))):
            size = largest / RATIO**level
            if size >= SIDE_PX:
                for cost, crop in _scan(likeness, image, size):
                    crop = _turned_to(crop, degrees, turned.size, small.size)
                    found.append((cost + _overhang(crop, whole.shape[2:], likeness.size), crop))
    random = np.random.RandomState(0)
    best = [_refine(likeness, whole, crop, random) for crop in _distinct(found)]
    crop = min(best, key=lambda pair: pair[0])[1]
    return Crop(crop.x * scale, crop.y * scale, crop.size * scale, crop.degrees)


def _tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1


def _turned_to(crop: Crop, degrees: float, turned: tuple[int, int], upright: tuple[int, int]):
    """What is `crop` in the photo turned back by `degrees`, in the photo itself."""
    away = Crop(0, 0, 1, degrees).axes((1, 1))
    x, y = crop.x - turned[0] / 2, crop.y - turned[1] / 2
    place = np.array(upright) / 2 + x * away[0] + y * away[1]
    return Crop(float(place[0]), float(place[1]), crop.size, degrees)


def _distinct(found: list[tuple[float, Crop]]) -> list[Crop]:
    """The best of `found` that are not nearly the same as a better one."""
    kept: list[Crop] = []
    for _, crop in sorted(found, key=lambda pair: pair[0]):
        same = (
            math.hypot(crop.x - other.x, crop.y - other.y) < 0.2 * other.size
            and max(crop.size, other.size) < 1.25 * min(crop.size, other.size)
            and crop.degrees == other.degrees
            for other in kept
        )
        if not any(same):
            kept.append(crop)
        if len(kept) == BEST:
            break
    return kept


def _shrunk(photo: Image.Image, picture: tuple[int, int]) -> Image.Image:
    """The photo as 'RGB', as small as what is compared in its smallest crops allows."""
    rgb = to_mode(photo, "RGB")
    share = PHOTO_PX / central_crop(photo.size, picture).size
    if share >= 1:
        return rgb
    size = [max(1, round(n * share)) for n in photo.size]
    return rgb.resize(size, Image.Resampling.BOX, reducing_gap=2.0)


def _scan(likeness: Likeness, whole: torch.Tensor, size: float) -> list[tuple[float, Crop]]:
    """The best crops of one size, upright, with their costs."""
    width, height = likeness.size
    share = max(likeness.size) / size
    small = [
        max(n, round(side * share))
        for n, side in zip((height, width), whole.shape[2:], strict=True)
    ]
    image = F.interpolate(whole, size=small, mode="area")
    views = F.unfold(image, (height, width), stride=STRIDE)[0].T  # [places, 3·h·w]
    cost = torch.cat([likeness.cost(part) for part in views.split(4096)])
    across = (small[1] - width) // STRIDE + 1
    best = cost.topk(min(BEST, len(cost)), largest=False)
    scale = [side / n for side, n in zip(whole.shape[2:], small, strict=True)]
    return [
        (
            value,
            Crop(
                (i % across * STRIDE + width / 2) * scale[1],
                (i // across * STRIDE + height / 2) * scale[0],
                size,
            ),
        )
        for value, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def _refine(
    likeness: Likeness, whole: torch.Tensor, crop: Crop, random: np.random.RandomState
) -> tuple[float, Crop]:
    """The best of random crops around `crop`, again and again with half the spread."""
    share = max(likeness.size) * 2 / crop.size
    small = whole
    if share < 1:
        sides = [max(1, round(n * share)) for n in whole.shape[2:]]
        small = F.interpolate(whole, size=sides, mode="area")
    best, cost = crop, math.inf
    for step in range(ROUNDS):
        spread = np.array([0.06 * crop.size, 0.06 * crop.size, 0.12, 12.0]) / 2**step
        offsets = random.randn(TRIES, 4) * spread
        offsets[0] = 0
        tried = [
            Crop(best.x + dx, best.y + dy, best.size * math.exp(ds), best.degrees + angle)
            for dx, dy, ds, angle in offsets.tolist()
        ]
        costs = likeness.cost(_sample(small, whole.shape[2:], tried, likeness.size))
        # Crops that leave the photo would be judged by pixels that are not there.
        costs += torch.tensor([_overhang(c, whole.shape[2:], likeness.size) for c in tried])
        least = int(costs.argmin())
        best, cost = tried[least], float(costs[least])
    return cost, best


def _overhang(crop: Crop, sides, picture) -> float:
    corners = crop.corners(picture)
    out = np.maximum(-corners, corners - np.array([sides[1], sides[0]])).max()
    return 5 * max(0.0, out / crop.size - 0.02)


def _sample(image, sides, crops: list[Crop], picture: tuple[int, int]) -> torch.Tensor:
    """What `crops`, in pixels of a photo of `sides`, cut out of `image`, the photo at any size."""
    width, height = picture
    rows = []
    for crop in crops:
        right, down = crop.axes(picture)
        # Grids of torch span −1 … 1 from edge to edge.
        for size, k, centre in ((sides[1], 0, crop.x), (sides[0], 1, crop.y)):
            rows.append([right[k] * width / size, down[k] * height / size, 2 * centre / size - 1])
    theta = torch.tensor(np.array(rows), dtype=torch.float32).reshape(-1, 2, 3)
    grid = F.affine_grid(theta, [len(crops), 3, 2 * height, 2 * width], align_corners=False)
    views = F.grid_sample(
        image.expand(len(crops), -1, -1, -1), grid, padding_mode="border", align_corners=False
    )
    return F.avg_pool2d(views, 2).flatten(1)


def choose_crop(G: nn.Module, photo: Image.Image, class_index: int | None = None) -> Crop:
    """The crop that `find_crop` finds, or the central one where the two are nearly the same:
    photos that were cropped for the network are taken as they are."""
    picture = (G.img_width, G.img_height)
    central = central_crop(photo.size, picture)
    found = find_crop(likeness_of(G, class_index), photo, picture)
    apart = math.hypot(found.x - central.x, found.y - central.y) / central.size
    alike = apart < NEAR and found.size > (1 - 2 * NEAR) * central.size
    return central if alike and abs(found.degrees) < NEAR_DEGREES else found
