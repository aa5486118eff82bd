"""Non-square images in all networks; square ones are unchanged."""

import math

import numpy as np
import pytest
import torch

import sg3
from sg3.networks import build_network
from sg3.networks.layer_schedule import plan_layers
from sg3.networks.sizes import ImageSize, block_sizes

SMALL = dict(z_dim=8, c_dim=0, w_dim=8, img_channels=3, channel_base=128, channel_max=8)
SG3 = dict(SMALL, num_layers=4, margin_size=6)
RADIAL = dict(conv_kernel=1, use_radial_filters=True)


def generator(kind, img_resolution, **kwargs):
    torch.manual_seed(0)
    common = SMALL if kind == "stylegan2" else SG3
    return build_network(kind, dict(common, img_resolution=img_resolution, **kwargs)).eval()


def discriminator(img_resolution):
    torch.manual_seed(0)
    sizes = {k: SMALL[k] for k in ("c_dim", "img_channels", "channel_base", "channel_max")}
    return build_network("discriminator", dict(sizes, img_resolution=img_resolution))


KINDS = [("stylegan3", {}), ("stylegan3", RADIAL), ("stylegan2", {})]


@pytest.mark.parametrize("kind, kwargs", KINDS, ids=["t", "r", "sg2"])
@pytest.mark.parametrize("size", [(32, 24), (16, 32), (36, 64)])
def test_generators_and_discriminator(kind, kwargs, size):
    G, D = generator(kind, size, **kwargs), discriminator(size)
    ws = G.mapping(torch.randn(2, 8)).detach().requires_grad_(True)
    images = G.synthesis(ws, noise_mode="const")
    assert images.shape == (2, 3, *size) and images.isfinite().all()
    assert G.img_resolution == size and (G.img_height, G.img_width) == size
    logits = D(images)
    assert logits.shape == (2, 1)
    (grads,) = torch.autograd.grad(logits.sum(), ws)
    assert grads.isfinite().all() and grads.abs().sum() > 0
    with pytest.raises(ValueError, match=r"img: got shape"):
        D(images.transpose(2, 3))


@pytest.mark.parametrize("kind", ["stylegan3", "stylegan2"])
def test_a_pair_of_equal_sides_is_the_square(kind):
    square, pair = generator(kind, 32), generator(kind, [32, 32])
    assert pair.img_resolution == 32
    assert type(generator(kind, np.int64(32)).img_resolution) is int
    assert square.state_dict().keys() == pair.state_dict().keys()
    z = torch.randn(1, 8)
    assert torch.equal(square(z, noise_mode="const"), pair(z, noise_mode="const"))
    assert discriminator(32).state_dict().keys() == discriminator((32, 32)).state_dict().keys()


def with_weights_of(other, G):
    """Copy the parameters of `other`, whose layers have other names, to `G`."""
    for own, given in zip(G.state_dict().values(), other.state_dict().values(), strict=True):
        own.copy_(given)
    return G


@pytest.mark.parametrize("kwargs", [{}, RADIAL], ids=["t", "r"])
@pytest.mark.parametrize("size", [(64, 32), (32, 64), (48, 64), (40, 64), (48, 96), (96, 64)])
def test_a_wide_image_is_the_middle_of_the_square_one(kwargs, size):
    """Pixels are square: the images are equal away from the cropped borders."""
    side = max(size)
    square = generator("stylegan3", side, margin_size=16, **kwargs)
    wide = with_weights_of(square, generator("stylegan3", size, margin_size=16, **kwargs))
    z = torch.randn(1, 8)
    top, left = (side - size[0]) // 2, (side - size[1]) // 2
    expected = square(z)[:, :, top : top + size[0], left : left + size[1]]
    got = wide(z)
    assert (got - expected).abs().max() < 1e-3 * expected.abs().max()


@pytest.mark.parametrize("size", [(32, 64), (64, 48), (32, 48), (40, 36), 48])
def test_a_translated_input_translates_the_image(size):
    """A pixel is 1 / larger side, in x and in y."""
    G = generator("stylegan3", size, margin_size=16)
    z = torch.randn(1, 8)
    before = G(z)
    G.synthesis.input.transform[:2, 2] = -torch.tensor([4, 2]) / max(G.img_height, G.img_width)
    after = G(z)
    error = after[:, :, 8:-8, 8:-8] - before.roll((2, 4), (2, 3))[:, :, 8:-8, 8:-8]
    assert error.abs().max() < 2e-2 * before.abs().max()
    assert (after - before).abs().max() > 0.1 * before.abs().max()


@pytest.mark.parametrize("size", [(32, 64), (48, 36), (30, 50)])
def test_half_a_turn_of_the_input_turns_the_image(size):
    """With 1×1 kernels and symmetric filters all layers are centred, in both axes."""
    G = generator("stylegan3", size, margin_size=16, **RADIAL)
    z = torch.randn(1, 8)
    before = G(z)
    G.synthesis.input.transform[:2, :2] = -torch.eye(2)
    error = (G(z) - before.flip(2, 3)).abs()[:, :, 8:-8, 8:-8]
    assert error.max() < 1e-4 * before.abs().max()


@pytest.mark.parametrize("size", [16, 1024, 768, (1080, 1920), (17, 23)])
def test_every_rate_is_the_larger_side_halved_and_wide_enough(size):
    """The formula of REFERENCE.md §2.2 for powers of two, its extension for other sizes."""
    first, last, side = 2**2.1, 2**0.3, max(size) if isinstance(size, tuple) else size
    for plan in plan_layers(size, 3, 32768, 512, 14, 2, 2, first, last, 10, 4):
        needed = min(2 * first * (last * side / 2 / first) ** min(plan.index / 12, 1), side)
        rate = plan.target.sampling_rate
        assert math.log2(side / rate).is_integer() and needed <= rate < 2 * needed
        if not side & (side - 1):
            assert rate == 2 ** math.ceil(math.log2(needed)) and type(rate) is int


def test_names_of_layers_and_blocks():
    G = generator("stylegan3", (48, 64))
    assert G.synthesis.layer_names[-1] == "L4_64x48_3"
    assert generator("stylegan3", 64).synthesis.layer_names[-1] == "L4_64_3"
    assert generator("stylegan2", (36, 64)).synthesis.block_resolutions == [16, 32, 64]
    assert generator("stylegan2", (36, 64)).synthesis.b16.const.shape == (8, 9, 16)
    assert list(block_sizes(ImageSize(192, 256))) == [4, 8, 16, 32, 64, 128, 256]


def test_files_keep_the_size(tmp_path):
    networks = sg3.Networks(G_ema=generator("stylegan3", (24, 32)), D=discriminator((24, 32)))
    sg3.save(networks, tmp_path / "wide.safetensors")
    copy = sg3.load(tmp_path / "wide.safetensors")
    assert copy.G_ema.img_resolution == (24, 32)
    z = torch.randn(1, 8)
    assert torch.allclose(copy.G_ema(z), networks.G_ema(z), atol=1e-5)


@pytest.mark.parametrize(
    "kind, size, message",
    [
        ("stylegan3", (32, 32, 3), "a pair"),
        ("stylegan3", "32", "a pair"),
        ("stylegan3", 32.0, "a pair"),
        ("stylegan2", None, "a pair"),
        ("stylegan2", (0, 32), "a pair"),
        ("stylegan2", (90, 160), "like 1024x576"),
        ("stylegan2", 48, "a power of two >= 4"),
        ("discriminator", (45, 64), "like 1024x576"),
        ("discriminator", 4, "at least 8"),
    ],
)
def test_sizes_that_do_not_fit_are_one_line(kind, size, message):
    with pytest.raises(ValueError, match=message):
        discriminator(size) if kind == "discriminator" else generator(kind, size)
