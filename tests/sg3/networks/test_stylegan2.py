"""The StyleGAN2 generator: golden values, state dict, noise, style mixing, errors."""

import json

import numpy as np
import pytest
import repository
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from ops_cuda import setup_filter, upfirdn2d
from sg3.networks import build_network
from sg3.networks.sg2_layers import modulated_conv2d

GOLDEN = repository.GOLDEN


def golden(name):
    """Network with golden weights, and the golden values."""
    kwargs = json.loads((GOLDEN / f"{name}.json").read_text())["kwargs"]
    network = build_network("stylegan2", kwargs)
    network.load_state_dict(load_file(GOLDEN / f"{name}.safetensors"), strict=True)
    numbers = {k: torch.from_numpy(v) for k, v in np.load(GOLDEN / f"{name}.io.npz").items()}
    return network, numbers


def tiny(resolution=16, c_dim=0, **kwargs):
    kwargs = {"channel_base": 8 * resolution, "channel_max": 12, **kwargs}
    kwargs = {"z_dim": 6, "w_dim": 5, "img_resolution": resolution, "img_channels": 3, **kwargs}
    torch.manual_seed(0)
    return build_network("stylegan2", {"c_dim": c_dim, **kwargs})


def relative_error(got, expected):
    return ((got - expected).norm() / expected.norm().clamp(min=1e-12)).item()


@pytest.mark.parametrize("name", ["sg2-32", "sg2-32-resnet"])
def test_reference_numbers(name):
    network, ref = golden(name)
    assert relative_error(network.mapping(ref["z"], ref["c"]), ref["ws"]) < 1e-5
    truncated = network.mapping(ref["z"], ref["c"], truncation_psi=0.5)
    assert relative_error(truncated, ref["ws_psi05"]) < 1e-5
    none = network(ref["z"], ref["c"], noise_mode="none")
    assert relative_error(none, ref["img_none"]) < 1e-5
    ws = ref["ws"].requires_grad_(True)
    img = network.synthesis(ws, noise_mode="const")
    assert relative_error(img, ref["img_const"]) < 1e-5
    (dws,) = torch.autograd.grad(img, ws, ref["dimg"])
    assert relative_error(dws, ref["dws"]) < 1e-4


def per_sample_modulated_conv2d(x, w, s, demodulate, up, padding, f):
    """SG2 Sec. 2.2 literally: per-sample weights, one convolution per sample."""
    outputs = []
    for image, style in zip(x, s, strict=True):
        weight = w * style[None, :, None, None]
        if demodulate:
            weight = weight * (weight.square().sum([1, 2, 3], keepdim=True) + 1e-8).rsqrt()
        if up > 1:  # on the zero-filled grid the filter spans 4 taps: 2 before, 1 after
            pads = [padding + 2, padding + 1] * 2
            image = upfirdn2d(image[None], f, up=up, padding=pads, gain=up**2)[0]
            outputs.append(F.conv2d(image[None], weight.flip([2, 3])))
        else:
            outputs.append(F.conv2d(image[None], weight, padding=padding))
    return torch.cat(outputs)


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize(("up", "kernel"), [(1, 3), (2, 3), (1, 1), (2, 1)])
def test_dense_form_equals_per_sample_weights(demodulate, up, kernel):
    x = torch.randn([3, 4, 5, 6], dtype=torch.float64, requires_grad=True)
    w = torch.randn([7, 4, kernel, kernel], dtype=torch.float64, requires_grad=True)
    s = torch.randn([3, 4], dtype=torch.float64, requires_grad=True)
    f, padding = setup_filter([1, 3, 3, 1]).double(), kernel // 2
    got = modulated_conv2d(
        x, w, s, demodulate=demodulate, up=up, padding=padding, resample_filter=f
    )
    expected = per_sample_modulated_conv2d(x, w, s, demodulate, up, padding, f)
    assert got.shape == (3, 7, 5 * up, 6 * up)
    torch.testing.assert_close(got, expected)
    dy = torch.randn_like(got)
    for a, b in zip(
        torch.autograd.grad(got, [x, w, s], dy),
        torch.autograd.grad(expected, [x, w, s], dy),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_half_precision_neither_overflows_nor_drifts():
    x = torch.randn([2, 32, 8, 8])
    w, s = torch.randn([16, 32, 3, 3]) * 50, torch.randn([2, 32]) * 3000
    full = modulated_conv2d(x, w, s, padding=1)
    half = modulated_conv2d(x.half(), w, s, padding=1)
    assert half.dtype == torch.float16
    assert relative_error(half.float(), full) < 5e-3
    # The worst case: everything in phase, inputs at the clamp, 288 terms to a sum.
    x, w, s = torch.full([1, 32, 4, 4], 256.0), torch.ones_like(w), torch.ones([1, 32])
    full = modulated_conv2d(x, w, s, padding=1)
    assert relative_error(modulated_conv2d(x.half(), w, s, padding=1).float(), full) < 5e-3


@pytest.mark.parametrize("resolution", [4, 8, 64])
@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
def test_shapes_and_every_latent_matters(resolution, architecture):
    network = tiny(resolution, architecture=architecture)
    assert network.num_ws == 2 * (resolution.bit_length() - 1) - 2
    ws = network.mapping(torch.randn([2, 6])).detach().requires_grad_(True)
    img = network.synthesis(ws)
    assert img.shape == (2, 3, resolution, resolution) and img.dtype == torch.float32
    (dws,) = torch.autograd.grad(img.square().sum(), ws)
    assert (dws.abs().amax(dim=[0, 2]) > 0).all()


def test_style_mixing_reaches_only_later_layers():
    network = tiny(16).eval()
    features = []
    for block in ("b4", "b8", "b16"):
        getattr(network.synthesis, block).conv1.register_forward_hook(
            lambda module, args, out: features.append(out)
        )
    ws = network.mapping(torch.randn([2, 6])).detach()
    mixed = torch.cat([ws[:1, :3], ws[1:, 3:]], dim=1)
    network.synthesis(ws[:1], noise_mode="const")
    network.synthesis(mixed, noise_mode="const")
    same = [torch.equal(a, b) for a, b in zip(features[:3], features[3:], strict=True)]
    # w0: b4.conv1; w1, w2: b8.conv0, conv1; w3, w4: b16; ToRGB uses the first of the next block.
    assert same == [True, True, False]


def test_noise_modes():
    network = tiny(8)
    with torch.no_grad():
        for name, p in network.named_parameters():
            if name.endswith("noise_strength"):
                p.fill_(0.5)
    ws = network.mapping(torch.randn([2, 6])).detach()
    render = network.synthesis
    const, none = render(ws, noise_mode="const"), render(ws, noise_mode="none")
    assert torch.equal(const, render(ws, noise_mode="const"))
    assert not torch.allclose(const, none)
    torch.manual_seed(1)
    first, second = render(ws), render(ws)
    torch.manual_seed(1)
    assert torch.equal(first, render(ws, noise_mode="random"))
    assert not torch.allclose(first, second)
    twins = render(ws[:1].repeat(2, 1, 1))
    assert not torch.allclose(twins[0], twins[1])  # every sample has its own noise


def test_without_noise_no_noise_tensors():
    names = tiny(8, use_noise=False).state_dict()
    assert names and not any("noise" in name for name in names)


@pytest.mark.parametrize("architecture", ["skip", "resnet"])
def test_state_dict_names_and_shapes(architecture):
    network = tiny(8, c_dim=2, architecture=architecture, mapping_kwargs={"num_layers": 2})
    got = {k: tuple(v.shape) for k, v in network.state_dict().items()}

    def layer(name, resolution, inputs, outputs):
        return {
            f"{name}.weight": (outputs, inputs, 3, 3),
            f"{name}.noise_strength": (),
            f"{name}.bias": (outputs,),
            f"{name}.resample_filter": (4, 4),
            f"{name}.noise_const": (resolution, resolution),
            f"{name}.affine.weight": (inputs, 5),
            f"{name}.affine.bias": (inputs,),
        }

    def torgb(name, inputs):
        return {
            f"{name}.weight": (3, inputs, 1, 1),
            f"{name}.bias": (3,),
            f"{name}.affine.weight": (inputs, 5),
            f"{name}.affine.bias": (inputs,),
        }

    expected = {
        "synthesis.b4.const": (12, 4, 4),
        "synthesis.b4.resample_filter": (4, 4),
        **layer("synthesis.b4.conv1", 4, 12, 12),
        "synthesis.b8.resample_filter": (4, 4),
        **layer("synthesis.b8.conv0", 8, 12, 8),
        **layer("synthesis.b8.conv1", 8, 8, 8),
        **torgb("synthesis.b8.torgb", 8),
        "mapping.embed.weight": (5, 2),
        "mapping.embed.bias": (5,),
        "mapping.fc0.weight": (5, 11),
        "mapping.fc0.bias": (5,),
        "mapping.fc1.weight": (5, 5),
        "mapping.fc1.bias": (5,),
        "mapping.w_avg": (5,),
    }
    if architecture == "skip":
        expected |= torgb("synthesis.b4.torgb", 12)
    else:
        expected["synthesis.b8.skip.weight"] = (8, 12, 1, 1)
        expected["synthesis.b8.skip.resample_filter"] = (4, 4)
    assert got == expected


def test_construction_draws_in_the_official_order():
    network = tiny(8, c_dim=2, architecture="resnet", mapping_kwargs={"num_layers": 1})
    order = ["b4.const"]
    for layer in ("b4.conv1", "b8.conv0", "b8.conv1"):
        order += [f"{layer}.affine.weight", f"{layer}.weight", f"{layer}.noise_const"]
    order += ["b8.torgb.affine.weight", "b8.torgb.weight", "b8.skip.weight"]
    order = [f"synthesis.{name}" for name in order]
    state = network.state_dict()
    torch.manual_seed(0)
    for name in [*order, "mapping.embed.weight", "mapping.fc0.weight"]:
        drawn = torch.randn(state[name].shape) * (100 if name.startswith("mapping.fc") else 1)
        torch.testing.assert_close(state[name], drawn, msg=name)


def test_w_avg_follows_only_when_asked():
    network = tiny(8)
    z = torch.randn([16, 6])
    network.train()
    network(z)
    assert (network.mapping.w_avg == 0).all()
    network(z, update_emas=True)
    expected = network.mapping(z)[:, 0].mean(0) * (1 - 0.998)
    torch.testing.assert_close(network.mapping.w_avg, expected.detach(), rtol=1e-4, atol=1e-7)


def test_official_options_are_accepted():
    network = tiny(8, fused_modconv_default="inference_only", num_fp16_res=0, conv_clamp=None)
    z = torch.randn([1, 6])
    plain = network(z, noise_mode="const")
    assert torch.equal(plain, network(z, noise_mode="const", force_fp32=True, fused_modconv=False))


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: tiny(24), "power of two"),
        (lambda: tiny(8, architecture="unet"), "architecture"),
        (lambda: tiny(8).synthesis(torch.zeros([1, 3, 5])), "ws"),
        (lambda: tiny(8).synthesis(torch.zeros([1, 5])), "ws"),
        (lambda: tiny(8)(torch.zeros([1, 6]), noise_mode="loud"), "noise_mode"),
        (lambda: tiny(8)(torch.zeros([1, 7])), "z"),
        (lambda: tiny(8, c_dim=2)(torch.zeros([1, 6])), "labels"),
        (lambda: tiny(8, c_dim=2)(torch.zeros([1, 6]), torch.zeros([1, 3])), "labels"),
    ],
)
def test_errors_are_clear(call, word):
    with pytest.raises(ValueError, match=word) as error:
        call()
    assert "\n" not in str(error.value)
