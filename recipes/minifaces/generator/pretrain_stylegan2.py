"""A StyleGAN2 made as `mini-faces` was made, for recipes/compare_sg2_sg3.py.

The same pictures and attribute codes, the same losses, rates, batches and thousands of images in
the same three phases, the same mapping from normal latents at the end; one process of one thread.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

import sg3
from recipes.minifaces.generator.distil import distil, unexplained
from recipes.minifaces.generator.latents import code_of_seeds
from recipes.minifaces.generator.pretrain import PretrainConfig, generator_kwargs, pretrain
from sg3.checkpoints import Networks
from sg3.data import ImageDataset
from sg3.networks import build_network

#: Of mini-faces, with the processes' batches in one (recipes/minifaces/README.md).
PHASES = (
    ("coded", {"kimg": 24, "batch": 16}),
    ("coded2", {"kimg": 60, "batch": 8, "lr": 0.012, "seed": 1}),
    ("sharp", {"kimg": 36, "batch": 16, "lr": 0.003, "seed": 2, "adversarial": True}),
)
#: What StyleGAN3 has and StyleGAN2 has not.
ONLY_STYLEGAN3 = ("magnitude_ema_beta", "num_layers", "margin_size")


def stylegan2_kwargs(config: PretrainConfig) -> dict:
    """A StyleGAN2 with the channels and the mapping network of the bundled StyleGAN3-T."""
    return {k: v for k, v in generator_kwargs(config).items() if k not in ONLY_STYLEGAN3}


def train(data: str, outdir: Path) -> Path:
    """Train on `data` (`recipes.minifaces.world.dataset`, seed 0); returns the network's file.

    Prints a line for every 2000 images. Stopped, it goes on with the same arguments from the start
    of the phase in which it was.
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
    share = round(unexplained(nets.G_ema, G), 4)
    out = outdir / "stylegan2.safetensors"
    sg3.save(Networks(G_ema=G, meta={**nets.meta, "unexplained_share_of_w": share}), out, fp16=True)
    return out


def _phase(config: PretrainConfig, images, codes, out: Path) -> Path:
    """Run one phase unless its file says that it is done; saved every 2 kimg."""
    end = round(config.kimg * 1000) // config.batch * config.batch
    if out.exists() and sg3.load(out).meta["kimg"] >= end / 1000:
        return out
    start, start_cpu, mean = time.time(), time.process_time(), {}
    for step in pretrain(config, images, codes):
        for name, value in step.losses.items():
            mean[name] = mean.get(name, value) * 0.99 + value * 0.01
        if step.nimg % 2000 < config.batch or step.nimg == end:
            meta = {
                "command": "python -m recipes.compare_sg2_sg3 train",
                "options": {k: v for k, v in asdict(config).items() if k not in ("data", "init")},
                "kimg": step.nimg / 1000,
                "seconds": round(time.time() - start),
                "cpu_seconds": round(time.process_time() - start_cpu),
                "losses": {name: round(value, 4) for name, value in mean.items()},
            }
            step.networks.meta.update(meta)
            sg3.save(step.networks, out)
            told = ("kimg", "seconds", "cpu_seconds", "losses")
            print(out.stem, {k: meta[k] for k in told}, flush=True)
    return out
