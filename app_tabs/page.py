"""Build the page from its tabs, and serve it. Nothing is fetched from other machines."""

from __future__ import annotations

import gradio as gr
from starlette.middleware import Middleware

from app_tabs import adapt, delta_sliders, edit, explore, generate, steer, theme, train
from app_tabs.cache import write_images_once
from app_tabs.context import Context, readable
from app_tabs.guard import LoopbackOnly
from sg3.checkpoints.registry import REGISTRY, known_networks

#: Jobs in the queue, and size of an upload.
MAX_QUEUE, MAX_UPLOAD = 32, "32mb"


def networks() -> list[tuple[str, str]]:
    """Choices of the network field: label and name."""
    found = []
    for name, entry in known_networks().items():
        where = "download" if entry.bundled is None else "bundled" if name in REGISTRY else "file"
        size = f" · {entry.resolution} px" if entry.resolution else ""
        found.append((f"{name}{size} · {where} · {entry.licence}", name))
    return found


def network_field(context: Context) -> gr.Dropdown:
    """The network field, at the top of the page; hidden on a public page."""
    known = networks()
    if context.network not in [name for _, name in known]:
        known.insert(0, (context.network, context.network))
    return gr.Dropdown(
        known,
        value=context.network,
        label="Network",
        info="Choose one, or enter the path of a .safetensors or official .pkl file",
        allow_custom_value=True,
        visible=not context.public,
        min_width=300,
    )


def build(context: Context) -> gr.Blocks:
    """Build the page."""
    text = f"Network {context.network}, encoder {context.clip}."
    if (context.network, context.clip) == ("mini-faces", "mini"):
        text = "StyleGAN3, live. The bundled models draw cartoon faces and run on this machine."
    demo = gr.Blocks(title="sg3", analytics_enabled=False, delete_cache=(600, 3600))
    with demo:
        with gr.Row(elem_classes="top"):
            gr.HTML(theme.header(text), min_width=300)
            network = network_field(context)
        with readable():
            first, _ = generate.generate(context, None, **generate.FIRST)
        with gr.Tab("Generate"):
            generate.build(context, network, demo, first)
        with gr.Tab("Steer"):
            steer.build(context, network, demo, first)
        with gr.Tab("Adapt") as tab, gr.Tabs():
            with gr.Tab("Mix deltas"):
                deltas = delta_sliders.build(context, network, demo, tab)
            with gr.Tab("New adaptation") as new:
                adapt.build(context, network, demo, new, deltas)
        with gr.Tab("Edit") as tab:
            edit.build(context, network, demo, tab)
        with gr.Tab("Explore") as tab:
            explore.build(context, network, demo, tab, networks())
        if not context.public:  # visitors must not read paths of this machine
            with gr.Tab("Train"):
                train.build(context, network, demo)

        def forget(request: gr.Request) -> None:
            context.forget(request)

        demo.unload(forget)
    return demo.queue(max_size=MAX_QUEUE, default_concurrency_limit=4)


def launch(
    context: Context, host: str, port: int | None, share: bool, auth: tuple[str, str] | None = None
) -> tuple[gr.Blocks, str]:
    """Serve the page in threads of this process.

    Args:
        context: What the page runs on.
        host: Address to listen on.
        port: Port to listen on; None: the first free one from 7860.
        share: Create a public link through gradio.live.
        auth: User name and password that visitors must enter.

    Returns:
        The page and its address.

    Raises OSError if the port is in use.
    """
    write_images_once()
    demo = build(context)
    _, address, shared = demo.launch(
        server_name=host,
        server_port=port,
        share=share,
        auth=auth,
        quiet=True,
        prevent_thread_lock=True,
        show_error=True,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        # On a public page each visitor gets copies of the own results, and nothing else is served.
        allowed_paths=[] if context.public else [str(context.outdir.resolve())],
        app_kwargs={} if context.public else {"middleware": [Middleware(LoopbackOnly)]},
        max_file_size=MAX_UPLOAD,
        theme=theme.theme(),
        css_paths=theme.STYLE_SHEET,
    )
    return demo, shared or address
