"""The loss of an adaptation computed by hand, its templates, and early stopping."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nada_doubles import Colour, Hash, only

from guidance.encoders import EnsembleEncoder
from guidance.templates import PARTS, TEMPLATES, filled, templates_of
from nada import StopRule, ViewConfig, Weights, losses
from nada.clip_directions import Target, image_target, text_target
from nada.objective import AdaptationObjective
from nada.stop_rule import Check, StopMonitor


def unit(rows: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn([rows, 5], generator=torch.Generator().manual_seed(seed)), dim=1)


def some_target() -> Target:
    source, target = unit(2, 7)
    parts = unit(3, 8)
    return Target(F.normalize(target - source, dim=0), 0.7, source, target, unit(3, 9), parts)


def test_the_directional_loss_agrees_with_a_hand_calculation():
    before, after, target = unit(4, 0), unit(4, 1), some_target()
    expected = []
    for old, new in zip(before.double().numpy(), after.double().numpy(), strict=True):
        moved, wanted = new - old, target.direction.double().numpy()
        cosine = (moved @ wanted) / (np.sqrt(moved @ moved) * np.sqrt(wanted @ wanted))
        expected.append(1 - cosine)
    got = losses.directional(before, after, target)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5)
    along = before + 0.3 * target.direction
    assert losses.directional(before, along, target).abs().max() < 1e-5
    away = before - 0.3 * target.direction
    assert (losses.directional(before, away, target) - 2).abs().max() < 1e-5


def test_where_nothing_has_moved_the_directional_loss_still_has_a_gradient():
    before, target = unit(2, 0), some_target()
    after = before.clone().requires_grad_(True)
    loss = losses.directional(before, after, target)
    (gradient,) = torch.autograd.grad(loss.sum(), after)
    assert loss.isfinite().all() and gradient.isfinite().all() and gradient.abs().sum() > 0


def test_the_other_terms_by_hand():
    before, after, target = unit(3, 0), unit(3, 1), some_target()
    old, new = before.double().numpy(), after.double().numpy()
    direction, source, wanted = (
        t.double().numpy() for t in (target.direction, target.source, target.target)
    )
    for i in range(3):
        moved = new[i] - old[i]
        by_hand = {
            "magnitude": sum((moved - 0.6 * direction) ** 2),
            "global_distance": 1 - sum(new[i] * wanted),
            "texture": sum(moved**2) / 5,
            "manifold": abs(sum(old[i] * new[i]) - sum(source * wanted)),
        }
        got = {
            "magnitude": losses.magnitude(before, after, target, 0.6)[i],
            "global_distance": losses.global_distance(after, target)[i],
            "texture": losses.texture(before, after)[i],
            "manifold": losses.manifold(before, after, target)[i],
        }
        assert {k: float(v) for k, v in got.items()} == pytest.approx(by_hand, rel=1e-4)
    assert losses.magnitude(before, before, target, 0.6) == pytest.approx([0.36] * 3)
    assert losses.magnitude(before, before + 0.6 * target.direction, target, 0.6).max() < 1e-10
    assert losses.global_distance(target.target[None], target).abs().max() < 1e-6


def test_the_patch_term_by_hand():
    before, after, target = unit(3, 0), unit(3, 1), some_target()
    parts_source, parts = target.parts_source.double().numpy(), target.parts.double().numpy()
    expected = []
    for old, new in zip(before.double().numpy(), after.double().numpy(), strict=True):
        scores = np.exp([100 * (old @ part) for part in parts_source])
        moved = (new - old) / np.linalg.norm(new - old)
        distances = np.array([1 - moved @ part for part in parts])
        expected.append(float((scores / scores.sum()) @ distances))
    got = losses.patch_direction(before, after, target)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-3, atol=1e-4)


def test_only_pixels_beyond_the_range_count():
    images = torch.zeros([2, 3, 4, 4])
    images[0, 0, 0, 0], images[0, 1, 0, 0], images[1, 0, 0, 0] = 1.5, -3.0, 1.0
    assert losses.beyond_range(images).tolist() == pytest.approx([2.5 / 48, 0])


def test_text_directions_are_means_over_templates():
    encoder, templates = Hash(), ["a {}", "the {}"]
    target = text_target(encoder, "face", "zombie", templates)
    old = encoder.encode_texts(["a face", "the face"])
    new = encoder.encode_texts(["a zombie", "the zombie"])
    difference = ((new[0] - old[0]) + (new[1] - old[1])) / 2
    assert target.text_norm == pytest.approx(float(difference.norm()))
    torch.testing.assert_close(target.direction, difference / difference.norm())
    torch.testing.assert_close(target.target, F.normalize(new.sum(dim=0), dim=0))
    assert target.parts.shape == (len(PARTS), 5)
    torch.testing.assert_close(target.parts.norm(dim=1), torch.ones(len(PARTS)))
    with pytest.raises(ValueError, match="no difference"):
        text_target(encoder, "face", "face", templates)


def test_image_directions_are_differences_of_means():
    encoder = Hash()
    before, after = torch.rand([3, 3, 16, 16]), torch.rand([2, 3, 8, 8])
    target = image_target(encoder, before, after)
    old, new = encoder.encode_images(before), encoder.encode_images(after)
    difference = new.mean(dim=0) - old.mean(dim=0)
    torch.testing.assert_close(target.direction, difference / difference.norm())
    assert target.parts is None


def objective_of(encoder, weights, **views):
    targets = [
        text_target(m, "face", "zombie", ["{}"]) for m in getattr(encoder, "members", [encoder])
    ]
    return AdaptationObjective(encoder, targets, [0.5] * len(targets), weights, ViewConfig(**views))


def test_without_views_the_objective_is_the_published_loss():
    encoder = Hash()
    before, after = (torch.rand([2, 3, 16, 16]) * 2 - 1 for _ in range(2))
    weights = only(directional=1, global_text=0.3, range=2)
    loss, terms = objective_of(encoder, weights, views=0)(before, 1.5 * after, torch.Generator())
    target = text_target(encoder, "face", "zombie", ["{}"])
    pair = [encoder.encode_images(images) for images in (before, 1.5 * after)]
    expected = float(losses.directional(*pair, target).mean())
    assert float(terms["directional"]) == pytest.approx(expected, rel=1e-5)
    assert terms.keys() == {"directional", "global_text", "range"}
    total = terms["directional"] + 0.3 * terms["global_text"] + 2 * terms["range"]
    assert float(loss) == pytest.approx(float(total), rel=1e-6)


def test_several_encoders_count_by_their_weights():
    before, after = (torch.rand([2, 3, 16, 16]) * 2 - 1 for _ in range(2))
    members, weights = [Hash(1), Hash(2)], only(directional=1, magnitude=1, manifold=1)

    def loss(encoder):
        return float(objective_of(encoder, weights, views=0)(before, after, torch.Generator())[0])

    together = loss(EnsembleEncoder(members, [3, 1]))
    assert together == pytest.approx(0.75 * loss(members[0]) + 0.25 * loss(members[1]), rel=1e-4)


def test_both_images_are_shown_in_the_same_views():
    """Without a change the loss is 0, whatever the views."""
    images = torch.rand([2, 3, 40, 40]) * 2 - 1
    weights = only(texture=1)
    objective = objective_of(Hash(), weights, views=2, cutouts=3, augment="strong")
    loss, _ = objective(images, images.clone(), torch.Generator().manual_seed(0))
    assert float(loss) < 1e-12
    generator = torch.Generator().manual_seed(0)
    moved = [float(objective(images, images.flip(3), generator)[0]) for _ in range(2)]
    assert min(moved) > 1e-4 and moved[0] != moved[1]  # other views every time


def test_strokes_come_from_target_images_if_there_are_any():
    red, green = (torch.full([2, 3, 16, 16], -0.5) for _ in range(2))
    red[:, 0], green[:, 1] = 0.5, 0.5

    def strokes(after, images):
        targets = [text_target(Hash(), "face", "zombie", ["{}"])]
        one = AdaptationObjective(
            Hash(), targets, [0.5], only(strokes=1), ViewConfig(views=0), images
        )
        _, terms = one(red, after, torch.Generator().manual_seed(0))
        return float(terms["strokes"])

    assert strokes(red, None) == 0 < strokes(green, None)
    larger = torch.nn.functional.interpolate(green[:1], scale_factor=2)
    assert strokes(green, larger) < 1e-6 < strokes(red, larger)


# --- templates --------------------------------------------------------------------------------


def test_templates():
    imagenet = templates_of("imagenet")
    assert len(imagenet) == len(set(imagenet)) == 79
    assert {"a bad photo of a {}.", "itap of the {}.", "a photo of my {}."} <= set(imagenet)
    assert all(s.count("{}") == 1 for name in TEMPLATES for s in templates_of(name))
    assert filled(["a {}", "{}!"], "cat") == ["a cat", "cat!"]
    assert templates_of(["x {}"]) == ("x {}",)


# --- early stopping ---------------------------------------------------------------------------


def reason_with(rule, checks, magnitude=None):
    target = text_target(Colour(), "grey", "red", ["{}"])
    monitor = StopMonitor(Colour(), [target], torch.rand([3, 3, 8, 8]), rule, magnitude)
    monitor.checks = [Check(10 * i, *values) for i, values in enumerate(checks)]
    return monitor.reason_to_stop()


def test_a_plateau_stops():
    rule = StopRule(diversity=0, patience=2, least=0.01, length=0)
    rising = [(0.1 * i, 0.1, 1.0) for i in range(8)]
    assert reason_with(rule, rising) is None
    assert reason_with(rule, [*rising[:3], (0.205, 0, 1)]) is None  # one check only
    assert "no progress" in reason_with(rule, [*rising[:3], (0.205, 0, 1), (0.208, 0, 1)])
    assert reason_with(rule, [*rising[:3], (0.205, 0, 1), (0.22, 0, 1)]) is None
    assert reason_with(rule, [(0.0, 0, 1), (0.0, 0, 1)]) is None  # too few checks
    never = dataclasses.replace(rule, patience=0)
    assert reason_with(never, [(0.2, 0, 1)] * 20) is None


def test_a_lack_of_diversity_stops():
    rule = StopRule(diversity=0.5, patience=0, length=0)
    assert reason_with(rule, [(0.1, 0, 1.0), (0.2, 0, 0.51)]) is None
    assert "alike (diversity 0.49, minimum 0.5)" in reason_with(rule, [(0.1, 0, 1), (0.2, 0, 0.49)])
    assert reason_with(dataclasses.replace(rule, diversity=0), [(0.1, 0, 0.0)]) is None


def test_the_desired_length_stops():
    rule = StopRule(diversity=0, patience=0, length=0.9)
    assert reason_with(rule, [(0.1, 0.44, 1)], magnitude=0.5) is None
    assert "desired length" in reason_with(rule, [(0.1, 0.46, 1)], magnitude=0.5)
    assert reason_with(rule, [(0.1, 5.0, 1)], magnitude=None) is None


def test_checks_by_hand():
    before, after = (torch.rand([3, 3, 8, 8]) * 2 - 1 for _ in range(2))
    encoder, target = Colour(), text_target(Colour(), "grey", "red", ["{}"])
    monitor = StopMonitor(encoder, [target], before, StopRule(), None)
    check = monitor.measure(7, after)
    old, new = (encoder.encode_images(images).double().numpy() for images in (before, after))
    moved, direction = new - old, target.direction.double().numpy()
    along = moved @ direction

    def spread(rows):
        return np.mean([np.linalg.norm(rows[i] - rows[j]) for i, j in ((0, 1), (0, 2), (1, 2))])

    assert check.index == 7
    assert check.agreement == pytest.approx(np.mean(along / np.linalg.norm(moved, axis=1)), 1e-4)
    assert check.length == pytest.approx(np.mean(along) / target.text_norm, 1e-4)
    assert check.diversity == pytest.approx(spread(new) / spread(old), 1e-4)


def test_unusable_weights_are_refused():
    with pytest.raises(ValueError, match="patch: got -1, expected at least 0"):
        Weights(patch=-1)
    with pytest.raises(ValueError, match="all other weights"):
        only()
