"""The bundled adaptations of mini-faces: what the text says, from text alone.

    python -m recipes.minifaces.adapt --outdir runs/nada --bundle
    python -m recipes.minifaces.adapt --targets zombie,cat --outdir runs/nada
    python -m recipes.minifaces.evaluate_nada --outdir docs

Writes for every target what `sg3 adapt` writes, and with --bundle its delta into the package
(`--delta zombie` then finds it).

Hardware: a processor, one thread for each of --processes targets.
Duration: 2 to 3 minutes per target.
Result: docs/minifaces-nada.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from recipes.minifaces.evaluate_nada import TARGETS
from sg3.checkpoints.delta import load_delta, merge, save_delta
from sg3.cli.options import DELTAS

#: New shapes come from coarse layers.
SHAPE = ("--steps", "400", "--lr", "0.008", "--coarse-lr", "6")
#: A style is how everything is drawn.
STYLE = ("--steps", "400", "--lr", "0.008", "--coarse-lr", "3")
#: How far to go, in differences of the texts: about as far as true pairs are apart, rounded. The
#: one number that does not come from the text (docs/LOG.md); the default is 0.95.
MAGNITUDES = {
    "zombie": 0.65, "clown": 0.7, "pixel art": 0.5, "alien": 1.1, "robot": 1.1, "neon": 1.0,
    "sepia": 1.3,
}  # fmt: skip

#: What is bundled, as a share of what was reached: chosen with `evaluate_nada` in view.
STRENGTHS = {"neon": 0.95, "pixel art": 1.4}


def command(target: str, outdir: Path, network: str = "mini-faces") -> list[str]:
    """The command that adapts to `target`."""
    own = SHAPE if TARGETS[target][1] == "flat" else STYLE
    magnitude = MAGNITUDES.get(target, 0.95)
    return [
        sys.executable, "-m", "sg3", "adapt", "--source", "face", "--target", target,
        "--network", network, "--outdir", str(outdir / slug(target)), "--no-stop", *own,
        "--magnitude", str(magnitude),
    ]  # fmt: skip


def slug(target: str) -> str:
    """The name of a target's files."""
    return target.replace(" ", "-")


def bundle(outdir: Path, target: str) -> None:
    """Put the delta of `target` into the package, at its strength."""
    delta = load_delta(outdir / slug(target) / "delta.safetensors")
    strength = STRENGTHS.get(target, 1.0)
    scaled = replace(merge([(delta, strength)]), meta={**delta.meta, "strength": strength})
    save_delta(scaled, DELTAS / f"{slug(target)}.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--targets", default=",".join(TARGETS), help="separated by commas")
    parser.add_argument("--outdir", type=Path, default=Path("runs/nada"))
    parser.add_argument("--network", default="mini-faces")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--bundle", action="store_true", help="copy the deltas into the assets")
    args = parser.parse_args()
    targets = args.targets.split(",")
    unknown = sorted(set(targets) - set(TARGETS))
    if unknown:
        parser.error(f"--targets: got {', '.join(unknown)}, expected some of {', '.join(TARGETS)}")

    def run(target: str) -> int:
        return subprocess.run(command(target, args.outdir, args.network), check=False).returncode

    with ThreadPoolExecutor(args.processes) as pool:
        codes = dict(zip(targets, pool.map(run, targets), strict=True))
    failed = [target for target, code in codes.items() if code]
    if args.bundle:
        DELTAS.mkdir(parents=True, exist_ok=True)
        for target in codes.keys() - set(failed):
            bundle(args.outdir, target)
    if failed:
        parser.exit(1, f"failed: {', '.join(failed)}\n")


if __name__ == "__main__":
    main()
