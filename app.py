"""The demo page: ``sg3 app`` or ``python app.py``.

Two tabs on one network. Generate turns a seed into an image that sliders move; Steer lets a text
pull an image, step by step, live. The page holds widgets only: its callbacks drain the iterators
that the command line drains. Nothing is fetched from outside this machine.
"""

from __future__ import annotations

import html
import os
import random
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

# Gradio reads these when it is imported: no telemetry, no model hub.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import click
import gradio as gr
import numpy as np
import torch
from PIL import Image

import guidance
import sg3
from guidance.encoders import Encoder, load_encoder
from guidance.prompts import parse_prompts
from guidance.record import Recording
from recipes.minifaces import captions
from sg3.cli.main import cli
from sg3.cli.options import debug_option, device_option, network_option, resolve_device
from sg3.files import prepare_folder
from sg3.generate import generate_images
from sg3.media import save_png, to_uint8

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SHOWN_PX = 512
PREVIEW_INTERVAL_S = 0.15
MAX_SEED = 2**32 - 1
TRUNCATION = 0.7
HINT = "Type a text and press Steer."
EXAMPLES = (
    "a smiling woman with red hair and sunglasses",
    "a man with a green hat",
    "a bald man with a beard",
    "a woman with long blond hair, blue background",
)
CSS = """
.gradio-container main { width: 100%; max-width: 1040px !important; margin: 0 auto !important; }
.picture img { width: 100% !important; height: auto !important; }
.curve { display: block; width: 100%; height: 96px; margin-top: 6px; }
.status { font-variant-numeric: tabular-nums; min-height: 1.5em; }
"""


@dataclass(frozen=True)
class Page:
    """What the page runs on; ``network`` is what the network field says at first."""

    network: str
    clip: str
    device: torch.device
    outdir: Path
    # A page that others can reach must not open files or addresses of their choice.
    network_is_fixed: bool = False
    stops: dict[str, threading.Event] = field(default_factory=dict)

    def generator(self, network: str, tab: str) -> torch.nn.Module:
        """The generator of a network; each tab has its own, because Generate moves its input."""
        name = self.network if self.network_is_fixed else network.strip()
        return _generator(name, self.device, tab)

    def encoder(self) -> Encoder:
        return _encoder(self.clip, self.device)


@lru_cache(maxsize=4)
def _generator(network: str, device: torch.device, tab: str) -> torch.nn.Module:
    return sg3.load(network, device=device).G_ema


@lru_cache(maxsize=1)
def _encoder(clip: str, device: torch.device) -> Encoder:
    return load_encoder(clip, device)


@contextmanager
def readable() -> Iterator[None]:
    """Show what goes wrong in a callback as one line in the page, surprises in the terminal."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, (ValueError, OSError)):
            traceback.print_exception(error)
        text = " ".join(str(error).split()) or type(error).__name__
        raise gr.Error(html.escape(text), duration=12, print_exception=False) from None


def shown(pixels: np.ndarray) -> Image.Image:
    """uint8 [H, W, C] -> a picture large enough for the page; small networks look blocky else."""
    picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    if picture.width >= SHOWN_PX:
        return picture
    size = (SHOWN_PX, round(picture.height * SHOWN_PX / picture.width))
    return picture.resize(size, Image.Resampling.BICUBIC)


def curve(losses: Sequence[float]) -> str:
    """The loss so far as an inline drawing."""
    if len(losses) < 2:
        return '<div class="curve"></div>'
    low, high = min(losses), max(losses)
    span = (high - low) or 1.0
    points = " ".join(
        f"{300 * i / (len(losses) - 1):.1f},{4 + 72 * (high - loss) / span:.1f}"
        for i, loss in enumerate(losses)
    )
    label = f"Loss from {losses[0]:.3f} to {losses[-1]:.3f}"
    return (
        f'<svg class="curve" viewBox="0 0 300 80" preserveAspectRatio="none" role="img" '
        f'aria-label="{label}"><title>{label}</title><polyline points="{points}" fill="none" '
        'stroke="var(--primary-500)" stroke-width="2" vector-effect="non-scaling-stroke"/></svg>'
    )


def status(text: str, losses: Sequence[float] = ()) -> str:
    """One line about the run above its loss curve."""
    return f'<div class="status" role="status">{html.escape(text)}</div>{curve(losses)}'


def words() -> str:
    """What the small text model has learned, one line per topic, as Markdown."""
    lines = ["It knows these attributes of a face and common other words for them:", ""]
    for name, values in captions.CLASSES.items():
        topic = name.replace("_", " ").replace("domain", "creature")
        lines.append(f"- **{topic}**: {', '.join(value for value in values if value != 'none')}")
    lines += ["", "The bundled generator draws people in flat style only; words it cannot draw "]
    lines[-1] += "(creatures, other styles) pull it towards the nearest person it knows."
    return "\n".join(lines)


def generate(page: Page, network: str, seed, psi, x, y, angle) -> tuple[Image.Image, str]:
    """One image: what the page shows, and the path of its PNG."""
    generator = page.generator(network, "generate")
    options = {"truncation_psi": psi, "translate": (x, y), "rotate_deg": angle}
    made = next(generate_images(generator, [int(seed or 0)], **options))
    path = prepare_folder(page.outdir) / f"{made.name}.png"
    save_png(path, made.image)
    return shown(made.image), str(path)


def steer(
    page: Page, prompt: str, network: str, seed, candidates, steps, request: gr.Request
) -> Iterator[tuple]:
    """Drain ``guidance.steer``; yields (start, now, status, Stop, PNG, MP4, latent)."""
    stop = page.stops[request.session_hash] = threading.Event()
    no_files = [gr.update(value=None, interactive=False)] * 3
    waiting = status("Looking for a start ...")
    yield gr.skip(), gr.skip(), waiting, gr.update(interactive=True), *no_files
    encoder, texts = page.encoder(), parse_prompts(prompt)
    unknown = [w for p in texts for w in getattr(encoder, "unknown_words", lambda _: [])(p.text)]
    note = f" (unknown words: {', '.join(dict.fromkeys(unknown))})" if unknown else ""
    run = guidance.steer(
        page.generator(network, "steer"),
        texts,
        encoder,
        steps=int(steps),
        seed=int(seed or 0),
        candidates=int(candidates),
    )
    prepare_folder(page.outdir)
    folder = Path(tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=page.outdir))
    losses, began, last = [], time.monotonic(), 0.0
    with Recording(folder) as recording:
        for step in run:
            recording.add(step)
            losses.append(step.loss)
            if stop.is_set():
                break
            if step.index and time.monotonic() - last < PREVIEW_INTERVAL_S:
                continue
            last = time.monotonic()
            now = shown(to_uint8(step.image)[0])
            line = f"Step {step.index} of {step.num_steps}, loss {step.loss:.3f}{note}"
            start = gr.skip() if step.index else now
            yield start, now, status(line, losses), *[gr.skip()] * 4
    word = "Stopped" if stop.is_set() else "Done"
    line = f"{word} after {step.index} steps in {time.monotonic() - began:.0f} s, "
    line += f"loss {losses[0]:.3f} → {losses[-1]:.3f}{note}"
    names = ("end.png", "steer.mp4", "latent.safetensors")
    files = [gr.update(value=str(folder / name), interactive=True) for name in names]
    now = shown(to_uint8(step.image)[0])
    yield gr.skip(), now, status(line, losses), gr.update(interactive=False), *files


def picture(label: str, alt: str, **kwargs) -> gr.Image:
    return gr.Image(
        label=label,
        alt_text=alt,
        type="pil",
        format="png",
        interactive=False,
        buttons=["fullscreen"],
        elem_classes="picture",
        **kwargs,
    )


def seed_field(label: str, **kwargs) -> gr.Number:
    return gr.Number(0, label=label, precision=0, minimum=0, maximum=MAX_SEED, **kwargs)


def generate_tab(page: Page, network: gr.Textbox, demo: gr.Blocks) -> None:
    with gr.Row():
        with gr.Column(min_width=300):
            image = picture("Image", "The generated image")
        with gr.Column(min_width=300):
            seed = seed_field("Seed", info="Every number is another image")
            dice = gr.Button("Random seed", variant="primary")
            hint = "0 is the mean face, 1 the full variety"
            psi = gr.Slider(0, 1.5, TRUNCATION, step=0.05, label="Truncation", info=hint)
            x = gr.Slider(-0.5, 0.5, 0, step=0.01, label="Translate x", info="In image sides")
            y = gr.Slider(-0.5, 0.5, 0, step=0.01, label="Translate y")
            hint = "Degrees, counter-clockwise"
            angle = gr.Slider(-180, 180, 0, step=1, label="Rotate", info=hint)
            with gr.Row():
                back = gr.Button("Put it back", min_width=140)
                download = gr.DownloadButton("Save PNG", min_width=140)

    def draw(*values):
        with readable():
            return generate(page, *values)

    wired = {
        "fn": draw,
        "inputs": [network, seed, psi, x, y, angle],
        "outputs": [image, download],
        "show_progress": "hidden",
        "trigger_mode": "always_last",
        "concurrency_limit": 1,
        "concurrency_id": "generate",
    }
    live = [seed.change, psi.input, x.input, y.input, angle.input, network.submit]
    gr.on(live, api_name="generate", **wired)
    demo.load(api_visibility="private", **wired)
    dice.click(lambda: random.randrange(100_000), None, seed, api_visibility="private")
    placed = back.click(lambda: (0, 0, 0), None, [x, y, angle], api_visibility="private")
    placed.then(api_visibility="private", **wired)


def steer_tab(page: Page, network: gr.Textbox, demo: gr.Blocks) -> None:
    with gr.Row():
        with gr.Column(min_width=300):
            with gr.Row():
                start = picture("Start", "The image before steering", min_width=120)
                now = picture("Now", "The image while the text pulls it", min_width=120)
            line = gr.HTML(status(HINT))
        with gr.Column(min_width=300):
            prompt = gr.Textbox(EXAMPLES[0], label="Text", max_lines=4)
            with gr.Row():
                run = gr.Button("Steer", variant="primary", min_width=120)
                stop = gr.Button("Stop", variant="stop", interactive=False, min_width=120)
            examples = gr.Examples([[e] for e in EXAMPLES], [prompt], label="Or click an example")
            with gr.Row():
                save = [
                    gr.DownloadButton(label, interactive=False, size="md", min_width=90)
                    for label in ("Save PNG", "Save MP4", "Save latent")
                ]
            with gr.Accordion("Options", open=False):
                seed = seed_field("Start seed")
                hint = "Candidates for the start"
                candidates = gr.Slider(1, 128, 64, step=1, label="Best of", info=hint)
                steps = gr.Slider(10, 200, 60, step=10, label="Steps")
            if page.clip.startswith("mini"):
                with gr.Accordion("Words the small text model knows", open=False):
                    gr.Markdown(words())

    def pull(prompt, network, seed, candidates, steps, request: gr.Request):
        try:
            with readable():
                yield from steer(page, prompt, network, seed, candidates, steps, request)
        except gr.Error:
            idle = [gr.skip(), gr.skip(), status(HINT), gr.update(interactive=False)]
            yield *idle, *[gr.skip()] * 3
            raise

    def preview(network):
        with readable():
            return [generate(page, network, 0, TRUNCATION, 0, 0, 0)[0]] * 2

    def halt(request: gr.Request):
        page.stops.get(request.session_hash, threading.Event()).set()

    wired = {
        "fn": pull,
        "inputs": [prompt, network, seed, candidates, steps],
        "outputs": [start, now, line, stop, *save],
        "show_progress": "hidden",
        "concurrency_limit": 1,
        "concurrency_id": "steer",
    }
    gr.on([run.click, prompt.submit], api_name="steer", **wired)
    examples.load_input_event.success(api_visibility="private", **wired)
    first = {"concurrency_limit": 1, "concurrency_id": "generate", "show_progress": "hidden"}
    demo.load(preview, network, [start, now], api_visibility="private", **first)
    stop.click(halt, None, None, queue=False, api_visibility="private")


def build(page: Page) -> gr.Blocks:
    """The page, not yet served."""
    text = f"Network {page.network}, text model {page.clip}."
    if (page.network, page.clip) == ("mini-faces", "mini"):
        text = "The bundled models draw cartoon faces. They run on this machine and fetch nothing."
    demo = gr.Blocks(title="sg3", analytics_enabled=False, delete_cache=(600, 3600))
    with demo:
        gr.Markdown(f"# A text steers a StyleGAN3\n{text}")
        network = gr.Textbox(
            page.network,
            label="Network",
            info="A name from `sg3 models` or a file; press Enter",
            visible=not page.network_is_fixed,
            render=False,
        )
        with gr.Tab("Generate"):
            generate_tab(page, network, demo)
        with gr.Tab("Steer"):
            steer_tab(page, network, demo)
        with gr.Accordion("Another network", open=False, visible=not page.network_is_fixed):
            network.render()
    return demo


def launch(page: Page, host: str, port: int | None, share: bool) -> tuple[gr.Blocks, str]:
    """Serve the page in threads of this process -> (demo, address). Raises OSError, port taken."""
    demo = build(page)
    system = ["system-ui", "sans-serif"]
    theme = gr.themes.Default(font=system, font_mono=["ui-monospace", "monospace"])
    theme.set(block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_300")
    _, address, shared = demo.launch(
        server_name=host,
        server_port=port,
        share=share,
        quiet=True,
        prevent_thread_lock=True,
        show_error=True,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        allowed_paths=[str(page.outdir.resolve())],
        theme=theme,
        css=CSS,
    )
    return demo, shared or address


@click.command("app")
@network_option
@click.option("--clip", default="mini", show_default=True, help="As for `sg3 steer`.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), help="Default: the first free from 7860.")
@click.option("--share", is_flag=True, help="Ask gradio.live for a public address (needs network).")
@click.option("--outdir", type=click.Path(file_okay=False, path_type=Path), default="out/app")
@device_option
@debug_option
def app_command(network, clip, host, port, share, outdir, device) -> None:
    """The demo page in a browser.

    \b
    Example:
      sg3 app --port 7860
    """
    private = host in LOOPBACK and not share
    page = Page(network, clip, resolve_device(device), outdir, network_is_fixed=not private)
    with socket.socket() as probe:
        if port and probe.connect_ex((host, port)) == 0:
            raise click.UsageError(f"port: {port} is taken, choose another or leave it out")
    prepare_folder(outdir)
    page.generator(network, "generate")
    demo, address = launch(page, host, port, share)
    click.echo(f"The page is at {address} (Ctrl-C ends it)")
    demo.block_thread()


if __name__ == "__main__":
    cli(["app", *sys.argv[1:]], prog_name="sg3")
