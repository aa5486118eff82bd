"""Robustness of resuming: kill -9 a small training run at random moments, and resume it.

    python -m benchmarks.kill_runs --kills 20

Each resume must find a complete training state. After the last kill, the run is finished and must
equal an uninterrupted one bit for bit. A test does this with three kills; use this for more.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from recipes.arguments import argument_parser
from sg3.training.state import newest_state, state_paths

OPTIONS = """
    --cfg stylegan3-t --batch 4 --aug ada --initial-p 0.2 --z-dim 8 --w-dim 8 --num-layers 4
    --margin-size 4 --cbase 64 --cmax 8 --mbstd-group 2 --grid 3x2 --tick 0.02 --snap 1
    --workers 0 --device cpu --threads 1 --resume latest
"""


def command(data: Path, outdir: Path, kimg: float) -> list[str]:
    """Return an `sg3 train` command whose network is small enough for many steps per second."""
    paths = ["--data", str(data), "--outdir", str(outdir), "--kimg", str(kimg)]
    return [sys.executable, "-m", "sg3", "train", *OPTIONS.split(), *paths]


def write_images(folder: Path) -> None:
    """Write twenty images of noise."""
    folder.mkdir()
    random = np.random.RandomState(0)
    for i in range(20):
        pixels = random.randint(0, 255, [16, 16, 3], np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")


def kill_once(arguments: list[str], seconds: float) -> None:
    """Start a run, wait for its first line of output and `seconds` more, and kill -9 it."""
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    if not line:
        raise SystemExit("the run did not start; see the message above")
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def final_networks(outdir: Path) -> dict:
    """Return the networks in the last training state of the only run in `outdir`."""
    (folder,) = outdir.iterdir()
    return newest_state(folder)[0]["networks"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argument_parser(__doc__)
    parser.add_argument("--kills", type=int, default=20, help="number of kills")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the moments")
    args = parser.parse_args(arguments)
    random, shown, leftovers = np.random.RandomState(args.seed), [0], 0
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        write_images(top / "images")
        for _ in tqdm(range(args.kills), disable=not sys.stderr.isatty()):
            kill_once(command(top / "images", top / "killed", 1000), random.uniform(0.0, 2.0))
            (folder,) = (top / "killed").iterdir()
            leftovers += len(list(folder.glob("*.tmp")))
            if not state_paths(folder):
                continue  # killed before the first tick: the next call starts from scratch
            state, notes = newest_state(folder)
            if notes:
                raise SystemExit(f"damaged training state: {notes}")
            shown.append(state["counters"]["cur_nimg"])
        kimg = (shown[-1] + 40) / 1000
        for outdir in ("killed", "whole"):
            subprocess.run(
                command(top / "images", top / outdir, kimg), check=True, capture_output=True
            )
        killed, whole = final_networks(top / "killed"), final_networks(top / "whole")
    equal = all(
        torch.equal(tensor, killed[part][name])
        for part, tensors in whole.items()
        for name, tensor in tensors.items()
    )
    print(
        f"{args.kills} kills; images shown at each resume {shown}; {leftovers} partial files found "
        f"and ignored; {'equal' if equal else 'NOT equal'} to an uninterrupted run at {kimg} kimg"
    )
    if not equal:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
