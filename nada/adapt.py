"""Text-driven domain adaptation: a frozen and a trained generator share their latents."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from guidance.encoders import Encoder, is_mini, load_encoder
from guidance.latents import map_latents, seed_latents
from guidance.render import renderer
from guidance.templates import templates_of
from nada.clip_directions import Target, image_target, members_of, text_target
from nada.config import LR_SCALE, AdaptConfig, usual_config
from nada.layer_choice import LayerChoice
from nada.layers import Unit, free_of_nyquist, units_of
from nada.objective import Objective
from nada.stop_rule import Check, StopRule, Watch
from sg3.checkpoints import Networks

#: Pictures of the source generator that stand for it where the target is pictures.
SOURCE_PICTURES = 64


@dataclass(frozen=True)
class Step:
    """One point of the way. `index` 0 is the source, `num_steps` the last that may come."""

    index: int
    num_steps: int
    #: Of the weights before averaging, under augmentation; NaN at index 0.
    loss: float
    #: The terms of the loss, unweighted.
    losses: dict[str, float]
    #: Names of the layers that changed in this step.
    layers: tuple[str, ...]
    #: What the fixed latents show, at steps where it was looked at.
    check: Check | None
    #: Why this is the last step, at the last step.
    reason: str | None
    adaptation: Adaptation = dataclasses.field(repr=False, compare=False)

    @cached_property
    def images(self) -> torch.Tensor:
        """Pictures `[N, C, H, W]` of the averaged network for the fixed latents; on demand, while
        this step is the latest."""
        return self.adaptation.pictures()


def adapt(
    network: Networks | nn.Module,
    source: str | None = None,
    target: str | None = None,
    clip: str | Encoder = "mini-smooth",
    *,
    target_images: torch.Tensor | None = None,
    config: AdaptConfig | None = None,
    **settings,
) -> Adaptation:
    """Fine-tune a copy of a generator from what `source` says to what `target` says.

    An iterator of up to `steps + 1` `Step`s. `network`: a generator, or networks with a G_ema.
    `target_images` `[M, 3, H, W]` in [−1, 1] take the place of both texts. `settings`: fields of
    `AdaptConfig`, replacing those of `config` (None: what is best known for `clip`). Its `G_ema`
    is the result. The same seed gives the same result. Raises ValueError for bad input, before the
    first step.

    Source: StyleGAN-NADA (arXiv 2108.00946), REFERENCE.md §8.6.
    """
    G = network.G_ema if isinstance(network, Networks) else network
    config = dataclasses.replace(config or usual_config(clip), **settings)
    return Adaptation(G, source, target, clip, target_images, config)


class Adaptation(Iterator[Step]):
    """A running adaptation: `source` frozen, `G` trained, `G_ema` its average and the result."""

    def __init__(
        self,
        G: nn.Module,
        source: str | None,
        target: str | None,
        clip: str | Encoder,
        target_images: torch.Tensor | None,
        config: AdaptConfig,
    ):
        _check_texts(source, target, target_images)
        self.config, self.device = config, next(G.synthesis.parameters()).device
        self.source, self.G, self.G_ema = (_frozen_copy(G) for _ in range(3))
        self.texts = (source, target)
        self.encoder = load_encoder(clip, self.device)
        self.index, self.reason = -1, None
        self._generator = torch.Generator().manual_seed(config.seed)
        z = seed_latents(config.seed, config.check_batch, G.z_dim)
        self.fixed_ws = self._map(z)
        self.choice = LayerChoice(self.G, config)
        self.targets = self._targets(source, target, target_images)
        parameters = dict(self.G.named_parameters())
        names = [name for unit in self.choice.candidates for name in unit.tensors]
        self._trained = {name: parameters[name] for name in names}
        self._lr_factors = _lr_factors(self.choice.candidates, units_of(G), config.coarse_lr)
        groups = [
            {"params": [parameters[name] for name in unit.tensors]}
            for unit in self.choice.candidates
        ]
        self.optimizer = torch.optim.Adam(groups, lr=config.lr * LR_SCALE, betas=config.betas)
        lengths = [(config.magnitude or 0) * target.text_norm for target in self.targets]
        self.objective = Objective(
            self.encoder,
            self.targets,
            lengths,
            config.weights,
            config.views,
            None if target_images is None else target_images.to(self.device),
        )
        before = self.pictures(self.source)
        rule = config.stop or StopRule(diversity=0, patience=0, length=0)
        self.watch = Watch(self.encoder, self.targets, before, rule, config.magnitude)

    def _targets(self, source, target, target_images) -> list[Target]:
        members = [member for member, _ in members_of(self.encoder)]
        if target_images is None:
            templates = templates_of(
                self.config.templates or ("mini" if is_mini(self.encoder) else "imagenet")
            )
            return [text_target(member, source, target, templates) for member in members]
        parts = self._map(self._draw(SOURCE_PICTURES)).split(self.config.check_batch)
        before = torch.cat([self.pictures(self.source, ws) for ws in parts])
        after = target_images.to(self.device)
        return [image_target(member, before, after) for member in members]

    def _draw(self, num: int) -> torch.Tensor:
        return torch.randn([num, self.source.z_dim], generator=self._generator)

    def _map(self, z: torch.Tensor) -> torch.Tensor:
        config = self.config
        return map_latents(self.source, z, config.class_index, config.truncation)

    def pictures(self, G: nn.Module | None = None, ws: torch.Tensor | None = None) -> torch.Tensor:
        """Of `G` (the averaged network) for `ws` (the fixed latents), `[N, C, H, W]` float32."""
        render = renderer(G or self.G_ema, self.config.force_fp32)
        return render(self.fixed_ws if ws is None else ws)

    def __next__(self) -> Step:
        if self.reason is not None:
            raise StopIteration
        self.index += 1
        loss, terms, layers = float("nan"), {}, ()
        if self.index:
            loss, terms, layers = self._update()
        last = self.index == self.config.steps
        check = None
        if last or self.index % self.config.check_every == 0:
            check = self.watch.measure(self.index, self.pictures())
            self.reason = self.watch.reason_to_stop() if self.index else None
        if last and self.reason is None:
            self.reason = "all steps done"
        return Step(self.index, self.config.steps, loss, terms, layers, check, self.reason, self)

    def _update(self) -> tuple[float, dict[str, float], tuple[str, ...]]:
        config = self.config
        with torch.enable_grad():
            units = self.choice.at(self.index, self._draw, self._map, self.objective.global_loss)
            active = [self._trained[name] for unit in units for name in unit.tensors]
            for parameter in active:
                parameter.requires_grad_(True)
            ws = self._map(self._draw(config.batch))
            before = renderer(self.source, config.force_fp32)(ws)
            noise = torch.randn(before.shape, generator=self._generator)
            before = before + config.source_noise * noise.to(before)
            after = self.G.synthesis(ws, noise_mode="const", force_fp32=config.force_fp32)
            loss, terms = self.objective(before, after, self._generator)
            gradients = torch.autograd.grad(loss, active)
        for parameter, gradient in zip(active, gradients, strict=True):
            parameter.requires_grad_(False)
            parameter.grad = gradient
        lr = _learning_rate(self.index, self.choice.stage(self.index).first, config)
        for group, factor in zip(self.optimizer.param_groups, self._lr_factors, strict=True):
            group["lr"] = lr * factor
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._after_step(units)
        return (
            float(loss.detach()),
            {name: float(value.detach()) for name, value in terms.items()},
            tuple(unit.name for unit in units),
        )

    @torch.no_grad()
    def _after_step(self, units) -> None:
        frozen = dict(self.source.named_parameters())
        if self.choice.stage(self.index).choice == "equivariant":
            for name in (name for unit in units for name in unit.tensors):
                if self._trained[name].ndim == 4:
                    change = self._trained[name] - frozen[name]
                    self._trained[name].copy_(frozen[name] + free_of_nyquist(change))
        # Young averages follow quickly, or a short run would return its source.
        beta = min(self.config.ema, (1 + self.index) / (10 + self.index))
        average = dict(self.G_ema.named_parameters())
        for name, parameter in self._trained.items():
            # What never moved is its source bit for bit, also in the average.
            average[name].add_((parameter - average[name]) * (1 - beta))

    def state_dict(self) -> dict:
        """Tensors, numbers and strings from which `load_state_dict` goes on bit for bit."""
        average = dict(self.G_ema.named_parameters())
        return {
            "index": self.index,
            "reason": self.reason,
            "trained": {name: p.detach().clone() for name, p in self._trained.items()},
            "average": {name: average[name].detach().clone() for name in self._trained},
            "optimizer": self.optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "choice": self.choice.state_dict(),
            "watch": self.watch.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        """Go on from `state`, of an adaptation with the same arguments."""
        if state["trained"].keys() != self._trained.keys():
            raise ValueError("state: it trains other layers; repeat the command that wrote it")
        average = dict(self.G_ema.named_parameters())
        for name, parameter in self._trained.items():
            parameter.copy_(state["trained"][name])
            average[name].copy_(state["average"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"])
        self.choice.load_state_dict(state["choice"])
        self.watch.load_state_dict(state["watch"])
        self.index, self.reason = state["index"], state["reason"]


def _learning_rate(index: int, first: int, config: AdaptConfig) -> float:
    """Of step `index`, counted from 1, in the stage that began with step `first`."""
    share = min(1.0, (index - first + 1) / config.warmup) if config.warmup else 1.0
    left = (config.steps + 1 - index) / (config.steps * config.decay) if config.decay else 1.0
    if left < 1:
        share *= 0.5 - 0.5 * math.cos(math.pi * left)
    return config.lr * LR_SCALE * share


def _lr_factors(chosen: Sequence[Unit], units: Sequence[Unit], coarse: float) -> list[float]:
    """Of the `chosen` among all `units` of a generator: `coarse` for the first, 1 for the last."""
    depth = {unit.name: i / (len(units) - 1) for i, unit in enumerate(units)}
    return [coarse ** (1 - depth[unit.name]) for unit in chosen]


def _frozen_copy(G: nn.Module) -> nn.Module:
    return copy.deepcopy(G).eval().requires_grad_(False)


def _check_texts(source, target, target_images) -> None:
    if target_images is not None:
        if target is not None:
            raise ValueError("target: got a text and pictures; give one of them")
        if target_images.ndim != 4 or target_images.shape[1] != 3 or not len(target_images):
            shape = tuple(target_images.shape)
            raise ValueError(f"target_images: got shape {shape}, expected [N, 3, H, W]")
        return
    for name, text in (("source", source), ("target", target)):
        if not text or not text.strip():
            raise ValueError(f"{name}: got {text!r}, expected a text such as 'face'")
