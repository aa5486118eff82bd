"""Theme and style sheet of the page, and components and HTML that several tabs share."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from guidance.encoders import mini_vocabulary

SHOWN_PX = 640
MAX_SEED = 2**32 - 1
#: Seed of the image that the page shows first.
FIRST_SEED = 6
STYLE_SHEET = Path(__file__).with_name("style.css")
#: Colours of curves, defined in the style sheet for light and dark.
STROKES = ("var(--primary-500)", "var(--curve-2)", "var(--curve-3)")


def theme() -> gr.themes.Base:
    """Create the theme: warm greys, one green, system fonts."""
    base = gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_lg,
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    return base.set(
        body_background_fill="*neutral_100",
        body_background_fill_dark="*neutral_950",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_color="*neutral_200",
        block_border_color_dark="*neutral_800",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        block_label_background_fill="*neutral_50",
        block_label_background_fill_dark="*neutral_800",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        block_title_text_weight="600",
        input_background_fill="*neutral_50",
        input_background_fill_dark="*neutral_950",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        # As in the light theme: white on a brighter green has too little contrast.
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
        button_secondary_background_fill="white",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover_dark="*neutral_700",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        button_border_width="1px",
        checkbox_border_color="*neutral_400",
        checkbox_border_color_dark="*neutral_500",
        checkbox_border_radius="4px",
        slider_color="*primary_600",
        slider_color_dark="*primary_500",
        shadow_drop="0 1px 2px rgb(0 0 0 / 0.05)",
    )


def header(text: str) -> str:
    """HTML of the page header."""
    return (
        '<div class="head"><span class="mark" aria-hidden="true"></span>'
        f"<div><h1>sg3</h1><p>{html.escape(text)}</p></div></div>"
    )


def shown(pixels: np.ndarray, min_px: int = SHOWN_PX) -> Image.Image:
    """Convert uint8 `[H, W, C]` to an image at least `min_px` wide.

    Browsers enlarge small images to visible blocks; here they are resized bicubically.
    """
    image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    if image.width >= min_px:
        return image
    size = (min_px, round(image.height * min_px / image.width))
    return image.resize(size, Image.Resampling.BICUBIC)


def _points(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return " ".join(
        f"{300 * i / (len(values) - 1):.1f},{4 + 72 * (high - value) / span:.1f}"
        for i, value in enumerate(values)
    )


def curves(series: Mapping[str, Sequence[float]]) -> str:
    """Plot named series as inline SVG, each scaled to its own range, with a legend if several."""
    drawn = {name: values for name, values in series.items() if len(values) >= 2}
    if not drawn:
        return ""
    texts = [f"{name} from {v[0]:.3f} to {v[-1]:.3f}" for name, v in drawn.items()]
    label = html.escape("; ".join(texts))
    lines = "".join(
        f'<polyline points="{_points(values)}" fill="none" stroke="{stroke}" stroke-width="2" '
        'vector-effect="non-scaling-stroke"/>'
        for values, stroke in zip(drawn.values(), STROKES, strict=False)
    )
    plot = (
        f'<svg class="curve" viewBox="0 0 300 80" preserveAspectRatio="none" role="img" '
        f'aria-label="{label}"><title>{label}</title>{lines}</svg>'
    )
    if len(drawn) == 1:
        return plot
    legend = "".join(
        f'<span><i style="background:{stroke}"></i>{html.escape(text)}</span>'
        for text, stroke in zip(texts, STROKES, strict=False)
    )
    return f'{plot}<div class="legend">{legend}</div>'


def status(
    text: str,
    losses: Sequence[float] | Mapping[str, Sequence[float]] = (),
    done: float | None = None,
) -> str:
    """HTML of the status line.

    Args:
        text: The line. Screen readers announce it unless a progress bar is shown.
        losses: Curves below it.
        done: Fraction done, shown as a progress bar.
    """
    series = losses if isinstance(losses, Mapping) else {"Loss": losses}
    live = "polite" if done is None else "off"
    bar = ""
    if done is not None:
        width = f"{100 * min(max(done, 0), 1):.0f}"
        bar = (
            f'<div class="bar" role="progressbar" aria-label="Progress" aria-valuenow="{width}" '
            f'aria-valuemin="0" aria-valuemax="100"><i style="width:{width}%"></i></div>'
        )
    line = f'<div class="status" role="status" aria-live="{live}">{html.escape(text)}</div>'
    return f"{line}{bar}{curves(series)}"


def seconds(value: float) -> str:
    """Format a duration: '40 s', '3 min'."""
    return f"{value:.0f} s" if value < 90 else f"{value / 60:.0f} min"


def remaining(done: float, began: float, now: float) -> str:
    """Estimate of the remaining time for the status line; empty while it is unknown.

    Args:
        done: Fraction done.
        began: Time of the start in seconds.
        now: Current time.
    """
    if done <= 0 or now - began < 1:
        return ""
    return f", about {seconds((now - began) * (1 - done) / done)} left"


def words() -> str:
    """Vocabulary of the bundled encoders as Markdown, one line per attribute."""
    lines = ["It knows these attributes of a face and common synonyms:", ""]
    for name, values in mini_vocabulary.CLASSES.items():
        topic = name.replace("_", " ").replace("domain", "creature")
        lines.append(f"- **{topic}**: {', '.join(value for value in values if value != 'none')}")
    lines += [
        "",
        "The bundled generator draws only people in flat style. Prompts for creatures or ",
    ]
    lines[-1] += "other styles pull it towards the most similar person."
    return "\n".join(lines)


def unknown(words_: Sequence[str]) -> str:
    """HTML hint about words outside the encoder's vocabulary; empty if there are none."""
    if not words_:
        return ""
    listed = ", ".join(dict.fromkeys(map(html.escape, words_)))
    return f'<div class="hint" role="status">Not in the vocabulary of the encoder: {listed}</div>'


def image_view(label: str, alt: str, **kwargs: Any) -> gr.Image:
    """Create an output image."""
    return gr.Image(
        label=label,
        alt_text=alt,
        type="pil",
        format="png",
        interactive=False,
        buttons=["fullscreen"],
        elem_classes="image-view",
        **kwargs,
    )


def seed_field(label: str, value: int = 0, **kwargs: Any) -> gr.Number:
    """Create a field for a seed."""
    return gr.Number(value, label=label, precision=0, minimum=0, maximum=MAX_SEED, **kwargs)


def downloads(*labels: str, ready: int = 0) -> list[gr.DownloadButton]:
    """Create a row of download buttons, disabled except for the first `ready`."""
    with gr.Row(elem_classes="tight"):
        return [
            gr.DownloadButton(label, interactive=i < ready, size="md", min_width=90)
            for i, label in enumerate(labels)
        ]


def ready(path: str | Path) -> dict:
    """Update of a download button: enable it."""
    return gr.update(value=str(path), interactive=True)


def not_ready(count: int) -> list[dict]:
    """Updates of `count` download buttons: disable them."""
    return [gr.update(value=None, interactive=False)] * count
