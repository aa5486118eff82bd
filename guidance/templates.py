"""Sentences to average text embeddings over, so that they do not depend on one wording."""

from __future__ import annotations

from collections.abc import Sequence

from sg3.errors import UserError

_PHOTO_OF = (
    "bad", "bright", "close-up", "cropped", "jpeg corrupted", "low resolution", "blurry",
    "pixelated", "good", "black and white", "dark",
)  # fmt: skip
_OF = (
    "a sculpture", "a rendering", "graffiti", "a tattoo", "a drawing", "a painting", "a doodle",
    "a photo", "a sketch", "a rendition", "art", "itap",
)  # fmt: skip
_PHOTO = ("hard to see", "clean", "dirty", "large", "nice", "weird", "cool", "small")
_MADE = ("embroidered", "plastic", "origami", "toy", "cartoon", "plushie")


def _imagenet() -> tuple[str, ...]:
    sentences = []
    for article in ("a", "the"):
        sentences += [f"a {kind} photo of {article} {{}}." for kind in _PHOTO_OF]
        sentences += [f"a photo of {article} {kind} {{}}." for kind in _PHOTO]
        sentences += [f"{work} of {article} {{}}." for work in _OF]
        sentences += [f"{article} {made} {{}}." for made in _MADE]
        sentences += [f"{article} {{}} in a video game."]
    return (*sentences, "a photo of my {}.", "a photo of one {}.", "itap of my {}.")


#: "imagenet": the 79 of CLIP's ImageNet prompts that StyleGAN-NADA uses (REFERENCE.md §8.6).
TEMPLATES = {
    "imagenet": _imagenet(),
    "mini": ("{}", "a {}", "the {}", "a picture of a {}", "a face of a {}"),
    "plain": ("{}",),
}

#: Parts of an object, for the patch term of adaptation.
PARTS = (
    "the eyes of a {}.", "the left eye of a {}.", "the nose of a {}.", "the mouth of a {}.",
    "the teeth of a {}.", "the ears of a {}.", "the hair of a {}.", "the skin of a {}.",
    "the chin of a {}.", "the cheek of a {}.", "the forehead of a {}.", "the neck of a {}.",
    "the head of a {}.", "the fur of a {}.", "the texture of a {}.",
)  # fmt: skip


def templates_of(choice: str | Sequence[str]) -> tuple[str, ...]:
    """Sentences by their name in `TEMPLATES`, or the given ones.

    Raises ValueError for an unknown name, or a sentence without exactly one `{}`.
    """
    if isinstance(choice, str):
        if choice not in TEMPLATES:
            raise UserError(
                f"templates: got {choice!r}, expected {', '.join(TEMPLATES)} or sentences with {{}}"
            )
        return TEMPLATES[choice]
    if not choice or any(sentence.count("{}") != 1 for sentence in choice):
        raise UserError(f"templates: got {list(choice)}, expected sentences with one {{}} each")
    return tuple(choice)


def filled(templates: Sequence[str], name: str) -> list[str]:
    """`templates` with `name` in place of `{}`."""
    return [sentence.replace("{}", name) for sentence in templates]
