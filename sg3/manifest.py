"""`run.json`: arguments, versions, inputs, timings, results and outputs of a run."""

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

from sg3._version import __version__
from sg3.files import sha256_of, write_text

PACKAGES = ("torch", "numpy", "numba", "open-clip-torch", "safetensors")


class RunManifest:
    """Records a run and writes it as `run.json` when the block ends.

        with RunManifest(outdir, "steer", {"prompt": "..."}) as manifest:
            manifest.add_input("face.safetensors")
            with manifest.time("optimize"): ...
            manifest.add_output(outdir / "end.png")

    After an exception the file is written only if there are outputs, with `"finished": false`.
    Nothing is written while `enabled` is False, as in processes of rank 1 and up.
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
        """Record an input file with its SHA-256, computed unless given."""
        self.inputs[str(path)] = sha256 or sha256_of(path)

    def add_output(self, path: str | os.PathLike) -> None:
        """Record a written file, relative to the run's folder if it is inside."""
        path = Path(path)
        inside = path.is_relative_to(self.path.parent)
        self.outputs.append(str(path.relative_to(self.path.parent) if inside else path))

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Add the duration of the block in seconds to `timings[name]`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            self.timings[name] = round(self.timings.get(name, 0) + elapsed, 3)

    def as_dict(self, finished: bool = True) -> dict[str, Any]:
        """Return the manifest as a dictionary for JSON."""
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

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self.enabled and (error is None or self.outputs):
            self.write(finished=error is None)


def versions() -> dict[str, str]:
    """Return the versions of this package, of Python and of the packages that affect numerics."""
    found = {"sg3": __version__, "python": platform.python_version(), "os": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
