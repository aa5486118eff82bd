"""StyleGAN3 against golden values: images, gradients, averages, transforms, schedules."""

import json

import numpy as np
import pytest
import repository
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

import sg3
from sg3.networks import build_network

GOLDEN = repository.GOLDEN
NAMES = ["sg3t-32", "sg3r-32", "sg3t-32-cond", "sg3r-32-custom"]


def relative_error(got, expected):
    expected = torch.as_tensor(expected)
    return float((got - expected).abs().max() / expected.abs().max().clamp(min=1e-8))


@pytest.fixture(params=NAMES)
def golden(request):
    spec = json.loads((GOLDEN / f"{request.param}.json").read_text())
    G = build_network("stylegan3", spec["kwargs"])
    G.load_state_dict(load_file(GOLDEN / f"{request.param}.safetensors"))
    io = {k: torch.from_numpy(v) for k, v in np.load(GOLDEN / f"{request.param}.io.npz").items()}
    return G.eval(), io


def test_images_and_latents(golden):
    G, io = golden
    with torch.no_grad():
        assert relative_error(G.mapping(io["z"], io["c"]), io["ws"]) < 1e-5
        truncated = G.mapping(io["z"], io["c"], truncation_psi=0.6, truncation_cutoff=8)
        assert relative_error(truncated, io["ws_psi0.6_cutoff8"]) < 1e-5
        assert relative_error(G(io["z"], io["c"]), io["img"]) < 2e-5


def test_every_layer(golden):
    G, io = golden
    ws = io["ws"].unbind(dim=1)
    with torch.no_grad():
        x = G.synthesis.input(ws[0])
        assert relative_error(x, io["act00"]) < 1e-4
        for i, name in enumerate(G.synthesis.layer_names):
            x = getattr(G.synthesis, name)(x, ws[i + 1])
            energy = io[f"act{i + 1:02d}_mean_square"]
            assert relative_error(x.square().mean([2, 3]), energy) < 1e-4


def test_gradients(golden):
    G, io = golden
    ws = io["ws"].clone().requires_grad_()
    (G.synthesis(ws) * io["dimg"]).sum().backward()
    assert relative_error(ws.grad, io["dws"]) < 1e-4
    norms = {k: v for k, v in io.items() if k.startswith("grad_norm/")}
    parameters = dict(G.synthesis.named_parameters())
    assert len(norms) == len(parameters)
    for key, norm in norms.items():
        got = parameters[key.removeprefix("grad_norm/")].grad.norm()
        assert abs(got - norm) <= 1e-4 * abs(norm) + 1e-6, key


def test_user_transform(golden):
    G, io = golden
    with torch.no_grad():
        G.synthesis.input.transform.copy_(io["transform_inverse"])
        assert relative_error(G(io["z"], io["c"]), io["img_transformed"]) < 2e-5


def test_update_emas(golden):
    G, io = golden
    with torch.no_grad():
        img = G(io["z"], io["c"], update_emas=True)
    assert relative_error(img, io["img_update_emas"]) < 2e-5
    assert relative_error(G.mapping.w_avg, io["w_avg_after"]) < 1e-5
    emas = [getattr(G.synthesis, n).magnitude_ema for n in G.synthesis.layer_names]
    assert relative_error(torch.stack(emas), io["magnitude_ema_after"]) < 1e-5


def test_official_schedules():
    names_t = (
        "L0_36_512 L1_36_512 L2_36_512 L3_52_512 L4_52_512 L5_84_512 L6_84_512 L7_148_362 "
        "L8_148_256 L9_148_181 L10_276_128 L11_276_91 L12_276_64 L13_256_64 L14_256_3"
    )
    shape = dict(z_dim=8, c_dim=0, w_dim=8, img_resolution=256, img_channels=3)
    G = build_network("stylegan3", dict(shape, channel_base=16384))
    assert " ".join(G.synthesis.layer_names) == names_t
    assert G.synthesis.L3_52_512.padding == [-6, -9, -6, -9]
    assert G.synthesis.L13_256_64.padding == [-11, -12, -11, -12]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_critical": 14}, "num_critical"),
        ({"channels": 3}, "channels"),
    ],
)
def test_wrong_arguments(change, message):
    shape = dict(z_dim=8, c_dim=0, w_dim=8, img_resolution=32, img_channels=3, channel_max=8)
    with pytest.raises((ValueError, TypeError), match=message):
        build_network("stylegan3", {**shape, **change})


def test_translated_input_translates_the_image():
    """A shift by whole pixels moves the interior of the image exactly."""
    torch.manual_seed(0)
    G = build_network(
        "stylegan3",
        dict(
            z_dim=8, c_dim=0, w_dim=8, img_resolution=32, img_channels=3, channel_max=8,
            first_cutoff=2, num_layers=6,
        ),
    ).eval()  # fmt: skip
    z = torch.randn([1, 8])
    with torch.no_grad():
        still = G(z)
        G.synthesis.input.transform[0, 2] = -4 / 32
        moved = G(z)
    error = (moved[..., 8:28] - still[..., 4:24]).square().mean()
    assert error < 1e-3 * still.square().mean()


@pytest.mark.slow
def test_bf16_convolutions_are_a_preview():
    from sg3.networks.precision import set_conv_precision

    G = sg3.load("mini-faces").G_ema
    ws = G.mapping(torch.from_numpy(np.random.RandomState(0).randn(8, G.z_dim)))
    exact = G.synthesis(ws)
    set_conv_precision(G, "bf16")
    preview = G.synthesis(ws)
    assert preview.dtype == torch.float32
    error = (preview - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert 1e-4 < error < 0.02
    set_conv_precision(G, "fp32")
    assert torch.equal(G.synthesis(ws), exact)
    with pytest.raises(ValueError, match="precision: got 'fp8'"):
        set_conv_precision(G, "fp8")
    with pytest.raises(ValueError, match="only StyleGAN3"):
        set_conv_precision(torch.nn.Identity(), "bf16")


def test_frozen_weights_cost_no_gradient():
    """With only the gradient of ws, no convolution computes a weight gradient."""

    class Masks(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.seen = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten.convolution_backward.default:
                self.seen.append(args[-1])
            return function(*args, **(kwargs or {}))

    G = sg3.load("mini-faces").G_ema
    ws = torch.randn(1, G.num_ws, G.w_dim, requires_grad=True)
    image = G.synthesis(ws)
    with Masks() as masks:
        torch.autograd.grad(image.sum(), ws)
    layers = [getattr(G.synthesis, name) for name in G.synthesis.layer_names]
    assert len(masks.seen) == sum(layer.conv_kernel > 1 for layer in layers) > 0
    assert all(mask == [True, False, False] for mask in masks.seen)


def test_half_precision_is_that_of_the_marked_layers():
    """Layers only use it on CUDA; here the setting is tested."""
    from sg3.networks.precision import set_half_precision

    G = sg3.load("mini-faces").G_ema
    set_half_precision(G, "bf16")
    layers = [getattr(G.synthesis, name) for name in G.synthesis.layer_names]
    assert {layer.half_dtype for layer in layers} == {torch.bfloat16}
    with pytest.raises(ValueError, match="fp16 or bf16"):
        set_half_precision(G, "fp8")
