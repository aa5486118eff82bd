"""`channel_base` and `channel_max` from the channels of layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sg3.checkpoints.pickle_machine import Refused
from sg3.networks.conv_layers import channels_at

USUAL = (32768, 16384, 65536)  # of the published networks


def power_of_two_channels(channels: Mapping[int, int]) -> dict[str, Any]:
    """Return the arguments for which a block of resolution r has `channels[r]` channels.

    These are `min(channel_base // r, channel_max)`. Raises Refused if there are none.
    """
    most = max(channels.values())
    narrow = {r: count for r, count in channels.items() if count < most}
    low = max(r * count for r, count in (narrow or channels).items())
    # Where all blocks are equally wide, any larger base does.
    high = min((r * (count + 1) - 1 for r, count in narrow.items()), default=math.inf)
    base = _preferred(low, high)
    if any(channels_at(r, base, most) != count for r, count in channels.items()):
        shown = ", ".join(f"{r}: {count}" for r, count in channels.items())
        raise Refused(
            f"has blocks of {shown} channels, expected channel_base / resolution, at most "
            "channel_max"
        )
    return {"channel_base": base, "channel_max": most}


def cutoff_channels(channels: list[int], cutoffs: list[float]) -> dict[str, Any] | None:
    """Return the arguments for which layers of these cutoffs have these channels; None: none do.

    These are `min(channel_base / 2 / cutoff, channel_max)`, rounded (REFERENCE.md §2.2).
    """
    most = max(channels)
    pairs = list(zip(channels, cutoffs, strict=True))
    narrow = [(count, cutoff) for count, cutoff in pairs if count < most]
    low = max(2 * cutoff * (count - 0.5) for count, cutoff in narrow or pairs)
    low = max(low, max(2 * cutoff * (count - 0.5) for count, cutoff in pairs))
    high = min((2 * cutoff * (count + 0.5) for count, cutoff in narrow), default=math.inf)
    base = _preferred(low, high)
    fits = all(round(min(base / 2 / cutoff, most)) == count for count, cutoff in pairs)
    return {"channel_base": base, "channel_max": most} if fits else None


def _preferred(low: float, high: float) -> int | float:
    """Return a number in the range: a usual one, a power of two, an integer, or the middle."""
    powers = [2 ** math.ceil(math.log2(low))] if low > 0 else []
    for base in (*USUAL, *powers, math.ceil(low)):
        if low <= base <= high:
            return base
    return (low + high) / 2
