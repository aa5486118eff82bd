"""`sg3 export`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from sg3.cli.options import (
    argument,
    config_option,
    debug_option,
    delta_option,
    load_generator,
    option,
)
from sg3.export.config import ExportConfig


@click.command()
@argument("network", metavar="NETWORK")
@config_option(ExportConfig, "format")
@option(
    "--output",
    type=click.Path(dir_okay=False),
    required=True,
    metavar="FILE",
    help="File to write, ending in .onnx or .pt2.",
)
@config_option(ExportConfig, "part")
@config_option(ExportConfig, "dynamic_batch", "--dynamic-batch", is_flag=True)
@config_option(ExportConfig, "half", "--half", is_flag=True)
@config_option(ExportConfig, "noise_mode")
@config_option(ExportConfig, "filters")
@delta_option
@option("--check/--no-check", default=True, help="Run the file and compare it with the network.")
@debug_option
def export(
    network: str, output: str, deltas: Sequence[tuple[str, float]], check: bool, **settings: Any
) -> None:
    """Write a network as a file that runs without sg3: ONNX, or torch.export's pt2.

    NETWORK is as for --network of other commands. Truncation psi is an input of the file, and so
    are the transform of a StyleGAN3 and the labels of a conditional network.

    \b
    Examples:
      sg3 export mini-faces --output mini-faces.onnx
      sg3 export mini-faces-r --format pt2 --output mini-faces-r.pt2 --dynamic-batch
    """
    from sg3.export.compare import compare, compares_with
    from sg3.export.graph import check_target, export_network
    from sg3.files import check_folder

    config = ExportConfig(**settings)
    check_target(output, config)
    check_folder(Path(output).parent)
    _, G = load_generator(network, "cpu", deltas)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    export_network(G, output, config)
    click.echo(f"{output}: {Path(output).stat().st_size / 1e6:.1f} MB")
    if not check:
        return
    if missing := compares_with(config):
        click.echo(f"Note: not checked, {missing}", err=True)
        return
    click.echo(compare(G, output, config).text)
