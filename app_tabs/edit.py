"""Edit tab: sliders move a latent along text directions and components."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from app_tabs import photo, theme, uploads
from app_tabs.context import Context, Session, callback, vocabulary_note
from app_tabs.theme import seed_field, shown, status
from app_tabs.wiring import (
    HIDDEN,
    LIVE,
    QUIET,
    Actions,
    JobControls,
    command_box,
    command_line,
    jobs,
)
from guidance.directions import (
    Direction,
    EditedLatent,
    Relevance,
    RelevanceConfig,
    apply_directions,
    read_latent,
    relevance_with_cache,
    write_latent,
)
from guidance.directions.cache import BUNDLED, cache_file, read_relevance, whose_relevance
from guidance.directions.spec import make_directions, parse_direction
from guidance.directions.sweeps import write_video
from guidance.encoders import is_mini
from guidance.latents import map_latents, seed_latents
from sg3.media import save_png, to_uint8
from sg3.networks.generator import MappedGenerator

HINT = "Move a slider."
MISSING = "Text directions need channel statistics: press Learn channels, once per network."
SOURCES = ("Seed", "Photo", "Latent file")
TRUNCATION, NEUTRAL = 0.7, "a face"
#: Default thresholds; the cosines of the bundled encoders are larger (docs/EDITING.md).
BETA, SMALL_BETA = 0.12, 0.2
EXAMPLES = ("a smiling face", "a face with a beard", "a face with blond hair", "a face with a hat")
MIN_LATENTS = 2
#: Direction, alpha, beta.
Edit = tuple[str, float, float]


def start_of(
    context: Context,
    session: Session,
    network: str | None,
    source: str,
    seed: float | None,
    latent_file: str | None,
) -> tuple[EditedLatent, MappedGenerator]:
    """Return the latent before the edits and the generator that renders it."""
    if source == "Photo":
        found = session.results.get("photo")
        if found is None:
            raise ValueError("photo: got none; choose one and press Find latent")
        return found.latent, found.G
    loaded = context.generator(network)
    if source == "Latent file":
        path = uploads.tensors(latent_file, "latent")
        latent = read_latent(path, loaded.G, loaded.meta["sha256"])
        return EditedLatent(latent.ws[:1], {n: s[:1] for n, s in latent.styles.items()}), loaded.G
    class_index = 0 if loaded.G.c_dim else None
    z = seed_latents(int(seed or 0), 1, loaded.G.z_dim)
    return EditedLatent(map_latents(loaded.G, z, class_index, TRUNCATION)), loaded.G


def wanted(values: dict[str, Any]) -> list[Edit]:
    """Edits that the sliders ask for."""
    rows = [(values[f"text_{i}"], values[f"alpha_{i}"], values[f"beta_{i}"]) for i in (1, 2)]
    texts = [(text.strip(), alpha, beta) for text, alpha, beta in rows if (text or "").strip()]
    component = f"sefa:{int(values['component'] or 0)}"
    return [(name, a, beta) for name, a, beta in [*texts, (component, values["amount"], 0)] if a]


def statistics_key(context: Context, network: str | None) -> tuple:
    """Key of the channel statistics of a network in `Context.shared`."""
    return "relevance", context.generator(network).meta["sha256"], context.clip


def known_statistics(context: Context, network: str | None) -> Relevance | None:
    """Channel statistics of a network: in memory, bundled or cached; None if not computed."""
    key = statistics_key(context, network)
    if key not in context.shared:
        G, encoder, config = context.generator(network).G, context.encoder(), RelevanceConfig()
        whose = whose_relevance(G, encoder, config)
        found = read_relevance(BUNDLED, whose, context.device, more=True)
        found = found or read_relevance(cache_file(whose), whose, context.device)
        if found is None or found.images < MIN_LATENTS or whose["encoder"] is None:
            return None
        context.shared[key] = found
    return context.shared[key]


def directions(
    context: Context, network: str | None, edits: Iterable[Edit], neutral: str
) -> tuple[list[tuple[Direction, float]], bool]:
    """Return directions with their alphas, and whether a text direction is missing because the
    channel statistics have not been computed."""
    edits = list(edits)
    known = known_statistics(context, network) if edits else None
    specs, alphas, missing = [], [], False
    for name, alpha, beta in edits:
        if context.public and name.endswith(".safetensors"):
            raise ValueError("direction: got a file, which a public page does not read")
        spec = parse_direction(name, neutral or NEUTRAL, beta)
        if spec.kind == "text" and known is None:
            missing = True
            continue
        specs.append(spec)
        alphas.append(alpha)
    # Statistics belong to the original network, even if a fine-tuned copy renders the image.
    G = context.generator(network).G

    def relevance() -> Relevance:
        assert known is not None  # or all text directions were left out above
        return known

    found = make_directions(G, specs, context.encoder(), relevance)
    return list(zip(found, alphas, strict=True)), missing


def edit(
    context: Context,
    request: gr.Request,
    network: str | None,
    source: str,
    seed: float | None,
    latent_file: str | None,
    **values: Any,
) -> tuple:
    """Return the images before and after, the status line, and updates of buttons and files."""
    session = context.session(request)
    latent, G = start_of(context, session, network, source, seed, latent_file)
    edits, missing = directions(context, network, wanted(values), values["neutral"])
    edited = apply_directions(latent, edits)
    before, after = (shown(to_uint8(each.render(G))[0]) for each in (latent, edited))
    if "edit" not in session.results:
        session.results["edit"] = context.new_folder(session, "edit")
    folder: Path = session.results["edit"]
    save_png(folder / "edited.png", to_uint8(edited.render(G))[0])
    name = context.name_of(network)
    origin = {"network": name, "network_sha256": context.generator(network).meta["sha256"]}
    write_latent(folder / "latent.safetensors", edited.folded(G), origin)
    text = MISSING if missing else _described(edits)
    files = [str(folder / name) for name in ("edited.png", "latent.safetensors")]
    return (before, after), status(text), *[gr.update(visible=missing)] * 2, *files


def _described(edits: list[tuple[Direction, float]]) -> str:
    if not edits:
        return HINT
    return "   ".join(f"{direction.name} {alpha:+.1f}" for direction, alpha in edits)


def learn(
    context: Context, request: gr.Request, network: str | None, **values: Any
) -> Iterator[tuple]:
    """Compute the channel statistics that text directions need; yield the status line."""
    session = context.session(request)
    stop = session.begin("edit")
    texts = [name for name, *_ in wanted(values | {"alpha_1": 1, "alpha_2": 1, "amount": 0})]
    note = vocabulary_note(context.encoder(), *texts)
    key = statistics_key(context, network)
    G = context.generator(network, "job").G
    for state in relevance_with_cache(G, context.encoder()):
        enough = state.images >= MIN_LATENTS
        if enough:
            context.shared[key] = state
        line = f"Learning channels: {state.images} of {state.total} latents"
        line += "; Stop keeps the statistics so far" if enough else ""
        yield status(line, done=state.images / state.total), gr.skip()
        if stop.is_set() and enough:
            break
    yield status(f"Ready: move the sliders{note}"), gr.skip()


def video(
    context: Context,
    request: gr.Request,
    network: str | None,
    source: str,
    seed: float | None,
    latent_file: str | None,
    **values: Any,
) -> Iterator[tuple]:
    """Write a video of the edit, forth and back; yield the status line and the download."""
    session = context.session(request)
    session.begin("edit")
    yield status("Rendering the video ..."), *theme.not_ready(1)
    latent, G = start_of(context, session, network, source, seed, latent_file)
    edits, _ = directions(context, network, wanted(values), values["neutral"])
    path = context.new_folder(session, "video") / "edit.mp4"
    write_video(path, G, latent, [(direction, 0.0, alpha) for direction, alpha in edits], 48)
    yield status("The video is ready: from before to after and back."), theme.ready(path)


def command(
    context: Context,
    request: gr.Request,
    network: str | None,
    source: str,
    seed: float | None,
    latent_file: str | None,
    **values: Any,
) -> str:
    """The equivalent command."""
    edits = wanted(values)
    options = {
        "direction": [name for name, _, _ in edits],
        "alpha": [f"{alpha:g}" for _, alpha, _ in edits],
        "neutral": values["neutral"] if values["neutral"] != NEUTRAL else None,
        "beta": [f"{beta:g}" for _, _, beta in edits],
        "clip": context.clip,
    }
    name = context.name_of(network)
    if source == "Photo":
        first, found = photo.command(context, name, **values)
        return f"{first} && {command_line('edit', network=name, **found, **options)}"
    if source == "Latent file":
        (latent,) = uploads.keep(context, str(uploads.tensors(latent_file, "latent")))
        return command_line("edit", network=name, latent=latent, **options)
    return command_line("edit", network=name, seed=int(seed or 0), trunc=TRUNCATION, **options)


def _text_row(number: int, text: str, alpha: float, beta: float) -> dict[str, Any]:
    with gr.Group():
        hint = "Description of the edited image" if number == 1 else "Optional"
        box = gr.Textbox(text, label=f"Text {number}", info=hint)
        hint = "Strength; negative values reverse the direction"
        strength = gr.Slider(-8, 8, alpha, step=0.5, label=f"Alpha {number}", info=hint)
        hint = "Threshold; higher keeps more channels unchanged"
        threshold = gr.Slider(0, 0.4, beta, step=0.01, label=f"Beta {number}", info=hint)
    return {f"text_{number}": box, f"alpha_{number}": strength, f"beta_{number}": threshold}


def build(context: Context, network: gr.Dropdown, demo: gr.Blocks, tab: gr.Tab) -> None:
    """Build the tab, which is rendered when it opens."""
    with gr.Row():
        with gr.Column(min_width=300, scale=5, elem_classes=["stick", "pin"]):
            image = gr.ImageSlider(
                label="Before and after",
                interactive=False,
                type="pil",
                format="png",
                max_height=640,
                buttons=["fullscreen"],
                elem_classes="slider",
            )
            line = gr.HTML(status(HINT), label="Status", elem_classes="line")
            save = theme.downloads("Save PNG", "Save latent", "Save MP4", ready=2)
        with gr.Column(min_width=300, scale=4):
            source = gr.Radio(list(SOURCES), value="Seed", label="Start from")
            seed = seed_field("Seed", theme.FIRST_SEED, info="Each seed gives a different image")
            with gr.Column(visible=False) as photos:
                found, (run, halt), found_files = photo.build(context, network)
            latent = gr.File(label="Latent", file_types=[".safetensors"], height=120, visible=False)
            inputs: dict[str, Any] = {"network": network}
            inputs |= {"source": source, "seed": seed, "latent_file": latent}
            beta = SMALL_BETA if is_mini(context.clip) else BETA
            inputs |= _text_row(1, EXAMPLES[0], 2, beta)
            with gr.Row(elem_classes="tight"):
                learning = gr.Button(
                    "Learn channels", variant="primary", visible=False, min_width=90
                )
                stop = gr.Button(
                    "Stop", variant="stop", interactive=False, visible=False, min_width=90
                )
                to_video = gr.Button("Make video", min_width=90)
            first_text = [inputs["text_1"]]
            examples = gr.Examples([[e] for e in EXAMPLES], first_text, label="Or click an example")
            with gr.Accordion("Second text", open=False):
                inputs |= _text_row(2, "", 0, beta)
                hint = "Description of the unedited image"
                inputs["neutral"] = gr.Textbox(NEUTRAL, label="Neutral text", info=hint)
            with gr.Group():
                hint = "0 is the strongest"
                inputs["component"] = gr.Slider(0, 15, 0, step=1, label="SeFa component", info=hint)
                hint = "In standard deviations"
                inputs["amount"] = gr.Slider(-5, 5, 0, step=0.1, label="Amount", info=hint)
    finder = {name: field for name, field in found.items() if name != "network"}
    command_box(context, demo, command, inputs | finder)
    places = [seed, photos, latent]
    source.change(
        lambda chosen: [gr.update(visible=chosen == name) for name in SOURCES],
        source,
        places,
        **QUIET,
    )
    drawn = {
        "fn": callback(context, edit, inputs, "live"),
        "inputs": list(inputs.values()),
        "outputs": [image, line, learning, stop, *save[:2]],
        **LIVE,
    }
    sliders = [field.input for field in inputs.values() if isinstance(field, gr.Slider)]
    live = [*sliders, seed.change, latent.upload, inputs["text_1"].submit, inputs["text_2"].submit]
    gr.on(live, api_name="edit", **drawn)
    gr.on([tab.select, network.change], **drawn, **HIDDEN)
    examples.load_input_event.success(**drawn, **HIDDEN)
    actions: Actions = {
        "learn": ([learning.click], learn),
        "edit_video": ([to_video.click], video),
    }
    controls = JobControls(line, [learning, to_video], stop, HINT)
    learned, *_ = jobs(context, "edit", actions, inputs, [line, save[2]], controls)
    learned.success(**drawn, **HIDDEN)
    finding: Actions = {"find": ([run.click], photo.find)}
    controls = JobControls(line, [run], halt, photo.HINT, found_files)
    (ready,) = jobs(context, "find", finding, found, [image, line, *found_files], controls)
    ready.success(**drawn, **HIDDEN)
