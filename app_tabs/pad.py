"""A 2D slider: a point in a square, two numbers in [-1, 1] as the text "x,y"."""

from __future__ import annotations

import base64
import io

import gradio as gr
import numpy as np
from PIL import Image

CENTRE = "0,0"
#: A transparent pixel: browsers show an empty address as a broken image.
BLANK = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
TEMPLATE = """
<div class="field">
  <img src="${sheet}" alt="" draggable="false">
  <i style="left:${50 + 50 * parseFloat(value.split(',')[0])}%;
            top:${50 - 50 * parseFloat(value.split(',')[1])}%"></i>
</div>
"""
# Focus and pointer are held by the root, because its content is redrawn during a drag.
SCRIPT = """
element.tabIndex = 0;
element.setAttribute('role', 'application');
element.setAttribute('aria-label', props.about);
let dragging = false;
const clamp = (v) => Math.min(1, Math.max(-1, v));
const put = (x, y) => {
  props.value = `${clamp(x).toFixed(2)},${clamp(y).toFixed(2)}`;
  trigger('input');
};
const follow = (event) => {
  const r = element.querySelector('.field').getBoundingClientRect();
  put(2 * (event.clientX - r.left) / r.width - 1, 1 - 2 * (event.clientY - r.top) / r.height);
};
element.addEventListener('pointerdown', (event) => {
  dragging = true; element.setPointerCapture(event.pointerId); element.focus(); follow(event);
});
element.addEventListener('pointermove', (event) => { if (dragging) follow(event); });
element.addEventListener('pointerup', () => { dragging = false; });
element.addEventListener('pointercancel', () => { dragging = false; });
element.addEventListener('dblclick', () => put(0, 0));
element.addEventListener('keydown', (event) => {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  const [x, y] = props.value.split(',').map(parseFloat);
  if (event.key === 'Home') { put(0, 0); event.preventDefault(); return; }
  if (!(event.key in step)) return;
  event.preventDefault();
  put(x + 0.1 * step[event.key][0], y + 0.1 * step[event.key][1]);
});
"""


def pad(about: str) -> gr.HTML:
    """Create the component. Its property `sheet` (see `as_address`) is the background image."""
    return gr.HTML(
        CENTRE,
        html_template=TEMPLATE,
        js_on_load=SCRIPT,
        sheet=BLANK,
        about=f"{about} Drag, or use the arrow keys; Home resets it.",
        elem_classes="pad",
        apply_default_css=False,
    )


def parse(text: str | None) -> tuple[float, float]:
    """Parse `"0.2,-0.4"` into (0.2, −0.4). Raises ValueError outside [-1, 1]."""
    try:
        x, y = (float(part) for part in (text or CENTRE).split(","))
    except ValueError:
        raise ValueError(f"map: got {text!r:.40}, expected two numbers like 0.2,-0.4") from None
    if not max(abs(x), abs(y)) <= 1:
        raise ValueError(f"map: got {text!r:.40}, expected numbers from -1 to 1")
    return x, y


def as_address(pixels: np.ndarray, size_px: int = 360) -> str:
    """Encode uint8 `[H, W, 3]` as a small JPEG in a data URL."""
    buffer = io.BytesIO()
    image = Image.fromarray(pixels).convert("RGB")
    image.resize((size_px, size_px), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
