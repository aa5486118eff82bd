"""A GAN loss with supervision: G(z) is also compared with the face that z encodes.

Each latent of the bundled world encodes a face (`latents`), and the renderer draws a thousand of
them per second. In addition to the adversarial loss, the distance of G(z) to the render in pixels,
in features of an encoder and in those of the discriminator keeps a small generator from forgetting,
while the discriminator makes its images sharp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import softplus

from guidance.encoders.mini_vocabulary import ATTRIBUTES
from recipes.minifaces.encoder.batches import to_float
from recipes.minifaces.generator.latents import BLOCKS, POSE_DIM, Z_DIM, code_of, values_of
from recipes.minifaces.generator.pretrain_losses import (
    EncoderDistance,
    discriminator_features,
    pixel_distance,
)
from recipes.minifaces.world.attributes import Attributes, pose_of
from recipes.minifaces.world.renderer import render
from sg3.settings import check_settings, documented, setting
from sg3.training.loss import GANLoss

SIZE_PX = 64  # of the bundled generators and encoders
#: What the loss requires.
REQUIRED = {
    "z_dim": Z_DIM, "size": f"{SIZE_PX}x{SIZE_PX}", "loss": "stylegan2", "augmented": False,
}  # fmt: skip


@documented
@dataclass(frozen=True)
class TaughtConfig:
    """Weights of the generator's losses."""

    picture_weight: float = setting(10, "Weight of the distance in pixels.", min=0)
    encoder: str = setting("mini-a", "Bundled encoder whose features are compared.")
    encoder_weight: float = setting(4, "Weight of the distance in features of `encoder`.", min=0)
    feature_weight: float = setting(10, "Weight of the distance in features of D.", min=0)
    adversarial_weight: float = setting(0.5, "Weight of the adversarial loss.", min=0)
    adversarial_ramp_kimg: float = setting(
        3, "Thousands of images in which that weight grows from 0.", above=0
    )

    def __post_init__(self) -> None:
        check_settings(self)


def render_latents(z: np.ndarray) -> np.ndarray:
    """Render the faces that `z` `[N, Z_DIM]` encodes, uint8 `[N, 64, 64, 3]`."""
    values, poses = values_of(z), code_of(z)[:, -POSE_DIM:].astype(np.float64)
    faces = []
    for i, pose in enumerate(poses):
        named = {name: int(values[name][i]) for name in BLOCKS}
        named |= {name: words[named[name]] for name, words in ATTRIBUTES.items()}
        faces.append(render(Attributes(**named), size_px=SIZE_PX, pose=pose_of(pose)))
    return np.stack(faces)


class TaughtLoss(GANLoss):
    """`GANLoss` with the distances of `TaughtConfig` in the generator's main phase.

    Raises ValueError for networks, data or settings that do not fit latents which encode faces.
    """

    taught = TaughtConfig()

    def __init__(self, G: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(G, *args, **kwargs)
        got = {
            "z_dim": G.z_dim,
            "size": f"{G.img_width}x{G.img_height}",
            "loss": self.config.kind,
            "augmented": self.augment is not None,
        }
        if got != REQUIRED:
            wrong = ", ".join(f"{k} {v}" for k, v in got.items() if v != REQUIRED[k])
            right = ", ".join(f"{k} {v}" for k, v in REQUIRED.items())
            raise ValueError(f"variant taught: got {wrong}, expected {right}")
        self.encoder = EncoderDistance(self.taught.encoder, self.pl_mean.device)
        self._adversarial_weight = 0.0

    def accumulate_gradients(
        self, phase: str, *items: torch.Tensor, gain: float, cur_nimg: int
    ) -> None:
        """As in `GANLoss`. An untrained discriminator would degrade G, so its weight ramps up."""
        ramp = min(cur_nimg / (self.taught.adversarial_ramp_kimg * 1000), 1)
        self._adversarial_weight = self.taught.adversarial_weight * ramp
        super().accumulate_gradients(phase, *items, gain=gain, cur_nimg=cur_nimg)

    def generator_main(
        self,
        reals: Sequence[torch.Tensor],
        fakes: Sequence[torch.Tensor],
        gain: float,
        sigma: float,
    ) -> None:
        """Adversarial loss, and the distances of G's images to the faces that `fakes` encode."""
        z, c = fakes
        images, _ = self.run_G(z, c)
        expected = to_float(render_latents(z.cpu().numpy())).to(images.device)
        logits, features = discriminator_features(self.D, images)
        with torch.no_grad():
            _, expected_features = discriminator_features(self.D, expected)
        distances = {
            "picture": pixel_distance(images, expected),
            "encoder": self.encoder(images, expected),
            "feature": sum(
                (a - b).abs().mean() for a, b in zip(features, expected_features, strict=True)
            ),
        }
        self._report_scores("fake", logits)
        loss = softplus(-logits)
        self.report("Loss/G/loss", loss)
        total = loss.mean() * self._adversarial_weight
        for name, distance in distances.items():
            self.report(f"Loss/G/{name}", distance)
            total = total + distance * getattr(self.taught, f"{name}_weight")
        total.mul(gain).backward()
