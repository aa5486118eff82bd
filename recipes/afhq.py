"""Animal faces: AFHQ v2 at 512×512, one network for cats, dogs and wild animals, from nothing.

Commands:
  sg3 dataset --source afhqv2/train --dest afhqv2-512.zip --resolution 512x512 --labels folders
  python -m recipes.afhq --data afhqv2-512.zip --outdir runs --dry-run
  torchrun --standalone --nproc-per-node=8 -m recipes.afhq --data afhqv2-512.zip --outdir runs
  torchrun --standalone --nproc-per-node=8 -m recipes.afhq --data afhqv2-512.zip --outdir runs \\
    --variant by-class
Going on after an interruption: the same command with --resume latest.

The reference values of gamma (REFERENCE.md §4.8) are those of `cfg`: T 8.2, R 16.4, StyleGAN2 5. The labels
(cat, dog, wild) are there for the variant by-class, which is ours; the reference runs ignore them.

Hardware: 8 GPUs for 4 images each, 6.3 GiB for T by the estimate of `sg3 plan`; fewer GPUs
accumulate with --set batch_gpu=4.
Duration: 25 000 kimg in about 5 days on 8 A100 for T. An estimate: 0.92 times the multiply-adds per
image of a 1024×1024 run, for which 157 s per kimg on one A100 are published, and linear scaling.
Result: not yet run here. The StyleGAN3 paper (arXiv 2106.12423, Fig. 5) gives FID 4.04 for T, 4.40
for R, 4.62 for StyleGAN2; quoted from memory, compare before relying on it.
"""

from __future__ import annotations

from functools import partial

from recipes.run import main, with_changes
from sg3.training import TrainConfig

GAMMAS = {"stylegan3-t": 8.2, "stylegan3-r": 16.4, "stylegan2": 5}


def dataset_command(source: str, dest: str) -> list[str]:
    """The command that makes the data set `dest` from one folder of pictures per class."""
    return [
        "sg3", "dataset", "--source", source, "--dest", dest, "--resolution", "512x512",
        "--labels", "folders",
    ]  # fmt: skip


def config(data: str, outdir: str, cfg: str = "stylegan3-t", **changes) -> TrainConfig:
    """Settings for `cfg`. Raises ValueError for unknown names of `changes` or bad values."""
    settings = TrainConfig(
        outdir=outdir,
        data=data,
        cfg=cfg,
        batch=32,
        gamma=GAMMAS.get(cfg),
        mirror=True,
        aug="ada",
    )
    return with_changes(settings, changes)


VARIANTS = {"all": config, "by-class": partial(config, cond=True)}

if __name__ == "__main__":
    main("recipes.afhq", __doc__, VARIANTS)
