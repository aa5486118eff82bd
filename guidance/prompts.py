"""Texts with weights."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

WEIGHT = re.compile(r"^(.*):\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*$", re.DOTALL)


@dataclass(frozen=True)
class Prompt:
    """A text and how strongly it pulls; a negative weight pushes away."""

    text: str
    weight: float = 1.0


def parse_prompt(text: str) -> tuple[Prompt, ...]:
    """`"red hair:1.5 | a hat | beard:-0.5"` → prompts with their weights (1 when not given).

    A number after the last colon is the weight; a text that itself ends so ("at 10:30") takes
    an explicit one ("at 10:30:1"). Raises ValueError for an empty text or a weight of zero.
    """
    prompts = []
    for part in text.split("|"):
        match = WEIGHT.match(part)
        content, weight = (match[1], float(match[2])) if match else (part, 1.0)
        content = " ".join(content.split())
        if not content:
            raise ValueError(f"prompt: got {text!r}, expected a text such as 'a red hat'")
        if weight == 0:
            raise ValueError(f"prompt: the weight of {content!r} is 0, expected another number")
        prompts.append(Prompt(content, weight))
    return tuple(prompts)


def parse_prompts(texts: str | Prompt | Iterable[str | Prompt]) -> tuple[Prompt, ...]:
    """One text or several, all pulling the same picture → prompts. Raises as `parse_prompt`."""
    if isinstance(texts, (str, Prompt)):
        texts = [texts]
    prompts: list[Prompt] = []
    for text in texts:
        prompts += [text] if isinstance(text, Prompt) else parse_prompt(text)
    if not prompts:
        raise ValueError("prompt: got none, expected a text such as 'a red hat'")
    return tuple(prompts)
