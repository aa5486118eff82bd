"""The page in the browser: ``sg3 app`` or ``python app.py``.

Widgets only: what the tabs show comes from the iterators that the command line drains. Nothing is
fetched from outside this machine.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

# Gradio reads these when it is imported: no telemetry, no model hub.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import click
import gradio as gr

from app_tabs import adapt, delta_sliders, edit, explore, generate, steer, theme, train
from app_tabs.cache import write_pictures_once
from app_tabs.context import Context, readable
from sg3.checkpoints.registry import REGISTRY
from sg3.cli.main import cli
from sg3.cli.options import debug_option, device_option, network_option, resolve_device
from sg3.files import prepare_folder

LOOPBACK = ("127.0.0.1", "localhost", "::1")
#: Jobs that may wait, and the largest upload.
MOST_WAITING, MOST_UPLOAD = 32, "32mb"


def networks() -> list[tuple[str, str]]:
    """What the network field offers: label and name."""
    found = []
    for name, entry in REGISTRY.items():
        where = "bundled" if entry.bundled else "download"
        found.append((f"{name} · {entry.resolution} px · {where} · {entry.licence}", name))
    return found


def network_field(context: Context) -> gr.Dropdown:
    """Choice of the network, at the top of the page; fixed where others can reach it."""
    known = networks()
    if context.network not in REGISTRY:
        known.insert(0, (context.network, context.network))
    return gr.Dropdown(
        known,
        value=context.network,
        label="Network",
        info="From the list, or type the path of a .safetensors or official .pkl file",
        allow_custom_value=True,
        visible=not context.public,
        min_width=300,
    )


def build(context: Context) -> gr.Blocks:
    """The page, not yet served."""
    text = f"Network {context.network}, text model {context.clip}."
    if (context.network, context.clip) == ("mini-faces", "mini"):
        text = "StyleGAN3, live. The bundled models draw cartoon faces, on this machine alone."
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
            with gr.Tab("Mix looks"):
                deltas = delta_sliders.build(context, network, demo, tab)
            with gr.Tab("Teach a new look") as teaching:
                adapt.build(context, network, demo, teaching, deltas)
        with gr.Tab("Edit") as tab:
            edit.build(context, network, demo, tab)
        with gr.Tab("Explore") as tab:
            explore.build(context, network, demo, tab, networks())
        if not context.public:  # paths of this machine are nobody else's business
            with gr.Tab("Train"):
                train.build(context, network, demo)
        demo.unload(_forgetting(context))
    return demo.queue(max_size=MOST_WAITING, default_concurrency_limit=4)


def _forgetting(context: Context):
    def forget(request: gr.Request) -> None:
        context.forget(request)

    return forget


def launch(
    context: Context, host: str, port: int | None, share: bool, auth: tuple[str, str] | None = None
) -> tuple[gr.Blocks, str]:
    """Serve the page in threads of this process -> (demo, address). Raises OSError, port taken."""
    write_pictures_once()
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
        allowed_paths=[str(context.outdir.resolve())],
        max_file_size=MOST_UPLOAD,
        theme=theme.theme(),
        css_paths=theme.STYLE_SHEET,
    )
    return demo, shared or address


def parse_auth(text: str | None) -> tuple[str, str] | None:
    """`"name:password"` as a pair."""
    if text is None:
        return None
    name, colon, password = text.partition(":")
    if not (name and colon and password):
        raise click.UsageError("auth: expected NAME:PASSWORD")
    return name, password


@click.command("app")
@network_option
@click.option("--clip", default="mini", show_default=True, help="As for `sg3 steer`.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), help="Default: the first free from 7860.")
@click.option("--share", is_flag=True, help="Ask gradio.live for a public address (needs network).")
@click.option(
    "--auth",
    metavar="NAME:PASSWORD",
    envvar="SG3_APP_AUTH",
    help="Ask visitors for these; better in the environment, as SG3_APP_AUTH.",
)
@click.option("--outdir", type=click.Path(file_okay=False, path_type=Path), default="out/app")
@device_option
@debug_option
def app_command(network, clip, host, port, share, auth, outdir, device) -> None:
    """The page in a browser.

    \b
    Example:
      sg3 app --port 7860
    """
    private = host in LOOPBACK and not share
    context = Context(network, clip, resolve_device(device), outdir, public=not private)
    with socket.socket() as probe:
        if port and probe.connect_ex((host, port)) == 0:
            raise click.UsageError(f"port: {port} is taken, choose another or leave it out")
    prepare_folder(outdir)
    context.generator(network)
    demo, address = launch(context, host, port, share, parse_auth(auth))
    click.echo(f"The page is at {address} (Ctrl-C ends it)")
    demo.block_thread()


if __name__ == "__main__":
    cli(["app", *sys.argv[1:]], prog_name="sg3")
