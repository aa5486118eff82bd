"""`run.json`: what a command was asked, with which versions and inputs, and what it wrote."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from sg3 import __version__
from sg3.files import sha256_of, write_text

PACKAGES = ("torch", "numpy", "numba", "open-clip-torch", "safetensors")


class RunManifest:
    """Collects the facts of one run and writes them as `run.json`.

    with RunManifest(outdir, "steer", {"prompt": "..."}) as manifest:
        manifest.add_input("face.safetensors")
        with manifest.time("optimise"): ...
        manifest.add_output(outdir / "end.png")

    The file is written when the block ends; a run that raised leaves `"finished": false`
    only if something had been written before. With `enabled` False (the processes of a
    parallel run other than the first) nothing is written.
    """

    def __init__(self, outdir: str | os.PathLike, command: str, arguments: dict[str, Any]):
        self.path = Path(outdir) / "run.json"
        self.command, self.arguments = command, dict(arguments)
        self.inputs: dict[str, str] = {}
        self.outputs: list[str] = []
        self.timings: dict[str, float] = {}
        self.results: dict[str, Any] = {}
        self.enabled = True
        self._start = time.time()

    def add_input(self, path: str | os.PathLike, sha256: str | None = None) -> None:
        """Record an input file by its SHA-256 (computed here unless given)."""
        self.inputs[str(path)] = sha256 or sha256_of(path)

    def add_output(self, path: str | os.PathLike) -> None:
        """Record a written file, by its name relative to the run's folder where it lies in it."""
        path = Path(path)
        inside = path.is_relative_to(self.path.parent)
        self.outputs.append(str(path.relative_to(self.path.parent) if inside else path))

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Add the seconds that the block takes to `timings[name]`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            self.timings[name] = round(self.timings.get(name, 0) + elapsed, 3)

    def as_dict(self, finished: bool = True) -> dict[str, Any]:
        """The manifest as a JSON-able dictionary."""
        return {
            "command": self.command,
            "arguments": self.arguments,
            "argv": sys.argv[1:],
            "finished": finished,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._start)),
            "versions": versions(),
            "inputs": self.inputs,
            "timings": {**self.timings, "total": round(time.time() - self._start, 3)},
            "results": self.results,
            "outputs": self.outputs,
        }

    def write(self, finished: bool = True) -> Path:
        """Write `run.json` atomically and return its path."""
        write_text(self.path, json.dumps(self.as_dict(finished), indent=1, default=str) + "\n")
        return self.path

    def __enter__(self) -> RunManifest:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if self.enabled and (error is None or self.outputs):
            self.write(finished=error is None)


def versions() -> dict[str, str]:
    """Versions of this program, of Python and of the packages that decide the numbers."""
    found = {"sg3": __version__, "python": platform.python_version(), "os": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
