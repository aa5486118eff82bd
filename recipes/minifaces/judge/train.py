"""Train the judge on renders with strong augmentation (about six minutes on one core).

python -m recipes.minifaces.judge.train --out recipes/minifaces/judge/assets/judge.safetensors
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from guidance.encoders.mini_vocabulary import CLASSES, DOMAINS, STYLES
from recipes.arguments import argument_parser
from recipes.minifaces.encoder.batches import to_float
from recipes.minifaces.encoder.pairs import HIDDEN, NAMES, labels_of
from recipes.minifaces.judge.model import Judge
from recipes.minifaces.provenance import command_line, git_commit
from recipes.minifaces.world.attributes import sample_attributes, sample_pose
from recipes.minifaces.world.captions import truth
from recipes.minifaces.world.renderer import render
from recipes.processes import map_in_processes

TRAIN_BASE, HELDOUT_BASE = 4 * 10**8, 5 * 10**8


def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Render a labelled image: 40 % flat humans, which generators draw, otherwise anything."""
    rng = np.random.default_rng([seed, 0x30D6E])
    a = sample_attributes(seed)
    domain, style = "human", "flat"
    if rng.random() > 0.4:
        domain = DOMAINS[int(rng.integers(len(DOMAINS)))]
        style = STYLES[int(rng.integers(len(STYLES)))]
    return render(a, domain, style, pose=sample_pose(seed)), labels_of(truth(a, domain, style))


def draw_many(count: int, base: int, workers: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Render images, uint8 [count, 64, 64, 3], with labels, int8 [count, len(NAMES)]."""
    seeds = range(base, base + count)
    images, labels = zip(*map_in_processes(draw, seeds, workers, chunksize=32), strict=True)
    return np.stack(images), np.stack(labels)


def strong_augment(x: Tensor, rng: torch.Generator) -> Tensor:
    """Augment images [N, 3, 64, 64] in [-1, 1] with the artefacts of imperfect generators.

    An affine map with a smooth warp, a faint second image, low resolution or blur, contrast,
    colour, a rectangle, noise.
    """
    n = x.shape[0]

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.rand(shape, generator=rng) * (high - low) + low

    angle, scale = uniform(n, low=-0.2, high=0.2), uniform(n, low=0.86, high=1.12)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = angle.cos() / scale
    theta[:, 0, 1], theta[:, 1, 0] = -angle.sin() / scale, angle.sin() / scale
    theta[:, :, 2] = uniform(n, 2, low=-0.1, high=0.1)
    warp = F.interpolate(torch.randn(n, 2, 6, 6, generator=rng), size=x.shape[-2:], mode="bicubic")
    warp = warp.permute(0, 2, 3, 1) * uniform(n, 1, 1, 1, low=-0.02, high=0.035).clamp(min=0)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False) + warp
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    ghost = uniform(n, 1, 1, 1, low=-0.3, high=0.3).clamp(min=0)
    x = x + ghost * (x[torch.randperm(n, generator=rng)] - x)
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    coarse = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
    kind = uniform(n, 1, 1, 1)
    x = torch.where(kind < 0.25, blurred, torch.where(kind < 0.45, coarse, x))
    x = (x - x.mean((2, 3), keepdim=True)) * uniform(n, 1, 1, 1, low=0.75, high=1.25) + x.mean(
        (2, 3), keepdim=True
    )
    x = x + uniform(n, 3, 1, 1, low=-0.12, high=0.12)
    y, c = uniform(n, 1, 1), uniform(n, 1, 1)
    span = torch.linspace(0, 1, x.shape[-1])
    side = uniform(n, 1, 1, low=-0.08, high=0.08)
    hole = ((span[:, None] - y).abs() < side) & ((span - c).abs() < side)
    x = torch.where(hole[:, None], uniform(n, 3, 1, 1, low=-1, high=1), x)
    sigma = uniform(n, 1, 1, 1, low=-0.1, high=0.16).clamp(min=0)
    return x + sigma * torch.randn(x.shape, generator=rng)


def train_judge(
    images: np.ndarray,
    labels: np.ndarray,
    steps: int = 1000,
    batch: int = 128,
    seed: int = 0,
    rate: float = 3e-3,
) -> Iterator[tuple[int, float, Judge]]:
    """Train a judge, yielding (step, loss, judge) after every step; the judge is in train mode.

    Args:
        images: uint8 [N, 64, 64, 3].
        labels: int8 [N, len(NAMES)].
        steps: number of steps.
        batch: images per step.
        seed: random seed.
        rate: peak learning rate of AdamW.
    """
    torch.manual_seed(seed)
    judge = Judge().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps + 1, pct_start=0.1
    )
    rng = torch.Generator().manual_seed(seed)
    for step in range(steps):
        rows = torch.randint(len(images), (batch,), generator=rng).numpy()
        x = strong_augment(to_float(images[rows]), rng).contiguous(
            memory_format=torch.channels_last
        )
        target = torch.from_numpy(labels[rows].astype(np.int64))
        logits = judge(x)
        loss = sum(
            F.cross_entropy(logits[name], target[:, i], ignore_index=HIDDEN, reduction="sum")
            for i, name in enumerate(NAMES)
        ) / (batch * len(NAMES))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield step, loss.item(), judge


def accuracies(judge: Judge, x: Tensor, labels: np.ndarray) -> dict[str, float]:
    """Return the accuracy of each attribute over the images `x` that show it."""
    found = judge.classify(x)
    target = torch.from_numpy(labels.astype(np.int64))
    out = {}
    for i, name in enumerate(CLASSES):
        shown = target[:, i] != HIDDEN
        out[name] = round((found[name] == target[:, i])[shown].float().mean().item(), 4)
    return out


def main() -> None:
    """Run the command."""
    parser = argument_parser(__doc__)
    parser.add_argument("--out", required=True, help="file to write (.safetensors)")
    parser.add_argument("--num", type=int, default=30000, help="number of training images")
    parser.add_argument("--steps", type=int, default=1000, help="number of steps")
    parser.add_argument("--workers", type=int, default=1, help="number of rendering processes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    started = time.time()
    images, labels = draw_many(args.num, TRAIN_BASE, args.workers)
    for step, loss, judge in train_judge(images, labels, args.steps):  # noqa: B007
        if step % 50 == 0:
            print(f"step {step} loss {loss:.4f} {time.time() - started:.0f} s", flush=True)
    judge.eval()
    held, held_labels = draw_many(3000, HELDOUT_BASE, args.workers)
    x = to_float(held)
    clean = accuracies(judge, x, held_labels)
    rough = accuracies(judge, strong_augment(x, torch.Generator().manual_seed(1)), held_labels)
    print("clean", clean, "\naugmented", rough)
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    judge.save(
        args.out,
        {
            "command": command_line("recipes.minifaces.judge.train"),
            "commit": git_commit(),
            "steps": args.steps,
            "seconds": round(time.time() - started),
            "renders": args.num,
            "accuracy_heldout": clean,
            "accuracy_heldout_augmented": rough,
        },
    )


if __name__ == "__main__":
    main()
