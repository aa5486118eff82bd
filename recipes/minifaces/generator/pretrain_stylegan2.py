"""Train a StyleGAN2 as `mini-faces` was trained, for `recipes.compare_sg2_sg3`.

Images, attribute codes, losses, learning rates, batches and length of the three phases are the
same, and so is the mapping from normal latents at the end; one process of one thread.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import sg3
from recipes.minifaces.generator.distil import distil, unexplained
from recipes.minifaces.generator.latents import code_of_seeds
from recipes.minifaces.generator.pretrain import (
    PretrainConfig,
    Saver,
    generator_kwargs,
    pretrain,
)
from sg3.checkpoints import Networks
from sg3.data import ImageDataset
from sg3.networks import build_network

#: Phases of mini-faces, with the batches of its processes in one (recipes/minifaces/README.md).
PHASES = (
    ("coded", {"kimg": 24, "batch": 16}),
    ("coded2", {"kimg": 60, "batch": 8, "lr": 0.012, "seed": 1}),
    ("sharp", {"kimg": 36, "batch": 16, "lr": 0.003, "seed": 2, "adversarial": True}),
)
#: Arguments of StyleGAN3 that StyleGAN2 does not have.
ONLY_STYLEGAN3 = ("magnitude_ema_beta", "num_layers", "margin_size")


def stylegan2_kwargs(config: PretrainConfig) -> dict:
    """Return arguments of a StyleGAN2 with the channels and the mapping of `mini-faces`."""
    return {k: v for k, v in generator_kwargs(config).items() if k not in ONLY_STYLEGAN3}


def train(data: str, outdir: Path) -> Path:
    """Train on `data` (`recipes.minifaces.world.dataset`, seed 0); returns the network file.

    Prints a line every 2 kimg. After an interruption, the same call restarts the current phase.
    """
    dataset = ImageDataset(data)
    items = np.arange(len(dataset))
    images = dataset.images(items)
    codes = torch.from_numpy(code_of_seeds(items))
    torch.manual_seed(0)
    before = outdir / "start.safetensors"
    G = build_network("stylegan2", stylegan2_kwargs(PretrainConfig(data)))
    sg3.save(Networks(G_ema=G, meta={"name": "random StyleGAN2"}), before)
    for name, changes in PHASES:
        config = PretrainConfig(data, init=str(before), **changes)
        before = _phase(config, images, codes, outdir / f"{name}.safetensors")
    nets = sg3.load(before)
    G = distil(nets.G_ema)
    error = round(unexplained(nets.G_ema, G), 4)
    out = outdir / "stylegan2.safetensors"
    sg3.save(Networks(G_ema=G, meta={**nets.meta, "unexplained_share_of_w": error}), out, fp16=True)
    return out


def _phase(config: PretrainConfig, images: torch.Tensor, codes: torch.Tensor, out: Path) -> Path:
    """Train one phase, unless its file is complete."""
    end = round(config.kimg * 1000) // config.batch * config.batch
    if out.exists() and sg3.load(out).meta["kimg"] >= end / 1000:
        return out
    saver = Saver(config, out, "python -m recipes.compare_sg2_sg3 train")
    for step in pretrain(config, images, codes):
        saver.add(step)
    return out
