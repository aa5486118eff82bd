"""Paintings: WikiArt at 1024×1024, a StyleGAN3-T transferred from FFHQ.

Commands:
  sg3 dataset --source wikiart --dest wikiart-1024.zip --resolution 1024x1024 \\
    --transform center-crop --min-size 1024
  python -m recipes.wikiart --data wikiart-1024.zip --outdir runs --dry-run
  torchrun --standalone --nproc-per-node=8 -m recipes.wikiart --data wikiart-1024.zip --outdir runs
To resume after an interruption, run the same command with --resume latest.

The first command discards images whose shorter side is below 1024 pixels (from enlarged ones a
network learns blur) and crops the others to their central square. gamma needs a search:
  for g in 8 16 32 64; do torchrun --standalone --nproc-per-node=8 -m recipes.wikiart \\
    --data wikiart-1024.zip --outdir sweep --variant sweep-$g; done
All four start from the same network and see the same images in the same order. Compare the FID
(fid50k_full) of their last networks, and start the full run with --set gamma=G of the best one. If
that is the smallest or the largest value, extend the sweep. From Python, use `gamma_sweep`.

Hardware: 8 GPUs with 4 images each, 10.8 GiB as estimated by `sg3 plan`; with fewer GPUs,
accumulate gradients with --set batch_gpu=4.
Duration: 17 000 kimg in about 4 days on 8 A100. Estimated: the reference implementation's published
157 s per kimg on one of them, and linear scaling. The sweep: 3 hours per value.
Result: not yet run here. A published community run of this kind (T, gamma 32, mapping depth 2)
reached FID 8.1 after 17 million images.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from recipes.run import main
from sg3.settings import replace_settings
from sg3.training import TrainConfig

START = "stylegan3-t-ffhq-1024"
GAMMAS = (8, 16, 32, 64)


def dataset_command(source: str, dest: str) -> list[str]:
    """Return the command that makes the dataset `dest` from a folder of paintings."""
    return [
        "sg3", "dataset", "--source", source, "--dest", dest, "--resolution", "1024x1024",
        "--transform", "center-crop", "--min-size", "1024",
    ]  # fmt: skip


def config(data: str, outdir: str, **changes: Any) -> TrainConfig:
    """Return the settings of the full run. Raises ValueError for an unknown or invalid change."""
    settings = TrainConfig(
        outdir=outdir,
        data=data,
        cfg="stylegan3-t",
        resume=START,
        batch=32,
        gamma=32,
        map_depth=2,
        mirror=True,  # doubles the dataset; mirrored signatures are too small to matter
        aug="ada",
        kimg=17000,
        snap=25,
    )
    return replace_settings(settings, changes)


def sweep_config(data: str, outdir: str, gamma: float, **changes: Any) -> TrainConfig:
    """Return the settings of a short run with `gamma`, long enough to tell values apart."""
    return config(data, outdir, **{"gamma": gamma, "kimg": 500, "desc": "sweep", **changes})


def gamma_sweep(
    data: str, outdir: str, gammas: Sequence[float] = GAMMAS, **changes: Any
) -> dict[float, TrainConfig]:
    """Return the settings of short runs by gamma, which differ in gamma only."""
    return {gamma: sweep_config(data, outdir, gamma, **changes) for gamma in gammas}


VARIANTS = {
    "full": config,
    **{f"sweep-{gamma}": partial(sweep_config, gamma=gamma) for gamma in GAMMAS},
}

if __name__ == "__main__":
    main("recipes.wikiart", __doc__, VARIANTS)
