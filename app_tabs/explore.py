"""Explore tab: feature maps of the layers of a network under a moving input."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Literal

import gradio as gr
import numpy as np
from PIL import Image

from app_tabs.context import Context, callback
from app_tabs.theme import FIRST_SEED, image_view, seed_field, status
from app_tabs.wiring import HIDDEN, LIVE, QUIET, JobControls, command_box, command_line, jobs
from guidance.latents import map_latents, seed_latents
from sg3.analysis.inspect import LayerDisplay, layer_images, sheet, sheet_frames
from sg3.analysis.layers import layers
from sg3.motion import MOTIONS, Move, moves
from sg3.networks import stylegan3
from sg3.networks.generator import MappedGenerator

HINT = "Move the sliders, or press Animate."
ALL, NO_OTHER = "All layers", "(none)"
DOMAINS: dict[str, Literal["space", "spectrum"]] = {"Space": "space", "Spectrum": "spectrum"}
TRUNCATION, COLUMNS = 0.7, 4
FRAMES, FRAME_S = 48, 1 / 12
#: Number of channels of a single layer, and the size of their images.
SHOWN, SIZE_PX = 8, 160


def _asked(G: MappedGenerator, values: dict):
    """Return names of layers, channels, and options of the sheet, as the controls set them."""
    domain = DOMAINS[values["domain"]]
    display = LayerDisplay(domain=domain)
    first = int(values["channel"] or 0)
    if values["layer"] == ALL:
        channels = [first, "all"] if domain == "spectrum" else [first]
        return None, channels, {"columns": COLUMNS, "size_px": SIZE_PX, "display": display}
    found = next((each for each in layers(G) if each.name == values["layer"]), None)
    if found is None:
        raise ValueError(f"layer: got {values['layer']!r:.60}, expected one from the list")
    if not 0 <= first < found.channels:
        raise ValueError(f"channel: got {first}, expected 0 to {found.channels - 1}")
    channels = list(range(first, min(first + SHOWN, found.channels)))
    return found.name, channels, {"columns": COLUMNS, "size_px": SIZE_PX, "display": display}


def _ws(G: MappedGenerator, seed: float | None):
    z = seed_latents(int(seed or 0), 1, G.z_dim)
    return map_latents(G, z, 0 if G.c_dim else None, TRUNCATION)


def _moves(G: MappedGenerator) -> bool:
    """Whether the input can be transformed: only in StyleGAN3."""
    return isinstance(G, stylegan3.Generator)


def _compared(context: Context, network: str | None, other: str | None, copy: str) -> list:
    names = [network] if other in (None, NO_OTHER) else [network, other]
    return [context.generator(name, copy).G for name in names]


def explore(
    context: Context,
    request: gr.Request,
    network: str | None,
    other: str | None,
    seed: float | None,
    **values: Any,
) -> Image.Image:
    """Return the sheet of the layers of one network, or of two, stacked."""
    shown = []
    for i, G in enumerate(_compared(context, network, other, "live")):
        names, channels, how = _asked(G, values | ({"layer": ALL} if i else {}))
        display = how.pop("display")
        move = {"translate": (values["x"], values["y"]), "rotate_deg": values["deg"]}
        move = move if _moves(G) else {}
        made = layer_images(G, _ws(G, seed), names, channels, display=display, **move)
        shown.append(sheet(made, **how))
    return _stack(shown)


def _stack(sheets: list[np.ndarray]) -> Image.Image:
    width = max(each.shape[1] for each in sheets)
    parts = [
        np.pad(s, [(0, 0), (0, width - s.shape[1]), (0, 0)], constant_values=255) for s in sheets
    ]
    return Image.fromarray(np.concatenate(parts))


def move(
    context: Context,
    request: gr.Request,
    network: str | None,
    other: str | None,
    seed: float | None,
    **values: Any,
) -> Iterator[tuple]:
    """Animate the input once, or until stopped; yield (sheet, status)."""
    stop = context.session(request).begin("explore")
    animations = []
    for i, G in enumerate(_compared(context, network, other, "job")):
        names, channels, how = _asked(G, values | ({"layer": ALL} if i else {}))
        path = moves(values["motion"], FRAMES, 0.2) if _moves(G) else [Move()] * FRAMES
        animations.append(sheet_frames(G, _ws(G, seed), names, channels, path, **how))
    for index, frames in enumerate(zip(*animations, strict=True), 1):
        began = time.monotonic()
        yield _stack(list(frames)), status(f"Frame {index} of {FRAMES}", done=index / FRAMES)
        if stop.is_set():
            break
        time.sleep(max(0.0, FRAME_S - (time.monotonic() - began)))
    yield gr.skip(), status(HINT)


def command(
    context: Context,
    request: gr.Request,
    network: str | None,
    other: str | None,
    seed: float | None,
    **values: Any,
) -> str:
    """The equivalent command, or two."""
    x, y, first = values["x"], values["y"], int(values["channel"] or 0)
    one = values["layer"] != ALL
    options = {
        "seed": int(seed or 0),
        "trunc": TRUNCATION,
        "layers": values["layer"] if one else None,
        "channels": f"{first}-{first + SHOWN - 1}" if one else str(first),
        "domain": DOMAINS[values["domain"]],
        "translate": f"{x:g},{y:g}" if x or y else None,
        "rotate": values["deg"] or None,
    }
    names = [context.name_of(network), *([other] if other not in (None, NO_OTHER) else [])]
    lines = [
        command_line("inspect", network=name, **options, output=f"layers{i}.png")
        for i, name in enumerate(names, 1)
    ]
    return " && ".join(lines)


def offer(context: Context, request: gr.Request, network: str | None) -> dict:
    """Update of the layer field: the layers of the network."""
    names = [layer.name for layer in layers(context.generator(network).G)]
    return gr.update(choices=[ALL, *names], value=ALL)


def build(
    context: Context, network: gr.Dropdown, demo: gr.Blocks, tab: gr.Tab, known: list
) -> None:
    """Build the tab; `known` are the networks to compare with."""
    with gr.Row():
        with gr.Column(min_width=300, scale=5, elem_classes=["stick", "pin"]):
            image = image_view("Layers", "Feature maps of the layers")
            line = gr.HTML(status(HINT), label="Status", elem_classes="line")
        with gr.Column(min_width=300, scale=4):
            names = [layer.name for layer in layers(context.generator(None).G)]
            hint = "A single layer shows eight channels"
            layer = gr.Dropdown([ALL, *names], value=ALL, label="Layer", info=hint)
            with gr.Row():
                channel = gr.Number(
                    0,
                    label="Channel",
                    precision=0,
                    minimum=0,
                    info="First channel shown",
                    min_width=100,
                )
                seed = seed_field("Seed", FIRST_SEED, info="Seed of the latent", min_width=100)
            hint = "Spectra have frequency 0 in the centre; dark is low power"
            domain = gr.Radio(list(DOMAINS), value="Space", label="Domain", info=hint)
            with gr.Group():
                hint = "To the right, in units of the longer side"
                x = gr.Slider(-0.5, 0.5, 0, step=0.01, label="Translate x", info=hint)
                y = gr.Slider(-0.5, 0.5, 0, step=0.01, label="Translate y", info="Downwards")
                deg = gr.Slider(
                    -180, 180, 0, step=1, label="Rotate", info="Degrees, counter-clockwise"
                )
            hint = "Path of the input when animated"
            motion = gr.Radio(list(MOTIONS), value="circle", label="Motion", info=hint)
            with gr.Row(elem_classes="tight"):
                run = gr.Button("Animate", variant="primary", min_width=90)
                stop = gr.Button("Stop", variant="stop", interactive=False, min_width=90)
            hint = "A second network, shown below"
            other = gr.Dropdown(
                [NO_OTHER, *known],
                value=NO_OTHER,
                label="Compare with",
                info=hint,
                allow_custom_value=True,
                visible=not context.public,
            )
    inputs = {"network": network, "other": other, "seed": seed, "layer": layer}
    inputs |= {"channel": channel, "domain": domain, "x": x, "y": y, "deg": deg, "motion": motion}
    command_box(context, demo, command, inputs)
    drawn = {
        "fn": callback(context, explore, inputs, "live"),
        "inputs": list(inputs.values()),
        "outputs": image,
        **LIVE,
    }
    live = [layer.input, channel.change, seed.change, domain.input, x.input, y.input, deg.input]
    gr.on([*live, other.change], api_name="explore", **drawn)
    tab.select(**drawn, **HIDDEN)
    offered = network.change(callback(context, offer, ["network"]), network, layer, **QUIET)
    offered.success(**drawn, **HIDDEN)
    actions = {"explore_move": ([run.click], move)}
    jobs(context, "explore", actions, inputs, [image, line], JobControls(line, [run], stop, HINT))
