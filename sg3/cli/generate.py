"""`sg3 generate`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from sg3.cli.options import (
    SEEDS,
    VEC2,
    apply_precision,
    debug_option,
    delta_option,
    device_option,
    network_option,
    outdir_option,
    precision_option,
    resolve_device,
    with_deltas,
)
from sg3.errors import UserError


@click.command()
@network_option
@delta_option
@click.option("--seeds", type=SEEDS, help="Seeds: numbers and ranges like 0-7,12.")
@click.option("--trunc", type=float, default=1, show_default=True, help="Truncation psi.")
@click.option("--class", "class_index", type=int, metavar="INDEX", help="Class, if conditional.")
@click.option(
    "--noise-mode",
    type=click.Choice(["const", "random", "none"]),
    default="const",
    show_default=True,
    help="Noise of StyleGAN2; StyleGAN3 has none.",
)
@click.option(
    "--translate",
    type=VEC2,
    default="0,0",
    show_default=True,
    metavar="X,Y",
    help="Move right and down, in larger sides of the image (StyleGAN3).",
)
@click.option(
    "--rotate",
    type=float,
    default=0,
    show_default=True,
    metavar="DEG",
    help="Turn counter-clockwise (StyleGAN3).",
)
@click.option(
    "--latent",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Images of saved latents (safetensors, tensor 'ws') instead of seeds.",
)
@click.option("--force", is_flag=True, help="Take a latent of another network of the same shape.")
@click.option("--grid", is_flag=True, help="Also write all images as one, grid.png.")
@outdir_option
@precision_option
@device_option
@debug_option
def generate(network, deltas, seeds, trunc, class_index, latent, grid, outdir, device, **options):
    """Write one PNG per seed.

    \b
    Example:
      sg3 generate --network mini-faces --seeds 0-7,12 --trunc 0.7 --outdir out
      sg3 generate --delta zombie.safetensors:0.7 --seeds 0-7 --outdir out
      sg3 generate --latent photo/latent.safetensors --delta photo/delta.safetensors --outdir out
    """
    if (seeds is None) == (latent is None):
        raise click.UsageError("give either --seeds or --latent")
    import sg3
    from sg3.files import check_folder, prepare_folder
    from sg3.generate import generate_from_latents, generate_images
    from sg3.latent_files import read_latent_file
    from sg3.manifest import RunManifest

    check_folder(outdir)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if grid and world > 1:
        raise UserError("--grid: got several processes, expected one; run without torchrun")
    if device == "auto" and world > 1:
        device = _device_of_rank()
    nets = sg3.load(network, resolve_device(device))
    G = with_deltas(nets.G_ema, deltas)
    apply_precision(G, options["precision"])
    move = {
        "noise_mode": options["noise_mode"],
        "translate": options["translate"],
        "rotate_deg": options["rotate"],
    }
    if latent is not None:
        sha256 = None if options["force"] else nets.meta["sha256"]
        saved = read_latent_file(latent, G, sha256)
        images = generate_from_latents(G, saved.ws, saved.styles, **move)
        count = len(saved.ws[rank::world])
        images = (image for i, image in enumerate(images) if i % world == rank)
    else:
        mine = seeds[rank::world]
        count, images = (
            len(mine),
            generate_images(G, mine, truncation_psi=trunc, class_index=class_index, **move),
        )
    arguments = click.get_current_context().params
    with RunManifest(outdir, "generate", arguments) as manifest:
        manifest.add_input(network, nets.meta["sha256"])
        for path, _ in deltas:
            manifest.add_input(path)
        if latent is not None:
            manifest.add_input(latent)
        manifest.enabled = rank == 0
        with manifest.time("generate"):
            _drain(images, count, prepare_folder, Path(outdir), manifest, grid)
    click.echo(f"{count} images in {outdir}")


def _drain(images, count: int, prepare_folder, outdir: Path, manifest, grid: bool) -> None:
    from tqdm import tqdm

    from sg3.media import image_grid, save_png

    kept = []
    for image in tqdm(images, total=count, unit="img", disable=not sys.stderr.isatty()):
        prepare_folder(outdir)  # not before the first image exists: bad input leaves no folder
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
