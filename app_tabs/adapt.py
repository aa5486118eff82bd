"""Adapt: a text teaches the network a new look."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
import torch

import nada
from app_tabs import delta_sliders, theme, uploads
from app_tabs.context import Context, callback, unknown_words
from app_tabs.theme import picture, shown, status
from app_tabs.wiring import LIVE, Desk, command_box, command_line, jobs
from guidance.commands.steer import slug
from guidance.latents import map_latents, seed_latents
from nada.adaptation_record import RecordConfig, Recording
from nada.config import usual_config
from nada.layers import PHASES
from nada.state import arguments_of
from nada.target_images import load_pictures
from sg3.checkpoints.delta import weights_hash
from sg3.generate import generate_from_latents
from sg3.media import image_grid

HINT = "Say what the network shows now, and what it should show."
EXAMPLES = [["face", "zombie"], ["face", "a robot"], ["a face", "a pencil sketch of a face"]]
SHOWN, COLUMNS = 8, 4
#: A look at the pictures costs time: at most this share of it, and no more often than that.
PREVIEW_SHARE, PREVIEW_INTERVAL_S = 0.2, 0.4


def text_model(context: Context) -> str:
    """Of the bundled models, the one whose gradients suit adaptation."""
    return "mini-smooth" if context.clip == "mini" else context.clip


def grid(images: torch.Tensor):
    """The first eight of `images` `[N, C, H, W]`, as the page shows them."""
    return shown(image_grid(images[:SHOWN], COLUMNS))


def adapt(
    context: Context, request: gr.Request, source, target, pictures, network, steps, layers
) -> Iterator[tuple]:
    """Drain a new `nada.adapt`; yields (before, now, status, Go on, files, choices of deltas)."""
    session = context.session(request)
    session.begin("adapt")
    session.results.pop("adapt", None)  # frees the last one before there is another
    idle = gr.update(interactive=False)
    yield gr.skip(), gr.skip(), status("Getting ready ..."), idle, *[gr.skip()] * 3
    loaded, encoder = context.generator(network, "job"), context.encoder(text_model(context))
    folder = context.new_folder(session, f"adapt-{slug(target or 'pictures', 24)}")
    found = uploads.pictures(pictures, folder / "target")
    config = replace(usual_config(text_model(context)), steps=int(steps), layers=layers)
    images = None if found is None else load_pictures(found, encoder.input_size_px)
    run = nada.adapt(
        loaded.G,
        None if found else source,
        None if found else target,
        encoder,
        target_images=images,
        config=config,
    )
    known = {"network": weights_hash(loaded.G), "clip": text_model(context)}
    meta = {"source": loaded.meta.get("name"), "texts": [source, target]}
    decisive = arguments_of(run, **known, target_images=None)
    recording = Recording(run, folder, decisive, RecordConfig(image_every=10**9, video=False), meta)
    session.results["adapt"] = recording
    yield from go_on(context, request, source, target)


def go_on(context: Context, request: gr.Request, source=None, target=None, **_) -> Iterator[tuple]:
    """Drain the session's adaptation from where it is."""
    session = context.session(request)
    stop = session.begin("adapt")
    recording = session.results.get("adapt")
    if recording is None or recording.adaptation.reason is not None:
        raise ValueError("adapt: there is no stopped run to go on with; press Adapt")
    run, idle = recording.adaptation, gr.update(interactive=False)
    before, total = grid(run.pictures(run.source)), run.config.steps
    yield before, gr.skip(), status("Starting ..."), idle, *[gr.skip()] * 3
    note = _note(context, source, target)
    began, first, last, cost, step = time.monotonic(), run.index, 0.0, 0.0, None
    while not stop.is_set() and (step := next(run, None)) is not None:
        recording.add(step)
        now = time.monotonic()
        if now - last < max(PREVIEW_INTERVAL_S, cost / PREVIEW_SHARE):
            continue
        view = grid(step.images)
        last, cost = time.monotonic(), time.monotonic() - now
        share = (step.index - first) / max(total - first, 1)
        line = f"Step {step.index} of {total}{theme.to_go(share, began, last)}{note}"
        drawn = status(line, curves(recording.records), step.index / max(total, 1))
        yield gr.skip(), view, drawn, idle, *[gr.skip()] * 3
    yield gr.skip(), gr.skip(), status("Writing ..."), idle, *[gr.skip()] * 3
    yield before, *_finished(session, recording, source, target, note)


def _finished(session, recording, source, target, note):
    outcome, folder = recording.finish(), recording.outdir
    ended = outcome.reason or "stopped"
    line = f"After {outcome.index} steps: {ended}; agreement {outcome.check.agreement:.2f}, "
    line += f"diversity {outcome.check.diversity:.2f}{note}"
    name = f"{target or 'pictures'}, {outcome.index} steps"
    delta_sliders.remember(session, name, folder / "delta.safetensors")
    names = ("delta.safetensors", "sheet.png", "adapted.safetensors")
    files = [str(folder / name) for name in names]
    view = grid(recording.adaptation.pictures())
    again = gr.update(interactive=outcome.reason is None)
    return view, status(line, curves(recording.records)), again, *files


def curves(records: list[dict]) -> dict[str, list[float]]:
    """What the page draws of a recording."""
    losses = [r["loss"] for r in records if r["loss"] is not None and math.isfinite(r["loss"])]
    checks = [r for r in records if "diversity" in r]
    return {
        "Loss": losses,
        "Diversity": [r["diversity"] for r in checks],
        "Agreement": [r["agreement"] for r in checks],
    }


def _note(context: Context, *texts) -> str:
    encoder = context.encoder(text_model(context))
    strangers = dict.fromkeys(unknown_words(encoder, *(text for text in texts if text)))
    return f" (unknown words: {', '.join(strangers)})" if strangers else ""


def begin(context: Context, request: gr.Request, network):
    """The eight pictures that a run starts from; those of a run stay."""
    if "adapt" in context.session(request).results:
        return gr.skip(), gr.skip()
    G, usual = context.generator(network).G, usual_config(text_model(context))
    z = seed_latents(usual.seed, usual.check_batch, G.z_dim)[:SHOWN]
    ws = map_latents(G, z, 0 if G.c_dim else None, usual.truncation)
    made = np.stack([each.image for each in generate_from_latents(G, ws)])
    return [shown(image_grid(made, COLUMNS))] * 2


def command(context: Context, request, source, target, pictures, network, steps, layers) -> str:
    """The same as a command."""
    texts = {"source": source, "target": target}
    return command_line(
        "adapt",
        **({"target_images": _folder(context, pictures)} if pictures else texts),
        network=context.name_of(network),
        clip=text_model(context),
        steps=int(steps),
        layers=layers,
    )


def _folder(context: Context, pictures: list[str]) -> str:
    folders = {str(Path(path).parent) for path in uploads.keep(context, *pictures)}
    return "FOLDER" if context.public else folders.pop()


def build(
    context: Context, network: gr.Dropdown, demo: gr.Blocks, tab: gr.Tab, deltas: list
) -> None:
    """The widgets and what they do; drawn when `tab` opens. `deltas` are the fields that offer
    what was learned."""
    with gr.Row():
        with gr.Column(min_width=300, scale=5, elem_classes="stick"):
            before = picture("Before", "Eight pictures of the network as it was")
            now = picture("Now", "The same eight while the text pulls the network")
            line = gr.HTML(status(HINT), label="Status", elem_classes="line")
            labels = ("Save delta", "Save PNG", "Save network")
            save = theme.downloads(*labels)
        with gr.Column(min_width=300, scale=4):
            with gr.Row():
                hint = "What it shows now"
                source = gr.Textbox("face", label="From", info=hint, min_width=120)
                hint = "What it should show"
                target = gr.Textbox("zombie", label="To", info=hint, min_width=120)
            with gr.Row(elem_classes="tight"):
                run = gr.Button("Adapt", variant="primary", min_width=90)
                stop = gr.Button("Stop", variant="stop", interactive=False, min_width=90)
                again = gr.Button("Go on", interactive=False, min_width=90)
            gr.Examples(
                EXAMPLES,
                [source, target],
                label="Or click an example",
                example_labels=[f"{a} → {b}" for a, b in EXAMPLES],
            )
            usual = usual_config(text_model(context))
            hint = "At most; it ends when the curves say so"
            steps = gr.Slider(10, 1000, usual.steps, step=10, label="Steps", info=hint)
            hint = "Which layers may change; names such as L0-L3,torgb are taken, too"
            layers = gr.Dropdown(
                [*PHASES, "auto"],
                value=usual.layers,
                label="Layers",
                info=hint,
                allow_custom_value=True,
            )
            with gr.Accordion("Pictures instead of a text", open=False):
                files = gr.File(
                    label="A few pictures of the target",
                    file_count="multiple",
                    file_types=["image"],
                    height=140,
                )
    inputs = {"source": source, "target": target, "pictures": files, "network": network}
    inputs |= {"steps": steps, "layers": layers}
    command_box(context, demo, command, inputs)
    first = {"fn": callback(context, begin, ["network"], "live"), "inputs": network, **LIVE}
    first |= {"outputs": [before, now], "api_visibility": "private"}
    tab.select(**first)
    outputs = [before, now, line, again, *save]
    starts = [run.click, source.submit, target.submit]
    actions = {"adapt": (starts, adapt), "adapt_go_on": ([again.click], go_on)}
    desk = Desk(line, [run], stop, HINT, save)
    for ran in jobs(context, "adapt", actions, inputs, outputs, desk):
        delta_sliders.offer_after(context, ran, deltas)
