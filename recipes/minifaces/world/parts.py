"""Parts of a face: their shapes, and functions that draw them. Units: 1/64 of the frame."""

from __future__ import annotations

from recipes.minifaces.world.attributes import EYE_COLOUR, HAT_COLOUR, Attributes, Colour
from recipes.minifaces.world.pen import INK, Pen, Shape, ellipse, polygon, shade, smooth, stroke

WHITE: Colour = (252, 252, 252)
LIPSTICK: Colour = (214, 26, 84)
GOLD: Colour = (255, 200, 40)
FRAME: Colour = (132, 40, 214)
LENS: Colour = (206, 234, 255)


def both(shape: Shape) -> tuple[Shape, Shape]:
    """Return the shape and its mirror image about x = 32."""
    return shape, shape.mirrored


# --- hair ---------------------------------------------------------------------------------------
SHORT = smooth([(13.5, 35), (12.8, 25), (16, 15), (24, 9.2), (33, 7.6), (42, 9.4),
                (49, 15), (51.4, 25), (50.5, 35), (48.2, 31), (47, 24), (44, 19.4),
                (38, 20.4), (30, 18.6), (22, 21.4), (18, 22), (16, 30)])  # fmt: skip
LONG_BACK = smooth([(32, 7.5), (45, 10), (53.5, 20), (56, 36), (57, 52), (55, 60),
                    (47, 62), (32, 62), (17, 62), (9, 60), (7, 52), (8, 36),
                    (10.5, 20), (19, 10)])  # fmt: skip
LONG_FRONT = smooth([(12, 38), (11.5, 25), (17, 13.5), (26, 9), (32, 8), (38, 9),
                     (47, 13.5), (52.5, 25), (52, 38), (48.5, 34), (46, 26),
                     (38, 21.5), (33, 15.5), (29, 20.5), (19, 26), (15.5, 34)])  # fmt: skip
CURLS_BACK = tuple( ellipse(x, y, r, r) for x, y, r in [(12, 42, 6.5), (9.5, 32, 7),
                                                        (11, 21.5, 7), (18, 13, 7),
                                                        (27, 9, 6.5), (37, 9, 6.5),
                                                        (46, 13, 7), (53, 21.5, 7),
                                                        (54.5, 32, 7), (52, 42, 6.5)]
                                                        )  # fmt: skip
CURLS_FRONT = tuple(
    ellipse(x, y, r, r)
    for x, y, r in [
        (17.5, 22, 4.6),
        (24, 17.5, 5.2),
        (32, 16, 5.4),
        (40, 17.5, 5.2),
        (46.5, 22, 4.6),
    ]
)
MOHAWK = polygon([(25.5, 22), (24, 13.5), (20.5, 8), (26, 9), (25.5, 2.5),
                  (30.5, 6.5), (33, 0.5), (35.5, 6.5), (40, 3), (39, 9), (43.5, 8.5),
                  (40, 14), (38.5, 22), (32, 24.5)])  # fmt: skip


def hair_behind(pen: Pen, style: str, colour: Colour) -> None:
    """Draw the hair that the head covers."""
    if style == "long":
        pen.ink(LONG_BACK, colour=shade(colour, 0.86))
    elif style == "curly":
        pen.ink(*CURLS_BACK, colour=colour)


def hair_in_front(pen: Pen, style: str, colour: Colour) -> None:
    """Draw the hair that covers the head."""
    if style == "short":
        pen.ink(SHORT, colour=colour)
    elif style == "long":
        pen.ink(LONG_FRONT, colour=colour)
    elif style == "curly":
        pen.ink(*CURLS_FRONT, colour=colour)
    elif style == "mohawk":
        pen.ink(MOHAWK, colour=colour)


# --- beard --------------------------------------------------------------------------------------
BEARD = smooth([(14, 37), (17.5, 38), (20, 41.5), (26, 42), (32, 41), (38, 42),
                (44, 41.5), (46.5, 38), (50, 37), (50, 46), (46, 55), (39, 60.5),
                (32, 62), (25, 60.5), (18, 55), (14, 46)])  # fmt: skip
BEARD_WINDOW = ellipse(32, 48.4, 11.2, 5.8, power=2.4)
MOUSTACHE = smooth([(32, 41.3), (37, 40.4), (42, 42.2), (46, 44.2), (49.6, 41.2),
                    (48, 46.4), (43.5, 47.6), (37, 46.2), (32, 44.8), (27, 46.2),
                    (20.5, 47.6), (16, 46.4), (14.4, 41.2), (18, 44.2), (22, 42.2),
                    (27, 40.4)])  # fmt: skip


def beard(pen: Pen, kind: str, colour: Colour, skin: Colour) -> None:
    """Draw a full beard with an opening for the mouth; drawn before the mouth."""
    if kind == "beard":
        pen.ink(BEARD, colour=colour)
        pen.ink(BEARD_WINDOW, colour=skin)


def moustache(pen: Pen, kind: str, colour: Colour) -> None:
    """Draw a moustache; drawn after the mouth."""
    if kind == "moustache":
        pen.ink(MOUSTACHE, colour=colour)


# --- mouth --------------------------------------------------------------------------------------
SMILE = smooth([(21.6, 44.4), (26, 45.2), (32, 45.5), (38, 45.2), (42.4, 44.4),
                (41, 49), (37, 52.6), (32, 53.8), (27, 52.6), (23, 49)])  # fmt: skip
TEETH = smooth([(23, 45.6), (32, 46.4), (41, 45.6), (39, 48.6), (32, 49.8), (25, 48.6)])
FROWN = stroke([(22.5, 52), (26, 48.2), (32, 46.6), (38, 48.2), (41.5, 52)], 2.4)
OPEN = ellipse(32, 48.6, 5.4, 5.6)
TONGUE = ellipse(32, 51.4, 3.2, 2.2)
NEUTRAL = stroke([(23.5, 48.4), (32, 48.6), (40.5, 48.4)], 2.4)
INSIDE: Colour = (120, 16, 34)


def mouth(pen: Pen, kind: str, lips: Colour = INK) -> None:
    """Draw a mouth about 20 units wide; `lips` is the colour of its outline."""
    if kind == "smile":
        pen.ink(SMILE, colour=INSIDE, rim=lips)
        pen.fill(TEETH, colour=WHITE)
    elif kind == "open":
        pen.ink(OPEN, colour=INSIDE, rim=lips)
        pen.fill(TONGUE, colour=(238, 96, 110))
    else:
        pen.fill(FROWN if kind == "frown" else NEUTRAL, colour=lips)


# --- eyes and glasses ---------------------------------------------------------------------------
EYE = ellipse(23.8, 33, 5.6, 5.6)
IRIS = ellipse(24.2, 33.2, 3.7, 3.7)
PUPIL = ellipse(24.4, 33.2, 1.9, 1.9)
GLINT = ellipse(25.5, 31.8, 1.3, 1.3)
LASHES = stroke([(17, 33), (18.6, 29.4), (22, 27.2), (26, 27.4), (29, 29.6)], 1.6)
LASH_TIPS = (stroke([(18.4, 30), (15.6, 27.6)], 1.2), stroke([(21, 27.8), (19.2, 24.8)], 1.2))
BROW_MAN = stroke([(17.6, 25.6), (23, 24), (29, 25.4)], 2.6)
BROW_WOMAN = stroke([(18, 24.6), (23, 22.8), (28.6, 24.4)], 1.3)
FRAMES = ellipse(23.4, 33.2, 9, 8.8)
LENSES = ellipse(23.4, 33.2, 7, 6.8)
BRIDGE = stroke([(30, 31.6), (34, 31.6)], 2.4)
SHADES = smooth([(13.4, 28.4), (18, 27.4), (24, 27.2), (31, 27.8), (31.4, 32),
                 (28.6, 38), (23.4, 40.4), (17.4, 38.4), (13.8, 33.4)])  # fmt: skip
SHADES_BAR = stroke([(13.6, 28.8), (32, 28), (50.4, 28.8)], 2)
SHADES_GLINT_RIGHT = stroke([(37.2, 36), (42.2, 30.6)], 1.7)
SHADES_GLINT = stroke([(18.4, 36), (23.4, 30.6)], 1.7)


def eyes(pen: Pen, a: Attributes) -> None:
    """Draw sclera, iris, pupil and highlight."""
    pen.ink(*both(EYE), colour=WHITE)
    pen.fill(*both(IRIS), colour=EYE_COLOUR[a.eye_colour])
    pen.fill(*both(PUPIL), colour=INK)
    pen.fill(*both(GLINT), colour=WHITE)


def lashes(pen: Pen) -> None:
    """Draw eyelashes."""
    for shape in (LASHES, *LASH_TIPS):
        pen.fill(*both(shape), colour=INK)


def brows(pen: Pen, a: Attributes, colour: Colour) -> None:
    """Draw eyebrows; sunglasses hide them."""
    if a.glasses != "sunglasses":
        pen.fill(*both(BROW_MAN if a.gender == "man" else BROW_WOMAN), colour=colour)


def glasses_below_eyes(pen: Pen, kind: str) -> None:
    """Draw round glasses with tinted lenses; drawn before the eyes, which stay visible."""
    if kind == "glasses":
        pen.ink(*both(FRAMES), BRIDGE, colour=FRAME)
        pen.fill(*both(LENSES), colour=LENS)


def sunglasses(pen: Pen, kind: str) -> None:
    """Draw sunglasses; drawn after the eyes, which they hide."""
    if kind == "sunglasses":
        pen.ink(*both(SHADES), colour=(22, 20, 30))
        pen.ink(SHADES_BAR, colour=GOLD)
        pen.fill(SHADES_GLINT, SHADES_GLINT_RIGHT, colour=(150, 160, 190))


# --- hats ---------------------------------------------------------------------------------------
HAT_TOP = smooth([(16, 20), (17, 9), (19.4, 3.2), (27, 4.4), (32, 5.4), (37, 4.4),
                  (44.6, 3.2), (47, 9), (48, 20), (32, 21)])  # fmt: skip
HAT_BAND = smooth([(16, 19.6), (16.6, 14.2), (24, 15.6), (32, 16), (40, 15.6), (47.4, 14.2),
                   (48, 19.6), (32, 20.6)])  # fmt: skip
HAT_BRIM = smooth([(5.5, 19.6), (10, 18), (20, 19), (32, 19.6), (44, 19), (54, 18),
                   (58.5, 19.6), (52, 23.2), (42, 24.2), (32, 24.6), (22, 24.2),
                   (12, 23.2)])  # fmt: skip
CAP_DOME = smooth([(12.8, 22), (13.6, 14), (19, 7), (27, 4), (37, 4), (45, 7),
                   (50.4, 14), (51.2, 22), (32, 22.6)])  # fmt: skip
CAP_BUTTON = ellipse(32, 4, 2.2, 1.5)
CAP_BADGE = ellipse(30, 13, 5.2, 5.2)
CAP_VISOR = smooth([(22, 19.4), (34, 18.2), (50, 18.4), (60, 20.6), (62.4, 23.6),
                    (56, 25), (42, 24.4), (28, 24.8), (20.4, 23.4)])  # fmt: skip
CROWN = polygon([(13, 22.5), (9.6, 5.4), (20.2, 12.4), (26, 2.6), (32, 11), (38, 2.6),
                 (43.8, 12.4), (54.4, 5.4), (51, 22.5), (41, 23.8), (32, 24.2),
                 (23, 23.8)])  # fmt: skip
JEWELS = (ellipse(22, 18, 2.5, 2.5), ellipse(42, 18, 2.5, 2.5))
JEWEL = ellipse(32, 18.4, 3, 3)


def hat(pen: Pen, kind: str, colour_name: str) -> None:
    """Draw a hat, a cap or a crown; crowns are always golden."""
    colour = HAT_COLOUR[colour_name]
    if kind == "hat":
        pen.ink(HAT_TOP, colour=colour)
        pen.fill(HAT_BAND, colour=WHITE)
        pen.ink(HAT_BRIM, colour=colour)
    elif kind == "cap":
        pen.ink(CAP_BUTTON, colour=WHITE)
        pen.ink(CAP_DOME, colour=colour)
        pen.fill(CAP_BADGE, colour=WHITE)
        pen.ink(CAP_VISOR, colour=shade(colour, 0.72))
    elif kind == "crown":
        pen.ink(CROWN, colour=GOLD)
        pen.fill(*JEWELS, colour=(220, 30, 60))
        pen.fill(JEWEL, colour=(30, 130, 230))
