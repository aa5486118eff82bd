"""Train the bundled generator by regression: from attribute codes to the images they describe.

    python -m recipes.minifaces.generator.pretrain --data faces.zip --out coded.safetensors \\
        --kimg 24
    python -m recipes.minifaces.generator.pretrain --data faces.zip --out sharp.safetensors \\
        --kimg 200 --init coded.safetensors --adversarial --lr 0.004 --processes 4

The attributes of each training image are known, so the generator takes their code
(`latents.code_of`) and is trained to reproduce the image: first in pixels; then, with
--adversarial, also against a discriminator, which makes images sharp, and in its features.
`distil` then replaces codes by normal latents, and --normal-latents continues from there. With
--encoder, features of a bundled encoder are compared too. Processes of one thread each split the
batch, which on a CPU is half as fast again as threads.
"""

from __future__ import annotations

import copy
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import sg3
from recipes.arguments import add_setting, argument_parser
from recipes.minifaces.generator.latents import CODE_DIM, code_of_seeds, z_of
from recipes.minifaces.generator.muon import Muon
from recipes.minifaces.generator.pretrain_losses import (
    EncoderDistance,
    discriminator_features,
    pixel_distance,
)
from sg3.allocator import keep_large_blocks
from sg3.checkpoints import Networks
from sg3.data import ImageDataset
from sg3.networks import build_network
from sg3.settings import check_settings, documented, setting
from sg3.training.trainer import ema_beta, update_ema

CONFIGURATIONS = ("stylegan3-t", "stylegan3-r")


@documented
@dataclass(frozen=True)
class PretrainConfig:
    """Settings of the regression: networks, length, learning rates, weights of the losses."""

    data: str = setting(doc="Dataset written by recipes.minifaces.world.dataset.")
    data_seed: int = setting(0, "Seed that `data` was rendered with.", min=0)
    cfg: str = setting("stylegan3-t", "Configuration of G.", choices=CONFIGURATIONS)
    kimg: float = setting(24, "Length of the training in thousands of images.", min=0)
    batch: int = setting(4, "Images per step and process.", min=1)
    processes: int = setting(1, "Number of processes, of one thread each.", min=1)
    lr: float = setting(0.015, "Learning rate of G.", min=0)
    dlr: float = setting(0.002, "Learning rate of D.", min=0)
    adversarial: bool = setting(False, "Train with a discriminator.")
    r1_gamma: float = setting(0.5, "Weight of the R1 penalty.", min=0)
    r1_interval: int = setting(8, "Steps between two R1 penalties.", min=1)
    picture_weight: float = setting(10, "Weight of the distance in pixels.", min=0)
    feature_weight: float = setting(10, "Weight of the distance in features of D.", min=0)
    adversarial_weight: float = setting(0.5, "Weight of the adversarial loss.", min=0)
    adversarial_ramp: float = setting(
        0.15, "Fraction of the run in which that weight grows from 0.", above=0
    )
    w_dim: int = setting(128, "Dimensions of w.", min=1)
    map_depth: int = setting(3, "Layers of the mapping network.", min=1)
    num_layers: int = setting(6, "Layers of the synthesis network.", min=1)
    margin_size: int = setting(5, "Samples beyond the image on each side.", min=0)
    cbase: int = setting(2048, "Channels of G times resolution; R has twice as many.", min=1)
    cmax: int = setting(48, "Maximum number of channels of G; R has twice as many.", min=1)
    dcbase: int = setting(1024, "Channels of D times resolution.", min=1)
    dcmax: int = setting(128, "Maximum number of channels of D.", min=1)
    ema_kimg: float = setting(2, "Half-life of the EMA in thousands of images.", min=0)
    seed: int = setting(0, "Random seed.", min=0)
    init: str | None = setting(
        None, "Network of an earlier run, or of `distil`, to start from.", unset="random weights"
    )
    normal_latents: bool = setting(False, "The network of `init` takes normal latents.")
    encoder: str | None = setting(
        None, "Bundled encoder whose features are compared, such as mini-a.", unset="pixels only"
    )
    encoder_weight: float = setting(4, "Weight of the distance in features of `encoder`.", min=0)
    muon: bool = setting(False, "Use Muon instead of Adam for the matrices of G's synthesis.")

    def __post_init__(self) -> None:
        check_settings(self)


def generator_kwargs(config: PretrainConfig) -> dict:
    """Return arguments of G: those of `sg3 train`, but for the mapping's learning rate."""
    rotates = config.cfg == "stylegan3-r"
    width = 2 if rotates else 1
    return dict(
        z_dim=CODE_DIM,
        c_dim=0,
        w_dim=config.w_dim,
        img_resolution=64,
        img_channels=3,
        channel_base=config.cbase * width,
        channel_max=config.cmax * width,
        mapping_kwargs={"num_layers": config.map_depth, "lr_multiplier": 0.1},
        magnitude_ema_beta=0.5 ** (config.batch * config.processes / 20e3),
        num_layers=config.num_layers,
        margin_size=config.margin_size,
        **(dict(conv_kernel=1, use_radial_filters=True) if rotates else {}),
    )


def build_discriminator(config: PretrainConfig) -> nn.Module:
    """Build the discriminator as `sg3 train` does."""
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
    """One step: images shown so far, losses, networks."""

    nimg: int
    losses: dict[str, float]
    networks: Networks


class Pretrainer:
    """Networks and optimizers of the regression."""

    def __init__(self, config: PretrainConfig) -> None:
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
        # The adversarial phase keeps the meaning of codes in W.
        self.G.mapping.requires_grad_(config.normal_latents or not config.adversarial)
        self.D.train().requires_grad_(False)
        # Momentum speeds up regression; in a GAN it makes the two networks oscillate.
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
        """Update both networks; returns the losses by name.

        Args:
            z: codes or latents `[N, z_dim]`.
            real: images `[N, 3, 64, 64]` in [−1, 1] that they describe.
            with_r1: whether D is regularized in this step.
            progress: fraction of the run that is done, in (0, 1].
        """
        fake = self.G(z, update_emas=True)
        losses = {"picture": pixel_distance(fake, real)}
        total = losses["picture"] * self.config.picture_weight
        if self.encoder is not None:
            losses["encoder"] = self.encoder(fake, real)
            total = total + losses["encoder"] * self.config.encoder_weight
        if self.config.adversarial:
            seen, real_loss = self._discriminator_gradients(fake.detach(), real, with_r1)
            logits, features = discriminator_features(self.D, fake)
            losses["feature"] = sum(
                (a - b).abs().mean() for a, b in zip(features, seen, strict=True)
            )
            losses["G"] = F.softplus(-logits).mean()
            losses["D"] = real_loss
            # An untrained discriminator would degrade G, so its weight ramps up.
            weight = self.config.adversarial_weight
            weight *= min(progress / self.config.adversarial_ramp, 1)
            total = total + losses["feature"] * self.config.feature_weight + losses["G"] * weight
        for optimizer in self.g_optimizers:
            optimizer.zero_grad(set_to_none=True)
        total.backward()
        average_gradients(self.G, self.D)
        for optimizer in self.g_optimizers:
            optimizer.step()
        if self.config.adversarial:
            self.d_adam.step()
        return {name: float(value.detach()) for name, value in losses.items()}

    def _discriminator_gradients(
        self, fake: torch.Tensor, real: torch.Tensor, with_r1: bool
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Compute the gradients of D; returns its features of the real images, and its loss."""
        self.D.requires_grad_(True)
        self.d_adam.zero_grad(set_to_none=True)
        real = real.requires_grad_(with_r1)
        logits, seen = discriminator_features(self.D, real)
        fake_logits, _ = discriminator_features(self.D, fake)
        loss = F.softplus(-logits).mean() + F.softplus(fake_logits).mean()
        penalty = torch.zeros([])
        if with_r1:
            (grads,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
            penalty = grads.square().sum([1, 2, 3]).mean()
            penalty = penalty * (self.config.r1_gamma / 2 * self.config.r1_interval)
        (loss + penalty).backward()
        self.D.requires_grad_(False)
        return [x.detach() for x in seen], loss


def synthesis_matrices(G: nn.Module) -> list[nn.Parameter]:
    """Return the matrices and kernels of the synthesis network, except those of its last layer."""
    last = G.synthesis.layer_names[-1]
    named = G.synthesis.named_parameters()
    return [p for name, p in named if p.ndim >= 2 and not name.startswith(last)]


def average_gradients(*networks: nn.Module) -> None:
    """Average gradients and scalar buffers over the processes, in one all-reduce."""
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
    """Train on `images` and `codes`, yielding every step.

    Args:
        config: settings.
        images: uint8 `[N, 3, 64, 64]`.
        codes: `[N, CODE_DIM]`, which describe the images.
        rank: index of this process.
    """
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


class Saver:
    """Writes the networks with provenance, and a line of output, every 2 kimg and at the end."""

    def __init__(self, config: PretrainConfig, out: str | Path, command: str) -> None:
        self.config, self.out, self.command = config, out, command
        self._started, self._cpu_started = time.time(), time.process_time()
        self._losses: dict[str, float] = {}

    def add(self, step: PretrainStep) -> None:
        """Update the running means of the losses; write if it is time."""
        for name, value in step.losses.items():
            self._losses[name] = self._losses.get(name, value) * 0.99 + value * 0.01
        shown = self.config.batch * self.config.processes
        last = step.nimg + shown > round(self.config.kimg * 1000)
        if not (step.nimg % 2000 < shown or last):
            return
        options = {k: v for k, v in asdict(self.config).items() if k not in ("data", "init")}
        found = {
            "kimg": step.nimg / 1000,
            "seconds": round(time.time() - self._started),
            "cpu_seconds": round(time.process_time() - self._cpu_started),
            "losses": {name: round(value, 4) for name, value in self._losses.items()},
        }
        step.networks.meta.update({"command": self.command, "options": options, **found})
        sg3.save(step.networks, self.out)
        print(Path(self.out).stem, found, flush=True)


def _work(
    rank: int,
    config: PretrainConfig,
    images: torch.Tensor,
    codes: torch.Tensor,
    out: str,
    address: str,
) -> None:
    """Train in one of the processes; rank 0 saves the networks."""
    torch.set_num_threads(1)
    keep_large_blocks()
    if config.processes > 1:
        dist.init_process_group("gloo", address, rank=rank, world_size=config.processes)
    saver = Saver(config, out, "python -m recipes.minifaces.generator.pretrain")
    for step in pretrain(config, images, codes, rank):
        if rank == 0:
            saver.add(step)
    if config.processes > 1:
        dist.destroy_process_group()


def main() -> None:
    """Load the data once and start the processes."""
    parser = argument_parser(__doc__)
    parser.add_argument("--data", required=True, help="written by recipes.minifaces.world.dataset")
    parser.add_argument("--out", required=True, help="network file to write (.safetensors)")
    for name in (
        "cfg", "kimg", "batch", "processes", "lr", "adversarial", "normal_latents", "encoder",
        "muon", "seed", "init",
    ):  # fmt: skip
        add_setting(parser, PretrainConfig, name)
    args = vars(parser.parse_args())
    out = args.pop("out")
    config = PretrainConfig(**args)
    dataset = ImageDataset(config.data)
    items = np.arange(len(dataset))
    images = dataset.images(items).share_memory_()
    codes = torch.from_numpy(code_of_seeds(config.data_seed * 10**7 + items)).share_memory_()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the other processes, too
    with tempfile.TemporaryDirectory() as folder:
        rest = (config, images, codes, out, f"file://{folder}/rendezvous")
        torch.multiprocessing.spawn(_work, rest, nprocs=config.processes, daemon=True)


if __name__ == "__main__":
    main()
