"""Power-function averages: values of the paper, by hand, and against numerical integration."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from sg3.networks import build_network
from sg3.training.posthoc_ema import rebuild_ema, stored_averages, write_averages
from sg3.training.power_ema import (
    PowerEMA,
    Profile,
    beta_of,
    gamma_of,
    inner_product,
    sigma_rel_of,
    solve_weights,
)


@pytest.mark.parametrize("sigma_rel, gamma", [(0.05, 16.97), (0.10, 6.94)])  # of the paper
def test_gamma_of_the_lengths_in_the_paper(sigma_rel, gamma):
    assert gamma_of(sigma_rel) == pytest.approx(gamma, abs=0.005)


def test_lengths_by_hand():
    assert sigma_rel_of(0) == pytest.approx(1 / math.sqrt(12))  # uniform on [0, 1]
    assert sigma_rel_of(1) == pytest.approx(math.sqrt(2) / (3 * 2))  # a triangle: 1/√18
    assert gamma_of(1 / math.sqrt(18)) == pytest.approx(1)
    for sigma_rel in (0.01, 0.05, 0.1, 0.2, 0.28):
        assert sigma_rel_of(gamma_of(sigma_rel)) == pytest.approx(sigma_rel)
        assert gamma_of(sigma_rel) > 0


@pytest.mark.parametrize("length", [0, -0.1, 0.2887, 0.3, float("nan")])
def test_lengths_out_of_range(length):
    with pytest.raises(ValueError, match=r"^length: got .*, expected above 0 and below 0\.2887"):
        gamma_of(length)


def test_betas_by_hand():
    assert beta_of(6.94, nimg=32, batch=32) == 0  # the first step forgets the initial weights
    assert beta_of(1, nimg=8, batch=4) == 1 / 4
    assert beta_of(0, nimg=12, batch=4) == pytest.approx(2 / 3)  # of a plain mean
    assert beta_of(16.97, nimg=1_000_000, batch=1000) == pytest.approx(0.999**17.97)


def test_averages_of_two_steps_by_hand():
    """gamma 1: the weights of two steps are 1 and 3 quarters, the areas under 2τ/4 on [0, 2]."""
    network = torch.nn.Linear(1, 1, bias=False)
    ema = PowerEMA(network, (1 / math.sqrt(18), 1 / math.sqrt(18.1)))
    for nimg, value in ((4, 1.0), (8, 2.0)):
        torch.nn.init.constant_(network.weight, value)
        ema.update(network, nimg, batch=4)
    assert ema.averages[0]["weight"].item() == pytest.approx(1.75)
    assert ema.averages[1]["weight"].item() > 1.75  # shorter: nearer to the last value


def profile_at(profile, tau):
    g, t = profile.gamma, profile.t
    return (g + 1) * tau**g / t ** (g + 1) if tau <= t else 0.0


def test_inner_products_by_hand():
    # ∫₀¹ (2τ)² = 4/3;  ∫₀¹ 2τ·τ/2 = 1/3;  a uniform profile on [0, 2] and one on [0, 1]: 1/2.
    assert inner_product(Profile(1, 1), Profile(1, 1)) == pytest.approx(4 / 3)
    assert inner_product(Profile(1, 1), Profile(1, 2)) == pytest.approx(1 / 3)
    assert inner_product(Profile(0, 2), Profile(0, 1)) == pytest.approx(1 / 2)


@pytest.mark.parametrize("a", [Profile(16.97, 3.0), Profile(0.5, 8.0)])
@pytest.mark.parametrize("b", [Profile(6.94, 5.0), Profile(2.0, 3.0), Profile(30.0, 8.0)])
def test_inner_products_are_integrals(a, b):
    expected, _ = quad(lambda tau: profile_at(a, tau) * profile_at(b, tau), 0, min(a.t, b.t))
    assert inner_product(a, b) == pytest.approx(expected, rel=1e-6)
    assert inner_product(b, a) == inner_product(a, b)


def stored_at(times, lengths=(0.05, 0.1)):
    return [Profile(gamma_of(length), t) for t in times for length in lengths]


def test_a_stored_profile_is_found_exactly():
    profiles = stored_at(range(100, 1100, 100))
    for index in (3, 18, 19):
        weights, error = solve_weights(profiles, profiles[index])
        assert weights == pytest.approx(np.eye(20)[index], abs=1e-6) and error < 1e-6


def test_the_error_is_that_of_the_combined_profile():
    profiles, target = stored_at((250, 500, 750, 1000)), Profile(gamma_of(0.15), 1000)
    weights, error = solve_weights(profiles, target)
    assert weights.sum() == pytest.approx(1)
    tau = (np.arange(100_000) + 0.5) / 100
    values = np.array([[profile_at(p, t) for t in tau[::50]] for p in (*profiles, target)])
    found, wanted = weights @ values[:-1], values[-1]
    norm = np.linalg.norm
    assert error == pytest.approx(norm(found - wanted) / norm(wanted), rel=0.02)
    assert 0.01 < error < 0.2
    assert solve_weights(stored_at(range(50, 1050, 50)), target)[1] < error / 3  # more is better


STEPS, BATCH, EVERY = 1600, 8, 100
SIZES = dict(
    z_dim=4, c_dim=0, w_dim=4, img_resolution=16, img_channels=3, channel_base=32, channel_max=4,
    num_layers=4, margin_size=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A folder of stored averages of G, and G's parameters after every step `[STEPS, N]`."""
    folder, random = tmp_path_factory.mktemp("run"), np.random.RandomState(0)
    G = build_network("stylegan3", SIZES)
    parameters = list(G.parameters())
    size = sum(p.numel() for p in parameters)
    # A walk, steps that undo each other, and a curve, all small: averages hardly differ.
    walk = np.cumsum(random.randn(STEPS, size) / STEPS**0.5, axis=0)
    curve = np.exp(-np.arange(STEPS)[:, None] / 300) * random.randn(size)
    jitter = 0.2 * random.randn(STEPS, size)
    history = random.randn(size) + 0.03 * (walk + curve + jitter)
    trainer = SimpleNamespace(G=G, power_ema=PowerEMA(G, (0.05, 0.1)), cur_nimg=0)
    for step, values in enumerate(history):
        torch.nn.utils.vector_to_parameters(torch.from_numpy(values).float(), parameters)
        trainer.cur_nimg += BATCH
        G.mapping.w_avg.fill_(trainer.cur_nimg)
        trainer.power_ema.update(G, trainer.cur_nimg, BATCH)
        if step == 0 or (step + 1) % EVERY == 0:
            write_averages(folder / f"ema-{trainer.cur_nimg:09d}.safetensors", trainer)
    return folder, history


def true_average(history, length, steps):
    """The power-function average by its definition: the area under the profile of every step."""
    edges = (np.arange(steps + 1) / steps) ** (gamma_of(length) + 1)
    return np.diff(edges) @ history[:steps]


@pytest.mark.parametrize(
    "length, tolerance",
    [
        (0.02, 0.25),
        (0.03, 0.05),
        (0.05, 1e-3),
        (0.07, 5e-3),
        (0.1, 1e-3),
        (0.15, 5e-3),
        (0.2, 0.01),
    ],
)
def test_rebuilt_averages_are_near_the_true_ones(toy, length, tolerance):
    """Within a thousandth, and within `tolerance` of what a length half as long again changes."""
    folder, history = toy
    networks = rebuild_ema(folder, length)
    G = networks.G_ema
    found = torch.nn.utils.parameters_to_vector(G.parameters()).double().numpy()
    expected = true_average(history, length, STEPS)
    norm = np.linalg.norm
    assert norm(found - expected) < 1e-3 * norm(expected)
    other = true_average(history, min(length * 1.5, 0.28), STEPS)
    assert norm(found - expected) < tolerance * norm(other - expected)
    assert networks.meta["gamma"] == pytest.approx(gamma_of(length))
    assert networks.meta["kimg"] == STEPS * BATCH / 1000 and networks.meta["files"] == 17


def test_another_time(toy):
    folder, history = toy
    steps = STEPS // 2
    networks = rebuild_ema(stored_averages(folder), 0.15, at_kimg=steps * BATCH / 1000)
    found = torch.nn.utils.parameters_to_vector(networks.G_ema.parameters()).double().numpy()
    expected = true_average(history, 0.15, steps)
    assert np.linalg.norm(found - expected) < 0.01 * np.linalg.norm(expected)
    # Buffers are those of that time.
    assert bool((networks.G_ema.mapping.w_avg == steps * BATCH).all())


def test_files_that_do_not_fit(toy, tmp_path):
    folder, _ = toy
    with pytest.raises(ValueError, match=r"^at_kimg: got 99, expected 0\.008 to 12\.8, where"):
        rebuild_ema(folder, 0.1, at_kimg=99)
    with pytest.raises(ValueError, match=r"^run: got .*expected the folder of a run trained with"):
        rebuild_ema(tmp_path, 0.1)
    first, second, *_ = sorted(folder.iterdir())
    (tmp_path / "ema-000001.safetensors").write_bytes(first.read_bytes())
    (tmp_path / "ema-000002.safetensors").write_bytes(second.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"ema-000002\.safetensors: damaged"):
        rebuild_ema(tmp_path, 0.1)
    G = build_network("stylegan3", {**SIZES, "z_dim": 5})
    other = SimpleNamespace(G=G, power_ema=PowerEMA(G, (0.05, 0.1)), cur_nimg=4)
    write_averages(tmp_path / "ema-000002.safetensors", other)
    with pytest.raises(ValueError, match="of another network than ema-00000"):
        rebuild_ema(tmp_path, 0.1)
