"""Images per second of the page of `recipes.export_web` in Chromium, by threads.

    python -m recipes.export_web --outdir out/export_web
    python -m benchmarks browser --folder out/export_web

Opens the built page, lets the image move in a circle, and prints what the page tells about its rate
and the CPU time of its process per image. Needs Chromium and the extra `test` (Playwright).
"""

from __future__ import annotations

import functools
import http.server
import shutil
import statistics
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from recipes.arguments import argument_parser
from sg3.errors import UserError

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


class Files(http.server.SimpleHTTPRequestHandler):
    """Files without a log."""

    def log_message(self, *args) -> None:
        """Print nothing."""


@contextmanager
def served(folder: str) -> Iterator[str]:
    """Serve a folder; yields its address."""
    handler = functools.partial(Files, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def measure(page, images: int, rounds: int) -> tuple[float, float]:
    """Return the median milliseconds and CPU milliseconds of an image, over rounds of images."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def now() -> tuple[int, float, float]:
        metrics = session.send("Performance.getMetrics")["metrics"]
        found = {each["name"]: each["value"] for each in metrics}
        frame = int(page.evaluate("() => document.body.dataset.frame"))
        return frame, found["Timestamp"], found["ProcessTime"]

    walls, cpus = [], []
    for _ in range(rounds):
        frame, wall, cpu = now()
        page.wait_for_function(
            "(n) => Number(document.body.dataset.frame) >= n", arg=frame + images, polling=100
        )
        count, wall_after, cpu_after = now()
        walls.append((wall_after - wall) / (count - frame) * 1000)
        cpus.append((cpu_after - cpu) / (count - frame) * 1000)
    return statistics.median(walls), statistics.median(cpus)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the page on one thread and on all."""
    parser = argument_parser(__doc__)
    parser.add_argument("--folder", default="out/export_web", help="built page")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads")
    parser.add_argument("--images", type=int, default=30, help="images per round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the median counts")
    args = parser.parse_args(argv)
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise UserError(f"found none of {', '.join(PROGRAMS)}; install Chromium")
    if not (Path(args.folder) / "index.html").exists():
        raise UserError(f"folder: {args.folder} holds no page; run `python -m recipes.export_web`")
    from playwright.sync_api import sync_playwright

    with served(args.folder) as address, sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        for threads in args.threads:
            page = browser.new_page()
            page.set_default_timeout(300_000)
            page.goto(f"{address}?threads={threads}")
            page.wait_for_selector("body[data-frame]")
            for name in page.eval_on_selector_all("option", "all => all.map((each) => each.text)"):
                page.select_option("#network", name)
                page.set_checked("#circle", True)
                page.wait_for_timeout(2000)
                wall, cpu = measure(page, args.images, args.rounds)
                print(
                    f"{name}, {threads} threads: {wall:.0f} ms per image, "
                    f"{1000 / wall:.1f} images per second; CPU {cpu:.0f} ms, "
                    f"{1000 / cpu:.1f} images per CPU second; page: {page.inner_text('#status')}",
                    flush=True,
                )
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
