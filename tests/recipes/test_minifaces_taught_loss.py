"""Training of the bundled generator with supervision by the faces that latents encode."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from recipes.minifaces.generator import latents, train
from recipes.minifaces.generator.pretrain_losses import EncoderDistance, pixel_distance
from recipes.minifaces.generator.taught_loss import TaughtLoss, render_latents
from recipes.minifaces.world.dataset import write_dataset
from recipes.minifaces.world.renderer import render_seed
from recipes.run import recipe_command
from sg3.networks import build_network
from sg3.training import train as steps_of
from sg3.training.state import newest_state

SMALL = dict(
    batch=8, workers=0, threads=1, z_dim=latents.Z_DIM, w_dim=16, map_depth=2, cbase=64, cmax=8,
    num_layers=6, margin_size=5, dcbase=64, dcmax=16, mbstd_group=4, grid=(2, 2), tick=0.064,
    snap=1, resume=None, glr=0.01, glr_warmup_kimg=0, ema_kimg=0.1,
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("faces") / "faces.zip"
    write_dataset(path, 16)
    return str(path)


def run(data, outdir, num_images, loss=TaughtLoss, **changes):
    """Train up to `num_images`; returns the folder of the run."""
    config = train.config(data, str(outdir), **SMALL | {"kimg": num_images / 1000} | changes)
    return list(steps_of(config, loss=loss))[-1].folder


def test_latents_are_drawn_as_the_world_draws_them():
    seeds = np.arange(40)
    z = latents.z_of(latents.code_of_seeds(seeds), np.random.RandomState(0))
    drawn, expected = render_latents(z), np.stack([render_seed(int(seed)) for seed in seeds])
    np.testing.assert_array_equal(drawn, expected)
    assert (render_latents(-z) != expected).any(axis=(1, 2, 3)).all()


def distances(G, num=32):
    """Return distances to the faces that new latents encode, in pixels and in the encoder."""
    z = np.random.RandomState(5).randn(num, latents.Z_DIM).astype(np.float32)
    expected = torch.from_numpy(render_latents(z)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        images = G(torch.from_numpy(z))
        return pixel_distance(images, expected), EncoderDistance("mini-a")(images, expected)


@pytest.mark.slow
def test_a_taught_run_learns_what_its_latents_encode_and_resumes_exactly(data, tmp_path):
    whole = run(data, tmp_path / "whole", 512)
    after = newest_state(whole)[0]
    G = build_network("stylegan3", after["kwargs"]["G"]).eval()
    before = distances(G)
    G.load_state_dict(after["networks"]["G_ema"])
    for old, new in zip(before, distances(G), strict=True):
        assert new < old
    record = json.loads((whole / "stats.jsonl").read_text().splitlines()[-1])
    for name in ("picture", "encoder", "feature", "loss"):
        assert record[f"Loss/G/{name}"]["mean"] > 0
    assert record["Loss/D/loss"]["mean"] > 0

    run(data, tmp_path / "parts", 256)
    parts = run(data, tmp_path / "parts", 512, resume="latest")
    for name, tensors in newest_state(parts)[0]["networks"].items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, after["networks"][name][key]), (name, key)


def test_a_taught_run_is_not_continued_by_another_loss(data, tmp_path):
    from sg3.training.loss import GANLoss

    run(data, tmp_path, 8)
    with pytest.raises(ValueError, match="trains with TaughtLoss, this program with GANLoss"):
        run(data, tmp_path, 16, loss=GANLoss, resume="latest")


def call(*args):
    command = recipe_command(train.__doc__, train.VARIANTS, train.LOSSES)
    return CliRunner().invoke(command, args)


def test_the_recipe_uses_the_taught_loss_by_default(data, tmp_path):
    options = {**SMALL, "grid": "2x2", "resume": "", "kimg": 0.008}
    changes = [word for name, value in options.items() for word in ("--set", f"{name}={value}")]
    args = ["--data", data, "--outdir", str(tmp_path), *changes]
    result = call(*args)
    assert result.exit_code == 0, result.output
    (folder,) = tmp_path.iterdir()
    assert folder.name.endswith("-taught")
    assert newest_state(folder)[0]["loss"] == "TaughtLoss"
    for change, named in (("z_dim=8", "z_dim 8"), ("loss=rpgan", "loss rpgan")):
        wrong = call(*args, "--set", change)
        assert wrong.exit_code == 2 and f"got {named}, expected z_dim 64" in wrong.output
        assert len(wrong.output.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
