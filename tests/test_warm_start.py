"""The coded latents of the warm start: normal in distribution, and they name the attributes."""

import numpy as np
import pytest

from recipes.minifaces import warm_start
from recipes.minifaces.attributes import VALUES, sample_attributes


@pytest.fixture(scope="module")
def latents():
    random = np.random.RandomState(0)
    return np.stack([warm_start.latent_of(seed, 64, random) for seed in range(800)])


def test_latents_are_standard_normal(latents):
    assert latents.shape == (800, 64)
    assert np.abs(latents.mean(axis=0)).max() < 0.18
    assert np.abs(latents.std(axis=0) - 1).max() < 0.18
    correlation = np.corrcoef(latents.T) - np.eye(64)
    assert np.abs(correlation).max() < 0.2


def test_latents_name_uniform_attributes(latents):
    """Attributes with even odds have no offsets: the largest coordinate is the value."""
    start = 0
    for name, size in warm_start.BLOCKS.items():
        if name in ("skin", "hair_colour", "background", "eye_colour", "hat_colour"):
            block = latents[:, start : start + size].argmax(axis=1)
            drawn = [VALUES[name].index(getattr(sample_attributes(s), name)) for s in range(800)]
            assert (block == np.array(drawn)).mean() > 0.97, name
        start += size


def test_one_step_lowers_the_distance(tmp_path):
    from recipes.minifaces.dataset import write_dataset

    write_dataset(tmp_path / "faces", 16, seed=3)
    config = warm_start.WarmStartConfig(
        data=str(tmp_path / "faces"), data_seed=3, kimg=0.32, cbase=64, cmax=8, w_dim=16, lr=0.05
    )
    losses = [step.loss for step in warm_start.warm_start(config)]
    assert len(losses) == 40
    assert np.mean(losses[-3:]) < 0.96 * np.mean(losses[:3])


def test_slow_mapping_is_the_same_function():
    import torch

    from sg3.networks import build_network

    config = warm_start.WarmStartConfig(data="", cbase=64, cmax=8, w_dim=16)
    G = build_network("stylegan3", warm_start.generator_kwargs(config)).eval()
    z = torch.randn(2, 64)
    with torch.no_grad():
        assert torch.allclose(warm_start.slow_mapping(G)(z), G(z), atol=1e-4)
