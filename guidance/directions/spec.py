"""Parsing of directions on the command line, and building them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from guidance.directions.base import Direction
from guidance.directions.files import read_direction
from guidance.directions.linear import described_direction, pca_direction, sefa_direction
from guidance.directions.relevance import Relevance
from guidance.directions.text import text_difference, text_direction
from guidance.encoders import Encoder
from sg3.errors import UserError
from sg3.networks.generator import MappedGenerator
from sg3.settings import ClassLabel

NUMBERED = re.compile(r"(sefa|pca):(\d+)")
#: Prefix of a text: a direction in W from images that the encoder scores.
LABEL = "label:"


@dataclass(frozen=True)
class DirectionSpec:
    """What a direction is built from.

    Attributes:
        kind: "sefa", "pca", "label", "file" or "text".
        value: its number, file or text.
        neutral: text that describes the image without the edit.
        beta: threshold of `text_direction`.
    """

    kind: str
    value: str
    neutral: str = "a face"
    beta: float = 0.12

    @property
    def reads_text(self) -> bool:
        """Whether building it needs an encoder."""
        return self.kind in ("text", "label")


def parse_direction(text: str, neutral: str = "a face", beta: float = 0.12) -> DirectionSpec:
    """Parse `"sefa:3"`, `"pca:2"`, `"label:a smiling face"`, a .safetensors file, or a text.

    Raises ValueError for an empty text or a missing file.
    """
    text = " ".join(text.split())
    numbered = NUMBERED.fullmatch(text)
    if numbered:
        return DirectionSpec(numbered[1], numbered[2])
    if found := re.match(r"(sefa|pca):", text):
        raise UserError(
            f"direction: got {text!r}, expected {found[1]}:N with N from 0, as {found[1]}:2"
        )
    if text.endswith(".safetensors"):
        if not Path(text).is_file():
            raise UserError(f"direction: no file {text}")
        return DirectionSpec("file", text)
    labelled = text.startswith(LABEL)
    content = text.removeprefix(LABEL).strip()
    if not content or not neutral.strip():
        which = "neutral" if content else "direction"
        raise UserError(f"{which}: got an empty text, expected one such as 'a smiling face'")
    return DirectionSpec("label" if labelled else "text", content, neutral, beta)


def make_directions(
    G: MappedGenerator,
    specs: Sequence[DirectionSpec],
    encoder: Encoder | None = None,
    relevance: Callable[[], Relevance] | None = None,
    rows: Collection[int] | None = None,
    templates: str | Sequence[str] = "plain",
    class_index: ClassLabel | None = None,
    force: bool = False,
) -> list[Direction]:
    """Build the directions of `specs`.

    Args:
        G: the generator.
        specs: what to build.
        encoder: an image-text model; needed for texts.
        relevance: returns the statistics for texts in style space. It may take minutes, so it is
            called once, after everything else has been built.
        rows: restrict the directions to layers that read these rows of ws; None for all.
        templates: sentences to average texts over.
        class_index: class of a conditional network.
        force: accept files made for other weights.

    Raises ValueError as the functions do that build them.
    """
    read = [spec for spec in specs if spec.reads_text]
    if read and encoder is None:
        raise ValueError("encoder: got None, expected one for directions of texts")
    for spec in read:  # fail before the slow part
        text_difference(encoder, spec.value, spec.neutral, templates)  # type: ignore[arg-type]
    made = {
        spec: _quick(G, spec, encoder, rows, templates, class_index, force)
        for spec in specs
        if spec.kind != "text"
    }
    texts = [spec for spec in specs if spec.kind == "text"]
    if texts:
        if relevance is None:
            raise ValueError("relevance: got None, expected statistics for texts in style space")
        known = relevance()
        for spec in texts:
            made[spec] = text_direction(
                known,
                encoder,  # type: ignore[arg-type]
                spec.value,
                spec.neutral,
                spec.beta,
                templates,
            )
    found = [made[spec] for spec in specs]
    return found if rows is None else [direction.on_rows(G, rows) for direction in found]


def _quick(
    G: MappedGenerator,
    spec: DirectionSpec,
    encoder: Encoder | None,
    rows: Collection[int] | None,
    templates: str | Sequence[str],
    class_index: ClassLabel | None,
    force: bool,
) -> Direction:
    """Build a direction that needs no statistics."""
    if spec.kind == "sefa":
        return sefa_direction(G, int(spec.value), rows, class_index)
    if spec.kind == "pca":
        return pca_direction(G, int(spec.value), class_index)
    if spec.kind == "file":
        return read_direction(spec.value, G, force=force)
    assert encoder is not None
    return described_direction(
        G, encoder, spec.value, spec.neutral, templates=templates, class_index=class_index
    )
