"""Cleaning of prompts and captions before they are tokenized."""

from __future__ import annotations

import html
from collections.abc import Sequence

import ftfy

from guidance.encoders.base import Encoder


def clean_text(text: str) -> str:
    """Repair a text as CLIP's published preprocessing does.

    Fixes wrongly decoded characters ("â€œ" → '"', "cafÃ©" → "café") and unescapes HTML entities
    twice, since scraped captions are often escaped twice ("&amp;amp;" → "&"). Collapses white
    space.
    """
    # ftfy leaves printable ASCII without entities alone, at a hundred times the cost.
    if not text.isascii() or not text.isprintable() or "&" in text:
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split())


def unknown_words(encoder: Encoder, texts: Sequence[str]) -> list[str]:
    """Words of `texts` that a small vocabulary lacks, without duplicates.

    Encoders that read any text know all words.
    """
    of_text = getattr(encoder, "unknown_words", None)
    words = [word for text in texts for word in of_text(text)] if of_text else []
    return list(dict.fromkeys(words))
