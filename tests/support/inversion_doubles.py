"""Small networks and their pictures, for tests of inversion."""

from __future__ import annotations

import torch

from guidance.latents import map_latents, seed_latents
from sg3.networks import build_network

SG3 = {"channel_base": 512, "channel_max": 16, "num_layers": 6, "margin_size": 4}
SG2 = {"channel_base": 512, "channel_max": 16, "num_fp16_res": 0}


def network(kind: str, seed: int = 0, **more) -> torch.nn.Module:
    torch.manual_seed(seed)
    common = {"z_dim": 16, "w_dim": 16, "c_dim": 0, "img_resolution": 32, "img_channels": 3}
    extra = SG3 if kind == "stylegan3" else SG2
    G = build_network(kind, {**common, **extra, **more}).eval().requires_grad_(False)
    if kind == "stylegan2":
        for name, parameter in G.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.3)
    return G


def pictures(G, *seeds: int) -> torch.Tensor:
    ws = torch.cat([map_latents(G, seed_latents(seed, 1, G.z_dim)) for seed in seeds])
    with torch.no_grad():
        return G.synthesis(ws, noise_mode="const")


def last(steps):
    for step in steps:
        found = step
    return found
