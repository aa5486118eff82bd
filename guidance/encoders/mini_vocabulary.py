"""Vocabulary of the bundled mini encoders: the attributes of a face and the values of each.

The encoders were trained on captions that mention these values or synonyms of them
(`recipes.minifaces.world.captions`). Plain data without imports, so that a page can list it.
"""

from __future__ import annotations

#: Who is shown. The bundled generator draws humans only.
DOMAINS = ("human", "cat", "dog", "robot", "zombie", "alien", "clown")
#: How it is drawn. The bundled generator draws flat only.
STYLES = ("flat", "sketch", "pixel", "neon", "sepia")

#: Attributes of a face, in the order in which the generator's latents encode them.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "gender": ("man", "woman"),
    "skin": ("light", "tan", "dark"),
    "hair_colour": ("black", "brown", "blond", "red", "white", "blue", "green", "pink"),
    "hair_style": ("bald", "short", "long", "curly", "mohawk"),
    "mouth": ("smile", "frown", "open", "neutral"),
    "glasses": ("none", "glasses", "sunglasses"),
    "beard": ("none", "beard", "moustache"),
    "hat": ("none", "hat", "cap", "crown"),
    "hat_colour": ("red", "blue", "green", "yellow", "purple", "black"),
    "background": ("white", "grey", "blue", "green", "yellow", "orange", "pink", "purple"),
    "eye_colour": ("blue", "green", "brown"),
}

#: Everything that a caption can mention: attributes, domain and style.
CLASSES: dict[str, tuple[str, ...]] = {**ATTRIBUTES, "domain": DOMAINS, "style": STYLES}
