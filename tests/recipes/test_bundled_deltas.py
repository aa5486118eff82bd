"""The bundled adaptations: they fit mini-faces, and the judge sees their targets."""

import pytest
import torch
from click.testing import CliRunner

import sg3
from guidance.commands.steer import slug
from recipes.minifaces.evaluation.adaptation import (
    TARGETS,
    compare,
    judged,
    meets_targets,
    table,
    true_renders,
)
from recipes.minifaces.evaluation.generator import sample_images
from recipes.minifaces.generator.adapt import FROM_IMAGES, command, draw_images, seeds
from recipes.minifaces.judge.model import load_judge
from sg3.checkpoints.delta import apply_deltas, load_delta, weights_hash
from sg3.cli.main import cli
from sg3.cli.parsers import DELTAS, bundled_deltas, parse_delta


@pytest.fixture(scope="module")
def G():
    return sg3.load("mini-faces").G_ema


@pytest.fixture(scope="module")
def judge():
    return load_judge()


@pytest.fixture(scope="module")
def source(G, judge):
    return judged(judge, sample_images(G, 40))


def test_every_target_has_its_delta_of_this_network(G):
    own = weights_hash(G)
    assert set(bundled_deltas()) == {slug(target) for target in TARGETS}
    for name in bundled_deltas():
        text = name.replace("-", " ")
        path = DELTAS / f"{name}.safetensors"
        assert path.stat().st_size < 400_000
        delta = load_delta(path)
        assert delta.source_hash == own and delta.meta["averaged_runs"] == len(seeds(text))
        assert delta.meta["texts"] == ([None, None] if text in FROM_IMAGES else ["face", text])


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cat", "sepia"])
def test_the_judge_sees_the_target(G, judge, source, target):
    adapted = apply_deltas(G, [(load_delta(DELTAS / f"{target}.safetensors"), 1)])
    seen = judged(judge, sample_images(adapted, 40))
    line = compare(target, source, seen, judged(judge, true_renders(target, 40)))
    assert line["judged_as_target"] > 0.6 > 0.2 > line["judged_as_target_before"]
    assert line["frechet_after"] < 0.6 * line["frechet_before"]


def test_true_renders_would_meet_every_target(judge, source):
    truth = judged(judge, true_renders("robot", 40))
    line = compare("robot", source, truth, truth)
    line |= {"eq_t_change_db": 0.0, "kilobytes": 150.0}
    assert line["reduction_percent"] > 99.9 and line["diversity"] == 1 and meets_targets(line)
    assert not meets_targets(line | {"judged_as_target": 0.79}) and not meets_targets(
        line | {"diversity": 0.59}
    )
    assert not meets_targets(line | {"reduction_percent": 69.9})
    assert "| robot |" in table({"robot": line})


def test_names_of_deltas_on_the_command_line(tmp_path, G):
    assert parse_delta("zombie:0.5") == (str(DELTAS / "zombie.safetensors"), 0.5)
    out = str(tmp_path / "out")
    arguments = ["generate", "--seeds", "0", "--outdir", out, "--delta"]
    result = CliRunner().invoke(cli, [*arguments, "pencil-sketch:0.7"])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(cli, [*arguments, "vampire"])
    assert result.exit_code == 2 and "bundled with mini-faces are alien, cat" in result.output


def test_the_recipe_asks_for_what_sg3_adapt_has(tmp_path):
    for target in FROM_IMAGES:
        draw_images(target, tmp_path)
    for target in TARGETS:
        words = [*command(target, tmp_path)[3:], "--help"]
        assert CliRunner().invoke(cli, words).exit_code == 0
    assert torch.is_tensor(true_renders("neon", 1))
