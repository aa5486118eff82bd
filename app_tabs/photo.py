"""Projection of a photo, in the Edit tab: find its latent, then fine-tune the network to it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import gradio as gr
import torch
from PIL import Image

from app_tabs import theme, uploads
from app_tabs.context import Context, Session
from app_tabs.theme import shown, status
from app_tabs.wiring import command_line
from guidance.directions import EditedLatent
from guidance.inversion import load_distance, project, tune
from guidance.inversion.crops import central_crop, cut
from guidance.inversion.locate import choose_crop
from guidance.inversion.projection_record import ProjectionRecord
from sg3.data.photos import to_target
from sg3.media import to_uint8
from sg3.networks import stylegan3
from sg3.networks.generator import MappedGenerator

HINT = "Choose a photo and press Find latent."
PREVIEW_INTERVAL_S = 0.25


@dataclass(frozen=True)
class Found:
    """A projected photo: its latent, the fine-tuned generator, and the folder of the files."""

    latent: EditedLatent
    G: MappedGenerator
    folder: Path


def find(
    context: Context,
    request: gr.Request,
    photo: str | None,
    network: str | None,
    steps: float,
    tune_steps: float,
    centre: bool,
) -> Iterator[tuple]:
    """Run `guidance.inversion`; yield ((photo, current), status, PNG, latent, delta)."""
    session = context.session(request)
    stop = session.begin("find")
    session.results.pop("photo", None)
    image = uploads.photo(photo)
    yield gr.skip(), status("Locating the subject ..."), *[gr.skip()] * 3
    loaded = context.generator(network, "job")
    G, size = loaded.G, (loaded.G.img_width, loaded.G.img_height)
    class_index = 0 if G.c_dim else None
    crop = central_crop(image.size, size) if centre else choose_crop(G, image, class_index)
    target = to_target(cut(image, crop, size), G.img_channels)
    measure = load_distance("auto", context.device)
    settings: dict[str, Any] = {"steps": int(steps), "class_index": class_index}
    settings["transform"] = isinstance(G, stylegan3.Generator)
    metadata = {"network": context.name_of(network), "network_sha256": loaded.meta["sha256"]}
    total = int(steps) + 1 + (int(tune_steps) + 1 if tune_steps else 0)
    folder = context.new_folder(session, "photo")
    recording = ProjectionRecord(folder, G, target, total, metadata=metadata, photo=(image, crop))
    before = shown(to_uint8(target)[0])
    with recording:
        stages = [("Searching", int(steps), lambda: project(G, target, measure, **settings))]
        if tune_steps:
            begin_tuning = _tuning(recording, target, measure, int(tune_steps), class_index)
            stages.append(("Tuning", int(tune_steps), begin_tuning))
        for name, count, begin in stages:
            if not stop.is_set():
                yield from _run_stage(recording, begin(), name, count, before, stop)
    yield _finished(session, recording, before, stop.is_set())


def _tuning(
    recording: ProjectionRecord, target: torch.Tensor, measure, steps: int, class_index: int | None
):
    def begin():
        assert recording.projected is not None  # tuning follows the projection
        return tune(
            recording.network(),
            recording.projected.ws,
            target,
            measure,
            steps=steps,
            class_index=class_index,
        )

    return begin


def _run_stage(
    recording: ProjectionRecord,
    steps: Iterator[Any],
    name: str,
    total: int,
    before: Image.Image,
    stop: Event,
) -> Iterator[tuple]:
    distances, began, last = [], time.monotonic(), 0.0
    for step in steps:
        recording.add(step)
        distances.append(step.distance)
        if stop.is_set():
            return
        now = time.monotonic()
        if now - last < PREVIEW_INTERVAL_S:
            continue
        last, done = now, step.index / max(total, 1)
        line = f"{name}: step {step.index} of {total}, distance {step.distance:.4f}"
        line += theme.remaining(done, began, now)
        view = shown(to_uint8(step.image)[0])
        drawn = status(line, {"Distance": distances}, done)
        yield (before, view), drawn, *[gr.skip()] * 3


def _finished(
    session: Session, recording: ProjectionRecord, before: Image.Image, stopped: bool
) -> tuple:
    assert recording.projected is not None  # the projection makes at least one step
    last = recording.tuned or recording.projected
    G = recording.network() if recording.tuned is None else recording.tuned.tuning.G
    folder = recording.outdir
    session.results["photo"] = Found(EditedLatent(recording.projected.ws), G, folder)
    word = "Stopped" if stopped else "Found"
    line = f"{word} at a distance of {last.distance:.4f}. Edit it with the sliders."
    delta = folder / "delta.safetensors"
    files: list[str | None] = [str(folder / n) for n in ("comparison.png", "latent.safetensors")]
    files.append(str(delta) if delta.exists() else None)
    return (before, shown(to_uint8(last.image)[0])), status(line), *files


def command(
    context: Context, network: str, photo=None, steps=0, tune_steps=0, centre=False, **_: Any
) -> tuple[str, dict[str, str]]:
    """The command that projects the photo, and the options of `sg3 edit` that use its result."""
    if not photo:
        raise ValueError("photo: got none; choose a file first")
    (path,) = uploads.keep(context, photo)
    outdir = f"out/{Path(path).stem}"
    options = {"network": network, "steps": int(steps), "tune": int(tune_steps) or None}
    options |= {"crop": "centre" if centre else None, "outdir": outdir}
    parts = ("latent", "delta") if tune_steps else ("latent",)
    found = {part: f"{outdir}/{part}.safetensors" for part in parts}
    return command_line("project", path, **options), found


def build(context: Context, network: gr.Dropdown) -> tuple[dict, list, list]:
    """Build the fields; return the inputs by name, the buttons (find, stop) and the downloads."""
    file = gr.File(label="Photo", file_types=["image"], height=120)
    with gr.Row():
        hint = "Optimize the latent"
        steps = gr.Slider(0, 600, 150, step=10, label="Search steps", info=hint, min_width=140)
        hint = "Fine-tune the network"
        more = gr.Slider(0, 400, 100, step=10, label="Tuning steps", info=hint, min_width=140)
    hint = "Otherwise the crop most similar to the network's images"
    centre = gr.Checkbox(label="Central crop", info=hint)
    with gr.Row(elem_classes="tight"):
        run = gr.Button("Find latent", variant="primary", min_width=90)
        stop = gr.Button("Stop", variant="stop", interactive=False, min_width=90)
    files = theme.downloads("Comparison", "Photo latent", "Photo delta")
    inputs = {"photo": file, "network": network, "steps": steps, "tune_steps": more}
    return inputs | {"centre": centre}, [run, stop], files
