"""Fifty prompts of the evaluation of steering, with their claims.

They were written before steering was tuned. Change the settings, never the prompts.
"""

from __future__ import annotations

from recipes.minifaces.world.captions import Mentions

ONE: tuple[tuple[str, Mentions], ...] = (
    ("a woman", {"gender": "woman"}),
    ("a guy", {"gender": "man"}),
    ("a face with dark skin", {"skin": "dark"}),
    ("a face with pale skin", {"skin": "light"}),
    ("a face with red hair", {"hair_colour": "red"}),
    ("a face with blonde hair", {"hair_colour": "blond"}),
    ("a person with green hair", {"hair_colour": "green"}),
    ("a portrait of a person with pink hair", {"hair_colour": "pink"}),
    ("a bald person", {"hair_style": "bald"}),
    ("a face with long hair", {"hair_style": "long"}),
    ("somebody with curly hair", {"hair_style": "curly"}),
    ("a face with a mohawk", {"hair_style": "mohawk"}),
    ("a happy person", {"mouth": "smile"}),
    ("a sad face", {"mouth": "frown"}),
    ("a shocked face with an open mouth", {"mouth": "open"}),
    ("a serious person", {"mouth": "neutral"}),
    ("a person with spectacles", {"glasses": "glasses"}),
    ("a face wearing sunglasses", {"glasses": "sunglasses"}),
    ("a face with a full beard", {"beard": "beard"}),
    ("a person with a mustache", {"beard": "moustache"}),
    ("a face wearing a crown", {"hat": "crown"}),
    ("somebody wearing a baseball cap", {"hat": "cap"}),
    ("a person wearing a fedora", {"hat": "hat"}),
    ("a face on a yellow background", {"background": "yellow"}),
    ("a person in front of a purple wall", {"background": "purple"}),
)
SEVERAL: tuple[tuple[str, Mentions], ...] = (
    (
        "a man with a red hat and sunglasses",
        {"gender": "man", "hat": "hat", "hat_colour": "red", "glasses": "sunglasses"},
    ),
    ("a smiling woman with red hair", {"gender": "woman", "mouth": "smile", "hair_colour": "red"}),
    ("a sad man with a beard", {"gender": "man", "mouth": "frown", "beard": "beard"}),
    (
        "a woman with long blond hair",
        {"gender": "woman", "hair_style": "long", "hair_colour": "blond"},
    ),
    ("a bald man with a moustache", {"gender": "man", "hair_style": "bald", "beard": "moustache"}),
    (
        "a lady with curly black hair and glasses",
        {"gender": "woman", "hair_style": "curly", "hair_colour": "black", "glasses": "glasses"},
    ),
    (
        "a person with a blue cap on a pink background",
        {"hat": "cap", "hat_colour": "blue", "background": "pink"},
    ),
    (
        "a grinning king with a crown and a beard",
        {"mouth": "smile", "hat": "crown", "beard": "beard"},
    ),
    (
        "a pink mohawk and sunglasses",
        {"hair_style": "mohawk", "hair_colour": "pink", "glasses": "sunglasses"},
    ),
    ("a face with white hair and brown eyes", {"hair_colour": "white", "eye_colour": "brown"}),
    (
        "a surprised woman with short hair",
        {"gender": "woman", "mouth": "open", "hair_style": "short"},
    ),
    ("a man with dark skin and a full beard", {"gender": "man", "skin": "dark", "beard": "beard"}),
    (
        "a woman with a crown on a blue background",
        {"gender": "woman", "hat": "crown", "background": "blue"},
    ),
    ("a frowning face with glasses", {"mouth": "frown", "glasses": "glasses"}),
    ("a happy man with blue hair", {"gender": "man", "mouth": "smile", "hair_colour": "blue"}),
    (
        "a woman with tan skin and curly hair",
        {"gender": "woman", "skin": "tan", "hair_style": "curly"},
    ),
    (
        "a face with green eyes and an orange background",
        {"eye_colour": "green", "background": "orange"},
    ),
    (
        "a person with a green hat and a moustache",
        {"hat": "hat", "hat_colour": "green", "beard": "moustache"},
    ),
    (
        "a bald man with sunglasses",
        {"gender": "man", "hair_style": "bald", "glasses": "sunglasses"},
    ),
    (
        "a girl with long green hair and a smile",
        {"gender": "woman", "hair_style": "long", "hair_colour": "green", "mouth": "smile"},
    ),
    ("a screaming person on a grey background", {"mouth": "open", "background": "grey"}),
    (
        "a man with brown hair and round glasses",
        {"gender": "man", "hair_colour": "brown", "glasses": "glasses"},
    ),
    (
        "a serious woman with a yellow cap",
        {"gender": "woman", "mouth": "neutral", "hat": "cap", "hat_colour": "yellow"},
    ),
    ("a gentleman with a purple fedora", {"gender": "man", "hat": "hat", "hat_colour": "purple"}),
    (
        "a laughing face with a mohawk on a white background",
        {"mouth": "smile", "hair_style": "mohawk", "background": "white"},
    ),
)
