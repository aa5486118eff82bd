"""Make the figures of docs/APP.md: start `sg3 app`, use it, and take screenshots.

    python -m recipes.minifaces.pictures.page --outdir docs

Needs Chromium and the package playwright. About two minutes on two cores.
"""

from __future__ import annotations

import io
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from recipes.arguments import argument_parser
from recipes.minifaces.pictures.browser import chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

GAP, GREY = 8, "#dddddd"
DESKTOP, PHONE = (1280, 900), (390, 844)  # viewports in pixels
FIRST_SCALE, OTHER_SCALE = 0.735, 0.5  # of the screenshots in the two figures
SEED = "6"


@contextmanager
def served() -> Iterator[str]:
    """Start `sg3 app` with the bundled models; yields its address."""
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


def screenshot(page: Page, scale: float) -> Image.Image:
    """Take a screenshot of the whole page, resized by `scale`."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(1500)  # transitions end
    image = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    return image.resize((round(image.width * scale), round(image.height * scale)))


def side_by_side(images: list[Image.Image], columns: int) -> Image.Image:
    """Arrange images in rows of `columns`, each row as tall as its tallest image."""
    rows = [images[i : i + columns] for i in range(0, len(images), columns)]
    widths = [sum(image.width for image in row) + GAP * (len(row) - 1) for row in rows]
    heights = [max(image.height for image in row) for row in rows]
    sheet = Image.new("RGB", (max(widths), sum(heights) + GAP * (len(rows) - 1)), GREY)
    y = 0
    for row, height in zip(rows, heights, strict=True):
        x = 0
        for image in row:
            sheet.paste(image, (x, y))
            x += image.width + GAP
        y += height + GAP
    return sheet


def visit(browser: Browser, address: str, size: tuple[int, int]) -> Page:
    """Open the page and generate its first image."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.set_default_timeout(180_000)
    page.goto(address)
    page.get_by_alt_text("The generated image").wait_for()
    page.get_by_label("Seed").first.fill(SEED)
    page.get_by_label("Seed").first.press("Enter")
    page.wait_for_function("document.querySelector('.pad img').src.startsWith('data:image/jpeg')")
    return page


def first_tab(browser: Browser, address: str) -> Image.Image:
    """Take screenshots of the tab Generate on a desktop and on a phone."""
    desktop = visit(browser, address, DESKTOP)
    field = desktop.get_by_label("number input for Translate x").locator("visible=true")
    image = desktop.get_by_alt_text("The generated image").element_handle()
    before = image.get_attribute("src")
    field.fill("0.12")
    field.press("Enter")
    desktop.wait_for_function("([e, old]) => e.src !== old && e.complete", arg=[image, before])
    command = desktop.locator(".command textarea").locator("visible=true")
    desktop.wait_for_function("e => e.value.includes('0.12')", arg=command.element_handle())
    wide = screenshot(desktop, FIRST_SCALE)
    narrow = screenshot(visit(browser, address, PHONE), FIRST_SCALE)
    narrow = narrow.crop((0, 0, narrow.width, wide.height))
    return side_by_side([wide, narrow], 2)


def other_tabs(browser: Browser, address: str) -> Image.Image:
    """Use the tabs Steer, Adapt, Edit and Explore, and take a screenshot of each."""
    page, images = visit(browser, address, DESKTOP), []

    def open_tab(name: str) -> None:
        page.get_by_role("tab", name=name, exact=True).locator("visible=true").first.click()

    open_tab("Steer")
    page.get_by_text("a man with a green hat").click()
    page.get_by_text(re.compile("Done after|Stopped after")).wait_for()
    images.append(screenshot(page, OTHER_SCALE))
    open_tab("Adapt")
    page.get_by_alt_text("Twelve images with the selected deltas").first.wait_for()
    page.wait_for_timeout(6000)
    images.append(screenshot(page, OTHER_SCALE))
    open_tab("Edit")
    page.get_by_text("a smiling face +2.0").wait_for()
    images.append(screenshot(page, OTHER_SCALE))
    open_tab("Explore")
    page.get_by_text("Move the sliders").wait_for()
    page.wait_for_timeout(3000)
    images.append(screenshot(page, OTHER_SCALE))
    return side_by_side(images, 2)


def main() -> None:
    """Write app.jpg and app-tabs.jpg."""
    parser = argument_parser(__doc__)
    parser.add_argument("--outdir", type=Path, default=Path("docs"), help="output folder")
    args = parser.parse_args()
    args.outdir.mkdir(parents=True, exist_ok=True)
    with served() as address, chromium() as browser:
        for name, take in (("app", first_tab), ("app-tabs", other_tabs)):
            take(browser, address).save(args.outdir / f"{name}.jpg", quality=88)
            print(args.outdir / f"{name}.jpg", flush=True)


if __name__ == "__main__":
    main()
