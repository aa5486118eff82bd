"""Small networks and an encoder of fixed random projections, for tests of directions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from guidance.latents import map_latents, seed_latents
from sg3.networks import stylegan2, stylegan3


class PixelEncoder(nn.Module):
    """A fixed random projection of small pictures; texts are fixed random vectors."""

    name, input_size_px, embed_dim = "pixels", 8, 12
    mean = std = (0.5, 0.5, 0.5)

    def __init__(self, seed: int = 0):
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.matrix = nn.Parameter(torch.randn([192, 12], generator=random), requires_grad=False)

    def encode_images(self, img):
        small = F.interpolate(img, size=(8, 8), mode="area").flatten(1)
        return F.normalize(torch.tanh(small) @ self.matrix, dim=1)

    def encode_texts(self, texts):
        seeds = [sum(ord(ch) * (i + 1) for i, ch in enumerate(text)) for text in texts]
        rows = [torch.randn(12, generator=torch.Generator().manual_seed(s)) for s in seeds]
        return F.normalize(torch.stack(rows), dim=1)


def build(kind: str):
    torch.manual_seed(3)
    shape = {"z_dim": 16, "c_dim": 0, "w_dim": 16, "img_resolution": 16, "img_channels": 3}
    if kind == "sg3":
        G = stylegan3.Generator(
            **shape, channel_base=128, channel_max=6, num_layers=5, margin_size=3
        )
    else:
        architecture = kind.removeprefix("sg2-")
        G = stylegan2.Generator(**shape, channel_base=128, channel_max=6, architecture=architecture)
        for name, parameter in G.named_parameters():
            if name.endswith("noise_strength"):
                parameter.data.fill_(0.3)
    G.mapping.w_avg.normal_(std=0.1)
    return G.eval().requires_grad_(False)


def latents(G, count: int = 2, seed: int = 1) -> torch.Tensor:
    return map_latents(G, seed_latents(seed, count, G.z_dim))


def picture(G, ws):
    return G.synthesis(ws, noise_mode="const")


@pytest.fixture(scope="module", params=["sg3", "sg2-skip", "sg2-resnet"])
def G(request):
    """One small network of each kind."""
    return build(request.param)


@pytest.fixture(scope="module")
def G3():
    """A small StyleGAN3."""
    return build("sg3")
