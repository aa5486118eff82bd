"""Mix deltas, in the Adapt tab: sliders for the strengths of adaptations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from app_tabs.context import Context, Session, callback
from app_tabs.theme import image_view, seed_field, shown
from app_tabs.wiring import HIDDEN, LIVE, QUIET, command_box, command_line
from sg3.checkpoints.delta import DeltaMix, load_delta
from sg3.cli.parsers import bundled_deltas, parse_delta
from sg3.generate import generate_images
from sg3.media import image_grid

SHOWN, COLUMNS, TRUNCATION = 12, 4, 0.7
NONE = "(none)"
FIRST = (("zombie", 0.8), ("neon", 0.0), (NONE, 0.0))


def remember(session: Session, name: str, path: Path) -> None:
    """Add a delta that was made on this page to the choices of its visitor."""
    own = session.results.setdefault("deltas", {})
    own[f"My delta {len(own) + 1}: {name}"] = path


def choices(session: Session) -> list[str]:
    """Choices of the fields: none, the visitor's own, the bundled ones."""
    return [NONE, *session.results.get("deltas", {}), *bundled_deltas()]


def file_of(context: Context, session: Session, name: str) -> str:
    """Resolve the name of a delta to its file; a private page also accepts paths."""
    own = session.results.get("deltas", {})
    if name in own:
        return str(own[name])
    if context.public and name not in bundled_deltas():
        raise ValueError(f"delta: got {name!r:.60}, expected one from the list")
    return parse_delta(name)[0]


def deltas(
    context: Context, request: gr.Request, network: str | None, seed: float | None, **rows: Any
) -> Image.Image:
    """Return twelve images with the selected deltas at their strengths."""
    session = context.session(request)
    wanted = [(name, strength) for name, strength in _pairs(rows) if name != NONE]
    loaded = context.generator(network)
    names = [file_of(context, session, name) for name, _ in wanted]
    key = (loaded.meta["sha256"], *names)
    if session.results.get("mix", (None,))[0] != key:
        session.results["mix"] = key, DeltaMix(loaded.G, [load_delta(path) for path in names])
    G = session.results["mix"][1].set(*(strength for _, strength in wanted))
    seeds = [(int(seed or 0) + i) % 2**32 for i in range(SHOWN)]
    class_index = 0 if G.c_dim else None
    made = generate_images(G, seeds, truncation_psi=TRUNCATION, class_index=class_index)
    return shown(image_grid(np.stack([each.image for each in made]), COLUMNS))


def _pairs(rows: dict[str, Any]) -> list[tuple[str, float]]:
    """`delta_1`, `strength_1`, `delta_2`, … as pairs."""
    count = len(rows) // 2
    return [(rows[f"delta_{i}"] or NONE, rows[f"strength_{i}"]) for i in range(1, count + 1)]


def command(
    context: Context, request: gr.Request, network: str | None, seed: float | None, **rows: Any
) -> str:
    """The equivalent command."""
    session, first = context.session(request), int(seed or 0)
    own = session.results.get("deltas", {})
    wanted = [(own.get(n, n), s) for n, s in _pairs(rows) if n != NONE and s]
    return command_line(
        "generate",
        network=context.name_of(network),
        delta=[f"{name}:{strength:g}" for name, strength in wanted],
        seeds=f"{first}-{first + SHOWN - 1}",
        trunc=TRUNCATION,
        grid=True,
        outdir="out/deltas",
    )


def offer_after(context: Context, ran: gr.events.Dependency, fields: list[gr.Dropdown]) -> None:
    """Update the choices of `fields` after the job `ran`, which made a delta."""

    def offer(context: Context, request: gr.Request):
        offered = choices(context.session(request))
        return [gr.update(choices=offered)] * len(fields)

    ran.success(callback(context, offer), None, fields, **QUIET)


def build(
    context: Context, network: gr.Dropdown, demo: gr.Blocks, tab: gr.Tab
) -> list[gr.Dropdown]:
    """Build the components, rendered when `tab` opens; return the fields that name deltas."""
    inputs: dict[str, Any] = {"network": network}
    with gr.Row():
        with gr.Column(min_width=300, scale=5, elem_classes=["stick", "pin"]):
            image = image_view("Images", "Twelve images with the selected deltas")
        with gr.Column(min_width=300, scale=4):
            inputs["seed"] = seed_field("First seed", info="Twelve consecutive seeds are shown")
            for i, (name, strength) in enumerate(FIRST, 1):
                with gr.Group():
                    inputs[f"delta_{i}"] = gr.Dropdown(
                        choices(Session()),
                        value=name,
                        label=f"Delta {i}",
                        allow_custom_value=not context.public,
                    )
                    hint = "0: original network, 1: fully adapted"
                    inputs[f"strength_{i}"] = gr.Slider(
                        -0.5, 1.5, strength, step=0.05, label=f"Strength {i}", info=hint
                    )
    command_box(context, demo, command, inputs)
    wired = {
        "fn": callback(context, deltas, inputs, "live"),
        "inputs": list(inputs.values()),
        "outputs": image,
        **LIVE,
    }
    fields = [field for name, field in inputs.items() if name.startswith("delta")]
    strengths = [field.input for name, field in inputs.items() if name.startswith("strength")]
    live = [inputs["seed"].change, *strengths, *(field.change for field in fields)]
    gr.on(live, api_name="deltas", **wired)
    gr.on([tab.select], **HIDDEN, **wired)
    return fields
