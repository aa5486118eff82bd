"""FFHQ-U: photographs of faces that are not aligned, 1024×1024 or 256×256, from scratch.

Commands:
  python -m recipes.ffhq_unaligned_crops --metadata ffhq/ffhq-dataset-v2.json --source ffhq --check
  python -m recipes.ffhq_unaligned_crops --metadata ffhq/ffhq-dataset-v2.json --source ffhq \\
    --dest ffhqu-crops --jobs 16
  sg3 dataset --source ffhqu-crops --dest ffhqu-1024.zip --resolution 1024x1024
  python -m recipes.ffhq_unaligned --data ffhqu-1024.zip --outdir runs --dry-run
  torchrun --standalone --nproc-per-node=8 -m recipes.ffhq_unaligned --data ffhqu-1024.zip \\
    --outdir runs
To resume after an interruption, run the same command with --resume latest. For the small
variant, make ffhqu-256.zip with --resolution 256x256 and train with --variant 256.

`ffhq` is the folder of the in-the-wild photographs; `recipes.ffhq_unaligned_crops` documents the
crops, and which of their properties could not be verified. Settings are the reference ones
(REFERENCE.md §4.8): no augmentation, because 70 000 images and their mirrored copies suffice; gamma
32.8 for T and R, 10 for StyleGAN2; at 256, gamma 1 for all, half the channels and a larger learning
rate of D.

Hardware: 8 GPUs with 4 images each, 10.6 GiB for T and 18.1 GiB for R as estimated by `sg3 plan`
(4.2 GiB for 8 images at 256); with fewer GPUs, accumulate gradients with --set batch_gpu=4. The zip
at 1024 takes up to 220 GB, the crops about 100 GB (estimated).
Duration: 25 000 kimg in about 6 days on 8 A100 for T, 2 days at 256. Estimated: the reference
implementation's published 157 s per kimg on one A100 at 1024, a third of its multiply-adds at
256, and linear scaling. The crops: not measured on photographs.
Result: not yet run here. The StyleGAN3 paper (arXiv 2106.12423, Fig. 5) reports FID 3.67 for T,
3.66 for R, 3.79 for StyleGAN2 at 1024; quoted from memory, check before relying on it.
"""

from __future__ import annotations

from typing import Any

from recipes.run import main, reference_config
from sg3.settings import replace_settings
from sg3.training import TrainConfig

GAMMAS = {"stylegan3-t": 32.8, "stylegan3-r": 32.8, "stylegan2": 10}


def dataset_command(source: str, dest: str, size: int = 1024) -> list[str]:
    """Return the command that makes the dataset `dest` from the folder of crops."""
    return ["sg3", "dataset", "--source", source, "--dest", dest, "--resolution", f"{size}x{size}"]


def config(data: str, outdir: str, cfg: str = "stylegan3-t", **changes: Any) -> TrainConfig:
    """Return the settings for `cfg` at 1024. Raises ValueError for an unknown or invalid change."""
    return replace_settings(reference_config(data, outdir, cfg, GAMMAS, aug="noaug"), changes)


def config_256(data: str, outdir: str, cfg: str = "stylegan3-t", **changes: Any) -> TrainConfig:
    """Return the settings for `cfg` at 256. Raises ValueError for an unknown or invalid change."""
    small = {"batch": 64, "gamma": 1, "cbase": 16384, "dlr": 0.0025}
    if cfg == "stylegan2":
        small |= {"glr": 0.0025, "mbstd_group": 8}
    return config(data, outdir, cfg, **{**small, **changes})


VARIANTS = {"1024": config, "256": config_256}

if __name__ == "__main__":
    main("recipes.ffhq_unaligned", __doc__, VARIANTS)
