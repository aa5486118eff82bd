"""Figures: for each domain a function that draws an identity as a human, a cat, a robot …

Coordinates are in 1/64 of the frame, y down; the order of the calls is the order of the layers.
"""

from __future__ import annotations

from collections.abc import Callable

from recipes.minifaces.world import parts
from recipes.minifaces.world.attributes import (
    CLOTHES,
    EYE_COLOUR,
    HAIR_COLOUR,
    SKIN,
    Attributes,
    Colour,
)
from recipes.minifaces.world.parts import WHITE, both
from recipes.minifaces.world.pen import INK, Pen, ellipse, polygon, shade, smooth, stroke

HEAD_MAN = smooth([(14.6, 30), (15.4, 22), (20, 14.6), (27, 11.4), (37, 11.4),
                   (44, 14.6), (48.6, 22), (49.4, 30), (49, 42), (45, 51.5),
                   (38.5, 57), (25.5, 57), (19, 51.5), (15, 42)])  # fmt: skip
HEAD_WOMAN = smooth([(14.6, 31), (15.4, 22), (20, 14.6), (27, 11.4), (37, 11.4),
                     (44, 14.6), (48.6, 22), (49.4, 31), (48, 42), (43, 51),
                     (36.4, 56), (32, 57.2), (27.6, 56), (21, 51), (16, 42)])  # fmt: skip
NECK = polygon([(25, 50), (39, 50), (39.5, 64), (24.5, 64)])
BODY = smooth(
    [(4, 70), (8, 62.5), (18, 60), (26, 59), (32, 61.5), (38, 59), (46, 60), (56, 62.5), (60, 70)]
)
EAR = ellipse(13.6, 36, 3.6, 5)
EARRING = ellipse(11.8, 43.6, 2.7, 2.7)
CHEEK = ellipse(19.6, 43, 3.6, 2.6)
NOSE = smooth([(32, 36), (34.8, 40), (34, 42), (30, 42), (29.2, 40)])


def _body(pen: Pen, a: Attributes, neck: Colour) -> None:
    pen.ink(NECK, colour=shade(neck, 0.88))
    pen.ink(BODY, colour=CLOTHES[a.clothes])


def _person(pen: Pen, a: Attributes, skin: Colour, hair: Colour, face: Callable[[], None]) -> None:
    """Draw what humans, zombies and clowns have in common; `face` draws what lies on the skin."""
    parts.hair_behind(pen, a.hair_style, hair)
    _body(pen, a, skin)
    pen.ink(*both(EAR), colour=shade(skin, 0.92))
    pen.ink(HEAD_MAN if a.gender == "man" else HEAD_WOMAN, colour=skin)
    face()
    parts.hair_in_front(pen, a.hair_style, hair)
    if a.gender == "woman":
        pen.ink(*both(EARRING), colour=parts.GOLD)


def _finish(pen: Pen, a: Attributes) -> None:
    parts.sunglasses(pen, a.glasses)
    parts.hat(pen, a.hat, a.hat_colour)


def human(pen: Pen, a: Attributes) -> None:
    """Draw a person."""
    skin, hair = SKIN[a.skin], HAIR_COLOUR[a.hair_colour]

    def face() -> None:
        if a.gender == "woman":
            pen.fill(*both(CHEEK), colour=(236, 120, 120) if a.skin != "dark" else (160, 70, 64))
        parts.beard(pen, a.beard, hair, skin)
        parts.mouth(pen, a.mouth, INK if a.gender == "man" else parts.LIPSTICK)
        parts.moustache(pen, a.beard, hair)
        parts.glasses_below_eyes(pen, a.glasses)
        pen.fill(NOSE, colour=shade(skin, 0.78))
        parts.eyes(pen, a)
        if a.gender == "woman":
            parts.lashes(pen)

    _person(pen, a, skin, hair, face)
    parts.brows(pen, a, shade(hair, 0.75))
    _finish(pen, a)


# --- zombie -------------------------------------------------------------------------------------
ROTTEN: Colour = (146, 172, 100)
SOCKET = ellipse(23.8, 33.4, 8, 7.6)
DEAD_EYE = ellipse(23.8, 33.4, 5.2, 5.2)
DEAD_EYE_SMALL = ellipse(40.4, 33.8, 4, 4)
DOTS = (ellipse(24.2, 34, 1.5, 1.5), ellipse(40.2, 34.2, 1.5, 1.5))
SCAR = (stroke([(43.4, 40.4), (46, 46.5), (43, 53)], 1.5), stroke([(41.8, 44.2),
                (48, 42.6)], 1.2), stroke([(42.2, 48), (48, 47.4)], 1.2),
                stroke([(40.8, 50.6), (46.2, 52.6)], 1.2))  # fmt: skip
WOUND = smooth([(17, 41), (21, 40.4), (22.4, 44), (20.4, 48.4), (17.6, 46)])


def zombie(pen: Pen, a: Attributes) -> None:
    """Draw a zombie: green skin, sunken eyes, a scar, hair tinted green."""
    hair = tuple(
        (7 * h + 3 * g) // 10
        for h, g in zip(HAIR_COLOUR[a.hair_colour], (92, 100, 70), strict=True)
    )

    def face() -> None:
        parts.beard(pen, a.beard, hair, ROTTEN)
        pen.fill(WOUND, colour=(150, 26, 40))
        parts.mouth(pen, a.mouth, INK if a.gender == "man" else (140, 20, 60))
        parts.moustache(pen, a.beard, hair)
        parts.glasses_below_eyes(pen, a.glasses)
        if a.glasses == "none":
            pen.fill(*both(SOCKET), colour=(78, 84, 62))
        pen.fill(NOSE, colour=(74, 80, 56))
        pen.ink(DEAD_EYE, DEAD_EYE_SMALL, colour=(250, 236, 120))
        pen.fill(*DOTS, colour=(190, 20, 20))
        if a.gender == "woman":
            parts.lashes(pen)
        pen.fill(*SCAR, colour=(110, 22, 40))

    _person(pen, a, ROTTEN, hair, face)
    parts.brows(pen, a, shade(hair, 0.75))
    _finish(pen, a)


# --- clown --------------------------------------------------------------------------------------
RED_NOSE = ellipse(32, 39.6, 5, 5)
PAINT = ellipse(32, 48.6, 14.4, 7.6, power=2.4)
PAINT_WINDOW = ellipse(32, 48.8, 11.4, 5.8, power=2.4)
DIAMOND = polygon([(23.8, 22.4), (27.4, 33), (23.8, 43.6), (20.2, 33)])
ROUGE = ellipse(18.6, 43.6, 3.6, 3.4)
TUFT = tuple(ellipse(x, y, r, r) for x, y, r in [(11.5, 24, 5.5), (9, 32, 6), (11.5, 40, 5)])


def clown(pen: Pen, a: Attributes) -> None:
    """Draw a clown; beards are hidden by the paint."""
    hair = HAIR_COLOUR[a.hair_colour]

    def face() -> None:
        pen.fill(*both(DIAMOND), colour=(40, 110, 235))
        pen.fill(*both(ROUGE), colour=(255, 150, 180))
        pen.ink(PAINT, colour=(232, 36, 48))
        pen.fill(PAINT_WINDOW, colour=WHITE)
        parts.mouth(pen, a.mouth, INK)
        parts.glasses_below_eyes(pen, a.glasses)
        parts.eyes(pen, a)
        if a.gender == "woman":
            parts.lashes(pen)

    if a.hair_style == "bald":
        pen.ink(*TUFT, *(t.mirrored for t in TUFT), colour=hair)
    _person(pen, a, WHITE, hair, face)
    parts.brows(pen, a, shade(hair, 0.75))
    _finish(pen, a)
    pen.ink(RED_NOSE, colour=(240, 30, 40))


# --- cat and dog --------------------------------------------------------------------------------
HEAD_ROUND = smooth([(13, 34), (15, 22), (23, 14), (32, 12.6), (41, 14), (49, 22),
                     (51, 34), (49.6, 45), (42, 54), (32, 57), (22, 54), (14.4, 45)])  # fmt: skip
CAT_EAR = polygon([(11.6, 29), (8.8, 3.4), (18, 8), (27.6, 16.4), (20, 26)])
CAT_EAR_PINK = polygon([(14.2, 22), (12, 9.6), (17.4, 12.8), (22, 16.8)])
CAT_EYE = ellipse(23.8, 33, 6, 5.4, tilt=-12)
CAT_SLIT = ellipse(23.8, 33, 1.5, 4.2)
CAT_NOSE = polygon([(28.6, 38.8), (35.4, 38.8), (32, 42.6)])
CAT_CHEEKS = ellipse(27, 46.8, 8.6, 7.4)
WHISKERS = tuple(
    stroke(p, 1.1) for p in ([(17, 42), (4, 39)], [(17, 45), (3, 45)], [(17, 48), (4, 51)])
)
DOG_EAR = smooth(
    [(18, 15), (12, 14.6), (6, 20), (3.6, 32), (5.4, 44), (10, 49), (14.6, 44), (16.4, 33)]
)
DOG_SNOUT = ellipse(32, 46.6, 14.2, 10.4, power=2.3)
DOG_PATCH = ellipse(40.4, 31.6, 8.4, 9.4)
DOG_NOSE = smooth([(26, 38), (32, 36), (38, 38), (36.4, 41.4), (32, 43.2), (27.6, 41.4)])


def _fur(a: Attributes) -> Colour:
    return (74, 70, 84) if a.hair_colour == "black" else HAIR_COLOUR[a.hair_colour]


def _muzzle(fur: Colour) -> Colour:
    return shade(fur, 1.62)


def cat(pen: Pen, a: Attributes) -> None:
    """Draw a cat; fur has the colour of the hair."""
    fur = _fur(a)
    _body(pen, a, fur)
    pen.ink(*both(CAT_EAR), colour=fur)
    pen.fill(*both(CAT_EAR_PINK), colour=(255, 158, 176))
    pen.ink(HEAD_ROUND, colour=fur)
    pen.ink(*both(CAT_CHEEKS), colour=_muzzle(fur))
    for whisker in WHISKERS:
        pen.fill(*both(whisker), colour=INK)
    parts.mouth(pen, a.mouth)
    parts.glasses_below_eyes(pen, a.glasses)
    pen.ink(CAT_NOSE, colour=(255, 128, 156))
    pen.ink(*both(CAT_EYE), colour=shade(EYE_COLOUR[a.eye_colour], 1.3))
    pen.fill(*both(CAT_SLIT), colour=INK)
    _finish(pen, a)


def dog(pen: Pen, a: Attributes) -> None:
    """Draw a dog; fur has the colour of the hair."""
    fur = _fur(a)
    _body(pen, a, fur)
    pen.ink(HEAD_ROUND, colour=fur)
    pen.fill(DOG_PATCH, colour=shade(fur, 0.72))
    pen.ink(*both(DOG_EAR), colour=shade(fur, 0.66))
    pen.ink(DOG_SNOUT, colour=_muzzle(fur))
    parts.mouth(pen, a.mouth)
    parts.glasses_below_eyes(pen, a.glasses)
    pen.fill(DOG_NOSE, colour=INK)
    parts.eyes(pen, a)
    _finish(pen, a)


# --- robot --------------------------------------------------------------------------------------
STEEL: Colour = (158, 172, 188)
BOX = ellipse(32, 35.6, 20, 20, power=7)
BOLT = ellipse(10, 35, 4, 6, power=4)
ANTENNA = stroke([(32, 17), (32, 6)], 2)
BULB = ellipse(32, 5, 3.4, 3.4)
VISOR = ellipse(23.4, 32, 6.6, 6, power=6)
DIODE = ellipse(23.4, 32, 4, 3.6, power=6)
GRILLE = ellipse(32, 48.6, 14.4, 6.2, power=6)
RIVETS = tuple(ellipse(x, y, 1.5, 1.5) for x, y in [(16, 19.6), (48, 19.6), (15, 52), (49, 52)])
LED: Colour = (60, 240, 255)


def robot(pen: Pen, a: Attributes) -> None:
    """Draw a robot."""
    _body(pen, a, (104, 112, 126))
    pen.ink(*both(BOLT), colour=(104, 112, 126))
    pen.ink(ANTENNA, BULB, colour=(240, 50, 60))
    pen.ink(BOX, colour=STEEL)
    pen.fill(*RIVETS, colour=(92, 100, 116))
    pen.ink(GRILLE, colour=(30, 36, 54))
    if a.mouth == "smile":
        pen.fill(parts.SMILE, colour=LED)
    elif a.mouth == "open":
        pen.fill(parts.OPEN, colour=LED)
    else:
        parts.mouth(pen, a.mouth, LED)
    parts.glasses_below_eyes(pen, a.glasses)
    pen.ink(*both(VISOR), colour=(30, 36, 54))
    pen.fill(*both(DIODE), colour=shade(EYE_COLOUR[a.eye_colour], 1.35))
    _finish(pen, a)


# --- alien --------------------------------------------------------------------------------------
LIME: Colour = (112, 230, 96)
HEAD_DROP = smooth([(32, 11), (43, 13), (52, 20.6), (54.4, 31), (50, 42), (42, 52),
                    (35.6, 58), (28.4, 58), (22, 52), (14, 42), (9.6, 31), (12, 20.6),
                    (21, 13)])  # fmt: skip
BLACK_EYE = ellipse(22.6, 32.4, 8.2, 5.4, tilt=-28)
STAR = ellipse(20.4, 30, 1.8, 1.5)
FEELER = stroke([(23, 16), (20, 8), (14, 5)], 1.8)
FEELER_BALL = ellipse(13, 5, 3.4, 3.4)
NOSTRIL = ellipse(30.4, 41.6, 0.9, 1.2)


def alien(pen: Pen, a: Attributes) -> None:
    """Draw an alien."""
    _body(pen, a, LIME)
    pen.ink(*both(FEELER), colour=LIME)
    pen.ink(*both(FEELER_BALL), colour=(250, 240, 60))
    pen.ink(HEAD_DROP, colour=LIME)
    parts.mouth(pen, a.mouth)
    pen.fill(*both(NOSTRIL), colour=INK)
    parts.glasses_below_eyes(pen, a.glasses)
    pen.ink(*both(BLACK_EYE), colour=(20, 16, 30))
    pen.fill(*both(STAR), colour=WHITE)
    _finish(pen, a)


FIGURES: dict[str, Callable[[Pen, Attributes], None]] = {
    "human": human,
    "cat": cat,
    "dog": dog,
    "robot": robot,
    "zombie": zombie,
    "alien": alien,
    "clown": clown,
}
