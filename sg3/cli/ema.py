"""`sg3 ema`: a network with any EMA length, from the averages that a training run has stored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sg3.cli.delta import out_option, save_and_report
from sg3.cli.options import ParsedType, argument, debug_option, device_option, option, seed_option
from sg3.cli.train_options import parse_lengths

if TYPE_CHECKING:
    from sg3.checkpoints import Networks
    from sg3.training.posthoc_ema import SweepStep

RANGE = "standard deviation of its weights over time, in units of the time; above 0, below 0.2887"


@click.command()
@argument("run", metavar="RUN", type=click.Path(file_okay=False))
@option(
    "--length",
    type=float,
    unset="none; give either --length or --sweep",
    help=f"EMA length sigma_rel: {RANGE}.",
)
@option(
    "--sweep",
    "lengths",
    type=ParsedType("LENGTHS", parse_lengths),
    unset="none; give either --length or --sweep",
    help="Evaluate --metric for these lengths, like 0.02,0.05,0.1,0.15,0.2, and write the best.",
)
@option(
    "--metric",
    metavar="NAME",
    unset="none; required by --sweep",
    help="A metric of `sg3 metrics`, such as fid50k_full or fd2k_full_mini.",
)
@option(
    "--data",
    metavar="ZIP|DIR",
    unset="those of the run",
    help="With --sweep: real images.",
)
@option(
    "--at",
    "at_kimg",
    type=float,
    metavar="KIMG",
    unset="the newest snapshot",
    help="Time at which the average ends, in kimg.",
)
@out_option(".safetensors", unset="posthoc-ema-LENGTH.safetensors in the run's folder")
@seed_option
@device_option
@debug_option
def ema(
    run: str,
    length: float | None,
    lengths: tuple[float, ...] | None,
    metric: str | None,
    data: str | None,
    at_kimg: float | None,
    out: str | None,
    seed: int,
    device: str,
) -> None:
    """Make a network whose weights are averaged over any length, after training.

    RUN is the folder of a run that was trained with --posthoc-ema. Results of a sweep are appended
    to metric-NAME.jsonl in it. (Karras et al. 2024, arXiv 2312.02696, Sec. 3.)

    \b
    Examples:
      sg3 ema runs/00000-faces --length 0.1
      sg3 ema runs/00000-faces --sweep 0.05,0.1,0.15 --metric fd0.02k_full_mini \\
        --out best.safetensors
    """
    if (length is None) == (lengths is None):
        raise click.UsageError("give either --length or --sweep")
    if (lengths is None) != (metric is None):
        raise click.UsageError("--sweep and --metric need each other")
    if data is not None and lengths is None:
        raise click.UsageError("--data needs --sweep")
    import sg3
    from sg3.files import check_folder
    from sg3.training.posthoc_ema import MAX_ERROR, rebuild_ema

    if out is None:
        check_folder(run)
    if lengths is None or metric is None:
        assert length is not None, "one of both is given"
        networks = rebuild_ema(run, length, at_kimg)
    else:
        networks = _best(run, lengths, metric, data, at_kimg, seed, device)
    save_and_report(sg3.save, networks, out or str(Path(run) / _file_name(networks, at_kimg)))
    meta = networks.meta
    click.echo(
        f"sigma_rel {meta['sigma_rel']:g}, gamma {meta['gamma']:.4g}, at {meta['kimg']:g} kimg, "
        f"from {meta['files']} files; profile error {meta['profile_error']:.2%}"
    )
    if meta["profile_error"] > MAX_ERROR:
        click.echo(
            "Note: only an approximation. The snapshots are too few, or too far apart, for this "
            "length and time",
            err=True,
        )


def _file_name(networks: Networks, at_kimg: float | None) -> str:
    at = "" if at_kimg is None else f"-at-{at_kimg:g}"
    return f"posthoc-ema-{networks.meta['sigma_rel']:g}{at}.safetensors"


def _best(
    run: str,
    lengths: tuple[float, ...],
    metric: str,
    data: str | None,
    at_kimg: float | None,
    seed: int,
    device: str,
) -> Networks:
    """Evaluate `metric` for all lengths, print a table, and return the networks of the best."""
    from sg3.cli.metrics import run_data
    from sg3.cli.options import resolve_device
    from sg3.metrics import write_result
    from sg3.training.posthoc_ema import best_step, sweep_lengths

    images: dict[str, Any] | None = {"path": data} if data else run_data(Path(run))
    steps: Iterator[SweepStep] = sweep_lengths(
        run, lengths, metric, images, at_kimg, seed, resolve_device(device)
    )
    done: list[SweepStep] = []
    for step in steps:
        if not done:
            click.echo(f"{'sigma_rel':>9}  {'gamma':>8}  {'profile error':>13}  {step.name}")
        meta = step.networks.meta
        click.echo(
            f"{meta['sigma_rel']:>9g}  {meta['gamma']:>8.4g}  {meta['profile_error']:>13.2%}  "
            f"{step.value:.4g}"
        )
        write_result(step.record, run, _file_name(step.networks, at_kimg))
        done.append(step)
    best = best_step(done)
    click.echo(f"best {best.name}: {best.value:.4g} at length {best.networks.meta['sigma_rel']:g}")
    return best.networks
