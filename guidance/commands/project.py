"""`sg3 project`: command line of `guidance.project` and `guidance.tune`."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guidance.commands.common import LoadedNetwork, argument_prefix, load_network, slug
from guidance.commands.project_options import TUNE, project_options
from guidance.inversion.config import ProjectConfig, TuneConfig
from sg3.cli.options import allows_nonfinite, argument, check_files, resolve_device
from sg3.cli.stopping import INTERRUPTED, stop_requests
from sg3.errors import UserError
from sg3.files import check_folder, parse_json, prepare_folder
from sg3.manifest import RunManifest
from sg3.settings import ClassLabel

if TYPE_CHECKING:  # torch is imported when the command runs: `--help` is quick
    import torch
    from PIL import Image

    from guidance.inversion.crops import PhotoCrop
    from guidance.inversion.projection import ProjectStep
    from guidance.inversion.projection_record import ProjectionRecord
    from guidance.inversion.tuning import TuneStep
    from sg3.networks.generator import MappedGenerator

    Steps = Iterable[ProjectStep] | Iterable[TuneStep]
    #: Name, number of steps, and a function from the record to the steps.
    Stage = tuple[str, int, Callable[[ProjectionRecord], Steps]]


@click.command()
@argument("photo", type=click.Path(), metavar="PHOTO")
@project_options
def project(photo, network, deltas, crop, latent, outdir, video, device, distance, rank, **options):
    """Find the latent of a photo, and optionally fine-tune the network to it.

    The result is latent.safetensors, together with delta.safetensors if one is written.

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
    from guidance.distance import load_distance
    from guidance.inversion import ProjectionRecord, cut
    from guidance.inversion import project as start_projecting
    from guidance.inversion import tune as start_tuning
    from sg3.data.photos import read_photo, to_target

    config, tuning = configs(options)
    outdir = Path(outdir or f"out/project-{slug(Path(photo).stem)}")
    check_folder(outdir)
    check_files(network, latent=latent)
    image = read_photo(photo)
    manifest = RunManifest(outdir, "project", click.get_current_context().params)
    with manifest.time("load"):
        measure = load_distance(distance, resolve_device(device))
        loaded = load_network(network, resolve_device(device), deltas)
        G = loaded.G
        config = _with_transform(G, config, options["transform"])
        start_ws, known = _start(loaded, latent)
    manifest.add_input(network, loaded.sha256)
    for path in [photo, *([latent] if latent else []), *(path for path, _ in deltas)]:
        manifest.add_input(path)
    with manifest.time("crop"):
        found = _crop(G, image, crop or known or "auto", config.class_index)
    target = to_target(cut(image, found, (G.img_width, G.img_height)), G.img_channels)
    with manifest.time("start"):
        steps = start_projecting(G, target, measure, config=config, start_ws=start_ws)

    def begin_tuning(record: ProjectionRecord) -> Steps:
        assert record.projected is not None
        pivot = record.projected.ws
        return start_tuning(record.network(), pivot, target, measure, config=tuning)

    stages: list[Stage] = [("project", config.steps + 1, lambda record: steps)]
    if tuning.steps:
        stages.append(("tune", tuning.steps + 1, begin_tuning))
    prepare_folder(outdir)
    metadata = {**loaded.origin, "crop": json.dumps(dataclasses.astuple(found))}
    manifest.results |= {"distance": measure.name, "crop": dataclasses.asdict(found)}
    total, whole = sum(count for _, count, _ in stages), (image, found)
    record = ProjectionRecord(
        outdir, loaded.source, target, total, video, metadata, whole, rank, adapted=G
    )
    stopped = run_stages(record, stages, manifest)
    for path in [*manifest.outputs, manifest.write(finished=not stopped).name]:
        click.echo((outdir / path).resolve())
    if stopped:
        sys.exit(INTERRUPTED)


def run_stages(record: ProjectionRecord, stages: Sequence[Stage], manifest: RunManifest) -> bool:
    """Run the stages one after the other and write the files; returns whether the user stopped."""
    with stop_requests() as stop, record:
        for name, total, begin in stages:
            if not stop():
                with manifest.time(name):
                    _record_steps(record, begin(record), total, name, stop)
    for path in record.paths:
        manifest.add_output(path)
    for name in ("first", "projected", "tuned"):
        step = getattr(record, name)
        if step is not None:
            losses = {k: float(v[0]) for k, v in step.losses.items()}
            manifest.results[name] = {"step": step.index, **losses}
    if record.tuned is not None:
        manifest.results["tuned"]["reason"] = record.tuned.reason
    return stop()


def configs(options: Mapping[str, Any]) -> tuple[ProjectConfig, TuneConfig]:
    """The configurations that the options describe."""
    fields = {field.name for field in dataclasses.fields(ProjectConfig)} - {"transform"}
    own = {name: value for name, value in options.items() if name in fields}
    tuning = {k.removeprefix(TUNE): v for k, v in options.items() if k.startswith(TUNE)}
    tuning |= {"seed": own["seed"], "class_index": own["class_index"]}
    config = ProjectConfig(**own)
    with argument_prefix(TUNE):
        return config, TuneConfig(**tuning)


def _with_transform(G: MappedGenerator, config: ProjectConfig, asked: bool | None) -> ProjectConfig:
    """By default the transform of a StyleGAN3 is optimized in w; in w+, row 0 determines it."""
    from sg3.networks import stylegan3

    usual = isinstance(G, stylegan3.Generator) and config.space == "w"
    return dataclasses.replace(config, transform=usual if asked is None else asked)


def _start(
    loaded: LoadedNetwork, latent: str | None
) -> tuple[torch.Tensor | None, tuple[float, ...] | None]:
    """Latent and crop of an earlier run; None, None without one."""
    from guidance.latent_files import read_latent
    from sg3.latent_files import latent_metadata

    if latent is None:
        return None, None
    found = read_latent(latent, loaded.G, loaded.sha256, allow_nonfinite=allows_nonfinite())
    if found.styles or len(found.ws) != 1:
        raise UserError(f"latent {latent}: expected one latent of sg3 project, without edits")
    crop = latent_metadata(latent).get("crop")
    try:
        numbers = None if crop is None else tuple(float(n) for n in parse_json(crop))
    except (TypeError, ValueError, OverflowError):
        numbers = ()
    if numbers is not None and (len(numbers) not in (3, 4) or not all(map(math.isfinite, numbers))):
        raise UserError(f"latent {latent}: its crop is damaged, expected x, y, size, degrees")
    return found.ws, numbers


def _crop(
    G: MappedGenerator,
    image: Image.Image,
    crop: str | tuple[float, ...],
    class_index: ClassLabel | None,
) -> PhotoCrop:
    from guidance.inversion import PhotoCrop, central_crop, choose_crop

    if crop == "auto":
        return choose_crop(G, image, class_index)
    if isinstance(crop, str):
        return central_crop(image.size, (G.img_width, G.img_height))
    x, y, size, *degrees = crop
    if not (0 <= x <= image.width and 0 <= y <= image.height and size <= 2 * max(image.size)):
        raise UserError(
            f"--crop: got {x:g},{y:g},{size:g}, expected a part of the photo, which has "
            f"{image.width}x{image.height} pixels"
        )
    return PhotoCrop(x, y, size, *degrees)


def _record_steps(
    record: ProjectionRecord, steps: Steps, total: int, name: str, stop: Callable[[], bool]
) -> None:
    from tqdm import tqdm

    bar = tqdm(steps, total=total, disable=None, unit="step", desc=name)
    for step in bar:
        record.add(step)
        bar.set_postfix(distance=f"{step.distance:.4f}")
        if stop():
            break
