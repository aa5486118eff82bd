"""`sg3 generate`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sg3.cli.options import (
    SEEDS,
    allows_nonfinite,
    check_files,
    class_option,
    debug_option,
    delta_option,
    device_option,
    force_latent_option,
    latent_option,
    load_generator,
    network_option,
    option,
    outdir_option,
    precision_option,
    rotate_option,
    translate_option,
    trunc_option,
)
from sg3.errors import UserError
from sg3.settings import ClassLabel

if TYPE_CHECKING:
    from sg3.generate import Generated
    from sg3.manifest import RunManifest


@click.command()
@network_option
@delta_option
@option(
    "--seeds",
    type=SEEDS,
    help="Seeds: numbers and ranges like 0-7,12.",
    unset="none; give either --seeds or --latent",
)
@trunc_option
@class_option
@option(
    "--noise-mode",
    type=click.Choice(["const", "random", "none"]),
    default="const",
    help="Noise of a StyleGAN2; StyleGAN3 has none.",
)
@translate_option
@rotate_option
@latent_option
@force_latent_option
@option("--grid", is_flag=True, help="Also write all images as one, grid.png.")
@outdir_option
@precision_option
@device_option
@debug_option
def generate(
    network: str,
    deltas: Sequence[tuple[str, float]],
    seeds: Sequence[int] | None,
    trunc: float,
    class_index: ClassLabel | None,
    latent: str | None,
    force: bool,
    grid: bool,
    outdir: str,
    device: str,
    precision: str,
    **options: Any,
) -> None:
    """Write one PNG per seed, or per latent of a file.

    \b
    Examples:
      sg3 generate --network mini-faces --seeds 0-7,12 --trunc 0.7 --outdir out
      sg3 generate --delta zombie:0.7 --seeds 0-7 --outdir out
      sg3 generate --latent photo/latent.safetensors --delta photo/delta.safetensors --outdir out
    """
    if (seeds is None) == (latent is None):
        raise click.UsageError("give either --seeds or --latent")
    from sg3.files import check_folder
    from sg3.generate import generate_from_latents, generate_images
    from sg3.latent_files import read_latent_file
    from sg3.manifest import RunManifest

    check_folder(outdir)
    # Under torchrun, process RANK of WORLD_SIZE takes every WORLD_SIZE-th image.
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if grid and world > 1:
        raise UserError("--grid: got several processes, expected one; run without torchrun")
    if device == "auto" and world > 1:
        device = _device_of_rank()
    check_files(network, latent=latent)
    nets, G = load_generator(network, device, deltas, precision)
    how = {"rotate_deg": options.pop("rotate"), **options}
    images: Iterable[Generated]
    repeated = 0
    if latent is not None:
        saved = read_latent_file(latent, G, nets.meta["sha256"], force, allows_nonfinite())
        count = len(saved.ws[rank::world])
        images = generate_from_latents(G, saved.ws, saved.styles, **how)
        images = (image for i, image in enumerate(images) if i % world == rank)
    else:
        # In a grid a repeated seed has a place each time; files would overwrite each other.
        distinct = list(dict.fromkeys(seeds or ()))
        repeated = len(seeds or ()) - len(distinct)
        mine = (seeds if seeds and grid else distinct)[rank::world]
        count, images = (
            len(mine),
            generate_images(G, mine, truncation_psi=trunc, class_index=class_index, **how),
        )
    with RunManifest(outdir, "generate", click.get_current_context().params) as manifest:
        manifest.enabled = rank == 0
        manifest.add_input(network, nets.meta["sha256"])
        for path in (*(path for path, _ in deltas), *([latent] if latent else ())):
            manifest.add_input(path)
        with manifest.time("generate"):
            _write(images, count, Path(outdir), manifest, grid)
    written = len(set(mine)) if latent is None else count
    note = f" ({repeated} of --seeds repeat another)" if repeated else ""
    click.echo(f"{written} image{'s' * (written != 1)} in {outdir}{note}")


def _write(
    images: Iterable[Generated], count: int, outdir: Path, manifest: RunManifest, grid: bool
) -> None:
    """Write images as they are generated, and all of them as one if `grid`."""
    from tqdm import tqdm

    from sg3.files import prepare_folder
    from sg3.media import image_grid, save_png

    kept = []
    for image in tqdm(images, total=count, unit="img", disable=not sys.stderr.isatty()):
        prepare_folder(outdir)  # only now, so that bad input leaves no empty folder
        path = outdir / f"{image.name}.png"
        save_png(path, image.image)
        manifest.add_output(path)
        if grid:
            kept.append(image.image)
    if kept:
        save_png(outdir / "grid.png", image_grid(kept))
        manifest.add_output(outdir / "grid.png")


def _device_of_rank() -> str:
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
