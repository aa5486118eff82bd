"""MetFaces: 1336 faces from works of art, 1024×1024, from a network of photographed faces.

Commands:
  sg3 dataset --source metfaces/images --dest metfaces-1024.zip --resolution 1024x1024
  python -m recipes.metfaces_transfer --data metfaces-1024.zip --outdir runs --dry-run
  torchrun --standalone --nproc-per-node=8 -m recipes.metfaces_transfer --data metfaces-1024.zip \\
    --outdir runs --set cfg=stylegan3-r
  torchrun --standalone --nproc-per-node=8 -m recipes.metfaces_transfer --data metfacesu-1024.zip \\
    --outdir runs --variant unaligned
Going on after an interruption: the same command with --resume latest.

Few pictures: mirrored copies, adaptive augmentation, a fifth of the usual length, and a network
saved every 40 kimg, because the best one may come early. `cfg` chooses the network to start
from and gamma; the reference values (REFERENCE.md §4.8):

  cfg           aligned, from FFHQ   unaligned, from FFHQ-U
  stylegan3-t   6.6                  16.4
  stylegan3-r   3.3                  6.6
  stylegan2     5                    10

The unaligned pictures are not distributed: the data set's authors give a script that cuts them from
the source photographs.

Hardware: 8 GPUs for 4 images each, 10.8 GiB for T and 18.3 GiB for R by the estimate of `sg3 plan`;
fewer GPUs accumulate with --set batch_gpu=4.
Duration: 5000 kimg in about 27 hours on 8 A100 for T. An estimate: the reference implementation's
published 157 s per kimg on one of them, and linear scaling.
Result: not yet run here. The StyleGAN3 paper (arXiv 2106.12423, Fig. 5) gives FID 15.11 for T,
15.33 for R, 15.22 for StyleGAN2 on the aligned pictures and 18.75, 18.75, 18.98 on the others;
quoted from memory, compare before relying on it.
"""

from __future__ import annotations

from functools import partial

from recipes.run import main, with_changes
from sg3.training import TrainConfig

#: source data set → cfg → gamma
GAMMAS = {
    "ffhq": {"stylegan3-t": 6.6, "stylegan3-r": 3.3, "stylegan2": 5},
    "ffhqu": {"stylegan3-t": 16.4, "stylegan3-r": 6.6, "stylegan2": 10},
}


def dataset_command(source: str, dest: str) -> list[str]:
    """The command that makes the data set `dest` from the folder of 1024×1024 pictures."""
    return ["sg3", "dataset", "--source", source, "--dest", dest, "--resolution", "1024x1024"]


def config(
    data: str, outdir: str, cfg: str = "stylegan3-t", start: str = "ffhq", **changes
) -> TrainConfig:
    """Transfer from the network of `cfg` that was trained on `start`, 'ffhq' or 'ffhqu'.

    Raises ValueError for unknown names of `changes` or bad values.
    """
    settings = TrainConfig(
        outdir=outdir,
        data=data,
        cfg=cfg,
        resume=f"{cfg}-{start}-1024",
        batch=32,
        gamma=GAMMAS[start].get(cfg),
        mirror=True,
        aug="ada",
        kimg=5000,
        snap=10,
    )
    return with_changes(settings, changes)


VARIANTS = {"aligned": config, "unaligned": partial(config, start="ffhqu")}

if __name__ == "__main__":
    main("recipes.metfaces_transfer", __doc__, VARIANTS)
