"""Make a video in which one prompt dissolves into the next, with the bundled models.

    python -m recipes.dissolve --outdir out/dissolve
    python -m recipes.dissolve --motion circle --prompt "a bald man" --prompt "a crown"

For each prompt, the best of a few hundred random latents is selected and refined; the run then
moves from one to the next in W while the texts steer it. Each step is a frame. mini-faces was not
trained on rotated faces, so by default the input moves in a small circle; for networks that were,
try `--motion turn`.

Hardware: any CPU. Result: `dissolve.mp4` and the latent at its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from recipes.run import RecipeCommand, verbatim
from sg3.cli.options import debug_option, device_option, option, resolve_device, seed_option
from sg3.files import check_folder, prepare_folder

PROMPTS = (
    "a smiling woman with red hair",
    "a bald man with a beard and sunglasses",
    "a woman with pink curly hair and glasses",
    "a face with a crown on a blue background",
)


@click.command(cls=RecipeCommand, help=verbatim(__doc__))
@option("--outdir", default="out/dissolve", type=click.Path(), help="Output folder.")
@option(
    "--prompt",
    "prompts",
    multiple=True,
    default=PROMPTS,
    help="A prompt of the sequence; give at least two.",
)
@option("--network", default="mini-faces", help="Name, file or URL of the network.")
@option("--clip", default="mini", help="Encoder of images and texts.")
@option("--steps", default=45, type=click.IntRange(1), help="Steps per prompt.")
@option("--fade", default=0.6, help="Fraction of the steps in which two prompts cross-fade.")
@option(
    "--motion",
    type=click.Choice(["none", "shift", "circle", "turn", "both"]),
    default="circle",
    help="Motion of the input.",
)
@option("--amount", default=0.06, help="Amplitude of the motion, in image widths.")
@seed_option
@device_option
@debug_option
def main(
    outdir: str,
    prompts: Sequence[str],
    network: str,
    clip: str,
    steps: int,
    fade: float,
    motion: str,
    amount: float,
    seed: int,
    device: str,
) -> None:
    """Run the command."""
    import sg3
    from guidance.steering.dissolve import dissolve
    from guidance.steering.record import SteeringRecord

    check_folder(outdir)
    G = sg3.load(network, device=resolve_device(device)).G_ema
    run = dissolve(
        G,
        list(prompts),
        clip,
        steps_each=steps,
        fade=fade,
        motion=None if motion == "none" else motion,
        amount=amount,
        seed=seed,
    )
    folder = prepare_folder(outdir)
    with SteeringRecord(folder, folder / "dissolve.mp4", {"network": network}, G) as recording:
        for (step,) in run:
            recording.add(step)
    for path in recording.paths:
        click.echo(Path(path).resolve())


if __name__ == "__main__":
    main(prog_name="python -m recipes.dissolve")
