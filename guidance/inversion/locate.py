"""Finding the part of a photo that resembles a generator's images.

Crops of the photo are compared with a few hundred random images of the generator, downscaled to 16
pixels and normalized to unit contrast. The crop that correlates most with any of them wins. This
needs no face detector and works for subjects other than faces.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image

from guidance.inversion.crops import PhotoCrop, Size, central_crop
from guidance.latents import map_latents, seed_latents
from guidance.render import images_at_once, renderer
from sg3.data.photos import to_target
from sg3.data.transforms import to_mode
from sg3.media.images import as_rgb
from sg3.networks.generator import MappedGenerator
from sg3.settings import ClassLabel

#: Larger side at which images are compared, in pixels.
SIDE_PX = 16
#: Crops with less contrast (root of the sum of squares) are not stretched to full contrast.
FAINT = 3.0
#: Number of random images of small networks, and of those above SMALL_PX pixels.
IMAGES, FEW_IMAGES, SMALL_PX = 400, 120, 128
#: Smallest crop that is tried, as a fraction of the largest, and the ratio of successive sizes.
SMALLEST_FRACTION, RATIO = 0.2, 1.19
#: Larger side of the largest crop at which a photo is searched: enough for its smallest crops.
PHOTO_PX = round(2 * SIDE_PX / SMALLEST_FRACTION)
#: Stride of the places that are tried, in the pixels of the comparison.
STRIDE = 2
#: Rotations that are tried before the refinement, in degrees.
ANGLES = (-15.0, 0.0, 15.0)
#: The best BEST crops are refined, each in ROUNDS rounds of TRIES random crops around it.
BEST, TRIES, ROUNDS = 12, 48, 6
#: A crop this near to the central one, as a fraction of its side and in degrees, is replaced by it.
NEAR, NEAR_DEGREES = 0.08, 10.0


@dataclass(frozen=True)
class Likeness:
    """Downscaled images of a generator with unit contrast.

    Attributes:
        size: (w, h) in pixels.
        images: `[N, D]`, as `_unit_contrast` returns them.
    """

    size: Size
    images: torch.Tensor

    def cost(self, crops: torch.Tensor) -> torch.Tensor:
        """1 − correlation of each of `crops` `[M, 3·h·w]` with the nearest image, `[M]`."""
        return 1 - (_unit_contrast(crops, self.size) @ self.images.T).amax(dim=1)


def _unit_contrast(images: torch.Tensor, size: Size) -> torch.Tensor:
    """Colours and edges of images `[N, 3·h·w]`, each part with zero mean and length 1/√2.

    Subtracting the mean removes the colour of the light. Edges keep flat areas, which correlate
    with anything in colour, from matching.
    """
    x = rearrange(images, "n (c h w) -> n c h w", c=3, w=size[0])
    colours = (x - x.mean(dim=(2, 3), keepdim=True)).flatten(1)
    edges = [(x[..., 1:] - x[..., :-1]).flatten(1), (x[..., 1:, :] - x[..., :-1, :]).flatten(1)]
    parts = [colours, torch.cat(edges, dim=1)]
    return torch.cat([p / p.norm(dim=1, keepdim=True).clamp_min(FAINT) for p in parts], 1) / 2**0.5


@torch.no_grad()
def likeness_of(
    G: MappedGenerator, class_index: ClassLabel | None = None, seed: int = 0
) -> Likeness:
    """Random images of `G`, downscaled for comparison."""
    height, width = G.img_height, G.img_width
    scale = SIDE_PX / max(height, width)
    size = (max(4, round(width * scale)), max(4, round(height * scale)))
    count = IMAGES if max(height, width) <= SMALL_PX else FEW_IMAGES
    ws = map_latents(G, seed_latents(seed, count, G.z_dim), class_index, truncation_psi=0.8)
    render = renderer(G)
    small = [
        F.interpolate(as_rgb(render(part)).clamp(-1, 1), size=size[::-1], mode="area").flatten(1)
        for part in ws.split(min(16, images_at_once(G)))
    ]
    return Likeness(size, _unit_contrast(torch.cat(small).cpu(), size))


@torch.no_grad()
def find_crop(likeness: Likeness, photo: Image.Image, image: Size) -> PhotoCrop:
    """The crop with the aspect ratio of `image` that looks most like the generator's images.

    Searches all sizes and places within the photo at three rotations, then refines the best crops
    together with their rotation. Deterministic.
    """
    small = _shrunk(photo, image)
    scale, largest = photo.width / small.width, central_crop(small.size, image).size
    whole, found = to_target(small, 3), []
    # Upright alone found 18 of 24 photos; with angles and distinct candidates 21 (docs/LOG.md).
    for degrees in ANGLES:
        # Rotating the photo by the opposite angle makes what is tilted in it upright.
        turned = small.rotate(-degrees, Image.Resampling.BICUBIC, expand=True)
        pixels = to_target(turned, 3)
        for level in range(1 + int(math.log(1 / SMALLEST_FRACTION) / math.log(RATIO))):
            size = largest / RATIO**level
            if size >= SIDE_PX:
                for cost, crop in _scan(likeness, pixels, size):
                    crop = _unrotated(crop, degrees, turned.size, small.size)
                    found.append((cost + _overhang(crop, whole.shape[2:], likeness.size), crop))
    random = np.random.RandomState(0)
    best = [_refine(likeness, whole, crop, random) for crop in _distinct(found)]
    crop = min(best, key=lambda pair: pair[0])[1]
    return PhotoCrop(crop.x * scale, crop.y * scale, crop.size * scale, crop.degrees)


def _unrotated(crop: PhotoCrop, degrees: float, turned: Size, upright: Size) -> PhotoCrop:
    """A crop of the photo rotated by −`degrees`, in coordinates of the photo itself."""
    away = PhotoCrop(0, 0, 1, degrees).axes((1, 1))
    x, y = crop.x - turned[0] / 2, crop.y - turned[1] / 2
    place = np.array(upright) / 2 + x * away[0] + y * away[1]
    return PhotoCrop(float(place[0]), float(place[1]), crop.size, degrees)


def _distinct(found: list[tuple[float, PhotoCrop]]) -> list[PhotoCrop]:
    """The best crops of `found`, without near duplicates of better ones."""
    kept: list[PhotoCrop] = []
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


def _shrunk(photo: Image.Image, image: Size) -> Image.Image:
    """The photo as 'RGB', as small as the comparison of its smallest crops allows."""
    rgb = to_mode(photo, "RGB")
    scale = PHOTO_PX / central_crop(photo.size, image).size
    if scale >= 1:
        return rgb
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    return rgb.resize(size, Image.Resampling.BOX, reducing_gap=2.0)


def _scan(likeness: Likeness, whole: torch.Tensor, size: float) -> list[tuple[float, PhotoCrop]]:
    """The best upright crops of one size, with their costs."""
    width, height = likeness.size
    factor = max(likeness.size) / size
    small = [
        max(n, round(side * factor))
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
            PhotoCrop(
                (i % across * STRIDE + width / 2) * scale[1],
                (i // across * STRIDE + height / 2) * scale[0],
                size,
            ),
        )
        for value, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def _refine(
    likeness: Likeness, whole: torch.Tensor, crop: PhotoCrop, random: np.random.RandomState
) -> tuple[float, PhotoCrop]:
    """The best of random crops around `crop`; the spread halves in each round."""
    # Shrunk to what `_sample` reads, two samples a pixel, so that it does not alias.
    factor = max(likeness.size) * 2 / crop.size
    small = whole
    if factor < 1:
        sides = [max(1, round(n * factor)) for n in whole.shape[2:]]
        small = F.interpolate(whole, size=sides, mode="area")
    best, cost = crop, math.inf
    for step in range(ROUNDS):
        spread = np.array([0.06 * crop.size, 0.06 * crop.size, 0.12, 12.0]) / 2**step
        offsets = random.randn(TRIES, 4) * spread
        # The best crop so far stays in the race, so no round ends with a worse one.
        offsets[0] = 0
        tried = [
            PhotoCrop(best.x + dx, best.y + dy, best.size * math.exp(ds), best.degrees + angle)
            for dx, dy, ds, angle in offsets.tolist()
        ]
        costs = likeness.cost(_sample(small, whole.shape[2:], tried, likeness.size))
        # Pixels beyond the photo's border are extrapolated, so crops that reach there cost more.
        costs += torch.tensor([_overhang(c, whole.shape[2:], likeness.size) for c in tried])
        lowest = int(costs.argmin())
        best, cost = tried[lowest], float(costs[lowest])
    return cost, best


def _overhang(crop: PhotoCrop, sides: Sequence[int], image: Size) -> float:
    """Penalty for a crop that leaves a photo of `sides` (height, width)."""
    corners = crop.corners(image)
    out = np.maximum(-corners, corners - np.array([sides[1], sides[0]])).max()
    return 5 * max(0.0, out / crop.size - 0.02)


def _sample(
    image: torch.Tensor, sides: Sequence[int], crops: list[PhotoCrop], size: Size
) -> torch.Tensor:
    """Cut `crops`, in pixels of a photo of `sides`, out of `image`, which is the photo resized."""
    width, height = size
    rows = []
    for crop in crops:
        right, down = crop.axes(size)
        # Sampling grids span −1 to 1 from edge to edge.
        for n, k, centre in ((sides[1], 0, crop.x), (sides[0], 1, crop.y)):
            rows.append([right[k] * width / n, down[k] * height / n, 2 * centre / n - 1])
    theta = torch.tensor(np.array(rows), dtype=torch.float32).reshape(-1, 2, 3)
    grid = F.affine_grid(theta, [len(crops), 3, 2 * height, 2 * width], align_corners=False)
    views = F.grid_sample(
        image.expand(len(crops), -1, -1, -1), grid, padding_mode="border", align_corners=False
    )
    return F.avg_pool2d(views, 2).flatten(1)


def choose_crop(
    G: MappedGenerator, photo: Image.Image, class_index: ClassLabel | None = None
) -> PhotoCrop:
    """`find_crop` for `G`, or the central crop if the two are nearly the same.

    So photos that were already cropped for the network are taken as they are.
    """
    image = (G.img_width, G.img_height)
    central = central_crop(photo.size, image)
    found = find_crop(likeness_of(G, class_index), photo, image)
    apart = math.hypot(found.x - central.x, found.y - central.y) / central.size
    alike = apart < NEAR and found.size > (1 - 2 * NEAR) * central.size
    return central if alike and abs(found.degrees) < NEAR_DEGREES else found
