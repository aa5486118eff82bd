"""MetFaces: 1336 faces from works of art, 1024×1024, transferred from a network of photographs.

Commands:
  sg3 dataset --source metfaces/images --dest metfaces-1024.zip --resolution 1024x1024
  python -m recipes.metfaces_transfer --data metfaces-1024.zip --outdir runs --dry-run
  torchrun --standalone --nproc-per-node=8 -m recipes.metfaces_transfer --data metfaces-1024.zip \\
    --outdir runs --set cfg=stylegan3-r
  torchrun --standalone --nproc-per-node=8 -m recipes.metfaces_transfer --data metfacesu-1024.zip \\
    --outdir runs --variant unaligned
To resume after an interruption, run the same command with --resume latest.

For a small dataset: mirrored copies, adaptive augmentation, a fifth of the usual length, and a
snapshot every 40 kimg, because the best one may come early. `cfg` selects the network to start from
and gamma; the reference values (REFERENCE.md §4.8):

  cfg           aligned, from FFHQ   unaligned, from FFHQ-U
  stylegan3-t   6.6                  16.4
  stylegan3-r   3.3                  6.6
  stylegan2     5                    10

The unaligned images are not distributed: the authors of the dataset provide a script that cuts them
from the source photographs.

Hardware: 8 GPUs with 4 images each, 10.8 GiB for T and 18.3 GiB for R as estimated by `sg3 plan`;
with fewer GPUs, accumulate gradients with --set batch_gpu=4.
Duration: 5000 kimg in about 27 hours on 8 A100 for T. Estimated: the reference implementation's
published 157 s per kimg on one of them, and linear scaling.
Result: not yet run here. The StyleGAN3 paper (arXiv 2106.12423, Fig. 5) reports FID 15.11 for T,
15.33 for R, 15.22 for StyleGAN2 on the aligned images and 18.75, 18.75, 18.98 on the unaligned
ones; quoted from memory, check before relying on it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from recipes.run import main, reference_config
from sg3.settings import replace_settings
from sg3.training import TrainConfig

#: source dataset → cfg → gamma
GAMMAS = {
    "ffhq": {"stylegan3-t": 6.6, "stylegan3-r": 3.3, "stylegan2": 5},
    "ffhqu": {"stylegan3-t": 16.4, "stylegan3-r": 6.6, "stylegan2": 10},
}


def dataset_command(source: str, dest: str) -> list[str]:
    """Return the command that makes the dataset `dest` from the folder of 1024×1024 images."""
    return ["sg3", "dataset", "--source", source, "--dest", dest, "--resolution", "1024x1024"]


def config(
    data: str, outdir: str, cfg: str = "stylegan3-t", start: str = "ffhq", **changes: Any
) -> TrainConfig:
    """Return the settings of a transfer from a published network.

    Args:
        data: zip or folder of training images.
        outdir: folder of the runs.
        cfg: configuration of the network.
        start: dataset that it was trained on, 'ffhq' or 'ffhqu'.
        changes: other values of settings.

    Raises ValueError for an unknown or invalid change.
    """
    settings = {"resume": f"{cfg}-{start}-1024", "aug": "ada", "kimg": 5000, "snap": 10}
    return replace_settings(reference_config(data, outdir, cfg, GAMMAS[start], **settings), changes)


VARIANTS = {"aligned": config, "unaligned": partial(config, start="ffhqu")}

if __name__ == "__main__":
    main("recipes.metfaces_transfer", __doc__, VARIANTS)
