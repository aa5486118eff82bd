"""The bundled world itself: adversarial training of the 64×64 generator, on a CPU.

Commands:
  python -m recipes.minifaces.dataset --dest data/minifaces.zip --num 50000 --seed 0
  python -m recipes.minifaces.train --data data/minifaces.zip --outdir runs --dry-run
  torchrun --standalone --nproc-per-node=2 -m recipes.minifaces.train --data data/minifaces.zip \\
    --outdir runs --resume runs/crisp.safetensors
Going on after an interruption: the same command with --resume latest.

runs/crisp.safetensors is a result of `recipes.minifaces.pretrain` (README.md has its
commands): a generator that learned its pictures by regression, and its discriminator. From
nothing, days pass before there are faces. Without --resume the run starts from the bundled
`mini-faces`. A large gamma holds the random D back until it has caught up with the trained G;
with 0.3, D wins (docs/LOG.md). The variant rpgan pairs real and generated images in the loss, and
lets G move more slowly.

Hardware: 2 CPU cores and 4 GB of memory, one process of one thread on each core.
Duration: 52 s per kimg on quiet cores (docs/PERFORMANCE.md); 36 to 64 s on shared ones.
Result: docs/minifaces-run.json and .png, 98 of 400 kimg from a blurry network of the regression:
Fréchet distance to held-out renders, in the judge's features, 2331 at the start, 3106 at 32 kimg,
1980 at 96. From a sharp network every trial got worse (docs/LOG.md, 2026-11-23 and 2026-11-27):
the bundled one and its discriminator, 41.7, came to 96 and 122 in 3 kimg with gamma 0.5 and 5.
"""

from __future__ import annotations

from recipes.minifaces.teacher import TaughtLoss
from recipes.run import main, with_changes
from sg3.training import TrainConfig


def config(data: str, outdir: str, **changes) -> TrainConfig:
    """Settings for 2 cores. Raises ValueError for unknown names of `changes` or bad values."""
    settings = TrainConfig(
        outdir=outdir,
        data=data,
        cfg="stylegan3-t",
        resume="mini-faces",
        batch=16,
        gamma=1,
        d_reg_interval=8,
        glr=0.0007,
        dlr=0.002,
        glr_warmup_kimg=1,
        dcbase=1024,
        dcmax=128,
        aug="noaug",  # 50 000 pictures, and more for the asking
        ema_kimg=4,
        kimg=16,
        tick=1,
        snap=4,
        state_minutes=3,
        grid=(16, 8),
        device="cpu",
        desc="taught",
    )
    return with_changes(settings, changes)


def config_alone(data: str, outdir: str, **changes) -> TrainConfig:
    """By the discriminator's word alone, as any other GAN."""
    alone = {
        "gamma": 10, "d_reg_interval": 16, "glr": 0.001, "glr_warmup_kimg": 2, "kimg": 400,
        "tick": 2, "snap": 2, "state_minutes": 5, "desc": None,
    }  # fmt: skip
    return config(data, outdir, **{**alone, **changes})


def config_rpgan(data: str, outdir: str, **changes) -> TrainConfig:
    """The same with the relativistic loss."""
    relativistic = {
        "loss": "rpgan", "gamma": 0.2, "glr": 0.0002, "glr_warmup_kimg": 10, "snap": 3,
        "freeze_mapping": True,
    }  # fmt: skip
    return config_alone(data, outdir, **{**relativistic, **changes})


VARIANTS = {"taught": config, "stylegan2": config_alone, "rpgan": config_rpgan}
LOSSES = {"taught": TaughtLoss}

if __name__ == "__main__":
    main("recipes.minifaces.train", __doc__, VARIANTS, LOSSES)
