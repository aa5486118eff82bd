"""Generate tab: an image from a seed, and sliders that change it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
import numpy as np
import torch
from PIL import Image

from app_tabs.context import Context, callback
from app_tabs.pad import BLANK, CENTRE, as_address, pad, parse
from app_tabs.theme import FIRST_SEED, image_view, seed_field, shown
from app_tabs.wiring import HIDDEN, LIVE, QUIET, command_box, command_line
from guidance.directions import apply_directions, mix_styles, pca_direction, truncate
from guidance.latents import map_latents, seed_latents
from sg3.generate import generate_from_latents
from sg3.media import image_grid, save_png
from sg3.networks import stylegan3

TRUNCATION = 0.7
#: Coordinate of the border of the map, in standard deviations of W.
REACH = 3.0
#: Images per side of the map's background, and their maximum size if the device is a CPU.
MAP_SIDE, MAP_MAX_PX = 5, 128
VIEWS = {"1×1": 1, "3×3": 3, "5×5": 5}
LAYERS = {"Coarse: pose and shape": (0, 1), "Middle": (1, 2), "Fine: colours": (2, 3)}


@dataclass(frozen=True)
class ImageSpec:
    """Values of the controls, parsed.

    Attributes:
        network: Value of the network field.
        seed: First seed.
        psi: Truncation psi.
        class_index: Class of a conditional network.
        point: Point on the map, each coordinate in [-1, 1].
        mix: Second seed and name of the layers for style mixing.
        side: Images per side of the grid.
        move: Translation x, y in image sides, rotation in degrees.
    """

    network: str | None
    seed: int
    psi: float
    class_index: int | None
    point: tuple[float, float]
    mix: tuple[int, str] | None
    side: int
    move: tuple[float, float, float]

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> ImageSpec:
        """Parse the values of the controls, named as in `FIRST`."""
        label = values["class_index"]
        return cls(
            network=values["network"],
            seed=int(values["seed"] or 0),
            psi=values["psi"],
            class_index=None if label is None else int(label),
            point=parse(values["point"]),
            mix=(int(values["mix_seed"] or 0), values["mix_layers"]) if values["mix"] else None,
            side=VIEWS.get(values["show"], 1),
            move=(values["x"], values["y"], values["deg"]),
        )


#: Initial values of the controls.
FIRST: dict[str, Any] = {
    "network": None,
    "seed": FIRST_SEED,
    "psi": TRUNCATION,
    "class_index": None,
    "point": CENTRE,
    "mix": False,
    "mix_seed": 0,
    "mix_layers": next(iter(LAYERS)),
    "show": next(iter(VIEWS)),
    "x": 0.0,
    "y": 0.0,
    "deg": 0.0,
}


def rows_of(G: Any, layers: str) -> range:
    """Rows of ws that a name in `LAYERS` stands for: a third of the network."""
    return range(*(round(G.num_ws * part / 3) for part in LAYERS[layers]))


def latents(
    G: Any, spec: ImageSpec, points: Sequence[tuple[float, float]] | None = None
) -> torch.Tensor:
    """Latents `[N, num_ws, w_dim]`: one per image of the grid, or one per point of `points`."""
    seeds = range(spec.seed, spec.seed + (spec.side**2 if points is None else 1))
    of_seed = partial(map_latents, G, class_index=_class(G, spec))
    ws = torch.cat([of_seed(seed_latents(seed % 2**32, 1, G.z_dim)) for seed in seeds])
    if spec.mix:
        seed, layers = spec.mix
        ws = mix_styles(ws, of_seed(seed_latents(seed, 1, G.z_dim)), rows_of(G, layers))
    ws = truncate(ws, G.mapping.w_avg[None], spec.psi)
    moved = []
    for x, y in [spec.point] if points is None else points:
        alphas = [(i, REACH * v) for i, v in enumerate((x, y)) if v]
        edits = [(pca_direction(G, i, _class(G, spec)), alpha) for i, alpha in alphas]
        moved.append(apply_directions(ws, edits).ws)
    return torch.cat(moved)


def _class(G: Any, spec: ImageSpec) -> int | None:
    return (spec.class_index or 0) if G.c_dim else None


def generate(context: Context, request: gr.Request | None, **values: Any) -> tuple:
    """Return the image to show and the path of its PNG."""
    spec = ImageSpec.parse(values)
    G = context.generator(spec.network).G
    x, y, angle = spec.move
    ws = latents(G, spec)
    made = [g.image for g in generate_from_latents(G, ws, translate=(x, y), rotate_deg=angle)]
    image = image_grid(np.stack(made), spec.side) if spec.side > 1 else made[0]
    if request is None:
        return shown(image), gr.skip()
    session = context.session(request)
    if "generate" not in session.results:
        session.results["generate"] = context.new_folder(session, "generate")
    name = f"seed{spec.seed:04d}" if spec.side == 1 else f"seeds{spec.seed:04d}"
    path = session.results["generate"] / f"{name}.png"
    save_png(path, image)
    return shown(image), str(path)


def draw_map(context: Context, request: gr.Request, **values: Any) -> dict:
    """Update of the map's background; empty if it would take long to compute."""
    spec = ImageSpec.parse(values)
    G = context.generator(spec.network).G
    if context.device.type == "cpu" and max(G.img_height, G.img_width) > MAP_MAX_PX:
        return gr.update(sheet=BLANK)
    ticks = np.linspace(-1, 1, MAP_SIDE + 1)
    middles = (ticks[1:] + ticks[:-1]) / 2
    ws = latents(G, spec, [(x, y) for y in middles[::-1] for x in middles])
    made = np.stack([g.image for g in generate_from_latents(G, ws)])
    colours = made[..., [0, 1, 2] if made.shape[3] >= 3 else [0, 0, 0]]
    return gr.update(sheet=as_address(image_grid(colours)))


def command(context: Context, request: gr.Request, **values: Any) -> str:
    """The equivalent command, or two."""
    spec = ImageSpec.parse(values)
    network = context.name_of(spec.network)
    G = context.generator(network).G
    x, y, angle = spec.move
    move = {"translate": f"{x:g},{y:g}" if x or y else None, "rotate": angle or None}
    own = {"network": network, "class_": _class(G, spec)}
    last = spec.seed + spec.side**2 - 1
    seeds = str(spec.seed) if spec.side == 1 else f"{spec.seed}-{last}"
    more: dict[str, Any]
    if not any(spec.point) and not spec.mix:
        more = {"trunc": spec.psi, **move, "grid": spec.side > 1, "outdir": "out/generate"}
        return command_line("generate", **own, seeds=seeds, **more)
    edits = [(i, REACH * v) for i, v in enumerate(spec.point) if v]
    mix = None
    if spec.mix:
        rows = rows_of(G, spec.mix[1])
        mix = f"{spec.mix[0]}:{rows[0]}-{rows[-1]}"
    more = {"direction": [f"pca:{i}" for i, _ in edits], "alpha": [a for _, a in edits]}
    more |= {"outdir": "out/generate"}
    line = command_line("edit", **own, seeds=seeds, trunc=spec.psi, mix=mix, **more)
    if not any(spec.move):
        return line
    latent = {"latent": "out/generate/latent.safetensors", **move, "outdir": "out/generate"}
    return f"{line} && {command_line('generate', network=network, **latent)}"


def fit(context: Context, request: gr.Request, network: str | None) -> tuple:
    """Updates of the fields that depend on the network: class, translation, rotation."""
    G = context.generator(network).G
    label = gr.update(visible=G.c_dim > 0, value=0, maximum=max(G.c_dim - 1, 0))
    moves = isinstance(G, stylegan3.Generator)
    return label, *[gr.update(interactive=moves, value=0)] * 3


def build(context: Context, network: gr.Dropdown, demo: gr.Blocks, first: Image.Image) -> None:
    """Build the tab; `first` is the image it shows at first."""
    with gr.Row():
        with gr.Column(min_width=300, scale=1, elem_classes=["stick", "pin"]):
            image = image_view("Image", "The generated image", value=first)
            with gr.Row(elem_classes="tight"):
                reset = gr.Button("Reset", size="md", min_width=90)
                download = gr.DownloadButton("Save PNG", size="md", min_width=90)
        with gr.Column(min_width=300, scale=1):
            with gr.Row(elem_classes="level"):
                hint = "Each seed gives a different image"
                seed = seed_field("Seed", FIRST_SEED, info=hint, min_width=140)
                dice = gr.Button("Random seed", variant="primary", min_width=140)
            with gr.Row():
                with gr.Column(min_width=200):
                    point = pad("Map of images around this seed.")
                with gr.Column(min_width=200):
                    hint = "0: mean, 1: full variety"
                    psi = gr.Slider(0, 1.5, TRUNCATION, step=0.05, label="Truncation", info=hint)
                    hint = "A grid shows consecutive seeds"
                    view = gr.Radio(list(VIEWS), value=next(iter(VIEWS)), label="View", info=hint)
                    label = gr.Number(
                        0,
                        label="Class",
                        precision=0,
                        minimum=0,
                        visible=False,
                        info="Class index of a conditional network",
                    )
            with gr.Group():
                hint = "To the right, in units of the longer side"
                x = gr.Slider(-0.5, 0.5, 0, step=0.01, label="Translate x", info=hint)
                y = gr.Slider(-0.5, 0.5, 0, step=0.01, label="Translate y", info="Downwards")
                hint = "Degrees, counter-clockwise"
                angle = gr.Slider(-180, 180, 0, step=1, label="Rotate", info=hint)
            with gr.Accordion("Style mixing", open=False):
                hint = "Take the styles of some layers from a second seed"
                mixes = gr.Checkbox(label="Mix styles", info=hint)
                with gr.Row():
                    mix_seed = seed_field("Second seed", min_width=120)
                    layers = gr.Dropdown(
                        list(LAYERS), label="Layers", value=next(iter(LAYERS)), min_width=160
                    )
    fields = (network, seed, psi, label, point, mixes, mix_seed, layers, view, x, y, angle)
    inputs = dict(zip(FIRST, fields, strict=True))
    command_box(context, demo, command, inputs)

    def wired(function: Callable, outputs: Any) -> dict[str, Any]:
        fn = callback(context, function, inputs, "live")
        return {"fn": fn, "inputs": list(inputs.values()), "outputs": outputs, **LIVE}

    drawn, mapped = wired(generate, [image, download]), wired(draw_map, point)
    shape = [seed.change, mixes.change, mix_seed.change, layers.input, psi.input, label.input]
    live = [*shape, point.input, view.input, x.input, y.input, angle.input]
    gr.on(live, api_name="generate", **drawn)
    gr.on(shape, **mapped, **HIDDEN)
    demo.load(**drawn, **HIDDEN).then(**mapped, **HIDDEN)
    fitting = callback(context, fit, ["network"])
    fitted = network.change(fitting, network, [label, x, y, angle], **QUIET)
    fitted.success(**drawn, **HIDDEN).success(**mapped, **HIDDEN)
    dice.click(lambda: random.randrange(100_000), None, seed, **QUIET)
    was_reset = reset.click(lambda: (0, 0, 0, CENTRE), None, [x, y, angle, point], **QUIET)
    was_reset.then(**drawn, **HIDDEN)
