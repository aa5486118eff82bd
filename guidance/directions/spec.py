"""From what a user types to directions."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from guidance.directions.base import Direction
from guidance.directions.files import read_direction
from guidance.directions.linear import described_direction, pca_direction, sefa_direction
from guidance.directions.relevance import Relevance
from guidance.directions.text import text_difference, text_direction
from guidance.encoders import Encoder
from sg3.checkpoints.delta import weights_hash
from sg3.errors import UserError

NUMBERED = re.compile(r"(sefa|pca):(\d+)")
#: Before a text: a direction in W from pictures that the encoder labels.
LABEL = "label:"


@dataclass(frozen=True)
class DirectionSpec:
    """`kind` is sefa, pca, label, file or text; `value` its number, file or text."""

    kind: str
    value: str
    neutral: str = "a face"
    beta: float = 0.12

    @property
    def reads_text(self) -> bool:
        """Whether it takes an encoder."""
        return self.kind in ("text", "label")


def parse_direction(text: str, neutral: str = "a face", beta: float = 0.12) -> DirectionSpec:
    """`"sefa:3"`, `"pca:2"`, `"label:a smiling face"`, a .safetensors file, or a text.

    Raises UserError for an empty text or a file that is not there.
    """
    text = " ".join(text.split())
    numbered = NUMBERED.fullmatch(text)
    if numbered:
        return DirectionSpec(numbered[1], numbered[2])
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
    G: nn.Module,
    specs: Sequence[DirectionSpec],
    encoder: Encoder | None = None,
    relevance: Callable[[], Relevance] | None = None,
    rows: Collection[int] | None = None,
    templates: str | Sequence[str] = "plain",
    class_index: int | None = None,
    force: bool = False,
) -> list[Direction]:
    """The directions that `specs` ask for, in the layers of `rows` only if given.

    `encoder` is needed for texts, `relevance` (asked once, and last: it may take minutes) for
    those in style space. `force` takes files of other weights. Raises UserError as the makers do.
    """
    for spec in specs:
        if spec.reads_text:
            text_difference(encoder, spec.value, spec.neutral, templates)
    quick = [spec for spec in specs if spec.kind != "text"]
    made: dict[DirectionSpec, Direction] = {}
    for spec in quick:
        if spec.kind == "sefa":
            made[spec] = sefa_direction(G, int(spec.value), rows, class_index)
        elif spec.kind == "pca":
            made[spec] = pca_direction(G, int(spec.value), class_index)
        elif spec.kind == "file":
            made[spec] = read_direction(spec.value, G, weights_hash(G), force)
        else:
            made[spec] = described_direction(
                G, encoder, spec.value, spec.neutral, templates=templates, class_index=class_index
            )
    texts = [spec for spec in specs if spec.kind == "text"]
    if texts:
        known = relevance()
        for spec in texts:
            made[spec] = text_direction(
                known, encoder, spec.value, spec.neutral, spec.beta, templates
            )
    found = [made[spec] for spec in specs]
    return found if rows is None else [direction.on_rows(G, rows) for direction in found]
