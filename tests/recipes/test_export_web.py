"""The static page renders in Chromium what `sg3 generate` renders."""

from __future__ import annotations

import functools
import http.server
import re
import threading

import numpy as np
import pytest
from chromium import chromium
from click.testing import CliRunner

import sg3
from recipes.export_web.__main__ import fetch_runtime, main
from sg3.errors import UserError
from sg3.generate import generate_images

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def page_folder(tmp_path_factory):
    """The built page, with onnxruntime-web from npm's cache, since tests have no network."""
    pytest.importorskip("onnxscript", reason="the export extra is not installed")
    folder = tmp_path_factory.mktemp("page")
    try:
        fetch_runtime(folder, offline=True)
    except UserError as error:
        pytest.skip(f"{error}; run `python -m recipes.export_web` once")
    done = CliRunner().invoke(main, ["--outdir", str(folder)])
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(scope="module")
def address(page_folder):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(page_folder))
    handler.log_message = lambda *args: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


def opened(browser, address, **options):
    """Open the page, and wait for its first image."""
    page = browser.new_page(viewport={"width": 800, "height": 640}, **options)
    page.set_default_timeout(120_000)
    page.goto(address)
    page.wait_for_selector("body[data-frame]")
    return page


@pytest.fixture(scope="module")
def page(browser, address):
    return opened(browser, address)


def pixels(page):
    width, height, data = page.evaluate(
        "() => { const c = document.getElementById('canvas');"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height);"
        "return [c.width, c.height, Array.from(d.data)]; }"
    )
    return np.array(data, np.int16).reshape(height, width, 4)[..., :3]


def move(page, **values):
    """Set sliders as a user does, and wait until the page has rendered them."""
    for name, value in values.items():
        before = page.evaluate("() => document.body.dataset.frame")
        page.evaluate(
            "([name, value]) => { const e = document.getElementById(name); e.value = value;"
            "e.dispatchEvent(new Event('input', {bubbles: true})); }",
            [name, str(value)],
        )
        page.wait_for_function(
            "(before) => document.body.dataset.frame !== before && !busy", arg=before
        )


def test_sliders_give_the_images_of_sg3_generate(page):
    nets = {name: sg3.load(name).G_ema for name in ("mini-faces", "mini-faces-r")}
    for name, settings, arguments in (
        ("mini-faces", {"seed": 12, "psi": 0.5}, {}),
        ("mini-faces", {"x": 0.2, "y": -0.1}, {"translate": (0.2, -0.1)}),
        ("mini-faces-r", {"x": 0, "y": 0, "angle": 30}, {"rotate_deg": 30}),
    ):
        move(page, network=name, **settings)
        (expected,) = generate_images(nets[name], [12], truncation_psi=0.5, **arguments)
        difference = np.abs(pixels(page) - expected.image)
        assert difference.max() <= 1, (name, settings)


def test_the_circle_moves_and_the_page_tells_its_rate(page, page_folder):
    move(page, network="mini-faces", angle=0, seed=3, psi=0.7)
    before, start = pixels(page), int(page.evaluate("() => document.body.dataset.frame"))
    page.click("#circle")
    page.wait_for_function("(n) => Number(document.body.dataset.frame) > n", arg=start + 8)
    moved = pixels(page)
    page.click("#circle")
    page.wait_for_function("() => !busy")
    assert np.abs(moved - before).max() > 50
    np.testing.assert_array_equal(pixels(page), before)  # where the sliders say
    assert re.search(r"\d+ ms per image, \d+ images per second", page.inner_text("#status"))
    page.screenshot(path=str(page_folder / "page.png"))


def test_threads_where_the_browser_isolates_the_page(page, browser, address):
    cores = page.evaluate("() => navigator.hardwareConcurrency")
    assert page.evaluate("() => crossOriginIsolated")
    assert page.evaluate("() => threads") == min(max(cores - 1, 2), cores, 4)
    two = opened(browser, address + "?threads=2")
    assert two.evaluate("() => threads") == min(cores, 2)
    difference = np.abs(pixels(two) - pixels(opened(browser, address + "?threads=1")))
    assert difference.max() <= 1


def test_one_thread_without_a_service_worker(browser, address):
    page = opened(browser, address, service_workers="block")
    assert not page.evaluate("() => crossOriginIsolated")
    assert page.inner_text("#status").endswith("one thread")


def test_the_mapping_runs_only_for_another_latent(page):
    page.evaluate("() => { window.before = known.ws; }")
    move(page, x=0.3)
    assert page.evaluate("() => known.ws === before")
    move(page, x=0, psi=0.6)
    assert page.evaluate("() => known.ws !== before")
