"""The bundled world itself: adversarial training of the 64×64 generator, on a CPU.

Commands:
  python -m recipes.minifaces.dataset --dest data/minifaces.zip --num 50000 --seed 0
  python -m recipes.minifaces.train --data data/minifaces.zip --outdir runs --dry-run
  torchrun --standalone --nproc-per-node=2 -m recipes.minifaces.train --data data/minifaces.zip \\
    --outdir runs --resume runs/latent.safetensors
Going on after an interruption: the same command with --resume latest.

runs/latent.safetensors is a result of `recipes.minifaces.pretrain` and `distil` (README.md has
their commands): a generator that learned its pictures by regression, and its D. From nothing, days
pass before there are faces. Without --resume the run starts from the bundled `mini-faces`, whose
file has no D: then a random D teaches a trained G, and an earlier trial of that (docs/LOG.md,
2026-11-22) got worse after 2 kimg. The mapping network was written down, not learned, and stays
frozen. The variant rpgan pairs real and generated images in the loss, and lets G move more slowly.

Hardware: 2 CPU cores and 4 GB of memory, one process of one thread on each core.
Duration: 200 kimg in 2.5 to 3.5 hours; 42 to 52 s per kimg were measured on shared cores of a
Xeon, 50 to 65 s with rpgan.
Result: not yet run to its end here. The first 16 kimg from latent.safetensors keep all faces
recognisable and put noise into plain backgrounds; the first 18 kimg of rpgan do so less. Seen in
the first 24 pictures of the grids; no distance has been measured.
"""

from __future__ import annotations

from recipes.run import main, with_changes
from sg3.training import TrainConfig


def config(data: str, outdir: str, **changes) -> TrainConfig:
    """Settings for 2 cores. Raises ValueError for unknown names of `changes` or bad values."""
    settings = TrainConfig(
        outdir=outdir,
        data=data,
        cfg="stylegan3-t",
        resume="mini-faces",
        freeze_mapping=True,
        batch=16,
        gamma=0.3,
        glr=0.0005,
        dlr=0.001,
        glr_warmup_kimg=1,
        dcbase=1024,
        dcmax=128,
        aug="noaug",  # 50 000 pictures, and more for the asking
        ema_kimg=2,
        kimg=200,
        tick=2,
        snap=2,
        state_minutes=5,
        grid=(16, 8),
        device="cpu",
    )
    return with_changes(settings, changes)


def config_rpgan(data: str, outdir: str, **changes) -> TrainConfig:
    """The same with the relativistic loss."""
    relativistic = {
        "loss": "rpgan", "gamma": 0.2, "glr": 0.0002, "dlr": 0.002, "glr_warmup_kimg": 10,
        "ema_kimg": 4, "snap": 3,
    }  # fmt: skip
    return config(data, outdir, **{**relativistic, **changes})


VARIANTS = {"stylegan2": config, "rpgan": config_rpgan}

if __name__ == "__main__":
    main("recipes.minifaces.train", __doc__, VARIANTS)
