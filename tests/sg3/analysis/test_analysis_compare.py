"""recipes/compare_sg2_sg3.py: what it measures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import sg3
from recipes import compare_sg2_sg3 as compare
from recipes.minifaces.evaluation import comparison
from recipes.minifaces.generator import pretrain_stylegan2
from recipes.minifaces.generator.movable import MovableConstant, MovableStyleGAN2
from recipes.minifaces.generator.pretrain import PretrainConfig
from recipes.minifaces.generator.pretrain_stylegan2 import stylegan2_kwargs
from recipes.minifaces.world.dataset import write_dataset
from sg3.analysis import charts
from sg3.networks import build_network


@pytest.fixture(scope="module")
def stylegan2():
    torch.manual_seed(0)
    kwargs = stylegan2_kwargs(PretrainConfig("")) | {"z_dim": 64}
    return build_network("stylegan2", kwargs).eval().requires_grad_(False)


def test_a_constant_is_read_between_its_samples():
    const = MovableConstant(torch.randn([2, 4, 4]))
    assert torch.allclose(const(), const.const, atol=1e-6)
    const.transform[0, 2] = -0.25  # to the right by one sample: zeros come in
    assert torch.allclose(const()[:, :, 1:], const.const[:, :, :-1], atol=1e-6)
    assert const()[:, :, 0].abs().max() < 1e-6
    const.transform[:2, 2] = torch.tensor([0.0, -0.25])
    assert torch.allclose(const()[:, 1:], const.const[:, :-1], atol=1e-6)


def test_a_movable_stylegan2_at_rest_is_itself(stylegan2):
    movable = MovableStyleGAN2(stylegan2)
    ws = stylegan2.mapping(torch.randn([1, 64]))
    before = stylegan2.synthesis(ws, noise_mode="const")
    assert torch.allclose(movable(ws, noise_mode="const"), before, atol=1e-5)
    assert comparison.input_equivariance(movable, "eqt_int", 4) < 30
    assert comparison.inner_equivariance(movable, 4) < 40
    assert torch.equal(movable.input.transform, torch.eye(3))


def test_the_renderer_moves_as_it_should_and_hardly_sticks():
    assert comparison.pose_equivariance(comparison.rendered, 8) > 40
    sticks, energy = comparison.stickiness(comparison.rendered, 3, 12)
    assert 0 < sticks < 0.25
    more, less = comparison.stickiness(comparison.blurred(0.8), 3, 12)  # out of focus
    assert more > 1.5 * sticks and less < 0.6 * energy

    def stuck(seed: int, poses: np.ndarray) -> torch.Tensor:
        return comparison.rendered(seed, np.zeros_like(poses))

    assert comparison.pose_equivariance(stuck, 4) < 20
    assert comparison.stickiness(stuck, 2, 4)[0] == pytest.approx(1)


def test_generated_faces_are_the_rendered_ones():
    G = sg3.load("mini-faces").G_ema
    poses = np.array([[-0.9, 0.5, 0, 0], [0.9, 0, 0, 0]])
    face = compare.FACE
    drawn, true = comparison.generated(G)(face, poses), comparison.rendered(face, poses)
    other = comparison.rendered(face + 1, poses)
    assert (drawn - true).abs().mean() < 0.5 * (drawn - other).abs().mean()
    assert (drawn - true).abs().mean() < (drawn - true.flip(0)).abs().mean()


@pytest.mark.slow
def test_the_figure_has_a_row_per_network(stylegan2):
    numbers = {"true renders": {"pose": 50.0, "stickiness": 0.1}}
    both = {"eqt_int": 12.0, "eqt_frac": 12.0, "eqt_int_inner": 12.0, "frechet": 9.0}
    numbers["StyleGAN2"] = numbers["true renders"] | both
    svg = charts.svg_text(compare.figure({"StyleGAN2": stylegan2}, numbers))
    assert svg.count("<image") == 7 and "stickiness 0.100" in svg


@pytest.mark.parametrize(
    "arguments",
    [
        ["measure", "--stylegan2", "nowhere.safetensors"],
        ["train", "--data", "nowhere.zip"],
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, arguments):
    out = tmp_path / "out"
    result = CliRunner().invoke(compare.main, [*arguments, "--outdir", str(out)])
    assert result.exit_code == 2 and "nowhere" in result.output
    assert len(result.output.strip().splitlines()) == 1 and not out.exists()


@pytest.mark.slow
def test_training_resumes_with_the_phase_that_is_missing(tmp_path, monkeypatch, capsys):
    write_dataset(tmp_path / "faces.zip", 8)
    phases = (
        ("coded", {"kimg": 0.005, "batch": 2}),
        ("sharp", {"kimg": 0.002, "batch": 2, "adversarial": True}),
    )
    monkeypatch.setattr(pretrain_stylegan2, "PHASES", phases)
    out = pretrain_stylegan2.train(str(tmp_path / "faces.zip"), tmp_path)
    G = sg3.load(out).G_ema
    assert G.kind == "stylegan2" and G.z_dim == 64
    assert "coded {'kimg': 0.004" in capsys.readouterr().out
    (tmp_path / "sharp.safetensors").unlink()
    pretrain_stylegan2.train(str(tmp_path / "faces.zip"), tmp_path)
    output = capsys.readouterr().out
    assert "sharp" in output and "coded" not in output
