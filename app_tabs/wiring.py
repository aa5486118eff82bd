"""How callbacks are queued, stopped and shown as commands."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence

import gradio as gr

from app_tabs.context import Context, callback
from app_tabs.look import status

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


def job(
    context: Context,
    name: str,
    triggers: Sequence,
    function: Callable,
    inputs: Mapping[str, gr.components.Component],
    outputs: Sequence,
    line: gr.HTML,
    run: Sequence[gr.Button],
    stop: gr.Button,
    hint: str,
    examples: gr.Examples | None = None,
) -> None:
    """Wire long work: `function(context, request, **values)` yields updates of `outputs`.

    It is the public endpoint `name`; `name_stop` asks it to end, also while it waits. `line` says
    how it goes, `hint` when it failed. A click on one of `examples` starts it as well.
    """

    def begin(request: gr.Request):
        context.session(request).end(name)
        context.session(request).begin(name)
        busy = [gr.update(interactive=False)] * len(run)
        return status("Waiting for the device ..."), gr.update(interactive=True), *busy

    def end(request: gr.Request):
        context.session(request).end(name)
        return gr.update(interactive=False), *[gr.update(interactive=True)] * len(run)

    def fail(request: gr.Request):
        return status(hint), *end(request)

    def halt(request: gr.Request) -> None:
        context.session(request).stop(name)

    long = {
        "fn": callback(context, function, inputs),
        "inputs": list(inputs.values()),
        "outputs": list(outputs),
        "show_progress": "minimal",
        "show_progress_on": line,
        **DEVICE,
    }
    first = {"fn": begin, "outputs": [line, stop, *run], **QUIET}
    starts = [(gr.on(triggers, **first), {"api_name": name})]
    if examples is not None:
        starts.append((examples.load_input_event.success(**first), {"api_visibility": "private"}))
    for begun, visibility in starts:
        ran = begun.then(**long, **visibility)
        ran.success(end, None, [stop, *run], **QUIET)
        ran.failure(fail, None, [line, stop, *run], **QUIET)
    stop.click(halt, None, None, queue=False, api_name=f"{name}_stop")


def command_line(*parts: str | float | None, **options) -> str:
    """`sg3 …` as a shell takes it; options that are None or False are left out.

    A list repeats its option, True stands for a switch.
    """
    words = ["sg3", *(str(part) for part in parts if part is not None)]
    for name, value in options.items():
        option = "--" + name.rstrip("_").replace("_", "-")
        for each in value if isinstance(value, (list, tuple)) else [value]:
            if each is None or each is False:
                continue
            text = f"{each:g}" if isinstance(each, float) else str(each)
            # A value that begins with a dash would be taken for an option.
            glued = [f"{option}={text}"] if text.startswith("-") else [option, text]
            words += [option] if each is True else glued
    return " ".join(map(shlex.quote, words))


def command_box(
    context: Context,
    demo: gr.Blocks,
    say: Callable[..., str],
    inputs: Mapping[str, gr.components.Component],
) -> gr.Textbox:
    """A field that always holds the command equivalent to what `inputs` ask for.

    `say(context, request, **values)` makes it.
    """
    box = gr.Textbox(
        label="The same as a command",
        lines=1,
        max_lines=5,
        interactive=False,
        buttons=["copy"],
        elem_classes="command",
    )

    def command(context: Context, request: gr.Request, **values) -> str:
        try:
            return say(context, request, **values)
        except (TypeError, ValueError):  # a field is empty while somebody types
            return ""

    made = callback(context, command, inputs)
    wired = {"fn": made, "inputs": list(inputs.values()), "outputs": box, **QUIET}
    gr.on([each.change for each in inputs.values()], trigger_mode="always_last", **wired)
    demo.load(**wired)
    return box
