"""Train tab: plan, start and watch training runs, which continue when the page is closed."""

from __future__ import annotations

import html
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from app_tabs import theme
from app_tabs.context import Context, callback
from app_tabs.theme import status
from app_tabs.wiring import QUIET, JobControls, command_box, command_line, jobs
from sg3 import system
from sg3.files import prepare_folder, write_text
from sg3.training import TrainConfig, describe
from sg3.training.plan import plan as plan_rows
from sg3.training.plan import sizes
from sg3.training.progress_page import PAGE
from sg3.training.run_folder import OPTIONS

HINT = "Enter a folder or zip of images and press Plan."
CONFIGS = ("stylegan3-t", "stylegan3-r", "stylegan2")
#: Values of --cbase and --cmax.
SIZES = {"Small": (2048, 64), "Medium": (16384, 512), "Full": (32768, 512)}
REFRESH_S, START_S, LOG_CHARACTERS = 5, 40, 2000
PROCESS = "process.txt"
#: Columns and rows of the image grid of each tick on a CPU, where the default takes long.
GRID = (8, 6)


def options_of(
    context: Context,
    data: str | None,
    cfg: str,
    size: str,
    batch: float,
    gamma: float | None,
    kimg: float,
    mirror: bool,
    resume: str | None,
) -> dict:
    """Options of `sg3 train`. Raises ValueError without a dataset."""
    data = (data or "").strip()
    if not data:
        raise ValueError("data: got none; enter a folder or zip of images")
    cbase, cmax = SIZES[size]
    return {
        "cfg": cfg,
        "data": data,
        "batch": int(batch),
        "gamma": gamma or None,
        "kimg": kimg,
        "mirror": bool(mirror),
        # A network to start from determines the sizes.
        **({"resume": resume.strip()} if resume else {"cbase": cbase, "cmax": cmax}),
        "tick": min(4.0, max(kimg / 50, 0.1)),
        "snap": 10,
        **({"grid": GRID} if context.device.type == "cpu" else {}),
    }


def command(context: Context, request: gr.Request, **values: Any) -> str:
    """The equivalent command."""
    return _line(options_of(context, **values), outdir="out/train")


def _line(options: dict[str, Any], **more: Any) -> str:
    grid = options.get("grid")
    more |= {"grid": "x".join(map(str, grid)) if grid else None}
    return command_line("train", **{**options, **more})


def plan(context: Context, request: gr.Request, **values: Any) -> Iterator[tuple]:
    """Estimate memory and time of the run; yield (status, table, runs, timer)."""
    context.session(request).begin("train")
    yield status("Reading the dataset ..."), *[gr.skip()] * 3
    options = options_of(context, **values)
    device = str(context.device)
    config = TrainConfig(outdir="", device=device, **options)
    found = describe(config)
    shape, labels = tuple(found["data"]["shape"]), found["data"]["label_dim"]
    rows = []
    head = f"{found['data']['images']} images of {shape[2]}x{shape[1]}"
    size = sizes(config, shape, 1, labels)
    head += f"; {size.g_parameters / 1e6:.1f} M parameters of G, {size.d_parameters / 1e6:.1f} M "
    head += f"of D; a training state takes {size.state_bytes / 2**20:.0f} MiB"
    for row in plan_rows(config, shape, 1, device, False, None, labels):
        rows.append(row)
        yield status(f"{head}. Estimating ..."), table(rows, config.kimg), *[gr.skip()] * 2
    text = f"{head}. Estimates for one {device}."
    yield status(text), table(rows, config.kimg), *[gr.skip()] * 2


def table(rows: list, kimg: float) -> str:
    """Format `PlanRow`s as an HTML table."""
    heads = ("Images per pass", "Memory", "Per 1000 images", f"{kimg:g} kimg in total", "")
    cells = "".join(f"<th>{head}</th>" for head in heads)
    lines = []
    for row in rows:
        figures = [
            str(row.images_per_pass),
            "–" if row.memory_gib is None else f"{row.memory_gib:.1f} GiB",
            "–" if row.seconds_per_kimg is None else theme.seconds(row.seconds_per_kimg),
            "–" if row.days is None else duration(row.days * 86400),
            html.escape(row.note),
        ]
        lines.append("<tr>" + "".join(f"<td>{figure}</td>" for figure in figures) + "</tr>")
    return f'<table class="plan"><tr>{cells}</tr>{"".join(lines)}</table>'


def duration(value: float) -> str:
    """Format a duration in seconds: '12 min', '5.2 hours', '3.1 days'."""
    if value < 5400:
        return theme.seconds(value)
    return f"{value / 3600:.1f} hours" if value < 129600 else f"{value / 86400:.1f} days"


@dataclass(frozen=True)
class Run:
    """A run started by the page. `folder` contains the log and the folder of the trainer."""

    folder: Path

    @property
    def run_folder(self) -> Path | None:
        """Folder that the trainer writes to; None until it has started."""
        return next((path.parent for path in self.folder.glob(f"*/{OPTIONS}")), None)

    @property
    def log(self) -> str:
        """End of the output of the process."""
        path = self.folder / "log.txt"
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        return text[-LOG_CHARACTERS:]

    def process(self, context: Context) -> int | None:
        """Process ID if the process is running, else None."""
        child = context.shared.get(("process", self.folder))
        if child is not None:
            return child.pid if child.poll() is None else None
        path = self.folder / PROCESS
        pid = int(path.read_text()) if path.is_file() else 0
        # After a restart of the page the ID may belong to another process: check its command line.
        return pid if pid and str(self.folder) in system.command_line(pid) else None


def runs(context: Context) -> list[tuple[str, str]]:
    """Choices of the run field, newest first: label and name of the folder."""
    folders = sorted((context.outdir / "train").glob(f"*/{PROCESS}"), reverse=True)
    return [(path.parent.name, path.parent.name) for path in folders]


def run_named(context: Context, name: str | None) -> Run:
    """Return the run of a name from `runs`. Raises ValueError for other names."""
    if name not in [known for _, known in runs(context)]:
        raise ValueError(f"run: got {name!r:.60}, expected one from the list")
    return Run((context.outdir / "train" / name).resolve())


def start(context: Context, request: gr.Request, **values: Any) -> Iterator[tuple]:
    """Start `sg3 train` as a process; yield (status, table, runs, timer)."""
    context.session(request).begin("train")
    options = options_of(context, **values)
    describe(TrainConfig(outdir="", device=str(context.device), **options))
    folder = prepare_folder(context.outdir / "train" / time.strftime("%Y%m%d-%H%M%S")).resolve()
    line = _line(options, device=str(context.device), outdir=str(folder))
    with open(folder / "log.txt", "wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", *shlex.split(line)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
            **system.own_group(),  # signals that end the page must not end the run
        )
    write_text(folder / PROCESS, f"{child.pid}\n")
    run = Run(folder)
    context.shared["process", folder] = child
    until = time.monotonic() + START_S
    while run.run_folder is None and child.poll() is None and time.monotonic() < until:
        yield status("Starting the run ..."), *[gr.skip()] * 3
        time.sleep(0.5)
    if child.poll():
        lines = run.log.strip().splitlines() or ["the process ended without output"]
        raise ValueError(f"train: {lines[-1]}")
    offered = gr.update(choices=runs(context), value=folder.name)
    text = f"Running as process {child.pid}, which continues when the page is closed."
    yield status(text), gr.skip(), offered, gr.update(active=True)


def watch(context: Context, request: gr.Request, name: str | None) -> tuple:
    """Return the progress page of a run, its state, and the update of its stop button."""
    if not name:
        return "", status("No run yet."), gr.update(interactive=False)
    run = run_named(context, name)
    pid, folder = run.process(context), run.run_folder
    state = f"running as process {pid}" if pid else "not running"
    page = folder / PAGE if folder else None
    changed = page.stat().st_mtime if page and page.is_file() else 0
    session, shown = context.session(request), (name, changed, state)
    if session.results.get("watched") == shown and changed:
        return gr.skip(), gr.skip(), gr.skip()
    session.results["watched"] = shown
    content = f'<pre class="log">{html.escape(run.log)}</pre>'
    if page and changed:
        source = html.escape(page.read_text(encoding="utf-8"), quote=True)
        content = f'<iframe title="Progress of the run" sandbox="allow-scripts" srcdoc="{source}">'
        content += "</iframe>"
    return content, status(f"{name}: {state}."), gr.update(interactive=pid is not None)


def end(context: Context, request: gr.Request, name: str | None) -> str:
    """Tell a run to save its state and stop."""
    pid = run_named(context, name).process(context)
    if pid is None:
        raise ValueError(f"run: {name} is not running")
    system.ask_to_stop(pid)
    return status(f"{name}: saving the state, then it stops.")


def build(context: Context, network: gr.Dropdown, demo: gr.Blocks) -> None:
    """Build the tab."""
    inputs: dict[str, Any] = {}
    with gr.Row():
        with gr.Column(min_width=300):
            hint = "Folder or zip on this machine; all images of the same size"
            inputs["data"] = gr.Textbox(label="Dataset", info=hint, placeholder="/home/me/images")
            with gr.Row():
                hint = "R: rotation equivariant"
                inputs["cfg"] = gr.Dropdown(
                    list(CONFIGS), label="Configuration", info=hint, min_width=140
                )
                hint = "Channels; small suits a CPU"
                inputs["size"] = gr.Dropdown(list(SIZES), label="Size", info=hint, min_width=140)
            with gr.Row():
                hint = "Images per step"
                inputs["batch"] = gr.Number(
                    8, label="Batch", precision=0, minimum=1, info=hint, min_width=100
                )
                hint = "R1 weight; 0 = automatic"
                inputs["gamma"] = gr.Number(0, label="Gamma", minimum=0, info=hint, min_width=100)
                hint = "Thousands of images"
                inputs["kimg"] = gr.Number(
                    100, label="Length", minimum=0.1, info=hint, min_width=100
                )
        with gr.Column(min_width=300):
            inputs["mirror"] = gr.Checkbox(label="Mirror", info="Add mirrored images")
            hint = "Network to continue from; empty: from scratch"
            inputs["resume"] = gr.Textbox("", label="Start from", info=hint)
            with gr.Row(elem_classes="tight"):
                planning = gr.Button("Plan", min_width=90)
                run = gr.Button("Start training", variant="primary", min_width=120)
                stop = gr.Button("Stop", interactive=False, visible=False)
            line = gr.HTML(status(HINT), label="Status", elem_classes="line")
            estimates = gr.HTML(label="Estimates")
    command_box(context, demo, command, inputs)
    gr.Markdown("### Runs")
    with gr.Row(elem_classes="level"):
        hint = "Runs continue when the page is closed"
        chosen = gr.Dropdown(runs(context), label="Run", info=hint, scale=3, min_width=160)
        ending = gr.Button("Save and stop", variant="stop", interactive=False, min_width=160)
    state = gr.HTML(status("No run yet."), label="State", elem_classes="line")
    progress = gr.HTML(elem_classes="progress")
    timer = gr.Timer(REFRESH_S, active=False)
    outputs = [line, estimates, chosen, timer]
    controls = JobControls(line, [planning, run], stop, HINT)
    actions = {"plan": ([planning.click], plan), "train": ([run.click], start)}
    jobs(context, "train", actions, inputs, outputs, controls)
    watching = {"fn": callback(context, watch, ["name"]), "inputs": chosen, **QUIET}
    watching["outputs"] = [progress, state, ending]
    gr.on([timer.tick, chosen.change], **watching)
    demo.load(lambda: gr.update(choices=runs(context)), None, chosen, **QUIET)
    chosen.change(lambda: gr.update(active=True), None, timer, **QUIET)
    stopping = callback(context, end, ["name"])
    ending.click(stopping, chosen, state, queue=False, api_name="train_end")
