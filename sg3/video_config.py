"""Configuration of videos. Importing this module does not import PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sg3.errors import UserError
from sg3.motion import MOTIONS
from sg3.settings import ClassLabel, check_settings, documented, setting

KINDS = ("lerp", "loop", "transform")


@documented
@dataclass(frozen=True)
class VideoConfig:
    """What moves in a video of a generator.

    All kinds last `num_keyframes`·`w_frames` frames and end where they begin. "lerp": every cell of
    the grid passes through its keyframes, seed after seed, on a cubic spline in W. "loop": every
    cell follows a smooth random path in Z drawn from its seed. "transform": the input of a
    StyleGAN3 moves along `motion`, once per keyframe.
    """

    kind: str = setting("lerp", "Kind of video.", choices=KINDS)
    seeds: Sequence[int] = setting(
        (0, 1, 2, 3), "Seeds of the keyframes, repeated until the keyframes of all cells are full."
    )
    grid: tuple[int, int] = setting((1, 1), "Columns and rows.")
    num_keyframes: int | None = setting(
        None, "Keyframes per cell.", min=1, unset="seeds divided by cells"
    )
    w_frames: int = setting(120, "Frames per keyframe.", min=1)
    shuffle_seed: int | None = setting(
        None,
        "Random seed for shuffling the keyframes.",
        min=0,
        max=2**32 - 1,
        unset="not shuffled",
    )
    truncation_psi: float = setting(1, "Truncation psi.")
    truncation_cutoff: int | None = setting(
        None, "Number of layers that are truncated.", unset="all"
    )
    class_index: ClassLabel | None = setting(
        None, "Class label.", unset="none; required by conditional networks"
    )
    motion: str = setting("circle", "Motion of the input of a StyleGAN3.", choices=MOTIONS)
    amount: float = setting(
        0.1,
        "Diameter of the circle or reach of the shift, in units of the image's larger side.",
        min=0,
        max=10,
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if min(self.grid) < 1:
            raise UserError(f"grid: got {self.grid}, expected at least 1 column and 1 row")
