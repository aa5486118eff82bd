"""Texts longer than the encoder's context: what is cut is said."""

import open_clip
import torch

from guidance.commands.common import warn_of_unread_words
from guidance.encoders import left_out, load_encoder
from guidance.prompts import Prompt

LONG = [f"word{i}" for i in range(30)]


def test_words_beyond_the_context_are_named(capsys):
    encoder = load_encoder("mini", torch.device("cpu"))
    assert left_out(encoder, "a red hat") is None
    assert left_out(encoder, " ".join(LONG[:24])) is None
    assert left_out(encoder, " ".join(["red"] * 24 + LONG[:3])) == (24, "word0 word1 word2")
    warn_of_unread_words(encoder, [Prompt(" ".join(["red"] * 24 + ["hat", "blue"]))])
    assert "only the first 24 words count; left out: hat blue" in capsys.readouterr().err


class Pieces:
    """Cuts as CLIP does: tokens of parts of words, start and end included."""

    def tokenizer(self, texts):
        rows = []
        for text in texts:
            tokens = [ord(c) for word in text.split() for c in word[:2]][:10]
            rows.append([1, *tokens, 2] + [0] * (10 - len(tokens)))
        return torch.tensor(rows)


def test_any_tokenizer_that_cuts_is_understood():
    assert left_out(Pieces(), "aa bb cc dd") is None
    assert left_out(Pieces(), "aa bb cc dd ee") is None  # just fits
    assert left_out(Pieces(), "aa bb cc dd ee ff gg") == (5, "ff gg")
    assert left_out(object(), "aa") is None

    class Both:
        members = (object(), Pieces())

    assert left_out(Both(), "aa bb cc dd ee ff") == (5, "ff")


def test_the_tokenizer_of_clip_is_understood():
    class Clip:
        tokenizer = open_clip.get_tokenizer("ViT-B-32")  # 77 tokens; its vocabulary is bundled

    fits, more = " ".join(["hat"] * 75), "strawberries elephants"
    assert left_out(Clip(), fits) is None
    assert left_out(Clip(), f"{fits} {more}") == (75, more)
