"""Telemetry of libraries is off. Importing this module imports no other package."""

from __future__ import annotations

import os
import sys

#: Variables of huggingface_hub; one that is set, also to 0, is the user's decision.
TELEMETRY = ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK")


def turn_off_telemetry() -> None:
    """Make huggingface_hub tell nothing about this machine, unless the user chose otherwise."""
    if any(os.environ.get(name) for name in TELEMETRY):
        return
    os.environ[TELEMETRY[0]] = "1"
    # It reads the variable only once, when it is imported, which another package may have done.
    if (constants := sys.modules.get("huggingface_hub.constants")) is not None:
        constants.HF_HUB_DISABLE_TELEMETRY = True  # type: ignore[attr-defined]
