"""What a run does to the images that D sees: ADA, DiffAugment or APA (REFERENCE.md §4.6, §5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sg3.networks import build_network
from sg3.networks.augment import PRESETS
from sg3.training.config import TrainConfig
from sg3.training.stats import AdaConfig, AdaController

ADA_KIMG, ADA_KIMG_FROM_NETWORK = 500, 100


def image_augmentation(config: TrainConfig) -> tuple[str, dict[str, Any]] | None:
    """Return kind and arguments (`build_network`) of the augmentation of D's inputs, or None."""
    if config.aug in ("ada", "fixed"):
        return "augment", PRESETS[config.augpipe]
    if config.aug == "diffaug":
        return "diffaugment", {"policies": list(config.diffaug)}
    return None


class Augmentation:
    """The augmentation of a run and its probability.

    Attributes:
        pipe: augments everything that D sees (`build_network`), or None.
        pseudo_reals: replaces real images (APA), or None.
        p: the probability of ada, fixed or apa, a buffer; None without one.
        controller: adjusts p, or None if it is fixed.
    """

    def __init__(self, config: TrainConfig, device: torch.device):
        described = image_augmentation(config)
        self.pipe = None if described is None else build_network(*described).to(device)
        self.pseudo_reals = PseudoReals().to(device) if config.aug == "apa" else None
        module = self.pipe or self.pseudo_reals
        self.p: torch.Tensor | None = dict(module.named_buffers()).get("p") if module else None
        self.controller: AdaController | None = None
        if self.p is not None:
            self.p.fill_(config.p if config.aug == "fixed" else config.initial_p)
        if module is not None and config.aug in ("ada", "apa"):
            kimg = ADA_KIMG_FROM_NETWORK if config.from_network else ADA_KIMG
            self.controller = AdaController(module, AdaConfig(target=config.target, kimg=kimg))


class PseudoReals(nn.Module):
    """Adaptive pseudo augmentation (APA, arXiv 2111.06849): generated images presented as real.

    A D that has learned the real images by heart is deceived, and cannot win by that alone. Every
    image is replaced with probability `p`, a buffer that starts at 0 (REFERENCE.md §4.6).
    """

    p: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("p", torch.zeros([]))

    @torch.no_grad()
    def forward(
        self,
        images: torch.Tensor,
        draws: torch.Tensor,
        generate: Callable[[torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """Return `images` with those replaced whose number in `draws` is below p.

        Args:
            images: real images `[N, C, H, W]` in [−1, 1].
            draws: uniform random numbers in [0, 1) `[N]`.
            generate: maps indices `[K]` of the replaced images to images `[K, C, H, W]`; not
                called if there are none.
        """
        chosen = (draws < self.p).nonzero().flatten()
        if not len(chosen):
            return images
        return images.index_copy(0, chosen, generate(chosen).to(images.dtype))
