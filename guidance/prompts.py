"""Texts and pictures with weights."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from sg3.data.transforms import to_mode
from sg3.errors import UserError

WEIGHT = re.compile(r"^(.*):\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*$", re.DOTALL)


@dataclass(frozen=True)
class Prompt:
    """A text, or a picture (of which `text` is the name), and how strongly it pulls; a negative
    weight pushes away."""

    text: str
    weight: float = 1.0
    image: Image.Image | None = field(default=None, repr=False, hash=False)


#: What stands for prompts: a text, a picture's path (as a `Path`) or the picture, a `Prompt`.
PromptLike = str | os.PathLike | Image.Image | Prompt


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


def image_prompt(picture: str | os.PathLike | Image.Image, weight: float = 1.0) -> Prompt:
    """A picture, or the file of one, that pulls like a text.

    Files of any mode and orientation. Raises UserError for a file that is no picture.
    """
    if weight == 0:
        raise UserError("image: the weight is 0, expected another number")
    if isinstance(picture, Image.Image):
        return Prompt("a picture", weight, to_mode(picture, "RGB"))
    from sg3.data.photos import read_photo  # reads what cameras write, orientation too

    return Prompt(Path(picture).name, weight, to_mode(read_photo(picture), "RGB"))


def parse_image(text: str) -> Prompt:
    """`"photo.jpg:0.5"` → a picture with its weight; which files exist decides on the colon.

    Raises UserError where there is no such file, or it is no picture.
    """
    match = WEIGHT.match(text)
    if match and not Path(text).is_file():
        return image_prompt(match[1], float(match[2]))
    return image_prompt(text)


def parse_prompts(prompts: PromptLike | Iterable[PromptLike]) -> tuple[Prompt, ...]:
    """One prompt or several, all pulling the same picture → `Prompt`s. Raises as `parse_prompt`."""
    if isinstance(prompts, PromptLike):
        prompts = [prompts]
    found: list[Prompt] = []
    for prompt in prompts:
        if isinstance(prompt, str):
            found += parse_prompt(prompt)
        else:
            found.append(prompt if isinstance(prompt, Prompt) else image_prompt(prompt))
    if not found:
        raise ValueError("prompt: got none, expected a text such as 'a red hat'")
    return tuple(found)
