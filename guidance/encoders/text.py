"""Cleaning of prompts and captions before they are tokenized."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

import ftfy
import torch

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


def left_out(encoder: Encoder, text: str) -> tuple[int, str] | None:
    """Return how many words of `text` count, and those that do not; None if the text fits.

    Encoders have a longest text (24 words for mini, 77 tokens for CLIP, 64 for SigLIP) and cut
    what comes after it. Found by tokenizing, which works for any tokenizer that cuts.
    """
    for member in getattr(encoder, "members", ()):
        if (found := left_out(member, text)) is not None:
            return found
    tokenizer: Callable[[list[str]], torch.Tensor] | None = getattr(encoder, "tokenizer", None)
    words = clean_text(text).split(" ")
    if tokenizer is None:
        return None
    tokens = tokenizer([" ".join(words)])
    if not torch.equal(tokens, tokenizer([" ".join([*words, "a", "cat"])])):
        return None  # more words would still count
    kept = len(words)
    while kept > 1 and torch.equal(tokens, tokenizer([" ".join(words[: kept - 1])])):
        kept -= 1
    return None if kept == len(words) else (kept, " ".join(words[kept:]))


def unknown_words(encoder: Encoder, texts: Sequence[str]) -> list[str]:
    """Words of `texts` that a small vocabulary lacks, without duplicates.

    Encoders that read any text know all words.
    """
    of_text = getattr(encoder, "unknown_words", None)
    words = [word for text in texts for word in of_text(text)] if of_text else []
    return list(dict.fromkeys(words))
