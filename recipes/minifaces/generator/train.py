"""The bundled world itself: training of the 64×64 generator with a discriminator, on a CPU.

Commands:
  python -m recipes.minifaces.world.dataset --dest data/minifaces.zip --num 50000 --seed 0
  python -m recipes.minifaces.generator.train --data data/minifaces.zip --outdir runs --dry-run
  torchrun --standalone --nproc-per-node=2 -m recipes.minifaces.generator.train \\
    --data data/minifaces.zip --outdir runs --resume runs/regressed.safetensors
Going on after an interruption: the same command with --resume latest.

runs/regressed.safetensors is a result of `recipes.minifaces.generator.pretrain` (README.md has its
commands): a generator that learned its pictures by regression. From nothing, days pass before
there are faces. Without --resume the run starts from the bundled `mini-faces`. The variant taught
also shows G the faces that its latents name (`teacher.py`). stylegan2 and rpgan leave G to D's
word alone, as in any other GAN; rpgan pairs real and generated images in the loss.

Hardware: 2 CPU cores and 4 GB of memory, one process of one thread on each core.
Duration: 34 s per kimg on quiet cores, 41 s beside other work; 16 kimg are the bundled network.
Result: docs/minifaces-run.json and .png. Fréchet distance to held-out renders in the judge's
features, 2000 pictures (two sets of renders: 32): 39 at 4 kimg, 41 at 16; the spectrum comes
nearer to the data's, 4.3 dB away at the start, 3.1 at the end. By D's word alone every trial
got worse: 96 and 122 after 3 kimg from 42 with gamma 0.5 and 5 (docs/LOG.md, 2026-11-27).
"""

from __future__ import annotations

from recipes.minifaces.generator.teacher import TaughtLoss
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
    main("recipes.minifaces.generator.train", __doc__, VARIANTS, LOSSES)
