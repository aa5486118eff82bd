"""Queue and stop jobs, and show the equivalent command."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app_tabs import theme
from app_tabs.context import Context, callback
from app_tabs.theme import status

#: Event options of jobs: one at a time per device; the page shows the position in the queue.
DEVICE: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "device"}
#: Event options of live images, which follow a slider: a separate queue, so that they do not wait
#: for jobs.
LIVE: dict[str, Any] = {
    "concurrency_limit": 1,
    "concurrency_id": "live",
    "show_progress": "hidden",
    "trigger_mode": "always_last",
}
#: Event options of what is not an endpoint of the API.
HIDDEN: dict[str, Any] = {"api_visibility": "private"}
#: Event options of immediate updates.
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", **HIDDEN}


#: Endpoint name → (triggers, function).
Actions = Mapping[str, tuple[Sequence[Any], Callable[..., Any]]]


@dataclass(frozen=True)
class JobControls:
    """Components that control a job.

    Attributes:
        line: Status line.
        run: Buttons that start jobs, disabled while one is running.
        stop: Stop button, enabled meanwhile.
        hint: Text of the status line after a failure.
        files: Download buttons of the results.
    """

    line: gr.HTML
    run: Sequence[gr.Button]
    stop: gr.Button
    hint: str
    files: Sequence[gr.DownloadButton] = ()


def jobs(
    context: Context,
    tab: str,
    actions: Actions,
    inputs: Mapping[str, Any],
    outputs: Sequence[Any],
    controls: JobControls,
    examples: Any = None,
) -> list[gr.events.Dependency]:
    """Wire the jobs of a tab, one of which runs at a time per visitor.

    Args:
        context: What the page runs on.
        tab: Prefix of the endpoint `TAB_stop`, which stops a waiting or running job.
        actions: What it can do. `function(context, request, **values)` yields updates of
            `outputs`.
        inputs: Input components by parameter name.
        outputs: Output components.
        controls: Buttons and status line.
        examples: `gr.Examples`; a click on one also starts the first action.

    Returns:
        The events of the jobs, to chain others to: one per action, and one for `examples`.
    """
    buttons = [controls.line, controls.stop, *controls.run, *controls.files]

    def begin(request: gr.Request):
        # Or `begin` would keep the stop request of the previous job, and this one stop at once.
        context.session(request).end(tab)
        context.session(request).begin(tab)
        busy = [gr.update(interactive=False)] * len(controls.run)
        line = status("Waiting for the device ...")
        return line, gr.update(interactive=True), *busy, *theme.not_ready(len(controls.files))

    def end(request: gr.Request):
        context.session(request).end(tab)
        usable = [gr.update(interactive=True)] * (len(controls.run) + len(controls.files))
        return gr.update(interactive=False), *usable

    def fail(request: gr.Request):
        return status(controls.hint), *end(request)[: 1 + len(controls.run)]

    def halt(request: gr.Request) -> None:
        context.session(request).stop(tab)

    starts = [
        (gr.on(triggers, begin, None, buttons, **QUIET), function, {"api_name": name})
        for name, (triggers, function) in actions.items()
    ]
    if examples is not None:
        begun = examples.load_input_event.success(begin, None, buttons, **QUIET)
        starts.append((begun, starts[0][1], HIDDEN))
    ways = []
    for begun, function, visibility in starts:
        ran = begun.then(
            callback(context, function, inputs),
            list(inputs.values()),
            list(outputs),
            show_progress="minimal",
            show_progress_on=controls.line,
            **DEVICE,
            **visibility,
        )
        ran.success(end, None, buttons[1:], **QUIET)
        ran.failure(fail, None, buttons[: 2 + len(controls.run)], **QUIET)
        ways.append(ran)
    controls.stop.click(halt, None, None, queue=False, api_name=f"{tab}_stop")
    return ways


def command_line(*parts: str | float | None, **options: Any) -> str:
    """Format `sg3 …` for a shell.

    Args:
        *parts: Name of the command and its arguments; None is omitted.
        **options: Values by option name. None and False are omitted, True is a flag, a list
            repeats the option.
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
            # A separate value that starts with a dash would be parsed as an option.
            joined = [f"{option}={text}"] if text.startswith("-") else [option, text]
            words += [option] if each is True else joined
    return " ".join(map(shlex.quote, words + last))


def command_box(
    context: Context,
    demo: gr.Blocks,
    make: Callable[..., str],
    inputs: Mapping[str, Any],
    info: str | None = None,
) -> dict[str, Any]:
    """Create a field that always shows the command equivalent to the inputs.

    Args:
        context: What the page runs on.
        demo: The page.
        make: `make(context, request, **values)` returns the command.
        inputs: Input components by parameter name.
        info: Note below the label.

    Returns:
        Arguments of the event that updates the field, to trigger it elsewhere too.
    """
    box = gr.Textbox(
        label="Equivalent command",
        info=info,
        lines=1,
        max_lines=9,
        placeholder="Fill in the missing fields to see the command",
        interactive=False,
        buttons=["copy"],
        elem_classes="command",
    )

    def command(context: Context, request: gr.Request, **values: Any) -> str:
        try:
            return make(context, request, **values)
        except (TypeError, ValueError):  # an empty or unfinished field
            return ""

    made = callback(context, command, inputs)
    wired = {"fn": made, "inputs": list(inputs.values()), "outputs": box, **QUIET}
    gr.on([each.change for each in inputs.values()], trigger_mode="always_last", **wired)
    demo.load(**wired)
    return wired
