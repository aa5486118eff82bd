"""Where a bundled file comes from: the commit and the command line, for its metadata."""

from __future__ import annotations

import subprocess
import sys


def git_commit(short: bool = False) -> str:
    """Return the commit that this code runs from, "unknown" outside a repository."""
    command = ["git", "rev-parse", *(["--short"] if short else []), "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def command_line(module: str) -> str:
    """Return `python -m MODULE` with the arguments of this process."""
    return " ".join([f"python -m {module}", *sys.argv[1:]])
