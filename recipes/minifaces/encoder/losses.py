"""What the mini encoder is trained to do: prompts, anchors, differences, captions, adversary."""

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

# Small or easily confused attributes get more of the prompt and anchor losses.
EMPHASIS = {
    "domain": 1.5,
    "style": 1.5,
    "mouth": 2.5,
    "hair_colour": 3.0,
    "hair_style": 2.0,
    "glasses": 1.5,
}


@dataclass(frozen=True)
class EncoderTraining:
    """Hyper-parameters; weights of the losses are relative. `adversarial_*` are L2 radii of x in
    [-1, 1]."""

    seed: int = 1
    steps: int = 1000
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    ema: float = 0.98
    prompt_weight: float = 0.25
    anchor_weight: float = 0.25
    delta_weight: float = 2.0
    caption_weight: float = 0.5
    max_logit_scale: float = 30.0
    adversarial_domain: float = 12.0  # 6 in units of [0, 1]
    adversarial_all: float = 6.0
    adversarial_warmup: int = 300
    # After the warm-up: full radii can erase a mouth, and small attributes are then learned late.
    adversarial_late: float = 0.4
    adversarial_every: int = 2
    #: Of the angle between the gradient towards a text and the change that the text stands for.
    alignment_weight: float = 0.0
    alignment_noise: float = 0.05
    pairs: int = 60
    singles: int = 24


def prompt_bank(model: MiniEncoder, rng: np.random.Generator) -> dict[str, Tensor]:
    """Unit text vectors [classes, D] per attribute, one random phrasing for every value."""
    texts = [caption({name: value}, rng) for name, values in CLASSES.items() for value in values]
    parts = model.encode_texts(texts).split([len(values) for values in CLASSES.values()])
    return dict(zip(CLASSES, parts, strict=True))


@torch.no_grad()
def new_anchors(model: MiniEncoder) -> torch.nn.ParameterDict:
    """One free direction [classes, D] per value, used in training only.

    Where the phrasings of an attribute start almost equal, neither tower has a gradient to tell its
    values apart (mouths stayed at chance for 400 steps). Both are drawn to these, which differ.
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
    """Cross-entropy of pictures and of single-attribute prompts against the anchors [scalar]."""
    unit = {name: F.normalize(anchors[name], dim=1) for name in CLASSES}
    pictures = prompt_loss(embedded, unit, targets, scale, weights)
    texts = sum(
        F.cross_entropy(20 * bank[name] @ unit[name].T, torch.arange(len(unit[name])))
        for name in CLASSES
    )
    return pictures + texts


def prompt_loss(
    images: Tensor,
    bank: dict[str, Tensor],
    targets: dict[str, Tensor],
    scale: Tensor,
    weights: dict[str, float],
) -> Tensor:
    """Sum over attributes of the soft cross-entropy [scalar], mean over the pictures that show
    it."""
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
    """The batch's pictures moved uphill in a randomly weighted prompt loss, inside an L2 ball.

    One half attacks domain and style only (large radius), the other every attribute (small radius).
    """
    images = batch.images
    n = images.shape[0]
    warm = step / max(1, config.adversarial_warmup)
    warm = warm if warm < 1 else config.adversarial_late
    coarse_things = torch.from_numpy(rng.random(n) < 0.5)
    radius = torch.where(coarse_things, config.adversarial_domain, config.adversarial_all) * warm
    radius = radius * torch.from_numpy(rng.random(n).astype(np.float32))
    radius[torch.from_numpy(rng.random(n) < 0.1)] = 0
    smooth = torch.from_numpy(rng.random(n) < 0.35).float().view(n, 1, 1, 1)
    weights = {name: float(rng.random()) for name in CLASSES}
    targets = {
        name: t if name in ("domain", "style") else t * (~coarse_things).float()[:, None]
        for name, t in batch.targets.items()
    }
    bank = {name: t.detach() for name, t in bank.items()}
    rounds = 2 if rng.random() < 0.25 else 1
    scale = model.logit_scale.detach().exp()
    parameters = [p for p in model.image_tower.parameters()]
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
    """The four weighted losses for (possibly attacked) pictures of the batch."""
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
    hidden = batch.agree.clone()  # texts that happen to be true of a picture are no negatives
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
    """Mean over pairs of 1 - cos(d<E(x), dT>/dx, x2 - x1), at x between x1 and x2 [scalar].

    Half of it for the coarse structure. Pairs of two domains or styles only, and no blends: there
    the change is far larger than its details. Batch norm has to be in eval mode.
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
    share = torch.from_numpy(rng.uniform(0, 0.8, size=len(rows)).astype(np.float32))
    noise = torch.from_numpy(rng.standard_normal(before.shape, dtype=np.float32))
    x = before + share.view(-1, 1, 1, 1) * change + config.alignment_noise * noise
    x.requires_grad_(True)
    along = (model.encode_images(x) * F.normalize(new - old, dim=1)).sum()
    (gradient,) = torch.autograd.grad(along, x, create_graph=True)
    cosines = [
        F.cosine_similarity(g.flatten(1), c.flatten(1), dim=1).mean()
        for g, c in ((gradient, change), (soft_lowpass(gradient), soft_lowpass(change)))
    ]
    return 1 - sum(cosines) / 2
