"""The template of a Space: it starts in seconds, and the hub would understand its header."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("gradio")

ROOT = Path(__file__).resolve().parents[2]
SPACE = ROOT / "recipes" / "space"
#: Of one core, until the page is there.
MAX_CPU_S = 15


def test_the_header_of_the_space():
    header = (SPACE / "README.md").read_text(encoding="utf-8").split("---\n")[1]
    fields = dict(line.split(": ", 1) for line in header.strip().splitlines())
    assert fields["sdk"] == "gradio" and fields["app_file"] == "app.py"
    assert (SPACE / fields["app_file"]).is_file()
    pinned = re.search(r"^gradio==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert fields["sdk_version"] == pinned[1]
    assert "sg3[app]" in (SPACE / "requirements.txt").read_text().splitlines()


@pytest.mark.slow
def test_the_space_starts(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"PORT": str(port), "SG3_OUTDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    with open(tmp_path / "log.txt", "w") as log:
        process = subprocess.Popen(
            [sys.executable, SPACE / "app.py"],
            cwd=tmp_path, env={**os.environ, **settings}, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            page = _wait_for(f"http://127.0.0.1:{port}/", process)
        finally:
            process.terminate()
            _, _, used = os.wait4(process.pid, 0)
            process.returncode = 0
    assert page and b"sg3" in page, (tmp_path / "log.txt").read_text()
    assert used.ru_utime + used.ru_stime < MAX_CPU_S


def _wait_for(address: str, process: subprocess.Popen, limit_s: float = 300) -> bytes | None:
    """Return the page as soon as there is one; None if the program has ended."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline and process.poll() is None:
        try:
            return urllib.request.urlopen(address, timeout=30).read()
        except OSError:
            time.sleep(0.2)
    return None
