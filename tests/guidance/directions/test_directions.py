"""Directions, mixing, truncation and their files: against definitions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from direction_doubles import PixelEncoder, latents, picture

from guidance.directions import (
    Direction,
    EditedLatent,
    Relevance,
    apply_directions,
    centres_of,
    labelled_direction,
    mix_styles,
    pca_direction,
    read_direction,
    read_latent,
    sefa_direction,
    sweep,
    text_direction,
    truncate,
    write_direction,
    write_latent,
)
from guidance.directions.spec import parse_direction
from guidance.latents import latent_statistics
from guidance.style_space import rows_of_layers, style_layers
from sg3.checkpoints.delta import weights_hash
from sg3.errors import UserError
from sg3.files import ALIGNMENT_BYTES
from sg3.networks import stylegan3

pytest_plugins = ["direction_doubles"]  # its fixtures: G, G3


@pytest.fixture
def relevance():
    """Three channels: one as the text, one half against it, one unrelated."""
    encoder = PixelEncoder()
    target, neutral = encoder.encode_texts(["x", "a face"])
    change = F.normalize(target - neutral, dim=0)
    other = F.normalize(torch.randn(12) - change, dim=0)
    other = F.normalize(other - (other @ change) * change, dim=0)
    sums = torch.stack([change * 7, F.normalize(-change + 3**0.5 * other, dim=0), other])
    return Relevance({"L0": 2, "L2": 1}, torch.zeros(3), torch.tensor([2.0, 3.0, 4.0]), sums, 7, 7)


def test_text_direction_of_known_relevance(relevance):
    found = text_direction(relevance, PixelEncoder(), "x", beta=0.4)
    assert set(found.styles) == {"L0"} and found.ws is None
    # Cosines 1, −½ and 0, over the largest, times the deviations 2, 3 and 4.
    torch.testing.assert_close(found.styles["L0"], torch.tensor([2.0, -1.5]), atol=1e-5, rtol=0)
    assert found.info["channels"] == 2
    fewer = text_direction(relevance, PixelEncoder(), "x", beta=0.6)
    torch.testing.assert_close(fewer.styles["L0"], torch.tensor([2.0, 0.0]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": " "}, "direction"),
        ({"target": "x", "neutral": ""}, "neutral"),
        ({"target": "a face"}, "the same"),
        ({"target": "x", "beta": 1.2}, "beta"),
        ({"target": "y", "beta": 0.999}, "use a smaller one"),
        ({"target": "x", "templates": ["none"]}, "templates"),
    ],
)
def test_bad_texts_are_one_line(relevance, arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        text_direction(relevance, PixelEncoder(), **arguments)
    assert "\n" not in str(caught.value)


def test_sefa_changes_styles_most(G):
    def change(step):  # of all styles but those of a StyleGAN3's input, squared
        layers = [layer for layer in style_layers(G) if not layer.is_input]
        unit = F.normalize(step, dim=-1)
        weights = [layer.module.affine.weight * layer.module.affine.weight_gain for layer in layers]
        return sum(float((weight @ unit).square().sum()) for weight in weights)

    first, last = sefa_direction(G, 0).ws[0], sefa_direction(G, 15).ws[0]
    others = [change(torch.randn(16)) for _ in range(50)]
    assert change(first) > max(others) and change(last) < min(others)
    one_row = sefa_direction(G, 0, rows=[2])
    assert not torch.allclose(one_row.ws[0], first)
    with pytest.raises(UserError, match="sefa:0 to sefa:15"):
        sefa_direction(G, 16)


def test_steps_are_one_standard_deviation(G3):
    w = latents(G3, 4000, seed=2)[:, 0]
    for direction in (pca_direction(G3, 1), sefa_direction(G3, 2)):
        step = direction.ws[0]
        spread = (w @ F.normalize(step, dim=0)).std()
        assert float(step.norm() / spread) == pytest.approx(1, abs=0.05)
    with pytest.raises(UserError, match="pca:0"):
        pca_direction(G3, 16)


def test_labels_give_the_direction_that_made_them(G3):
    w = latents(G3, 2000, seed=2)[:, 0]
    statistics = latent_statistics(G3)
    normal = F.normalize(torch.randn(len(statistics.variances)), dim=0)
    score = statistics.whiten(w) @ normal
    noisy = score + 0.3 * torch.randn(len(w))
    for labels, least in ((noisy, 0.9), ((noisy > 0.2).float(), 0.85)):
        found = labelled_direction(G3, w, labels)
        step = statistics.whiten(statistics.mean + found.ws[0])
        assert float(step @ normal) > 0.97  # a unit step in these coordinates
        assert max(found.info.get("accuracy", 0), found.info.get("correlation", 0)) > least
    noise = labelled_direction(G3, w, (torch.randn(len(w)) > 0).float())
    assert noise.info["accuracy"] < 0.62, "held-out labels that are noise cannot be told"
    for wrong in (torch.zeros(2000), torch.ones(3), noisy * torch.nan):
        with pytest.raises(UserError, match="labels"):
            labelled_direction(G3, w, wrong)


def test_edits_add_up_and_keep_to_their_rows(G3):
    ws = latents(G3)
    a, b = pca_direction(G3, 0), pca_direction(G3, 1).on_rows(G3, [3])
    styled = Direction("s", styles={"L1": torch.ones(6), "L3": torch.ones(6)})
    both = apply_directions(ws, [(a, 2.0), (b, -1.0), (styled.on_rows(G3, [2]), 0.5)])
    expected = ws + 2 * a.ws
    expected[:, 3] -= pca_direction(G3, 1).ws[3]
    torch.testing.assert_close(both.ws, expected)
    assert set(both.styles) == {"L1"}, "row 2 is read by L1"
    twice = apply_directions(both, [(styled, 1.0)])
    torch.testing.assert_close(twice.styles["L1"], torch.full([1, 6], 1.5))
    nothing = apply_directions(ws, [(a, 0.0), (styled, 0.0)])
    assert torch.equal(nothing.render(G3), picture(G3, ws))
    alphas = [step.alphas for step in sweep(G3, ws, [(a, -4, 4), (styled, 0, 2)], 3)]
    assert alphas == [(-4, 0), (0, 1), (4, 2)]


def test_style_edits_fold_into_ws_where_rows_are_not_shared(G):
    ws = latents(G)
    layer = next(x for x in style_layers(G) if not x.is_input and not x.to_rgb and x.ws_row > 0)
    edited = EditedLatent(ws, {layer.name: torch.randn([1, layer.channels])})
    folded = edited.folded(G)
    if isinstance(G, stylegan3.Generator):
        assert not folded.styles
    torch.testing.assert_close(folded.render(G), edited.render(G), rtol=1e-3, atol=1e-3)
    assert (edited.render(G) - picture(G, ws)).abs().max() > 0.01


# --- mixing and truncation ---


def test_mixing_takes_rows(G3):
    ws, other = latents(G3), latents(G3, 1, seed=8)
    mixed = mix_styles(ws, other, rows_of_layers(G3, "1,4-5"))
    for row in range(G3.num_ws):
        source = other.expand(2, -1, -1) if row in (1, 4, 5) else ws
        assert torch.equal(mixed[:, row], source[:, row])
    assert rows_of_layers(G3, "L0-L2,torgb") == {1, 2, 3, 6}
    for text in ("7-9", "3-1", "L99", ","):
        with pytest.raises(ValueError, match="layers"):
            rows_of_layers(G3, text)


def test_truncation_goes_to_the_nearest_centre():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    ws = torch.tensor([[[1.0, 1.0]] * 3, [[7.0, 1.0]] * 3])
    assert torch.equal(truncate(ws, centres, 1.0), ws)
    half = truncate(ws, centres, 0.5)
    torch.testing.assert_close(half[:, 0], torch.tensor([[0.5, 0.5], [8.5, 0.5]]))
    cut = truncate(ws, centres, 0.0, cutoff=1)
    assert torch.equal(cut[:, 0], centres) and torch.equal(cut[:, 1:], ws[:, 1:])


def test_centres_are_found_and_repeat(G3, monkeypatch):
    w = torch.cat([torch.randn(700, 16) * 0.1 + 5, torch.randn(300, 16) * 0.1 - 5])
    monkeypatch.setattr(
        "guidance.directions.centres.map_latents", lambda *args: w[:, None].expand(-1, 3, -1)
    )
    centres = centres_of(G3, 2)
    torch.testing.assert_close(centres.mean(dim=1), torch.tensor([5.0, -5.0]), atol=0.05, rtol=0)
    assert torch.equal(centres, centres_of(G3, 2))
    with pytest.raises(UserError, match="centres"):
        centres_of(G3, 0)


# --- files ---


def test_files_come_back_and_name_their_network(G, tmp_path):
    name = style_layers(G)[1].name
    channels = style_layers(G)[1].channels
    latent = EditedLatent(latents(G), {name: torch.randn(1, channels)})
    write_latent(tmp_path / "l.safetensors", latent, {"network": "a", "network_sha256": "12"})
    again = read_latent(tmp_path / "l.safetensors", G, "12")
    assert torch.equal(again.render(G), latent.render(G))
    assert all(t.data_ptr() % ALIGNMENT_BYTES == 0 for t in (again.ws, again.styles[name]))
    with pytest.raises(UserError, match="made with 'a'"):
        read_latent(tmp_path / "l.safetensors", G, "34")
    assert read_latent(tmp_path / "l.safetensors", G, "34", force=True).ws.shape == latent.ws.shape
    from sg3.latent_files import load_latents

    with pytest.raises(UserError, match="expected ws alone"):
        load_latents(tmp_path / "l.safetensors")

    path, weights = tmp_path / "d.safetensors", weights_hash(G)
    direction = Direction("n", torch.randn(G.num_ws, 16), {name: torch.randn(channels)}, {"k": 1})
    write_direction(path, direction, weights)
    found = read_direction(path, G, weights)
    assert torch.equal(found.ws, direction.ws) and found.info == {"k": 1} and found.name == "n"
    assert torch.equal(found.styles[name], direction.styles[name])
    with pytest.raises(UserError, match="other weights"):
        read_direction(path, G, "0" * 64)


def test_a_file_of_labelled_latents_is_a_direction(G3, tmp_path):
    from safetensors.torch import save_file

    ws = latents(G3, 200, seed=4)
    save_file({"ws": ws, "labels": (ws[:, 0, 3] > 0).long()}, tmp_path / "tall.safetensors")
    found = read_direction(tmp_path / "tall.safetensors", G3, "any")
    assert found.name == "tall" and found.ws[0, 3] > 0 and found.info["accuracy"] > 0.8
    save_file({"x": ws}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="labels"):
        read_direction(tmp_path / "other.safetensors", G3, "any")
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="damaged"):
        read_direction(tmp_path / "bad.safetensors", G3, "any")


def test_parsing_of_directions(tmp_path):
    assert parse_direction("sefa:3").kind == "sefa" and parse_direction("pca:0").value == "0"
    assert parse_direction(" a  hat ").value == "a hat"
    assert parse_direction("label: a hat").kind == "label"
    for text in ("", "label:", "missing.safetensors"):
        with pytest.raises(UserError, match="direction"):
            parse_direction(text)
