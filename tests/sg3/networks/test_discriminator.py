"""The discriminator: golden values, R1, state dict, Freeze-D, minibatch std, errors."""

import json

import numpy as np
import pytest
import repository
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from sg3.networks import build_network
from sg3.networks.discriminator import minibatch_std

GOLDEN = repository.GOLDEN


def golden(name):
    """Network with golden weights, and the golden values."""
    kwargs = json.loads((GOLDEN / f"{name}.json").read_text())["kwargs"]
    network = build_network("discriminator", kwargs)
    network.load_state_dict(load_file(GOLDEN / f"{name}.safetensors"), strict=True)
    numbers = {k: torch.from_numpy(v) for k, v in np.load(GOLDEN / f"{name}.io.npz").items()}
    return network, numbers


def tiny(resolution=16, c_dim=0, **kwargs):
    kwargs = {"channel_base": 8 * resolution, "channel_max": 12, **kwargs}
    torch.manual_seed(0)
    return build_network(
        "discriminator",
        {"c_dim": c_dim, "img_resolution": resolution, "img_channels": 3, **kwargs},
    )


def relative_error(got, expected):
    return ((got - expected).norm() / expected.norm().clamp(min=1e-12)).item()


def r1_penalty(network, img, c=None):
    (grads,) = torch.autograd.grad(network(img, c).sum(), img, create_graph=True)
    return grads, grads.square().sum([1, 2, 3])


@pytest.mark.parametrize("name", ["disc-32", "disc-32-cond"])
def test_reference_numbers(name):
    network, ref = golden(name)
    img = ref["img"].requires_grad_(True)
    logits = network(img, ref["c"])
    r1_grads, penalty = r1_penalty(network, img, ref["c"])
    assert relative_error(logits, ref["logits"]) < 1e-5
    assert relative_error(r1_grads, ref["r1_grads"]) < 1e-5
    assert relative_error(penalty, ref["r1_penalty"]) < 1e-5
    (F.softplus(-logits).squeeze(1) + 5 * penalty).mean().backward()
    names = [k.removeprefix("grad_norm/") for k in ref if k.startswith("grad_norm/")]
    assert sorted(names) == sorted(n for n, _ in network.named_parameters())
    for n, p in network.named_parameters():
        assert relative_error(p.grad.norm(), ref[f"grad_norm/{n}"]) < 1e-4, n


@pytest.mark.parametrize("architecture", ["resnet", "skip", "orig"])
def test_double_backward_in_float64(architecture):
    network = tiny(8, channel_max=3, architecture=architecture).double()
    img = torch.randn([2, 3, 8, 8], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: network(x).sum(), img, fast_mode=True)


def test_r1_weight_gradients_are_directional_derivatives():
    network = tiny(8, c_dim=2).double()
    # The mapping network casts labels to float32; embed once so that differences stay exact.
    cmap = torch.randn([4, 12], dtype=torch.float64)
    network.mapping.forward = lambda z, c: cmap
    img = torch.randn([4, 3, 8, 8], dtype=torch.float64, requires_grad=True)
    c = torch.eye(2).repeat(2, 1)
    params = [p for n, p in network.named_parameters() if not n.startswith("mapping")]
    penalty = r1_penalty(network, img, c)[1].sum()
    # Biases after the last nonlinearity do not reach the image's gradient.
    grads = torch.autograd.grad(penalty, params, allow_unused=True)
    direction = [torch.randn_like(p) for p in params]
    slope = sum((g * d).sum() for g, d in zip(grads, direction, strict=True) if g is not None)
    step, values = 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(params, direction, strict=True):
                p += sign * step * d
        values.append(r1_penalty(network, img, c)[1].sum())
        with torch.no_grad():
            for p, d in zip(params, direction, strict=True):
                p -= sign * step * d
    assert relative_error((values[0] - values[1]) / (2 * step), slope) < 1e-5


@pytest.mark.parametrize("resolution", [8, 16, 64])
@pytest.mark.parametrize("architecture", ["resnet", "skip", "orig"])
def test_shapes(resolution, architecture):
    network = tiny(resolution, architecture=architecture)
    logits = network(torch.randn([4, 3, resolution, resolution]))
    assert logits.shape == (4, 1) and logits.dtype == torch.float32


def test_state_dict_names_and_shapes():
    got = {k: tuple(v.shape) for k, v in tiny(8, c_dim=5, cmap_dim=7).state_dict().items()}
    expected = {
        "b8.resample_filter": (4, 4),
        "b8.fromrgb.weight": (8, 3, 1, 1),
        "b8.fromrgb.bias": (8,),
        "b8.fromrgb.resample_filter": (4, 4),
        "b8.conv0.weight": (8, 8, 3, 3),
        "b8.conv0.bias": (8,),
        "b8.conv0.resample_filter": (4, 4),
        "b8.conv1.weight": (12, 8, 3, 3),
        "b8.conv1.bias": (12,),
        "b8.conv1.resample_filter": (4, 4),
        "b8.skip.weight": (12, 8, 1, 1),
        "b8.skip.resample_filter": (4, 4),
        "mapping.embed.weight": (7, 5),
        "mapping.embed.bias": (7,),
        **{f"mapping.fc{i}.weight": (7, 7) for i in range(8)},
        **{f"mapping.fc{i}.bias": (7,) for i in range(8)},
        "b4.conv.weight": (12, 13, 3, 3),
        "b4.conv.bias": (12,),
        "b4.conv.resample_filter": (4, 4),
        "b4.fc.weight": (12, 192),
        "b4.fc.bias": (12,),
        "b4.out.weight": (7, 12),
        "b4.out.bias": (7,),
    }
    assert got == expected


def test_freeze_d_turns_the_first_layers_into_buffers():
    free = tiny(16)
    frozen = tiny(16, block_kwargs={"freeze_layers": 6})
    assert {k: v.shape for k, v in frozen.state_dict().items()} == {
        k: v.shape for k, v in free.state_dict().items()
    }
    gone = {n for n, _ in free.named_parameters()} - {n for n, _ in frozen.named_parameters()}
    layers = ["b16.fromrgb", "b16.conv0", "b16.conv1", "b16.skip", "b8.conv0", "b8.conv1"]
    assert gone == {
        f"{layer}.{kind}"
        for layer in layers
        for kind in ("weight", "bias")
        if (layer, kind) != ("b16.skip", "bias")
    }
    frozen.load_state_dict(free.state_dict())
    img = torch.randn([4, 3, 16, 16])
    assert torch.equal(frozen(img), free(img))


def test_construction_draws_in_the_official_order():
    network = tiny(8, c_dim=2)
    order = ["b8.fromrgb", "b8.conv0", "b8.conv1", "b8.skip", "mapping.embed"]
    order += [f"mapping.fc{i}" for i in range(8)] + ["b4.conv", "b4.fc", "b4.out"]
    torch.manual_seed(0)
    for name in order:
        weight = network.get_parameter(f"{name}.weight")
        scale = 100 if name.startswith("mapping.fc") else 1
        torch.testing.assert_close(weight.detach(), torch.randn(weight.shape) * scale, msg=name)


@pytest.mark.parametrize(("group_size", "channels"), [(2, 1), (4, 3), (None, 1), (8, 2)])
def test_minibatch_std_against_loops(group_size, channels):
    x = torch.randn([8, 6, 3, 2], dtype=torch.float64)
    groups = 8 // min(group_size or 8, 8)
    expected = torch.empty([8, channels], dtype=torch.float64)
    for group in range(groups):
        members = x[group::groups]  # strided, not consecutive
        sd = (members.var(dim=0, unbiased=False) + 1e-8).sqrt()
        expected[group::groups] = sd.reshape(channels, -1).mean(dim=1)
    got = minibatch_std(x, group_size, channels)
    assert torch.equal(got[:, :6], x)
    torch.testing.assert_close(got[:, 6:], expected[:, :, None, None].expand(-1, -1, 3, 2))


def test_memory_format_of_the_image_does_not_matter():
    network, img = tiny(16), torch.randn([4, 3, 16, 16])
    strided = img.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(network(strided), network(img))


def test_labels_matter_and_the_clamp_bounds():
    network, img = tiny(8, c_dim=2), torch.randn([2, 3, 8, 8])
    one, other = torch.eye(2), torch.eye(2).flip(0)
    assert not torch.allclose(network(img, one), network(img, other))
    clamped = tiny(8, conv_clamp=1e-3)
    features, _ = clamped.b8(None, img)
    # Both branches: conv1 at most clamp·√½, skip at most what a 1×1 convolution makes of clamp.
    bound = 1e-3 * (1 + clamped.b8.skip.weight.abs().sum(1).max() / 8**0.5)
    assert features.abs().max() <= bound


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: tiny(8)(torch.zeros([6, 3, 8, 8])), "batch"),
        (lambda: tiny(8)(torch.zeros([4, 3, 16, 16])), "img"),
        (lambda: tiny(8)(torch.zeros([4, 1, 8, 8])), "img"),
        (lambda: tiny(8, c_dim=2)(torch.zeros([4, 3, 8, 8])), "c: got None"),
        (lambda: tiny(8, c_dim=2)(torch.zeros([4, 3, 8, 8]), torch.zeros([4, 3])), "labels"),
        (lambda: tiny(8, c_dim=2)(torch.zeros([4, 3, 8, 8]), torch.zeros([2, 2])), "labels"),
        (lambda: tiny(24), "power of two"),
        (lambda: tiny(4), "img_resolution"),
        (lambda: tiny(8, architecture="unet"), "architecture"),
        (lambda: minibatch_std(torch.zeros([4, 6, 2, 2]), 4, 4), "mbstd_num_channels"),
    ],
)
def test_errors_are_clear(call, word):
    with pytest.raises(ValueError, match=word) as error:
        call()
    assert "\n" not in str(error.value)
