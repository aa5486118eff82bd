"""New adaptation, in the Adapt tab: a text moves the network into another domain."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from PIL import Image

import nada
from app_tabs import delta_sliders, theme, uploads
from app_tabs.context import Context, Session, callback, vocabulary_note
from app_tabs.theme import image_view, shown, status
from app_tabs.wiring import HIDDEN, LIVE, Actions, JobControls, command_box, command_line, jobs
from guidance.commands.common import slug
from guidance.latents import map_latents, seed_latents
from nada.adaptation_record import AdaptationRecord
from nada.config import RecordConfig, usual_config
from nada.layers import PHASES
from nada.state import arguments_of
from nada.target_images import load_target_images
from sg3.checkpoints.delta import weights_hash
from sg3.generate import generate_from_latents
from sg3.media import image_grid

HINT = "Describe what the network shows now and what it should show."
EXAMPLES = [["face", "zombie"], ["face", "a robot"], ["a face", "a pencil sketch of a face"]]
SHOWN, COLUMNS = 8, 4
#: Previews take at most this fraction of the time, and have at least this interval.
PREVIEW_FRACTION, PREVIEW_INTERVAL_S = 0.2, 0.4


def text_model(context: Context) -> str:
    """Encoder for adaptation: of the bundled ones, that with the smoother gradients."""
    return "mini-smooth" if context.clip == "mini" else context.clip


def grid(images: torch.Tensor) -> Image.Image:
    """Convert the first eight of `images` `[N, C, H, W]` to one image for the page."""
    return shown(image_grid(images[:SHOWN], COLUMNS))


def adapt(
    context: Context,
    request: gr.Request,
    source: str,
    target: str,
    images: list[str] | None,
    network: str | None,
    steps: float,
    layers: str,
) -> Iterator[tuple]:
    """Start `nada.adapt` and run it; yield (before, current, status, Continue, *files)."""
    session = context.session(request)
    session.begin("adapt")
    session.results.pop("adapt", None)  # frees the memory of the previous run before loading
    idle = gr.update(interactive=False)
    yield gr.skip(), gr.skip(), status("Preparing ..."), idle, *[gr.skip()] * 3
    loaded, encoder = context.generator(network, "job"), context.encoder(text_model(context))
    folder = context.new_folder(session, f"adapt-{slug(target or 'images', 24)}")
    found = uploads.images(images, folder / "target")
    settings: dict[str, Any] = {"steps": int(steps), "layers": layers}
    targets = None if found is None else load_target_images(found, encoder.input_size_px)
    run = nada.adapt(
        loaded.G,
        None if found else source,
        None if found else target,
        encoder,
        target_images=targets,
        **settings,
    )
    known = {"network": weights_hash(loaded.G), "clip": text_model(context)}
    meta = {"source": loaded.meta.get("name"), "texts": [source, target]}
    decisive = arguments_of(run, **known, target_images=None)
    config = RecordConfig(image_every=10**9, video=False)
    session.results["adapt"] = AdaptationRecord(run, folder, decisive, config, meta)
    yield from resume(context, request, source, target)


def resume(
    context: Context,
    request: gr.Request,
    source: str | None = None,
    target: str | None = None,
    **_: Any,
) -> Iterator[tuple]:
    """Run the session's adaptation from its current step; yields like `adapt`."""
    session = context.session(request)
    stop = session.begin("adapt")
    record = session.results.get("adapt")
    if record is None or record.adaptation.reason is not None:
        raise ValueError("adapt: there is no stopped run to continue; press Adapt")
    run, idle = record.adaptation, gr.update(interactive=False)
    before, total = grid(run.render(run.source)), run.config.steps
    yield before, gr.skip(), status("Starting ..."), idle, *[gr.skip()] * 3
    note = vocabulary_note(context.encoder(text_model(context)), source, target)
    began, first, last, cost, step = time.monotonic(), run.index, 0.0, 0.0, None
    while not stop.is_set() and (step := next(run, None)) is not None:
        record.add(step)
        now = time.monotonic()
        if now - last < max(PREVIEW_INTERVAL_S, cost / PREVIEW_FRACTION):
            continue
        view = grid(step.image)
        last, cost = time.monotonic(), time.monotonic() - now
        done = (step.index - first) / max(total - first, 1)
        line = f"Step {step.index} of {total}{theme.remaining(done, began, last)}{note}"
        drawn = status(line, curves(record.records), step.index / max(total, 1))
        yield gr.skip(), view, drawn, idle, *[gr.skip()] * 3
    yield gr.skip(), gr.skip(), status("Writing ..."), idle, *[gr.skip()] * 3
    yield before, *_finished(session, record, target, note)


def _finished(session: Session, record: AdaptationRecord, target: str | None, note: str) -> tuple:
    outcome, folder = record.finish(), record.outdir
    ended = outcome.reason or "stopped"
    line = f"After {outcome.index} steps: {ended}; agreement {outcome.check.agreement:.2f}, "
    line += f"diversity {outcome.check.diversity:.2f}{note}"
    name = f"{target or 'images'}, {outcome.index} steps"
    delta_sliders.remember(session, name, folder / "delta.safetensors")
    names = ("delta.safetensors", "sheet.png", "adapted.safetensors")
    files = [str(folder / name) for name in names]
    view = grid(record.adaptation.render())
    again = gr.update(interactive=outcome.reason is None)
    return view, status(line, curves(record.records)), again, *files


def curves(records: list[dict]) -> dict[str, list[float]]:
    """Curves of the lines of an `AdaptationRecord`."""
    losses = [r["loss"] for r in records if r["loss"] is not None and math.isfinite(r["loss"])]
    checks = [r for r in records if "diversity" in r]
    return {
        "Loss": losses,
        "Diversity": [r["diversity"] for r in checks],
        "Agreement": [r["agreement"] for r in checks],
    }


def begin(context: Context, request: gr.Request, network: str | None) -> list:
    """Render the eight images a run would start from, unless the page shows those of a run."""
    if "adapt" in context.session(request).results:
        return [gr.skip(), gr.skip()]
    G, usual = context.generator(network).G, usual_config(text_model(context))
    z = seed_latents(usual.seed, usual.check_batch, G.z_dim)[:SHOWN]
    ws = map_latents(G, z, 0 if G.c_dim else None, usual.truncation)
    made = np.stack([each.image for each in generate_from_latents(G, ws)])
    return [shown(image_grid(made, COLUMNS))] * 2


def command(
    context: Context,
    request: gr.Request,
    source: str,
    target: str,
    images: list[str] | None,
    network: str | None,
    steps: float,
    layers: str,
) -> str:
    """The equivalent command."""
    texts = {"source": source, "target": target}
    return command_line(
        "adapt",
        **({"target_images": _folder(context, images)} if images else texts),
        network=context.name_of(network),
        clip=text_model(context),
        steps=int(steps),
        layers=layers,
    )


def _folder(context: Context, images: list[str]) -> str:
    folders = {str(Path(path).parent) for path in uploads.keep(context, *images)}
    return "FOLDER" if context.public else folders.pop()


def build(
    context: Context, network: gr.Dropdown, demo: gr.Blocks, tab: gr.Tab, deltas: list
) -> None:
    """Build the components, rendered when `tab` opens; `deltas` are the fields that will offer
    the new delta."""
    with gr.Row():
        with gr.Column(min_width=300, scale=5, elem_classes="stick"):
            before = image_view("Before", "Eight images of the original network")
            now = image_view("Current", "The same eight images of the adapted network")
            line = gr.HTML(status(HINT), label="Status", elem_classes="line")
            labels = ("Save delta", "Save PNG", "Save network")
            save = theme.downloads(*labels)
        with gr.Column(min_width=300, scale=4):
            with gr.Row():
                hint = "What the network shows now"
                source = gr.Textbox("face", label="Source", info=hint, min_width=120)
                hint = "What it should show"
                target = gr.Textbox("zombie", label="Target", info=hint, min_width=120)
            with gr.Row(elem_classes="tight"):
                run = gr.Button("Adapt", variant="primary", min_width=90)
                stop = gr.Button("Stop", variant="stop", interactive=False, min_width=90)
                again = gr.Button("Continue", interactive=False, min_width=90)
            gr.Examples(
                EXAMPLES,
                [source, target],
                label="Or click an example",
                example_labels=[f"{a} → {b}" for a, b in EXAMPLES],
            )
            usual = usual_config(text_model(context))
            hint = "Upper limit; training stops early if nothing improves"
            steps = gr.Slider(10, 1000, usual.steps, step=10, label="Steps", info=hint)
            hint = "Layers to train; names such as L0-L3,torgb work too"
            layers = gr.Dropdown(
                [*PHASES, "auto"],
                value=usual.layers,
                label="Layers",
                info=hint,
                allow_custom_value=True,
            )
            with gr.Accordion("Target images instead of texts", open=False):
                files = gr.File(
                    label="Images of the target",
                    file_count="multiple",
                    file_types=["image"],
                    height=140,
                )
    inputs = {"source": source, "target": target, "images": files, "network": network}
    inputs |= {"steps": steps, "layers": layers}
    command_box(context, demo, command, inputs)
    first = {"fn": callback(context, begin, ["network"], "live"), "inputs": network, **LIVE}
    first |= {"outputs": [before, now], **HIDDEN}
    tab.select(**first)
    outputs = [before, now, line, again, *save]
    starts = [run.click, source.submit, target.submit]
    actions: Actions = {"adapt": (starts, adapt), "adapt_continue": ([again.click], resume)}
    controls = JobControls(line, [run], stop, HINT, save)
    for ran in jobs(context, "adapt", actions, inputs, outputs, controls):
        delta_sliders.offer_after(context, ran, deltas)
