"""What the tabs share: the models, read only, and what belongs to one visitor alone."""

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
from functools import partial
from inspect import Parameter, Signature, isgeneratorfunction
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from torch import nn

import sg3
from guidance.encoders import Encoder, load_encoder
from sg3.checkpoints.load import locate
from sg3.files import prepare_folder

#: Networks that stay in memory, each in two copies (see `Context.generator`).
KEPT_NETWORKS = 2
#: Visitors whose results stay in memory; the one unseen for longest goes first.
KEPT_SESSIONS = 64


@dataclass
class Session:
    """Of one open page: requests to stop, by tab, results by name, and the folders written."""

    stops: dict[str, threading.Event] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)

    def begin(self, tab: str) -> threading.Event:
        """A fresh request to stop; of a job that waits already, the same one."""
        return self.stops.setdefault(tab, threading.Event())

    def stop(self, tab: str) -> None:
        """Ask the job of a tab, waiting or running, to end."""
        if tab in self.stops:
            self.stops[tab].set()

    def end(self, tab: str) -> None:
        """The job is over."""
        self.stops.pop(tab, None)


@dataclass(frozen=True)
class Loaded:
    """A network: its generator and what is known of it."""

    G: nn.Module
    meta: Mapping[str, Any]


@dataclass(frozen=True)
class Context:
    """What the page runs on; `network` is what the network field says at first."""

    network: str
    clip: str
    device: torch.device
    outdir: Path
    # A page that others can reach must not open files or addresses of their choice.
    public: bool = False
    #: Computed once, read by all, by what it was computed from.
    shared: dict[tuple, Any] = field(default_factory=dict, repr=False)
    _sessions: OrderedDict = field(default_factory=OrderedDict, repr=False)
    _networks: OrderedDict = field(default_factory=OrderedDict, repr=False)
    #: One thread for jobs and one for live pictures: threads keep what they once allocated.
    workers: Mapping[str, ThreadPoolExecutor] = field(
        default_factory=lambda: {n: ThreadPoolExecutor(1, n) for n in ("job", "live")}, repr=False
    )
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def name_of(self, network: str | None) -> str:
        """The network that is meant: on a public page always the same."""
        return self.network if self.public or not network else network.strip()

    def generator(self, network: str | None, copy_: str = "live") -> Loaded:
        """A network, read only, on the device: the copy for "live" pictures or for a "job".

        Two, because moving the input of one must not disturb a job that runs beside it; within
        each there is one caller at a time (`wiring.LIVE`, `wiring.DEVICE`).
        """
        path, _ = locate(self.name_of(network))
        key = (str(path), path.stat().st_mtime_ns)
        with self._lock:
            if key not in self._networks:
                nets = sg3.load(self.name_of(network), self.device)
                job = Loaded(copy.deepcopy(nets.G_ema), nets.meta)
                self._networks[key] = {"live": Loaded(nets.G_ema, nets.meta), "job": job}
            self._networks.move_to_end(key)
            while len(self._networks) > KEPT_NETWORKS:
                self._networks.popitem(last=False)
            return self._networks[key][copy_]

    def encoder(self, clip: str | None = None) -> Encoder:
        """The text model."""
        return load_encoder(clip or self.clip, self.device)

    def session(self, request: gr.Request) -> Session:
        """What belongs to the visitor behind a request."""
        name = str(request.session_hash)
        with self._lock:
            found = self._sessions.setdefault(name, Session())
            self._sessions.move_to_end(name)
            forgotten = []
            while len(self._sessions) > KEPT_SESSIONS:
                forgotten.append(self._sessions.popitem(last=False)[1])
        for session in forgotten:
            self._free(session)
        return found

    def forget(self, request: gr.Request) -> None:
        """Free what a visitor who left had in memory, and on a public page on disk."""
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

    def new_folder(self, session: Session, name: str) -> Path:
        """An empty folder for the files of one action, with a name that nobody can guess."""
        parent = prepare_folder(self.outdir)
        stamp = time.strftime(f"{name}-%Y%m%d-%H%M%S-")
        session.folders.append(Path(tempfile.mkdtemp(prefix=stamp, dir=parent)))
        return session.folders[-1]


def unknown_words(encoder: Encoder, *texts: str) -> list[str]:
    """Words that a small vocabulary does not hold."""
    known_by = getattr(encoder, "unknown_words", None)
    return [word for text in texts for word in known_by(text)] if known_by else []


@contextmanager
def readable() -> Iterator[None]:
    """Show what goes wrong in a callback as one line in the page, surprises in the terminal."""
    try:
        yield
    except gr.Error:
        raise
    except Exception as error:
        if not isinstance(error, (ValueError, OSError)):
            traceback.print_exception(error)
        text = " ".join(str(error).split()) or type(error).__name__
        raise gr.Error(html.escape(text, quote=False), duration=12, print_exception=False) from None


def callback(
    context: Context, function: Callable, names: Iterable[str] = (), worker: str | None = None
) -> Callable:
    """`function(context, request, **values)` as Gradio calls it, with errors as toasts.

    The values of the inputs come in the order of `names`, which are also what the endpoint calls
    them. Functions that yield stay such; they run in the thread for jobs, others in that of
    `worker` if one is named.
    """
    names, job = list(names), context.workers["job"]

    def call(request: gr.Request, *values):
        found = partial(function, context, request, **dict(zip(names, values, strict=True)))
        with readable():
            return context.workers[worker].submit(found).result() if worker else found()

    def drain(request: gr.Request, *values):
        with readable():
            steps = function(context, request, **dict(zip(names, values, strict=True)))
            try:
                while (step := job.submit(next, steps, None).result()) is not None:
                    yield step
            finally:
                job.submit(steps.close).result()

    made = drain if isgeneratorfunction(function) else call
    kind = Parameter.POSITIONAL_OR_KEYWORD
    made.__signature__ = Signature([Parameter(name, kind) for name in ("request", *names)])
    made.__annotations__ = {"request": gr.Request}
    made.__name__ = function.__name__
    return made
