"""Animals as Nicolas Cage: the example of StyleGAN-NADA, by text or by a few images.

Commands:
  python -m recipes.cage_animal --outdir out/cage-animal
  python -m recipes.cage_animal --variant images --target-images photos/ --outdir out/cage-photos
  python -m recipes.cage_animal --dry-run
  sg3 generate --network stylegan3-r-afhqv2-512 --delta out/cage-animal/delta.safetensors:0.8 \\
    --seeds 0-15 --trunc 0.7 --outdir out/cages
To resume after an interruption, run the same command with --resume.

Both variants download the AFHQ v2 network (NVIDIA's, non-commercial licence) and OpenAI's CLIP
ViT-B/32 and ViT-B/16. The variant text has the published settings of StyleGAN-NADA for StyleGAN3:
both encoders with equal weights, batch size 4 (larger batches reduce grid artefacts), learning rate
0.002, 600 steps. The `images` variant uses 3 to 20 photos of a face instead of the text, 400 steps.

Hardware: a GPU with 12 GB (estimated from the sizes of the networks), or, slowly, a CPU.
Duration: minutes on a current GPU (estimated).
Result: not yet run here.
"""

from __future__ import annotations

import json

import click

from nada.commands.adapt import adapt
from recipes.run import RecipeCommand, verbatim
from sg3.cli.options import debug_option, device_option, option

ENCODERS = ("ViT-B-32/openai", "ViT-B-16/openai")
COMMON = {
    "network": "stylegan3-r-afhqv2-512",
    "clip": ENCODERS,
    "batch": 4,
    "lr": 0.002,
    "layers": "paper",
    "truncation": 0.7,
    "templates": "imagenet",
    "views__views": 0,
    "record__image_every": 50,
    "seed": 3,
}
VARIANTS = {
    "text": {"source": "animal", "target": "Nicolas Cage", "steps": 600},
    "images": {"steps": 400},
}


def settings(variant: str = "text", target_images: str | None = None) -> dict:
    """Return options of `sg3 adapt` by name.

    Raises ValueError unless `target_images` is given with the variant images, and only with it.
    """
    if (variant == "images") != (target_images is not None):
        expected = "a folder of photos" if variant == "images" else "none"
        raise ValueError(
            f"target_images: got {target_images}, expected {expected} for the variant {variant}"
        )
    chosen = COMMON | VARIANTS[variant]
    return chosen | {"target_images": target_images} if target_images else chosen


@click.command(cls=RecipeCommand, help=verbatim(__doc__))
@option("--variant", type=click.Choice(list(VARIANTS)), default="text", help="Kind of the target.")
@option(
    "--target-images",
    type=click.Path(exists=True),
    metavar="DIR|ZIP",
    unset="none",
    help="Photos for the variant images.",
)
@option("--outdir", default="out/cage-animal", metavar="DIR", help="Output folder.")
@option("--steps", type=click.IntRange(0), unset="that of the variant", help="Number of steps.")
@click.option("--resume", is_flag=True, help="Resume the same command after an interruption.")
@click.option("-n", "--dry-run", is_flag=True, help="Print the settings and exit.")
@device_option
@debug_option
@click.pass_context
def command(
    ctx: click.Context,
    variant: str,
    target_images: str | None,
    outdir: str,
    steps: int | None,
    resume: bool,
    dry_run: bool,
    device: str,
) -> None:
    """Run `sg3 adapt` with the settings of the recipe."""
    chosen = settings(variant, target_images) | {"outdir": outdir, "resume": resume}
    if steps is not None:
        chosen["steps"] = steps
    if dry_run:
        click.echo(json.dumps(chosen, indent=2))
        return
    ctx.invoke(adapt, **chosen, device=device)


if __name__ == "__main__":
    command(prog_name="python -m recipes.cage_animal")
