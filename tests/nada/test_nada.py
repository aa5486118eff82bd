"""Adaptation by text: which weights change, the steps, resuming, invalid input."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import repository
import torch
from nada_doubles import Colour, only

import nada
import sg3
from guidance.encoders import load_encoder
from nada import StopRule, ViewConfig
from nada.config import MINI, PUBLISHED, usual_config
from nada.layer_choice import LayerChoice
from nada.layers import chosen_units
from nada.state import arguments_of, read_state, resume, write_state
from nada.stop_rule import Check
from sg3.networks import build_network
from sg3.networks.layer_units import units_of

GOLDEN = repository.GOLDEN


QUICK = {
    "steps": 3, "batch": 2, "lr": 0.01, "layers": "paper", "ema": 0.9, "templates": ("{}",),
    "weights": only(directional=1), "views": ViewConfig(views=1), "stop": None,
    "check_every": 2, "check_batch": 2, "warmup": 0, "decay": 0.0, "coarse_lr": 1.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def usual():
    """A StyleGAN3 with the usual 14 layers."""
    return sg3.load(GOLDEN / "official-sg3t-32.pkl").G_ema


SMALL = {
    "z_dim": 8, "c_dim": 0, "w_dim": 8, "img_resolution": 16, "img_channels": 3,
    "channel_base": 128, "channel_max": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_network("stylegan3", {**SMALL, "num_layers": 6, "margin_size": 4}).eval()


@pytest.fixture(scope="module")
def stylegan2():
    torch.manual_seed(0)
    return build_network("stylegan2", SMALL).eval()


def start(network, **settings):
    return nada.adapt(network, "grey", "red", Colour(), **QUICK | settings)


def finish(adaptation):
    return list(adaptation), adaptation


# --- what changes -----------------------------------------------------------------------------


def changed(G, other) -> set[str]:
    """Names of parameters and buffers that are not the same bit for bit."""
    pairs = zip(G.state_dict().items(), other.state_dict().values(), strict=True)
    return {name for (name, a), b in pairs if not torch.equal(a, b)}


def tensors_of(G, names) -> set[str]:
    return {tensor for unit in units_of(G) if unit.name in names for tensor in unit.tensors}


#: REFERENCE.md §8.6: of the usual 14 layers L10 and L12 stay, with the mapping and every affine.
ALL_USUAL = ["input", *(f"L{i}" for i in range(14)), "torgb"]
PAPER_USUAL = [name for name in ALL_USUAL if name not in ("L10", "L12")]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("paper", PAPER_USUAL),
        ("coarse", ALL_USUAL[:6]),
        ("shape", ALL_USUAL[:12]),
        ("texture", ALL_USUAL[6:]),
        ("all", ALL_USUAL),
    ],
)
def test_phases_of_the_usual_layers(usual, layers, expected):
    assert [unit.name for unit in chosen_units(usual, layers)] == expected


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("paper", ["input", "L0", "L1", "L3", "L5", "torgb"]),
        ("coarse", ["input", "L0", "L1"]),
        ("L1,L4-L5", ["L1", "L4", "L5"]),
        ("all", ["input", *(f"L{i}" for i in range(6)), "torgb"]),
    ],
)
def test_frozen_tensors_of_stylegan3_do_not_change_by_one_bit(network, layers, expected):
    before = copy.deepcopy(network)
    steps, adaptation = finish(start(network, layers=layers, steps=2))
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
def test_only_the_selected_layers_change_when_they_are_selected_adaptively(which, request):
    G = request.getfixturevalue(which)
    settings = {"layers": "auto", "auto_k": 2, "auto_every": 2, "auto_batch": 2}
    steps, adaptation = finish(start(G, steps=4, **settings))
    chosen = [step.layers for step in steps[1:]]
    assert all(len(layers) == 2 for layers in chosen)
    assert chosen[0] == chosen[1] and chosen[2] == chosen[3]  # selected every second step
    names = tensors_of(G, {name for layers in chosen for name in layers})
    assert changed(adaptation.G, G) == changed(adaptation.G_ema, G) == names
    assert "torgb" not in str(chosen)


def test_stages_follow_each_other(network):
    steps, adaptation = finish(start(network, layers="L0:0.5 then input", steps=4))
    assert [step.layers for step in steps[1:]] == [("L0",)] * 2 + [("input",)] * 2
    assert changed(adaptation.G_ema, network) == tensors_of(network, ["L0", "input"])
    half = start(network, layers="L0:0.5 then input", steps=4)
    for _ in range(3):
        next(half)
    assert changed(half.G, network) == tensors_of(network, ["L0"])


class Linear:
    """Stands for a generator whose image is a weighted sum of the rows of ws."""

    def __init__(self, weights):
        self.weights = torch.tensor(weights)

    def synthesis(self, ws, **options):
        return (ws * self.weights[:, None]).sum(dim=1)


def test_the_layers_that_move_most_are_chosen(usual):
    config = nada.AdaptConfig(**QUICK | {"layers": "auto", "auto_k": 3, "auto_every": 5})
    choice = LayerChoice(usual, config)
    weights = [0.0] * usual.num_ws
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
    old = network.state_dict()
    critical = tensors_of(network, [unit.name for unit in units_of(network) if unit.critical])
    moved = changed(adaptation.G, network)
    assert moved and not moved & critical
    for G in (adaptation.G, adaptation.G_ema):
        for name in moved:
            change = G.state_dict()[name] - old[name]
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


# --- steps ------------------------------------------------------------------------------------


def test_a_text_pulls_the_weights(network):
    steps, adaptation = finish(start(network, steps=12, lr=0.02))
    assert [step.index for step in steps] == list(range(13))
    assert all(step.num_steps == 12 for step in steps)
    assert np.isnan(steps[0].loss) and steps[12].loss < steps[1].loss
    assert steps[12].reason == "all steps done" and steps[11].reason is None
    checked = [step.index for step in steps if step.check is not None]
    assert checked == [0, 2, 4, 6, 8, 10, 12]
    assert steps[0].check == Check(0, 0.0, 0.0, pytest.approx(1.0))
    assert steps[12].check.agreement > 0.3 and steps[12].check.length > 0.01
    redness = [
        float((images[:, 0] - images[:, 1:].mean(dim=1)).mean())
        for images in (adaptation.render(adaptation.source), steps[12].image)
    ]
    assert redness[1] > redness[0] + 0.01
    with pytest.raises(StopIteration):
        next(adaptation)


def test_progress_bar_and_display(network, capsys):
    adaptation = start(network, steps=2, progress=True)
    first, *others = adaptation
    assert [step.index for step in others] == [1, 2]
    assert "3/3" in capsys.readouterr().err
    assert first.pil().size == (2 * 16, 16) and others[1]._repr_png_().startswith(b"\x89PNG")
    assert list(adaptation) == []


def test_the_package_lists_what_it_has():
    assert {"adapt", "Adaptation", "AdaptConfig", "load_delta"} <= set(dir(nada))
    assert all(getattr(nada, name) for name in nada.__all__)
    with pytest.raises(AttributeError, match="adopt"):
        nada.adopt  # noqa: B018


@pytest.mark.slow
def test_images_as_the_target(network):
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


def test_the_rule_ends_an_adaptation(network):
    rule = StopRule(diversity=10.0, patience=0, length=0)
    steps, adaptation = finish(start(network, steps=9, stop=rule))
    assert steps[-1].index == 2 and "alike" in steps[-1].reason == adaptation.reason


# --- resuming ---------------------------------------------------------------------------------

AUTO = {"layers": "auto", "auto_k": 3, "auto_every": 4, "auto_batch": 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "settings"),
    [
        ("network", {"layers": "equivariant", "warmup": 4}),
        ("network", AUTO),
        ("network", {"layers": "coarse:0.4 then auto", "auto_batch": 2, "decay": 0.5}),
        ("stylegan2", {"weights": only(directional=1, patch=0.1)}),
    ],
)
def test_resume_equals_uninterrupted(which, settings, request, tmp_path):
    network = request.getfixturevalue(which)
    whole = start(network, steps=5, **settings)
    expected = [step.loss for step in whole]
    scheduled = "decay" in settings  # then the number of steps may not change
    half = start(network, steps=5 if scheduled else 3, **settings)
    for _ in range(4):
        step = next(half)
    # Step 3 is checked only if it is the last.
    assert step.index == 3 and (step.check is None) == scheduled
    write_state(tmp_path / "s.safetensors", half, arguments_of(half))
    rest = start(network, steps=5, **settings)
    torch.manual_seed(1)
    resume(rest, read_state(tmp_path / "s.safetensors"), arguments_of(rest))
    assert [step.loss for step in rest] == expected[4:]
    for name in ("G", "G_ema"):
        assert not changed(getattr(rest, name), getattr(whole, name))
    assert rest.monitor.checks == whole.monitor.checks


def test_a_resume_with_other_arguments_is_refused(network, tmp_path):
    path = tmp_path / "s.safetensors"
    half = start(network, steps=2)
    list(half)
    write_state(path, half, arguments_of(half, network="abc"))

    def attempt(also="abc", **settings):
        other = start(network, **{"steps": 4, **settings})
        resume(other, read_state(path), arguments_of(other, network=also))
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
    for scheduled in ({"decay": 0.5}, {"layers": "L0:0.5 then L1"}):
        other = start(network, steps=2, **scheduled)
        next(other)
        write_state(path, other, arguments_of(other))
        longer = start(network, steps=4, **scheduled)
        with pytest.raises(ValueError, match=r"steps: got 4 \(was 2\)"):
            resume(longer, read_state(path), arguments_of(longer))
    with pytest.raises(ValueError, match="layers"):
        half.load_state_dict(start(network, layers="all").state_dict())


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"layers": "L3,L77"},
            "layers: no layer 'L77'; layers are input, L0 … L5, torgb; or paper, coarse",
        ),
        ({"layers": ""}, "layers"),
        ({"layers": "L5-L3"}, "layers"),
        ({"layers": "L0:1.5 then L1"}, "layers"),
        ({"templates": "imagnet"}, "templates: got 'imagnet', expected imagenet"),
        ({"templates": ("no place",)}, "templates"),
        ({"weights": only(magnitude=1)}, "magnitude"),
        ({"magnitude": 0.0}, "magnitude"),
        ({"steps": -1}, "steps"),
        ({"batch": 0}, "batch"),
        ({"check_batch": 1}, "check_batch"),
        ({"lr": float("nan")}, "lr"),
        ({"ema": 1.0}, "ema"),
        ({"stepps": 1}, "stepps: unknown setting of AdaptConfig; did you mean 'steps'"),
        ({"class_index": 1}, "class"),
    ],
)
def test_unusable_settings_are_refused_before_the_first_step(network, settings, message):
    with pytest.raises(ValueError) as caught:
        start(network, **settings)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "target", "images", "message"),
    [
        ("", "red", None, "source"),
        ("grey", "  ", None, "target"),
        ("grey", None, None, "target"),
        (None, "red", torch.zeros([1, 3, 8, 8]), "a text and images"),
        (None, None, torch.zeros([3, 8, 8]), "target_images: got shape"),
        (None, None, torch.zeros([0, 3, 8, 8]), "target_images"),
        ("red", "red", None, "no difference between 'red' and 'red'"),
    ],
)
def test_unusable_goals_are_refused(network, source, target, images, message):
    with pytest.raises(ValueError) as caught:
        nada.adapt(network, source, target, Colour(), target_images=images, **QUICK)
    assert message in str(caught.value)


def test_settings_come_from_the_encoder():
    assert usual_config("mini") == usual_config("mini-a,mini-b:2") == MINI
    assert usual_config(load_encoder("mini")) == MINI
    assert usual_config("ViT-B-32/openai") == usual_config("mini,ViT-B-32/openai") == PUBLISHED
    assert (PUBLISHED.lr, PUBLISHED.truncation, PUBLISHED.layers) == (0.002, 0.7, "paper")
    assert PUBLISHED.weights == nada.Weights(directional=1)
