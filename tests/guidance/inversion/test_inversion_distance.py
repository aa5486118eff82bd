"""Perceptual distances: against their formulas and the package of LPIPS."""

from __future__ import annotations

import pytest
import torch

from guidance.distance import LPIPS_FILES, LpipsDistance, ScaleDistance
from guidance.inversion import load_distance


def between(distance, a, b) -> torch.Tensor:
    return (distance.features(a) - distance.features(b)).square().sum(dim=1)


def test_scales_of_flat_images_are_their_squared_difference():
    distance, a, b = (
        ScaleDistance(),
        torch.full([2, 3, 32, 48], 0.3),
        torch.full([2, 3, 32, 48], -0.2),
    )
    b[1] = 0.3
    torch.testing.assert_close(between(distance, a, b), torch.tensor([0.25, 0.0]))
    large = [torch.full([1, 3, 128, 128], v) for v in (0.3, -0.2)]
    torch.testing.assert_close(between(distance, *large), torch.tensor([0.25]))


def test_scales_see_faint_edges_and_blur():
    distance = ScaleDistance()
    flat = torch.zeros(1, 3, 32, 32)
    sharp, soft = flat.clone(), flat.clone()
    sharp[..., 16:] = 0.2
    soft[..., 16:] = 0.2
    soft[..., 14:18] = torch.linspace(0.04, 0.16, 4)
    mse = (sharp - soft).square().mean()
    assert between(distance, sharp, soft) > 3 * mse
    noise = sharp + mse.sqrt()  # as far in squares, but only brighter
    assert between(distance, sharp, soft) > between(distance, sharp, noise)
    gray = torch.rand(1, 1, 32, 32)
    assert between(distance, gray, gray.expand(-1, 3, -1, -1)) == 0


@pytest.mark.slow
def test_lpips_agrees_with_the_package(monkeypatch, tmp_path):
    package = pytest.importorskip("torch_fidelity.sample_similarity_lpips")
    from torchvision.models import vgg16

    torch.manual_seed(0)
    weights = {
        f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1)
        for i, c in enumerate((64, 128, 256, 512, 512))
    }
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    torch.save(weights, folder / LPIPS_FILES[0])
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert load_distance("auto").name == "scales"  # one of two files is not enough
    torch.save({}, folder / LPIPS_FILES[1])
    monkeypatch.setattr(package, "torchvision_load_pretrained_vgg16", lambda: vgg16(weights=None))
    distance = load_distance("auto")
    assert isinstance(distance, LpipsDistance)
    a, b = torch.rand(2, 3, 32, 32) * 2 - 1, torch.rand(2, 3, 32, 32) * 2 - 1
    expected = distance.network((a + 1) * 127.5, (b + 1) * 127.5)
    torch.testing.assert_close(between(distance, a, b), expected.flatten(), rtol=1e-4, atol=1e-6)


def test_lpips_without_a_network_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match="or use scales") as error:
        load_distance("lpips")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="expected auto"):
        load_distance("vgg")


def test_a_hostile_file_of_weights_is_not_unpickled(monkeypatch, tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in LPIPS_FILES:
        torch.save({"x": print}, folder / name)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match="are not available"):
        load_distance("auto")
