"""`sg3 app`: serve the page."""

from __future__ import annotations

import importlib
import socket
from pathlib import Path

import click

from sg3.cli.options import (
    debug_option,
    device_option,
    only_network_option,
    option,
    resolve_device,
)
from sg3.errors import UserError
from sg3.files import prepare_folder


def parse_auth(text: str | None) -> tuple[str, str] | None:
    """Parse `"name:password"` into a pair."""
    if text is None:
        return None
    name, colon, password = text.partition(":")
    if not (name and colon and password):
        raise click.UsageError("auth: expected NAME:PASSWORD")
    return name, password


def require_gradio() -> None:
    """Raise UserError, in one line, if gradio is not installed."""
    try:
        importlib.import_module("gradio")
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise UserError("sg3 app needs gradio: pip install 'sg3[app]'") from None


@click.command("app")
@only_network_option
@option(
    "--clip",
    default="mini",
    metavar="MODEL[/TAG|/FILE]",
    help="Encoder: mini, mini-smooth or any open_clip model.",
)
@option("--host", default="127.0.0.1", help="Address to listen on.")
@option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Port to listen on.",
    unset="first free port from 7860",
)
@click.option("--share", is_flag=True, help="Create a public link through gradio.live.")
@option(
    "--auth",
    metavar="NAME:PASSWORD",
    envvar="SG3_APP_AUTH",
    help="Credentials that visitors must enter. Prefer the environment variable SG3_APP_AUTH, "
    "which does not show in process lists.",
    unset="no login",
)
@option(
    "--outdir",
    type=click.Path(file_okay=False, path_type=Path),
    default="out/app",
    metavar="DIR",
    help="Output folder, created if missing.",
)
@device_option
@debug_option
def app_command(network, clip, host, port, share, auth, outdir, device) -> None:
    """Serve the web page: generate, steer, adapt, edit, explore, train.

    \b
    Example:
      sg3 app --port 7860
    """
    require_gradio()
    # Imported here because they import Gradio and PyTorch, for which `--help` should not wait.
    from app_tabs.context import Context
    from app_tabs.guard import LOOPBACK
    from app_tabs.page import launch

    credentials = parse_auth(auth)
    private = host in LOOPBACK and not share
    context = Context(network, clip, resolve_device(device), outdir, public=not private)
    with socket.socket() as probe:
        if port and probe.connect_ex((host, port)) == 0:
            raise click.UsageError(f"port: {port} is in use; choose another or omit --port")
    context.generator(network)
    prepare_folder(outdir)
    demo, address = launch(context, host, port, share, credentials)
    click.echo(f"The page is at {address} (Ctrl-C stops it)")
    demo.block_thread()
