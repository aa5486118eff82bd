"""Steering: spaces, the transform, layers, regions, keep-terms, early stopping, resuming."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from steer_doubles import GOLDEN, QUICK, Colour, last, redness

import guidance
import sg3
from guidance import SteerConfig
from guidance.latents import MOVE, latent_statistics, map_latents, seed_latents
from guidance.learning_rate import learning_rate
from guidance.masks import load_region
from guidance.prompts import Prompt, image_prompt, parse_image, parse_prompts
from guidance.render import EditedLatent
from guidance.steering.objective import SteeringObjective, text_embeddings
from guidance.steering.spaces import Movable
from guidance.steering.stall import Stall
from guidance.steering.steer import steer_batch
from guidance.style_space import style_layers, styles_of
from sg3.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
SG3, SG2 = "official-sg3t-32.pkl", "official-sg2-32.pkl"


@pytest.fixture(scope="module")
def network():
    return sg3.load(GOLDEN / SG3).G_ema


@pytest.fixture(scope="module")
def stylegan2():
    return sg3.load(GOLDEN / SG2).G_ema


@pytest.fixture(params=[SG3, SG2, "official-sg3r-32.pkl"], scope="module")
def any_network(request):
    return sg3.load(GOLDEN / request.param).G_ema


@pytest.mark.slow
@pytest.mark.parametrize("space", ["w", "w+", "s"])
def test_every_network_is_steered_in_every_space(any_network, space):
    steps = list(guidance.steer(any_network, "red", Colour(), space=space, start="seed", **QUICK))
    assert steps[-1].losses["distance"] < steps[0].losses["distance"]
    rows, first = steps[-1].ws[0], steps[0].ws[0]
    assert torch.allclose(rows, rows[:1].expand_as(rows), atol=1e-5) == (space != "w+")
    moved = bool((rows - first).abs().max() > 1e-3)
    assert moved == (space != "s")
    names = {layer.name for layer in style_layers(any_network) if not layer.to_rgb}
    assert set(steps[-1].latent.styles) == (names - {"input"} if space == "s" else set())


def test_styles_are_whitened_by_how_w_varies_them(network):
    ws = map_latents(network, seed_latents(3, 2000, network.z_dim))
    movable = Movable(network, EditedLatent(ws), SteerConfig(space="s", steps=0))
    places = movable.start["styles"]
    assert places.mean(dim=0).abs().max() < 0.15
    assert (places.std(dim=0) - 1).abs().max() < 0.15
    decoded = movable.decode(movable.start)
    assert all(style.abs().max() < 1e-6 for style in decoded.styles.values())
    shifted = movable.decode({"styles": places + 1})
    layer = next(layer for layer in style_layers(network) if layer.name in shifted.styles)
    real = styles_of(network, ws)[layer.name].std(dim=0)
    torch.testing.assert_close(shifted.styles[layer.name][0], real, rtol=0.15, atol=1e-4)
    far = {"styles": torch.full_like(places, 3.0)}
    movable.bound_(far, 1.5)
    torch.testing.assert_close(movable.sigma(far), torch.full([2000], 1.5))


@pytest.mark.slow
@pytest.mark.parametrize("space", ["w", "w+", "s"])
def test_locked_layers_do_not_move(network, space):
    steps = guidance.steer(
        network, "red", Colour(), space=space, layers="2-3", start="seed", **QUICK
    )
    steps = list(steps)
    change = (steps[-1].ws - steps[0].ws)[0].abs().amax(dim=1)
    names = {layer.name for layer in style_layers(network) if layer.ws_row in (2, 3)}
    if space == "s":
        assert set(steps[-1].latent.styles) == names
    else:
        assert (change[2:4] > 1e-3).all()
        assert change[:2].max() == 0 and change[4:].max() == 0
        # In w the rows that move share what they moved by.
        together = torch.allclose(*(steps[-1].ws - steps[0].ws)[0, 2:4], atol=1e-5)
        assert together == (space == "w")


def test_the_transform_moves_by_its_unit_and_is_held(network):
    ws = map_latents(network, seed_latents(0, 1, network.z_dim))
    free = Movable(network, EditedLatent(ws), SteerConfig(transform="free"))
    with torch.no_grad():
        before = network.synthesis.input.transforms(ws[:, 0])[0]
        by = {**free.start, "transform": torch.tensor([[0.0, 0, 2, 0]])}
        styles = network.synthesis.input.affine(ws[:, 0]) + free.decode(by).styles["input"]
        t = styles / styles[:, :2].norm(dim=1, keepdim=True)
    angle = torch.atan2(t[0, 1], t[0, 0])
    cos, sin = angle.cos(), angle.sin()
    moved = (-cos * t[0, 2] + sin * t[0, 3]) - before[0, 2]
    assert abs(float(moved)) == pytest.approx(2 * MOVE * abs(float(cos)), rel=1e-3)

    held = Movable(network, EditedLatent(ws), SteerConfig(transform="held"))
    there = {"latent": held.start["latent"] + 1}
    with torch.no_grad():
        latent = held.decode(there)
        assert (latent.ws - ws).abs().max() > 0.1
        shown = network.synthesis.input.affine(latent.ws[:, 0]) + latent.styles["input"]
        torch.testing.assert_close(shown, network.synthesis.input.affine(ws[:, 0]))


def test_a_free_transform_brings_what_the_text_wants_into_view(network):
    options = {**QUICK, "space": "s", "layers": "L1", "start": "seed", "steps": 6}
    step = last(guidance.steer(network, "blue", Colour(), transform="free", **options))
    assert step.latent.styles["input"].abs().max() > 1e-4
    folded = step.latent.folded(network)
    assert not folded.styles
    torch.testing.assert_close(folded.render(network), step.image, atol=1e-4, rtol=1e-4)


def test_a_stylegan2_has_no_transform(stylegan2):
    with pytest.raises(UserError, match="only StyleGAN3"):
        guidance.steer(stylegan2, "red", Colour(), transform="free", **QUICK)


def test_a_network_without_style_access_is_refused():
    class Plain(torch.nn.Module):
        num_ws, w_dim, z_dim, c_dim, img_height, img_width = 2, 4, 4, 0, 8, 8

        def __init__(self):
            super().__init__()
            self.synthesis = torch.nn.Linear(1, 1)

    with pytest.raises(UserError, match="a Plain has no style space"):
        guidance.steer(Plain(), "red", Colour(), space="s", **QUICK)


@pytest.mark.slow
def test_the_outside_of_a_region_stays(network):
    """Stated bound: outside, pixels change by less than 0.05 (of a range of 2) in the mean, and
    less than half as much as without the hold."""
    region, outside = (0, 0, 32, 12), {}
    start = map_latents(network, seed_latents(1, 1, network.z_dim), truncation_psi=0.7)
    for hold in (0.0, 30.0):
        options = QUICK | {"space": "w+", "steps": 25}
        steps = guidance.steer(
            network, "red", Colour(), region=region, outside=hold, start_ws=start, **options
        )
        steps = list(steps)
        change = (steps[-1].image - steps[0].image)[0].abs().mean(dim=0)
        inside, outside[hold] = change[:12].mean(), change[12:].mean()
        assert inside > 0.03
        top = steps[-1].image[:, :, :12], steps[0].image[:, :, :12]
        assert redness(top[0]) > redness(top[1]) + 0.02
    assert outside[30.0] < 0.05
    assert outside[30.0] < 0.5 * outside[0.0]


def test_only_the_region_is_judged():
    objective = SteeringObjective(
        [parse_prompts("red")], Colour(), [0], SteerConfig(augment="none", cutouts=1),
        torch.device("cpu"), load_region((0, 0, 4, 8), 8, 8),
    )  # fmt: skip
    start = torch.zeros(1, 3, 8, 8)
    objective.begin(start)
    images = torch.rand(1, 3, 8, 8, requires_grad=True)
    objective.of_images(images)[0].sum().backward()
    assert (images.grad[..., :4] != 0).all() and (images.grad[..., 4:] == 0).all()


def test_regions_and_their_errors(tmp_path):
    assert load_region("1,2,3,5", 6, 8)[0, 0].sum() == 6
    mask = Image.new("L", (8, 6))
    mask.paste(255, (2, 1, 5, 4))
    mask.save(tmp_path / "mask.png")
    found = load_region(str(tmp_path / "mask.png"), 6, 8)[0, 0]
    assert found.sum() == 9 and found[1:4, 2:5].all()
    for region, message in (
        (str(tmp_path / "mask.png"), "8x6 pixels, expected 9x6"),
        ("0,0,10,4", "within 9x6"),
        ((3, 0, 3, 4), "x0 < x1"),
        (str(tmp_path / "none.png"), "No such file"),
        (torch.zeros(6, 9), "empty"),
        (torch.full([6, 9], 2.0), "0 … 1"),
    ):
        with pytest.raises(UserError, match=message):
            load_region(region, 6, 9)


class Script(torch.nn.Module):
    """A face encoder that looks at the left half and the right one."""

    def forward(self, x):
        return torch.cat([x[..., :56].mean(dim=(2, 3)), x[..., 56:].mean(dim=(2, 3))], dim=1)


@pytest.mark.slow
@pytest.mark.parametrize("term", ["perceptual", "identity", "prior"])
def test_keep_terms_hold_and_are_logged(network, term, tmp_path):
    torch.jit.script(Script()).save(tmp_path / "face.pt")
    more = {"identity_encoder": str(tmp_path / "face.pt")} if term == "identity" else {}
    found = {}
    for weight in (0.0, 20.0):
        options = QUICK | {"start": "seed", "max_sigma": 0, **more, term: weight}
        steps = list(guidance.steer(network, "red", Colour(), **options))
        found[weight] = steps[-1]
        parts = {k: v for k, v in steps[-1].losses.items() if k != "similarity"}
        assert steps[-1].loss == pytest.approx(sum(parts.values()), rel=1e-4)
    assert found[20.0].losses[term] > 0
    start = steps[0]
    if term == "prior":
        assert found[20.0].sigma < found[0.0].sigma
    else:
        change = {w: (step.image - start.image).square().mean() for w, step in found.items()}
        assert change[20.0] < 0.5 * change[0.0]
        assert steps[0].losses[term] == pytest.approx(0, abs=1e-4)


def test_identity_needs_an_encoder(network, tmp_path):
    with pytest.raises(ValueError, match="needs a face encoder"):
        SteerConfig(identity=1.0)
    with pytest.raises(UserError, match="nearest: mini"):
        guidance.steer(network, "red", Colour(), identity=1, identity_encoder="minni", **QUICK)
    (tmp_path / "bad.pt").write_bytes(b"no")
    with pytest.raises(UserError, match="not a TorchScript file"):
        bad = str(tmp_path / "bad.pt")
        guidance.steer(network, "red", Colour(), identity=1, identity_encoder=bad, **QUICK)


@pytest.mark.slow
def test_directional_goes_where_the_texts_point(network):
    options = QUICK | {"start": "seed", "distance": "directional", "source": "grey"}
    steps = list(guidance.steer(network, "red", Colour(), **options))
    assert steps[0].losses["distance"] == pytest.approx(1, abs=1e-5)  # nothing has changed yet
    assert steps[-1].losses["distance"] < 0.5
    assert redness(steps[-1].image) > redness(steps[0].image) + 0.02
    with pytest.raises(UserError, match="source: got none"):
        guidance.steer(network, "red", Colour(), **(options | {"source": None}))
    red = Image.new("RGB", (40, 30), "red")  # a picture is compared with the start, not a text
    last(guidance.steer(network, red, Colour(), **(options | {"source": None, "steps": 1})))


@pytest.mark.slow
def test_images_work_like_texts(network, tmp_path):
    Image.new("RGBA", (40, 30), (255, 0, 0, 255)).save(tmp_path / "red.png")
    for prompt in (tmp_path / "red.png", Image.new("RGB", (20, 20), "red")):
        steps = list(guidance.steer(network, prompt, Colour(), start="mean", **QUICK))
        assert redness(steps[-1].image) > redness(steps[0].image) + 0.02
    both = parse_prompts(["blue:0.5", image_prompt(tmp_path / "red.png", -2)])
    assert [(p.text, p.weight, p.image is None) for p in both] == [
        ("blue", 0.5, True), ("red.png", -2, False),
    ]  # fmt: skip
    assert parse_image(f"{tmp_path}/red.png:0.5").weight == 0.5
    with pytest.raises(UserError, match="not a file"):
        parse_image(f"{tmp_path}/blue.png:2")
    with pytest.raises(UserError, match="weight is 0"):
        parse_image(f"{tmp_path}/red.png:0")


def test_texts_are_averaged_over_templates_and_encoded_once():
    encoder = Colour()
    found = text_embeddings(encoder, ["red", "blue", "red"], ("{}", "a {} thing"))
    assert torch.equal(found[0], found[2])
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    assert encoder.texts_seen == ["red", "a red thing", "blue", "a blue thing"]
    again = text_embeddings(encoder, ["blue"], ("{}", "a {} thing"))
    assert torch.equal(again[0], found[1]) and len(encoder.texts_seen) == 4
    assert text_embeddings(encoder, ["red"], "imagenet").shape == (1, 4)
    assert len(encoder.texts_seen) == 4 + 79


def test_schedules_of_the_learning_rate():
    rates = {
        name: [learning_rate(i, 40, 0.2, name) for i in range(40)]
        for name in ("ramp", "cosine", "constant")
    }
    assert rates["constant"] == [0.2] * 40
    assert rates["cosine"][20] == pytest.approx(0.1)
    assert rates["cosine"][39] < 0.001 and rates["ramp"][20] == pytest.approx(0.2)


def test_a_stall_is_a_loss_that_has_not_fallen():
    stall = Stall(2, patience=3, min_delta=0.01)
    falling, flat = [1 - 0.1 * i for i in range(8)], [1.0] * 8
    found = [stall.add(torch.tensor(pair)).tolist() for pair in zip(falling, flat, strict=True)]
    assert found == [[False, i >= 3] for i in range(8)]
    never = Stall(1, patience=0, min_delta=1.0)
    assert not any(never.add(torch.ones(1)).item() for _ in range(50))


@pytest.mark.slow
def test_stalled_rows_stay_as_if_they_were_alone(network):
    options = QUICK | {"steps": 30, "patience": 3, "stall": 0.08}
    runs = {}
    for name, seeds in (("both", [3, 4]), ("first", [3]), ("second", [4])):
        sets = ["red", "blue"] if name == "both" else ["red" if name == "first" else "blue"]
        runs[name] = list(steer_batch(network, sets, Colour(), seeds=seeds, **options))
    assert len(runs["both"]) < 31
    assert len(runs["both"]) == max(len(runs["first"]), len(runs["second"]))
    for i, name in enumerate(("first", "second")):
        alone = runs[name][-1][0]
        torch.testing.assert_close(runs["both"][-1][i].ws, alone.ws, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"space": "s", "transform": "free"}, {"patience": 3}])
def test_a_resumed_run_equals_an_uninterrupted_one(network, tmp_path, settings):
    options = QUICK | {"steps": 8, "augment": "light", "cutouts": 2, **settings}
    whole = list(steer_batch(network, ["red", "blue"], Colour(), **options))
    half = steer_batch(network, ["red", "blue"], Colour(), **options)
    for _ in range(4):
        next(half)
    half.save(tmp_path / "progress")
    encoder = Colour()
    again = list(
        steer_batch(network, ["red", "blue"], encoder, resume_from=tmp_path / "progress", **options)
    )
    assert [s[0].index for s in again] == [s[0].index for s in whole]
    for a, b in zip(again, whole, strict=True):
        assert [s.losses for s in a] == [s.losses for s in b]
        assert torch.equal(a[1].ws, b[1].ws)
        for name, style in a[1].latent.styles.items():
            assert torch.equal(style, b[1].latent.styles[name])


def test_progress_of_another_run_is_refused(network, tmp_path):
    run = steer_batch(network, ["red"], Colour(), **QUICK)
    next(run)
    run.save(tmp_path / "progress")
    options = QUICK | {"lr": 0.3, "resume_from": tmp_path / "progress"}
    with pytest.raises(UserError, match="another prompts and another lr"):
        steer_batch(network, ["blue"], Colour(), **options)
    (tmp_path / "progress").write_bytes(b"x")
    with pytest.raises(UserError, match="cannot be read"):
        steer_batch(network, ["red"], Colour(), **(QUICK | {"resume_from": tmp_path / "progress"}))


def test_a_far_start_is_not_pulled_in(network):
    ws = latent_statistics(network).mean.lerp(
        map_latents(network, seed_latents(0, 1, network.z_dim)), 3.0
    )
    first = next(guidance.steer(network, "red", Colour(), start_ws=ws, max_sigma=1.0, **QUICK))
    torch.testing.assert_close(first.ws, ws, atol=1e-3, rtol=1e-3)
    assert first.sigma > 2
    with pytest.raises(ValueError, match="start_ws"):
        guidance.steer(network, "red", Colour(), start_ws=EditedLatent(ws[:, :1]), **QUICK)


def test_a_start_with_styles_keeps_them(network):
    ws = map_latents(network, seed_latents(0, 1, network.z_dim))
    layer = style_layers(network)[2]
    latent = EditedLatent(ws, {layer.name: torch.full([1, layer.channels], 0.3)})
    for space in ("w", "s"):
        options = QUICK | {"space": space}
        first = next(guidance.steer(network, "red", Colour(), start_ws=latent, **options))
        torch.testing.assert_close(first.image, latent.render(network), atol=1e-4, rtol=1e-4)


def test_losses_are_json(network):
    step = next(guidance.steer(network, [Prompt("red", 2.0)], Colour(), **QUICK))
    assert json.loads(json.dumps(step.losses)) == step.losses
    assert F.cosine_similarity(step.ws[0, 0], step.ws[0, -1], dim=0) > 0.99
