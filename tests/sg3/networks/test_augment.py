"""The augmentation pipe: golden values, derivatives, statistics, shapes; its controller."""

import json

import numpy as np
import pytest
import repository
import torch

import sg3
from sg3.networks import build_network
from sg3.networks.augment import PRESETS, AugmentPipe, band_filters, reflect
from sg3.networks.augment_draws import Draws
from sg3.networks.augment_geometry import draw_geometry
from sg3.training.stats import AdaConfig, AdaController, adjusted_p

GOLDEN = repository.GOLDEN
CASES = json.loads((GOLDEN / "augment.json").read_text())
EVERYTHING = PRESETS["bgcfnc"] | {"yflip": 1.0}


@pytest.fixture(scope="module")
def arrays():
    return np.load(GOLDEN / "augment.npz")


def relative_error(got, expected):
    return np.abs(got.detach().numpy() - expected).max() / np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=[case["key"] for case in CASES])
def test_images_and_gradients_equal_reference(arrays, case):
    pipe, key = AugmentPipe(**case["augment"]), case["key"]
    images = torch.from_numpy(arrays["img"]).requires_grad_(True)
    y = pipe(images, debug_percentile=case["percentile"])
    (dx,) = torch.autograd.grad(y, images, torch.from_numpy(arrays[f"{key}_dy"]))
    assert relative_error(y, arrays[key]) < 2e-5
    assert relative_error(dx, arrays[f"{key}_dx"]) < 2e-5
    assert np.abs(arrays[key] - arrays["img"]).max() > 0.05 or case["percentile"] == 0.2


@pytest.mark.parametrize("operation", [*EVERYTHING, "all"])
def test_derivatives_of_every_operation(operation):
    """First and second, in float64, at drawn (not fixed) parameters."""
    multipliers = EVERYTHING if operation == "all" else {operation: 1.0}
    pipe = AugmentPipe(**multipliers).double()
    images = torch.rand([1, 3, 6, 7], dtype=torch.float64, requires_grad=True)

    def function(x):
        torch.manual_seed(3)
        return pipe(x)

    assert torch.autograd.gradcheck(function, images, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, images, fast_mode=True)


def test_r1_looks_through_it():
    pipe = AugmentPipe(**PRESETS["bgc"])
    images = torch.rand([2, 3, 8, 8], requires_grad=True)
    weight = torch.ones([], requires_grad=True)
    (grads,) = torch.autograd.grad((pipe(images) * weight).tanh().sum(), images, create_graph=True)
    grads.square().sum().backward()
    assert weight.grad.abs() > 0


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (2, 3, 12, 20), (2, 4, 16, 12)])
def test_presets_channels_and_shapes(preset, shape):
    torch.manual_seed(0)
    images = torch.rand(shape)
    y = AugmentPipe(**PRESETS[preset])(images)
    assert y.shape == images.shape and y.isfinite().all()
    assert not torch.equal(y, images)
    if preset == "color" and shape[1] == 4:
        assert torch.equal(y[:, 3], images[:, 3])  # alpha is no colour


def test_the_same_seed_draws_the_same():
    pipe, images = AugmentPipe(**EVERYTHING), torch.rand([4, 3, 16, 16])
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(pipe(images))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_noise_and_cutout_draw_a_value_then_its_gate_then_the_rest():
    """In the order of REFERENCE.md §5.6, so that runs of one seed see the same augmentations."""
    images, pipe = torch.rand([6, 3, 8, 12]), AugmentPipe(noise=1, cutout=1)
    pipe.p.fill_(0.5)
    torch.manual_seed(5)
    y = pipe(images)
    torch.manual_seed(5)
    sigma, gate = torch.randn([6, 1, 1, 1]).abs() * 0.1, torch.rand([6, 1, 1, 1]) < 0.5
    expected = images + torch.randn(images.shape) * sigma * gate
    half = torch.where(torch.rand([6, 1, 1]) < 0.5, 0.25, 0.0)
    cx, cy = torch.rand([6, 2, 1, 1]).unbind(1)
    columns, rows = (torch.arange(12) + 0.5) / 12, (torch.arange(8) + 0.5)[:, None] / 8
    keep = ((columns - cx).abs() >= half) | ((rows - cy).abs() >= half)
    assert gate.any() and not gate.all() and not keep.all()
    torch.testing.assert_close(y, expected * keep[:, None])


@pytest.mark.parametrize("size", [(2, 5), (8, 12), (12, 20), (40, 9)])
def test_borders_wider_than_the_image_are_reflected_again(size):
    images = torch.rand([1, 1, *size])
    expected = np.pad(images[0, 0].numpy(), 21, mode="reflect")
    np.testing.assert_array_equal(reflect(images, 21)[0, 0].numpy(), expected)


def test_disabled_operations_neither_run_nor_draw():
    images, state = torch.rand([2, 3, 8, 8]), torch.get_rng_state()
    assert AugmentPipe()(images) is images
    assert torch.equal(torch.get_rng_state(), state)


def test_p_0_changes_colours_and_bands_by_nothing():
    pipe = AugmentPipe(**PRESETS["color"], imgfilter=1, noise=1, cutout=1)
    pipe.p.fill_(0)
    images = torch.rand([4, 3, 48, 48])
    assert (pipe(images) - images).abs().max() < 1e-5


def smooth_images(height, width):
    """An image without frequencies that the pipe's low-pass filter removes."""
    y, x = torch.meshgrid(torch.linspace(0, 2, height), torch.linspace(0, 3, width), indexing="ij")
    return torch.stack([torch.sin(x + 2 * y), torch.cos(2 * x - y), torch.sin(x * y)])[None]


def test_rotations_and_flips():
    """Away from the reflected border; the filter is asymmetric: it shifts by a fifth of a pixel."""
    inside = (..., slice(4, -4), slice(4, -4))
    images = smooth_images(32, 32)
    turned = AugmentPipe(rotate90=1.0)(images, debug_percentile=0.3)  # one quarter
    assert (turned - torch.rot90(images, 1, [2, 3]))[inside].abs().max() < 0.05
    images = smooth_images(24, 32)
    for name, axis in (("xflip", 3), ("yflip", 2)):
        flipped = AugmentPipe(**{name: 1.0})(images, debug_percentile=0.7)
        assert (flipped - images.flip(axis))[inside].abs().max() < 0.05
        assert (flipped - images).abs().max() > 0.5


def inverse_transforms(num=20000, **multipliers):
    torch.manual_seed(0)
    pipe = AugmentPipe(**multipliers)
    pipe.p.fill_(0.4)
    draws = Draws(num, torch.device("cpu"), torch.float32)
    return draw_geometry(pipe, draws, 64, 128)


def test_gates_open_with_probability_p():
    matrices = inverse_transforms(scale=0.5)
    changed = (matrices[:, 0, 0] != 1).float().mean()
    assert float(changed) == pytest.approx(0.2, abs=0.01)
    # Before or after stretching: together with probability rotate·p.
    turned = (inverse_transforms(rotate=1)[:, 0, 1] != 0).float().mean()
    assert float(turned) == pytest.approx(0.4, abs=0.012)


def test_strengths_have_the_configured_size():
    matrices = inverse_transforms(scale=1)
    octaves = -matrices[:, 0, 0].log2()
    octaves = octaves[octaves != 0]
    assert float(octaves.std()) == pytest.approx(0.2, rel=0.05)
    assert float(octaves.mean()) == pytest.approx(0, abs=0.01)
    matrices = inverse_transforms(xfrac=1)
    moved = matrices[matrices[:, 0, 2] != 0]
    assert float(moved[:, 0, 2].std()) == pytest.approx(0.125 * 128, rel=0.05)
    assert float(moved[:, 1, 2].std()) == pytest.approx(0.125 * 64, rel=0.05)
    matrices = inverse_transforms(xint=1)
    assert torch.equal(matrices[:, :2, 2], matrices[:, :2, 2].round())
    assert matrices[:, 0, 2].abs().max() == 16 and matrices[:, 1, 2].abs().max() == 8


def test_band_filters_split_an_impulse():
    bank = band_filters()
    head = [-1, 0, 9, 16, 18, 0, -66, -144, -207, -256, -297, -288, -212, 0, 468]
    np.testing.assert_allclose(bank[0, :15] * 2**15, head, atol=1e-6)
    np.testing.assert_allclose(bank.sum(axis=1), [1, 0, 0, 0], atol=1e-9)
    impulse = np.eye(1, 43, 21)[0]
    np.testing.assert_allclose(bank.sum(axis=0), impulse, atol=1e-9)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 2, 8, 8), (1, 5, 8, 8)])
def test_wrong_images_are_one_line(shape):
    with pytest.raises(ValueError, match=r"images: got shape"):
        AugmentPipe(xflip=1)(torch.zeros(shape))


def test_wrong_arguments_are_one_line():
    with pytest.raises(ValueError, match=r"imgfilter_bands: got 3 numbers, expected 4"):
        AugmentPipe(imgfilter=1, imgfilter_bands=[1, 1, 1])
    with pytest.raises(ValueError, match=r"images: got 1x9 pixels, expected at least 2x2"):
        AugmentPipe(imgfilter=1)(torch.zeros([1, 3, 1, 9]))


@pytest.mark.parametrize("kind", ["augment", "augment_pipe"])
def test_pipes_are_built_by_kind(kind):
    pipe = build_network(kind, PRESETS["bgc"])
    assert isinstance(pipe, AugmentPipe) and pipe.kind == kind


def test_files_hold_a_pipe_that_works(tmp_path):
    nets = sg3.load(GOLDEN / "official-sg3t-32.pkl")
    pipe = nets.augment_pipe
    assert isinstance(pipe, AugmentPipe) and pipe.xflip == 1
    sg3.save(nets, tmp_path / "copy.safetensors")
    copy = sg3.load(tmp_path / "copy.safetensors").augment_pipe
    images = torch.rand([2, 3, 32, 32])
    assert torch.equal(copy(images, debug_percentile=0.7), pipe(images, debug_percentile=0.7))


def test_controller_is_the_formula():
    config = AdaConfig(target=0.6, interval=4, kimg=100)
    assert adjusted_p(0.2, 0.7, config, batch=32) == pytest.approx(0.2 + 32 * 4 / 100e3)
    assert adjusted_p(0.2, 0.5, config, batch=32) == pytest.approx(0.2 - 32 * 4 / 100e3)
    assert adjusted_p(0.2, 0.6, config, batch=32) == 0.2
    assert adjusted_p(0.0005, 0.1, config, batch=32) == 0
    pipe = AugmentPipe(**PRESETS["bgc"])
    pipe.p.fill_(0)
    controller = AdaController(pipe, config)
    for batch_idx in range(1, 9):
        controller.observe(torch.ones([32]))
        controller.adjust(batch_idx, 32)
        steps = batch_idx // 4
        assert float(pipe.p) == pytest.approx(steps * 32 * 4 / 100e3)
    controller.observe(torch.tensor([1.0, -1.0, -1.0]))
    other = AdaController(AugmentPipe(), config)
    other.load_state(controller.state())
    assert other.state().tolist() == [3, -1]
    saved = other.state()
    other.observe(torch.ones([5]))
    assert saved.tolist() == [3, -1]  # a copy: training continues while it is written


def test_controller_counts_all_processes():
    """One process sees 4 images with sign 1, the other 12 with −1: the mean is −0.5."""
    pipe = AugmentPipe()
    pipe.p.fill_(0.5)
    controller = AdaController(pipe, AdaConfig(target=0.0, interval=1, kimg=1))
    controller.observe(torch.ones([4]))
    controller.adjust(1, 16, reduce=lambda tensor: tensor.add_(torch.tensor([12.0, -12.0])))
    assert controller.moments().tolist() == [0, 0]
    assert float(pipe.p) == pytest.approx(0.5 - 16 / 1000)
