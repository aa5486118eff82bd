"""The proof of directions: mini-faces, read by a judge that nothing is optimized against."""

from __future__ import annotations

import pytest
import torch
from direction_doubles import latents

import sg3
from guidance.directions import (
    RelevanceConfig,
    described_direction,
    find_relevance,
    text_direction,
)
from guidance.directions import cache as cache_module


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "directions"


@pytest.fixture(scope="module")
def faces():
    from guidance.encoders import load_encoder

    G, encoder = sg3.load("mini-faces").G_ema, load_encoder("mini")
    whose = cache_module.whose_relevance(G, encoder, RelevanceConfig())
    relevance = cache_module.read_relevance(cache_module.BUNDLED, whose, more=True)
    assert relevance is not None, (
        "mini-faces or mini have other weights than the bundled statistics; make them anew: "
        "python -m recipes.minifaces.evaluation.directions --bundle 48"
    )
    return G, encoder, relevance


def test_bundled_statistics_are_found_and_are_what_they_say(faces, cache):
    G, encoder, relevance = faces
    found = find_relevance(G, encoder)
    assert torch.equal(found.sums, relevance.sums) and not cache.exists()
    assert found.images >= RelevanceConfig().images and found.agreement() > 0.95
    assert cache_module.BUNDLED.stat().st_size < 250_000
    more = RelevanceConfig(images=found.images + 1)
    whose = cache_module.whose_relevance(G, encoder, more)
    assert cache_module.read_relevance(cache_module.BUNDLED, whose, more=True) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "attribute", "value"),
    [
        ("a face with red hair", "hair_colour", "red"),
        ("a face wearing glasses", "glasses", "glasses"),
        ("a smiling face", "mouth", "smile"),
    ],
)
def test_the_judge_sees_more_as_alpha_grows(faces, text, attribute, value):
    from recipes.minifaces.evaluation.directions import respond
    from recipes.minifaces.judge.model import load_judge

    G, encoder, relevance = faces
    direction = text_direction(relevance, encoder, text)
    ws = latents(G, 12, seed=4000)
    response, _ = respond(G, load_judge(), direction, attribute, value, ws, largest=4, count=5)
    assert response.largest_fall < 0.03, response  # of twelve pictures; of 48: docs/EDITING.md
    assert response.probability[-1] - response.probability[0] > 0.35, response
    assert max(response.others_changed) < 0.25, response


@pytest.mark.slow
def test_described_direction_of_mini_faces(faces):
    G, encoder, _ = faces
    found = described_direction(G, encoder, "a smiling face", samples=60)
    assert found.info["latents"] == 60 and found.ws.shape == (G.num_ws, G.w_dim)
