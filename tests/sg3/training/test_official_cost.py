"""Estimates of `sg3 plan` for the official implementation against its published table.

The table also served to fit the efficiencies in `sg3.training.cards`; the A6000 did not. Each
estimate takes a second: the smallest and largest sizes here, all rows in
`python -m benchmarks official_cost`.
"""

import csv

import pytest

from benchmarks import official_cost
from sg3.training.cards import CARDS

ROWS = list(csv.DictReader(official_cost.TABLE.open()))
TOLERANCE = 0.2


@pytest.mark.slow
@pytest.mark.parametrize("cfg", ["stylegan3-t", "stylegan3-r", "stylegan2"])
@pytest.mark.parametrize("gpus, column", [("1", "a100_sec_per_kimg"), ("8", "v100_sec_per_kimg")])
def test_published_times_and_memory(cfg, gpus, column):
    for row in ROWS:
        if (row["cfg"], row["gpus"]) == (cfg, gpus) and row["resolution"] in ("128", "1024"):
            found = official_cost.ratios(row, column)
            assert set(found) == {column, official_cost.MEMORY_COLUMN}
            assert found == pytest.approx(dict.fromkeys(found, 1), abs=TOLERANCE), row


@pytest.mark.slow
@pytest.mark.parametrize("resolution, batch_gpu, published", [(1024, 4, 208), (256, 16, 72.7)])
def test_published_times_of_an_a6000(monkeypatch, resolution, batch_gpu, published):
    """The only published times on a single card of another kind."""
    monkeypatch.setattr(official_cost, "CARD_COLUMNS", {"A6000": "sec"})
    row = dict(cfg="stylegan3-t", resolution=resolution, gpus=1, batch=32, batch_gpu=batch_gpu)
    found = official_cost.ratios({**row, "sec": published, "gpu_mem_gb": 1}, "sec")
    assert found["sec"] == pytest.approx(1, abs=TOLERANCE)
    assert CARDS["A6000"].memory == 48
