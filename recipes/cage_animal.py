"""The named example: an animal becomes Nicolas Cage, by text or by a few pictures.

Commands:
  python -m recipes.cage_animal --outdir out/cage-animal
  python -m recipes.cage_animal --variant images --target-images photos/ --outdir out/cage-photos
  python -m recipes.cage_animal --dry-run
  sg3 generate --network stylegan3-r-afhqv2-512 --delta out/cage-animal/delta.safetensors:0.8 \\
    --seeds 0-15 --trunc 0.7 --outdir out/cages
Going on after an interruption: the same command with --resume.

Both download the AFHQ v2 network (NVIDIA's, non-commercial licence) and OpenAI's CLIP ViT-B/32 and
ViT-B/16. The variant text is the published one of StyleGAN-NADA for StyleGAN3: both encoders at
equal weight, batch 4 (larger batches weaken the grid artefact), learning rate 0.002, 600 steps.
The variant images takes 3 to 20 photos of a face instead of the word, 400 steps.

Hardware: a GPU with 12 GB, an estimate from the sizes of the networks; a processor does it slowly.
Duration: minutes on a current GPU, an estimate.
Result: not yet run here.
"""

from __future__ import annotations

import json

import click

from nada.commands.adapt import adapt
from recipes.run import RecipeCommand
from sg3.cli.options import debug_option, device_option

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
    """The options of `sg3 adapt`, by name. Raises ValueError where the pictures are missing, or
    are given to the variant text."""
    if (variant == "images") != (target_images is not None):
        raise ValueError(
            "target-images: give a folder of photos with --variant images, and only so"
        )
    chosen = COMMON | VARIANTS[variant]
    return chosen | {"target_images": target_images} if target_images else chosen


@click.command(cls=RecipeCommand, help="\b\n" + __doc__.replace("\n\n", "\n\n\b\n"))
@click.option("--variant", type=click.Choice(list(VARIANTS)), default="text", show_default=True)
@click.option("--target-images", type=click.Path(exists=True), metavar="DIR|ZIP")
@click.option("--outdir", default="out/cage-animal", show_default=True, metavar="DIR")
@click.option("--steps", type=click.IntRange(0), help="Instead of the variant's.")
@click.option("--resume", is_flag=True, help="Go on where the same command stopped.")
@click.option("-n", "--dry-run", is_flag=True, help="Print the settings and stop.")
@device_option
@debug_option
@click.pass_context
def command(ctx, variant, target_images, outdir, steps, resume, dry_run, device) -> None:
    chosen = settings(variant, target_images) | {"outdir": outdir, "resume": resume}
    if steps is not None:
        chosen["steps"] = steps
    if dry_run:
        click.echo(json.dumps(chosen, indent=2))
        return
    ctx.invoke(adapt, **chosen, device=device)


if __name__ == "__main__":
    command(prog_name="python -m recipes.cage_animal")
