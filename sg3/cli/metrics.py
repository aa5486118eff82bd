"""`sg3 metrics`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from sg3.cli.options import ParsedType, debug_option, device_option, network_option, seed_option
from sg3.errors import UserError
from sg3.progress import ImageBar

NAMES = ParsedType("NAMES", lambda text: tuple(name.strip() for name in text.split(",")))

#: The images of a run by argument of `open_dataset`: in our options, and in official ones.
OURS = {
    "path": "data",
    "max_size": "max_images",
    "xflip": "mirror",
    "yflip": "mirror_y",
    "random_seed": "seed",
}
OFFICIAL_OPTIONS = "training_options.json"
OFFICIAL = {name: name for name in ("path", "max_size", "xflip", "random_seed")}


@click.command()
@click.option(
    "--metrics",
    "names",
    type=NAMES,
    required=True,
    help="fid50k_full, kid50k_full, pr50k3_full, is50k, ppl2_wend, eqt50k_int, eqt50k_frac, "
    "eqr50k, fd_dinov2, cmmd; with any number of thousands of pictures, like fid10k_full; without "
    "_full, the data set as it is.",
)
@network_option
@click.option(
    "--data",
    metavar="ZIP|DIR",
    help="Real images; those of the training run if --network lies in its folder.",
)
@click.option("--mirror", is_flag=True, help="With --data: add mirrored copies (not for _full).")
@click.option(
    "--features",
    metavar="NAME",
    help="Instead of the official feature networks: mini (bundled), dinov2, clip:ViT-B-32/openai "
    "or another encoder, timm:MODEL, inception:FILE; of ppl: scales (no weights), lpips. Results "
    "then carry that name, as in fd50k_full_mini.",
)
@click.option(
    "--batch", type=click.IntRange(min=1), default=64, show_default=True, help="Images per pass."
)
@click.option("--gpus", type=click.IntRange(min=1), help="Processes, one per GPU, under torchrun.")
@click.option(
    "--outdir",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Where metric-NAME.jsonl is appended to; the training run's folder if left out.",
)
@seed_option
@device_option
@debug_option
def metrics(names, network, data, mirror, features, batch, gpus, outdir, seed, device) -> None:
    """Measure a network; one line of JSON for each metric.

    \b
    Examples:
      sg3 metrics --metrics fid50k_full,eqt50k_int --network runs/00000-… --gpus 8
      sg3 metrics --metrics fid2k_full --features mini --network mini-faces --data faces.zip
    """
    from sg3.cli.options import resolve_device
    from sg3.cli.processes import run_processes, world_size
    from sg3.files import check_folder
    from sg3.metrics import check_names

    check_names(names, features)
    if mirror and data is None:
        raise click.UsageError("--mirror belongs to --data; a run's own images are as it saw them")
    if outdir is not None:
        check_folder(outdir)
    if gpus not in (None, world_size()):
        run_processes(gpus)
    given = {"path": data, "xflip": mirror} if data else None
    options = {"features": features, "batch": batch, "seed": seed}
    try:
        _measure(names, network, given, outdir, resolve_device(device), options)
    except ValueError as error:
        rank = os.environ.get("RANK", "0")
        raise error if rank == "0" else UserError(f"process {rank}: {error}") from None


def _measure(names, network: str, data: dict | None, outdir, device, options: dict) -> None:
    """Every metric in turn, in each process of the team."""
    import sg3
    from sg3.checkpoints.load import locate
    from sg3.data import open_dataset
    from sg3.distributed.team import Team
    from sg3.metrics import evaluate

    path, entry = locate(network)
    of_run = run_data(path.parent) if entry is None else None
    data, run = data or of_run, path.parent if of_run else None
    team = Team.join(device)
    try:
        nets = sg3.load(path if entry is None else network, team.device)
        dataset = open_dataset(**data, use_labels=nets.G_ema.c_dim > 0) if data else None
        with _Results(path, nets.meta["sha256"], run, outdir, team.leads) as results:
            for name in names:
                with ImageBar(name, team.leads) as bar:
                    found = evaluate(
                        name, nets.G_ema, dataset, team=team, progress=bar.update, **options
                    )
                results.add(found)
    finally:
        team.leave()


def run_data(folder: Path) -> dict[str, Any] | None:
    """What the options that a training run, ours or an official one, left in `folder` tell of
    its images: keyword arguments of `open_dataset`, less `use_labels`.

    None for a folder without such options.
    """
    from sg3.training.run_folder import OPTIONS

    for name in (OPTIONS, OFFICIAL_OPTIONS):
        try:
            record = json.loads((folder / name).read_text(encoding="utf-8"))
            official = record.get("training_set_kwargs")
            told, names = (record, OURS) if official is None else (official, OFFICIAL)
            return {ours: told[theirs] for ours, theirs in names.items() if theirs in told} | {
                "path": told[names["path"]]
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # none, or another program's
    return None


class _Results:
    """Printed, appended to the run's folder or `outdir`, and told in the latter's `run.json`."""

    def __init__(self, path: Path, sha256: str, run: Path | None, outdir: str | None, leads: bool):
        from sg3.files import prepare_folder
        from sg3.manifest import RunManifest

        self._path, self._leads = path, leads
        self._folder = run if outdir is None else Path(outdir)
        if outdir is not None and leads:
            prepare_folder(outdir)
        arguments = click.get_current_context().params
        self._manifest = RunManifest(outdir or ".", "metrics", arguments)
        self._manifest.enabled = leads and outdir is not None
        self._manifest.add_input(path, sha256)

    def __enter__(self) -> _Results:
        return self

    def add(self, result: dict) -> None:
        from sg3.metrics import write_result

        if not self._leads:
            return
        click.echo(json.dumps({**result, "snapshot": str(self._path)}))
        self._manifest.results.update(result["results"])
        self._manifest.timings[result["metric"]] = result["total_time"]
        if self._folder is not None:
            self._manifest.add_output(write_result(result, self._folder, str(self._path)))

    def __exit__(self, *error) -> None:
        self._manifest.__exit__(*error)
