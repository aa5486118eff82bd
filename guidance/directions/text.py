"""Texts as directions in style space (StyleCLIP's global method, REFERENCE.md §8.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from guidance.directions.base import Direction
from guidance.directions.relevance import Relevance
from guidance.encoders import Encoder, load_encoder
from guidance.templates import filled, templates_of
from sg3.errors import UserError


@torch.no_grad()
def text_difference(
    encoder: Encoder, target: str, neutral: str, templates: str | Sequence[str] = "plain"
) -> torch.Tensor:
    """Unit vector `[D]` from the embedding of `neutral` to that of `target`.

    Args:
        encoder: an image-text model.
        target: text that describes the edit.
        neutral: text that describes the image without the edit.
        templates: sentences to average the texts over, as `templates_of` takes them.

    Raises ValueError for an empty text, or for two that the encoder cannot tell apart.
    """
    for name, text in (("direction", target), ("neutral", neutral)):
        if not text.strip():
            raise UserError(f"{name}: got {text!r}, expected a text such as 'a smiling face'")
    sentences, ends = templates_of(templates), []
    for text in (target, neutral):
        embeddings = encoder.encode_texts(filled(sentences, text)).float()
        ends.append(F.normalize(embeddings.mean(dim=0), dim=0))
    change = ends[0] - ends[1]
    if change.norm() < 1e-4:
        raise UserError(
            f"direction: {target!r} is the same as {neutral!r} to this encoder; use other words"
        )
    return F.normalize(change, dim=0)


def text_direction(
    relevance: Relevance,
    encoder: str | Encoder,
    target: str,
    neutral: str = "a face",
    # Cosines of open_clip models are small; the bundled ones prefer 0.2 (docs/EDITING.md).
    beta: float = 0.12,
    templates: str | Sequence[str] = "plain",
) -> Direction:
    """The direction in style space that a text describes.

    Alpha 1 moves the most relevant channel by one standard deviation.

    Args:
        relevance: statistics of the network, from `find_relevance`.
        encoder: the encoder of these statistics; what `load_encoder` takes.
        target: text that describes the edit, such as "a smiling face".
        neutral: text that describes the image without the edit.
        beta: channels whose relevance has a smaller cosine with the difference of the texts are
            left alone, so a larger beta preserves more of the image.
        templates: sentences to average the texts over.

    Raises ValueError for texts as `text_difference` does, or if no channel is left.

    Example:
        >>> import guidance, sg3
        >>> nets = sg3.load("mini-faces")
        >>> statistics = guidance.find_relevance(nets, "mini")
        >>> smile = guidance.text_direction(statistics, "mini", "a smiling face", beta=0.2)
        >>> smile.info["channels"] > 10
        True
    """
    if not 0 <= beta < 1:
        raise UserError(f"beta: got {beta}, expected at least 0 and below 1")
    encoder = load_encoder(encoder, relevance.sums.device)
    change = text_difference(encoder, target, neutral, templates)
    agreement = relevance.vectors @ change.to(relevance.sums)
    largest = float(agreement.abs().max())
    chosen = agreement.abs() >= beta
    if largest == 0 or not chosen.any():
        raise UserError(
            f"beta: got {beta}, but no channel agrees with {target!r} by more than {largest:.3f}; "
            "use a smaller one"
        )
    steps = agreement / largest * chosen * relevance.std
    parts = relevance.by_layer(steps)
    styles = {name: step for name, step in parts.items() if step.any()}
    info = {"target": target, "neutral": neutral, "beta": beta}
    info |= {"channels": int(chosen.sum()), "largest": round(largest, 4)}
    return Direction(target, None, styles, info)
