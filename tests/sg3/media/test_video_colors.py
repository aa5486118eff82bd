"""Colours of MP4 files, as Chromium shows them."""

import base64

import numpy as np
import pytest
from chromium import chromium

from sg3.media.mp4 import VideoWriter

COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (224, 172, 138), (128, 128, 128), (20, 90, 160))
#: Draws the first frame on a canvas; returns the middle of each column.
READ_COLORS = """async ([source, columns]) => {
    const video = document.createElement("video");
    video.muted = true;
    video.src = source;
    document.body.append(video);
    const shown = new Promise(done => video.requestVideoFrameCallback(done));
    await video.play();
    await shown;
    const canvas = document.createElement("canvas");
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    const context = canvas.getContext("2d");
    context.drawImage(video, 0, 0);
    const width = canvas.width / columns;
    return [...Array(columns).keys()].map(i => [...context.getImageData(
        Math.floor((i + 0.5) * width), canvas.height / 2, 1, 1).data.slice(0, 3)]);
}"""


def columns(size_px):
    """Return an image `[size_px, size_px, 3]` with a column of each colour."""
    colors = np.array(COLORS, np.uint8)
    return np.broadcast_to(
        colors[np.arange(size_px) * len(colors) // size_px], (size_px, size_px, 3)
    )


@pytest.mark.slow
def test_chromium_shows_the_colours_of_small_and_large_videos(tmp_path):
    """Without tags, 720 lines and more were taken for BT.709: red came out as (255, 24, 0)."""
    shown = {}
    with chromium() as browser:
        page = browser.new_page()
        for size_px in (64, 704, 720, 1024):
            path = tmp_path / f"{size_px}.mp4"
            with VideoWriter(path) as video:
                for _ in range(30):
                    video.add(columns(size_px))
            source = "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()
            shown[size_px] = page.evaluate(READ_COLORS, [source, len(COLORS)])
    for size_px, colors in shown.items():
        assert np.abs(np.array(colors) - np.array(COLORS)).max() <= 3, (size_px, colors)
