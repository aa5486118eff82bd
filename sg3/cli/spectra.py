"""`sg3 spectra`."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import click

from sg3.cli.options import debug_option, device_option, resolve_device, seed_option
from sg3.errors import UserError
from sg3.progress import ImageBar


@click.command()
@click.option("--data", multiple=True, metavar="ZIP|DIR", help="Real pictures; several allowed.")
@click.option(
    "--network", "networks", multiple=True, metavar="NAME|FILE|URL", help="Several allowed."
)
@click.option(
    "--num",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Pictures of each, at most.",
)
@click.option("--trunc", type=float, default=1, show_default=True, help="Truncation psi.")
@click.option(
    "--mean", type=float, help="Of the pictures in bytes; that of the first source if left out."
)
@click.option("--std", type=click.FloatRange(0, min_open=True), help="Likewise.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False),
    required=True,
    metavar="FILE.svg|.png",
    help="The chart; FILE-NAME.npz beside it hold the numbers, FILE.json how it was made.",
)
@seed_option
@device_option
@debug_option
def spectra(data, networks, num, trunc, mean, std, output, seed, device) -> None:
    """Average power spectra of data and of networks on one chart: heat maps, slices at 0° and 45°.

    Peaks and raised floors at high frequencies tell a network from its data. Numbers printed are
    the mean distances in decibels from the first source.

    \b
    Example:
      sg3 spectra --data faces.zip --network mini-faces --network sg2.safetensors \\
        --output spectra.svg
    """
    import sg3
    from sg3.analysis import spectra as analysis
    from sg3.analysis.drawing import check_suffix
    from sg3.cli.video import manifest_beside
    from sg3.files import check_folder, prepare_folder

    if not data and not networks:
        raise click.UsageError("give --data, --network, or both")
    if (mean is None) != (std is None):
        raise click.UsageError("--mean and --std go together")
    check_suffix(output)
    out = Path(output)
    check_folder(out.parent)
    loaded = [(name, sg3.load(name, resolve_device(device))) for name in networks]
    manifest = manifest_beside(out, loaded)
    sources = _sources(data, loaded, num, trunc, seed)
    if len(dict(sources)) < len(sources):
        raise UserError("sources: got one twice, expected different names")
    name, batches = sources[0]
    norm = analysis.Normalisation(mean, std) if std else analysis.mean_and_std(batches(), name)
    with manifest:
        found = []
        for name, batches in sources:
            with ImageBar(name) as bar, manifest.time(name):
                found.append(
                    analysis.average_spectrum(
                        name, batches(), norm, partial(bar.update, "", total=num)
                    )
                )
            manifest.results[name] = {"pictures": found[-1].num}
        drawing = analysis.chart(found, norm)
        prepare_folder(out.parent)
        files = {out: drawing, **{_numbers_of(out, spectrum): spectrum for spectrum in found}}
        for file, thing in files.items():
            thing.save(file)
            manifest.add_output(file)
        manifest.results["normalisation"] = vars(norm)
        for other in found[1:]:
            apart = analysis.difference_db(found[0], other)
            manifest.results[other.name]["difference_db"] = apart
            click.echo(f"{other.name}: {apart:.2f} dB from {found[0].name}")
    click.echo(f"{out}: mean {norm.mean:.3f}, std {norm.std:.3f} (bytes, of {norm.source})")


def _sources(data, loaded, num, trunc, seed) -> list[tuple]:
    """(name, function that starts its pictures) of everything that was asked for."""
    from sg3.analysis.spectra import generated_bytes
    from sg3.data import open_dataset
    from sg3.metrics.sampling import real_images

    def real(dataset):
        count = min(num, len(dataset))
        return lambda: (images for _, images in real_images(dataset, count, batch=16))

    def made(G):
        return lambda: generated_bytes(G, num, seed, trunc)

    def opened(path: str):  # a random part, read when it is needed
        return open_dataset(path, max_size=num, random_seed=seed, cache="none")

    found = [(Path(path).stem, real(opened(path))) for path in data]
    for name, nets in loaded:
        found.append((Path(name).stem if Path(name).suffix else name, made(nets.G_ema)))
    return found


def _numbers_of(out: Path, spectrum) -> Path:
    name = re.sub(r"[^\w.-]+", "-", spectrum.name)[:60]
    return out.with_name(f"{out.stem}-{name}.npz")
