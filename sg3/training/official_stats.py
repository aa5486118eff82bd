"""Statistics under the names of the official trainer, for scripts that read its stats.jsonl."""

from __future__ import annotations

from typing import Any

#: Official name → entry of our "progress" record.
NAMES = {
    "Progress/tick": "tick",
    "Progress/kimg": "kimg",
    "Progress/augment": "augment_p",
    "Timing/total_sec": "total_seconds",
    "Timing/sec_per_tick": "sec_per_tick",
    "Timing/sec_per_kimg": "sec_per_kimg",
    "Timing/maintenance_sec": "maintenance_seconds",
    "Resources/cpu_mem_gb": "cpu_mem_gb",
    "Resources/peak_gpu_mem_gb": "gpu_mem_gb",
    "Resources/peak_gpu_mem_reserved_gb": "gpu_reserved_gb",
}


def official_stats(progress: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return `progress` as {num, mean, std} under official names.

    What a run does not have (augmentation, a GPU) is 0.
    """
    values = {name: progress.get(entry, 0.0) for name, entry in NAMES.items()}
    seconds = progress["total_seconds"]
    values |= {"Timing/total_hours": seconds / 3600, "Timing/total_days": seconds / 86400}
    return {name: {"num": 1, "mean": value, "std": 0.0} for name, value in values.items()}
