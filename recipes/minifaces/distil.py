"""Replace the attribute codes of a pretrained generator by normal latents.

    python -m recipes.minifaces.distil --network sharp.safetensors --out warm.safetensors

The synthesis stays as it is; a new mapping network learns from normal latents z which w the old
one answers for the code that z stands for (`latents.code_of`).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

import sg3
from recipes.minifaces.latents import Z_DIM, code_of
from sg3.checkpoints import Networks
from sg3.networks import build_network
from sg3.networks.layers import MappingNetwork


@dataclass(frozen=True)
class DistilConfig:
    """Length of the distillation and depth of the new mapping network."""

    num_steps: int = 4000
    batch: int = 2048
    lr: float = 3e-3
    map_depth: int = 4
    seed: int = 0


def distil(teacher: nn.Module, config: DistilConfig) -> Iterator[tuple[float, nn.Module]]:
    """Yields after every batch: unexplained share of w's variance, the mapping so far."""
    torch.manual_seed(config.seed)
    random = np.random.RandomState(config.seed)
    w_dim, num_ws = teacher.w_dim, teacher.num_ws
    student = MappingNetwork(
        Z_DIM, 0, w_dim, num_ws, num_layers=config.map_depth, lr_multiplier=1.0
    )
    adam = torch.optim.Adam(student.parameters(), lr=config.lr, betas=(0.9, 0.99), fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, config.num_steps)
    for _ in range(config.num_steps):
        z = random.randn(config.batch, Z_DIM).astype(np.float32)
        with torch.no_grad():
            target = teacher.mapping(torch.from_numpy(code_of(z)))[:, 0]
        w = student(torch.from_numpy(z), update_emas=True)[:, 0]
        loss = F.mse_loss(w, target)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        schedule.step()
        yield float(loss.detach() / target.var(0).mean()), student


def with_mapping(teacher: nn.Module, student: nn.Module) -> nn.Module:
    """`teacher` with the mapping `student`, in the form that `sg3 train` builds and resumes."""
    kwargs = dict(
        teacher.init_kwargs, z_dim=Z_DIM, mapping_kwargs={"num_layers": student.num_layers}
    )
    G = build_network("stylegan3", kwargs)
    tensors = {f"synthesis.{k}": v for k, v in teacher.synthesis.state_dict().items()}
    for name, tensor in student.state_dict().items():
        # The same function with the usual learning rate multiplier of a mapping network, 0.01.
        tensors[f"mapping.{name}"] = tensor * 100 if name.startswith("fc") else tensor
    G.load_state_dict(tensors)
    return G.eval().requires_grad_(False)


def main() -> None:
    """Drain `distil` and write the network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", required=True, help="written by recipes.minifaces.pretrain")
    parser.add_argument("--out", required=True, help="network file to write (.safetensors)")
    parser.add_argument("--steps", type=int, default=DistilConfig.num_steps)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    networks = sg3.load(args.network)
    config = DistilConfig(num_steps=args.steps)
    with tqdm(distil(networks.G_ema, config), total=config.num_steps) as bar:
        for error, student in bar:  # noqa: B007 - the last one is written
            bar.set_postfix(unexplained=f"{error:.4f}")
    meta = {**networks.meta, "distil_steps": config.num_steps, "unexplained": round(error, 4)}
    G = with_mapping(networks.G_ema, student)
    sg3.save(Networks(G=G, D=networks.D, G_ema=G, meta=meta), args.out)
    print(f"{args.out}: unexplained share of w {error:.4f}")


if __name__ == "__main__":
    main()
