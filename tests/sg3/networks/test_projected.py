"""The projected discriminator: mixing by hand, hinge loss, files, feature networks, bad input."""

import os

import pytest
import torch
from safetensors.torch import save_file

import sg3
from sg3.checkpoints.networks import Networks
from sg3.networks import build_network, feature_maps, projected
from sg3.networks.feature_maps import load_feature_maps
from sg3.networks.projected import FixedMixing, projected_kwargs, scale_discriminator
from sg3.training.loss import GANLoss, LossConfig


def test_mixing_by_hand():
    mixing = FixedMixing([1, 4], width=1)
    for name, value in {"channels0": 2.0, "channels1": 3.0}.items():
        mixing.get_buffer(name).fill_(value)
    for i in (0, 1):  # 3 in the centre, of nine taps: times 3/√9 = 1
        mixing.get_buffer(f"scales{i}").zero_()[0, 0, 1, 1] = 3
    fine = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    coarse = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)
    got = mixing([fine, coarse])
    assert got[1].item() == pytest.approx(3 * 10 / 2)  # four channels: divided by √4
    torch.testing.assert_close(got[0], (2 * fine + 15) / 2**0.5)
    assert not list(mixing.parameters()) and len(mixing.state_dict()) == 4


@pytest.mark.parametrize("side, logits", [(32, 4), (8, 4), (4, 4), (7, 3)])
def test_every_scale_ends_at_about_four_pixels(side, logits):
    assert scale_discriminator(side, 8)(torch.zeros(2, 8, side, side)).shape == (
        2,
        1,
        logits,
        logits,
    )


@pytest.fixture(scope="module")
def D():
    torch.manual_seed(0)
    return build_network("projected", projected_kwargs("mini", [16, 32], 1))


def test_logits_reach_the_image_and_not_the_features(D):
    images = torch.rand(2, 1, 16, 32, requires_grad=True)
    logits = D(images)
    assert logits.shape == (2, 4 * 16)
    logits.sum().backward()
    assert images.grad.abs().amax(dim=(1, 2, 3)).min() > 0
    names = {name.split(".")[0] for name, _ in D.named_parameters()}
    assert names == {"scales"}
    assert {name.split(".")[0] for name in D.state_dict()} == {"scales", "mixing"}


def test_a_file_names_its_features_and_loads_them_on_use(D, tmp_path, monkeypatch):
    G = build_network(
        "stylegan2",
        dict(z_dim=4, c_dim=0, w_dim=4, img_resolution=8, img_channels=1, channel_base=32),
    )
    sg3.save(Networks(G_ema=G, D=D), tmp_path / "n.safetensors")
    asked = []
    original = projected.load_feature_maps
    monkeypatch.setattr(
        projected, "load_feature_maps", lambda *args: asked.append(args[0]) or original(*args)
    )
    loaded = sg3.load(tmp_path / "n.safetensors").D
    assert not asked
    images = torch.rand(2, 1, 16, 32)
    assert torch.equal(loaded(images), D.eval()(images)) and asked == ["mini"]


def test_hinge_loss_by_hand():
    """Scores −3x of a D with one weight, for images that are 0.1 (real) and 0.5 (generated)."""
    weight = torch.tensor([-3.0], requires_grad=True)

    class G(torch.nn.Linear):
        def mapping(self, z, c, update_emas=False):
            return z

        def synthesis(self, ws, update_emas=False):
            return self.weight.expand(len(ws), 1, 1, 1) * 1.0

    def gradient(phase, scale):
        g = G(1, 1)
        torch.nn.init.constant_(g.weight, 0.5)
        weight.grad = None
        reported = {}
        loss = GANLoss(
            g,
            lambda x, c: x.flatten(1) * weight * scale,
            LossConfig(kind="hinge", r1_gamma=0),
            report=lambda name, x: reported.setdefault(name, x.detach().mean().item()),
        )
        args = (torch.full([2, 1, 1, 1], 0.1), torch.zeros(2, 0), torch.zeros(2, 1))
        loss.accumulate_gradients(phase, *args, torch.zeros(2, 0), gain=1, cur_nimg=0)
        return weight.grad.item(), reported

    # Real −0.3: 1 + 0.3, slope −0.1. Generated −1.5: beyond −1, no loss and no slope.
    slope, reported = gradient("Dmain", 1)
    assert slope == pytest.approx(-0.1) and reported["Loss/D/loss"] == pytest.approx(1.3)
    # A third of it. Real −0.1: 1.1; generated −0.5: 0.5; slopes −0.1/3 and 0.5/3.
    slope, reported = gradient("Dmain", 1 / 3)
    assert slope == pytest.approx(0.4 / 3) and reported["Loss/D/loss"] == pytest.approx(1.6)
    _, reported = gradient("Gmain", 1)
    assert reported["Loss/G/loss"] == pytest.approx(1.5)


def test_maps_of_a_timm_model_from_a_file(tmp_path):
    timm = pytest.importorskip("timm")
    model = timm.create_model("test_resnet")
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    maps = load_feature_maps(f"timm:test_resnet/{tmp_path}/weights.safetensors")
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    got = maps(images)
    assert [tuple(x.shape[1:]) for x in got] == [
        (c, s, s) for c, s in zip(maps.channels, maps.sides_px, strict=True)
    ]
    size = model.pretrained_cfg["input_size"][-1]
    pixels = torch.nn.functional.interpolate(images, [size, size], mode="bilinear", antialias=True)
    mean, std = (torch.tensor(model.pretrained_cfg[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    expected = model.eval().forward_features(((pixels + 1) / 2 - mean) / std)
    torch.testing.assert_close(got[-1], expected)
    assert torch.autograd.grad(got[0].sum(), images)[0].abs().max() > 0


def test_code_in_a_file_of_weights_is_not_executed(tmp_path):
    pytest.importorskip("timm")

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    torch.save({"conv1.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="cannot load timm:test_resnet/"):
        load_feature_maps(f"timm:test_resnet/{tmp_path}/evil.pth")
    assert not (tmp_path / "ran").exists()


def test_loading_draws_no_random_numbers(monkeypatch):
    """Otherwise a run that resumes, and loads after its generators are restored, would differ."""

    def loader(device):
        torch.rand(3)
        return "maps"

    monkeypatch.setitem(feature_maps._LOADERS, "drawing", loader)
    before = torch.get_rng_state()
    assert load_feature_maps("drawing") == "maps"
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "spec, message",
    [
        ("maxi", r"features: got 'maxi', expected one of mini, mini-a, mini-b, timm:MODEL"),
        ("timm:test_resnet/none.safetensors", r"features: none\.safetensors: no such file"),
        ("timm:no_such_model", r"features: cannot load timm:no_such_model \("),
    ],
)
def test_unknown_features(spec, message):
    if spec.startswith("timm:"):
        pytest.importorskip("timm")
    with pytest.raises(ValueError, match=message):
        load_feature_maps(spec)


def test_wrong_shapes(D):
    with pytest.raises(ValueError, match=r"img: got shape .* expected \[N, 1, 16, 32\]"):
        D(torch.zeros(1, 1, 16, 16))
    with pytest.raises(ValueError, match="got 4 image channels"):
        build_network("projected", projected_kwargs("mini", 16, 4))
    other = build_network("projected", {**D.init_kwargs, "map_channels": [8, 8, 8, 8]})
    with pytest.raises(ValueError, match=r"features: mini has maps of \[32, 64, 128, 192\]"):
        other(torch.zeros(1, 1, 16, 32))
