"""A photo becomes a latent, and the network learns what it lacks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from torch import nn

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

HINT = "Choose a photo and press Find it."
PREVIEW_INTERVAL_S = 0.25


@dataclass(frozen=True)
class Found:
    """A photo in a network: its latent, the network that learned it, and their files."""

    latent: EditedLatent
    G: nn.Module
    folder: Path


def find(
    context: Context, request: gr.Request, photo, network, steps, tune_steps, centre
) -> Iterator[tuple]:
    """Drain `guidance.inversion`; yields ((photo, now), status, PNG, latent, delta)."""
    session = context.session(request)
    stop = session.begin("find")
    session.results.pop("photo", None)
    image = uploads.photo(photo)
    yield gr.skip(), status("Looking for the subject in the photo ..."), *[gr.skip()] * 3
    loaded = context.generator(network, "job")
    G, size = loaded.G, (loaded.G.img_width, loaded.G.img_height)
    class_index = 0 if G.c_dim else None
    crop = central_crop(image.size, size) if centre else choose_crop(G, image, class_index)
    target = to_target(cut(image, crop, size), G.img_channels)
    measure = load_distance("auto", context.device)
    settings = {"steps": int(steps), "class_index": class_index}
    settings["transform"] = isinstance(G, stylegan3.Generator)
    metadata = {"network": context.name_of(network), "network_sha256": loaded.meta["sha256"]}
    total = int(steps) + 1 + (int(tune_steps) + 1 if tune_steps else 0)
    folder = context.new_folder(session, "photo")
    recording = ProjectionRecord(folder, G, target, total, metadata=metadata, photo=(image, crop))
    before = shown(to_uint8(target)[0])
    with recording:
        stages = [("Finding", int(steps), lambda: project(G, target, measure, **settings))]
        if tune_steps:
            learn = _tuning(recording, target, measure, int(tune_steps), class_index)
            stages.append(("Learning", int(tune_steps), learn))
        for name, most, begin in stages:
            if not stop.is_set():
                yield from _drain(recording, begin(), name, most, before, stop)
    yield _finished(session, recording, before, stop.is_set())


def _tuning(recording: ProjectionRecord, target, measure, steps: int, class_index):
    def begin():
        settings = {"steps": steps, "class_index": class_index}
        return tune(recording.network(), recording.projected.ws, target, measure, **settings)

    return begin


def _drain(recording, steps, name: str, most: int, before, stop) -> Iterator[tuple]:
    distances, began, last = [], time.monotonic(), 0.0
    for step in steps:
        recording.add(step)
        distances.append(step.distance)
        if stop.is_set():
            return
        now = time.monotonic()
        if now - last < PREVIEW_INTERVAL_S:
            continue
        last, share = now, step.index / max(most, 1)
        line = f"{name}: step {step.index} of {most}, distance {step.distance:.4f}"
        line += theme.to_go(share, began, now)
        view = shown(to_uint8(step.image)[0])
        drawn = status(line, {"Distance": distances}, share)
        yield (before, view), drawn, *[gr.skip()] * 3


def _finished(session: Session, recording: ProjectionRecord, before, stopped: bool) -> tuple:
    last = recording.tuned or recording.projected
    G = recording.network() if recording.tuned is None else recording.tuned.tuning.G
    folder = recording.outdir
    session.results["photo"] = Found(EditedLatent(recording.projected.ws), G, folder)
    word = "Stopped" if stopped else "Found"
    line = f"{word} at a distance of {last.distance:.4f}. Now edit it with the sliders."
    delta = folder / "delta.safetensors"
    files = [str(folder / "comparison.png"), str(folder / "latent.safetensors")]
    files.append(str(delta) if delta.exists() else None)
    return (before, shown(to_uint8(last.image)[0])), status(line), *files


def command(
    context: Context, network: str, photo=None, steps=0, tune_steps=0, centre=False, **_
) -> tuple[str, dict[str, str]]:
    """Finding the photo as a command, and the options by which `sg3 edit` takes what it found."""
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
    """The fields; returns inputs by name, the buttons (find, stop), and the downloads."""
    file = gr.File(label="Photo", file_types=["image"], height=120)
    with gr.Row():
        hint = "Of its latent"
        steps = gr.Slider(0, 600, 150, step=10, label="Search steps", info=hint, min_width=140)
        hint = "Of the network itself"
        more = gr.Slider(0, 400, 100, step=10, label="Tuning steps", info=hint, min_width=140)
    hint = "Otherwise the part that looks most like the network's pictures"
    centre = gr.Checkbox(label="Take the centre of the photo", info=hint)
    with gr.Row(elem_classes="tight"):
        run = gr.Button("Find it", variant="primary", min_width=90)
        stop = gr.Button("Stop", variant="stop", interactive=False, min_width=90)
    files = theme.downloads("Comparison", "Photo's latent", "Photo's delta")
    inputs = {"photo": file, "network": network, "steps": steps, "tune_steps": more}
    return inputs | {"centre": centre}, [run, stop], files
