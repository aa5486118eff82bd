"""Style space and the statistics of its channels, against direct computations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from direction_doubles import PixelEncoder, build, latents, picture
from torch import nn

from guidance.directions import (
    Relevance,
    RelevanceConfig,
    find_relevance,
    relevance_with_cache,
)
from guidance.directions import cache as cache_module
from guidance.directions.relevance import (
    compared_layers,
    differences,
    plain_differences,
    relevance_steps,
    style_statistics,
)
from guidance.style_space import layer_outputs, replaced_styles, resumed, style_layers, styles_of
from sg3.errors import UserError

pytest_plugins = ["direction_doubles"]  # its fixtures: G, G3


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "directions"


def test_styles_are_what_the_layers_use(G):
    ws = latents(G)
    plain, other = picture(G, ws), picture(G, latents(G, seed=9))
    with replaced_styles(G, styles_of(G, ws)):
        assert torch.equal(picture(G, latents(G, seed=9)), plain)
    assert torch.equal(picture(G, latents(G, seed=9)), other), "a hook was not removed"


def test_rows_are_those_that_the_layers_read(G):
    ws = latents(G)
    readers = {row: {x.name for x in style_layers(G) if x.ws_row == row} for row in range(G.num_ws)}
    for row, names in readers.items():
        moved = ws.clone()
        moved[:, row] += 1
        before, after = styles_of(G, ws), styles_of(G, moved)
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed == names - {"input"}, "a new input of a StyleGAN3 does not read w yet"
        with replaced_styles(G, {name: after[name] for name in names}):
            assert torch.equal(picture(G, ws), picture(G, moved))


def test_gradients_reach_styles(G):
    ws, layer = latents(G), style_layers(G)[-2]
    style = styles_of(G, ws)[layer.name].requires_grad_(True)
    with replaced_styles(G, {layer.name: style}):
        picture(G, ws).square().sum().backward()
    assert style.grad.abs().sum() > 0


def test_layers_before_a_change_need_not_run_again(G):
    layers, one = style_layers(G), latents(G, 1)
    images, outputs = layer_outputs(G, layers, one)
    assert torch.equal(images, picture(G, one))
    for index, layer in enumerate(layers):
        style = styles_of(G, one)[layer.name] + torch.randn([3, layer.channels])
        ws = one.expand(3, -1, -1)
        with replaced_styles(G, {layer.name: style}):
            expected = picture(G, ws)
            with resumed(layers, index, outputs):
                found = picture(G, ws)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(picture(G, one), images), "a hook was not removed"


def test_bad_styles_are_named(G3):
    with pytest.raises(UserError, match="no style space"):
        style_layers(nn.Linear(2, 2))
    for styles, message in (
        ({"nothing": torch.zeros(1, 2)}, "layer 'nothing'"),
        ({"L0": torch.zeros(1, 2)}, "shape"),
    ):
        with pytest.raises(UserError, match=message), replaced_styles(G3, styles):
            pass


# --- statistics ---


def test_statistics_of_styles_are_those_of_samples(G):
    config, layers = RelevanceConfig(samples=3000, truncation=0.7, cutoff=4), style_layers(G)
    mean, std = style_statistics(G, layers, config)
    ws = latents(G, 3000, seed=5)
    ws[:, :4] = G.mapping.w_avg.lerp(ws[:, :4], 0.7)
    sampled = torch.cat(list(styles_of(G, ws).values()), dim=1)
    torch.testing.assert_close(mean, sampled.mean(dim=0), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(std, sampled.std(dim=0), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_fast_way_is_the_plain_one(G, monkeypatch):
    monkeypatch.setattr("guidance.directions.relevance.CPU_BUDGET_PX", 32 * 32 * 10)
    encoder, config = PixelEncoder(), RelevanceConfig(images=2, samples=500)
    first, second = relevance_steps(G, encoder, config)
    names = [layer.name for layer in compared_layers(G, 128)]
    assert list(second.layers) == names and not any("torgb" in n or n == "input" for n in names)
    ws = latents(G, 2, seed=5)
    rows = slice(0, 8)
    ws[:, rows] = G.mapping.w_avg.lerp(ws[:, rows], 0.7)
    plain = torch.stack(list(plain_differences(G, encoder, ws, second, 5.0)))  # [C, 2, D]
    assert plain.abs().max() > 0.1
    torch.testing.assert_close(
        differences(G, encoder, ws[:1], first, 5.0), plain[:, 0], rtol=1e-4, atol=1e-5
    )
    expected = F.normalize(plain, dim=2).sum(dim=1)
    torch.testing.assert_close(second.sums, expected, rtol=1e-2, atol=1e-3)


def test_agreement_of_known_vectors():
    def of(unit):  # [n, C, D]
        n = len(unit)
        return Relevance({"a": unit.shape[1]}, None, None, unit.sum(dim=0), n, n).agreement()

    same = F.normalize(torch.randn(1, 40, 64), dim=2).expand(20, -1, -1)
    noise = F.normalize(torch.randn([20, 400, 64]), dim=2)
    assert of(same) == pytest.approx(1, abs=1e-3)
    assert of(noise) < 0.6
    # Half signal: the estimate has to be what the mean's cosine with the signal is.
    unit = F.normalize(same[:, :1] + noise, dim=2)
    truth = (F.normalize(unit.sum(dim=0), dim=1) * same[0, 0]).sum(dim=1).median()
    assert of(unit) == pytest.approx(float(truth), abs=0.02)


def test_interrupted_statistics_go_on_and_are_found_again(G3, cache, monkeypatch):
    config = RelevanceConfig(images=3, samples=500)
    *_, whole = relevance_steps(G3, PixelEncoder(), config)
    for state in relevance_with_cache(G3, PixelEncoder(), config):
        if state.images == 2:
            break
    steps = [state.images for state in relevance_with_cache(G3, PixelEncoder(), config)]
    assert steps == [2, 3]
    monkeypatch.setattr(cache_module, "write_relevance", None)  # would fail if it were called
    again = find_relevance(G3, PixelEncoder(), config)
    assert torch.equal(again.sums, whole.sums) and again.layers == whole.layers


def test_other_weights_settings_or_damage_are_not_found(G3, cache):
    config = RelevanceConfig(images=1, samples=500)
    find_relevance(G3, PixelEncoder(), config)
    (file,) = cache.iterdir()
    find_relevance(G3, PixelEncoder(seed=1), config)
    find_relevance(G3, PixelEncoder(), replace(config, sigmas=4.0))
    changed = build("sg3")
    changed.mapping.fc0.bias.data += 0.1
    find_relevance(changed, PixelEncoder(), config)
    assert len(list(cache.iterdir())) == 4
    file.write_bytes(file.read_bytes()[:1000])
    assert find_relevance(G3, PixelEncoder(), config).images == 1
    assert len(file.read_bytes()) > 1000
