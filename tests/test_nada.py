"""Adaptation by text: the loss by hand, what changes and what does not, when it stops, resume."""

from __future__ import annotations

import copy
import dataclasses
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import nada
import sg3
from guidance.encoders import EnsembleEncoder
from nada import StopRule, ViewConfig, Weights, losses
from nada.choice import LayerChoice
from nada.directions import Target, image_target, text_target
from nada.objective import Objective
from nada.state import arguments_of, go_on, read_state, write_state
from nada.templates import PARTS, TEMPLATES, filled, templates_of
from nada.watch import Check, Watch
from sg3.networks import build_network
from sg3.networks.layer_units import units_of

GOLDEN = Path(__file__).parent / "golden"


def only(**weights) -> Weights:
    """These terms and no others, whatever the defaults are."""
    return Weights(**{field.name: 0.0 for field in dataclasses.fields(Weights)} | weights)


QUICK = {
    "steps": 3, "batch": 2, "lr": 0.01, "layers": "paper", "ema": 0.9, "templates": ("{}",),
    "weights": only(directional=1), "views": ViewConfig(views=1), "stop": None,
    "check_every": 2, "check_batch": 2, "warmup": 0, "decay": 0.0, "coarse_lr": 1.0,
}  # fmt: skip


class Colour:
    """Mean colour as the embedding; a text's last word names a colour."""

    name, input_size_px, embed_dim = "colour", 32, 4
    mean = std = (0.5, 0.5, 0.5)

    def encode_images(self, img):
        means = img.mean(dim=(2, 3))
        return F.normalize(torch.cat([means, torch.full_like(means[:, :1], 0.5)], dim=1), dim=1)

    def encode_texts(self, texts):
        words = [text.rstrip(".").split()[-1] for text in texts]
        table = {"red": [1.0, -1, -1, 0], "blue": [-1.0, -1, 1, 0], "grey": [0, 0, 0, 1.0]}
        return F.normalize(torch.tensor([table[word] for word in words]), dim=1)


class Hash:
    """Unit vectors that look random but follow from the input."""

    name, input_size_px, embed_dim = "hash", 16, 5
    mean = std = (0.5, 0.5, 0.5)

    def __init__(self, seed: int = 0):
        self.seed = seed
        self.matrix = torch.randn([48, 5], generator=torch.Generator().manual_seed(seed))

    def encode_images(self, img):
        pooled = F.adaptive_avg_pool2d(img, 4).flatten(1)
        return F.normalize(pooled @ self.matrix, dim=1)

    def encode_texts(self, texts):
        seeds = [zlib.crc32(text.encode()) + self.seed for text in texts]
        rows = [torch.randn([5], generator=torch.Generator().manual_seed(s)) for s in seeds]
        return F.normalize(torch.stack(rows), dim=1)


@pytest.fixture(scope="module")
def network():
    return sg3.load(GOLDEN / "official-sg3t-32.pkl").G_ema


@pytest.fixture(scope="module")
def stylegan2():
    torch.manual_seed(0)
    size = {"img_resolution": 16, "img_channels": 3, "channel_base": 128, "channel_max": 8}
    return build_network("stylegan2", {"z_dim": 8, "c_dim": 0, "w_dim": 8, **size}).eval()


def start(network, **settings):
    return nada.adapt(network, "grey", "red", Colour(), **QUICK | settings)


def finish(adaptation):
    return list(adaptation), adaptation


def unit(rows: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn([rows, 5], generator=torch.Generator().manual_seed(seed)), dim=1)


def some_target() -> Target:
    source, target = unit(2, 7)
    parts = unit(3, 8)
    return Target(F.normalize(target - source, dim=0), 0.7, source, target, unit(3, 9), parts)


# --- the loss by hand -------------------------------------------------------------------------


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


def test_picture_directions_are_differences_of_means():
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
    return Objective(encoder, targets, [0.5] * len(targets), weights, ViewConfig(**views))


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


def test_both_pictures_are_seen_through_the_same_views():
    """Without a change there is nothing to see, wherever one looks."""
    images = torch.rand([2, 3, 40, 40]) * 2 - 1
    weights = only(texture=1)
    objective = objective_of(Hash(), weights, views=2, cutouts=3, augment="strong")
    loss, _ = objective(images, images.clone(), torch.Generator().manual_seed(0))
    assert float(loss) < 1e-12
    moved, _ = objective(images, images.flip(3), torch.Generator().manual_seed(0))
    assert float(moved) > 1e-4


# --- templates --------------------------------------------------------------------------------


def test_templates():
    imagenet = templates_of("imagenet")
    assert len(imagenet) == len(set(imagenet)) == 79
    assert {"a bad photo of a {}.", "itap of the {}.", "a photo of my {}."} <= set(imagenet)
    assert all(s.count("{}") == 1 for name in TEMPLATES for s in templates_of(name))
    assert filled(["a {}", "{}!"], "cat") == ["a cat", "cat!"]
    assert templates_of(["x {}"]) == ("x {}",)


# --- what changes -----------------------------------------------------------------------------


def changed(G, other) -> set[str]:
    """Names of parameters and buffers that are not the same bit for bit."""
    pairs = zip(G.state_dict().items(), other.state_dict().values(), strict=True)
    return {name for (name, a), b in pairs if not torch.equal(a, b)}


def tensors_of(G, names) -> set[str]:
    return {tensor for unit in units_of(G) if unit.name in names for tensor in unit.tensors}


ALL_SG3 = ["input", *(f"L{i}" for i in range(14)), "torgb"]
#: FACTS 8.6: of the usual 14 layers L10 and L12 stay, with the mapping and every affine.
PAPER_SG3 = [name for name in ALL_SG3 if name not in ("L10", "L12")]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("paper", PAPER_SG3),
        ("coarse", ALL_SG3[:6]),
        ("shape", ALL_SG3[:12]),
        ("texture", ALL_SG3[6:]),
        ("all", ALL_SG3),
        ("L3,L11-L12", ["L3", "L11", "L12"]),
    ],
)
def test_frozen_tensors_of_stylegan3_do_not_change_by_one_bit(network, layers, expected):
    before = copy.deepcopy(network)
    steps, adaptation = finish(start(network, layers=layers, steps=1))
    assert steps[1].layers == tuple(expected)
    assert changed(adaptation.G, before) == tensors_of(network, expected)
    assert changed(adaptation.G_ema, before) == tensors_of(network, expected)
    assert not changed(adaptation.source, before) and not changed(network, before)


CONV_SG2 = ["b4.const", "b4.conv1", "b8.conv0", "b8.conv1", "b16.conv0", "b16.conv1"]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("paper", [*CONV_SG2, "b4.torgb"]),
        ("b8.conv0,b16.torgb", ["b8.conv0", "b16.torgb"]),
        ("coarse", ["b4.const", "b4.conv1", "b4.torgb"]),
    ],
)
def test_frozen_tensors_of_stylegan2_do_not_change_by_one_bit(stylegan2, layers, expected):
    before = copy.deepcopy(stylegan2)
    _, adaptation = finish(start(stylegan2, layers=layers, steps=2))
    names = tensors_of(stylegan2, expected)
    assert changed(adaptation.G, before) == changed(adaptation.G_ema, before) == names
    assert not changed(adaptation.source, before) and not changed(stylegan2, before)


@pytest.mark.parametrize("which", ["network", "stylegan2"])
def test_of_adaptive_layers_only_the_chosen_change(which, request):
    G = request.getfixturevalue(which)
    settings = {"layers": "auto", "auto_k": 2, "auto_every": 2, "auto_batch": 2}
    steps, adaptation = finish(start(G, steps=4, **settings))
    chosen = [step.layers for step in steps[1:]]
    assert all(len(layers) == 2 for layers in chosen)
    assert chosen[0] == chosen[1] and chosen[2] == chosen[3]  # chosen anew every second step
    assert changed(adaptation.G, G) == tensors_of(G, {name for layers in chosen for name in layers})
    assert "torgb" not in str(chosen)


class Linear:
    """Stands for a generator whose picture is a weighted sum of the rows of ws."""

    def __init__(self, weights):
        self.weights = torch.tensor(weights)

    def synthesis(self, ws, **options):
        return (ws * self.weights[:, None]).sum(dim=1)


def test_the_layers_that_move_most_are_chosen(network):
    config = nada.AdaptConfig(**QUICK | {"layers": "auto", "auto_k": 3, "auto_every": 5})
    choice = LayerChoice(network, config)
    weights = [0.0] * network.num_ws
    weights[2], weights[4], weights[9], weights[15] = 1.0, -3.0, 2.0, 9.0
    choice.G, drawn = Linear(weights), []

    def at(index):
        units = choice.at(
            index, lambda n: torch.randn([n, 16]), lambda z: z[:, None].repeat(1, 16, 1), loss
        )
        return [unit.name for unit in units]

    def loss(images):
        drawn.append(len(images))
        return images.square().sum()

    # Row i + 1 feeds layer i, row 0 the input; ToRGB (row 15) is never chosen by movement.
    assert at(1) == ["L1", "L3", "L8"]
    assert at(5) == ["L1", "L3", "L8"] and len(drawn) == 1
    choice.G = Linear(weights[::-1])
    assert at(6) == ["input", "L5", "L10"] and len(drawn) == 2


def test_the_equivariant_option_adds_no_highest_frequency(network):
    _, adaptation = finish(start(network, layers="equivariant", steps=3))
    old = dict(network.named_parameters())
    critical = tensors_of(network, [unit.name for unit in units_of(network) if unit.critical])
    moved = changed(adaptation.G, network)
    assert moved and not moved & critical
    for G in (adaptation.G, adaptation.G_ema):
        for name in moved:
            change = (dict(G.named_parameters())[name] - old[name]).detach()
            if change.ndim < 4 or change.shape[-1] == 1:
                continue
            alternating = torch.tensor([1.0, -1.0, 1.0])
            answer = [(change @ alternating), (change.transpose(2, 3) @ alternating)]
            assert max(float(a.abs().max()) for a in answer) < 1e-5 * float(old[name].abs().max())
            assert change.abs().max() > 1e-4


def test_the_average_follows_the_weights(network):
    adaptation = start(network, steps=1, ema=0.98)
    list(adaptation)
    name = "synthesis.input.weight"
    old, new, average = (
        dict(G.named_parameters())[name] for G in (network, adaptation.G, adaptation.G_ema)
    )
    torch.testing.assert_close(average, old + (new - old) * (1 - 2 / 11))


# --- the way ----------------------------------------------------------------------------------


def test_a_text_pulls_the_weights(network):
    steps, adaptation = finish(start(network, steps=12, lr=0.02))
    assert [step.index for step in steps] == list(range(13))
    assert all(step.num_steps == 12 for step in steps)
    assert np.isnan(steps[0].loss) and steps[12].loss < steps[1].loss
    assert steps[12].reason == "all steps done" and steps[11].reason is None
    looked = [step.index for step in steps if step.check is not None]
    assert looked == [0, 2, 4, 6, 8, 10, 12]
    assert steps[0].check == Check(0, 0.0, 0.0, pytest.approx(1.0))
    assert steps[12].check.agreement > 0.3 and steps[12].check.length > 0.01
    redness = [
        float((images[:, 0] - images[:, 1:].mean(dim=1)).mean())
        for images in (adaptation.pictures(adaptation.source), steps[12].images)
    ]
    assert redness[1] > redness[0] + 0.01
    with pytest.raises(StopIteration):
        next(adaptation)


def test_pictures_as_the_target(network):
    red = torch.tensor([1.0, -1, -1])[None, :, None, None].expand(2, 3, 20, 20)
    settings = QUICK | {"steps": 6, "lr": 0.02}
    adaptation = nada.adapt(network, clip=Colour(), target_images=red, **settings)
    steps = list(adaptation)
    assert steps[-1].check.agreement > 0.3 and steps[-1].loss < steps[1].loss
    with pytest.raises(ValueError, match="patch"):
        nada.adapt(
            network, clip=Colour(), target_images=red, **settings | {"weights": only(patch=1)}
        )


@pytest.mark.parametrize("term", ["global_text", "patch", "texture", "manifold", "magnitude"])
def test_every_term_can_be_trained_with(network, term):
    weights = only(directional=1, **{term: 0.5})
    steps, _ = finish(start(network, steps=2, weights=weights, magnitude=0.5))
    assert steps[-1].losses.keys() == {"directional", term}
    assert all(np.isfinite(step.loss) for step in steps[1:])


def test_the_same_seed_gives_the_same_result_and_another_seed_another(network):
    ends = []
    for seed in (5, 5, 6):
        torch.manual_seed(len(ends))
        ends.append(finish(start(network, steps=1, seed=seed))[1].G_ema)
    assert not changed(ends[0], ends[1]) and changed(ends[0], ends[2])


# --- going on ---------------------------------------------------------------------------------

AUTO = {"layers": "auto", "auto_k": 3, "auto_every": 3, "auto_batch": 2}


@pytest.mark.parametrize("settings", [{}, AUTO, {"layers": "equivariant", "warmup": 4}])
def test_resume_equals_uninterrupted(network, tmp_path, settings):
    whole = start(network, steps=5, **settings)
    expected = [step.loss for step in whole]
    half = start(network, steps=3, **settings)  # 3 is looked at only because it is the last
    list(half)
    write_state(tmp_path / "s.safetensors", half, arguments_of(half))
    rest = start(network, steps=5, **settings)
    torch.manual_seed(1)
    go_on(rest, read_state(tmp_path / "s.safetensors"), arguments_of(rest))
    assert [step.loss for step in rest] == expected[4:]
    for name in ("G", "G_ema"):
        assert not changed(getattr(rest, name), getattr(whole, name))
    assert rest.watch.checks == whole.watch.checks


def test_what_would_not_go_on_is_refused(network, tmp_path):
    path = tmp_path / "s.safetensors"
    half = start(network, steps=2)
    list(half)
    write_state(path, half, arguments_of(half, network="abc"))

    def attempt(also="abc", **settings):
        other = start(network, **{"steps": 4, **settings})
        go_on(other, read_state(path), arguments_of(other, network=also))
        return other

    assert attempt().index == 2
    assert attempt(stop=StopRule(), steps=9).reason is None
    assert attempt(steps=2).reason == "all steps done"
    with pytest.raises(ValueError, match=r"lr 0\.5 \(was 0\.01\)") as caught:
        attempt(lr=0.5, batch=3)
    assert "batch 3" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="network"):
        attempt("abd")
    with pytest.raises(ValueError, match=r"views\.views"):
        attempt(views=ViewConfig(views=0))
    with pytest.raises(ValueError, match="steps"):
        attempt(steps=1)
    with pytest.raises(ValueError, match="layers"):
        half.load_state_dict(start(network, layers="all").state_dict())


# --- when to stop -----------------------------------------------------------------------------


def watch_with(rule, checks, wanted=None):
    target = text_target(Colour(), "grey", "red", ["{}"])
    watch = Watch(Colour(), [target], torch.rand([3, 3, 8, 8]), rule, wanted)
    watch.checks = [Check(10 * i, *values) for i, values in enumerate(checks)]
    return watch.reason_to_stop()


def test_a_plateau_stops():
    rule = StopRule(diversity=0, patience=2, least=0.01, length=0)
    rising = [(0.1 * i, 0.1, 1.0) for i in range(8)]
    assert watch_with(rule, rising) is None
    assert watch_with(rule, [*rising[:3], (0.205, 0, 1)]) is None  # one check only
    assert "no closer" in watch_with(rule, [*rising[:3], (0.205, 0, 1), (0.208, 0, 1)])
    assert watch_with(rule, [*rising[:3], (0.205, 0, 1), (0.22, 0, 1)]) is None
    assert watch_with(rule, [(0.0, 0, 1), (0.0, 0, 1)]) is None  # too early to tell
    never = dataclasses.replace(rule, patience=0)
    assert watch_with(never, [(0.2, 0, 1)] * 20) is None


def test_a_lack_of_diversity_stops():
    rule = StopRule(diversity=0.5, patience=0, length=0)
    assert watch_with(rule, [(0.1, 0, 1.0), (0.2, 0, 0.51)]) is None
    assert "alike (diversity 0.49, floor 0.5)" in watch_with(rule, [(0.1, 0, 1), (0.2, 0, 0.49)])
    assert watch_with(dataclasses.replace(rule, diversity=0), [(0.1, 0, 0.0)]) is None


def test_the_wanted_length_stops():
    rule = StopRule(diversity=0, patience=0, length=0.9)
    assert watch_with(rule, [(0.1, 0.44, 1)], wanted=0.5) is None
    assert "as long as wanted" in watch_with(rule, [(0.1, 0.46, 1)], wanted=0.5)
    assert watch_with(rule, [(0.1, 5.0, 1)], wanted=None) is None


def test_the_rule_ends_an_adaptation(network):
    rule = StopRule(diversity=10.0, patience=0, length=0)
    steps, adaptation = finish(start(network, steps=9, stop=rule))
    assert steps[-1].index == 2 and "alike" in steps[-1].reason == adaptation.reason


def test_checks_by_hand():
    before, after = (torch.rand([3, 3, 8, 8]) * 2 - 1 for _ in range(2))
    encoder, target = Colour(), text_target(Colour(), "grey", "red", ["{}"])
    watch = Watch(encoder, [target], before, StopRule(), None)
    check = watch.measure(7, after)
    old, new = (encoder.encode_images(images).double().numpy() for images in (before, after))
    moved, direction = new - old, target.direction.double().numpy()
    along = moved @ direction

    def spread(rows):
        return np.mean([np.linalg.norm(rows[i] - rows[j]) for i, j in ((0, 1), (0, 2), (1, 2))])

    assert check.index == 7
    assert check.agreement == pytest.approx(np.mean(along / np.linalg.norm(moved, axis=1)), 1e-4)
    assert check.length == pytest.approx(np.mean(along) / target.text_norm, 1e-4)
    assert check.diversity == pytest.approx(spread(new) / spread(old), 1e-4)


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": "L3,L77"}, "layers: got 'L77', expected paper, coarse"),
        ({"layers": ""}, "layers"),
        ({"layers": "L5-L3"}, "layers"),
        ({"templates": "imagnet"}, "templates: got 'imagnet', expected imagenet"),
        ({"templates": ("no place",)}, "templates"),
        ({"weights": only(magnitude=1)}, "magnitude"),
        ({"magnitude": 0.0}, "magnitude"),
        ({"steps": -1}, "steps"),
        ({"batch": 0}, "batch"),
        ({"check_batch": 1}, "check_batch"),
        ({"lr": float("nan")}, "lr"),
        ({"ema": 1.0}, "ema"),
        ({"class_index": 1}, "class"),
    ],
)
def test_unusable_settings_are_refused_before_the_first_step(network, settings, message):
    with pytest.raises(ValueError) as caught:
        start(network, **settings)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_unusable_weights_are_refused():
    with pytest.raises(ValueError, match="patch: got the weight -1"):
        Weights(patch=-1)
    with pytest.raises(ValueError, match="only zeros"):
        only()


@pytest.mark.parametrize(
    ("source", "target", "pictures", "message"),
    [
        ("", "red", None, "source"),
        ("grey", "  ", None, "target"),
        ("grey", None, None, "target"),
        (None, "red", torch.zeros([1, 3, 8, 8]), "a text and pictures"),
        (None, None, torch.zeros([3, 8, 8]), "target_images: got shape"),
        (None, None, torch.zeros([0, 3, 8, 8]), "target_images"),
        ("red", "red", None, "no difference between 'red' and 'red'"),
    ],
)
def test_unusable_goals_are_refused(network, source, target, pictures, message):
    with pytest.raises(ValueError) as caught:
        nada.adapt(network, source, target, Colour(), target_images=pictures, **QUICK)
    assert message in str(caught.value)
