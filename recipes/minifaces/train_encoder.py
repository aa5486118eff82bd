"""Train the mini encoder on the world.

    python -m recipes.minifaces.train_encoder --seed 1 --data /root/data/pairs --outdir
    /root/runs/mini-a

Paired differences make a change of the picture point where the change of the text points;
adversarial pictures make the gradient with respect to the picture look like the thing that is asked
for.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from guidance.encoders.mini import MiniConfig, MiniEncoder
from recipes.minifaces.batches import Batch, make_batch, soft_lowpass
from recipes.minifaces.captions import CLASSES, caption, known_words
from recipes.minifaces.pairs import TRAIN_BASE, Pairs, load_or_build


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
    delta_weight: float = 1.0
    caption_weight: float = 0.5
    max_logit_scale: float = 30.0
    adversarial_domain: float = 12.0  # 6 in units of [0, 1]
    adversarial_all: float = 6.0
    adversarial_warmup: int = 300
    # After the warm-up: full radii can erase a mouth, and small attributes are then learned late.
    adversarial_late: float = 0.4
    adversarial_every: int = 2
    pairs: int = 60
    singles: int = 24


@dataclass(frozen=True)
class TrainStep:
    """One finished step: the losses, and the averaged model (shared, do not change it)."""

    index: int
    losses: dict[str, float]
    model: MiniEncoder


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
    weights = {name: 1.5 if name in ("domain", "style") else 1.0 for name in CLASSES}
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


def _save_state(path: Path, state: dict) -> None:
    temporary = path.with_suffix(".partial")
    torch.save(state, temporary)
    os.replace(temporary, path)


def train_encoder(
    data: Pairs,
    config: EncoderTraining,
    checkpoint: str | os.PathLike[str] | None = None,
    every: int = 100,
) -> Iterator[TrainStep]:
    """Yield one `TrainStep` per step; continue from `checkpoint` if it exists, and write it `every`
    steps.

    Batch and randomness of step i depend on (seed, i) only, so a resumed run equals an unbroken
    one.
    """
    run = _Run(config)
    path = Path(checkpoint) if checkpoint is not None else None
    first = 0
    if path is not None and path.exists():
        first = run.load(torch.load(path, weights_only=True))
    for step in range(first, config.steps):
        batch = make_batch(data, config.seed * 10**6 + step, config.pairs, config.singles)
        found = run.step(batch, step)
        if path is not None and ((step + 1) % every == 0 or step + 1 == config.steps):
            _save_state(path, run.state(step + 1))
        yield TrainStep(step, found, run.average)


class _Run:
    """Model, its moving average, anchors and optimiser, and what one step does to them."""

    def __init__(self, config: EncoderTraining) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        model = MiniEncoder(MiniConfig(tuple(known_words())), name=f"mini-{config.seed}")
        self.model = model.to(memory_format=torch.channels_last).train()
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.anchors = new_anchors(self.model)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            betas=(0.9, 0.98),
        )
        self.optimiser.add_param_group({"params": self.anchors.parameters(), "weight_decay": 0.0})

    def state(self, step: int) -> dict:
        parts = {name: getattr(self, name).state_dict() for name in self._PARTS}
        return {**parts, "step": step}

    def load(self, state: dict) -> int:
        for name in self._PARTS:
            getattr(self, name).load_state_dict(state[name])
        return state["step"]

    _PARTS = ("model", "average", "anchors", "optimiser")

    def step(self, batch: Batch, step: int) -> dict[str, float]:
        """One optimiser step; the losses."""
        config, model = self.config, self.model
        rng = np.random.default_rng([config.seed, step])
        cosine = 0.5 + 0.5 * math.cos(math.pi * step / config.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / 40) * cosine
        bank = prompt_bank(model, rng)
        images = batch.images
        if step < config.adversarial_warmup or step % config.adversarial_every == 0:
            images = adversary(model, batch, bank, config, step, rng)
        parts = losses(model, images, batch, bank, self.anchors, config)
        self.optimiser.zero_grad(set_to_none=True)
        sum(parts.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        self.optimiser.step()
        self._update_average(min(config.ema, (step + 1) / (step + 10)))
        return {name: v.item() for name, v in parts.items()}

    @torch.no_grad()
    def _update_average(self, decay: float) -> None:
        new = self.model.state_dict().values()
        for kept, value in zip(self.average.state_dict().values(), new, strict=True):
            kept.lerp_(value, 1 - decay) if kept.is_floating_point() else kept.copy_(value)


def git_commit() -> str:
    """The commit this code was run from, "unknown" outside a repository."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--outdir", required=True)
    parser.add_argument(
        "--data", required=True, help="folder of memory maps, see recipes.minifaces.pairs"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--identities", type=int, default=4600)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--note", default="", help="goes into the provenance")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    out = Path(args.outdir)
    out.mkdir(parents=True, exist_ok=True)
    data = load_or_build(args.data, args.identities, TRAIN_BASE, args.threads)
    config = EncoderTraining(seed=args.seed, steps=args.steps)
    started = time.time()
    with open(out / "log.jsonl", "a") as log:
        for step in train_encoder(data, config, out / "state.pt"):
            seconds = time.time() - started
            log.write(
                json.dumps({"step": step.index, "seconds": round(seconds, 1), **step.losses}) + "\n"
            )
            log.flush()
            if (step.index + 1) % 100 == 0 or step.index + 1 == config.steps:
                step.model.save(
                    out / "encoder.safetensors",
                    {
                        "command": " ".join(
                            ["python -m recipes.minifaces.train_encoder", *sys.argv[1:]]
                        ),
                        "commit": git_commit(),
                        "steps": step.index + 1,
                        "seconds": round(seconds),
                        "note": args.note,
                        "training": asdict(config),
                        "data": f"recipes.minifaces.pairs, {args.identities} identities",
                    },
                )


if __name__ == "__main__":
    main()
