"""Gradients of every phase against golden numbers and against formulas."""

import json

import numpy as np
import pytest
import repository
import torch
from safetensors.torch import load_file

from sg3.networks import build_network
from sg3.networks.compiled import compile_synthesis
from sg3.training.loss import GANLoss, LossConfig, gaussian_blur

GOLDEN = repository.GOLDEN
CASES = [
    ("loss-sg3t-32", "sg3t-32", "disc-32"),
    ("loss-sg3t-32-cond-blur", "sg3t-32-cond", "disc-32-cond"),
]


def load(name: str, kind: str):
    kwargs = json.loads((GOLDEN / f"{name}.json").read_text())["kwargs"]
    network = build_network(kind, kwargs)
    network.load_state_dict(load_file(GOLDEN / f"{name}.safetensors"))
    return network.train().requires_grad_(False)


@pytest.fixture(scope="module", params=CASES, ids=[c[0] for c in CASES])
def case(request):
    name, g_name, d_name = request.param
    data = np.load(GOLDEN / f"{name}.npz")
    config = LossConfig(**json.loads((GOLDEN / f"{name}.json").read_text())["kwargs"])
    return data, config, g_name, d_name


@pytest.mark.parametrize("phase, gain", [("Gmain", 1), ("Dmain", 1), ("Dreg", 16)])
def test_gradients_equal_reference(case, phase, gain):
    data, config, g_name, d_name = case
    G, D = load(g_name, "stylegan3"), load(d_name, "discriminator")
    network = G if phase[0] == "G" else D
    network.requires_grad_(True)
    z, c, real = (torch.from_numpy(data[k]) for k in ("z", "c", "real"))
    GANLoss(G, D, config).accumulate_gradients(phase, real, c, z, c, gain, 0)
    grads = {n: p.grad for n, p in network.named_parameters()}
    norms = [k for k in data if k.startswith(f"{phase}/") and "/full/" not in k]
    assert len(norms) > 15
    for key in norms:
        name = key.split("/", 1)[1]
        expected = float(data[key])
        assert float(grads[name].norm()) == pytest.approx(expected, rel=1e-4, abs=1e-7), key
    for key in (k for k in data if k.startswith(f"{phase}/full/")):
        expected = data[key]
        got = grads[key.split("/full/")[1]].numpy()
        # The floor: bias gradients of R1 are small sums of large cancelling terms.
        assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max() + 2e-8, key
    other = D if phase[0] == "G" else G
    assert all(p.grad is None for p in other.parameters())


def test_blur_of_an_impulse_is_the_formula():
    image = torch.zeros(1, 1, 13, 13)
    image[0, 0, 6, 6] = 1
    taps = 2.0 ** -((np.arange(-4, 5) / 1.5) ** 2)
    taps /= taps.sum()
    blurred = gaussian_blur(image, 1.5)[0, 0].numpy()
    np.testing.assert_allclose(blurred[2:11, 2:11], np.outer(taps, taps), rtol=1e-5, atol=1e-8)
    assert gaussian_blur(image, 0.3) is image


def test_unknown_phase_is_refused():
    loss = GANLoss(load("sg3t-32", "stylegan3"), load("disc-32", "discriminator"))
    with pytest.raises(ValueError, match="Gmain"):
        loss.accumulate_gradients("Xmain", None, None, None, None, 1, 0)


def plain_penalty(D, images, c):
    images = images.clone().requires_grad_(True)
    (grads,) = torch.autograd.grad(D(images, c).sum(), images, create_graph=True)
    return grads.square().sum([1, 2, 3])


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["Gmain", "Dmain", "Dreg", "Dboth"])
def test_relativistic_loss_is_the_formula(phase):
    """Every phase against the loss of arXiv 2501.05441 written out in one expression."""
    G, D = load("sg3t-32", "stylegan3").eval(), load("disc-32", "discriminator")
    random = torch.Generator().manual_seed(0)
    z = torch.randn([4, G.z_dim], generator=random)
    real = torch.rand([4, 3, 32, 32], generator=random) * 2 - 1
    c, network = torch.zeros([4, 0]), G if phase[0] == "G" else D
    network.requires_grad_(True)
    config = LossConfig(kind="rpgan", r1_gamma=3.0)
    reported = {}
    loss = GANLoss(G, D, config, report=lambda name, x: reported.setdefault(name, x.detach()))
    loss.accumulate_gradients(phase, real, c, z, c, 2.0, 0)
    got = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    fake = G(z, c)
    fake = fake if phase[0] == "G" else fake.detach()
    margin = D(real, c) - D(fake, c)
    expected = torch.zeros([])
    if phase == "Gmain":
        expected = torch.nn.functional.softplus(margin).mean()
    elif phase in ("Dmain", "Dboth"):
        expected = torch.nn.functional.softplus(-margin).mean()
    if phase in ("Dreg", "Dboth"):
        penalty = plain_penalty(D, real, c) + plain_penalty(D, fake, c)
        expected = expected + 1.5 * penalty.mean()
        assert {"Loss/r1_penalty", "Loss/r2_penalty"} <= reported.keys()
    (expected * 2.0).backward()
    assert len(got) > 10
    for name, parameter in network.named_parameters():
        if parameter.grad is None:
            assert name not in got or not got[name].any()
            continue
        scale = parameter.grad.abs().max()
        assert (got[name] - parameter.grad).abs().max() <= 1e-4 * scale + 1e-7, name


def test_gamma_approaches_its_end_geometrically():
    G, D = load("sg3t-32", "stylegan3"), load("disc-32", "discriminator")
    loss = GANLoss(G, D, LossConfig(r1_gamma=16, r1_gamma_end=1, r1_gamma_kimg=8))
    gammas = [loss.gamma(kimg * 1000) for kimg in (0, 2, 4, 8, 100)]
    assert gammas == pytest.approx([16, 8, 4, 1, 1])
    assert GANLoss(G, D, LossConfig(r1_gamma=16)).gamma(10**6) == 16
    assert GANLoss(G, D, LossConfig(r1_gamma=0, r1_gamma_end=1)).gamma(10**6) == 0


def test_the_penalty_has_the_gamma_of_the_moment():
    G, D = load("sg3t-32", "stylegan3").eval(), load("disc-32", "discriminator")
    D.requires_grad_(True)
    real, c = torch.rand([4, 3, 32, 32]) * 2 - 1, torch.zeros([4, 0])
    norms = []
    for cur_nimg in (0, 8000):
        D.zero_grad()
        loss = GANLoss(G, D, LossConfig(r1_gamma=16, r1_gamma_end=1, r1_gamma_kimg=8))
        loss.accumulate_gradients("Dreg", real, c, torch.randn([4, G.z_dim]), c, 1.0, cur_nimg)
        norms.append(D.b32.conv0.weight.grad.norm())
    assert norms[0] / norms[1] == pytest.approx(16, rel=1e-4)


@pytest.mark.slow
def test_path_lengths_of_a_compiled_network():
    """torch.compile has no second derivatives: the penalty has those of the network itself."""
    kwargs = dict(
        z_dim=8, c_dim=0, w_dim=8, img_resolution=8, img_channels=3, channel_base=64, channel_max=8
    )
    found = []
    for is_compiled in (False, True):
        torch.manual_seed(0)
        G = build_network("stylegan2", kwargs).train()
        D = build_network("discriminator", {k: kwargs[k] for k in list(kwargs)[1:] if k != "w_dim"})
        if is_compiled:
            compile_synthesis(G, backend="aot_eager")
        z, c, real = torch.randn([4, 8]), torch.zeros([4, 0]), torch.zeros([4, 3, 8, 8])
        loss = GANLoss(G, D, LossConfig(r1_gamma=1, pl_weight=2, style_mixing_prob=0))
        for phase in ("Gmain", "Greg"):
            loss.accumulate_gradients(phase, real, c, z, c, gain=1, cur_nimg=0)
        found.append({n: p.grad for n, p in G.named_parameters() if p.grad is not None})
    plain, compiled = found
    assert plain.keys() == compiled.keys()
    for name, expected in plain.items():
        torch.testing.assert_close(compiled[name], expected, rtol=1e-4, atol=1e-6)
