"""`sg3 steer`: a thin drain on `guidance.steer`."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import click

from sg3.cli.options import (
    apply_precision,
    debug_option,
    delta_option,
    device_option,
    network_option,
    precision_option,
    resolve_device,
    seed_option,
    with_deltas,
)
from sg3.errors import UserError
from sg3.files import prepare_folder
from sg3.manifest import RunManifest

INTERRUPTED = 130


@click.command()
@click.argument("prompts", nargs=-1, required=True, metavar='"PROMPT" ["PROMPT" ...]')
@network_option
@delta_option
@click.option(
    "--clip",
    default="mini",
    show_default=True,
    metavar="MODEL[/TAG|/FILE]",
    help="mini, mini-smooth, any open_clip model, or several: A:2,B",
)
@click.option("--steps", type=click.IntRange(0), default=60, show_default=True)
@seed_option
@click.option(
    "--outdir",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Where to write; made if missing.  [default: out/steer-PROMPT]",
)
@click.option("--video/--no-video", default=True, show_default=True, help="Write steer.mp4.")
@click.option("--space", type=click.Choice(["w", "w+"]), help="One latent, or one per layer.")
@click.option("--basis", type=click.Choice(["pca", "std"]), help="Coordinates of the latent.")
@click.option(
    "--start",
    type=click.Choice(["best", "seed", "mean"]),
    help="Best of the candidates, the seed's own picture, or the mean.",
)
@click.option("--candidates", type=click.IntRange(1), help="How many to choose the start from.")
@click.option("--generations", type=click.IntRange(0), help="How often to cross the best of them.")
@click.option("--trunc", "truncation", type=float, help="Truncation psi of the start.")
@click.option("--lr", type=float, help="Learning rate, in standard deviations of W.")
@click.option("--prior", type=float, help="Pull towards the mean of W.")
@click.option("--keep", type=float, help="Pull towards the start: what is not asked for stays.")
@click.option("--max-sigma", type=float, help="Largest distance from the mean of W; 0: none.")
@click.option("--cutouts", type=click.IntRange(1), help="Views per step.")
@click.option("--augment", type=click.Choice(["none", "light", "strong"]))
@click.option("--class", "class_index", type=int, help="Class of a conditional network.")
@precision_option
@click.option(
    "--compile",
    "compiled",
    is_flag=True,
    help="torch.compile the generator, with CUDA graphs: for many steps on a GPU.",
)
@device_option
@debug_option
def steer(
    prompts,
    network,
    deltas,
    clip,
    steps,
    seed,
    outdir,
    video,
    precision,
    compiled,
    device,
    **settings,
) -> None:
    """A text prompt pulls an image of the network towards what it says.

    Several prompts pull together; "text:1.5" weights one, a negative weight pushes away.

    \b
    Example:
      sg3 steer "a smiling woman with red hair" --outdir out/steer
      sg3 steer "a photo of an old man" --network stylegan3-t-ffhqu-256 --clip ViT-B-32/openai
    """
    from guidance.prompts import parse_prompts  # torch is imported only now: `--help` is quick
    from guidance.steer import SteerConfig
    from guidance.steer import steer as start_steering
    from sg3.networks.compiled import compile_synthesis

    parsed = parse_prompts(prompts)
    settings = {name: value for name, value in settings.items() if value is not None}
    config = SteerConfig(steps=steps, seed=seed, **settings)
    outdir = Path(outdir or f"out/steer-{slug(parsed[0].text)}")
    refuse_unwritable(outdir)
    arguments = {"prompts": list(prompts), "network": network, "clip": clip, "device": device}
    arguments |= {"steps": steps, "seed": seed, "video": video, "precision": precision}
    arguments |= {"deltas": deltas, **settings}
    manifest = RunManifest(outdir, "steer", arguments)
    with manifest.time("load"):
        G, encoder, provenance = load_models(network, clip, resolve_device(device))
        G = with_deltas(G, deltas)
        apply_precision(G, precision)
        if compiled:
            compile_synthesis(G, small_batches=True)
    warn_of_unknown_words(encoder, parsed)
    with manifest.time("start"):
        steps_to_come = start_steering(G, parsed, encoder, config=config)
    prepare_folder(outdir)
    metadata = {"network": network, "prompts": json.dumps(list(prompts)), **provenance}
    if deltas:
        metadata["deltas"] = json.dumps(deltas)
    if "network_sha256" in provenance:
        manifest.add_input(network, provenance["network_sha256"])
    for path, _ in deltas:
        manifest.add_input(path)
    stopped = run(steps_to_come, steps + 1, outdir, video, metadata, manifest)
    for path in [*manifest.outputs, manifest.write(finished=not stopped).name]:
        click.echo((outdir / path).resolve())
    if stopped:
        sys.exit(INTERRUPTED)


def load_models(network: str, clip: str, device):
    """Generator, encoder and what a latent file should say about the network."""
    import sg3
    from guidance.encoders import load_encoder

    encoder = load_encoder(clip, device)
    nets = sg3.load(network, device=device)
    sha256 = nets.meta.get("sha256")
    return nets.G_ema, encoder, {"network_sha256": sha256} if sha256 else {}


def run(steps, total: int, outdir, video, metadata, manifest) -> bool:
    """Drain `steps` and record; True if the user stopped it. Files are written either way."""
    from tqdm import tqdm

    from guidance.record import Recording

    stopped, recording = False, Recording(outdir, video, metadata)
    with manifest.time("steer"), recording:
        try:
            bar = tqdm(steps, total=total, disable=None, unit="step")
            for step in bar:
                recording.add(step)
                bar.set_postfix(
                    loss=f"{step.loss:.3f}", similarity=f"{step.losses['similarity']:.3f}"
                )
        except KeyboardInterrupt:
            stopped = True
            click.echo("Stopped; keeping what there is.", err=True)
    for path in recording.paths:
        manifest.add_output(path)
    for name, step in (("start", recording.first), ("end", recording.last)):
        if step is not None:
            manifest.results[name] = {"step": step.index, "sigma": step.sigma, **step.losses}
    return stopped


def slug(text: str, longest: int = 40) -> str:
    """A text as a folder name: lower-case letters and digits joined by dashes."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return "-".join(words)[:longest].strip("-") or "prompt"


def refuse_unwritable(folder: Path) -> None:
    """Raise UserError where `folder` cannot be made or written, without making it yet."""
    at = folder.absolute()
    while not at.exists() and at != at.parent:
        at = at.parent
    if not (at.is_dir() and os.access(at, os.W_OK | os.X_OK)):
        raise UserError(f"outdir: cannot write to {folder} ({at} is in the way); choose another")


def warn_of_unknown_words(encoder, prompts) -> None:
    """Say which words a small vocabulary does not hold."""
    known_by = getattr(encoder, "unknown_words", None)
    words = [word for prompt in prompts for word in known_by(prompt.text)] if known_by else []
    if words:
        click.echo(f"Note: the encoder does not know: {', '.join(dict.fromkeys(words))}", err=True)
