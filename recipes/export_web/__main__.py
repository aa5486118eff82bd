"""Build a static web page that renders networks in the browser, without a server that computes.

    python -m recipes.export_web --outdir out/export_web
    python -m http.server --directory out/export_web 8000   # then open http://127.0.0.1:8000

The page runs ONNX files of `sg3 export --filters grouped` with onnxruntime-web, on the CPU
(WebAssembly). It has a slider for the seed, which gives the same image as `sg3 generate --seeds`,
and sliders for truncation, translation and rotation. mini-faces was trained without rotation: it
turns, but its faces change with it. mini-faces-r follows, and takes longer per image.

All cores but one compute, at most four; `?threads=2` at the end of the address sets the number.
Threads need shared memory, for which a service worker isolates the page: the first visit loads it
twice. Where the browser allows no service worker (plain http from another machine), one thread
computes.

Needs: the export extra, and npm, which fetches onnxruntime-web (MIT licence). The folder has 23 MB
and can be copied to any web server. Hardware: any CPU.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

import sg3
from recipes.run import RecipeCommand, verbatim
from sg3.cli.options import debug_option, option
from sg3.errors import UserError
from sg3.export.config import ExportConfig
from sg3.export.graph import check_target, export_network
from sg3.files import check_folder, prepare_folder, write_text

PACKAGE = "onnxruntime-web@1.30.0"
#: Of the package: the program for WebAssembly.
RUNTIME = (
    "dist/ort.wasm.min.js",
    "dist/ort-wasm-simd-threaded.mjs",
    "dist/ort-wasm-simd-threaded.wasm",
)
#: The mapping runs once per seed, the synthesis for every image.
PARTS = ("mapping", "synthesis")
SOURCE = Path(__file__).parent
#: Isolates the page, so that it may use threads.
WORKER = "isolate.js"


@click.command(cls=RecipeCommand, help=verbatim(__doc__))
@option("--outdir", default="out/export_web", type=click.Path(), help="Folder of the page.")
@option(
    "--network",
    "networks",
    multiple=True,
    default=("mini-faces", "mini-faces-r"),
    help="StyleGAN3 network to show; repeat for several.",
)
@debug_option
def main(outdir: str, networks: Sequence[str]) -> None:
    """Build the page."""
    check_folder(outdir)
    check_target("network.onnx", ExportConfig())
    loaded = {file_name(name): sg3.load(name).G_ema for name in networks}
    for name, G in loaded.items():
        if G.kind != "stylegan3" or G.c_dim:
            raise UserError(
                f"network: {name} is no StyleGAN3 without classes, which the page shows"
            )
    folder = prepare_folder(outdir)
    fetch_runtime(folder)
    for name, G in loaded.items():
        for part in PARTS:
            path = folder / f"{name}-{part}.onnx"
            export_network(G, path, ExportConfig(part=part, filters="grouped"))
    options = "".join(f"<option>{name}</option>" for name in loaded)
    page = (SOURCE / "page.html").read_text(encoding="utf-8").replace("<!-- networks -->", options)
    write_text(folder / "index.html", page)
    write_text(folder / WORKER, (SOURCE / WORKER).read_text(encoding="utf-8"))
    click.echo(f"python -m http.server --directory {outdir} 8000   # then open 127.0.0.1:8000")


def file_name(network: str) -> str:
    """Return a name for the files and the menu of a network."""
    return re.sub(r"[^\w.-]", "_", Path(network).stem)


def fetch_runtime(folder: Path, offline: bool = False) -> None:
    """Put onnxruntime-web into `folder`, fetched by npm unless it is there already.

    Args:
        folder: folder of the page.
        offline: take it only from npm's cache.

    Raises ValueError if npm is missing or cannot fetch it.
    """
    if all((folder / Path(name).name).exists() for name in RUNTIME):
        return
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(f"npm is not installed; it fetches {PACKAGE}")
    with tempfile.TemporaryDirectory() as temporary:
        command = [npm, "pack", "--silent", "--offline" if offline else "--prefer-offline", PACKAGE]
        done = subprocess.run(command, cwd=temporary, capture_output=True, text=True)
        archives = list(Path(temporary).glob("*.tgz"))
        if done.returncode or not archives:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise UserError(f"npm could not fetch {PACKAGE}: {reason}")
        with tarfile.open(archives[0]) as archive:
            for name in RUNTIME:
                member = archive.extractfile(f"package/{name}")
                assert member is not None, f"{PACKAGE} has {name}"
                (folder / Path(name).name).write_bytes(member.read())


if __name__ == "__main__":
    main()
