"""`sg3 adapt`: a thin drain on `nada.adapt`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import click

from sg3.cli.options import (
    debug_option,
    device_option,
    network_option,
    resolve_device,
    seed_option,
)
from sg3.cli.stopping import stop_requests
from sg3.errors import UserError
from sg3.files import check_folder
from sg3.manifest import RunManifest

POSITIVE, COUNT = click.IntRange(min=1), click.IntRange(min=0)
WEIGHT = click.FloatRange(min=0)

# A name with two underscores is a field of that part of AdaptConfig. What is left out keeps the
# default that stands there.
GOAL = [
    click.option("--source", help="What the network shows now, like 'face'."),
    click.option("--target", help="What it should show, like 'zombie'."),
    click.option(
        "--target-images",
        type=click.Path(exists=True),
        metavar="DIR|ZIP",
        help="A few pictures of the target instead of a text.",
    ),
    network_option,
    click.option(
        "--clip",
        multiple=True,
        default=["mini-smooth"],
        show_default=True,
        metavar="MODEL[/TAG|/FILE]",
        help="mini-smooth, mini, any open_clip model, or several: A:2,B, or once for each.",
    ),
    click.option(
        "--outdir",
        type=click.Path(file_okay=False),
        metavar="DIR",
        help="Where to write; made if missing.  [default: out/adapt-TARGET]",
    ),
    click.option(
        "--resume",
        is_flag=True,
        help="Go on exactly where the same command in --outdir stopped (or begin); more --steps "
        "and another stop rule are allowed.",
    ),
]
TRAINING = [
    click.option("--steps", type=COUNT, help="At most."),
    seed_option,
    click.option("--batch", type=POSITIVE, help="Pictures per step."),
    click.option("--lr", type=float, help="Learning rate."),
    click.option("--coarse-lr", type=float, help="Factor of --lr for the coarsest layer."),
    click.option("--warmup", type=COUNT, help="Steps over which --lr rises."),
    click.option("--decay", type=float, help="Share of the steps at the end over which it falls."),
    click.option("--ema", type=float, help="Share of the old in the average of the weights."),
    click.option(
        "--layers",
        metavar="CHOICE",
        help="paper, coarse, shape, texture, all, equivariant, auto, names like input,L0-L3, or "
        "stages like 'coarse:0.6 then all'.",
    ),
    click.option("--auto-k", type=POSITIVE, help="Of --layers auto: how many layers."),
    click.option("--auto-every", type=POSITIVE, help="And how often they are chosen, in steps."),
    click.option("--trunc", "--truncation", "truncation", type=float, help="Psi of the latents."),
    click.option("--class", "class_index", type=int, help="Class of a conditional network."),
]
LOSS = [
    click.option(
        "--templates", metavar="NAME|FILE", help="imagenet, mini, plain, or lines with {} in them."
    ),
    click.option("--magnitude", type=float, help="How far features should move, in text lengths."),
    click.option("--directional", "weights__directional", type=WEIGHT, help="Weight of this term."),
    click.option("--magnitude-weight", "weights__magnitude", type=WEIGHT, help="Likewise."),
    click.option("--global", "weights__global_text", type=WEIGHT, help="Likewise."),
    click.option("--patch", "weights__patch", type=WEIGHT, help="Likewise."),
    click.option("--texture", "weights__texture", type=WEIGHT, help="Likewise."),
    click.option("--manifold", "weights__manifold", type=WEIGHT, help="Likewise."),
    click.option("--strokes", "weights__strokes", type=WEIGHT, help="Of keeping small patches."),
    click.option("--range", "weights__range", type=WEIGHT, help="Of pixels beyond the range."),
    click.option("--views", "views__views", type=COUNT, help="Random views per picture; 0: none."),
    click.option("--cutouts", "views__cutouts", type=COUNT, help="Random cutouts as well."),
    click.option("--augment", "views__augment", type=click.Choice(["none", "light", "strong"])),
]
STOP = [
    click.option("--no-stop", is_flag=True, help="Make all steps, whatever the curves say."),
    click.option(
        "--diversity-floor",
        "stop__diversity",
        type=WEIGHT,
        help="Stop when pictures are this much more alike than the source's; 0: never.",
    ),
    click.option(
        "--patience",
        "stop__patience",
        type=COUNT,
        help="Stop after so many checks without getting closer; 0: never.",
    ),
    click.option("--check-every", type=POSITIVE, help="Steps between two checks."),
]
OUTPUT = [
    click.option("--image-every", "record__image_every", type=POSITIVE, help="Steps per grid."),
    click.option("--video/--no-video", "record__video", default=None),
    click.option("--rank", "record__rank", type=POSITIVE, help="Of the delta; all if left out."),
    click.option("--delta-dtype", "record__delta_dtype", type=click.Choice(["fp16", "fp32"])),
    device_option,
    debug_option,
]


def _options(function):
    """All options, in the order in which --help shows them."""
    for option in reversed([*GOAL, *TRAINING, *LOSS, *STOP, *OUTPUT]):
        function = option(function)
    return function


@click.command()
@_options
def adapt(
    source, target, target_images, network, clip, outdir, resume, no_stop, device, **settings
) -> None:
    """A text pulls the weights of a network into another domain (StyleGAN-NADA).

    Interrupting (Ctrl-C, SIGTERM) keeps what there is; --resume goes on from there.

    \b
    Examples:
      sg3 adapt --source face --target zombie --outdir out/zombie
      sg3 adapt --source face --target sketch --network stylegan3-t-ffhqu-256 \\
        --clip ViT-B-32/openai --clip ViT-B-16/openai --views 4
      sg3 adapt --target-images paintings --layers texture --outdir out/paintings
    """
    # Torch is imported only now: `--help` is quick.
    from guidance.commands.steer import slug
    from nada.adaptation_record import STATE, STATS, Recording
    from nada.state import go_on, read_state

    config, record_config = configs(settings, no_stop, ",".join(clip))
    outdir = Path(outdir or f"out/adapt-{slug(target or Path(target_images or '').stem)}")
    check_folder(outdir)
    if not resume and any((outdir / name).exists() for name in (STATE, STATS)):
        raise UserError(
            f"outdir: {outdir} holds a run; --resume goes on with it, or choose another folder"
        )
    saved = read_state(outdir / STATE) if (outdir / STATE).exists() else None
    goal = {"source": source, "target": target, "target_images": target_images}
    goal |= {"network": network, "clip": ",".join(clip), "device": device}
    arguments = {**goal, "resume": resume, **asdict(config), **asdict(record_config)}
    manifest = RunManifest(outdir, "adapt", arguments)
    with manifest.time("start"):
        adaptation, decisive, meta = _begin(**goal, config=config)
        manifest.add_input(network, meta["adapted_from"]["sha256"])
        if saved is not None:
            go_on(adaptation, saved, decisive)
    if adaptation.reason is not None:
        click.echo(f"Nothing to do: after {saved.index} steps, {adaptation.reason}.")
        return
    recording = Recording(adaptation, outdir, decisive, record_config, meta)
    with stop_requests() as stop:
        with manifest.time("adapt"):
            drain(recording, stop)
        with manifest.time("write"):
            outcome = recording.finish()
    _report(outcome, recording, manifest)


def _begin(source, target, target_images, network, clip, device, config):
    """The adaptation, what has to be the same to go on with it, and what its files should say."""
    import sg3
    from guidance.commands.steer import warn_of_unknown_words
    from guidance.encoders import load_encoder
    from guidance.prompts import Prompt
    from nada.adapt import Adaptation
    from nada.state import arguments_of
    from nada.target_images import load_pictures
    from sg3.checkpoints.delta import weights_hash

    encoder = load_encoder(clip, resolve_device(device))
    nets = sg3.load(network, resolve_device(device))
    pictures = load_pictures(target_images, encoder.input_size_px) if target_images else None
    adaptation = Adaptation(nets.G_ema, source, target, encoder, pictures, config)
    warn_of_unknown_words(encoder, [Prompt(text) for text in (source, target) if text])
    digest = None if pictures is None else hashlib.sha256(pictures.numpy()).hexdigest()
    known = {"network": weights_hash(nets.G_ema), "clip": clip, "target_images": digest}
    origin = {k: nets.meta[k] for k in ("name", "source", "sha256", "licence") if k in nets.meta}
    meta = {"source": origin.get("name"), "adapted_from": origin}
    meta |= {"texts": [source, target], "clip": clip}
    meta |= {"licence": origin["licence"]} if "licence" in origin else {}
    return adaptation, arguments_of(adaptation, **known), meta


def configs(settings: dict, no_stop: bool, clip: str):
    """`AdaptConfig` and `RecordConfig` of the options that were given; the rest as `clip` likes."""
    from nada.adaptation_record import RecordConfig
    from nada.config import usual_config

    groups: dict[str, dict] = {"": {}, "weights": {}, "views": {}, "stop": {}, "record": {}}
    for name, value in settings.items():
        group, _, field = name.rpartition("__")
        if value is not None:
            groups[group][field] = value
    own, default = groups[""], usual_config(clip)
    if no_stop and groups["stop"]:
        raise UserError("no-stop: got it beside a stop rule; give one of them")
    if "templates" in own and Path(own["templates"]).is_file():
        lines = Path(own["templates"]).read_text(encoding="utf-8").splitlines()
        own["templates"] = tuple(line.strip() for line in lines if line.strip())
    config = replace(
        default,
        **own,
        weights=replace(default.weights, **groups["weights"]),
        views=replace(default.views, **groups["views"]),
        stop=None if no_stop else replace(default.stop, **groups["stop"]),
    )
    return config, RecordConfig(**groups["record"])


def drain(recording, stop: Callable[[], bool]) -> None:
    """Take the steps of the recording's adaptation until the last, or until `stop`."""
    from tqdm import tqdm

    adaptation, shown = recording.adaptation, {}
    total = adaptation.config.steps + 1
    with tqdm(total=total, initial=adaptation.index + 1, disable=None, unit="step") as bar:
        for step in adaptation:
            recording.add(step)
            if step.check is not None:
                shown = {k: f"{v:.2f}" for k, v in asdict(step.check).items() if k != "index"}
            bar.set_postfix(loss=f"{step.loss:.3f}", **shown)
            bar.update()
            if stop():
                break


def _report(outcome, recording, manifest) -> None:
    check, change = outcome.check, outcome.spectrum
    seconds = manifest.timings["adapt"]
    ended, steps = outcome.reason, recording.adaptation.config.steps
    click.echo(
        f"{ended[0].upper()}{ended[1:]}: {outcome.index} steps in {seconds:.1f} s"
        if ended
        else f"Stopped after step {outcome.index} of {steps}, {seconds:.1f} s; the same command "
        "with --resume goes on"
    )
    click.echo(
        f"agreement {check.agreement:.3f}   length {check.length:.3f}   "
        f"diversity {check.diversity:.3f}"
    )
    click.echo(
        f"power against the source: top octave {change.top_octave:+.1f} dB, near Nyquist "
        f"{change.axes:+.1f} dB along the axes, {change.diagonal:+.1f} dB on the diagonal"
    )
    size_kb = (recording.outdir / "delta.safetensors").stat().st_size / 1000
    click.echo(f"delta: {size_kb:.0f} kB with {100 * outcome.kept:.1f} % of the weights' change")
    if change.advice:
        click.echo(f"Note: {change.advice}")
    manifest.results |= {"steps": outcome.index, "reason": ended, **asdict(check)}
    manifest.results |= {"spectrum_db": asdict(change), "delta_keeps": outcome.kept}
    for path in recording.paths:
        manifest.add_output(path)
    manifest.write(finished=ended is not None)
    for path in [*recording.paths, manifest.path]:
        click.echo(path.resolve())
