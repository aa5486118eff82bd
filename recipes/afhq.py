"""Animal faces: AFHQ v2 at 512×512, one network for cats, dogs and wild animals, from scratch.

Commands:
  sg3 dataset --source afhqv2/train --dest afhqv2-512.zip --resolution 512x512 --labels folders
  python -m recipes.afhq --data afhqv2-512.zip --outdir runs --dry-run
  torchrun --standalone --nproc-per-node=8 -m recipes.afhq --data afhqv2-512.zip --outdir runs
  torchrun --standalone --nproc-per-node=8 -m recipes.afhq --data afhqv2-512.zip --outdir runs \\
    --variant by-class
To resume after an interruption, run the same command with --resume latest.

gamma is the reference value of each configuration (REFERENCE.md §4.8): 8.2 for T, 16.4 for R, 5 for
StyleGAN2. The reference runs ignore the labels (cat, dog, wild); the variant by-class, which is our
addition, uses them.

Hardware: 8 GPUs with 4 images each, 6.3 GiB for T as estimated by `sg3 plan`; with fewer GPUs,
accumulate gradients with --set batch_gpu=4.
Duration: 25 000 kimg in about 5 days on 8 A100 for T. Estimated: 0.92 times the multiply-adds per
image of a 1024×1024 run, for which 157 s per kimg on one A100 are published, and linear scaling.
Result: not yet run here. The StyleGAN3 paper (arXiv 2106.12423, Fig. 5) reports FID 4.04 for T,
4.40 for R, 4.62 for StyleGAN2; quoted from memory, check before relying on it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from recipes.run import main, reference_config
from sg3.settings import replace_settings
from sg3.training import TrainConfig

GAMMAS = {"stylegan3-t": 8.2, "stylegan3-r": 16.4, "stylegan2": 5}


def dataset_command(source: str, dest: str) -> list[str]:
    """Return the command that makes the dataset `dest` from one folder of images per class."""
    return [
        "sg3", "dataset", "--source", source, "--dest", dest, "--resolution", "512x512",
        "--labels", "folders",
    ]  # fmt: skip


def config(data: str, outdir: str, cfg: str = "stylegan3-t", **changes: Any) -> TrainConfig:
    """Return the settings for `cfg`. Raises ValueError for an unknown or invalid change."""
    return replace_settings(reference_config(data, outdir, cfg, GAMMAS, aug="ada"), changes)


VARIANTS = {"all": config, "by-class": partial(config, cond=True)}

if __name__ == "__main__":
    main("recipes.afhq", __doc__, VARIANTS)
