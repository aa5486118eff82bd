"""Train a mini encoder on renders of the world.

    python -m recipes.minifaces.encoder.train --seed 1 --data data/pairs --outdir runs/mini-a

The loss of paired differences aligns the change of the image's embedding with that of the text's.
Adversarial images make the gradient with respect to the image resemble what the text describes.
The same command resumes from state.pt in --outdir.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from guidance.encoders.mini import MiniConfig, MiniEncoder
from recipes.arguments import add_setting, argument_parser
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
from recipes.minifaces.provenance import command_line, git_commit
from recipes.minifaces.world.captions import known_words


@dataclass(frozen=True)
class TrainStep:
    """One step: its losses, and the EMA model, which later steps update in place."""

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
    """Train an encoder, yielding every step.

    Batch and randomness of step i depend on (seed, i) only, so a resumed run equals an
    uninterrupted one.

    Args:
        data: rendered identities.
        config: hyperparameters.
        checkpoint: training state: resumed from if it exists, and written.
        every: interval of `checkpoint` in steps.
        start: training state of another run whose weights this one starts from.
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
    """Training state: model, EMA model, anchors and optimizer."""

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
        """Return the training state after `step` steps."""
        parts = {name: getattr(self, name).state_dict() for name in self._PARTS}
        return {**parts, "step": step}

    def load(self, state: dict) -> int:
        """Load a training state; returns its number of steps."""
        for name in self._PARTS:
            getattr(self, name).load_state_dict(state[name])
        return state["step"]

    def start_from(self, state: dict) -> None:
        """Load the weights of another run's training state, but neither optimizer nor schedule."""
        for name in ("model", "average", "anchors"):
            getattr(self, name).load_state_dict(state[name])

    _PARTS = ("model", "average", "anchors", "optimiser")

    def step(self, batch: Batch, step: int) -> dict[str, float]:
        """Take one optimizer step; returns the losses by name."""
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
            model.eval()  # per image: batch norm must not mix the batch
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


def main() -> None:
    """Run the command."""
    parser = argument_parser(__doc__)
    parser.add_argument("--outdir", required=True, help="folder of the training state and encoder")
    parser.add_argument(
        "--data", required=True, help="folder written by recipes.minifaces.encoder.pairs"
    )
    for name in ("seed", "steps", "learning_rate", "delta_weight", "alignment_weight"):
        add_setting(parser, EncoderTraining, name)
    add_setting(parser, EncoderTraining, "adversarial_late")
    add_setting(parser, EncoderTraining, "adversarial_warmup", "--warmup")
    parser.add_argument("--start", help="state.pt of another run whose weights to start from")
    parser.add_argument("--identities", type=int, default=4600, help="number of identities")
    parser.add_argument("--threads", type=int, default=1, help="number of threads of torch")
    parser.add_argument("--note", default="", help="text for the provenance in the encoder's file")
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
        adversarial_warmup=args.adversarial_warmup,
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
                        "command": command_line("recipes.minifaces.encoder.train"),
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
