"""DiffAugment: every operation by hand, derivatives, ranges, files."""

import pytest
import torch

import sg3
from sg3.checkpoints.networks import Networks
from sg3.networks import build_network
from sg3.networks.diffaugment import POLICIES, DiffAugment, adjust_color, cut_out, translate
from sg3.training.config import DIFFAUG_POLICIES


def per_image(*values):
    return [torch.tensor([value]) for value in values]


def test_color_by_hand():
    # Two pixels, (0, 0.3, 0.6) and (0.3, 0.3, 0.3), and brightness 0.1: means 0.4 and 0.4.
    images = torch.tensor([[0.0, 0.3], [0.3, 0.3], [0.6, 0.3]]).view(1, 3, 1, 2)
    # Saturation 2: (−0.2, 0.4, 1.0) and gray 0.4. Contrast ½ about the mean 0.4: half way to it.
    expected = torch.tensor([[0.1, 0.4], [0.4, 0.4], [0.7, 0.4]]).view(1, 3, 1, 2)
    got = adjust_color(images, *per_image(0.1, 2.0, 0.5))
    torch.testing.assert_close(got, expected)
    alpha = torch.tensor([[[[1.0, -1.0]]]])
    got = adjust_color(torch.cat([images, alpha], dim=1), *per_image(0.1, 2.0, 0.5))
    torch.testing.assert_close(got, torch.cat([expected, alpha], dim=1))


def test_contrast_of_gray_by_hand_and_no_saturation():
    images = torch.tensor([[[[0.0, 0.2, 0.4, 0.6]]]])
    expected = torch.tensor([[[[-0.15, 0.15, 0.45, 0.75]]]])  # mean 0.3, distances times 1.5
    for saturation in (0.0, 1.0, 2.0):
        got = adjust_color(images, *per_image(0.0, saturation, 1.5))
        torch.testing.assert_close(got, expected)


def test_translation_by_hand():
    image = torch.arange(1.0, 7.0).view(1, 1, 2, 3).expand(2, -1, -1, -1)  # [[1 2 3], [4 5 6]]
    shift = torch.tensor([[1, -2], [0, 1]])
    got = translate(image, shift, (1, 2))
    assert got[0, 0].tolist() == [[0, 0, 0], [3, 0, 0]]  # down 1, left 2
    assert got[1, 0].tolist() == [[0, 1, 2], [0, 4, 5]]


def test_cutout_by_hand():
    images = torch.ones([2, 2, 3, 4])
    got = cut_out(images, torch.tensor([[1, 2], [-1, -1]]), (1, 2))
    assert got[0, 0].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert torch.equal(got[1], images[1])  # row −1 is outside
    got = cut_out(images, torch.tensor([[-1, -1], [2, 3]]), (2, 2))
    assert got[0, 1].tolist() == [[0, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert got[1, 1].tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]]


@pytest.mark.parametrize("policies", [*((name,) for name in POLICIES), POLICIES])
def test_derivatives(policies):
    """First and second, in float64; gray and not square."""
    augment = DiffAugment(policies)
    images = torch.rand([2, 1, 8, 16], dtype=torch.float64, requires_grad=True)

    def function(x):
        torch.manual_seed(3)
        return augment(x).tanh()

    assert torch.autograd.gradcheck(function, images, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, images, fast_mode=True)


def test_r1_counts_the_visible_pixels():
    """Of a D that sums all pixels, the squared gradient norm is the number that it sees."""
    images = torch.rand([1000, 1, 16, 32], requires_grad=True)
    torch.manual_seed(0)
    (grads,) = torch.autograd.grad(DiffAugment(["translation"])(images).sum(), images)
    seen = grads.square().sum([1, 2, 3])
    # Up to 2 of 16 rows and 4 of 32 columns move out; 1000 images have all 45 shifts.
    assert seen.max() == 16 * 32 and seen.min() == 14 * 28
    torch.manual_seed(0)
    (grads,) = torch.autograd.grad(DiffAugment(["cutout"])(images).sum(), images)
    hidden = 16 * 32 - grads.square().sum([1, 2, 3])
    # 8×16 inside the image, 4×8 with the centre in a corner: 2 of 17×33 places, or nearly so.
    assert hidden.max() == 8 * 16 and 4 * 8 <= hidden.min() < 8 * 8


def test_color_strengths():
    torch.manual_seed(0)
    images = torch.tensor([0.4, -0.4]).view(1, 1, 1, 2).expand(2000, -1, -1, -1)
    got = DiffAugment(["color"])(images)[:, 0, 0]
    brightness, contrast = got.mean(1), (got[:, 0] - got[:, 1]) / 0.8
    for values, low, high in ((brightness, -0.5, 0.5), (contrast, 0.5, 1.5)):
        assert low - 1e-6 <= values.min() < low + 0.01 and high - 0.01 < values.max() <= high + 1e-6
    pure = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(2000, -1, -1, -1)
    got = DiffAugment(["color"])(pure)[:, :, 0, 0]
    # One pixel: contrast pulls to the mean of its channels too, so the distances are s·c.
    distances = got[:, 0] - got[:, 1]
    assert 0 <= distances.min() < 0.01 and 2.5 < distances.max() <= 3


@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (2, 3, 12, 20), (2, 4, 16, 12)])
def test_shapes(shape):
    images = torch.rand(shape)
    y = DiffAugment()(images)
    assert y.shape == images.shape and not torch.equal(y, images)
    assert DiffAugment()(images.to("meta")).shape == images.shape  # as `sg3 plan` runs it


def test_wrong_input():
    with pytest.raises(ValueError, match="policies: got 'colour', expected color, translation"):
        DiffAugment(["colour"])
    with pytest.raises(ValueError, match="images: got shape"):
        DiffAugment()(torch.zeros(2, 5, 8, 8))


def test_a_network_file_keeps_the_policies(tmp_path):
    G = build_network(
        "stylegan2",
        dict(z_dim=4, c_dim=0, w_dim=4, img_resolution=8, img_channels=1, channel_base=32),
    )
    pipe = build_network("diffaugment", {"policies": ["color", "cutout"]})
    sg3.save(Networks(G_ema=G, augment_pipe=pipe), tmp_path / "n.safetensors")
    assert sg3.load(tmp_path / "n.safetensors").augment_pipe.policies == ("color", "cutout")


def test_names_are_those_of_the_options():
    assert POLICIES == DIFFAUG_POLICIES
