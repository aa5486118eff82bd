"""Eight visitors steer on the page for a minute: does any fail, does memory come back?

    python -m benchmarks.app_load [--clients 8] [--seconds 60]

Starts the page as a process of its own, measures how long that takes and how long the first
picture takes, warms it up with one round of all visitors, then lets them steer again and again.
Prints what happened; exits with 1 if a visitor failed or memory stayed above 5 % more.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import click

STEER = {"latent_file": None, "pictures": None, "mask": None, "steps": 10, "candidates": 8}
TOLERANCE, REST_S = 0.05, 8


def memory_mib(pid: int) -> float:
    """Resident memory of a process (Linux)."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024


def cpu_seconds(pid: int) -> float:
    """Time on processors so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


class Visitor(threading.Thread):
    """Steers until `until`; counts its runs and keeps what went wrong."""

    def __init__(self, address: str, number: int, until: float):
        super().__init__(daemon=True)
        self.address, self.number, self.until = address, number, until
        self.runs, self.errors = 0, []

    def run(self) -> None:
        from gradio_client import Client

        client = Client(self.address, verbose=False)
        try:
            while not self.runs or time.monotonic() < self.until:
                found = client.predict(**STEER, seed=self.number, api_name="/steer")
                if "Done after" not in found[2]:
                    raise ValueError(found[2])
                self.runs += 1
        except Exception as error:  # whatever it is, the visitor did not get a picture
            self.errors.append(f"visitor {self.number}: {error!r:.200}")
        finally:
            client.close()


def crowd(address: str, count: int, seconds: float) -> tuple[int, list[str]]:
    """Runs that `count` visitors finished, and what went wrong."""
    until = time.monotonic() + seconds
    visitors = [Visitor(address, i, until) for i in range(count)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    return sum(v.runs for v in visitors), [error for v in visitors for error in v.errors]


def start(port: int, outdir: str) -> tuple[subprocess.Popen, float]:
    """The page's process, and the seconds until it answers."""
    began = time.monotonic()
    command = [sys.executable, "-m", "app", "--port", str(port), "--outdir", outdir]
    page = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in page.stdout:
        if "The page is at" in line:
            return page, time.monotonic() - began
    raise SystemExit("the page did not start")


def first_picture(address: str) -> float:
    """Seconds from opening the page in Chromium to a picture on it; NaN without Chromium."""
    import shutil

    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    if path is None:
        return float("nan")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page, began = browser.new_page(), time.monotonic()
        page.goto(address)
        page.wait_for_function(
            "() => { const i = document.querySelector(\"img[alt='The generated image']\");"
            " return i && i.complete && i.naturalWidth > 0 }"
        )
        seconds = time.monotonic() - began
        browser.close()
    return seconds


def main(clients: int = 8, seconds: float = 60) -> None:
    """Load the page with visitors that steer; raises SystemExit if it does not hold."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}/"
    with tempfile.TemporaryDirectory() as outdir:
        page, ready = start(port, outdir)
        try:
            click.echo(f"ready after {ready:.1f} s (processor {cpu_seconds(page.pid):.1f} s)")
            click.echo(f"first picture {first_picture(address):.2f} s after the page was opened")
            for _ in range(2):  # caches fill, and arenas of the allocator
                _, errors = crowd(address, clients, 0)
            time.sleep(REST_S)
            before, spent = memory_mib(page.pid), cpu_seconds(page.pid)
            runs, more = crowd(address, clients, seconds)
            errors += more
            time.sleep(REST_S)
            after = memory_mib(page.pid)
            spent = cpu_seconds(page.pid) - spent
        finally:
            page.terminate()
            page.wait()
    growth = after / before - 1
    click.echo(f"{clients} visitors, {runs} runs, processor {spent:.0f} s, {len(errors)} failed")
    click.echo(f"memory {before:.0f} MiB before, {after:.0f} MiB after ({growth:+.1%})")
    for error in errors:
        click.echo(error)
    if errors or growth > TOLERANCE:
        raise SystemExit(1)


@click.command()
@click.option("--clients", default=8, show_default=True)
@click.option("--seconds", default=60.0, show_default=True)
def command(clients: int, seconds: float) -> None:
    """Load the page with visitors that steer."""
    main(clients, seconds)


if __name__ == "__main__":
    command()
