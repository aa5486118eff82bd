"""Image sizes: one number for squares, (height, width) for others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

LARGEST_START_PX = 16  # maximum larger side of the coarsest block


@dataclass(frozen=True)
class ImageSize:
    """Height and width in pixels."""

    height: int
    width: int

    @classmethod
    def of(cls, resolution: int | Sequence[int]) -> ImageSize:
        """Convert an `img_resolution` argument. Raises ValueError unless it is one or two sizes."""
        sides = resolution if isinstance(resolution, Sequence) else [resolution] * 2
        if len(sides) != 2 or not all(isinstance(n, Integral) and n > 0 for n in sides):
            raise ValueError(
                f"img_resolution: got {resolution}, expected a number of pixels or a pair "
                "(height, width)"
            )
        return cls(*map(int, sides))

    @property
    def larger(self) -> int:
        """Larger side in pixels."""
        return max(self.height, self.width)

    @property
    def is_square(self) -> bool:
        """Whether height and width are equal."""
        return self.height == self.width

    @property
    def argument(self) -> int | tuple[int, int]:
        """The `img_resolution` argument: an int for squares, else (height, width)."""
        return self.height if self.is_square else (self.height, self.width)

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    def halved(self, times: int) -> ImageSize:
        """Return the size with both sides divided by 2**`times`."""
        return ImageSize(self.height >> times, self.width >> times)


def num_halvings(size: ImageSize) -> int:
    """Return how often networks with blocks of doubling resolution halve `size`.

    Squares must be powers of two and end at 4 pixels, as in the official implementation. Other
    sizes are halved while both sides are even and the larger side stays at least 4; it must end at
    16 pixels or less. Raises ValueError otherwise.
    """
    times = 0
    while not (size.height >> times) % 2 and not (size.width >> times) % 2:
        if size.larger >> (times + 1) < 4:
            break
        times += 1
    start = size.larger >> times
    if size.is_square and start != 4:
        raise ValueError(f"img_resolution: got {size.height}, expected a power of two >= 4")
    if not 4 <= start <= LARGEST_START_PX:
        raise ValueError(
            f"img_resolution: got {size} (width x height), expected sides that can be halved "
            f"together until the larger is at most {LARGEST_START_PX}, like 1024x576 or 256x192"
        )
    return times


def block_sizes(size: ImageSize, start: Sequence[int] | None = None) -> dict[int, ImageSize]:
    """Return the block sizes from coarse to fine, by their larger side, which names the block.

    `start` is the (height, width) of the coarsest block; None: as `num_halvings` finds it.
    """
    times = num_halvings(size) if start is None else _doublings(size, ImageSize.of(start))
    sizes = [size.halved(times) for times in range(times, -1, -1)]
    return {s.larger: s for s in sizes}


def _doublings(size: ImageSize, start: ImageSize) -> int:
    times = max(0, (size.larger // start.larger).bit_length() - 1)
    if (start.height << times, start.width << times) != (size.height, size.width):
        raise ValueError(f"start_size: got {start}, expected a size that doubles to {size}")
    return times
