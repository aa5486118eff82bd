"""Pictures of the page for docs/APP.md: starts `sg3 app`, uses it, photographs it.

    python -m recipes.minifaces.pictures.page --outdir docs

Needs Chromium and the package playwright. About two minutes on two cores.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

GAP, GREY = 8, "#dddddd"
DESK, PHONE = (1280, 900), (390, 844)
FIRST, OTHERS = 0.735, 0.5  # how large the two sheets show them
SEED = "6"


@contextmanager
def served() -> Iterator[str]:
    """Address of a page of its own on the bundled models."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sg3", "app", "--port", port, "--outdir", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            for _ in range(600):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                        break
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def photograph(page, scale: float) -> Image.Image:
    """The whole page, however long."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(1500)  # until nothing is fading any more
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    return picture.resize((round(picture.width * scale), round(picture.height * scale)))


def side_by_side(pictures: list[Image.Image], columns: int) -> Image.Image:
    """Rows of pictures, each row as tall as its tallest."""
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    widths = [sum(p.width for p in row) + GAP * (len(row) - 1) for row in rows]
    heights = [max(p.height for p in row) for row in rows]
    sheet = Image.new("RGB", (max(widths), sum(heights) + GAP * (len(rows) - 1)), GREY)
    y = 0
    for row, height in zip(rows, heights, strict=True):
        x = 0
        for picture in row:
            sheet.paste(picture, (x, y))
            x += picture.width + GAP
        y += height + GAP
    return sheet


def visit(browser, address: str, size: tuple[int, int]):
    """A page with its first picture."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.set_default_timeout(180_000)
    page.goto(address)
    page.get_by_alt_text("The generated image").wait_for()
    page.get_by_label("Seed").first.fill(SEED)
    page.get_by_label("Seed").first.press("Enter")
    return page


def first_tab(browser, address: str) -> Image.Image:
    """Generate, on a desk and on a phone."""
    desk = visit(browser, address, DESK)
    field = desk.get_by_label("number input for Translate x").locator("visible=true")
    field.fill("0.12")
    field.press("Enter")
    command = desk.locator(".command textarea").locator("visible=true")
    desk.wait_for_function("e => e.value.includes('0.12')", arg=command.element_handle())
    wide = photograph(desk, FIRST)
    narrow = photograph(visit(browser, address, PHONE), FIRST)
    narrow = narrow.crop((0, 0, narrow.width, wide.height))
    return side_by_side([wide, narrow], 2)


def other_tabs(browser, address: str) -> Image.Image:
    """Steer, Adapt, Edit and Explore after use."""
    page, pictures = visit(browser, address, DESK), []

    def open_tab(name: str) -> None:
        page.get_by_role("tab", name=name, exact=True).locator("visible=true").first.click()

    open_tab("Steer")
    page.get_by_text("a man with a green hat").click()
    page.get_by_text(re.compile("Done after|Stopped after")).wait_for()
    pictures.append(photograph(page, OTHERS))
    open_tab("Adapt")
    page.get_by_alt_text("Looks").or_(page.get_by_text("Look 1")).first.wait_for()
    page.wait_for_timeout(6000)
    pictures.append(photograph(page, OTHERS))
    open_tab("Edit")
    page.get_by_text("a smiling face +2.0").wait_for()
    pictures.append(photograph(page, OTHERS))
    open_tab("Explore")
    page.get_by_text("Move the sliders").wait_for()
    page.wait_for_timeout(3000)
    pictures.append(photograph(page, OTHERS))
    return side_by_side(pictures, 2)


def main() -> None:
    """Write app.jpg and app-tabs.jpg."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--outdir", type=Path, default=Path("docs"))
    args = parser.parse_args()
    args.outdir.mkdir(parents=True, exist_ok=True)
    with served() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for name, take in (("app", first_tab), ("app-tabs", other_tabs)):
            take(browser, address).save(args.outdir / f"{name}.jpg", quality=88)
            print(args.outdir / f"{name}.jpg", flush=True)
        browser.close()


if __name__ == "__main__":
    main()
