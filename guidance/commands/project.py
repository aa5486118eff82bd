"""`sg3 project`: a thin drain on `guidance.inversion`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, astuple
from pathlib import Path

import click

from guidance.commands.project_options import project_options
from sg3.cli.options import resolve_device, with_deltas
from sg3.cli.stopping import INTERRUPTED, stop_requests
from sg3.errors import UserError
from sg3.files import check_folder, prepare_folder
from sg3.manifest import RunManifest


@click.command()
@click.argument("photo", type=click.Path(), metavar="PHOTO")
@project_options
def project(photo, network, deltas, crop, latent, outdir, video, device, distance, rank, **options):
    """Find the latent of a photo, and teach the network what it lacks.

    The result is latent.safetensors, together with delta.safetensors where there is one.

    \b
    Examples:
      sg3 project photo.jpg --tune 200 --outdir out/photo
      sg3 generate --latent out/photo/latent.safetensors --delta out/photo/delta.safetensors \\
        --outdir out/again
      sg3 edit --latent out/photo/latent.safetensors --delta out/photo/delta.safetensors \\
        --direction "a smiling face"
      sg3 project photo.jpg --latent out/photo/latent.safetensors --steps 0 --tune 200 \\
        --delta out/photo/delta.safetensors --outdir out/longer
    """
    from guidance.commands.steer import slug
    from guidance.inversion import load_distance  # torch is imported only now: `--help` is quick
    from guidance.inversion import project as start_projecting
    from guidance.inversion import tune as start_tuning
    from guidance.inversion.crops import cut
    from guidance.inversion.projection_record import ProjectionRecord
    from sg3.data.photos import read_photo, to_target

    config, tuning = configs(options)
    outdir = Path(outdir or f"out/project-{slug(Path(photo).stem)}")
    check_folder(outdir)
    image = read_photo(photo)
    manifest = RunManifest(outdir, "project", click.get_current_context().params)
    with manifest.time("load"):
        measure = load_distance(distance, resolve_device(device))
        source, G, metadata = _networks(network, deltas, resolve_device(device))
        config = _with_transform(G, config, options["transform"])
        start_ws, known = _start(G, latent, metadata["network_sha256"])
    manifest.add_input(network, metadata["network_sha256"])
    for path in [photo, *([latent] if latent else []), *(path for path, _ in deltas)]:
        manifest.add_input(path)
    with manifest.time("crop"):
        found = _crop(G, image, crop or known or "auto", config.class_index)
    target = to_target(cut(image, found, (G.img_width, G.img_height)), G.img_channels)
    with manifest.time("start"):
        steps = start_projecting(G, target, measure, config=config, start_ws=start_ws)

    def begin_tuning(recording):
        network, pivot = recording.network(), recording.projected.ws
        return start_tuning(network, pivot, target, measure, config=tuning)

    stages = [("project", config.steps + 1, lambda recording: steps)]
    if tuning.steps:
        stages.append(("tune", tuning.steps + 1, begin_tuning))
    prepare_folder(outdir)
    metadata["crop"] = json.dumps(astuple(found))
    manifest.results |= {"distance": measure.name, "crop": asdict(found)}
    total, whole = sum(count for _, count, _ in stages), (image, found)
    recording = ProjectionRecord(
        outdir, source, target, total, video, metadata, whole, rank, adapted=G
    )
    stopped = run(recording, stages, manifest)
    for path in [*manifest.outputs, manifest.write(finished=not stopped).name]:
        click.echo((outdir / path).resolve())
    if stopped:
        sys.exit(INTERRUPTED)


def run(recording, stages, manifest) -> bool:
    """Drain the stages (name, number of steps, function from the recording to the steps) one after
    the other; True if the user asked to stop. Files are written either way."""
    with stop_requests() as stop, recording:
        for name, total, begin in stages:
            if not stop():
                with manifest.time(name):
                    _drain(recording, begin(recording), total, name, stop)
    for path in recording.paths:
        manifest.add_output(path)
    for name in ("first", "projected", "tuned"):
        step = getattr(recording, name)
        if step is not None:
            losses = {k: float(v[0]) for k, v in step.losses.items()}
            manifest.results[name] = {"step": step.index, **losses}
    if recording.tuned is not None:
        manifest.results["tuned"]["reason"] = recording.tuned.reason
    return stop()


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


def _networks(network, deltas, device):
    """The generator as it is in its file, the one with the deltas, and what names them."""
    import sg3

    nets = sg3.load(network, device)
    if nets.G_ema is None:
        raise UserError(f"network: {network} holds no generator")
    names = {"network": network, "network_sha256": nets.meta["sha256"]}
    if deltas:
        names["deltas"] = json.dumps(deltas)
    return nets.G_ema, with_deltas(nets.G_ema, deltas), names


def _with_transform(G, config, asked: bool | None):
    """Row 0 of w+ moves the picture of a StyleGAN3 by itself."""
    from dataclasses import replace

    from sg3.networks import stylegan3

    usual = isinstance(G, stylegan3.Generator) and config.space == "w"
    return replace(config, transform=usual if asked is None else asked)


def _start(G, latent, sha256):
    """Where an earlier run ended, and where in the photo it looked; None, None without one."""
    from guidance.latent_files import latent_metadata, read_latent

    if latent is None:
        return None, None
    found = read_latent(latent, G, sha256)
    if found.styles or len(found.ws) != 1:
        raise UserError(f"latent {latent}: expected one latent of sg3 project, without edits")
    crop = latent_metadata(latent).get("crop")
    return found.ws, None if crop is None else tuple(json.loads(crop))


def _crop(G, image, crop, class_index):
    from guidance.inversion.crops import PhotoCrop, central_crop
    from guidance.inversion.locate import choose_crop

    if crop == "auto":
        return choose_crop(G, image, class_index)
    if crop == "centre":
        return central_crop(image.size, (G.img_width, G.img_height))
    x, y, size, *degrees = crop
    if not (0 <= x <= image.width and 0 <= y <= image.height and size <= 2 * max(image.size)):
        raise UserError(
            f"crop: got {x:g},{y:g},{size:g}, but the photo has {image.width}x{image.height} pixels"
        )
    return PhotoCrop(x, y, size, *degrees)


def _drain(recording, steps, total: int, name: str, stop) -> None:
    from tqdm import tqdm

    bar = tqdm(steps, total=total, disable=None, unit="step", desc=name)
    for step in bar:
        recording.add(step)
        bar.set_postfix(distance=f"{step.distance:.4f}")
        if stop():
            break
