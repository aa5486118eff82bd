"""State behind the page: models shared by all visitors, and one session per visitor."""

from __future__ import annotations

import copy
import html
import shutil
import tempfile
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from inspect import Parameter, Signature, isgeneratorfunction
from pathlib import Path
from typing import Any

import gradio as gr
import torch

from guidance.encoders import Encoder, left_out, load_encoder, unknown_words
from guidance.generator import generator_of
from sg3.checkpoints.load import load, locate
from sg3.files import prepare_folder
from sg3.networks.generator import MappedGenerator
from sg3.settings import check_value

#: Maximum number of networks in memory, each in two copies (see `Context.generator`).
MAX_NETWORKS = 2
#: Maximum number of sessions in memory; the least recently used is dropped first.
MAX_SESSIONS = 64


@dataclass
class Session:
    """State of one open page.

    Attributes:
        stops: Stop requests of waiting and running jobs, by tab.
        results: Results by name.
        folders: Folders written for this session.
    """

    stops: dict[str, threading.Event] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)

    def begin(self, tab: str) -> threading.Event:
        """Register a job of a tab; return its stop request, the same one if it is waiting."""
        return self.stops.setdefault(tab, threading.Event())

    def stop(self, tab: str) -> None:
        """Ask the waiting or running job of a tab to stop."""
        if tab in self.stops:
            self.stops[tab].set()

    def end(self, tab: str) -> None:
        """Unregister the job of a tab."""
        self.stops.pop(tab, None)


@dataclass(frozen=True)
class Loaded:
    """A generator and its metadata."""

    G: MappedGenerator
    meta: Mapping[str, Any]


@dataclass(frozen=True)
class Context:
    """What the page runs on.

    Attributes:
        network: Initial network; the only one on a public page.
        clip: Encoder.
        device: Device of all models.
        outdir: Output folder. On a public page nothing is written or served there: files of a
            visit are in a temporary folder and go with the visitor.
        public: Whether other machines can reach the page. Then visitors must not choose files or
            addresses to open.
        shared: Values computed once for all visitors, by what they were computed from.
        workers: One thread for jobs and one for live images, because each thread keeps the memory
            that it once allocated.
    """

    network: str
    clip: str
    device: torch.device
    outdir: Path
    public: bool = False
    shared: dict[tuple, Any] = field(default_factory=dict, repr=False)
    _sessions: OrderedDict = field(default_factory=OrderedDict, repr=False)
    _networks: OrderedDict = field(default_factory=OrderedDict, repr=False)
    workers: Mapping[str, ThreadPoolExecutor] = field(
        default_factory=lambda: {n: ThreadPoolExecutor(1, n) for n in ("job", "live")}, repr=False
    )
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def name_of(self, network: str | None) -> str:
        """Resolve the value of the network field; on a public page it is ignored."""
        return self.network if self.public or not network else network.strip()

    def generator(self, network: str | None, copy_: str = "live") -> Loaded:
        """Load a network, or return it from memory. It must not be modified.

        There are two copies, "live" for live images and "job" for jobs, because a live image may
        move the input of the network while a job runs. Each copy has one user at a time
        (`wiring.LIVE`, `wiring.DEVICE`).
        """
        path, _ = locate(self.name_of(network))
        # With the time, so that a network that was overwritten is loaded anew.
        key = (str(path), path.stat().st_mtime_ns)
        with self._lock:
            if key not in self._networks:
                nets = load(self.name_of(network), self.device)
                live = Loaded(generator_of(nets), nets.meta)
                job = Loaded(copy.deepcopy(live.G), nets.meta)
                self._networks[key] = {"live": live, "job": job}
            self._networks.move_to_end(key)
            while len(self._networks) > MAX_NETWORKS:
                self._networks.popitem(last=False)
            return self._networks[key][copy_]

    def encoder(self, clip: str | None = None) -> Encoder:
        """Load the encoder, or return it from memory."""
        return load_encoder(clip or self.clip, self.device)

    def session(self, request: gr.Request) -> Session:
        """Return the session of the visitor behind a request."""
        name = str(request.session_hash)
        with self._lock:
            found = self._sessions.setdefault(name, Session())
            self._sessions.move_to_end(name)
            dropped = []
            while len(self._sessions) > MAX_SESSIONS:
                dropped.append(self._sessions.popitem(last=False)[1])
        # After the lock is released: deleting files can take long.
        for session in dropped:
            self._free(session)
        return found

    def forget(self, request: gr.Request) -> None:
        """Free the session of a visitor who left; on a public page also delete its files."""
        with self._lock:
            session = self._sessions.pop(str(request.session_hash), None)
        if session is not None:
            self._free(session)

    def _free(self, session: Session) -> None:
        for tab in list(session.stops):
            session.stop(tab)
        session.results.clear()
        if self.public:
            for folder in session.folders:
                shutil.rmtree(folder, ignore_errors=True)

    @cached_property
    def _temporary(self) -> tempfile.TemporaryDirectory:
        return tempfile.TemporaryDirectory(prefix="sg3-app-")

    def new_folder(self, session: Session, name: str) -> Path:
        """Create a folder for the files of one action, with a name that cannot be guessed."""
        parent = Path(self._temporary.name) if self.public else prepare_folder(self.outdir)
        stamp = time.strftime(f"{name}-%Y%m%d-%H%M%S-")
        session.folders.append(Path(tempfile.mkdtemp(prefix=stamp, dir=parent)))
        return session.folders[-1]


def vocabulary_note(encoder: Encoder, *texts: str | None) -> str:
    """Note for the status line about unknown and cut words of texts; empty without."""
    given = [text for text in texts if text]
    words = unknown_words(encoder, given)
    note = f" (unknown words: {', '.join(words)})" if words else ""
    for kept, rest in filter(None, (left_out(encoder, text) for text in given)):
        note += f" (only the first {kept} words count; left out: {rest})"
    return note


@contextmanager
def readable() -> Iterator[None]:
    """Show errors of a callback as one line in the page; print tracebacks of unexpected ones."""
    try:
        yield
    except gr.Error:
        raise
    except Exception as error:
        if not isinstance(error, (ValueError, OSError)):
            traceback.print_exception(error)
        text = " ".join(str(error).split()) or type(error).__name__
        # Gradio shows messages as HTML, and this one may contain what a visitor entered.
        raise gr.Error(html.escape(text, quote=False), duration=12, print_exception=False) from None


def check_values(values: Mapping[str, Any]) -> None:
    """Raise ValueError for texts that are too long and numbers that are not finite.

    The page limits its fields; programs that call its endpoints may send anything.
    """
    for name, value in values.items():
        check_value(name, value)


def callback(
    context: Context, function: Callable, names: Iterable[str] = (), worker: str | None = None
) -> Callable:
    """Wrap `function(context, request, **values)` as a Gradio callback, with errors as toasts.

    Args:
        context: Passed to the function.
        function: Returns the updates of the outputs, or yields them; then it runs in the thread
            for jobs.
        names: Names of the values, in the order of the inputs; also the parameters of the
            endpoint.
        worker: Thread to run it in: "job" or "live"; None: Gradio's own.
    """
    names, job = list(names), context.workers["job"]

    def bind(request: gr.Request, values: tuple) -> Callable:
        settings = dict(zip(names, values, strict=True))
        check_values(settings)
        return partial(function, context, request, **settings)

    def call(request: gr.Request, *values: Any):
        with readable():
            bound = bind(request, values)
            return context.workers[worker].submit(bound).result() if worker else bound()

    def iterate(request: gr.Request, *values: Any):
        with readable():
            steps = bind(request, values)()
            try:
                while (step := job.submit(next, steps, None).result()) is not None:
                    yield step
            finally:
                # In the same thread, so after a step that may still be running there.
                job.submit(steps.close).result()

    # Gradio reads names and types of the endpoint's parameters from the signature.
    wrapped: Any = iterate if isgeneratorfunction(function) else call
    kind = Parameter.POSITIONAL_OR_KEYWORD
    wrapped.__signature__ = Signature([Parameter(name, kind) for name in ("request", *names)])
    wrapped.__annotations__ = {"request": gr.Request}
    wrapped.__name__ = function.__name__
    return wrapped
