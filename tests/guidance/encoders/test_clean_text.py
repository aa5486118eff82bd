"""Cleaning of texts before any tokenizer."""

from __future__ import annotations

import html

import ftfy
import pytest
import torch

from guidance.encoders import clean_text, load_encoder, unknown_words
from guidance.encoders.open_clip import OpenClipEncoder
from guidance.templates import PARTS, TEMPLATES


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("â€œa red hatâ€\x9d", '"a red hat"'),
        ("cafÃ©", "café"),
        ("cafe\u0301", "café"),
        ("the manâ€™s hat", "the man's hat"),
        ("a hat &amp;amp; a crown", "a hat & a crown"),
        ("&lt;3 &eacute;", "<3 é"),
        ("  a  red\n\that ", "a red hat"),
        ("a red hat", "a red hat"),
        ("", ""),
    ],
)
def test_texts_are_repaired(text, expected):
    assert clean_text(text) == expected


def test_plain_ascii_is_what_ftfy_leaves_alone():
    """The shortcut for printable ASCII gives what the whole treatment would."""
    prompts = [*TEMPLATES["imagenet"], *PARTS, "A  man's hat, 50% (red) <tag> #1 ~ ^_^ 'x' \"y\""]
    for prompt in prompts:
        whole = html.unescape(html.unescape(ftfy.fix_text(prompt)))
        assert clean_text(prompt) == " ".join(whole.split())


def test_the_mini_encoder_reads_mangled_texts_as_their_repaired_form():
    encoder = load_encoder("mini")
    pairs = [
        ("â€œa smiling  womanâ€\x9d", '"a smiling woman"'),
        ("the manâ€™s red hat", "the man's red hat"),
        ("a hat &amp;amp; glasses", "a hat & glasses"),
    ]
    for mangled, plain in pairs:
        assert torch.equal(encoder.encode_texts([mangled]), encoder.encode_texts([plain]))
    assert unknown_words(encoder, ["a cafÃ© hat", "a zeppelin", "cafÃ©"]) == ["café", "zeppelin"]


def test_open_clip_gets_clean_texts():
    seen = []

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.visual = torch.nn.Linear(1, 1)
            self.visual.preprocess_cfg = {"size": 8, "mean": (0.5,) * 3, "std": (0.5,) * 3}

        def encode_text(self, tokens, normalize):
            return torch.ones(len(tokens), 2)

    def tokenizer(texts):
        seen.extend(texts)
        return torch.zeros(len(texts), 1)

    OpenClipEncoder(Model(), tokenizer, "fake").encode_texts(["â€œx  yâ€\x9d &amp; cafÃ©"])
    assert seen[-1] == '"x y" & café'


def test_encoders_without_a_vocabulary_know_all_words():
    assert unknown_words(object(), ["zeppelin"]) == []
