"""Paths along which the input of a StyleGAN3 moves."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sg3.errors import UserError

MOTIONS = ("shift", "circle", "turn", "both")


@dataclass(frozen=True)
class Move:
    """`translate` (x, y) in larger sides, right and down; `rotate_deg` counter-clockwise."""

    translate: tuple[float, float] = (0.0, 0.0)
    rotate_deg: float = 0.0


def moves(motion: str, frames: int, amount: float = 0.1) -> list[Move]:
    """`frames` places of a path that closes, beginning and ending upright in the middle.

    "shift": to the right by `amount` of the larger side, back, and to the left; "circle": a circle
    of that diameter through the middle; "turn": one full turn; "both": circle and turn together.
    The frame after the last is the first. Raises UserError.
    """
    if motion not in MOTIONS:
        raise UserError(f"motion: got {motion!r}, expected one of {', '.join(MOTIONS)}")
    if frames < 1:
        raise UserError(f"frames: got {frames}, expected at least 1")
    path = []
    for i in range(frames):
        share = i / frames
        angle = 2 * math.pi * share
        shift = (0.0, 0.0)
        if motion == "shift":
            shift = (amount * math.sin(angle), 0.0)
        elif motion != "turn":
            radius = amount / 2
            shift = (radius * (1 - math.cos(angle)), -radius * math.sin(angle))
        path.append(Move(shift, 360 * share if motion in ("turn", "both") else 0.0))
    return path
