"""Sixty held-out prompts of the evaluation of steering, and six negative ones, with their claims.

They were written before any of them was run, and none was used to choose settings. Change the
settings, never the prompts. The fifty older ones are in `steering_prompts`.
"""

from __future__ import annotations

from recipes.minifaces.world.captions import Mentions

ONE: tuple[tuple[str, Mentions], ...] = (
    ("a man", {"gender": "man"}),
    ("a lady", {"gender": "woman"}),
    ("a person with tan skin", {"skin": "tan"}),
    ("a human with fair skin", {"skin": "light"}),
    ("a picture of a person with dark skin", {"skin": "dark"}),
    ("a person with black hair", {"hair_colour": "black"}),
    ("a face with brown hair", {"hair_colour": "brown"}),
    ("a person with ginger hair", {"hair_colour": "red"}),
    ("a photo of a person with white hair", {"hair_colour": "white"}),
    ("a face with blue hair", {"hair_colour": "blue"}),
    ("a drawing of a face with green hair", {"hair_colour": "green"}),
    ("a face with pink hair", {"hair_colour": "pink"}),
    ("a bald head", {"hair_style": "bald"}),
    ("a person with short hair", {"hair_style": "short"}),
    ("a face with curls", {"hair_style": "curly"}),
    ("a person with a mohawk", {"hair_style": "mohawk"}),
    ("a smiling face", {"mouth": "smile"}),
    ("an unhappy person", {"mouth": "frown"}),
    ("a surprised face", {"mouth": "open"}),
    ("a calm face", {"mouth": "neutral"}),
    ("a face with eyeglasses", {"glasses": "glasses"}),
    ("a person with shades", {"glasses": "sunglasses"}),
    ("a bearded person", {"beard": "beard"}),
    ("a face with a moustache", {"beard": "moustache"}),
    ("a person with a crown", {"hat": "crown"}),
    ("a face with a cap", {"hat": "cap"}),
    ("a face with a hat", {"hat": "hat"}),
    ("a face on a green background", {"background": "green"}),
    ("a face in front of an orange wall", {"background": "orange"}),
    ("a person on a pink background", {"background": "pink"}),
)
TWO: tuple[tuple[str, Mentions], ...] = (
    ("a man with blond hair", {"gender": "man", "hair_colour": "blond"}),
    ("a woman with a mohawk", {"gender": "woman", "hair_style": "mohawk"}),
    ("a bald man", {"gender": "man", "hair_style": "bald"}),
    ("a happy woman", {"gender": "woman", "mouth": "smile"}),
    ("a frowning man", {"gender": "man", "mouth": "frown"}),
    ("a lady with sunglasses", {"gender": "woman", "glasses": "sunglasses"}),
    ("a gentleman with a moustache", {"gender": "man", "beard": "moustache"}),
    ("a girl with a crown", {"gender": "woman", "hat": "crown"}),
    ("a guy with a cap", {"gender": "man", "hat": "cap"}),
    ("a woman with dark skin", {"gender": "woman", "skin": "dark"}),
    ("a face with tan skin and blue hair", {"skin": "tan", "hair_colour": "blue"}),
    ("a person with pale skin and black hair", {"skin": "light", "hair_colour": "black"}),
    ("long red hair", {"hair_style": "long", "hair_colour": "red"}),
    ("short white hair", {"hair_style": "short", "hair_colour": "white"}),
    ("curly pink hair", {"hair_style": "curly", "hair_colour": "pink"}),
    ("a green mohawk", {"hair_style": "mohawk", "hair_colour": "green"}),
    ("a smiling face with glasses", {"mouth": "smile", "glasses": "glasses"}),
    ("a sad face with long hair", {"mouth": "frown", "hair_style": "long"}),
    ("a surprised person with brown hair", {"mouth": "open", "hair_colour": "brown"}),
    ("a bald person with a beard", {"hair_style": "bald", "beard": "beard"}),
    ("a beard and sunglasses", {"beard": "beard", "glasses": "sunglasses"}),
    ("a face with a yellow hat", {"hat": "hat", "hat_colour": "yellow"}),
    ("a person with a purple cap", {"hat": "cap", "hat_colour": "purple"}),
    ("a face with a black hat", {"hat": "hat", "hat_colour": "black"}),
    ("a crown and a smile", {"hat": "crown", "mouth": "smile"}),
    ("a serious face on a white background", {"mouth": "neutral", "background": "white"}),
    ("blond hair on a blue background", {"hair_colour": "blond", "background": "blue"}),
    ("a man on a yellow background", {"gender": "man", "background": "yellow"}),
    ("glasses on a purple background", {"glasses": "glasses", "background": "purple"}),
    ("green eyes and red hair", {"eye_colour": "green", "hair_colour": "red"}),
)
#: Negative prompts, each with the attribute and value that should become rarer.
NEGATIVE: tuple[tuple[str, str, str], ...] = (
    ("a smiling face:-1", "mouth", "smile"),
    ("a person wearing sunglasses:-1", "glasses", "sunglasses"),
    ("a face with a full beard:-1", "beard", "beard"),
    ("a person wearing a cap:-1", "hat", "cap"),
    ("a person with long hair:-1", "hair_style", "long"),
    ("dark skin:-1", "skin", "dark"),
)
