"""Turn a training run into the bundled network file: the averaged generator in half precision.

python -m recipes.minifaces.generator.bundle --network RUN_FOLDER \\
    --out sg3/assets/mini-faces.safetensors
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import sg3


def bundle(network: str, out: str, note: str = "") -> dict:
    """Write G_ema of `network` (a run folder or file) to `out`; returns its provenance."""
    nets = sg3.load(network)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    meta = {
        **{k: v for k, v in nets.meta.items() if k not in ("sha256", "path", "name", "source")},
        "name": Path(out).stem,
        "licence": "Apache-2.0",
        "commit": commit.stdout.strip(),
        "from": Path(network).name,
    }
    if note:
        meta["note"] = note
    sg3.save(sg3.Networks(G_ema=nets.G_ema, meta=meta), out, fp16=True)
    return meta


def main() -> None:
    """Command line of `bundle`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", required=True, help="run folder or network file")
    parser.add_argument("--out", required=True, help="file to write (.safetensors)")
    parser.add_argument("--note", default="", help="kept in the provenance")
    args = parser.parse_args()
    print(bundle(args.network, args.out, args.note))


if __name__ == "__main__":
    main()
