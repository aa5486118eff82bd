"""What `sg3 plan` estimates for the official implementation, beside its published table.

    python -m benchmarks official_cost

Prints estimate / published for seconds per kimg on V100 and A100, and for memory: one line per row
of the table. Two minutes.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import torch

from recipes.arguments import argument_parser
from sg3.training.cards import CARDS
from sg3.training.config import TrainConfig
from sg3.training.cost_model import Rates, paths_of
from sg3.training.plan import GIB, Estimate, Parts

TABLE = Path(__file__).parents[1] / "tests" / "sg3" / "training" / "data" / "official_cost.csv"
CARD_COLUMNS = {"V100": "v100_sec_per_kimg", "A100-40": "a100_sec_per_kimg"}
MEMORY_COLUMN = "gpu_mem_gb"


def ratios(row: dict[str, str], *columns: str) -> dict[str, float]:
    """Return estimate / published for `columns` of a row of the table."""
    device, gpus, resolution = torch.device("cuda"), int(row["gpus"]), int(row["resolution"])
    config = TrainConfig(
        outdir="", data="", device="cuda", cfg=row["cfg"], batch=int(row["batch"]),
        batch_gpu=int(row["batch_gpu"]),
    ).resolved(resolution, gpus)  # fmt: skip
    parts = Parts(config, (3, resolution, resolution), 0)
    estimated = {}
    for card, column in CARD_COLUMNS.items():
        if column in columns:
            estimate = Estimate(parts, device, Rates.of_card(CARDS[card]), paths_of(device))
            peak, seconds = estimate.step(config, gpus)
            estimated[column] = seconds * 1000 / config.batch
            estimated[MEMORY_COLUMN] = (
                parts.official_bytes(config.images_per_pass(gpus), peak) / GIB
            )
    return {name: value / float(row[name]) for name, value in estimated.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    argument_parser(__doc__).parse_args(arguments)
    columns = (*CARD_COLUMNS.values(), MEMORY_COLUMN)
    print("estimated / published:    " + "  ".join(columns))
    lowest, highest = dict.fromkeys(columns, 9.0), dict.fromkeys(columns, 0.0)
    for row in csv.DictReader(TABLE.open()):
        found = ratios(row, *columns)
        cells = "".join(f"{found[name]:>{len(name) + 2}.2f}" for name in columns)
        print(f"{row['cfg']:<12}{row['resolution']:>5}  {row['gpus']} GPUs{cells}", flush=True)
        for name, value in found.items():
            lowest[name], highest[name] = min(lowest[name], value), max(highest[name], value)
    print("\n".join(f"{name}: {lowest[name]:.2f} to {highest[name]:.2f}" for name in columns))


if __name__ == "__main__":
    main()
