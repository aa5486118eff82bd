"""Deltas: exact at strengths 0 and 1, additive, small; malicious files are refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

import pytest
import repository
import torch
from safetensors.torch import save_file
from torch import nn

import sg3
from sg3.checkpoints.delta import (
    Delta,
    DeltaMix,
    apply_deltas,
    difference,
    kept_fraction,
    load_delta,
    merge,
    save_delta,
    weights_hash,
)
from sg3.checkpoints.low_rank import LowRank, dense

GOLDEN = repository.GOLDEN
CONV = "synthesis.L2_46_48.weight"
BIAS = "synthesis.L2_46_48.bias"


def perturbed(G: nn.Module, seed: int, names: Callable[[str], bool] | None = None) -> nn.Module:
    """A copy with weights and biases changed by a few percent, as by adaptation."""
    random = torch.Generator().manual_seed(seed)
    G = copy.deepcopy(G)
    for name, parameter in G.named_parameters():
        if names(name) if names else "synthesis" in name and "affine" not in name:
            parameter += 0.02 * torch.randn(parameter.shape, generator=random)
    return G


def same_bits(a: nn.Module, b: nn.Module) -> bool:
    return weights_hash(a) == weights_hash(b)


def largest_gap(a: nn.Module, b: nn.Module) -> float:
    theirs = b.state_dict()
    return max(float((t - theirs[name]).abs().max()) for name, t in a.state_dict().items())


@pytest.fixture(scope="module")
def source() -> nn.Module:
    return sg3.load("mini-faces").G_ema


@pytest.fixture(scope="module")
def adapted(source) -> nn.Module:
    return perturbed(source, 1)


@pytest.fixture(scope="module")
def delta(source, adapted) -> Delta:
    return difference(source, adapted, meta={"source": "mini-faces", "target": "zombie"})


def test_the_hash_covers_all_weights_and_survives_a_file(source, tmp_path):
    sg3.save(sg3.Networks(G_ema=source), tmp_path / "n.safetensors")
    assert same_bits(sg3.load(tmp_path / "n.safetensors").G_ema, source)
    for name in ("mapping.w_avg", CONV, "synthesis.L0_30_48.magnitude_ema"):
        other = copy.deepcopy(source)
        tensor = other.state_dict()[name]
        tensor.copy_(torch.nextafter(tensor, tensor + 1))
        assert not same_bits(other, source)


def test_strength_0_is_the_source_and_1_the_adapted_network_bit_for_bit(source, delta, tmp_path):
    before = weights_hash(source)
    adapted = apply_deltas(source, [(delta, 1)])  # what `sg3 adapt` saves
    sg3.save(sg3.Networks(G_ema=adapted), tmp_path / "adapted.safetensors")
    save_delta(delta, tmp_path / "d.safetensors")
    loaded = load_delta(tmp_path / "d.safetensors")
    again = apply_deltas(sg3.load("mini-faces").G_ema, [(loaded, 1)])
    assert same_bits(again, sg3.load(tmp_path / "adapted.safetensors").G_ema)
    assert not same_bits(again, source)
    assert same_bits(apply_deltas(source, [(loaded, 0)]), source)
    assert same_bits(apply_deltas(source, [(loaded, 0.5), (loaded, -0.5)]), source)
    assert same_bits(apply_deltas(source, []), source)
    assert weights_hash(source) == before
    assert (loaded.source_hash, loaded.meta) == (before, delta.meta)


def test_negative_zero_stays(source, delta):
    other = copy.deepcopy(source)
    other.state_dict()[BIAS].fill_(-0.0)
    for strengths in ((0,), (1, -1)):
        same = apply_deltas(other, [(delta, s) for s in strengths], force=True)
        assert same_bits(same, other)


def test_only_changed_tensors_are_stored(source):
    adapted = perturbed(source, 2, lambda name: name in (CONV, BIAS))
    delta = difference(source, adapted)
    assert sorted(delta.changes) == [BIAS, CONV]
    assert delta.num_numbers == 48 + 48 * 48 * 9
    assert not difference(source, copy.deepcopy(source)).changes
    result = apply_deltas(source, [(delta, 1)]).state_dict()
    before = source.state_dict()
    changed = {name for name in before if not torch.equal(before[name], result[name])}
    assert changed == {BIAS, CONV}


def test_in_float32_the_adapted_network_is_restored_up_to_an_ulp(source, adapted):
    back = apply_deltas(source, [(difference(source, adapted, dtype=torch.float32), 1)])
    before, expected = source.state_dict(), adapted.state_dict()
    for name, tensor in back.state_dict().items():
        # The change and the sum are rounded once each: an ulp of the larger value bounds both.
        larger = torch.maximum(before[name].abs(), expected[name].abs())
        ulp = torch.nextafter(larger, larger + 1) - larger
        assert ((tensor - expected[name]).abs() <= ulp).all()


def test_in_float16_the_error_is_a_thousandth_of_the_change(source, adapted, delta):
    back = apply_deltas(source, [(delta, 1)])
    assert largest_gap(back, adapted) < largest_gap(source, adapted) * 2**-11 + 1e-7
    assert kept_fraction(delta, source, adapted) > 1 - 1e-6


def test_strengths_are_linear_and_add(source, adapted, delta):
    other = difference(source, perturbed(source, 3))
    mixed = apply_deltas(source, [(delta, 0.7), (other, -0.4)]).state_dict()
    expected = source.state_dict()[CONV].double()
    expected = expected + 0.7 * dense(delta.changes[CONV]) - 0.4 * dense(other.changes[CONV])
    assert torch.equal(mixed[CONV], expected.float())


def test_a_change_of_low_rank_is_found(source):
    left, right = torch.randn(48, 3), torch.randn(3, 48 * 9) * 0.01
    adapted = copy.deepcopy(source)
    adapted.state_dict()[CONV].add_((left @ right).reshape(48, 48, 3, 3))
    adapted.state_dict()[BIAS].add_(0.1)
    delta = difference(source, adapted, rank=8, dtype=torch.float32)
    change = delta.changes[CONV]
    # Rounding noise has full rank: the maximum rank is used, the remainder is small.
    assert isinstance(change, LowRank) and change.rank == 8
    assert isinstance(delta.changes[BIAS], torch.Tensor)
    assert largest_gap(apply_deltas(source, [(delta, 1)]), adapted) < 2e-6
    assert delta.num_numbers == 8 * (48 + 48 * 9) + 48


@pytest.mark.parametrize("name", [CONV, "mapping.fc0.weight"])  # wide, tall
def test_factors_are_the_best_of_their_rank(source, name):
    adapted = perturbed(source, 4, lambda n: n == name)
    delta = difference(source, adapted, rank=5, dtype=torch.float32)
    change = (adapted.state_dict()[name].double() - source.state_dict()[name].double()).flatten(1)
    singular = torch.linalg.svdvals(change)
    expected = 1 - float(singular[5:].square().sum() / singular.square().sum())
    assert kept_fraction(delta, source, adapted) == pytest.approx(expected, abs=1e-6)


def test_low_rank_deltas_are_small_files(source, adapted, tmp_path):
    sizes = {}
    for rank in (None, 4):
        save_delta(difference(source, adapted, rank), tmp_path / "d.safetensors")
        sizes[rank] = (tmp_path / "d.safetensors").stat().st_size
        back = load_delta(tmp_path / "d.safetensors")
        assert same_bits(
            apply_deltas(source, [(back, 1)]),
            apply_deltas(source, [(difference(source, adapted, rank), 1)]),
        )
    assert sizes[None] < 250_000 and sizes[4] < 40_000


def test_changes_beyond_half_precision_stay_in_single(source):
    adapted = copy.deepcopy(source)
    adapted.state_dict()[BIAS].add_(1e6)
    delta = difference(source, adapted)
    assert delta.changes[BIAS].dtype == torch.float32
    assert largest_gap(apply_deltas(source, [(delta, 1)]), adapted) < 1


def test_a_merged_delta_has_the_effect_of_its_parts(source, adapted, delta, tmp_path):
    other = difference(source, perturbed(source, 3), meta={"source": "mini-faces"})
    for a, b in [(delta, other), (difference(source, adapted, 6), difference(source, adapted, 3))]:
        parts = [(a, 0.5), (b, 1.5)]
        save_delta(merge(parts), tmp_path / "m.safetensors")
        merged = load_delta(tmp_path / "m.safetensors")
        gap = largest_gap(apply_deltas(source, [(merged, 1)]), apply_deltas(source, parts))
        assert gap < 2**-11 * largest_gap(source, apply_deltas(source, parts))
    assert merged.changes[CONV].rank == 9
    assert merge(parts, rank=4).changes[CONV].rank == 4
    assert not merge([(delta, 1), (delta, -1)]).changes
    meta = merge([(delta, 0.5), (other, 1)]).meta
    assert meta["source"] == "mini-faces"
    assert [part["strength"] for part in meta["merged"]] == [0.5, 1]
    assert meta["merged"][0]["target"] == "zombie"


def test_a_slider_gives_the_same_images_in_any_order(source, delta):
    other = difference(source, perturbed(source, 3))
    mix, z = DeltaMix(source, [delta, other]), torch.randn(1, source.z_dim)
    for strengths in ((1, 1), (0.3, 0), (0, 0)):
        moved = mix.set(*strengths)
        expected = apply_deltas(source, list(zip((delta, other), strengths, strict=True)))
        assert same_bits(moved, expected)
        assert torch.equal(moved(z), expected(z))


def test_other_networks_are_refused(source, adapted, delta):
    with pytest.raises(ValueError, match=r"made from 'mini-faces' .* this network's are"):
        apply_deltas(adapted, [(delta, 1)])
    assert same_bits(apply_deltas(adapted, [(delta, 0)], force=True), adapted)
    other = sg3.load(GOLDEN / "official-sg3t-32.pkl").G_ema
    with pytest.raises(ValueError, match=r"mini-faces', .* \[48, 48\]; in this .* \[16, 16\]"):
        apply_deltas(other, [(delta, 1)], force=True)
    with pytest.raises(ValueError, match=r"adapted: tensor .* \[16, 16\], in source it is \[48"):
        difference(source, other)
    stylegan2 = sg3.load(GOLDEN / "official-sg2-32.pkl").G_ema
    with pytest.raises(ValueError, match=r"adapted: has no tensor 'synthesis.b4"):
        difference(stylegan2, source)
    with pytest.raises(ValueError, match=r"this network has no tensor 'x'"):
        apply_deltas(source, [(Delta({"x": torch.zeros(3)}, weights_hash(source)), 1)])
    narrow = Delta({BIAS: torch.zeros(47)}, weights_hash(source))
    with pytest.raises(ValueError, match=r"has shape \[47\]; in this network it is \[48\]"):
        apply_deltas(source, [(narrow, 1)])
    with pytest.raises(ValueError, match="made from different weights"):
        merge([(delta, 1), (difference(adapted, source), 1)])


def test_bad_arguments(source, adapted, delta):
    for strength in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="strength: got"):
            apply_deltas(source, [(delta, strength)])
        with pytest.raises(ValueError, match="strength: got"):
            merge([(delta, strength)])
    with pytest.raises(ValueError, match=r"overflows torch\.float32; use a smaller strength"):
        apply_deltas(source, [(delta, 1e300)])
    with pytest.raises(ValueError, match="rank: got 0"):
        difference(source, adapted, rank=0)
    with pytest.raises(ValueError, match="dtype: got"):
        difference(source, adapted, dtype=torch.float64)
    with pytest.raises(ValueError, match="got none"):
        merge([])
    broken = perturbed(source, 1)
    broken.state_dict()[BIAS][3] = float("nan")
    with pytest.raises(ValueError, match=f"{BIAS}.* not finite"):
        difference(source, broken)
    with pytest.raises(ValueError, match="JSON-serializable"):
        save_delta(Delta({}, "0" * 64, {"x": object()}), "/tmp/never.safetensors")
    with pytest.raises(ValueError, match=r"ending in \.safetensors"):
        save_delta(delta, "/tmp/never.pkl")


GOOD = {"format": "sg3-delta", "version": "1", "source_hash": "0" * 64, "shapes": "{}"}
FACTORS = {"left.x": torch.zeros(4, 2), "right.x": torch.zeros(2, 6)}


def with_shape(shape) -> dict[str, str]:
    return {"shapes": json.dumps({"x": shape})}


@pytest.mark.parametrize(
    ("expected", "tensors", "metadata"),
    [
        ("a network, expected a delta", {}, {"format": "sg3-networks"}),
        ("not a delta: metadata format 'pt', expected 'sg3-delta'", {}, {"format": "pt"}),
        ("file version '2', expected '1'", {}, {"version": "2"}),
        ("without a valid hash of the source weights", {}, {"source_hash": "../" * 10}),
        ("not a JSON object", {}, {"meta": "[" * 5000}),
        ("not a JSON object", {}, {"shapes": "[]"}),
        ("not finite", {"dense.x": torch.tensor([1, float("nan")])}, {}),
        ("not finite", {"dense.x": torch.tensor([float("inf")]).half()}, {}),
        ("float16 or float32", {"dense.x": torch.tensor([1])}, {}),
        ("unknown tensor 'x'", {"x": torch.zeros(3)}, {}),
        ("unknown tensor 'left.x'", FACTORS, {}),
        ("unknown tensor 'dense.x'", {**FACTORS, "dense.x": torch.zeros(4, 6)}, with_shape([4, 6])),
        ("tensor 'x' lacks a factor", {"left.x": torch.zeros(4, 2)}, with_shape([4, 6])),
        ("not a list of integers", FACTORS, with_shape("46")),
        ("not a list of integers", FACTORS, with_shape([4, 6.0])),
        ("expected [4, r] and [r, 7]", FACTORS, with_shape([4, 7])),
        ("of invalid shape", FACTORS, with_shape([4, -6])),
        ("of invalid shape", FACTORS, with_shape([24])),
        ("of invalid shape", FACTORS, with_shape([10**6, 10**6])),
        (
            "r from 1 to 4",
            {"left.x": torch.zeros(4, 5), "right.x": torch.zeros(5, 6)},
            with_shape([4, 6]),
        ),
    ],
)
def test_malicious_files_are_refused_in_one_line(expected, tensors, metadata, tmp_path):
    path = tmp_path / "d.safetensors"
    save_file(tensors, path, GOOD | metadata)
    with pytest.raises(ValueError) as caught:
        load_delta(path)
    message = str(caught.value)
    assert expected in message and "\n" not in message and str(path) in message


def test_damaged_and_missing_files(delta, tmp_path):
    path = tmp_path / "d.safetensors"
    save_delta(delta, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        load_delta(path)
    with pytest.raises(OSError):
        load_delta(tmp_path / "none.safetensors")
