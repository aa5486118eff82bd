"""Steer: a text pulls a picture, step by step."""

from __future__ import annotations

import time
from collections.abc import Iterator

import gradio as gr

import guidance
from app_tabs import look
from app_tabs.context import Context, callback, unknown_words
from app_tabs.look import picture, seed_field, shown, status
from app_tabs.wiring import QUIET, Desk, command_box, command_line, jobs
from guidance.encoders import is_mini
from guidance.prompts import parse_prompts
from guidance.record import Recording
from sg3.media import to_uint8

PREVIEW_INTERVAL_S = 0.15
HINT = "Type a text and press Steer."
EXAMPLES = (
    "a smiling woman with red hair and sunglasses",
    "a man with a green hat",
    "a bald man with a beard",
    "a woman with long blond hair, blue background",
)


def steer(
    context: Context, request: gr.Request, prompt, network, seed, candidates, steps
) -> Iterator[tuple]:
    """Drain `guidance.steer`; yields (start, now, status, PNG, MP4, latent)."""
    session = context.session(request)
    stop = session.begin("steer")
    yield gr.skip(), gr.skip(), status("Looking for a start ..."), *look.not_ready(3)
    encoder, texts = context.encoder(), parse_prompts(prompt)
    strangers = dict.fromkeys(unknown_words(encoder, *(p.text for p in texts)))
    note = f" (unknown words: {', '.join(strangers)})" if strangers else ""
    run = guidance.steer(
        context.generator(network, "job").G,
        texts,
        encoder,
        steps=int(steps),
        seed=int(seed or 0),
        candidates=int(candidates),
    )
    folder = context.new_folder(session, "steer")
    losses, began, last = [], time.monotonic(), 0.0
    with Recording(folder) as recording:
        for step in run:
            recording.add(step)
            losses.append(step.loss)
            if stop.is_set():
                break
            now = time.monotonic()
            if step.index and now - last < PREVIEW_INTERVAL_S:
                continue
            last, share = now, step.index / max(step.num_steps, 1)
            line = f"Step {step.index} of {step.num_steps}, loss {step.loss:.3f}"
            line += look.to_go(share, began, now) + note
            view = shown(to_uint8(step.image)[0])
            start = gr.skip() if step.index else view
            yield start, view, status(line, losses, share), *[gr.skip()] * 3
    word = "Stopped" if stop.is_set() else "Done"
    line = f"{word} after {step.index} steps in {time.monotonic() - began:.0f} s, "
    line += f"loss {losses[0]:.3f} → {losses[-1]:.3f}{note}"
    files = [look.ready(folder / name) for name in ("end.png", "steer.mp4", "latent.safetensors")]
    yield gr.skip(), shown(to_uint8(step.image)[0]), status(line, losses), *files


def command(context: Context, request, prompt, network, seed, candidates, steps) -> str:
    """The same as a command."""
    return command_line(
        "steer",
        prompt,
        network=context.name_of(network),
        clip=context.clip,
        seed=int(seed or 0),
        candidates=int(candidates),
        steps=int(steps),
    )


def note_words(context: Context, request: gr.Request, prompt: str) -> str:
    """Which words of a text the text model does not know."""
    return look.unknown(unknown_words(context.encoder(), prompt or ""))


def build(context: Context, network: gr.Dropdown, demo: gr.Blocks, first) -> None:
    """The tab's widgets and what they do; `first` is the picture that stands there."""
    with gr.Row():
        with gr.Column(min_width=300, scale=5, elem_classes="stick"):
            with gr.Row():
                start = picture("Start", "The image before steering", value=first, min_width=120)
                alt = "The image while the text pulls it"
                now = picture("Now", alt, value=first, min_width=120)
            line = gr.HTML(status(HINT), elem_classes="line")
            save = look.downloads("Save PNG", "Save MP4", "Save latent")
        with gr.Column(min_width=300, scale=4):
            prompt = gr.Textbox(EXAMPLES[0], label="Text", max_lines=4)
            strangers = gr.HTML()
            with gr.Row():
                run = gr.Button("Steer", variant="primary", min_width=120)
                stop = gr.Button("Stop", variant="stop", interactive=False, min_width=120)
            examples = gr.Examples([[e] for e in EXAMPLES], [prompt], label="Or click an example")
            with gr.Accordion("Options", open=False):
                seed = seed_field("Start seed")
                hint = "Candidates for the start"
                candidates = gr.Slider(1, 128, 64, step=1, label="Best of", info=hint)
                steps = gr.Slider(10, 200, 60, step=10, label="Steps")
            if is_mini(context.clip):
                with gr.Accordion("Words the small text model knows", open=False):
                    gr.Markdown(look.words())
    inputs = {"prompt": prompt, "network": network, "seed": seed}
    inputs |= {"candidates": candidates, "steps": steps}
    command_box(context, demo, command, inputs)
    noting = callback(context, note_words, ["prompt"])
    prompt.change(noting, prompt, strangers, trigger_mode="always_last", **QUIET)
    outputs = [start, now, line, *save]
    actions = {"steer": ([run.click, prompt.submit], steer)}
    jobs(context, "steer", actions, inputs, outputs, Desk(line, [run], stop, HINT), examples)
