"""Evaluate a generator: Fréchet distance to held-out renders, in features of the judge.

python -m recipes.minifaces.evaluation.generator --network mini-faces
"""

from __future__ import annotations

import json

import numpy as np
import torch
from torch import Tensor, nn

import sg3
from recipes.arguments import argument_parser
from recipes.minifaces.encoder.batches import to_float
from recipes.minifaces.judge.model import Judge, collect_features, load_judge
from recipes.minifaces.world.renderer import render_seed
from sg3.metrics import frechet_distance

HELDOUT_BASE = 6 * 10**8  # seeds of no training data


@torch.no_grad()
def sample_images(
    G: nn.Module, count: int, psi: float = 1.0, seed: int = 0, batch: int = 50
) -> Tensor:
    """Generate images [count, 3, H, W], clamped to [-1, 1].

    Args:
        G: generator.
        count: number of images.
        psi: truncation.
        seed: random seed of the latents.
        batch: batch size.
    """
    z = torch.from_numpy(np.random.RandomState(seed).randn(count, G.z_dim).astype(np.float32))
    return torch.cat([G(part, None, truncation_psi=psi).clamp(-1, 1) for part in z.split(batch)])


def render_features(judge: Judge, count: int, first: int = 0) -> np.ndarray:
    """Return features [count, 192] of held-out renders, from number `first` on."""
    seeds = range(HELDOUT_BASE + first, HELDOUT_BASE + first + count)
    return collect_features(judge, to_float(np.stack([render_seed(seed) for seed in seeds])))


def evaluate_generator(network: str = "mini-faces", count: int = 4000) -> dict:
    """Return Fréchet distances to held-out renders: of images (psi 1 and 0.7), of other renders."""
    judge = load_judge()
    halves = [render_features(judge, count, first=half * count) for half in range(2)]
    G = sg3.load(network).G_ema
    found = {psi: collect_features(judge, sample_images(G, count, psi)) for psi in (1.0, 0.7)}
    return {
        "pictures": count,
        "frechet_generated": round(frechet_distance(found[1.0], halves[0]), 3),
        "frechet_generated_psi_0.7": round(frechet_distance(found[0.7], halves[0]), 3),
        "frechet_between_halves_of_the_data": round(frechet_distance(halves[1], halves[0]), 3),
    }


def main() -> None:
    """Run the command."""
    parser = argument_parser(__doc__)
    parser.add_argument("--network", default="mini-faces", help="name, file or URL")
    parser.add_argument("--num", type=int, default=4000, help="number of images per set")
    args = parser.parse_args()
    print(json.dumps(evaluate_generator(args.network, args.num), indent=1))


if __name__ == "__main__":
    main()
