"""`channel_base` and `channel_max` from the channels of layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sg3.networks.conv_layers import channels_at

USUAL = (32768, 16384, 65536)  # of the published networks


def power_of_two_channels(channels: Mapping[int, int]) -> dict[str, Any]:
    """Return the arguments for which a block of resolution r has `channels[r]` channels.

    These are `min(channel_base // r, channel_max)`, or else `block_channels`.
    """
    most = max(channels.values())
    narrow = {r: count for r, count in channels.items() if count < most}
    low = max(r * count for r, count in (narrow or channels).items())
    # Where all blocks are equally wide, any larger base does.
    high = min((r * (count + 1) - 1 for r, count in narrow.items()), default=math.inf)
    for base in _candidates(low, high):
        if all(channels_at(r, int(base), most) == count for r, count in channels.items()):
            return {"channel_base": int(base), "channel_max": most}
    return {"block_channels": [channels[r] for r in sorted(channels)]}


def cutoff_channels(channels: list[int], cutoffs: list[float]) -> dict[str, Any] | None:
    """Return the arguments for which layers of these cutoffs have these channels; None: none do.

    These are `min(channel_base / 2 / cutoff, channel_max)`, rounded (REFERENCE.md §2.2).
    """
    most = max(channels)
    pairs = list(zip(channels, cutoffs, strict=True))
    narrow = [(count, cutoff) for count, cutoff in pairs if count < most]
    low = max(2 * cutoff * (count - 0.5) for count, cutoff in pairs)
    high = min((2 * cutoff * (count + 0.5) for count, cutoff in narrow), default=math.inf)
    for base in _candidates(low, high):
        if all(round(min(base / 2 / cutoff, most)) == count for count, cutoff in pairs):
            return {"channel_base": base, "channel_max": most}
    return None


def _candidates(low: float, high: float) -> list[int | float]:
    """Return numbers in the range: usual ones, a power of two, integers, and the middle."""
    whole = math.ceil(low)
    middle = (low + high) / 2 if math.isfinite(high) else whole
    found = [*USUAL, 2 ** (whole - 1).bit_length(), whole, whole + 1, middle]
    return [base for base in found if low <= base <= high]
