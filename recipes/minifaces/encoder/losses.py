"""Losses of the mini encoder, and the adversarial images that they are computed on.

README.md explains what each of them is for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from guidance.encoders.mini import MiniEncoder
from guidance.encoders.mini_vocabulary import CLASSES
from recipes.minifaces.encoder.batches import Batch, soft_lowpass
from recipes.minifaces.world.captions import caption
from sg3.settings import check_settings, documented, setting

# Weights in the prompt and anchor losses: small or easily confused attributes need more.
EMPHASIS = {
    "domain": 1.5,
    "style": 1.5,
    "mouth": 2.5,
    "hair_colour": 3.0,
    "hair_style": 2.0,
    "glasses": 1.5,
}


@documented
@dataclass(frozen=True)
class EncoderTraining:
    """Hyperparameters of the training. L2 radii are those of images in [-1, 1]."""

    seed: int = setting(1, "Random seed.", min=0)
    steps: int = setting(1000, "Number of steps.", min=1)
    learning_rate: float = setting(2e-3, "Peak learning rate of AdamW.", min=0)
    weight_decay: float = setting(0.05, "Weight decay of AdamW.", min=0)
    ema: float = setting(0.98, "EMA decay of the saved model.", min=0, max=1)
    prompt_weight: float = setting(0.25, "Weight of the prompt loss.", min=0)
    anchor_weight: float = setting(0.25, "Weight of the anchor loss.", min=0)
    delta_weight: float = setting(2.0, "Weight of the loss of paired differences.", min=0)
    caption_weight: float = setting(0.5, "Weight of the caption loss.", min=0)
    max_logit_scale: float = setting(30.0, "Maximum of the logit scale.", above=0)
    adversarial_domain: float = setting(12.0, "L2 radius of attacks on domain and style.", min=0)
    adversarial_all: float = setting(6.0, "L2 radius of attacks on all attributes.", min=0)
    adversarial_warmup: int = setting(
        300, "Steps in which the radii grow from 0, all of them adversarial.", min=0
    )
    # Full radii can erase a mouth, and small attributes are learned late.
    adversarial_late: float = setting(0.4, "Factor of the radii after the warm-up.", min=0)
    adversarial_every: int = setting(2, "Interval of adversarial steps after the warm-up.", min=1)
    alignment_weight: float = setting(0.0, "Weight of the alignment loss.", min=0)
    alignment_noise: float = setting(
        0.05, "Standard deviation of noise on the images of the alignment loss.", min=0
    )
    pairs: int = setting(60, "Pairs per batch.", min=1)
    singles: int = setting(24, "Single images per batch.", min=0)

    def __post_init__(self) -> None:
        check_settings(self)


def prompt_bank(model: MiniEncoder, rng: np.random.Generator) -> dict[str, Tensor]:
    """Return text embeddings [classes, D] by attribute, one random phrasing per value."""
    texts = [caption({name: value}, rng) for name, values in CLASSES.items() for value in values]
    parts = model.encode_texts(texts).split([len(values) for values in CLASSES.values()])
    return dict(zip(CLASSES, parts, strict=True))


@torch.no_grad()
def new_anchors(model: MiniEncoder) -> torch.nn.ParameterDict:
    """Return free embeddings [classes, D] by attribute, used in training only.

    At initialization the phrasings of an attribute embed almost equally, so that neither tower has
    a gradient that separates its values (mouths stayed at chance for 400 steps). Anchors start
    apart, and both towers are trained towards them.
    """
    bank = prompt_bank(model, np.random.default_rng(0))
    return torch.nn.ParameterDict(
        {name: F.normalize(t - t.mean(0), dim=1) for name, t in bank.items()}
    )


def anchor_loss(
    embedded: Tensor,
    bank: dict[str, Tensor],
    anchors: torch.nn.ParameterDict,
    targets: dict[str, Tensor],
    scale: Tensor,
    weights: dict[str, float],
) -> Tensor:
    """Return the cross-entropy [scalar] of images and single-attribute prompts against anchors."""
    unit = {name: F.normalize(anchors[name], dim=1) for name in CLASSES}
    images = prompt_loss(embedded, unit, targets, scale, weights)
    texts = sum(
        F.cross_entropy(20 * bank[name] @ unit[name].T, torch.arange(len(unit[name])))
        for name in CLASSES
    )
    return images + texts


def prompt_loss(
    images: Tensor,
    bank: dict[str, Tensor],
    targets: dict[str, Tensor],
    scale: Tensor,
    weights: dict[str, float],
) -> Tensor:
    """Return the soft cross-entropy [scalar], summed over attributes.

    Each attribute is averaged over the images that show it.
    """
    total = images.new_zeros(())
    for name, target in targets.items():
        log_p = F.log_softmax(scale * images @ bank[name].T, dim=1)
        shown = target.sum(1).ceil().sum().clamp(min=1)
        total = total - weights[name] * (target * log_p).sum() / shown
    return total


def adversary(
    model: MiniEncoder,
    batch: Batch,
    bank: dict[str, Tensor],
    config: EncoderTraining,
    step: int,
    rng: np.random.Generator,
) -> Tensor:
    """Return adversarial images: moved uphill in a randomly weighted prompt loss, in an L2 ball.

    Half of the images are attacked in domain and style only (large radius), the others in every
    attribute (small radius). Some perturbations are low-pass filtered, and some are zero.
    """
    images = batch.images
    n = images.shape[0]
    warm = step / max(1, config.adversarial_warmup)
    warm = warm if warm < 1 else config.adversarial_late
    coarse = torch.from_numpy(rng.random(n) < 0.5)
    radius = torch.where(coarse, config.adversarial_domain, config.adversarial_all) * warm
    radius = radius * torch.from_numpy(rng.random(n).astype(np.float32))
    radius[torch.from_numpy(rng.random(n) < 0.1)] = 0
    smooth = torch.from_numpy(rng.random(n) < 0.35).float().view(n, 1, 1, 1)
    weights = {name: float(rng.random()) for name in CLASSES}
    targets = {
        name: t if name in ("domain", "style") else t * (~coarse).float()[:, None]
        for name, t in batch.targets.items()
    }
    bank = {name: t.detach() for name, t in bank.items()}
    rounds = 2 if rng.random() < 0.25 else 1
    scale = model.logit_scale.detach().exp()
    parameters = list(model.image_tower.parameters())
    model.eval()
    for p in parameters:
        p.requires_grad_(False)
    moved = torch.zeros_like(images)
    for _ in range(rounds):
        x = (images + moved).requires_grad_(True)
        loss = prompt_loss(model.encode_images(x), bank, targets, scale, weights)
        (gradient,) = torch.autograd.grad(loss, x)
        gradient = gradient + smooth * (soft_lowpass(gradient) - gradient)
        gradient = gradient / gradient.flatten(1).norm(dim=1).clamp(min=1e-12).view(n, 1, 1, 1)
        moved = moved + gradient * (radius / rounds).view(n, 1, 1, 1)
    for p in parameters:
        p.requires_grad_(True)
    model.train()
    return (images + moved).contiguous(memory_format=torch.channels_last)


def losses(
    model: MiniEncoder,
    images: Tensor,
    batch: Batch,
    bank: dict[str, Tensor],
    anchors: torch.nn.ParameterDict,
    config: EncoderTraining,
) -> dict[str, Tensor]:
    """Return the weighted losses by name, for the possibly adversarial `images` of `batch`."""
    embedded = model.encode_images(images)
    scale = model.logit_scale.exp().clamp(max=config.max_logit_scale)
    weights = {name: EMPHASIS.get(name, 1.0) for name in CLASSES}
    prompts = prompt_loss(embedded, bank, batch.targets, scale, weights)

    pairs = len(batch.alpha)
    texts = model.encode_texts([*batch.delta_texts[0], *batch.delta_texts[1]])
    image_delta = embedded[pairs : 2 * pairs] - embedded[:pairs]
    cosine = F.cosine_similarity(image_delta, texts[pairs:] - texts[:pairs], dim=1, eps=1e-4)
    delta = ((1 - cosine) * batch.alpha).sum() / batch.alpha.sum()

    described = embedded[batch.caption_rows]
    count = described.shape[0]
    logits = scale * described @ model.encode_texts([*batch.captions, *batch.wrong]).T
    own = torch.arange(count)
    hidden = batch.agree.clone()  # other texts that are true of an image are no negatives
    hidden[own, own] = False
    logits = logits.masked_fill(hidden, -1e4)
    captions = (F.cross_entropy(logits, own) + F.cross_entropy(logits[:, :count].T, own)) / 2
    return {
        "prompt": config.prompt_weight * prompts,
        "anchor": config.anchor_weight
        * anchor_loss(embedded, bank, anchors, batch.targets, scale, weights),
        "delta": config.delta_weight * delta,
        "caption": config.caption_weight * captions,
    }


def alignment_loss(
    model: MiniEncoder, batch: Batch, config: EncoderTraining, rng: np.random.Generator
) -> Tensor:
    """Return the mean over pairs of 1 − cos(∂⟨E(x), ΔT⟩/∂x, x₂ − x₁), at x between x₁ and x₂.

    The mean of the loss at full resolution and of its low-pass filtered version. Only pairs of two
    domains or styles count, and no blends: a single attribute changes too few pixels. Batch norm
    must be in eval mode, or the gradient would be that of the batch.
    """
    pairs = len(batch.alpha)
    plain = batch.alpha == 1
    other = torch.zeros(pairs, dtype=torch.bool)
    for name in ("domain", "style"):
        target = batch.targets[name]
        other |= (target[:pairs] != target[pairs : 2 * pairs]).any(dim=1)
    rows = torch.nonzero(plain & other)[:, 0]
    before, after = batch.images[rows], batch.images[pairs + rows]
    with torch.no_grad():
        old, new = (model.encode_texts([texts[i] for i in rows]) for texts in batch.delta_texts)
    change = after - before
    fraction = torch.from_numpy(rng.uniform(0, 0.8, size=len(rows)).astype(np.float32))
    noise = torch.from_numpy(rng.standard_normal(before.shape, dtype=np.float32))
    x = before + fraction.view(-1, 1, 1, 1) * change + config.alignment_noise * noise
    x.requires_grad_(True)
    along = (model.encode_images(x) * F.normalize(new - old, dim=1)).sum()
    (gradient,) = torch.autograd.grad(along, x, create_graph=True)
    cosines = [
        F.cosine_similarity(g.flatten(1), c.flatten(1), dim=1).mean()
        for g, c in ((gradient, change), (soft_lowpass(gradient), soft_lowpass(change)))
    ]
    return 1 - sum(cosines) / 2
