"""`sg3 spectra`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sg3.cli.options import (
    NETWORK_HELP,
    as_option,
    debug_option,
    device_option,
    load_generator,
    option,
    seed_option,
    trunc_option,
)
from sg3.errors import UserError
from sg3.progress import ImageBar

if TYPE_CHECKING:
    import torch

    from sg3.analysis.spectra import Spectrum
    from sg3.networks.generator import MappedGenerator

#: Name of a source, and a function that starts its batches of images.
Source = tuple[str, Callable[[], Iterable["torch.Tensor"]]]


@click.command()
@as_option
@option(
    "--data", multiple=True, metavar="ZIP|DIR", help="Dataset of real images. Repeat for several."
)
@option(
    "--network",
    "networks",
    multiple=True,
    metavar="NAME|FILE|URL",
    help=f"{NETWORK_HELP} Repeat for several.",
)
@option(
    "--num",
    type=click.IntRange(1),
    default=1000,
    help="Images per source; all of a smaller dataset.",
)
@trunc_option
@option(
    "--mean",
    type=float,
    help="Mean by which pixels are normalized, in bytes.",
    unset="that of the first source",
)
@option(
    "--std",
    type=click.FloatRange(0, min_open=True),
    help="Standard deviation by which pixels are normalized, in bytes.",
    unset="that of the first source",
)
@option(
    "--output",
    type=click.Path(dir_okay=False),
    required=True,
    metavar="FILE.svg|.png",
    help="Chart to write. FILE-NAME.npz next to it have the numbers, FILE.json records how it was "
    "made.",
)
@seed_option
@device_option
@debug_option
def spectra(
    data: Sequence[str],
    networks: Sequence[str],
    num: int,
    trunc: float,
    mean: float | None,
    std: float | None,
    output: str,
    seed: int,
    device: str,
) -> None:
    """Compare average power spectra of datasets and networks: heat maps, slices at 0° and 45°.

    Peaks and raised noise floors at high frequencies distinguish a network from its data. The
    numbers printed are mean distances from the first source, in decibels.

    \b
    Example:
      sg3 spectra --data faces.zip --network mini-faces --network mini-faces-stylegan2 \\
        --output spectra.svg
    """
    from sg3.analysis.charts import check_suffix, save_figure
    from sg3.analysis.spectra import (
        Normalization,
        average_spectrum,
        chart,
        difference_db,
        mean_and_std,
    )
    from sg3.cli.video import manifest_next_to
    from sg3.files import check_folder, prepare_folder

    if not data and not networks:
        raise click.UsageError("give --data, --network, or both")
    if (mean is None) != (std is None):
        raise click.UsageError("give --mean and --std together")
    check_suffix(output)
    out = Path(output)
    check_folder(out.parent)
    loaded = [(name, *load_generator(name, device)) for name in networks]
    manifest = manifest_next_to(out, [(name, nets) for name, nets, _ in loaded])
    sources = _sources(data, [(name, G) for name, _, G in loaded], num, trunc, seed)
    if len(dict(sources)) < len(sources):
        raise UserError("--data, --network: got a name twice, expected different ones")
    name, batches = sources[0]
    if mean is not None and std is not None:
        norm = Normalization(mean, std)
    else:
        norm = mean_and_std(batches(), name)
    with manifest:
        found = []
        for name, batches in sources:
            with ImageBar(name) as bar, manifest.time(name):
                progress = partial(bar.update, "", total=num)
                found.append(average_spectrum(name, batches(), norm, progress))
            manifest.results[name] = {"pictures": found[-1].num}
        figure = chart(found, norm)
        prepare_folder(out.parent)
        save_figure(figure, out)
        manifest.add_output(out)
        for spectrum in found:
            spectrum.save(_numbers_of(out, spectrum))
            manifest.add_output(_numbers_of(out, spectrum))
        manifest.results["normalisation"] = vars(norm)
        for other in found[1:]:
            distance = difference_db(found[0], other)
            manifest.results[other.name]["difference_db"] = distance
            click.echo(f"{other.name}: {distance:.2f} dB from {found[0].name}")
    click.echo(f"{out}: mean {norm.mean:.3f}, std {norm.std:.3f} (bytes, {norm.source})")


def _sources(
    data: Sequence[str],
    networks: Sequence[tuple[str, MappedGenerator]],
    num: int,
    trunc: float,
    seed: int,
) -> list[Source]:
    """Return the sources in the order of the command line, datasets first."""
    from sg3.analysis.spectra import generated_bytes
    from sg3.data import open_dataset
    from sg3.metrics.sampling import real_images

    def real(path: str) -> Callable[[], Iterable[torch.Tensor]]:
        # A random subset, read again whenever it is needed: it may not fit into memory.
        dataset = open_dataset(path, max_size=num, random_seed=seed, cache="none")
        for note in dataset.notes:
            click.echo(f"{path}: {note}", err=True)
        count = min(num, len(dataset))
        return lambda: (images for _, images in real_images(dataset, count, batch=16))

    def generated(G: MappedGenerator) -> Callable[[], Iterable[torch.Tensor]]:
        return lambda: generated_bytes(G, num, seed, trunc)

    found: list[Source] = [(Path(path).stem, real(path)) for path in data]
    for name, G in networks:
        found.append((Path(name).stem if Path(name).suffix else name, generated(G)))
    return found


def _numbers_of(out: Path, spectrum: Spectrum) -> Path:
    name = re.sub(r"[^\w.-]+", "-", spectrum.name)[:60]
    return out.with_name(f"{out.stem}-{name}.npz")
