"""Steer tab: a prompt pulls an image, step by step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

import guidance
from app_tabs import theme, uploads
from app_tabs.context import Context, Loaded, Session, callback, vocabulary_note
from app_tabs.theme import image_view, seed_field, shown, status
from app_tabs.wiring import QUIET, Actions, JobControls, command_box, command_line, jobs
from guidance.directions import EditedLatent, read_latent
from guidance.encoders import is_mini, unknown_words
from guidance.prompts import image_prompt, parse_prompts
from guidance.steering.config import SteerConfig
from guidance.steering.record import SteeringRecord
from sg3.media import to_uint8

PREVIEW_INTERVAL_S = 0.15
HINT = "Enter a prompt and press Steer."
EXAMPLES = (
    "a smiling woman with red hair and sunglasses",
    "a man with a green hat",
    "a bald man with a beard",
    "a woman with long blond hair, blue background",
)
STARTS = {"Best candidate": "best", "Seed": "seed", "Latent file": "latent"}
SPACES = {"w: one latent": "w", "w+: one per layer": "w+", "s: every channel": "s"}
FILES = ("end.png", "steer.mp4", "latent.safetensors")


def config_of(values: dict[str, Any]) -> SteerConfig:
    """Build the configuration from the values of the controls."""
    start = STARTS[values["start"]]
    return SteerConfig(
        steps=int(values["steps"]),
        seed=int(values["seed"] or 0),
        start="seed" if start == "latent" else start,
        candidates=int(values["candidates"]),
        space=SPACES[values["space"]],
        layers=(values["layers"] or "").strip() or None,
        cutouts=int(values["cutouts"]) or None,
    )


def prompts_of(values: dict[str, Any]) -> list:
    """Text and image prompts with their weights."""
    text = (values["prompt"] or "").strip()
    found = list(parse_prompts(text)) if text or not values["images"] else []
    for path in values["images"] or ():
        uploads.check_image(path)
        found.append(image_prompt(Path(path), values["image_weight"]))
    return found


def region_of(drawn: dict | None, size: tuple[int, int]) -> Image.Image | None:
    """Convert what was painted in the editor to a mask of `size`: white where painted.

    Returns None if nothing was painted.
    """
    layers = [layer for layer in (drawn or {}).get("layers") or () if layer is not None]
    if not layers or layers[0].getbands()[-1] != "A":
        return None
    painted = layers[0].getchannel("A").point(lambda alpha: 255 if alpha else 0)
    return painted.resize(size, Image.Resampling.BOX) if painted.getbbox() else None


def start_of(values: dict[str, Any], loaded: Loaded) -> EditedLatent | None:
    """Read the uploaded latent if the run starts from one."""
    if STARTS[values["start"]] != "latent":
        return None
    path = uploads.tensors(values["latent_file"], "latent")
    return read_latent(path, loaded.G, loaded.meta["sha256"])


def steer(
    context: Context, request: gr.Request, network: str | None, **values: Any
) -> Iterator[tuple]:
    """Run `guidance.steer`; yield (start, current, status, Continue, PNG, MP4, latent)."""
    yield from _run(context, context.session(request), network, values, None)


def resume(
    context: Context, request: gr.Request, network: str | None, **values: Any
) -> Iterator[tuple]:
    """Steer from the result of this visitor's last run, with the current settings."""
    session = context.session(request)
    if "steer" not in session.results:
        raise ValueError("steer: there is no run to continue; press Steer")
    yield from _run(context, session, network, values, session.results["steer"])


def _run(
    context: Context, session: Session, network: str | None, values: dict[str, Any], latent: Any
) -> Iterator[tuple]:
    stop, idle = session.begin("steer"), gr.update(interactive=False)
    yield gr.skip(), gr.skip(), status("Choosing a start ..."), idle, *[gr.skip()] * 3
    loaded, encoder = context.generator(network, "job"), context.encoder()
    prompts = prompts_of(values)
    run = guidance.steer(
        loaded.G,
        prompts,
        encoder,
        config=config_of(values),
        start_ws=start_of(values, loaded) if latent is None else latent,
        region=region_of(values["mask"], (loaded.G.img_width, loaded.G.img_height)),
    )
    texts = [prompt.text for prompt in prompts if prompt.image is None]
    note = vocabulary_note(encoder, *texts)
    folder = context.new_folder(session, "steer")
    losses, began, last, first = [], time.monotonic(), 0.0, None
    origin = {"network": context.name_of(network), "network_sha256": loaded.meta["sha256"]}
    with SteeringRecord(folder, metadata=origin) as recording:
        for step in run:
            recording.add(step)
            losses.append(step.loss)
            if stop.is_set():
                break
            now = time.monotonic()
            if step.index and now - last < PREVIEW_INTERVAL_S:
                continue
            last, done = now, step.index / max(step.num_steps, 1)
            line = f"Step {step.index} of {step.num_steps}, loss {step.loss:.3f}"
            line += theme.remaining(done, began, now) + note
            view = shown(to_uint8(step.image)[0])
            first = first or view
            start = gr.skip() if step.index else view
            yield start, view, status(line, losses, done), *[gr.skip()] * 4
    session.results["steer"] = step.latent
    session.results["steer_latent"] = str(folder / "latent.safetensors")
    word = "Stopped" if stop.is_set() else "Done"
    line = f"{word} after {step.index} steps in {time.monotonic() - began:.0f} s, "
    line += f"loss {losses[0]:.3f} → {losses[-1]:.3f}{note}"
    files = [str(folder / name) for name in FILES]
    view = shown(to_uint8(step.image)[0])
    yield first or view, view, status(line, losses), gr.update(interactive=True), *files


def command(context: Context, request: gr.Request, network: str | None, **values: Any) -> str:
    """The equivalent command; after a run, a second one that continues from its latent."""
    start, config, usual = STARTS[values["start"]], config_of(values), SteerConfig()
    images = uploads.keep(context, *(values["images"] or ()))
    size = (context.generator(network).G.img_width, context.generator(network).G.img_height)
    painted = region_of(values["mask"], size)
    given = None
    if start == "latent":
        (given,) = uploads.keep(context, str(uploads.tensors(values["latent_file"], "latent")))
    prompt = (values["prompt"] or "").strip() or None
    if prompt is None and not images:
        raise ValueError("prompt: got none; enter a text")
    common = {
        "image": [f"{name}:{values['image_weight']:g}" for name in images],
        "network": context.name_of(network),
        "clip": context.clip,
        "seed": config.seed,
        "steps": config.steps,
        "space": config.space if config.space != usual.space else None,
        "layers": config.layers,
        "cutouts": config.cutouts,
        "region": painted and uploads.keep_image(context, painted, "mask.png"),
    }
    first = {
        "start": start if start == "seed" else None,
        "latent": given,
        "candidates": config.candidates if start == "best" else None,
    }
    line = command_line("steer", prompt, **first, **common)
    reached = context.session(request).results.get("steer_latent")
    if reached is None or context.public:
        return line
    return f"{line}\n{command_line('steer', prompt, latent=reached, **common)}"


def note_words(context: Context, request: gr.Request, prompt: str) -> str:
    """Hint about words of the prompt that the encoder does not know."""
    return theme.unknown(unknown_words(context.encoder(), [prompt or ""]))


def _start_fields() -> dict[str, gr.components.Component]:
    with gr.Accordion("Start and space", open=False):
        names = list(STARTS)
        start = gr.Radio(names, value=names[0], label="Start", info="What to start from")
        with gr.Row():
            hint = "Of the start and the views"
            seed = seed_field("Seed", info=hint, min_width=120)
            hint = "Images to choose from"
            count = gr.Slider(1, 128, 64, step=1, label="Candidates", info=hint, min_width=140)
        latent = gr.File(label="Latent", file_types=[".safetensors"], height=100, visible=False)
        hint = "More freedom, but further from the training distribution"
        space = gr.Radio(list(SPACES), value=next(iter(SPACES)), label="Space", info=hint)
        hint = "Layers that may change, for example 0-4 or L3-L5; empty: all"
        layers = gr.Textbox("", label="Layers", info=hint)
        hint = "Random views per step; 0 = automatic"
        views = gr.Slider(0, 64, 0, step=1, label="Cutouts", info=hint)
    start.change(
        lambda chosen: [
            gr.update(visible=STARTS[chosen] == "best"),
            gr.update(visible=STARTS[chosen] == "latent"),
        ],
        start,
        [count, latent],
        **QUIET,
    )
    fields = {"start": start, "seed": seed, "candidates": count, "latent_file": latent}
    return fields | {"space": space, "layers": layers, "cutouts": views}


def _more_fields(now: gr.Image) -> dict[str, gr.components.Component]:
    with gr.Accordion("Image prompts", open=False):
        files = gr.File(label="Images", file_count="multiple", file_types=["image"], height=110)
        hint = "The text prompt has weight 1; negative values push away"
        weight = gr.Slider(-2, 2, 1, step=0.1, label="Weight of the images", info=hint)
    with gr.Accordion("Region", open=False):
        take = gr.Button("Copy the current image", size="md")
        mask = gr.ImageEditor(
            label="Paint the region that may change",
            type="pil",
            sources=(),
            transforms=(),
            layers=False,
            brush=gr.Brush(default_size=40, colors=["#0f766ecc"], color_mode="fixed"),
            canvas_size=(theme.SHOWN_PX, theme.SHOWN_PX),
            height=420,
        )
    take.click(lambda image: image, now, mask, **QUIET)
    return {"images": files, "image_weight": weight, "mask": mask}


def build(context: Context, network: gr.Dropdown, demo: gr.Blocks, first: Image.Image) -> None:
    """Build the tab; `first` is the image it shows at first."""
    with gr.Row():
        with gr.Column(min_width=300, scale=5, elem_classes="stick"):
            with gr.Row():
                alt = "The image before steering"
                start = image_view("Start", alt, value=first, min_width=120)
                alt = "The image being steered"
                now = image_view("Current", alt, value=first, min_width=120)
            line = gr.HTML(status(HINT), label="Status", elem_classes="line")
            save = theme.downloads("Save PNG", "Save MP4", "Save latent")
        with gr.Column(min_width=300, scale=4):
            hint = "Several: one | another:1.5 | not this:-0.5"
            prompt = gr.Textbox(EXAMPLES[0], label="Prompt", info=hint, max_lines=4)
            unknown = gr.HTML(padding=False, elem_classes="words")
            with gr.Row(elem_classes="tight"):
                run = gr.Button("Steer", variant="primary", min_width=90)
                stop = gr.Button("Stop", variant="stop", interactive=False, min_width=90)
                again = gr.Button("Continue", interactive=False, min_width=90)
            examples = gr.Examples([[e] for e in EXAMPLES], [prompt], label="Or click an example")
            hint = "More steps refine the result"
            steps = gr.Slider(10, 500, 60, step=10, label="Steps", info=hint)
            fields = {"network": network, "prompt": prompt, "steps": steps}
            inputs = fields | _start_fields() | _more_fields(now)
            if is_mini(context.clip):
                with gr.Accordion("Vocabulary of the bundled encoder", open=False):
                    gr.Markdown(theme.words())
    shown_command = command_box(
        context, demo, command, inputs, "After a run, the second line continues it"
    )
    noting = callback(context, note_words, ["prompt"])
    prompt.change(noting, prompt, unknown, trigger_mode="always_last", **QUIET)
    outputs = [start, now, line, again, *save]
    starts = [run.click, prompt.submit]
    actions: Actions = {"steer": (starts, steer), "steer_continue": ([again.click], resume)}
    controls = JobControls(line, [run], stop, HINT, save)
    for ran in jobs(context, "steer", actions, inputs, outputs, controls, examples):
        ran.success(**shown_command)
