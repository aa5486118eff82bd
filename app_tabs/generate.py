"""Generate: a seed becomes a picture that sliders move."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial

import gradio as gr
import numpy as np
import torch

from app_tabs.context import Context, callback
from app_tabs.pad import BLANK, CENTRE, as_address, pad, parse
from app_tabs.theme import FIRST_SEED, picture, seed_field, shown
from app_tabs.wiring import LIVE, QUIET, command_box, command_line
from guidance.directions import apply_directions, mix_styles, pca_direction, truncate
from guidance.latents import map_latents, seed_latents
from sg3.generate import generate_from_latents
from sg3.media import image_grid, save_png
from sg3.networks import stylegan3

TRUNCATION = 0.7
#: How far the border of the map is, in standard deviations of W.
REACH = 3.0
#: Pictures per side behind the map, and the largest pictures that a processor draws for it.
MAP_SIDE, MAP_MOST_PX = 5, 128
VIEWS = {"One": 1, "3 × 3": 3, "5 × 5": 5}
LAYERS = {"Coarse: pose and shape": (0, 1), "Middle": (1, 2), "Fine: colours": (2, 3)}


@dataclass(frozen=True)
class Wish:
    """What the controls ask for."""

    network: str | None
    seed: int
    psi: float
    class_index: int | None
    point: tuple[float, float]
    mix: tuple[int, str] | None
    side: int
    move: tuple[float, float, float]

    @classmethod
    def of(cls, network, seed, psi, class_index, point, mix, mix_seed, mix_layers, show, x, y, deg):
        """From the values of the controls."""
        return cls(
            network,
            int(seed or 0),
            psi,
            None if class_index is None else int(class_index),
            parse(point),
            (int(mix_seed or 0), mix_layers) if mix else None,
            VIEWS.get(show, 1),
            (x, y, deg),
        )


#: What the controls say when the page opens.
FIRST = {
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


def rows_of(G, layers: str) -> range:
    """Rows of ws of a name in `LAYERS`: thirds of the network."""
    return range(*(round(G.num_ws * part / 3) for part in LAYERS[layers]))


def latents(G, wish: Wish, points=None) -> torch.Tensor:
    """ws of what is asked for: as many as the view shows, or one for each of `points`."""
    seeds = range(wish.seed, wish.seed + (wish.side**2 if points is None else 1))
    of_seed = partial(map_latents, G, class_index=_class(G, wish))
    ws = torch.cat([of_seed(seed_latents(seed % 2**32, 1, G.z_dim)) for seed in seeds])
    if wish.mix:
        seed, layers = wish.mix
        ws = mix_styles(ws, of_seed(seed_latents(seed, 1, G.z_dim)), rows_of(G, layers))
    ws = truncate(ws, G.mapping.w_avg[None], wish.psi)
    moved = []
    for x, y in [wish.point] if points is None else points:
        alphas = [(i, REACH * v) for i, v in enumerate((x, y)) if v]
        edits = [(pca_direction(G, i, _class(G, wish)), alpha) for i, alpha in alphas]
        moved.append(apply_directions(ws, edits).ws)
    return torch.cat(moved)


def _class(G, wish: Wish) -> int | None:
    return (wish.class_index or 0) if G.c_dim else None


def generate(context: Context, request: gr.Request | None, **values):
    """The picture, as the page shows it, and the path of its PNG."""
    wish = Wish.of(**values)
    G = context.generator(wish.network).G
    x, y, angle = wish.move
    ws = latents(G, wish)
    made = [g.image for g in generate_from_latents(G, ws, translate=(x, y), rotate_deg=angle)]
    image = image_grid(np.stack(made), wish.side) if wish.side > 1 else made[0]
    if request is None:
        return shown(image), gr.skip()
    session = context.session(request)
    if "generate" not in session.results:
        session.results["generate"] = context.new_folder(session, "generate")
    name = f"seed{wish.seed:04d}" if wish.side == 1 else f"seeds{wish.seed:04d}"
    path = session.results["generate"] / f"{name}.png"
    save_png(path, image)
    return shown(image), str(path)


def draw_map(context: Context, request: gr.Request, **values) -> dict:
    """The update of the map: the picture behind it, or none where it would take long."""
    wish = Wish.of(**values)
    G = context.generator(wish.network).G
    if context.device.type == "cpu" and max(G.img_height, G.img_width) > MAP_MOST_PX:
        return gr.update(sheet=BLANK)
    ticks = np.linspace(-1, 1, MAP_SIDE + 1)
    middles = (ticks[1:] + ticks[:-1]) / 2
    ws = latents(G, wish, [(x, y) for y in middles[::-1] for x in middles])
    made = np.stack([g.image for g in generate_from_latents(G, ws)])
    colours = made[..., [0, 1, 2] if made.shape[3] >= 3 else [0, 0, 0]]
    return gr.update(sheet=as_address(image_grid(colours)))


def command(context: Context, request: gr.Request, **values) -> str:
    """The same as one or two commands."""
    wish = Wish.of(**values)
    network = context.name_of(wish.network)
    G = context.generator(network).G
    x, y, angle = wish.move
    move = {"translate": f"{x:g},{y:g}" if x or y else None, "rotate": angle or None}
    own = {"network": network, "class_": _class(G, wish)}
    last = wish.seed + wish.side**2 - 1
    seeds = str(wish.seed) if wish.side == 1 else f"{wish.seed}-{last}"
    if not any(wish.point) and not wish.mix:
        more = {"trunc": wish.psi, **move, "grid": wish.side > 1, "outdir": "out/generate"}
        return command_line("generate", **own, seeds=seeds, **more)
    edits = [(i, REACH * v) for i, v in enumerate(wish.point) if v]
    mix = None
    if wish.mix:
        rows = rows_of(G, wish.mix[1])
        mix = f"{wish.mix[0]}:{rows[0]}-{rows[-1]}"
    more = {"direction": [f"pca:{i}" for i, _ in edits], "alpha": [a for _, a in edits]}
    more |= {"outdir": "out/generate"}
    line = command_line("edit", **own, seeds=seeds, trunc=wish.psi, mix=mix, **more)
    if not any(wish.move):
        return line
    latent = {"latent": "out/generate/latent.safetensors", **move, "outdir": "out/generate"}
    return f"{line} && {command_line('generate', network=network, **latent)}"


def fit(context: Context, request: gr.Request, network: str | None):
    """Updates of the fields that depend on the network: class, moves."""
    G = context.generator(network).G
    label = gr.update(visible=G.c_dim > 0, value=0, maximum=max(G.c_dim - 1, 0))
    moves = isinstance(G, stylegan3.Generator)
    return label, *[gr.update(interactive=moves, value=0)] * 3


def build(context: Context, network: gr.Dropdown, demo: gr.Blocks, first) -> None:
    """The tab's widgets and what they do; `first` is the picture that stands there."""
    with gr.Row():
        with gr.Column(min_width=300, scale=1, elem_classes=["stick", "pin"]):
            image = picture("Picture", "The generated image", value=first)
            with gr.Row(elem_classes="tight"):
                back = gr.Button("Put it back", size="md", min_width=90)
                download = gr.DownloadButton("Save PNG", size="md", min_width=90)
        with gr.Column(min_width=300, scale=1):
            with gr.Row(elem_classes="level"):
                hint = "Every number is another picture"
                seed = seed_field("Seed", FIRST_SEED, info=hint, min_width=140)
                dice = gr.Button("Random seed", variant="primary", min_width=140)
            with gr.Row():
                with gr.Column(min_width=200):
                    point = pad("Map of pictures around this seed.")
                with gr.Column(min_width=200):
                    hint = "0 is the mean picture, 1 the full variety"
                    psi = gr.Slider(0, 1.5, TRUNCATION, step=0.05, label="Truncation", info=hint)
                    hint = "A grid shows the seeds that follow, too"
                    view = gr.Radio(list(VIEWS), value="One", label="Show", info=hint)
                    label = gr.Number(
                        0,
                        label="Class",
                        precision=0,
                        minimum=0,
                        visible=False,
                        info="Which of the network's classes",
                    )
            with gr.Group():
                hint = "To the right, in picture sides"
                x = gr.Slider(-0.5, 0.5, 0, step=0.01, label="Translate x", info=hint)
                y = gr.Slider(-0.5, 0.5, 0, step=0.01, label="Translate y", info="Downwards")
                hint = "Degrees, counter-clockwise"
                angle = gr.Slider(-180, 180, 0, step=1, label="Rotate", info=hint)
            with gr.Accordion("Mix styles with another seed", open=False):
                hint = "Some layers take their styles from there"
                mixes = gr.Checkbox(label="Mix", info=hint)
                with gr.Row():
                    mix_seed = seed_field("Their seed", min_width=120)
                    layers = gr.Dropdown(
                        list(LAYERS), label="Layers", value=next(iter(LAYERS)), min_width=160
                    )
    fields = (network, seed, psi, label, point, mixes, mix_seed, layers, view, x, y, angle)
    inputs = dict(zip(FIRST, fields, strict=True))
    command_box(context, demo, command, inputs)

    def wired(function, outputs):
        fn = callback(context, function, inputs, "live")
        return {"fn": fn, "inputs": list(inputs.values()), "outputs": outputs, **LIVE}

    drawn, mapped = wired(generate, [image, download]), wired(draw_map, point)
    hidden = {"api_visibility": "private"}
    shape = [seed.change, mixes.change, mix_seed.change, layers.input, psi.input, label.input]
    live = [*shape, point.input, view.input, x.input, y.input, angle.input]
    gr.on(live, api_name="generate", **drawn)
    gr.on(shape, **mapped, **hidden)
    demo.load(**drawn, **hidden).then(**mapped, **hidden)
    fitting = callback(context, fit, ["network"])
    fitted = network.change(fitting, network, [label, x, y, angle], **QUIET)
    fitted.success(**drawn, **hidden).success(**mapped, **hidden)
    dice.click(lambda: random.randrange(100_000), None, seed, **QUIET)
    placed = back.click(lambda: (0, 0, 0, CENTRE), None, [x, y, angle, point], **QUIET)
    placed.then(**drawn, **hidden)
