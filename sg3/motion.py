"""Closed paths along which the input of a StyleGAN3 moves."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sg3.errors import UserError

MOTIONS = ("shift", "circle", "turn", "both")


@dataclass(frozen=True)
class Move:
    """Transform of the input of a StyleGAN3.

    Attributes:
        translate: (x, y), right and down, in units of the image's larger side.
        rotate_deg: degrees, counter-clockwise.
    """

    translate: tuple[float, float] = (0.0, 0.0)
    rotate_deg: float = 0.0


def moves(motion: str, frames: int, amount: float = 0.1) -> list[Move]:
    """Return `frames` points of a closed path that begins upright in the center.

    The frame after the last would be the first again.

    Args:
        motion: "shift": right by `amount`, back, and left; "circle": a circle of diameter `amount`
            through the center; "turn": one full rotation; "both": circle and turn together.
        frames: number of points, at least 1.
        amount: in units of the image's larger side.

    Raises ValueError for an unknown motion and for no frames.
    """
    if motion not in MOTIONS:
        raise UserError(f"motion: got {motion!r}, expected one of {', '.join(MOTIONS)}")
    if frames < 1:
        raise UserError(f"frames: got {frames}, expected at least 1")
    path = []
    for i in range(frames):
        fraction = i / frames
        angle = 2 * math.pi * fraction
        shift = (0.0, 0.0)
        if motion == "shift":
            shift = (amount * math.sin(angle), 0.0)
        elif motion != "turn":
            radius = amount / 2
            shift = (radius * (1 - math.cos(angle)), -radius * math.sin(angle))
        path.append(Move(shift, 360 * fraction if motion in ("turn", "both") else 0.0))
    return path
