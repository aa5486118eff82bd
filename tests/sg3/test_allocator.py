"""The allocator of the process changes only where a program asks for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import repository

#: Lists the functions that ctypes looks up while the library is imported and used.
SCRIPT = """
import json, sys
found = set()
sys.addaudithook(lambda event, args: found.add(args[1]) if event == "ctypes.dlsym" else None)

import numpy as np
from pathlib import Path
from PIL import Image
import ops_cuda, sg3, sg3.metrics, guidance, nada
from sg3.training import TrainConfig, train

folder = Path(sys.argv[1])
(folder / "data").mkdir()
for i in range(4):
    Image.fromarray(np.full([16, 16, 3], 60 * i, np.uint8)).save(folder / "data" / f"{i}.png")

G = sg3.load("mini-faces").G_ema
quick = dict(steps=2, candidates=2, generations=0, cutouts=1)
assert len(list(guidance.steer(G, "red hair", clip="mini", **quick))) == 3

config = TrainConfig(
    outdir=str(folder), data=str(folder / "data"), kimg=0.004, batch=4, aug="noaug", workers=0,
    z_dim=8, w_dim=8, num_layers=4, margin_size=4, cbase=64, cmax=8, mbstd_group=2, grid=(3, 2),
    d_reg_interval=2, threads=1, device="cpu",
)
assert [step.nimg for step in train(config)][-1] == 4
used = sorted(name for name in found if isinstance(name, str))

from sg3.allocator import keep_large_blocks
keep_large_blocks()
print(json.dumps([used, "mallopt" in found]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_steering_and_training_do_not_change_the_allocator(tmp_path):
    arguments = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(arguments, cwd=repository.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    used, noticed = json.loads(done.stdout.splitlines()[-1])
    assert noticed, "the audit hook sees the opt-in"
    assert "mallopt" not in used, used


def test_no_library_module_refers_to_mallopt_or_the_opt_in():
    packages = ("ops_cuda", "sg3", "guidance", "nada", "app_tabs")
    # `sg3 plan` runs plan_measure as a program of its own, which stands in for `sg3 train`.
    programs = ("sg3/cli/main.py", "sg3/training/plan_measure.py")
    allowed = {Path(p) for p in (*programs, "sg3/allocator.py", "ops_cuda/recycled.py")}
    for package in packages:
        for path in (repository.ROOT / package).rglob("*.py"):
            if path.relative_to(repository.ROOT) not in allowed:
                text = path.read_text(encoding="utf-8")
                assert "mallopt" not in text and "keep_large_blocks" not in text, path
