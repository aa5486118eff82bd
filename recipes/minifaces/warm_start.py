"""A first state for the bundled generator: regression from attribute-coded latents to renders.

    python -m recipes.minifaces.warm_start --data faces.zip --out warm.safetensors --kimg 50

A GAN spends most of a short run on finding out which faces exist. Here the latent of every
render is drawn from the same normal distribution that the GAN will use, but conditioned on the
face's attributes: each attribute owns a block of coordinates, and the largest (plus an offset
that gives the world's odds) names its value. Regressing the pictures from these latents covers
every mode of the world; `sg3 train --resume warm.safetensors` then makes them sharp.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import ndtri

import sg3
from recipes.minifaces.attributes import (
    BEARD_ODDS,
    CLOTHES,
    GLASSES_ODDS,
    HAIR_ODDS,
    HAT_ODDS,
    MOUTH_ODDS,
    VALUES,
    sample_attributes,
    sample_pose_numbers,
)
from sg3.checkpoints import Networks
from sg3.data import ImageDataset
from sg3.networks import build_network
from sg3.training.allocator import keep_large_blocks

#: Attributes in the order of their coordinates in z; four more hold the pose, the rest is free.
BLOCKS = {name: len(values) for name, values in VALUES.items()} | {"clothes": len(CLOTHES)}
POOL_SIZE = 200_000


def odds_of(name: str, gender: str) -> tuple[float, ...]:
    """How often the world draws each value of attribute `name`."""
    table = {
        "hair_style": HAIR_ODDS[gender],
        "beard": BEARD_ODDS[gender],
        "mouth": MOUTH_ODDS,
        "glasses": GLASSES_ODDS,
        "hat": HAT_ODDS,
    }
    return table.get(name, (1 / BLOCKS[name],) * BLOCKS[name])


@cache
def _pool(odds: tuple[float, ...]) -> tuple[np.ndarray, ...]:
    """Normal vectors sorted by the value they stand for: argmax of vector plus offsets."""
    random = np.random.RandomState(0)
    vectors = random.randn(POOL_SIZE, len(odds)).astype(np.float32)
    wanted = np.asarray(odds)
    offsets = np.where(wanted > 0, 0.0, -1e9)
    for _ in range(60):  # move each offset until the shares agree with the odds
        shares = np.bincount((vectors + offsets).argmax(1), minlength=len(odds)) / POOL_SIZE
        offsets = np.where(wanted > 0, offsets + (wanted - shares), offsets)
    values = (vectors + offsets).argmax(1)
    return tuple(vectors[values == v] for v in range(len(odds)))


def latent_of(seed: int, z_dim: int, random: np.random.RandomState) -> np.ndarray:
    """A normal latent `[z_dim]` that stands for identity `seed` in its pose."""
    a = asdict(sample_attributes(seed))
    parts = []
    for name, size in BLOCKS.items():
        odds = odds_of(name, a["gender"])
        value = a[name] if name == "clothes" else VALUES[name].index(a[name])
        if name == "beard" and a["gender"] == "woman":
            parts.append(random.randn(size))
            continue
        if name == "hair_style" and a["hat"] != "none" and a[name] == "short":
            # A mohawk under a hat is drawn as short hair: both latents mean the same picture.
            short, mohawk = odds[1], odds[4]
            value = 4 if random.rand() < mohawk / (short + mohawk) else value
        pool = _pool(odds)[value]
        parts.append(pool[random.randint(len(pool))])
    # Uniform pose numbers in (−1, 1) as normal ones.
    parts.append(ndtri(np.clip((np.asarray(sample_pose_numbers(seed)) + 1) / 2, 1e-4, 1 - 1e-4)))
    parts.append(random.randn(z_dim - sum(len(p) for p in parts)))
    return np.concatenate(parts).astype(np.float32)


@dataclass(frozen=True)
class WarmStartConfig:
    """Size of the generator and length of the regression."""

    data: str
    data_seed: int = 0
    kimg: float = 50
    batch: int = 8
    lr: float = 0.015
    z_dim: int = 64
    w_dim: int = 128
    map_depth: int = 3
    num_layers: int = 6
    margin_size: int = 5
    cbase: int = 1024
    cmax: int = 64
    seed: int = 0
    init: str | None = None  # result of an earlier warm start to go on from


#: The mapping network learns this much faster here than under `sg3 train` (`slow_mapping`).
MAPPING_SPEEDUP = 10


def slow_mapping(G: torch.nn.Module) -> torch.nn.Module:
    """The same function with the usual learning rate multiplier of the mapping network, 0.01."""
    kwargs = dict(G.init_kwargs, mapping_kwargs={"num_layers": G.mapping.num_layers})
    slow = build_network("stylegan3", kwargs)
    tensors = G.state_dict()
    for name, tensor in tensors.items():
        if name.startswith("mapping.fc"):
            tensors[name] = tensor * MAPPING_SPEEDUP
    slow.load_state_dict(tensors)
    return slow.eval().requires_grad_(False)


def load_slow(G: torch.nn.Module, network: str) -> None:
    """The inverse of `slow_mapping`: weights of an earlier warm start into `G`."""
    tensors = sg3.load(network).G_ema.state_dict()
    for name, tensor in tensors.items():
        if name.startswith("mapping.fc"):
            tensors[name] = tensor / MAPPING_SPEEDUP
    G.load_state_dict(tensors)


def generator_kwargs(config: WarmStartConfig) -> dict:
    """Constructor arguments, as `sg3 train` would choose them, but for the faster mapping."""
    return dict(
        z_dim=config.z_dim,
        c_dim=0,
        w_dim=config.w_dim,
        img_resolution=64,
        img_channels=3,
        channel_base=config.cbase,
        channel_max=config.cmax,
        mapping_kwargs={
            "num_layers": config.map_depth,
            "lr_multiplier": 0.01 * MAPPING_SPEEDUP,
        },
        magnitude_ema_beta=0.5 ** (config.batch / 20e3),
        num_layers=config.num_layers,
        margin_size=config.margin_size,
    )


def picture_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference at three scales, so that edges and areas both count."""
    total = torch.zeros([])
    for _ in range(3):
        total = total + (a - b).abs().mean()
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return total


@dataclass(frozen=True)
class WarmStep:
    """One batch: images so far, its loss, and the averaged generator."""

    nimg: int
    loss: float
    G_ema: torch.nn.Module


def warm_start(config: WarmStartConfig) -> Iterator[WarmStep]:
    """Regress renders from coded latents; yields after every batch."""
    torch.manual_seed(config.seed)
    random = np.random.RandomState(config.seed)
    dataset = ImageDataset(config.data)
    G = build_network("stylegan3", generator_kwargs(config)).train()
    if config.init:
        load_slow(G, config.init)
    G_ema = copy.deepcopy(G).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(G.parameters(), lr=config.lr, betas=(0.9, 0.99), fused=True)
    total = round(config.kimg * 1000)
    for nimg in range(config.batch, total + 1, config.batch):
        indices = random.randint(len(dataset), size=config.batch)
        real = dataset.images(indices).to(torch.float32) / 127.5 - 1
        first = config.data_seed * 10**7
        z = np.stack([latent_of(first + int(i), config.z_dim, random) for i in indices])
        progress = nimg / total
        for group in optimizer.param_groups:
            group["lr"] = config.lr * min(progress / 0.02, 1, (1 - progress) / 0.3 + 0.05)
        fake = G(torch.from_numpy(z), update_emas=True)
        loss = picture_distance(fake, real)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        beta = 0.5 ** (config.batch / min(1000, max(nimg * 0.05, 1)))
        with torch.no_grad():
            for average, own in zip(G_ema.parameters(), G.parameters(), strict=True):
                average.lerp_(own, 1 - beta)
            for average, own in zip(G_ema.buffers(), G.buffers(), strict=True):
                average.copy_(own)
        yield WarmStep(nimg, float(loss.detach()), G_ema)


def main() -> None:
    """Drain `warm_start`, saving the network every 4 kimg."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="written by recipes.minifaces.dataset")
    parser.add_argument("--out", required=True, help="network file to write (.safetensors)")
    parser.add_argument("--kimg", type=float, default=50)
    parser.add_argument("--lr", type=float, default=WarmStartConfig.lr)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--init", help="earlier result to go on from")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    keep_large_blocks()
    config = WarmStartConfig(
        data=args.data, kimg=args.kimg, lr=args.lr, seed=args.seed, init=args.init
    )
    started, mean = time.time(), 0.0
    for index, step in enumerate(warm_start(config)):
        mean = step.loss if index == 0 else mean * 0.98 + step.loss * 0.02
        if step.nimg % 2000 == 0 or step.nimg + config.batch > config.kimg * 1000:
            meta = {
                "command": f"python -m recipes.minifaces.warm_start --kimg {args.kimg:g}",
                "kimg": step.nimg / 1000,
                "loss": round(mean, 4),
                "seconds": round(time.time() - started),
            }
            G = slow_mapping(step.G_ema)
            nets = Networks(G_ema=G, G=G, meta=meta)
            sg3.save(nets, args.out)
            print(meta, flush=True)


if __name__ == "__main__":
    main()
