"""Prompts: texts and images with weights."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from sg3.data.photos import read_photo
from sg3.data.transforms import to_mode
from sg3.errors import UserError
from sg3.settings import check_value

WEIGHT = re.compile(r"^(.*):\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*$", re.DOTALL)


@dataclass(frozen=True)
class Prompt:
    """A text or an image with a weight.

    Attributes:
        text: the text, or the name of the image.
        weight: relative weight; a negative one pushes away.
        image: the image of an image prompt.
    """

    text: str
    weight: float = 1.0
    image: Image.Image | None = field(default=None, repr=False, hash=False)


EXPECTED = "a text, an image or a list of them"
#: What can be given as a prompt: a text, the path of an image (as a `Path`), an image, a `Prompt`.
PromptLike = str | os.PathLike | Image.Image | Prompt


def parse_prompt(text: str) -> tuple[Prompt, ...]:
    """Parse `"red hair:1.5 | a hat | beard:-0.5"` into prompts; the default weight is 1.

    A number after the last colon is the weight. A text that itself ends in one ("at 10:30") needs
    an explicit weight ("at 10:30:1"). Raises ValueError for an empty text or a weight of 0.
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


def image_prompt(image: str | os.PathLike | Image.Image, weight: float = 1.0) -> Prompt:
    """A prompt from an image or an image file of any mode and orientation.

    Raises ValueError for a weight of 0, or a file that is not an image.
    """
    if weight == 0:
        raise UserError("image: the weight is 0, expected another number")
    if isinstance(image, Image.Image):
        return Prompt("an image", weight, to_mode(image, "RGB"))
    return Prompt(Path(image).name, weight, to_mode(read_photo(image), "RGB"))


def parse_image(text: str) -> Prompt:
    """Parse `"photo.jpg:0.5"` into an image prompt; an existing file's name may contain a colon.

    Raises ValueError for a missing file, or one that is not an image.
    """
    match = WEIGHT.match(text)
    if match and not Path(text).is_file():
        return image_prompt(match[1], float(match[2]))
    return image_prompt(text)


def parse_prompts(prompts: PromptLike | Iterable[PromptLike]) -> tuple[Prompt, ...]:
    """Parse one or several prompts of one image. Raises ValueError as `parse_prompt` does."""
    if isinstance(prompts, PromptLike):
        prompts = [prompts]
    if not isinstance(prompts, Iterable):
        raise UserError(f"prompts: got {prompts!r}, expected {EXPECTED}")
    found: list[Prompt] = []
    for prompt in prompts:
        check_value("prompt", prompt)
        if not isinstance(prompt, PromptLike):
            raise UserError(f"prompts: got {prompt!r}, expected {EXPECTED}")
        if isinstance(prompt, str):
            found += parse_prompt(prompt)
        else:
            found.append(prompt if isinstance(prompt, Prompt) else image_prompt(prompt))
    if not found:
        raise ValueError("prompt: got none, expected a text such as 'a red hat'")
    return tuple(found)
