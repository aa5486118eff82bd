"""Path lengths, CMMD and timm models: closed forms, names, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import sg3
from sg3.checkpoints import hub
from sg3.metrics import check_names, evaluate, load_features, parse_name
from sg3.metrics.cmmd import SCALE, SIGMA, gaussian_discrepancy
from sg3.metrics.features import load_perceptual_distance
from sg3.metrics.path_length import EPSILON, path_lengths, slerp, trimmed_mean


class Linear(nn.Module):
    """Images are linear in w, and w in z: path lengths have a closed form."""

    z_dim, c_dim, img_height, img_width = 6, 0, 4, 4

    def __init__(self, scale=1.0):
        super().__init__()
        random = np.random.RandomState(0)
        self.a = nn.Parameter(torch.from_numpy(random.randn(6, 5)) * scale)
        self.b = nn.Parameter(torch.from_numpy(random.randn(5, 48)))
        self.register_buffer("noise_const", torch.zeros(4, 4))

    def mapping(self, z, c):
        return (z.double() @ self.a)[:, None]

    def synthesis(self, ws, noise_mode, force_fp32):
        assert noise_mode == "const" and force_fp32
        return (ws[:, 0] @ self.b).reshape(-1, 3, 4, 4) + self.noise_const


class Plain:
    name = "plain"

    def features(self, images):
        return images.flatten(1)


@pytest.mark.parametrize("sampling", ["end", "full"])
def test_lengths_of_a_linear_network(sampling):
    G = Linear()
    found = {}
    for rows, values in path_lengths(G, Plain(), None, 7, 0, "w", sampling):
        found.update(zip(rows.tolist(), values.tolist(), strict=True))
    assert sorted(found) == list(range(7))
    for part in range(4):  # |B·A·(z1 − z0)|² for every t
        z = np.random.RandomState([0, part]).randn(2, 2, 6).astype(np.float32)
        step = (z[1] - z[0]).astype(np.float64) @ (G.a @ G.b).detach().numpy()
        for i, expected in enumerate(np.square(step).sum(axis=1)[: 7 - 2 * part]):
            assert found[2 * part + i] == pytest.approx(expected, rel=1e-3)
    assert float(G.noise_const.abs().max()) == 0  # restored


def test_lengths_in_z_follow_the_sphere():
    """With image = z, the length of a step along the sphere is its angle."""

    class Sphere(Linear):
        def mapping(self, z, c):
            return z.double()[:, None]

        def synthesis(self, ws, noise_mode, force_fp32):
            return torch.cat([ws[:, 0], torch.zeros(len(ws), 42)], 1).reshape(-1, 3, 4, 4)

    (values,) = (v for _, v in path_lengths(Sphere(), Plain(), None, 2, 3, "z", "end"))
    z = np.random.RandomState([3, 0]).randn(2, 2, 6)
    cosine = (z[0] * z[1]).sum(1) / np.linalg.norm(z[0], axis=1) / np.linalg.norm(z[1], axis=1)
    assert np.allclose(values, np.arccos(cosine) ** 2, rtol=2e-2)  # single precision


def test_slerp():
    a, b = torch.tensor([[2.0, 0]]), torch.tensor([[0, 5.0]])
    for t in (0.0, 0.25, 1.0):
        expected = torch.tensor([[math.cos(t * math.pi / 2), math.sin(t * math.pi / 2)]])
        torch.testing.assert_close(slerp(a, b, torch.tensor([[t]])), expected)


def test_outliers_are_trimmed():
    values = np.arange(1000.0)
    values[-1] = 1e9
    assert trimmed_mean(np.random.RandomState(0).permutation(values)) == pytest.approx(499.5)
    assert trimmed_mean(np.array([3.0])) == 3


def test_lengths_of_the_bundled_network():
    """One process and two give the same."""
    G = sg3.load("mini-faces").G_ema
    found = evaluate("ppl0.008k_wend_scales", G, None)
    assert found["features"] == "scales" and found["num_real"] == 0
    assert found["peak_memory_mb"]["cpu"] > 100
    distance = load_perceptual_distance("scales")
    parts = [
        dict(zip(rows.tolist(), values.tolist(), strict=True))
        for rank in range(2)
        for rows, values in path_lengths(G, distance, None, 8, 0, "w", "end", rank, 2)
    ]
    together = {key: value for part in parts for key, value in part.items()}
    values = np.array([together[i] for i in range(8)])
    assert found["results"]["ppl0.008k_wend_scales"] == pytest.approx(trimmed_mean(values), 1e-3)
    assert values.min() > 0 and EPSILON == 1e-4


@pytest.mark.parametrize("tile", [4096, 3])
def test_discrepancy_equals_loops(tile):
    random = np.random.RandomState(0)
    x, y = random.randn(7, 5), random.randn(8, 5) + 0.5
    found = gaussian_discrepancy(torch.from_numpy(x), torch.from_numpy(y), tile)
    x, y = (f / np.linalg.norm(f, axis=1, keepdims=True) for f in (x, y))

    def mean(a, b):
        kernels = [math.exp(-((p - q) ** 2).sum() / (2 * SIGMA**2)) for p in a for q in b]
        return sum(kernels) / len(kernels)

    assert found == pytest.approx(SCALE * (mean(x, x) + mean(y, y) - 2 * mean(x, y)), rel=1e-9)


def test_discrepancy_of_a_copy_and_of_opposites():
    x = torch.randn(50, 4)
    assert gaussian_discrepancy(x, x.flip(0)) < 1e-9
    one, other = torch.tensor([[1.0, 0], [1, 0]]), torch.tensor([[-2.0, 0], [-3, 0]])
    expected = 2 * SCALE * (1 - math.exp(-2 / SIGMA**2))
    assert gaussian_discrepancy(one, other) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="expected"):
        gaussian_discrepancy(x, torch.randn(50, 3))


@pytest.mark.parametrize(
    ("name", "kind", "num", "features", "result"),
    [
        ("ppl2_wend", "ppl_wend", 50_000, "vgg16", "ppl2_wend"),
        ("ppl1k_zfull_scales", "ppl_zfull", 1000, "scales", "ppl1k_zfull_scales"),
        ("fd_dinov2", "fid", 50_000, "dinov2", "fd50k_full_dinov2"),
        ("cmmd", "cmmd", 50_000, "clip:ViT-L-14-336/openai", "cmmd50k_full"),
        ("cmmd2k_full_mini", "cmmd", 2000, "mini", "mmd2k_full_mini"),
    ],
)
def test_names(name, kind, num, features, result):
    metric = parse_name(name)
    assert (metric.kind, metric.num, metric.features) == (kind, num, features)
    assert metric.name(features) == result


@pytest.mark.parametrize(
    ("name", "features", "hint"),
    [
        ("ppl2_wend", "mini", "expected vgg16, lpips, scales or vgg16:FILE"),
        ("ppl2k_wend_mini", None, "nearest: ppl2k_wend"),
        ("fd_dino", None, "nearest: fd_dinov2"),
    ],
)
def test_bad_names(name, features, hint):
    with pytest.raises(ValueError, match=hint):
        check_names([name], features)


def test_an_image_model_from_a_file(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=3)
    save_file(model.state_dict(), tmp_path / "own.safetensors")
    network = load_features(f"timm:test_vit/{tmp_path / 'own.safetensors'}")
    assert network.name == "timm:test_vit/own" and network.dim == model.num_features
    side = model.pretrained_cfg["input_size"][-1]
    images = torch.randint(0, 256, [2, 1, side, side], dtype=torch.uint8)
    mean, std = (torch.tensor(model.pretrained_cfg[k])[:, None, None] for k in ("mean", "std"))
    with torch.no_grad():
        features = model.eval().forward_features((images.expand(-1, 3, -1, -1) / 255 - mean) / std)
        expected = model.forward_head(features, pre_logits=True)
    torch.testing.assert_close(network(images), expected)
    assert network(images[:, :, ::2, ::2]).shape == expected.shape
    (tmp_path / "no.pth").write_bytes(b"\x80\x04cos\nsystem\n")
    save_file({"w": torch.ones(2)}, tmp_path / "other.safetensors")
    for bad in ("no.pth", "other.safetensors", "nowhere.pth"):
        with pytest.raises(ValueError, match=bad) as error:
            load_features(f"timm:test_vit/{tmp_path / bad}")
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="knows no model"):
        load_features("timm:nosuchmodel")


def test_weights_of_dinov2_need_a_network(monkeypatch):
    pytest.importorskip("timm")

    def refused(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("timm.create_model", refused)
    monkeypatch.setattr("httpx.head", lambda *_, **__: None)
    with pytest.raises(ValueError, match=r"no route to host.*dinov2:FILE.*mini") as error:
        load_features("dinov2")
    assert "\n" not in str(error.value)


def test_the_root_cause_is_reported():
    try:
        try:
            raise OSError("no such host\nmore")
        except OSError as error:
            raise RuntimeError("wrapped") from error
    except RuntimeError as error:
        assert hub.root_cause(error) == "no such host"
