"""`sg3 metrics`: image quality and equivariance metrics of a network."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from sg3.cli.options import (
    ParsedType,
    debug_option,
    device_option,
    load_options,
    network_option,
    option,
    seed_option,
)
from sg3.errors import UserError
from sg3.files import parse_json
from sg3.progress import ImageBar

NAMES = ParsedType("NAMES", lambda text: tuple(name.strip() for name in text.split(",")))

#: Arguments of `open_dataset` → names in the options of a training run, ours and official.
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
@option(
    "--metrics",
    "names",
    type=NAMES,
    required=True,
    help="Comma-separated names: fid50k_full, kid50k_full, pr50k3_full, is50k, ppl2_wend, "
    "eqt50k_int, eqt50k_frac, eqr50k, fd_dinov2, cmmd. The number is that of generated images in "
    "thousands; any works, like fid10k_full. _full compares with all real images, without flips.",
)
@network_option
@option(
    "--data",
    metavar="ZIP|DIR",
    unset="those of the training run if --network is in its folder",
    help="Real images.",
)
@option("--mirror", is_flag=True, help="Add flipped copies to --data (ignored by _full).")
@option(
    "--features",
    metavar="NAME",
    unset="the official network of each metric",
    help="Feature network: mini (bundled), dinov2, clip:ViT-B-32/openai or any other encoder, "
    "timm:MODEL, inception:FILE; for ppl: scales (no weights) or lpips. Results are renamed "
    "accordingly, like fd50k_full_mini.",
)
@option("--batch", type=click.IntRange(min=1), default=64, help="Images per pass.")
@option(
    "--gpus",
    type=click.IntRange(min=1),
    unset="1, or as started by torchrun",
    help="Number of processes, one per GPU.",
)
@option(
    "--outdir",
    type=click.Path(file_okay=False),
    metavar="DIR",
    unset="the training run's folder, if any",
    help="Folder in which to append to metric-NAME.jsonl; created if missing.",
)
@seed_option
@device_option
@debug_option
def metrics(names, network, data, mirror, features, batch, gpus, outdir, seed, device) -> None:
    """Compute metrics of a network; prints one line of JSON per metric.

    \b
    Examples:
      sg3 metrics --metrics eqt0.02k_int,ppl0.02k_wend_scales --network mini-faces
      sg3 generate --seeds 0-31 --outdir faces
      sg3 metrics --metrics fid0.05k_full --features mini --network mini-faces-r --data faces
    """
    from sg3.cli.options import resolve_device
    from sg3.cli.processes import run_processes, world_size
    from sg3.files import check_folder
    from sg3.metrics import check_names

    check_names(names, features)
    if mirror and data is None:
        raise click.UsageError("--mirror needs --data; a training run's images have its own flips")
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
    """Compute the metrics one by one; called in every process."""
    from sg3.checkpoints.load import load, locate
    from sg3.data import open_dataset
    from sg3.distributed.team import Team
    from sg3.metrics import evaluate

    path, entry = locate(network)
    of_run = run_data(path.parent) if entry is None else None
    data, run = data or of_run, path.parent if of_run else None
    team = Team.join(device)
    try:
        nets = load(path if entry is None else network, team.device, **load_options())
        G: Any = nets.G_ema  # never None: `load` checks it
        dataset = open_dataset(**data, use_labels=G.c_dim > 0) if data else None
        main_process = team.rank == 0
        for note in dataset.notes if dataset and main_process else ():
            click.echo(note, err=True)
        with _Results(path, nets.meta["sha256"], run, outdir, main_process) as results:
            for name in names:
                with ImageBar(name, main_process) as bar:
                    found = evaluate(name, G, dataset, team=team, progress=bar.update, **options)
                results.add(found)
    finally:
        team.close()


def run_data(folder: Path) -> dict[str, Any] | None:
    """Return the images of the training run in `folder`, ours or an official one.

    Keyword arguments of `open_dataset` except `use_labels`, from the options saved by the run;
    None if there are none.
    """
    from sg3.training.run_folder import OPTIONS

    for name in (OPTIONS, OFFICIAL_OPTIONS):
        try:
            record = parse_json((folder / name).read_text(encoding="utf-8"))
            official = record.get("training_set_kwargs")
            saved, names = (record, OURS) if official is None else (official, OFFICIAL)
            return {key: saved[name] for key, name in names.items() if name in saved} | {
                "path": saved[names["path"]]
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # missing, or written by another program
    return None


class _Results:
    """Prints results and appends them to files in the run's folder or `outdir`.

    In `outdir` it also writes `run.json`. Does nothing unless `main_process`.
    """

    def __init__(
        self, path: Path, sha256: str, run: Path | None, outdir: str | None, main_process: bool
    ):
        from sg3.files import prepare_folder
        from sg3.manifest import RunManifest

        self._path, self._enabled = path, main_process
        self._folder = run if outdir is None else Path(outdir)
        if outdir is not None and main_process:
            prepare_folder(outdir)
        arguments = click.get_current_context().params
        self._manifest = RunManifest(outdir or ".", "metrics", arguments)
        self._manifest.enabled = main_process and outdir is not None
        self._manifest.add_input(path, sha256)

    def __enter__(self) -> _Results:
        return self

    def add(self, result: dict) -> None:
        """Print and write one result of `evaluate`."""
        from sg3.metrics import write_result

        if not self._enabled:
            return
        click.echo(json.dumps({**result, "snapshot": str(self._path)}))
        self._manifest.results.update(result["results"])
        self._manifest.timings[result["metric"]] = result["total_time"]
        if self._folder is not None:
            self._manifest.add_output(write_result(result, self._folder, str(self._path)))

    def __exit__(self, *error) -> None:
        self._manifest.__exit__(*error)
