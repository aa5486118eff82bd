"""A GAN's loss whose generator is also shown what its latents stand for.

Every latent of the bundled world names a face (`latents`), and the renderer draws a thousand of
them per second. So beside the discriminator's word on G(z) there is the picture that z should
have become: the distance to it in pixels, in an encoder's feature maps and in those of the
discriminator keeps a small generator from forgetting while the discriminator makes it sharp.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import softplus

from guidance.encoders.mini_vocabulary import ATTRIBUTES
from recipes.minifaces.encoder.batches import to_float
from recipes.minifaces.generator.latents import BLOCKS, POSE_DIM, Z_DIM, code_of, values_of
from recipes.minifaces.generator.pretrain_losses import EncoderDistance, look, picture_distance
from recipes.minifaces.world.attributes import Attributes, pose_of
from recipes.minifaces.world.renderer import render
from sg3.training.loss import GANLoss

SIZE_PX = 64  # of the bundled generators and encoders
#: What a latent that names a face is for.
FITTING = {
    "z_dim": Z_DIM, "size": f"{SIZE_PX}x{SIZE_PX}", "loss": "stylegan2", "augmented": False,
}  # fmt: skip


@dataclass(frozen=True)
class TaughtConfig:
    """Weights of the distances, and of the discriminator, whose word counts from 0 upwards."""

    picture_weight: float = 10
    encoder: str = "mini-a"
    encoder_weight: float = 4
    feature_weight: float = 10
    adversarial_weight: float = 0.5
    adversarial_ramp_kimg: float = 3


def render_latents(z: np.ndarray) -> np.ndarray:
    """The faces that `z` `[N, Z_DIM]` stands for, uint8 `[N, 64, 64, 3]`."""
    values, poses = values_of(z), code_of(z)[:, -POSE_DIM:].astype(np.float64)
    faces = []
    for i, pose in enumerate(poses):
        named = {name: int(values[name][i]) for name in BLOCKS}
        named |= {name: words[named[name]] for name, words in ATTRIBUTES.items()}
        faces.append(render(Attributes(**named), size_px=SIZE_PX, pose=pose_of(pose)))
    return np.stack(faces)


class TaughtLoss(GANLoss):
    """`GANLoss`, with the distances of `TaughtConfig` in the generator's phase."""

    taught = TaughtConfig()

    def __init__(self, G, *args, **kwargs):
        super().__init__(G, *args, **kwargs)
        got = {
            "z_dim": G.z_dim,
            "size": f"{G.img_width}x{G.img_height}",
            "loss": self.config.kind,
            "augmented": self.augment is not None,
        }
        if got != FITTING:
            wrong = ", ".join(f"{k} {v}" for k, v in got.items() if v != FITTING[k])
            right = ", ".join(f"{k} {v}" for k, v in FITTING.items())
            raise ValueError(
                f"variant taught: got {wrong}, expected {right}: its latents name faces"
            )
        self.encoder = EncoderDistance(self.taught.encoder, self.pl_mean.device)
        self._trust = 0.0

    def accumulate_gradients(self, phase, *items, gain: float, cur_nimg: int) -> None:
        """As `GANLoss`; a fresh discriminator would spoil what G knows, so it counts later."""
        risen = min(cur_nimg / (self.taught.adversarial_ramp_kimg * 1000), 1)
        self._trust = self.taught.adversarial_weight * risen
        super().accumulate_gradients(phase, *items, gain=gain, cur_nimg=cur_nimg)

    def generator_main(self, reals, fakes, gain, sigma) -> None:
        """Also how far G's images are from the faces that their latents name."""
        z, c = fakes
        images, _ = self.run_G(z, c)
        asked = to_float(render_latents(z.cpu().numpy())).to(images.device)
        logits, features = look(self.D, images)
        with torch.no_grad():
            _, seen = look(self.D, asked)
        distances = {
            "picture": picture_distance(images, asked),
            "encoder": self.encoder(images, asked),
            "feature": sum((a - b).abs().mean() for a, b in zip(features, seen, strict=True)),
        }
        self._report_scores("fake", logits)
        loss = softplus(-logits)
        self.report("Loss/G/loss", loss)
        total = loss.mean() * self._trust
        for name, distance in distances.items():
            self.report(f"Loss/G/{name}", distance)
            total = total + distance * getattr(self.taught, f"{name}_weight")
        total.mul(gain).backward()
