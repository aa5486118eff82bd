"""Load test of the page: eight visitors steer for a minute; errors, memory, latency.

    python -m benchmarks.app_load --clients 8 --seconds 60

Starts the page in a process, measures the time until it answers and until the first image is
visible, warms it up with all visitors, then lets them steer repeatedly. Exits with status 1 if a
visitor fails, or if memory grows by more than 5 %.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from recipes.arguments import argument_parser

STEER = {"latent_file": None, "images": None, "mask": None, "steps": 10, "candidates": 8}
TOLERANCE, REST_S = 0.05, 8  # largest growth of memory; pause before memory is measured


def memory_mib(pid: int) -> float:
    """Return the resident memory of a process (Linux only)."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process (Linux only)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


class Visitor(threading.Thread):
    """A client that steers until the time `until`; counts its runs and collects errors."""

    def __init__(self, address: str, number: int, until: float) -> None:
        super().__init__(daemon=True)
        self.address, self.number, self.until = address, number, until
        self.runs = 0
        self.errors: list[str] = []

    def run(self) -> None:
        """Steer at least once."""
        from gradio_client import Client

        client = Client(self.address, verbose=False)
        try:
            while not self.runs or time.monotonic() < self.until:
                found = client.predict(**STEER, seed=self.number, api_name="/steer")
                if "Done after" not in found[2]:
                    raise ValueError(found[2])
                self.runs += 1
        except Exception as error:  # of any kind: the visitor got no image
            self.errors.append(f"visitor {self.number}: {error!r:.200}")
        finally:
            client.close()


def crowd(address: str, count: int, seconds: float) -> tuple[int, list[str]]:
    """Let `count` visitors steer for `seconds`; returns the number of runs, and errors."""
    until = time.monotonic() + seconds
    visitors = [Visitor(address, i, until) for i in range(count)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    return sum(v.runs for v in visitors), [error for v in visitors for error in v.errors]


def start(port: int, outdir: str) -> tuple[subprocess.Popen, float]:
    """Start the page; returns its process, and the seconds until it answers."""
    began = time.monotonic()
    command = [sys.executable, "-m", "sg3", "app", "--port", str(port), "--outdir", outdir]
    page = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in page.stdout:
        if "The page is at" in line:
            return page, time.monotonic() - began
    raise SystemExit("the page did not start")


def first_image(address: str) -> float:
    """Return the seconds from opening the page to its first image; NaN without Chromium."""
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


def measure(clients: int = 8, seconds: float = 60) -> None:
    """Run the load test; raises SystemExit if it fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}/"
    with tempfile.TemporaryDirectory() as outdir:
        page, ready = start(port, outdir)
        try:
            print(f"ready after {ready:.1f} s (CPU time {cpu_seconds(page.pid):.1f} s)")
            print(f"first image {first_image(address):.2f} s after the page was opened")
            for _ in range(2):  # warm-up: fills caches and arenas of the allocator
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
    print(f"{clients} visitors, {runs} runs, CPU time {spent:.0f} s, {len(errors)} failed")
    print(f"memory {before:.0f} MiB before, {after:.0f} MiB after ({growth:+.1%})")
    for error in errors:
        print(error)
    if errors or growth > TOLERANCE:
        raise SystemExit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argument_parser(__doc__)
    parser.add_argument("--clients", type=int, default=8, help="number of visitors")
    parser.add_argument("--seconds", type=float, default=60, help="duration of the load")
    args = parser.parse_args(arguments)
    measure(args.clients, args.seconds)


if __name__ == "__main__":
    main()
