"""How far the generator's pictures are from renders it never saw, in features of the judge.

python -m recipes.minifaces.evaluation.generator --network mini-faces
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from torch import Tensor, nn

import sg3
from recipes.minifaces.encoder.batches import to_float
from recipes.minifaces.judge.model import collect_features, load_judge
from recipes.minifaces.world.renderer import render_seed
from sg3.metrics import frechet_distance

HELDOUT_BASE = 6 * 10**8


@torch.no_grad()
def sample_images(
    G: nn.Module, count: int, psi: float = 1.0, seed: int = 0, batch: int = 50
) -> Tensor:
    """[count, 3, H, W] in about [-1, 1], clamped, from seeded latents."""
    z = torch.from_numpy(np.random.RandomState(seed).randn(count, G.z_dim).astype(np.float32))
    return torch.cat([G(part, None, truncation_psi=psi).clamp(-1, 1) for part in z.split(batch)])


def evaluate_generator(network: str = "mini-faces", count: int = 4000) -> dict:
    """Fréchet distances to `count` held-out renders: generated (psi 1 and 0.7), and other
    renders."""
    judge = load_judge()
    halves = [
        collect_features(
            judge,
            to_float(
                np.stack([render_seed(HELDOUT_BASE + half * count + i) for i in range(count)])
            ),
        )
        for half in range(2)
    ]
    G = sg3.load(network).G_ema
    found = {psi: collect_features(judge, sample_images(G, count, psi)) for psi in (1.0, 0.7)}
    return {
        "pictures": count,
        "frechet_generated": round(frechet_distance(found[1.0], halves[0]), 3),
        "frechet_generated_psi_0.7": round(frechet_distance(found[0.7], halves[0]), 3),
        "frechet_between_halves_of_the_data": round(frechet_distance(halves[1], halves[0]), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--network", default="mini-faces", help="registry name or file")
    parser.add_argument("--num", type=int, default=4000)
    args = parser.parse_args()
    print(json.dumps(evaluate_generator(args.network, args.num), indent=1))


if __name__ == "__main__":
    main()
