"""Train the bundled adaptations of mini-faces, each from a text or from sixteen images.

    python -m recipes.minifaces.generator.adapt --outdir runs/nada --bundle
    python -m recipes.minifaces.generator.adapt --targets zombie,cat --outdir runs/nada
    python -m recipes.minifaces.evaluation.adaptation --outdir docs

Each target is adapted RUNS times with different seeds, and the deltas are averaged: runs err in
different ways, and the average is closer to the true renders than any of them (docs/LOG.md). Each
run writes the files of `sg3 adapt`; --bundle writes the averages into the package, where
`--delta zombie` finds them. Runs whose delta exists are skipped. Text alone does not carry the
pencil sketch well, so there is a second one from images.

Hardware: a CPU, one thread for each of --processes runs.
Duration: 2 to 3 minutes per run.
Result: docs/minifaces-nada.json.
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from guidance.commands.steer import slug
from recipes.arguments import argument_parser
from recipes.minifaces.evaluation.adaptation import TARGETS, true_renders
from recipes.minifaces.evaluation.generator import HELDOUT_BASE
from sg3.checkpoints.delta import load_delta, merge, save_delta
from sg3.cli.parsers import DELTAS
from sg3.media import save_png, to_uint8

#: Options for a change of shape, which coarse layers make.
SHAPE = ("--steps", "400", "--lr", "0.008", "--coarse-lr", "6")
#: Options for a change of style.
STYLE = ("--steps", "400", "--lr", "0.008", "--coarse-lr", "3")
#: `--magnitude`, about the distance of true pairs, in text differences; 0.95 for the others. The
#: only setting that does not follow from the text (docs/LOG.md).
MAGNITUDES = {
    "zombie": 0.65, "clown": 0.7, "pixel art": 0.5, "alien": 1.1, "robot": 1.1, "neon": 1.0,
    "sepia": 1.3,
}  # fmt: skip

#: Number of runs whose deltas are averaged; neon has one, because averaging did not help it.
RUNS, ONE_RUN = 3, ("neon",)

#: Factors of the bundled deltas, 1 for the others; chosen with the results of
#: `recipes.minifaces.evaluation.adaptation` in view.
STRENGTHS = {
    "neon": 0.95, "pixel art": 1.45, "pencil sketch": 1.4, "sepia": 1.13, "cat": 1.05,
    "alien": 1.15, "pencil sketch from pictures": 1.1,
}  # fmt: skip


#: Targets given by images instead of a text, and their options: strokes and colours should be
#: learned, shapes should stay.
NUM_IMAGES, IMAGE_SEEDS = 16, 7_000_000
FROM_IMAGES = {
    "pencil sketch from pictures": (
        "--steps", "600", "--lr", "0.008", "--coarse-lr", "2", "--strokes", "600",
        "--magnitude", "1",
    ),
}  # fmt: skip


def target_options(target: str, outdir: Path) -> tuple[str, ...]:
    """Return the options of `sg3 adapt` for `target`."""
    if target in FROM_IMAGES:
        return ("--target-images", str(images_folder(target, outdir)), *FROM_IMAGES[target])
    own = SHAPE if TARGETS[target][1] == "flat" else STYLE
    magnitude = MAGNITUDES.get(target, 0.95)
    return ("--source", "face", "--target", target, *own, "--magnitude", str(magnitude))


def images_folder(target: str, outdir: Path) -> Path:
    """Return the folder of `draw_images`."""
    return outdir / slug(target) / "images"


def draw_images(target: str, outdir: Path) -> None:
    """Render target images of identities that no evaluation uses."""
    folder = images_folder(target, outdir)
    folder.mkdir(parents=True, exist_ok=True)
    images = true_renders(target, NUM_IMAGES, first=IMAGE_SEEDS - HELDOUT_BASE)
    for i, image in enumerate(to_uint8(images)):
        save_png(folder / f"{i:02}.png", image)


def command(target: str, outdir: Path, seed: int = 0, network: str = "mini-faces") -> list[str]:
    """Return the command of one run."""
    return [
        sys.executable, "-m", "sg3", "adapt", "--network", network, "--no-stop",
        "--outdir", str(run_folder(outdir, target, seed)), "--seed", str(seed),
        *target_options(target, outdir),
    ]  # fmt: skip


def seeds(target: str) -> range:
    """Return the seeds of the runs of `target`."""
    return range(1 if target in ONE_RUN else RUNS)


def run_folder(outdir: Path, target: str, seed: int) -> Path:
    """Return the output folder of a run."""
    return outdir / slug(target) / f"seed{seed}"


def bundle(outdir: Path, target: str) -> None:
    """Write the average of the runs of `target`, times its strength, into the package."""
    files = [run_folder(outdir, target, seed) / "delta.safetensors" for seed in seeds(target)]
    deltas, strength = [load_delta(file) for file in files], STRENGTHS.get(target, 1.0)
    average = merge([(delta, strength / len(deltas)) for delta in deltas])
    meta = {**deltas[0].meta, "strength": strength, "averaged_runs": len(deltas)}
    save_delta(replace(average, meta=meta), DELTAS / f"{slug(target)}.safetensors")


def main() -> None:
    """Run the command."""
    parser = argument_parser(__doc__)
    parser.add_argument("--targets", default=",".join(TARGETS), help="targets, comma-separated")
    parser.add_argument("--outdir", type=Path, default=Path("runs/nada"), help="folder of the runs")
    parser.add_argument("--network", default="mini-faces", help="network to adapt")
    parser.add_argument("--processes", type=int, default=2, help="number of concurrent runs")
    parser.add_argument("--bundle", action="store_true", help="write the averages into the package")
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

    for target in FROM_IMAGES.keys() & set(targets):
        draw_images(target, args.outdir)
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
