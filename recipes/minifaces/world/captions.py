"""Captions: a grammar that turns mentioned attributes into text, with synonyms.

A caption is generated from `Mentions`, so its meaning is known without parsing: each key is the
name of an attribute, "domain" or "style", and each value is one of `CLASSES[key]`.
"""

from __future__ import annotations

import re

import numpy as np

from guidance.encoders.mini_vocabulary import CLASSES
from recipes.minifaces.world.attributes import Attributes, visible

Mentions = dict[str, str]

_STYLE = {
    "flat": ("a flat cartoon of {}", "a cartoon of {}", "a flat drawing of {}", "{}, flat cartoon"),
    "sketch": (
        "a pencil sketch of {}",
        "a sketch of {}",
        "a pencil drawing of {}",
        "{}, pencil sketch",
        "a hand drawn sketch of {}",
    ),
    "pixel": (
        "pixel art of {}",
        "a pixel art picture of {}",
        "{}, pixel art",
        "{} in 8-bit pixels",
        "a pixelated picture of {}",
    ),
    "neon": (
        "a neon sign of {}",
        "{} in neon lights",
        "{} glowing in neon",
        "{}, neon",
        "neon art of {}",
    ),
    "sepia": (
        "a sepia photograph of {}",
        "an old sepia photo of {}",
        "{}, sepia",
        "a vintage sepia picture of {}",
        "a sepia portrait of {}",
    ),
}
_ANY_STYLE = ("{}",) * 6 + (
    "a picture of {}",
    "a portrait of {}",
    "an image of {}",
    "a photo of {}",
    "the face of {}",
)
_NOUN = {
    "human": ("person", "human", "human face", "human being"),
    "cat": ("cat", "kitten", "cat face"),
    "dog": ("dog", "puppy", "dog face"),
    "robot": ("robot", "android", "robot face"),
    "zombie": ("zombie", "undead", "zombie face"),
    "alien": ("alien", "martian", "extraterrestrial", "alien face"),
    "clown": ("clown", "jester", "clown face"),
}
_GENDER = {"man": ("man", "guy", "gentleman", "male"), "woman": ("woman", "lady", "girl", "female")}
_HAIR_COLOUR = {
    "black": ("black",),
    "brown": ("brown", "brunette"),
    "blond": ("blond", "blonde", "golden", "yellow"),
    "red": ("red", "ginger"),
    "white": ("white", "silver"),
    "blue": ("blue",),
    "green": ("green",),
    "pink": ("pink",),
}
_MOUTH_ADJECTIVE = {
    "smile": ("smiling", "happy", "grinning", "cheerful", "laughing"),
    "frown": ("frowning", "sad", "unhappy"),
    "open": ("surprised", "shocked", "screaming", "shouting"),
    "neutral": ("serious", "calm", "neutral"),
}
_MOUTH_WITH = {
    "smile": ("a smile", "a big smile", "a happy smile"),
    "frown": ("a frown", "a sad mouth"),
    "open": ("an open mouth", "a wide open mouth"),
    "neutral": ("a straight mouth", "a closed mouth", "a neutral mouth"),
}
_GLASSES = {
    "none": ("no glasses",),
    "glasses": ("glasses", "spectacles", "eyeglasses", "purple glasses", "round glasses"),
    "sunglasses": ("sunglasses", "shades", "dark sunglasses"),
}
_BEARD = {
    "none": ("no beard", "a shaven face", "a clean shaven face"),
    "beard": ("a beard", "a full beard", "a big beard"),
    "moustache": ("a moustache", "a mustache"),
}
_HAT = {
    "none": ("no hat", "nothing on the head"),
    "hat": ("hat", "fedora", "brimmed hat"),
    "cap": ("cap", "baseball cap"),
    "crown": ("crown", "golden crown"),
}
_SKIN = {
    "light": ("light", "pale", "fair"),
    "tan": ("tan", "tanned", "olive"),
    "dark": ("dark", "deep"),
}
_BACKGROUND = (
    "on a {} background",
    "in front of a {} background",
    "with a {} background",
    "on {}",
    "against a {} wall",
    "{} background",
)
_GREY = ("grey", "gray")


def _article(text: str) -> str:
    return ("an " if text[0] in "aeiou" else "a ") + text


class _Writer:
    """Choose phrasings at random."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def pick(self, options: tuple[str, ...]) -> str:
        return options[int(self._rng.integers(len(options)))]

    def coin(self, odds: float = 0.5) -> bool:
        return bool(self._rng.random() < odds)

    def noun(self, m: Mentions) -> str:
        domain, gender = m.get("domain"), m.get("gender")
        if gender is None:
            return self.pick(_NOUN[domain]) if domain else self.pick(("face", "face", "character"))
        if domain in (None, "human"):
            return self.pick(_GENDER[gender])
        creature = self.pick(_NOUN[domain][:1])
        kind = {"man": "male", "woman": "female"}[gender]
        return f"{creature} {gender}" if self.coin() else f"{kind} {creature}"

    def hair(self, m: Mentions, adjectives: list[str], things: list[str]) -> None:
        colour, style = m.get("hair_colour"), m.get("hair_style")
        tint = self.pick(_HAIR_COLOUR[colour]) if colour else None
        if m.get("domain") in ("cat", "dog") and tint:
            adjectives.append(tint) if self.coin(0.6) else things.append(f"{tint} fur")
        elif style == "bald":
            adjectives.append("bald") if self.coin(0.6) else things.append(
                self.pick(("no hair", "a bald head"))
            )
            if tint:
                things.append(f"{tint} hair")
        elif style == "mohawk":
            things.append(_article(f"{tint} mohawk" if tint else "mohawk"))
        elif style:
            name = "curls" if style == "curly" and self.coin(0.3) else f"{style} {tint or ''} hair"
            things.append(f"{tint or ''} {name}" if name == "curls" else name)
        elif tint:
            things.append(f"{tint} hair")

    def things(self, m: Mentions, adjectives: list[str]) -> list[str]:
        out: list[str] = []
        self.hair(m, adjectives, out)
        if "mouth" in m:
            if self.coin(0.6):
                adjectives.insert(0, self.pick(_MOUTH_ADJECTIVE[m["mouth"]]))
            else:
                out.append(self.pick(_MOUTH_WITH[m["mouth"]]))
        if "glasses" in m:
            out.append(self.pick(_GLASSES[m["glasses"]]))
        if "beard" in m:
            if m["beard"] == "beard" and self.coin(0.25):
                adjectives.append("bearded")
            else:
                out.append(self.pick(_BEARD[m["beard"]]))
        if "hat" in m or "hat_colour" in m:
            name = self.pick(_HAT[m.get("hat", "hat")])
            tint = m.get("hat_colour")
            out.append(
                name if m.get("hat") == "none" else _article(f"{tint} {name}" if tint else name)
            )
        if "skin" in m:
            out.append(f"{self.pick(_SKIN[m['skin']])} skin")
        if "eye_colour" in m:
            out.append(f"{m['eye_colour']} eyes")
        return [out[i] for i in self._rng.permutation(len(out))]

    def caption(self, m: Mentions) -> str:
        adjectives: list[str] = []
        things = self.things(m, adjectives)
        text = " ".join([*adjectives, self.noun(m)])
        text = _article(text) if self.coin(0.85) else text
        if len(things) == 1:
            worn = set(m) & {"hat", "hat_colour"} or m.get("glasses", "none") != "none"
            text += f" {'wearing' if worn and self.coin(0.4) else 'with'} {things[0]}"
        elif things:
            text += f" with {', '.join(things[:-1])} and {things[-1]}"
        if "background" in m:
            tint = self.pick(_GREY) if m["background"] == "grey" else m["background"]
            text += " " + self.pick(_BACKGROUND).format(tint)
        frame = self.pick(_STYLE[m["style"]] if "style" in m else _ANY_STYLE)
        return re.sub(r"\s+", " ", frame.format(text)).strip()


def caption(mentions: Mentions, rng: np.random.Generator) -> str:
    """Return a sentence that states exactly `mentions`, determined by the state of `rng`."""
    return _Writer(rng).caption(mentions)


def truth(a: Attributes, domain: str = "human", style: str = "flat") -> Mentions:
    """Return everything that is true of an image: its visible attributes, domain and style."""
    return {
        **{name: getattr(a, name) for name in visible(a, domain, style)},
        "domain": domain,
        "style": style,
    }


def sample_mentions(facts: Mentions, rng: np.random.Generator, max_count: int = 4) -> Mentions:
    """Draw one to `max_count` of the facts; domain and style are drawn more often than the others.

    Values such as "no hat", and the flat style, are rarely mentioned.
    """
    names = list(facts)
    weights = np.array(
        [
            0.25
            if facts[n] == "none" or (n == "style" and facts[n] == "flat")
            else 3.0
            if n in ("domain", "style")
            else 1.0
            for n in names
        ]
    )
    count = min(len(names), int(rng.integers(1, max_count + 1)))
    chosen = rng.choice(len(names), size=count, replace=False, p=weights / weights.sum())
    out = {names[i]: facts[names[i]] for i in sorted(chosen)}
    if "hat_colour" in out:  # a colour needs its noun: hat or cap, hair or fur
        out["hat"] = facts["hat"]
    if ("hair_colour" in out and facts["domain"] in ("cat", "dog")) or (
        "gender" in out and facts["domain"] != "human"
    ):
        out["domain"] = facts["domain"]
    return out


def holds(mentions: Mentions, facts: Mentions) -> bool:
    """Return whether every mention is among the facts."""
    return all(facts.get(name) == value for name, value in mentions.items())


def phrasings(name: str, value: str, count: int = 12, seed: int = 0) -> list[str]:
    """Return up to `count` distinct captions that mention one attribute only."""
    rng = np.random.default_rng([seed, 0xCA])
    return sorted({caption({name: value}, rng) for _ in range(count * 4)})[:count]


def words(text: str) -> list[str]:
    """Split a text into lower-case words and numbers; all other characters separate."""
    return re.findall(r"[a-z0-9]+", text.lower())


def known_words() -> list[str]:
    """Return every word of the grammar, sorted: the vocabulary of the mini encoders."""
    groups = [
        _STYLE,
        _NOUN,
        _GENDER,
        _HAIR_COLOUR,
        _MOUTH_ADJECTIVE,
        _MOUTH_WITH,
        _GLASSES,
        _BEARD,
        _HAT,
        _SKIN,
    ]
    texts = [phrase for group in groups for options in group.values() for phrase in options]
    texts += [
        *_ANY_STYLE,
        *_BACKGROUND,
        *_GREY,
        *(v for values in CLASSES.values() for v in values if v != "none"),
    ]
    texts += [
        "a an the with wearing and of face person character male female fur hair curls no bald",
        "head mohawk short long curly bearded skin eyes background",
    ]
    return sorted({word for text in texts for word in words(text)})
