"""The bundled adaptations of mini-faces: what the text says, from text alone; the pencil sketch,
which text alone does not carry, once more from sixteen pictures.

    python -m recipes.minifaces.generator.adapt --outdir runs/nada --bundle
    python -m recipes.minifaces.generator.adapt --targets zombie,cat --outdir runs/nada
    python -m recipes.minifaces.evaluation.adaptation --outdir docs

Adapts RUNS times with different seeds and averages what came out: each run strays on its own,
and the average is nearer to the true renders than any of them (docs/LOG.md). Writes for every run
what `sg3 adapt` writes, and with --bundle the average into the package (`--delta zombie` then
finds it).

Hardware: a processor, one thread for each of --processes runs.
Duration: 2 to 3 minutes per run.
Result: docs/minifaces-nada.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from recipes.minifaces.evaluation.adaptation import TARGETS, true_renders
from recipes.minifaces.evaluation.generator import HELDOUT_BASE
from sg3.checkpoints.delta import load_delta, merge, save_delta
from sg3.cli.options import DELTAS
from sg3.media import save_png, to_uint8

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

#: Runs with different seeds whose changes are averaged; of neon one, as averaging did not help it.
RUNS, ONE_RUN = 3, ("neon",)

#: What is bundled, as a share of what was reached: chosen with `evaluate_nada` in view.
STRENGTHS = {
    "neon": 0.95, "pixel art": 1.45, "pencil sketch": 1.4, "sepia": 1.13, "cat": 1.05,
    "alien": 1.15, "pencil sketch from pictures": 1.1,
}  # fmt: skip


#: From so many pictures instead of a text: `FROM_PICTURES[target]` also says how. The pictures'
#: strokes and colours count, and shapes should stay.
NUM_PICTURES, PICTURE_SEEDS = 16, 7_000_000
FROM_PICTURES = {
    "pencil sketch from pictures": (
        "--steps", "600", "--lr", "0.008", "--coarse-lr", "2", "--strokes", "600",
        "--magnitude", "1",
    ),
}  # fmt: skip


def goal(target: str, outdir: Path) -> tuple[str, ...]:
    """The options that say where to go and how."""
    if target in FROM_PICTURES:
        return ("--target-images", str(pictures_folder(target, outdir)), *FROM_PICTURES[target])
    own = SHAPE if TARGETS[target][1] == "flat" else STYLE
    magnitude = MAGNITUDES.get(target, 0.95)
    return ("--source", "face", "--target", target, *own, "--magnitude", str(magnitude))


def pictures_folder(target: str, outdir: Path) -> Path:
    """Where `draw_pictures` puts them."""
    return outdir / slug(target) / "pictures"


def draw_pictures(target: str, outdir: Path) -> None:
    """Renders of the target, of identities that no evaluation uses."""
    folder = pictures_folder(target, outdir)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = true_renders(target, NUM_PICTURES, first=PICTURE_SEEDS - HELDOUT_BASE)
    for i, picture in enumerate(to_uint8(pictures)):
        save_png(folder / f"{i:02}.png", picture)


def command(target: str, outdir: Path, seed: int = 0, network: str = "mini-faces") -> list[str]:
    """The command of one run towards `target`."""
    return [
        sys.executable, "-m", "sg3", "adapt", "--network", network, "--no-stop",
        "--outdir", str(run_folder(outdir, target, seed)), "--seed", str(seed),
        *goal(target, outdir),
    ]  # fmt: skip


def slug(target: str) -> str:
    """The name of a target's files."""
    return target.replace(" ", "-")


def seeds(target: str) -> range:
    """Of the runs towards `target`."""
    return range(1 if target in ONE_RUN else RUNS)


def run_folder(outdir: Path, target: str, seed: int) -> Path:
    """Where a run writes."""
    return outdir / slug(target) / f"seed{seed}"


def bundle(outdir: Path, target: str) -> None:
    """Put the average of the runs towards `target` into the package, at its strength."""
    files = [run_folder(outdir, target, seed) / "delta.safetensors" for seed in seeds(target)]
    deltas, strength = [load_delta(file) for file in files], STRENGTHS.get(target, 1.0)
    average = merge([(delta, strength / len(deltas)) for delta in deltas])
    meta = {**deltas[0].meta, "strength": strength, "averaged_runs": len(deltas)}
    save_delta(replace(average, meta=meta), DELTAS / f"{slug(target)}.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--targets", default=",".join(TARGETS), help="separated by commas")
    parser.add_argument("--outdir", type=Path, default=Path("runs/nada"))
    parser.add_argument("--network", default="mini-faces")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--bundle", action="store_true", help="put the averages into the assets")
    args = parser.parse_args()
    targets = args.targets.split(",")
    unknown = sorted(set(targets) - set(TARGETS))
    if unknown:
        parser.error(f"--targets: got {', '.join(unknown)}, expected some of {', '.join(TARGETS)}")

    def run(job: tuple[str, int]) -> int:
        target, seed = job
        if (run_folder(args.outdir, target, seed) / "delta.safetensors").exists():
            return 0
        return subprocess.run(command(target, args.outdir, seed, args.network)).returncode

    for target in FROM_PICTURES.keys() & set(targets):
        draw_pictures(target, args.outdir)
    jobs = [(target, seed) for target in targets for seed in seeds(target)]
    with ThreadPoolExecutor(args.processes) as pool:
        codes = zip(jobs, pool.map(run, jobs), strict=True)
        failed = sorted({target for (target, _), code in codes if code})
    if args.bundle:
        DELTAS.mkdir(parents=True, exist_ok=True)
        for target in targets:
            if target not in failed:
                bundle(args.outdir, target)
    if failed:
        parser.exit(1, f"failed: {', '.join(failed)}\n")


if __name__ == "__main__":
    main()
