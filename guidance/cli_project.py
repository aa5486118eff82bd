"""`sg3 project`: a thin drain on `guidance.inversion`."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path

import click

from sg3.cli.options import (
    ParsedType,
    debug_option,
    delta_option,
    device_option,
    network_option,
    resolve_device,
    seed_option,
    with_deltas,
)
from sg3.errors import UserError
from sg3.files import check_folder, prepare_folder
from sg3.manifest import RunManifest

INTERRUPTED = 130
COUNT = click.IntRange(0)
WEIGHT = click.FloatRange(min=0)


def parse_crop(text: str) -> str | tuple[float, ...]:
    """`auto`, `centre`, or `"X,Y,SIZE[,DEG]"` → numbers. Raises UserError otherwise."""
    if text in ("auto", "centre"):
        return text
    try:
        numbers = tuple(map(float, text.split(",")))
    except ValueError:
        numbers = ()
    if len(numbers) not in (3, 4) or not all(map(math.isfinite, numbers)) or numbers[2] < 1:
        raise UserError(f"crop: got {text!r}, expected auto, centre or X,Y,SIZE[,DEG] in pixels")
    return numbers


WHAT = [
    network_option,
    delta_option,
    click.option(
        "--crop",
        type=ParsedType("crop", parse_crop),
        default="auto",
        show_default=True,
        metavar="auto|centre|X,Y,SIZE[,DEG]",
        help="Where in the photo to look: where it resembles the network's pictures most, the "
        "central part, or there (centre, larger side and angle, in pixels of the photo).",
    ),
    click.option(
        "--transform/--no-transform",
        default=None,
        help="Let the input transform move and turn the picture.  [default: on StyleGAN3 in w]",
    ),
    click.option("--class", "class_index", type=int, help="Class of a conditional network."),
]
HOW = [
    click.option("--steps", type=COUNT, help="Of the projection."),
    click.option("--space", type=click.Choice(["w", "w+"]), help="One latent, or one per layer."),
    click.option("--start", type=click.Choice(["best", "seed", "mean"])),
    click.option("--candidates", type=click.IntRange(1), help="How many to choose the start from."),
    click.option("--lr", type=WEIGHT, help="Learning rate, in standard deviations of W."),
    click.option("--exploration", type=WEIGHT, help="Random steps at first, in the same."),
    click.option("--pixels", type=WEIGHT, help="Weight of pixels beside the distance."),
    click.option("--prior", type=WEIGHT, help="Pull towards the mean of W."),
    click.option("--spread", type=WEIGHT, help="Of w+: pull of its rows towards each other."),
    click.option(
        "--distance",
        default="auto",
        type=click.Choice(["auto", "lpips", "scales"]),
        show_default=True,
        help="lpips needs weights, scales none; auto is lpips where they are at hand.",
    ),
    seed_option,
]
TUNING = [
    click.option(
        "--tune",
        "tune__steps",
        type=COUNT,
        default=0,
        show_default=True,
        help="Steps, at most, in which the network itself learns the photo (PTI).",
    ),
    click.option("--tune-lr", "tune__lr", type=WEIGHT, help="Learning rate of its weights."),
    click.option("--tune-stop", "tune__stop", type=WEIGHT, help="Distance that is enough."),
    click.option(
        "--locality", "tune__locality", type=WEIGHT, help="Keep the pictures near it: weight."
    ),
    click.option("--rank", type=click.IntRange(1), help="Of the delta: smaller, less exact."),
]
OUTPUT = [
    click.option(
        "--outdir",
        type=click.Path(file_okay=False),
        metavar="DIR",
        help="Where to write; made if missing.  [default: out/project-PHOTO]",
    ),
    click.option("--video/--no-video", default=True, show_default=True, help="Write project.mp4."),
    device_option,
    debug_option,
]


def _options(function):
    """All options, in the order in which --help shows them."""
    for option in reversed([*WHAT, *HOW, *TUNING, *OUTPUT]):
        function = option(function)
    return function


@click.command()
@click.argument("photo", type=click.Path(), metavar="PHOTO")
@_options
def project(photo, network, deltas, crop, outdir, video, device, distance, rank, **options):
    """Find the latent of a photo, and teach the network what it lacks.

    The result is latent.safetensors, together with delta.safetensors where there is one.

    \b
    Examples:
      sg3 project photo.jpg --tune 200 --outdir out/photo
      sg3 generate --latent out/photo/latent.safetensors --delta out/photo/delta.safetensors \\
        --outdir out/again
      sg3 edit --latent out/photo/latent.safetensors --direction "a smiling face"
    """
    import sg3  # torch is imported only now: `--help` is quick
    from guidance.cli import slug
    from guidance.inversion import load_distance
    from guidance.inversion.photo import read_photo

    config, tuning = configs(options)
    outdir = Path(outdir or f"out/project-{slug(Path(photo).stem)}")
    check_folder(outdir)
    image = read_photo(photo)
    manifest = RunManifest(outdir, "project", click.get_current_context().params)
    with manifest.time("load"):
        measure = load_distance(distance, resolve_device(device))
        nets = sg3.load(network, resolve_device(device))
        if nets.G_ema is None:
            raise UserError(f"network: {network} holds no generator")
        G = with_deltas(nets.G_ema, deltas)
        config = _with_transform(G, config, options["transform"])
    manifest.add_input(network, nets.meta["sha256"])
    for path in [photo, *(path for path, _ in deltas)]:
        manifest.add_input(path)
    metadata = {"network": network, "network_sha256": nets.meta["sha256"]}
    if deltas:
        metadata["deltas"] = json.dumps(deltas)
    with manifest.time("crop"):
        found = _crop(G, image, crop, config.class_index)
    recorder = {"video": video, "metadata": metadata, "rank": rank, "adapted": G}
    stopped = _run(nets.G_ema, image, found, measure, config, tuning, outdir, manifest, recorder)
    manifest.results |= {"distance": measure.name, "crop": asdict(found)}
    for path in [*manifest.outputs, manifest.write(finished=not stopped).name]:
        click.echo((outdir / path).resolve())
    if stopped:
        sys.exit(INTERRUPTED)


def configs(options: dict):
    """`ProjectConfig` and `TuneConfig` of the options that were given."""
    from guidance.inversion import ProjectConfig, TuneConfig

    own = {"project": {}, "tune": {}}
    for name, value in options.items():
        part, _, field = name.rpartition("__")
        if value is not None and name != "transform":
            own[part or "project"][field] = value
    shared = {k: own["project"][k] for k in ("seed", "class_index") if k in own["project"]}
    return ProjectConfig(**own["project"]), TuneConfig(**own["tune"], **shared)


def _with_transform(G, config, asked: bool | None):
    """Row 0 of w+ moves the picture of a StyleGAN3 by itself."""
    from dataclasses import replace

    from sg3.networks import stylegan3

    usual = isinstance(G, stylegan3.Generator) and config.space == "w"
    return replace(config, transform=usual if asked is None else asked)


def _crop(G, image, crop, class_index):
    from guidance.inversion.locate import choose_crop
    from guidance.inversion.photo import Crop, central_crop

    if crop == "auto":
        return choose_crop(G, image, class_index)
    if crop == "centre":
        return central_crop(image.size, (G.img_width, G.img_height))
    x, y, size, *degrees = crop
    if not (0 <= x <= image.width and 0 <= y <= image.height and size <= 2 * max(image.size)):
        raise UserError(
            f"crop: got {x:g},{y:g},{size:g}, but the photo has {image.width}x{image.height} pixels"
        )
    return Crop(x, y, size, *degrees)


def _run(source, image, crop, measure, config, tuning, outdir, manifest, recorder) -> bool:
    """Project, tune and record; True if the user stopped it. Files are written either way."""
    from guidance.inversion import project as start_projecting
    from guidance.inversion import tune as start_tuning
    from guidance.inversion.photo import cut, to_target
    from guidance.inversion.record import Recording

    G = recorder["adapted"]
    target = to_target(cut(image, crop, (G.img_width, G.img_height)), G.img_channels)
    with manifest.time("start"):
        steps = start_projecting(G, target, measure, config=config)
    prepare_folder(outdir)
    total = config.steps + 1 + (tuning.steps + 1 if tuning.steps else 0)
    stopped = False
    recording = Recording(outdir, source, target, total, photo=(image, crop), **recorder)
    with recording:
        try:
            with manifest.time("project"):
                _drain(recording, steps, config.steps + 1, "project")
            if tuning.steps:
                with manifest.time("tune"):
                    found = recording.projected.ws
                    steps = start_tuning(recording.network(), found, target, measure, config=tuning)
                    _drain(recording, steps, tuning.steps + 1, "tune")
        except KeyboardInterrupt:
            stopped = True
            click.echo("Stopped; keeping what there is.", err=True)
    for path in recording.paths:
        manifest.add_output(path)
    for name in ("first", "projected", "tuned"):
        step = getattr(recording, name)
        if step is not None:
            losses = {k: float(v[0]) for k, v in step.losses.items()}
            manifest.results[name] = {"step": step.index, **losses}
    if recording.tuned is not None:
        manifest.results["tuned"]["reason"] = recording.tuned.reason
    return stopped


def _drain(recording, steps, total: int, name: str) -> None:
    from tqdm import tqdm

    bar = tqdm(steps, total=total, disable=None, unit="step", desc=name)
    for step in bar:
        recording.add(step)
        bar.set_postfix(distance=f"{step.distance:.4f}")
