"""How callbacks are queued, stopped and shown as commands."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import gradio as gr

from app_tabs import theme
from app_tabs.context import Context, callback
from app_tabs.theme import status

#: One job at a time per device; the page shows the place in the queue. Pictures that follow a
#: slider have a queue of their own, so that they do not wait for jobs.
DEVICE = {"concurrency_limit": 1, "concurrency_id": "device"}
LIVE = {
    "concurrency_limit": 1,
    "concurrency_id": "live",
    "show_progress": "hidden",
    "trigger_mode": "always_last",
}
QUIET = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


@dataclass(frozen=True)
class Desk:
    """The widgets of long work: `line` says how it goes (`hint` when it failed), `run` are the
    buttons that are off meanwhile, `stop` is on; `files` are downloads of what comes out."""

    line: gr.HTML
    run: Sequence[gr.Button]
    stop: gr.Button
    hint: str
    files: Sequence[gr.DownloadButton] = ()


def jobs(
    context: Context,
    tab: str,
    actions: Mapping[str, tuple[Sequence, Callable]],
    inputs: Mapping[str, gr.components.Component],
    outputs: Sequence,
    desk: Desk,
    examples: gr.Examples | None = None,
) -> list[gr.events.Dependency]:
    """Wire long work: a tab's actions, name → (triggers, function); one of them at a time.

    `function(context, request, **values)` yields updates of `outputs`. Names are those of public
    endpoints; `TAB_stop` asks the action to end, also while it waits. A click on one of `examples`
    starts the first as well. Returns what can be chained to, one for each way to start.
    """
    buttons = [desk.line, desk.stop, *desk.run, *desk.files]

    def begin(request: gr.Request):
        context.session(request).end(tab)
        context.session(request).begin(tab)
        busy = [gr.update(interactive=False)] * len(desk.run)
        line = status("Waiting for the device ...")
        return line, gr.update(interactive=True), *busy, *theme.not_ready(len(desk.files))

    def end(request: gr.Request):
        context.session(request).end(tab)
        usable = [gr.update(interactive=True)] * (len(desk.run) + len(desk.files))
        return gr.update(interactive=False), *usable

    def fail(request: gr.Request):
        return status(desk.hint), *end(request)[: 1 + len(desk.run)]

    def halt(request: gr.Request) -> None:
        context.session(request).stop(tab)

    starts = [
        (gr.on(triggers, begin, None, buttons, **QUIET), function, {"api_name": name})
        for name, (triggers, function) in actions.items()
    ]
    if examples is not None:
        begun = examples.load_input_event.success(begin, None, buttons, **QUIET)
        starts.append((begun, starts[0][1], {"api_visibility": "private"}))
    ways = []
    for begun, function, visibility in starts:
        ran = begun.then(
            callback(context, function, inputs),
            list(inputs.values()),
            list(outputs),
            show_progress="minimal",
            show_progress_on=desk.line,
            **DEVICE,
            **visibility,
        )
        ran.success(end, None, buttons[1:], **QUIET)
        ran.failure(fail, None, buttons[: 2 + len(desk.run)], **QUIET)
        ways.append(ran)
    desk.stop.click(halt, None, None, queue=False, api_name=f"{tab}_stop")
    return ways


def command_line(*parts: str | float | None, **options) -> str:
    """`sg3 …` as a shell takes it; options that are None or False are left out.

    A list repeats its option, True stands for a switch.
    """
    name, *rest = (str(part) for part in parts if part is not None)
    last = ["--", *rest] if any(part.startswith("-") for part in rest) else []
    words = ["sg3", name, *([] if last else rest)]
    for key, value in options.items():
        option = "--" + key.rstrip("_").replace("_", "-")
        for each in value if isinstance(value, (list, tuple)) else [value]:
            if each is None or each is False:
                continue
            text = f"{each:g}" if isinstance(each, float) else str(each)
            # A value that begins with a dash would be taken for an option.
            glued = [f"{option}={text}"] if text.startswith("-") else [option, text]
            words += [option] if each is True else glued
    return " ".join(map(shlex.quote, words + last))


def command_box(
    context: Context,
    demo: gr.Blocks,
    say: Callable[..., str],
    inputs: Mapping[str, gr.components.Component],
    info: str | None = None,
) -> dict:
    """A field that always holds the command equivalent to what `inputs` ask for.

    `say(context, request, **values)` makes it. Returns the event that does so, for what else may
    change it.
    """
    box = gr.Textbox(
        label="The same as a command",
        info=info,
        lines=1,
        max_lines=9,
        placeholder="Something is still missing for a command",
        interactive=False,
        buttons=["copy"],
        elem_classes="command",
    )

    def command(context: Context, request: gr.Request, **values) -> str:
        try:
            return say(context, request, **values)
        except (TypeError, ValueError):  # a field is empty, as while somebody types
            return ""

    made = callback(context, command, inputs)
    wired = {"fn": made, "inputs": list(inputs.values()), "outputs": box, **QUIET}
    gr.on([each.change for each in inputs.values()], trigger_mode="always_last", **wired)
    demo.load(**wired)
    return wired
