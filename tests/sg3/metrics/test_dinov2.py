"""DINOv2 sees 224-pixel images as in its release: position embeddings resampled by a definition."""

import numpy as np
import pytest
import torch

from sg3.metrics.vision import set_dinov2_size

A = -0.75  # of torch's bicubic kernel


def weight(x):
    x = abs(x)
    if x <= 1:
        return (A + 2) * x**3 - (A + 3) * x**2 + 1
    return A * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def resampling(before, after):
    """Matrix `[after, before]` of one axis: cubic, clamped at the ends, not antialiased."""
    matrix = np.zeros([after, before])
    for i in range(after):
        at = (i + 0.5) * before / (after + 0.1) - 0.5
        for j in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            matrix[i, min(max(j, 0), before - 1)] += weight(at - j)
    return matrix


def test_positions_are_those_of_the_release():
    timm = pytest.importorskip("timm")
    model = timm.create_model(
        "vit_small_patch14_dinov2", num_classes=0, depth=1, embed_dim=6, num_heads=1
    )
    assert model.patch_embed.grid_size == (37, 37)
    torch.nn.init.normal_(model.pos_embed)
    before = model.pos_embed.detach().double().numpy()[0]
    set_dinov2_size(model, 224)
    after = model.pos_embed.detach().numpy()[0]
    axis = resampling(37, 16)
    expected = np.einsum("ih,jw,hwc->ijc", axis, axis, before[1:].reshape(37, 37, -1))
    np.testing.assert_allclose(after[0], before[0], rtol=1e-6)
    np.testing.assert_allclose(after[1:], expected.reshape(256, -1), atol=1e-4)
    assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 6)
