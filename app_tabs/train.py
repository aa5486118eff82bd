"""Train: a run of its own, which goes on when the page is closed."""

from __future__ import annotations

import html
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from app_tabs import theme
from app_tabs.context import Context, callback
from app_tabs.theme import status
from app_tabs.wiring import QUIET, Desk, command_box, command_line, jobs
from sg3.files import prepare_folder, write_text
from sg3.training import TrainConfig, describe
from sg3.training.plan import plan as plan_rows
from sg3.training.plan import sizes
from sg3.training.progress_page import PAGE
from sg3.training.run_folder import OPTIONS

HINT = "Name a folder or zip of pictures and press Plan."
CONFIGS = ("stylegan3-t", "stylegan3-r", "stylegan2")
#: --cbase and --cmax; the first suits a processor and small pictures.
SIZES = {"Small": (2048, 64), "Medium": (16384, 512), "Full": (32768, 512)}
REFRESH_S, START_S, LOG_CHARACTERS = 5, 40, 2000
PROCESS = "process.txt"
#: Columns and rows of the pictures that a processor draws at each tick.
GRID = (8, 6)


def options_of(context: Context, data, cfg, size, batch, gamma, kimg, mirror, resume) -> dict:
    """What `sg3 train` is told. Raises ValueError without pictures."""
    if not (data or "").strip():
        raise ValueError("data: got none; name a folder or zip of pictures")
    cbase, cmax = SIZES[size]
    return {
        "cfg": cfg,
        "data": data.strip(),
        "batch": int(batch),
        "gamma": gamma or None,
        "kimg": kimg,
        "mirror": bool(mirror),
        # A network that is gone on with gives the sizes.
        **({"resume": resume.strip()} if resume else {"cbase": cbase, "cmax": cmax}),
        "tick": min(4.0, max(kimg / 50, 0.1)),
        "snap": 10,
        **({"grid": GRID} if context.device.type == "cpu" else {}),
    }


def command(context: Context, request: gr.Request, **values) -> str:
    """The same as a command."""
    return _line(options_of(context, **values), outdir="out/train")


def _line(options: dict, **more) -> str:
    grid = options.get("grid")
    more |= {"grid": "x".join(map(str, grid)) if grid else None}
    return command_line("train", **{**options, **more})


def plan(context: Context, request: gr.Request, **values) -> Iterator[tuple]:
    """What the run would cost; yields (status, table, runs, timer)."""
    context.session(request).begin("train")
    yield status("Looking at the pictures ..."), *[gr.skip()] * 3
    options = options_of(context, **values)
    device = str(context.device)
    config = TrainConfig(outdir="", device=device, **options)
    found = describe(config)
    shape, labels = tuple(found["data"]["shape"]), found["data"]["label_dim"]
    rows = []
    head = f"{found['data']['images']} pictures of {shape[2]}x{shape[1]}"
    size = sizes(config, shape, 1, labels)
    head += f"; {size.g_parameters / 1e6:.1f} M parameters of G, {size.d_parameters / 1e6:.1f} M "
    head += f"of D; a saved state takes {size.state_bytes / 2**20:.0f} MiB"
    for row in plan_rows(config, shape, 1, device, False, None, labels):
        rows.append(row)
        yield status(f"{head}. Estimating ..."), table(rows, config.kimg), *[gr.skip()] * 2
    text = f"{head}. Estimates for one {device}."
    yield status(text), table(rows, config.kimg), *[gr.skip()] * 2


def table(rows: list, kimg: float) -> str:
    """`PlanRow`s as an HTML table."""
    heads = ("Pictures per pass", "Memory", "Per 1000 pictures", f"All {kimg:g} thousand", "")
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
    """Like '12 min', '5.2 hours' or '3.1 days'."""
    if value < 5400:
        return theme.seconds(value)
    return f"{value / 3600:.1f} hours" if value < 129600 else f"{value / 86400:.1f} days"


@dataclass(frozen=True)
class Run:
    """A run that a page started: its folder, in which the trainer makes its own."""

    folder: Path

    @property
    def trainers_folder(self) -> Path | None:
        """Where the trainer writes; None until it has begun."""
        return next((path.parent for path in self.folder.glob(f"*/{OPTIONS}")), None)

    @property
    def log(self) -> str:
        """The end of what the process said."""
        path = self.folder / "log.txt"
        return path.read_text(errors="replace")[-LOG_CHARACTERS:] if path.is_file() else ""

    def process(self, context: Context) -> int | None:
        """The number of the process if it still runs."""
        child = context.shared.get(("process", self.folder))
        if child is not None:
            return child.pid if child.poll() is None else None
        path = self.folder / PROCESS
        pid = int(path.read_text()) if path.is_file() else 0
        # After a restart of the page: numbers are given again, so look at whose it is.
        said = Path(f"/proc/{pid}/cmdline")
        mine = said.is_file() and str(self.folder).encode() in said.read_bytes()
        return pid if mine else None


def runs(context: Context) -> list[tuple[str, str]]:
    """Runs that pages started, newest first: label and folder."""
    folders = sorted((context.outdir / "train").glob(f"*/{PROCESS}"), reverse=True)
    return [(path.parent.name, path.parent.name) for path in folders]


def run_named(context: Context, name: str | None) -> Run:
    """The run of a name from `runs`. Raises ValueError for another."""
    if name not in [known for _, known in runs(context)]:
        raise ValueError(f"run: got {name!r:.60}, expected one from the list")
    return Run((context.outdir / "train" / name).resolve())


def start(context: Context, request: gr.Request, **values) -> Iterator[tuple]:
    """Start `sg3 train` as a process; yields (status, table, runs, timer)."""
    context.session(request).begin("train")
    options = options_of(context, **values)
    describe(TrainConfig(outdir="", device=str(context.device), **options))
    folder = prepare_folder(context.outdir / "train" / time.strftime("%Y%m%d-%H%M%S")).resolve()
    line = _line(options, device=str(context.device), outdir=str(folder))
    with open(folder / "log.txt", "w") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", *shlex.split(line)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that nothing that ends the page ends the run
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    write_text(folder / PROCESS, f"{child.pid}\n")
    run = Run(folder)
    context.shared["process", folder] = child
    until = time.monotonic() + START_S
    while run.trainers_folder is None and child.poll() is None and time.monotonic() < until:
        yield status("Starting the run ..."), *[gr.skip()] * 3
        time.sleep(0.5)
    if child.poll():
        said = run.log.strip().splitlines() or ["it ended at once"]
        raise ValueError(f"train: {said[-1]}")
    offered = gr.update(choices=runs(context), value=folder.name)
    text = f"Process {child.pid} runs on its own: closing the page does not end it."
    yield status(text), gr.skip(), offered, gr.update(active=True)


def watch(context: Context, request: gr.Request, name: str | None):
    """The progress page of a run, a line about it, and the update of its stop button."""
    if not name:
        return "", status("No run yet."), gr.update(interactive=False)
    run = run_named(context, name)
    pid, folder = run.process(context), run.trainers_folder
    state = f"running as process {pid}" if pid else "not running"
    page = folder / PAGE if folder else None
    shown = (name, page.stat().st_mtime if page and page.is_file() else 0, state)
    session = context.session(request)
    if session.results.get("watched") == shown and shown[1]:
        return gr.skip(), gr.skip(), gr.skip()
    session.results["watched"] = shown
    content = f'<pre class="log">{html.escape(run.log)}</pre>'
    if shown[1]:
        source = html.escape(page.read_text(encoding="utf-8"), quote=True)
        content = f'<iframe title="Progress of the run" sandbox="allow-scripts" srcdoc="{source}">'
        content += "</iframe>"
    return content, status(f"{name}: {state}."), gr.update(interactive=pid is not None)


def end(context: Context, request: gr.Request, name: str | None) -> str:
    """Ask a run to save its state and end."""
    pid = run_named(context, name).process(context)
    if pid is None:
        raise ValueError(f"run: {name} is not running")
    os.kill(pid, signal.SIGTERM)
    return status(f"{name}: saving its state, then it ends.")


def build(context: Context, network: gr.Dropdown, demo: gr.Blocks) -> None:
    """The tab's widgets and what they do."""
    inputs = {}
    with gr.Row():
        with gr.Column(min_width=300):
            hint = "A folder or zip on this machine; all pictures of one size"
            inputs["data"] = gr.Textbox(
                label="Pictures", info=hint, placeholder="/home/me/pictures"
            )
            with gr.Row():
                hint = "T, R for strict rotation, or StyleGAN2"
                inputs["cfg"] = gr.Dropdown(
                    list(CONFIGS), label="Configuration", info=hint, min_width=140
                )
                hint = "Channels: small suits a CPU"
                inputs["size"] = gr.Dropdown(list(SIZES), label="Size", info=hint, min_width=140)
            with gr.Row():
                hint = "Pictures per step"
                inputs["batch"] = gr.Number(
                    8, label="Batch", precision=0, minimum=1, info=hint, min_width=100
                )
                hint = "Weight of R1; 0: by rule"
                inputs["gamma"] = gr.Number(0, label="Gamma", minimum=0, info=hint, min_width=100)
                hint = "Thousands of pictures"
                inputs["kimg"] = gr.Number(
                    100, label="Length", minimum=0.1, info=hint, min_width=100
                )
        with gr.Column(min_width=300):
            inputs["mirror"] = gr.Checkbox(label="Mirror", info="Add mirrored copies")
            hint = "A network to start from; empty: from nothing"
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
        hint = "They go on when the page is closed"
        chosen = gr.Dropdown(runs(context), label="Run", info=hint, scale=3, min_width=160)
        ending = gr.Button("Save and end it", variant="stop", interactive=False, min_width=160)
    state = gr.HTML(status("No run yet."), label="State", elem_classes="line")
    progress = gr.HTML(elem_classes="progress")
    timer = gr.Timer(REFRESH_S, active=False)
    outputs = [line, estimates, chosen, timer]
    desk = Desk(line, [planning, run], stop, HINT)
    actions = {"plan": ([planning.click], plan), "train": ([run.click], start)}
    jobs(context, "train", actions, inputs, outputs, desk)
    watching = {"fn": callback(context, watch, ["name"]), "inputs": chosen, **QUIET}
    watching["outputs"] = [progress, state, ending]
    gr.on([timer.tick, chosen.change], **watching)
    demo.load(lambda: gr.update(choices=runs(context)), None, chosen, **QUIET)
    chosen.change(lambda: gr.update(active=True), None, timer, **QUIET)
    stopping = callback(context, end, ["name"])
    ending.click(stopping, chosen, state, queue=False, api_name="train_end")
