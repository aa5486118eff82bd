"""Train the mini encoder on the world.

    python -m recipes.minifaces.encoder.train --seed 1 --data /root/data/pairs --outdir
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

from guidance.encoders.mini import MiniConfig, MiniEncoder
from recipes.minifaces.encoder.batches import Batch, make_batch
from recipes.minifaces.encoder.losses import (
    EncoderTraining,
    adversary,
    alignment_loss,
    losses,
    new_anchors,
    prompt_bank,
)
from recipes.minifaces.encoder.pairs import TRAIN_BASE, Pairs, load_or_build
from recipes.minifaces.world.captions import known_words


@dataclass(frozen=True)
class TrainStep:
    """One finished step: the losses, and the averaged model (shared, do not change it)."""

    index: int
    losses: dict[str, float]
    model: MiniEncoder


def _save_state(path: Path, state: dict) -> None:
    temporary = path.with_suffix(".partial")
    torch.save(state, temporary)
    os.replace(temporary, path)


def train_encoder(
    data: Pairs,
    config: EncoderTraining,
    checkpoint: str | os.PathLike[str] | None = None,
    every: int = 100,
    start: str | os.PathLike[str] | None = None,
) -> Iterator[TrainStep]:
    """Yield one `TrainStep` per step; continue from `checkpoint` if it exists, and write it `every`
    steps. `start`: a checkpoint of another run to begin with.

    Batch and randomness of step i depend on (seed, i) only, so a resumed run equals an unbroken
    one.
    """
    run = _Run(config)
    path = Path(checkpoint) if checkpoint is not None else None
    first = 0
    if path is not None and path.exists():
        first = run.load(torch.load(path, weights_only=True))
    elif start is not None:
        run.start_from(torch.load(start, weights_only=True))
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

    def start_from(self, state: dict) -> None:
        """Take the networks of another run's state, with a new optimiser and schedule."""
        for name in ("model", "average", "anchors"):
            getattr(self, name).load_state_dict(state[name])

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
        if config.alignment_weight:
            model.eval()  # the gradient of a picture, not of its batch
            aligned = config.alignment_weight * alignment_loss(model, batch, config, rng)
            aligned.backward()
            model.train()
            parts["alignment"] = aligned.detach()
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
        "--data", required=True, help="folder of memory maps, see recipes.minifaces.encoder.pairs"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--learning-rate", type=float, default=EncoderTraining.learning_rate)
    parser.add_argument("--delta-weight", type=float, default=EncoderTraining.delta_weight)
    parser.add_argument("--alignment-weight", type=float, default=0.0)
    parser.add_argument("--adversarial-late", type=float, default=EncoderTraining.adversarial_late)
    parser.add_argument("--warmup", type=int, default=EncoderTraining.adversarial_warmup)
    parser.add_argument("--start", help="state.pt of another run to begin with")
    parser.add_argument("--identities", type=int, default=4600)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--note", default="", help="goes into the provenance")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    out = Path(args.outdir)
    out.mkdir(parents=True, exist_ok=True)
    data = load_or_build(args.data, args.identities, TRAIN_BASE, args.threads)
    config = EncoderTraining(
        seed=args.seed,
        steps=args.steps,
        learning_rate=args.learning_rate,
        delta_weight=args.delta_weight,
        alignment_weight=args.alignment_weight,
        adversarial_late=args.adversarial_late,
        adversarial_warmup=args.warmup,
    )
    started = time.time()
    with open(out / "log.jsonl", "a") as log:
        for step in train_encoder(data, config, out / "state.pt", start=args.start):
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
                            ["python -m recipes.minifaces.encoder.train", *sys.argv[1:]]
                        ),
                        "commit": git_commit(),
                        "steps": step.index + 1,
                        "seconds": round(seconds),
                        "note": args.note,
                        "training": asdict(config),
                        "data": f"recipes.minifaces.encoder.pairs, {args.identities} identities",
                    },
                )


if __name__ == "__main__":
    main()
