"""Attributes and poses of faces: colours, odds, and samplers that depend on a seed only."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from guidance.encoders.mini_vocabulary import ATTRIBUTES

Colour = tuple[int, int, int]

SKIN: dict[str, Colour] = {"light": (255, 214, 180), "tan": (208, 142, 92), "dark": (102, 62, 48)}
HAIR_COLOUR: dict[str, Colour] = {
    "black": (44, 40, 52),
    "brown": (150, 86, 34),
    "blond": (248, 210, 90),
    "red": (216, 70, 28),
    "white": (240, 240, 246),
    "blue": (48, 98, 230),
    "green": (52, 170, 76),
    "pink": (248, 110, 182),
}
HAT_COLOUR: dict[str, Colour] = {
    "red": (224, 36, 48),
    "blue": (40, 84, 216),
    "green": (28, 142, 76),
    "yellow": (252, 202, 40),
    "purple": (140, 60, 194),
    "black": (50, 48, 58),
}
BACKGROUND: dict[str, Colour] = {
    "white": (250, 250, 250),
    "grey": (150, 152, 160),
    "blue": (122, 184, 252),
    "green": (142, 216, 142),
    "yellow": (255, 230, 112),
    "orange": (255, 166, 82),
    "pink": (255, 182, 210),
    "purple": (178, 142, 234),
}
EYE_COLOUR: dict[str, Colour] = {
    "blue": (44, 120, 236),
    "green": (40, 164, 84),
    "brown": (134, 76, 30),
}
# No caption mentions clothes: they are the nuisance variable of the world.
CLOTHES: tuple[Colour, ...] = (
    (34, 132, 140),
    (150, 44, 72),
    (52, 62, 120),
    (232, 222, 196),
    (96, 100, 112),
)


@dataclass(frozen=True)
class Attributes:
    """One identity. Each field is one of `ATTRIBUTES[field]`; `clothes` is an index into `CLOTHES`.

    Raises ValueError for a value that does not exist.
    """

    gender: str = "woman"
    skin: str = "light"
    hair_colour: str = "brown"
    hair_style: str = "short"
    mouth: str = "smile"
    glasses: str = "none"
    beard: str = "none"
    hat: str = "none"
    hat_colour: str = "red"
    background: str = "white"
    eye_colour: str = "blue"
    clothes: int = 0

    def __post_init__(self) -> None:
        for name, allowed in ATTRIBUTES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name}: got {getattr(self, name)!r}, expected one of {', '.join(allowed)}"
                )

    def with_(self, **changes: str | int) -> Attributes:
        """Return a copy with some attributes replaced."""
        return replace(self, **changes)


assert set(ATTRIBUTES) | {"clothes"} == {field.name for field in fields(Attributes)}


@dataclass(frozen=True)
class Pose:
    """Similarity transform of the figure: translation in 1/64 of the frame, rotation in degrees."""

    dx: float = 0.0
    dy: float = 0.0
    degrees: float = 0.0
    scale: float = 1.0


HAIR_ODDS = {"man": (0.18, 0.42, 0.10, 0.16, 0.14), "woman": (0.0, 0.24, 0.40, 0.26, 0.10)}
BEARD_ODDS = {"man": (0.42, 0.32, 0.26), "woman": (1.0, 0.0, 0.0)}
HAT_ODDS = (0.52, 0.16, 0.16, 0.16)
MOUTH_ODDS = (0.34, 0.22, 0.22, 0.22)
GLASSES_ODDS = (0.5, 0.25, 0.25)


def sample_attributes(seed: int) -> Attributes:
    """Return identity `seed`, a pure function of it. No mohawk under a hat, which would hide it."""
    rng = np.random.default_rng([seed, 0xFACE])

    def pick(values: tuple[str, ...], odds: tuple[float, ...] | None = None) -> str:
        return values[int(rng.choice(len(values), p=odds))]

    gender = pick(ATTRIBUTES["gender"])
    drawn = {
        name: pick(ATTRIBUTES[name]) for name in ("skin", "hair_colour", "background", "eye_colour")
    }
    hair = pick(ATTRIBUTES["hair_style"], HAIR_ODDS[gender])
    hat = pick(ATTRIBUTES["hat"], HAT_ODDS)
    return Attributes(
        gender=gender,
        hair_style="short" if hair == "mohawk" and hat != "none" else hair,
        mouth=pick(ATTRIBUTES["mouth"], MOUTH_ODDS),
        glasses=pick(ATTRIBUTES["glasses"], GLASSES_ODDS),
        beard=pick(ATTRIBUTES["beard"], BEARD_ODDS[gender]),
        hat=hat,
        hat_colour=pick(ATTRIBUTES["hat_colour"]),
        clothes=int(rng.integers(len(CLOTHES))),
        **drawn,
    )


def sample_pose_numbers(seed: int) -> tuple[float, ...]:
    """Return the four uniform numbers in (-1, 1) that define pose `seed`."""
    return tuple(np.random.default_rng([seed, 0x905E]).uniform(-1, 1, size=4))


def sample_pose(seed: int, amount: float = 1.0) -> Pose:
    """Return a small random pose.

    At `amount` 1 the translation is at most 2/64, the rotation 4 degrees and the scale within 4 %.
    """
    return pose_of(np.array(sample_pose_numbers(seed)) * amount)


def pose_of(u: np.ndarray) -> Pose:
    """Return the pose that four numbers `u` in (-1, 1) define."""
    return Pose(float(2 * u[0]), float(2 * u[1]), float(4 * u[2]), float(1 + 0.04 * u[3]))


_DOMAIN_HIDES = {
    "human": (),
    "zombie": ("skin", "eye_colour"),
    "clown": ("skin", "beard"),
    "cat": ("gender", "skin", "hair_style", "beard"),
    "dog": ("gender", "skin", "hair_style", "beard"),
    "robot": ("gender", "skin", "hair_style", "hair_colour", "beard"),
    "alien": ("gender", "skin", "hair_style", "hair_colour", "beard", "eye_colour"),
}
_COLOURS = ("skin", "hair_colour", "hat_colour", "background", "eye_colour")
_STYLE_HIDES = {
    "flat": (),
    "pixel": ("eye_colour",),
    "sketch": _COLOURS,
    "sepia": _COLOURS,
    "neon": _COLOURS,
}


def visible(a: Attributes, domain: str = "human", style: str = "flat") -> tuple[str, ...]:
    """Return the names of the attributes that an image of `a` in this domain and style shows."""
    hidden = set(_DOMAIN_HIDES[domain]) | set(_STYLE_HIDES[style])
    if a.hair_style == "bald" and domain in ("human", "zombie"):
        hidden.add("hair_colour")
    if a.hat not in ("hat", "cap"):  # a crown is always golden
        hidden.add("hat_colour")
    if a.glasses == "sunglasses":
        hidden.add("eye_colour")
    return tuple(name for name in ATTRIBUTES if name not in hidden)
