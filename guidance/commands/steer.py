"""`sg3 steer`: a thin drain on `guidance.steer` and `guidance.steering.dissolve`."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click

from guidance.commands.steer_options import steer_options
from sg3.cli.options import apply_precision, resolve_device, with_deltas
from sg3.cli.stopping import INTERRUPTED, stop_requests
from sg3.errors import UserError
from sg3.files import prepare_folder
from sg3.manifest import RunManifest
from sg3.threads import use_free_cores

#: What a stopped run leaves in its folder, for --resume; written so often, in steps.
PROGRESS, SAVE_EVERY = "progress.safetensors", 20
#: Up to this size threads that wait for a busy core cost more than they bring.
SMALL_PX = 256 * 256
#: Of `--jitter 1`: hue in degrees, saturation, brightness and contrast.
JITTER = {"hue": 60.0, "saturation": 0.8, "brightness": 0.4, "contrast": 0.6}
NOT_SETTINGS = (
    "augment", "perspective", "flip", "jitter", "noise", "transform", "dissolve", "times", "fade",
    "motion", "amount", "region", "latent", "force",
)  # fmt: skip


@click.command()
@click.argument("prompts", nargs=-1, metavar='"PROMPT" ["PROMPT" ...]')
@steer_options
def steer(
    prompts, images, network, deltas, clips, outdir, video, no_video, resume, variants, precision,
    compiled, device, **options,
) -> None:  # fmt: skip
    """A text prompt pulls an image of the network towards what it says.

    Several prompts pull together; "text:1.5" weights one, a negative weight pushes away. With
    --dissolve they follow one another in one video.

    \b
    Examples:
      sg3 steer "a smiling woman with red hair" --outdir out/steer
      sg3 steer "a photo of an old man" --network stylegan3-t-ffhqu-256 --clip ViT-B-32/openai
      sg3 steer "a crown" --latent out/steer/latent.safetensors --space w+ --region 8,0,56,24
      sg3 steer "a bald man" "a woman with pink hair" "a face with a crown" --dissolve 60
    """
    from guidance.steering.config import (
        SteerConfig,
    )  # torch is imported only now: `--help` is quick
    from sg3.networks.compiled import compile_synthesis

    arguments = click.get_current_context().params
    parsed = parse_arguments(prompts, images, options["dissolve"])
    config = SteerConfig(**settings_of(options))
    check_combination(options, variants, compiled, config)
    outdir = Path(outdir or f"out/steer-{slug(parsed[0].text)}")
    for folder in (outdir, *([Path(video).parent] if video else [])):
        refuse_unwritable(folder)
    if resume and is_finished(outdir, arguments):
        click.echo(f"{outdir} is finished already.")
        return
    clip = ",".join(clips)
    movie = False if no_video else (Path(video).absolute() if video else True)
    manifest = RunManifest(outdir, "steer", arguments)
    with manifest.time("load"):
        G, encoder, provenance = load_models(network, clip, resolve_device(device))
        G = with_deltas(G, deltas)
        apply_precision(G, precision)
        if G.img_height * G.img_width <= SMALL_PX:
            use_free_cores()
        if compiled:
            compile_synthesis(G, small_batches=True)
        start = read_start(G, options, provenance, variants)
    warn_of_unknown_words(encoder, parsed)
    about = json.dumps([provenance, deltas, precision, clip])
    saved = outdir / PROGRESS if resume and (outdir / PROGRESS).is_file() else None
    with manifest.time("start"):
        common = {"config": config, "start_ws": start, "resume_from": saved, "about": about}
        texts = prompts if options["dissolve"] else parsed
        steps = begin(G, texts, encoder, options, variants, common)
    prepare_folder(outdir)
    if video:
        prepare_folder(Path(video).parent)
    metadata = {"network": network, "prompts": json.dumps([*prompts, *images]), **provenance}
    if deltas:
        metadata["deltas"] = json.dumps(deltas)
    if "network_sha256" in provenance:
        manifest.add_input(network, provenance["network_sha256"])
    files = [*(p for p, _ in deltas), options["latent"], options["region"]]
    for path in (path for path in files if path and Path(path).is_file()):
        manifest.add_input(path)
    stopped = run(steps, outdir, movie, metadata, manifest, G)
    for path in [*manifest.outputs, manifest.write(finished=not stopped).name]:
        click.echo((outdir / path).resolve())
    if stopped:
        sys.exit(INTERRUPTED)


def parse_arguments(prompts, images, dissolve):
    """Texts and pictures as `Prompt`s. Raises ValueError where there is nothing usable."""
    from guidance.prompts import parse_image, parse_prompts

    if not (prompts or images):
        raise UserError("Missing argument 'PROMPT': give a text such as 'a red hat', or --image")
    if dissolve and images:
        raise UserError("dissolve: goes through texts only; leave --image out")
    return (*(parse_prompts(prompts) if prompts else ()), *map(parse_image, images))


def settings_of(options) -> dict:
    """What the options say as settings of `SteerConfig`."""
    from dataclasses import replace

    from guidance.augment import AUGMENTS

    plain = {k: v for k, v in options.items() if v is not None and k not in NOT_SETTINGS}
    if options["transform"] is not None:
        plain["transform"] = "free" if options["transform"] else "held"
    views = AUGMENTS[options["augment"] or "light"]
    changes = {k: options[k] for k in ("perspective", "flip", "noise") if options[k] is not None}
    if options["jitter"] is not None:
        changes |= {name: most * options["jitter"] for name, most in JITTER.items()}
    if options["augment"] or changes:
        plain["augment"] = replace(views, **changes) if changes else options["augment"]
    return plain


def check_combination(options, variants: int, compiled: bool, config) -> None:
    """Raise UserError for options that exclude each other."""
    if options["dissolve"]:
        for name, used in (("variants", variants > 1), ("region", options["region"])):
            if used:
                raise UserError(f"dissolve: does not go with --{name}; leave it out")
    elif options["times"] or options["motion"]:
        raise UserError("times, motion: belong to --dissolve; give that, too")
    if compiled and (config.space == "s" or config.transform != "follow" or options["latent"]):
        raise UserError("compile: goes with spaces w and w+ from a fresh start only; leave it out")


def read_start(G, options, provenance, variants: int):
    """The latent to start from, once for each variant, or None."""
    if not options["latent"]:
        return None
    from guidance.latent_files import read_latent
    from guidance.render import EditedLatent

    path = options["latent"]
    found = read_latent(path, G, provenance.get("network_sha256"), options["force"])
    if len(found.ws) != 1:
        raise UserError(f"latent {path}: holds {len(found.ws)} latents, expected one to start from")
    styles = {name: style.expand(variants, -1) for name, style in found.styles.items()}
    return EditedLatent(found.ws.expand(variants, -1, -1), styles)


def begin(G, prompts, encoder, options, variants: int, common):
    """The run: of all prompts together, or of one after the other."""
    from guidance.steering.dissolve import dissolve
    from guidance.steering.steer import steer_batch

    if options["dissolve"]:
        path = {name: options[name] for name in ("times", "fade", "motion", "amount")}
        return dissolve(G, prompts, encoder, steps_each=options["dissolve"], **path, **common)
    seeds = [options["seed"] + i for i in range(variants)]
    region = options["region"]
    return steer_batch(G, [prompts] * variants, encoder, seeds=seeds, region=region, **common)


def load_models(network: str, clip: str, device):
    """Generator, encoder and what a latent file should say about the network."""
    import sg3
    from guidance.encoders import load_encoder

    encoder = load_encoder(clip, device)
    nets = sg3.load(network, device=device)
    if nets.G_ema is None:
        raise UserError(f"network: {network} holds no generator")
    sha256 = nets.meta.get("sha256")
    return nets.G_ema, encoder, {"network_sha256": sha256} if sha256 else {}


def run(steps, outdir: Path, video, metadata, manifest, G) -> bool:
    """Drain `steps` and record; True if the user stopped it. Files are written either way."""
    from tqdm import tqdm

    from guidance.steering.record import SteeringRecord

    stopped, recordings, total = False, [], steps.config.steps + 1
    count = len(steps.movable.latent.ws)
    with manifest.time("steer"), ExitStack() as stack:
        stop = stack.enter_context(stop_requests("Stopped; keeping what there is.\n"))
        for i in range(count):
            folder = outdir if count == 1 else prepare_folder(outdir / f"variant-{i}")
            movie = video if count == 1 else bool(video)
            recordings.append(stack.enter_context(SteeringRecord(folder, movie, metadata, G)))
        try:
            bar = tqdm(steps, total=total, disable=None, unit="step")
            for points in bar:
                for recording, step in zip(recordings, points, strict=True):
                    recording.add(step)
                bar.set_postfix(_shown(points))
                if points[0].index % SAVE_EVERY == SAVE_EVERY - 1:
                    steps.save(outdir / PROGRESS)
                if stop():
                    stopped = points[0].index < total - 1
                    break
        except KeyboardInterrupt:
            stopped = True
            click.echo("Stopped; keeping what there is.", err=True)
    if stopped and steps.points:
        steps.save(outdir / PROGRESS)
    elif not stopped:
        (outdir / PROGRESS).unlink(missing_ok=True)
    _note_results(recordings, outdir, manifest)
    return stopped


def _shown(points) -> dict[str, str]:
    """Means over the variants, for the progress bar."""
    loss = sum(p.loss for p in points) / len(points)
    similarity = sum(p.losses["similarity"] for p in points) / len(points)
    return {"loss": f"{loss:.3f}", "similarity": f"{similarity:.3f}"}


def _note_results(recordings: Sequence, outdir: Path, manifest) -> None:
    """Files and figures for the manifest; of several variants also a sheet of all ends."""
    from sg3.media import contact_sheet, save_png, to_uint8

    for i, recording in enumerate(recordings):
        for path in recording.paths:
            manifest.add_output(path)
        for name, step in (("start", recording.first), ("end", recording.last)):
            if step is not None:
                key = name if len(recordings) == 1 else f"variant-{i}-{name}"
                figures = {"step": step.index, "sigma": step.sigma, **step.losses}
                manifest.results[key] = figures
    ends = [recording.last for recording in recordings if recording.last is not None]
    if len(ends) > 1:
        captions = [f"{i}: {step.losses['similarity']:.2f}" for i, step in enumerate(ends)]
        sheet = contact_sheet(
            [to_uint8(step.image)[0] for step in ends], captions, min(len(ends), 6)
        )
        save_png(outdir / "variants.png", sheet)
        manifest.add_output(outdir / "variants.png")


def is_finished(outdir: Path, arguments) -> bool:
    """Whether the run of these arguments is complete in `outdir`."""
    try:
        found = json.loads((outdir / "run.json").read_text())
    except (OSError, ValueError):
        return False
    ours = json.loads(json.dumps(dict(arguments), default=str))
    theirs = found.get("arguments", {})
    changed = [name for name in ours if name != "resume" and ours[name] != theirs.get(name)]
    return bool(found.get("finished")) and not changed


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
    texts = [prompt.text for prompt in prompts if prompt.image is None] if known_by else []
    words = [word for text in texts for word in known_by(text)]
    if words:
        click.echo(f"Note: the encoder does not know: {', '.join(dict.fromkeys(words))}", err=True)
