"""A film in which one prompt dissolves into the next, on the bundled models.

    python -m recipes.dissolve --outdir out/dissolve
    python -m recipes.dissolve --motion circle --prompt "a bald man" --prompt "a crown"

For each prompt the best of a few hundred random pictures is found and bred; the run then goes from
one to the next in W while the texts pull. Steps are frames. mini-faces has never seen a face upside
down, so the input moves in a small circle here; a network trained on turned pictures takes
`--motion turn` as well.
"""

from __future__ import annotations

from pathlib import Path

import click

from recipes.run import RecipeCommand
from sg3.cli.options import debug_option, device_option, resolve_device, seed_option
from sg3.files import check_folder, prepare_folder

PROMPTS = (
    "a smiling woman with red hair",
    "a bald man with a beard and sunglasses",
    "a woman with pink curly hair and glasses",
    "a face with a crown on a blue background",
)


@click.command(cls=RecipeCommand, help=(__doc__ or "").split("\n")[0])
@click.option("--outdir", default="out/dissolve", show_default=True, type=click.Path())
@click.option("--prompt", "prompts", multiple=True, default=PROMPTS, help="At least two.")
@click.option("--network", default="mini-faces", show_default=True)
@click.option("--clip", default="mini", show_default=True)
@click.option("--steps", default=45, show_default=True, type=click.IntRange(1), help="Per prompt.")
@click.option("--fade", default=0.6, show_default=True, help="Share that cross-fades.")
@click.option("--motion", type=click.Choice(["none", "shift", "circle", "turn", "both"]))
@click.option("--amount", default=0.06, show_default=True, help="Of the motion.")
@seed_option
@device_option
@debug_option
def main(outdir, prompts, network, clip, steps, fade, motion, amount, seed, device) -> None:
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
        motion={"none": None, None: "circle"}.get(motion, motion),
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
