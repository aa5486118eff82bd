"""`sg3 steer`: command line of `guidance.steer_batch` and `guidance.dissolve`."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guidance.augment import AUGMENTS
from guidance.commands.common import LoadedNetwork, load_models, slug, warn_of_unread_words
from guidance.commands.steer_options import steer_options
from guidance.steering.config import SteerConfig
from sg3.cli.options import (
    allows_nonfinite,
    apply_precision,
    argument,
    check_files,
    need_option,
    resolve_device,
)
from sg3.cli.stopping import INTERRUPTED, stop_requests
from sg3.errors import UserError
from sg3.files import check_folder, parse_json, prepare_folder
from sg3.manifest import RunManifest
from sg3.threads import use_free_cores

if TYPE_CHECKING:  # torch is imported when the command runs: `--help` is quick
    from guidance.encoders import Encoder
    from guidance.prompts import Prompt
    from guidance.render import EditedLatent
    from guidance.steering.record import SteeringRecord
    from guidance.steering.run import SteeringRun, SteerStep

#: State of an interrupted run in its folder, for --resume, and the steps between two writes.
PROGRESS, SAVE_EVERY = "progress.safetensors", 20
#: Up to this size, threads that wait for a busy core cost more time than they save.
SMALL_PX = 256 * 256
#: Ranges of `--jitter 1`.
JITTER = {"hue": 60.0, "saturation": 0.8, "brightness": 0.4, "contrast": 0.6}
#: Option --transform / --no-transform → setting.
TRANSFORM = {True: "free", False: "held", None: "follow"}


@click.command()
@argument("prompts", nargs=-1, metavar='"PROMPT" ["PROMPT" ...]')
@steer_options
def steer(
    prompts, images, network, deltas, clips, outdir, video, no_video, resume, variants, precision,
    compiled, device, **options,
) -> None:  # fmt: skip
    """Optimize a latent until its image matches a text prompt.

    Several prompts are matched together. "text:1.5" sets the weight of one; a negative weight
    pushes away. With --dissolve they follow one another in a single video.

    \b
    Examples:
      sg3 steer "a smiling woman with red hair" --outdir out/steer
      sg3 steer "a photo of an old man" --network stylegan3-t-ffhqu-256 --clip ViT-B-32/openai
      sg3 steer "a crown" --latent out/steer/latent.safetensors --space w+ --region 8,0,56,24
      sg3 steer "a bald man" "a woman with pink hair" "a face with a crown" --dissolve 60
    """
    arguments = click.get_current_context().params
    parsed = parse_arguments(prompts, images, options["dissolve"])
    config = config_of(options)
    check_combination(options, variants, compiled, config)
    outdir = Path(outdir or f"out/steer-{slug(parsed[0].text)}")
    for folder in (outdir, *([Path(video).parent] if video else [])):
        check_folder(folder)
    if resume and is_finished(outdir, arguments):
        click.echo(f"{outdir} is already finished.")
        return
    check_files(network, latent=options["latent"])
    clip = ",".join(clips)
    manifest = RunManifest(outdir, "steer", arguments)
    with manifest.time("load"):
        loaded, encoder = load_models(network, clip, resolve_device(device), deltas)
        _prepare_generator(loaded, precision, compiled)
        start = read_start(loaded, options, variants)
    warn_of_unread_words(encoder, parsed)
    saved = outdir / PROGRESS if resume and (outdir / PROGRESS).is_file() else None
    about = json.dumps([{"network_sha256": loaded.sha256}, deltas, precision, clip])
    with manifest.time("start"):
        common = {"config": config, "start_ws": start, "resume_from": saved, "about": about}
        texts = prompts if options["dissolve"] else parsed
        run = begin(loaded, texts, encoder, options, variants, common)
    prepare_folder(outdir)
    movie: bool | Path = not no_video
    if video and not no_video:
        movie = Path(video).absolute()
        prepare_folder(movie.parent)
    manifest.add_input(network, loaded.sha256)
    files = [*(p for p, _ in deltas), options["latent"], options["region"]]
    for path in (path for path in files if path and Path(path).is_file()):
        manifest.add_input(path)
    metadata = {**loaded.origin, "prompts": json.dumps([*prompts, *images])}
    records, stopped = record_steps(run, outdir, movie, metadata, loaded, manifest)
    _note_results(records, outdir, manifest)
    for path in [*manifest.outputs, manifest.write(finished=not stopped).name]:
        click.echo((outdir / path).resolve())
    if stopped:
        sys.exit(INTERRUPTED)


def parse_arguments(
    prompts: Sequence[str], images: Sequence[str], dissolve: int | None
) -> tuple[Prompt, ...]:
    """Texts and images as prompts. Raises ValueError if there are none."""
    from guidance.prompts import parse_image, parse_prompts

    if not (prompts or images):
        raise UserError("Missing argument 'PROMPT': give a text such as 'a red hat', or --image")
    if dissolve and images:
        raise UserError("--image: does not work with --dissolve, which takes texts; leave it out")
    found = parse_prompts(prompts) if prompts else ()
    return (*found, *map(parse_image, images))


def config_of(options: Mapping[str, Any]) -> SteerConfig:
    """The configuration that the options describe."""
    fields = {field.name for field in dataclasses.fields(SteerConfig)}
    settings = {name: value for name, value in options.items() if name in fields}
    settings["transform"] = TRANSFORM[options["transform"]]
    names = ("perspective", "flip", "noise")
    changes = {name: options[name] for name in names if options[name] is not None}
    if options["jitter"] is not None:
        changes |= {name: largest * options["jitter"] for name, largest in JITTER.items()}
    if changes:
        settings["augment"] = dataclasses.replace(AUGMENTS[options["augment"]], **changes)
    return SteerConfig(**settings)


def check_combination(
    options: Mapping[str, Any], variants: int, compiled: bool, config: SteerConfig
) -> None:
    """Raise ValueError for options that exclude each other."""
    if options["dissolve"]:
        for name, used in (("variants", variants > 1), ("region", options["region"])):
            if used:
                raise UserError(f"--dissolve: does not work with --{name}; leave it out")
    need_option(bool(options["dissolve"]), "--dissolve", "times", "motion", "fade")
    need_option(options["motion"] is not None, "--motion", "amount")
    need_option(config.identity > 0, "--identity", "identity_encoder")
    need_option(config.perceptual > 0, "--perceptual", "perceptual_distance")
    if compiled and (config.space == "s" or config.transform != "follow" or options["latent"]):
        raise UserError("--compile: needs space w or w+ and no --latent or --transform")


def _prepare_generator(loaded: LoadedNetwork, precision: str, compiled: bool) -> None:
    from sg3.networks.compiled import compile_synthesis

    G = loaded.G
    apply_precision(G, precision)
    if G.img_height * G.img_width <= SMALL_PX:
        use_free_cores()
    if compiled:
        compile_synthesis(G, small_batches=True)


def read_start(
    loaded: LoadedNetwork, options: Mapping[str, Any], variants: int
) -> EditedLatent | None:
    """The latent of --latent, repeated for each variant; None without one."""
    if not options["latent"]:
        return None
    from guidance.latent_files import read_latent
    from guidance.render import EditedLatent

    path = options["latent"]
    found = read_latent(path, loaded.G, loaded.sha256, options["force"], allows_nonfinite())
    if len(found.ws) != 1:
        raise UserError(f"latent {path}: got {len(found.ws)} latents, expected one to start from")
    styles = {name: style.expand(variants, -1) for name, style in found.styles.items()}
    return EditedLatent(found.ws.expand(variants, -1, -1), styles)


def begin(
    loaded: LoadedNetwork,
    prompts: Sequence,
    encoder: Encoder,
    options: Mapping[str, Any],
    variants: int,
    common: Mapping[str, Any],
) -> SteeringRun:
    """Start the run: all prompts together in each variant, or one after the other."""
    from guidance.steering.dissolve import dissolve
    from guidance.steering.steer import steer_batch

    if options["dissolve"]:
        path = {name: options[name] for name in ("times", "fade", "motion", "amount")}
        each = options["dissolve"]
        return dissolve(loaded.G, prompts, encoder, steps_each=each, **path, **common)
    seeds = [options["seed"] + i for i in range(variants)]
    region = options["region"]
    return steer_batch(
        loaded.G, [prompts] * variants, encoder, seeds=seeds, region=region, **common
    )


def record_steps(
    run: SteeringRun,
    outdir: Path,
    video: bool | Path,
    metadata: dict[str, str],
    loaded: LoadedNetwork,
    manifest: RunManifest,
) -> tuple[list[SteeringRecord], bool]:
    """Run all steps and write the files; returns the records and whether the user stopped it."""
    from tqdm import tqdm

    from guidance.steering.record import SteeringRecord

    stopped, records, total = False, [], run.config.steps + 1
    count = len(run.movable.latent.ws)
    with manifest.time("steer"), ExitStack() as stack:
        stop = stack.enter_context(stop_requests("Stopped; writing the files ...\n"))
        for i in range(count):
            folder = outdir if count == 1 else prepare_folder(outdir / f"variant-{i}")
            movie = video if count == 1 else bool(video)
            record = SteeringRecord(folder, movie, metadata, loaded.G)
            records.append(stack.enter_context(record))
        try:
            bar = tqdm(run, total=total, disable=None, unit="step")
            for steps in bar:
                for record, step in zip(records, steps, strict=True):
                    record.add(step)
                bar.set_postfix(_means(steps))
                if steps[0].index % SAVE_EVERY == SAVE_EVERY - 1:
                    run.save(outdir / PROGRESS)
                if stop():
                    stopped = steps[0].index < total - 1
                    break
        except KeyboardInterrupt:
            stopped = True
            click.echo("Stopped; writing the files ...", err=True)
    if stopped and run.points:
        run.save(outdir / PROGRESS)
    elif not stopped:
        (outdir / PROGRESS).unlink(missing_ok=True)
    return records, stopped


def _means(steps: Sequence[SteerStep]) -> dict[str, str]:
    """Means over the variants, for the progress bar."""
    loss = sum(step.loss for step in steps) / len(steps)
    similarity = sum(step.losses["similarity"] for step in steps) / len(steps)
    return {"loss": f"{loss:.3f}", "similarity": f"{similarity:.3f}"}


def _note_results(records: Sequence[SteeringRecord], outdir: Path, manifest: RunManifest) -> None:
    """Add files and losses to the manifest; for several variants, write a sheet of the results."""
    from sg3.media import contact_sheet, save_png, to_uint8

    for i, record in enumerate(records):
        for path in record.paths:
            manifest.add_output(path)
        for name, step in (("start", record.first), ("end", record.last)):
            if step is not None:
                key = name if len(records) == 1 else f"variant-{i}-{name}"
                manifest.results[key] = {"step": step.index, "sigma": step.sigma, **step.losses}
    ends = [record.last for record in records if record.last is not None]
    if len(ends) > 1:
        captions = [f"{i}: {step.losses['similarity']:.2f}" for i, step in enumerate(ends)]
        images = [to_uint8(step.image)[0] for step in ends]
        save_png(outdir / "variants.png", contact_sheet(images, captions, min(len(ends), 6)))
        manifest.add_output(outdir / "variants.png")


def is_finished(outdir: Path, arguments: Mapping[str, Any]) -> bool:
    """Whether a run with these arguments is complete in `outdir`."""
    try:
        found = parse_json((outdir / "run.json").read_text())
        theirs = dict(found.get("arguments", {}))
    except (OSError, ValueError, AttributeError, TypeError):
        return False
    ours = json.loads(json.dumps(dict(arguments), default=str))
    changed = [name for name in ours if name != "resume" and ours[name] != theirs.get(name)]
    return bool(found.get("finished")) and not changed
