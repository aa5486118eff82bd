"""The bundled generator before its latents are normal: it draws faces from attribute codes.

    python -m recipes.minifaces.generator.pretrain --data faces.zip --out coded.safetensors \
        --kimg 24
    python -m recipes.minifaces.generator.pretrain --data faces.zip --out sharp.safetensors \
        --kimg 200 --init coded.safetensors --adversarial --lr 0.004 --processes 4

Which face a picture shows is known here, so a generator of attribute codes (`latents.code_of`)
can be told what to draw: first by the distance of pictures alone, then, with a discriminator that
makes them sharp, also by the distance of that discriminator's features. `distil` replaces the
codes by normal latents afterwards; from there, --normal-latents goes on. With --encoder the
features of a bundled encoder count beside the pixels. Several processes of one thread each share a
batch: on a CPU that beats threads by half.
"""

from __future__ import annotations

import argparse
import copy
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import sg3
from recipes.minifaces.generator.latents import CODE_DIM, code_of_seeds, z_of
from recipes.minifaces.generator.muon import Muon
from recipes.minifaces.generator.pretrain_losses import EncoderDistance, look, picture_distance
from sg3.allocator import keep_large_blocks
from sg3.checkpoints import Networks
from sg3.data import ImageDataset
from sg3.networks import build_network
from sg3.training.ema import ema_beta, update_ema

CONFIGURATIONS = ("stylegan3-t", "stylegan3-r")


@dataclass(frozen=True)
class PretrainConfig:
    """Size of the networks, length and weights of the training."""

    data: str
    data_seed: int = 0
    cfg: str = CONFIGURATIONS[0]  # R has twice the channels, as `sg3 train` has it
    kimg: float = 24
    batch: int = 4  # per process
    processes: int = 1
    lr: float = 0.015
    dlr: float = 0.002
    adversarial: bool = False
    r1_gamma: float = 0.5
    r1_interval: int = 8
    picture_weight: float = 10
    feature_weight: float = 10
    adversarial_weight: float = 0.5
    adversarial_ramp: float = 0.15  # share of the run in which that weight rises from 0
    w_dim: int = 128
    map_depth: int = 3
    num_layers: int = 6
    margin_size: int = 5
    cbase: int = 2048
    cmax: int = 48
    dcbase: int = 1024
    dcmax: int = 128
    ema_kimg: float = 2
    seed: int = 0
    init: str | None = None  # result of an earlier call, or of `distil`, to go on from
    normal_latents: bool = False  # the network draws from normal latents already
    encoder: str | None = None  # bundled encoder whose features count beside the pictures
    encoder_weight: float = 4
    muon: bool = False  # instead of Adam, for the matrices of G's synthesis network


def generator_kwargs(config: PretrainConfig) -> dict:
    """Constructor arguments, as `sg3 train` would choose them but for the mapping's rate."""
    rotates = config.cfg == "stylegan3-r"
    wider = 2 if rotates else 1
    return dict(
        z_dim=CODE_DIM,
        c_dim=0,
        w_dim=config.w_dim,
        img_resolution=64,
        img_channels=3,
        channel_base=config.cbase * wider,
        channel_max=config.cmax * wider,
        mapping_kwargs={"num_layers": config.map_depth, "lr_multiplier": 0.1},
        magnitude_ema_beta=0.5 ** (config.batch * config.processes / 20e3),
        num_layers=config.num_layers,
        margin_size=config.margin_size,
        **(dict(conv_kernel=1, use_radial_filters=True) if rotates else {}),
    )


def build_discriminator(config: PretrainConfig) -> nn.Module:
    """As `sg3 train` builds it."""
    kwargs = dict(
        c_dim=0,
        img_resolution=64,
        img_channels=3,
        channel_base=config.dcbase,
        channel_max=config.dcmax,
    )
    return build_network("discriminator", kwargs)


@dataclass(frozen=True)
class PretrainStep:
    """One batch: images so far, its losses, the networks."""

    nimg: int
    losses: dict[str, float]
    networks: Networks


class Pretrainer:
    """Networks and optimisers; `step` learns from one batch of codes and their pictures."""

    def __init__(self, config: PretrainConfig):
        self.config = config
        torch.manual_seed(config.seed)
        start = sg3.load(config.init) if config.init else None
        if start is None:
            self.G = build_network("stylegan3", generator_kwargs(config))
        else:
            self.G = build_network(start.G_ema.kind, start.G_ema.init_kwargs)
            self.G.load_state_dict(start.G_ema.state_dict())
        self.D = build_discriminator(config)
        if start is not None and start.D is not None:
            self.D.load_state_dict(start.D.state_dict())
        self.G_ema = copy.deepcopy(self.G).eval().requires_grad_(False)
        self.G.train().requires_grad_(True)
        # What a code means in W stays as it is, so that `distil` can already learn it.
        self.G.mapping.requires_grad_(config.normal_latents or not config.adversarial)
        self.D.train().requires_grad_(False)
        # Momentum speeds the regression up; with a discriminator it makes the two circle.
        adam = {"betas": (0.5 if config.adversarial else 0.9, 0.99), "fused": True}
        matrices = synthesis_matrices(self.G) if config.muon else []
        rest = [p for p in self.G.parameters() if all(p is not matrix for matrix in matrices)]
        self.g_optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Adam(rest, lr=config.lr, **adam)
        ]
        if matrices:
            self.g_optimizers.append(Muon(matrices, config.lr, momentum=adam["betas"][0]))
        self.d_adam = torch.optim.Adam(self.D.parameters(), lr=config.dlr, **adam)
        self.encoder = EncoderDistance(config.encoder) if config.encoder else None

    def step(
        self, z: torch.Tensor, real: torch.Tensor, with_r1: bool, progress: float = 1
    ) -> dict[str, float]:
        """Losses by name; both networks have moved when it returns. `progress` is in (0, 1]."""
        fake = self.G(z, update_emas=True)
        losses = {"picture": picture_distance(fake, real)}
        total = losses["picture"] * self.config.picture_weight
        if self.encoder is not None:
            losses["encoder"] = self.encoder(fake, real)
            total = total + losses["encoder"] * self.config.encoder_weight
        if self.config.adversarial:
            seen, real_loss = self._teach_discriminator(fake.detach(), real, with_r1)
            logits, features = look(self.D, fake)
            losses["feature"] = sum(
                (a - b).abs().mean() for a, b in zip(features, seen, strict=True)
            )
            losses["G"] = F.softplus(-logits).mean()
            losses["D"] = real_loss
            # A fresh discriminator would spoil what the generator knows: its word counts later.
            trust = self.config.adversarial_weight * min(progress / self.config.adversarial_ramp, 1)
            total = total + losses["feature"] * self.config.feature_weight + losses["G"] * trust
        for optimizer in self.g_optimizers:
            optimizer.zero_grad(set_to_none=True)
        total.backward()
        share_gradients(self.G, self.D)
        for optimizer in self.g_optimizers:
            optimizer.step()
        if self.config.adversarial:
            self.d_adam.step()
        return {name: float(value.detach()) for name, value in losses.items()}

    def _teach_discriminator(self, fake, real, with_r1):
        """Gradients of D (its step comes later) and what it sees in the real images."""
        self.D.requires_grad_(True)
        self.d_adam.zero_grad(set_to_none=True)
        real = real.requires_grad_(with_r1)
        logits, seen = look(self.D, real)
        loss = F.softplus(-logits).mean() + F.softplus(look(self.D, fake)[0]).mean()
        penalty = torch.zeros([])
        if with_r1:
            (grads,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
            penalty = grads.square().sum([1, 2, 3]).mean()
            penalty = penalty * (self.config.r1_gamma / 2 * self.config.r1_interval)
        (loss + penalty).backward()
        self.D.requires_grad_(False)
        return [x.detach() for x in seen], loss


def synthesis_matrices(G: nn.Module) -> list[nn.Parameter]:
    """Parameters of two or more dimensions of the synthesis network, but for its last layer."""
    last = G.synthesis.layer_names[-1]
    named = G.synthesis.named_parameters()
    return [p for name, p in named if p.ndim >= 2 and not name.startswith(last)]


def share_gradients(*networks: nn.Module) -> None:
    """Average gradients and buffers over the processes, in one message."""
    if not dist.is_initialized():
        return
    tensors = [p.grad for net in networks for p in net.parameters() if p.grad is not None]
    tensors += [b for b in networks[0].buffers() if b.ndim == 0]
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def pretrain(
    config: PretrainConfig, images: torch.Tensor, codes: torch.Tensor, rank: int = 0
) -> Iterator[PretrainStep]:
    """Learn `images` `[N, 3, 64, 64]` uint8 from `codes` `[N, CODE_DIM]`; yields every batch."""
    learner = Pretrainer(config)
    random = np.random.RandomState(config.seed * config.processes + rank)
    total, shown = round(config.kimg * 1000), config.batch * config.processes
    for index, nimg in enumerate(range(shown, total + 1, shown)):
        items = torch.from_numpy(random.randint(len(images), size=config.batch))
        real = images[items].to(torch.float32) / 127.5 - 1
        progress = nimg / total
        rate = min(progress / 0.02, 1, (1 - progress) / 0.3 + 0.05)
        for optimizer in learner.g_optimizers:
            for group in optimizer.param_groups:
                group["lr"] = config.lr * rate
        with_r1 = index % config.r1_interval == 0
        z = codes[items]
        if config.normal_latents:
            z = torch.from_numpy(z_of(z.numpy(), random))
        losses = learner.step(z, real, with_r1, progress)
        update_ema(learner.G_ema, learner.G, ema_beta(shown, config.ema_kimg, nimg, 0.05))
        networks = Networks(G=learner.G, D=learner.D, G_ema=learner.G_ema, meta={})
        yield PretrainStep(nimg, losses, networks)


def _work(rank: int, config: PretrainConfig, images, codes, out: str, address: str) -> None:
    """One process: drains `pretrain`; the first one saves the networks every 2 kimg."""
    torch.set_num_threads(1)
    keep_large_blocks()
    if config.processes > 1:
        dist.init_process_group("gloo", address, rank=rank, world_size=config.processes)
    started, mean = time.time(), {}
    shown = config.batch * config.processes
    for step in pretrain(config, images, codes, rank):
        for name, value in step.losses.items():
            mean[name] = mean.get(name, value) * 0.99 + value * 0.01
        last = step.nimg + shown > config.kimg * 1000
        if rank == 0 and (step.nimg % 2000 < shown or last):
            options = {k: v for k, v in asdict(config).items() if k not in ("data", "init")}
            meta = {
                "command": "python -m recipes.minifaces.generator.pretrain",
                "options": options,
                "kimg": step.nimg / 1000,
                "seconds": round(time.time() - started),
                "losses": {name: round(value, 4) for name, value in mean.items()},
            }
            step.networks.meta.update(meta)
            sg3.save(step.networks, out)
            print({k: meta[k] for k in ("kimg", "seconds", "losses")}, flush=True)
    if config.processes > 1:
        dist.destroy_process_group()


def main() -> None:
    """Load the data once and start the processes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="written by recipes.minifaces.world.dataset")
    parser.add_argument("--out", required=True, help="network file to write (.safetensors)")
    parser.add_argument("--cfg", default=PretrainConfig.cfg, choices=CONFIGURATIONS)
    parser.add_argument("--kimg", type=float, default=PretrainConfig.kimg)
    parser.add_argument("--batch", type=int, default=PretrainConfig.batch, help="per process")
    parser.add_argument("--processes", type=int, default=1, help="of one thread each")
    parser.add_argument("--lr", type=float, default=PretrainConfig.lr)
    parser.add_argument("--adversarial", action="store_true", help="with a discriminator")
    parser.add_argument(
        "--normal-latents",
        action="store_true",
        help="--init is from recipes.minifaces.generator.distil",
    )
    parser.add_argument("--encoder", help="bundled encoder whose features count, as mini-a")
    parser.add_argument("--muon", action="store_true", help="instead of Adam, for G's matrices")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--init", help="earlier result to go on from")
    args = vars(parser.parse_args())
    out = args.pop("out")
    config = PretrainConfig(**args)
    dataset = ImageDataset(config.data)
    items = np.arange(len(dataset))
    images = dataset.images(items).share_memory_()
    codes = torch.from_numpy(code_of_seeds(config.data_seed * 10**7 + items)).share_memory_()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # takes the other processes along
    with tempfile.TemporaryDirectory() as folder:
        rest = (config, images, codes, out, f"file://{folder}/meeting")
        torch.multiprocessing.spawn(_work, rest, nprocs=config.processes, daemon=True)


if __name__ == "__main__":
    main()
