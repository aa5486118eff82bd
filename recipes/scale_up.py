"""A larger StyleGAN3-T: more channels, more layers, or both, at 1024×1024, from scratch.

Commands:
  python -m recipes.scale_up --data ffhqu-1024.zip --outdir runs --variant deep --dry-run
  sg3 plan --cfg stylegan3-t --resolution 1024x1024 --batch 32 --gpus 8 --aug noaug --num-layers 20
  torchrun --standalone --nproc-per-node=8 -m recipes.scale_up --data ffhqu-1024.zip \\
    --outdir runs --variant deep
To resume after an interruption, run the same command with --resume latest.

  variant   change                   G, D parameters   multiply-adds   GPU memory
  base      cbase 32768, 14 layers    22 M,  29 M       362 G           10.6 GiB
  wide      twice the channels        83 M, 116 M      1445 G           22.7 GiB
  deep      20 layers                 32 M,  29 M       542 G           14.2 GiB
  both      1.5 times, 20 layers      68 M,  65 M      1220 G           22.0 GiB

Multiply-adds of a forward pass of G and D per image, counted; memory for 4 images per pass,
estimated from the shapes of all tensors (`memory` in this module; `sg3 plan` can also measure it).

Channels grow in both networks (`cbase` is the number of channels times frequency, `cmax` their
maximum); --set dcbase=32768 --set dcmax=512 keeps the discriminator unchanged. Layers grow in G
only: the cutoff then rises in smaller steps over the same frequencies. A network of 14 layers can
initialize one of 20 in part: layers of similar cutoffs whose shapes agree. The effect of depth in
StyleGAN3 has hardly been studied: also train `base`, with the same data and seed.

Hardware: 8 GPUs; according to the table, 4 images per pass of base and deep fit into 16 GB, of wide
and both into 32 GB. When memory runs out, the batch per GPU is halved (`batch_gpu="auto"`).
Duration: base about 6 days on 8 A100 for 25 000 kimg (the reference implementation's published 157
s per kimg on one of them, and linear scaling); deep 1.5 times, both 3.4 times, wide 4 times as
long, by multiply-adds.
Result: not yet run here, and we know of no published result for these sizes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from recipes.run import main
from sg3.settings import replace_settings
from sg3.training import TrainConfig


def config(data: str, outdir: str, **changes: Any) -> TrainConfig:
    """Return the settings of the usual size. Raises ValueError for an unknown or invalid change."""
    settings = TrainConfig(
        outdir=outdir,
        data=data,
        cfg="stylegan3-t",
        batch=32,
        batch_gpu="auto",
        gamma=32.8,
        mirror=True,
        aug="noaug",
        cbase=32768,
        cmax=512,
        num_layers=14,
    )
    return replace_settings(settings, changes)


def larger(
    data: str, outdir: str, width: float = 1, num_layers: int = 14, **changes: Any
) -> TrainConfig:
    """Return the settings with `width` times the channels, and `num_layers` layers of G."""
    sizes = {"cbase": round(32768 * width), "cmax": round(512 * width), "num_layers": num_layers}
    name = f"width{width:g}-layers{num_layers}"
    return config(data, outdir, **{**sizes, "desc": name, **changes})


def memory(
    config: TrainConfig, num_gpus: int = 8, card: str = "A100-80", resolution: int = 1024
) -> dict[int, float | None]:
    """Estimate the memory of a GPU in GiB, by images per pass, from the shapes of all tensors.

    Args:
        config: settings of the run.
        num_gpus: number of GPUs.
        card: one of `sg3.training.cards.CARDS`.
        resolution: size of the images.
    """
    from sg3.training.cards import CARDS
    from sg3.training.plan import plan  # imports what training does not need

    if card not in CARDS:
        raise ValueError(f"card: got {card!r}, expected one of {', '.join(CARDS)}")
    rows = plan(config, (3, resolution, resolution), num_gpus, card=CARDS[card])
    return {row.images_per_pass: row.memory_gib for row in rows}


VARIANTS = {
    "base": config,
    "wide": partial(larger, width=2),
    "deep": partial(larger, num_layers=20),
    "both": partial(larger, width=1.5, num_layers=20),
}

if __name__ == "__main__":
    main("recipes.scale_up", __doc__, VARIANTS)
