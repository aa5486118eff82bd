"""Edit: sliders move a picture along texts and components."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gradio as gr

from app_tabs import photo, theme, uploads
from app_tabs.context import Context, Session, callback, unknown_words
from app_tabs.theme import seed_field, shown, status
from app_tabs.wiring import LIVE, QUIET, Desk, command_box, command_line, jobs
from guidance.directions import (
    EditedLatent,
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

HINT = "Move a slider."
SOURCES = ("Seed", "Photo", "Latent file")
TRUNCATION, NEUTRAL = 0.7, "a face"
#: How much a channel has to mean; the small text models' cosines are larger (docs/EDITING.md).
BETA, SMALL_BETA = 0.12, 0.2
EXAMPLES = ("a smiling face", "a face with a beard", "a face with blond hair", "a face with a hat")
FEWEST_LATENTS = 2


def start_of(context: Context, session: Session, network, source, seed, latent_file):
    """The latent before the edits, and the network that draws it."""
    if source == "Photo":
        found = session.results.get("photo")
        if found is None:
            raise ValueError("photo: none has been found yet; choose one and press Find it")
        return found.latent, found.G
    loaded = context.generator(network)
    if source == "Latent file":
        path = uploads.tensors(latent_file, "latent")
        latent = read_latent(path, loaded.G, loaded.meta["sha256"])
        return EditedLatent(latent.ws[:1], {n: s[:1] for n, s in latent.styles.items()}), loaded.G
    class_index = 0 if loaded.G.c_dim else None
    z = seed_latents(int(seed or 0), 1, loaded.G.z_dim)
    return EditedLatent(map_latents(loaded.G, z, class_index, TRUNCATION)), loaded.G


def wanted(values: dict) -> list[tuple[str, float, float]]:
    """What the sliders ask for: direction, alpha, beta."""
    rows = [(values[f"text_{i}"], values[f"alpha_{i}"], values[f"beta_{i}"]) for i in (1, 2)]
    texts = [(text.strip(), alpha, beta) for text, alpha, beta in rows if (text or "").strip()]
    component = f"sefa:{int(values['component'] or 0)}"
    return [(name, a, beta) for name, a, beta in [*texts, (component, values["amount"], 0)] if a]


def statistics_key(context: Context, network) -> tuple:
    """Under which the meaning of a network's channels is shared."""
    return "relevance", context.generator(network).meta["sha256"], context.clip


def known_statistics(context: Context, network):
    """What the network's channels mean: shared, bundled or computed before; None if unknown."""
    key = statistics_key(context, network)
    if key not in context.shared:
        G, encoder, config = context.generator(network).G, context.encoder(), RelevanceConfig()
        whose = whose_relevance(G, encoder, config)
        found = read_relevance(BUNDLED, whose, context.device, more=True)
        found = found or read_relevance(cache_file(whose), whose, context.device)
        if found is None or found.images < FEWEST_LATENTS or whose["encoder"] is None:
            return None
        context.shared[key] = found
    return context.shared[key]


def directions(context: Context, network, edits, neutral: str):
    """Directions with their alphas, and whether a text is left out because it was not learned."""
    edits = list(edits)
    known = known_statistics(context, network) if edits else None
    specs, alphas, missing = [], [], False
    for name, alpha, beta in edits:
        if context.public and name.endswith(".safetensors"):
            raise ValueError("direction: files are not read on a public page")
        spec = parse_direction(name, neutral or NEUTRAL, beta)
        if spec.kind == "text" and known is None:
            missing = True
            continue
        specs.append(spec)
        alphas.append(alpha)
    # Whatever network draws it: the meaning of channels is that of the one it came from.
    G = context.generator(network).G
    found = make_directions(G, specs, context.encoder(), lambda: known)
    return list(zip(found, alphas, strict=True)), missing


def edit(context: Context, request: gr.Request, network, source, seed, latent_file, **values):
    """The picture before and after, a line about it, and updates of the downloads."""
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
    text = "Texts need Learn first, once for a network." if missing else _described(edits)
    files = [str(folder / name) for name in ("edited.png", "latent.safetensors")]
    return (before, after), status(text), *[gr.update(visible=missing)] * 2, *files


def _described(edits) -> str:
    if not edits:
        return HINT
    return "   ".join(f"{direction.name} {alpha:+.1f}" for direction, alpha in edits)


def learn(context: Context, request: gr.Request, network, **values) -> Iterator[tuple]:
    """Find out what the network's channels mean to the text model; yields
    the line."""
    session = context.session(request)
    stop = session.begin("edit")
    texts = [name for name, *_ in wanted(values | {"alpha_1": 1, "alpha_2": 1, "amount": 0})]
    strangers = dict.fromkeys(unknown_words(context.encoder(), *texts))
    note = f" (unknown words: {', '.join(strangers)})" if strangers else ""
    key = statistics_key(context, network)
    G = context.generator(network, "job").G
    for state in relevance_with_cache(G, context.encoder()):
        if state.images >= FEWEST_LATENTS:
            context.shared[key] = state
        line = f"Learning what the network's channels mean: {state.images} of {state.total}"
        line += "; Stop takes what there is" if state.images >= FEWEST_LATENTS else ""
        yield status(line, share=state.images / state.total), gr.skip()
        if stop.is_set() and state.images >= FEWEST_LATENTS:
            break
    yield status(f"Ready: move the sliders{note}"), gr.skip()


def film(context: Context, request: gr.Request, network, source, seed, latent_file, **values):
    """Write the way from before to after as a video; yields its line and download."""
    session = context.session(request)
    session.begin("edit")
    yield status("Filming ..."), *theme.not_ready(1)
    latent, G = start_of(context, session, network, source, seed, latent_file)
    edits, _ = directions(context, network, wanted(values), values["neutral"])
    path = context.new_folder(session, "film") / "edit.mp4"
    write_video(path, G, latent, [(direction, 0.0, alpha) for direction, alpha in edits], 48)
    yield status("Filmed: from before to after and back."), theme.ready(path)


def command(context: Context, request, network, source, seed, latent_file, **values) -> str:
    """The same as a command."""
    edits = wanted(values)
    beside = {
        "direction": [name for name, _, _ in edits],
        "alpha": [f"{alpha:g}" for _, alpha, _ in edits],
        "neutral": values["neutral"] if values["neutral"] != NEUTRAL else None,
        "beta": [f"{beta:g}" for _, _, beta in edits],
        "clip": context.clip,
    }
    name = context.name_of(network)
    if source == "Photo":
        first, found = photo.command(context, name, **values)
        return f"{first} && {command_line('edit', network=name, **found, **beside)}"
    if source == "Latent file":
        (latent,) = uploads.keep(context, str(uploads.tensors(latent_file, "latent")))
        return command_line("edit", network=name, latent=latent, **beside)
    return command_line("edit", network=name, seed=int(seed or 0), trunc=TRUNCATION, **beside)


def _text_row(
    number: int, text: str, alpha: float, beta: float
) -> dict[str, gr.components.Component]:
    with gr.Group():
        hint = "A text in the words of the text model" if number == 1 else "A second one, if any"
        box = gr.Textbox(text, label=f"Text {number}", info=hint)
        hint = "How far, either way"
        slider = gr.Slider(-8, 8, alpha, step=0.5, label=f"Alpha {number}", info=hint)
        hint = "More changes less besides"
        beta = gr.Slider(0, 0.4, beta, step=0.01, label=f"Beta {number}", info=hint)
    return {f"text_{number}": box, f"alpha_{number}": slider, f"beta_{number}": beta}


def build(context: Context, network: gr.Dropdown, demo: gr.Blocks, tab: gr.Tab) -> None:
    """The tab's widgets and what they do; drawn when it opens."""
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
            source = gr.Radio(list(SOURCES), value="Seed", label="Edit what")
            seed = seed_field("Seed", theme.FIRST_SEED, info="Every number is another picture")
            with gr.Column(visible=False) as photos:
                found, (run, halt), found_files = photo.build(context, network)
            latent = gr.File(label="Latent", file_types=[".safetensors"], height=120, visible=False)
            inputs = {"network": network, "source": source, "seed": seed, "latent_file": latent}
            beta = SMALL_BETA if is_mini(context.clip) else BETA
            inputs |= _text_row(1, EXAMPLES[0], 2, beta)
            with gr.Row(elem_classes="tight"):
                learning = gr.Button("Learn", variant="primary", visible=False, min_width=90)
                stop = gr.Button(
                    "Stop", variant="stop", interactive=False, visible=False, min_width=90
                )
                filming = gr.Button("Film it", min_width=90)
            first_text = [inputs["text_1"]]
            examples = gr.Examples([[e] for e in EXAMPLES], first_text, label="Or click an example")
            with gr.Accordion("A second text", open=False):
                inputs |= _text_row(2, "", 0, beta)
                hint = "Where texts start from"
                inputs["neutral"] = gr.Textbox(NEUTRAL, label="Seen from", info=hint)
            with gr.Group():
                hint = "SeFa's, 0 is the strongest"
                inputs["component"] = gr.Slider(0, 15, 0, step=1, label="Component", info=hint)
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
    hidden = {"api_visibility": "private"}
    sliders = [field.input for field in inputs.values() if isinstance(field, gr.Slider)]
    live = [*sliders, seed.change, latent.upload, inputs["text_1"].submit, inputs["text_2"].submit]
    gr.on(live, api_name="edit", **drawn)
    gr.on([tab.select, network.change], **drawn, **hidden)
    examples.load_input_event.success(**drawn, **hidden)
    actions = {"learn": ([learning.click], learn), "edit_video": ([filming.click], film)}
    desk = Desk(line, [learning, filming], stop, HINT)
    learned, *_ = jobs(context, "edit", actions, inputs, [line, save[2]], desk)
    learned.success(**drawn, **hidden)
    finding = {"find": ([run.click], photo.find)}
    desk = Desk(line, [run], halt, photo.HINT, found_files)
    (ready,) = jobs(context, "find", finding, found, [image, line, *found_files], desk)
    ready.success(**drawn, **hidden)
