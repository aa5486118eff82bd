"""Text-driven domain adaptation: a frozen and a trained generator share their latents."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from guidance.encoders import Encoder, is_mini, load_encoder
from guidance.generator import generator_of
from guidance.latents import map_latents, seed_latents
from guidance.render import renderer
from guidance.templates import templates_of
from nada.clip_directions import Target, image_target, members_of, text_target
from nada.config import LR_SCALE, AdaptConfig, StopRule, usual_config
from nada.layer_choice import LayerChoice
from nada.layers import Unit, free_of_nyquist, units_of
from nada.objective import AdaptationObjective
from nada.stop_rule import Check, StopMonitor
from sg3.errors import UserError
from sg3.media import ImageStep, ImageTensor
from sg3.networks.generator import MappedGenerator
from sg3.progress import with_bar
from sg3.settings import replace_settings

if TYPE_CHECKING:
    from sg3.checkpoints import Networks

#: Images of the source generator that represent it if the target is given by images.
SOURCE_IMAGES = 64


@dataclass(frozen=True)
class AdaptStep(ImageStep):
    """One step of an adaptation.

    Attributes:
        index: 0 for the source, then 1 … `num_steps`.
        num_steps: Maximum number of steps.
        loss: Loss of the trained weights (not of their average) on random views; NaN at index 0.
        losses: Terms of the loss, unweighted.
        layers: Names of the layers updated in this step.
        check: Metrics of the fixed latents, at the steps where they are computed.
        reason: Why this is the last step; None before.
        adaptation: The adaptation that made the step.
    """

    index: int
    num_steps: int
    loss: float
    losses: dict[str, float]
    layers: tuple[str, ...]
    check: Check | None
    reason: str | None
    adaptation: Adaptation = dataclasses.field(repr=False, compare=False)

    @cached_property
    def image(self) -> ImageTensor:
        """Images `[N, C, H, W]` of the averaged network for the fixed latents.

        Rendered on first access with the current weights: access it before the next step.
        """
        return ImageTensor.of(self.adaptation.render())


def adapt(
    network: Networks | nn.Module,
    source: str | None = None,
    target: str | None = None,
    clip: str | Encoder = "mini-smooth",
    *,
    target_images: torch.Tensor | None = None,
    config: AdaptConfig | None = None,
    progress: bool = False,
    **settings: Any,
) -> Adaptation:
    """Fine-tune a copy of a generator from the domain `source` to the domain `target`.

    Example:

        import nada, sg3

        adaptation = nada.adapt(sg3.load("mini-faces"), "face", "zombie", steps=10)
        for step in adaptation:
            print(step.index, step.loss)
        delta = nada.difference(adaptation.source, adaptation.G_ema)
        nada.save_delta(delta, "zombie.safetensors")

    Args:
        network: A generator, or `Networks` with a `G_ema`; it is not modified.
        source: Text that describes what the network shows.
        target: Text that describes what it should show.
        clip: Encoder or its name, see `guidance.load_encoder`.
        target_images: Images `[M, 3, H, W]` in [−1, 1] that replace both texts.
        config: Base configuration; None: the recommended one for `clip`.
        progress: Show a progress bar while iterating.
        **settings: Fields of `AdaptConfig` that override `config`.

    Returns:
        An iterator over up to `steps + 1` `AdaptStep`s. It is deterministic given the seed.

    Raises:
        ValueError: invalid input, before the first step.

    Source: StyleGAN-NADA (arXiv 2108.00946), REFERENCE.md §8.6.
    """
    config = replace_settings(config or usual_config(clip), settings)
    return Adaptation(generator_of(network), source, target, clip, target_images, config, progress)


class Adaptation(Iterator[AdaptStep]):
    """A running adaptation, made by `adapt`; iterate over it to train.

    Attributes:
        source: The frozen source generator.
        G: The generator being trained.
        G_ema: The average of `G` over the steps, which is the result.
        fixed_ws: Latents `[check_batch, num_ws, w_dim]` whose images the steps show.
        index: Index of the latest step; −1 before the first.
        reason: Why it has ended; None while it has not.
    """

    def __init__(
        self,
        G: MappedGenerator,
        source: str | None,
        target: str | None,
        clip: str | Encoder,
        target_images: torch.Tensor | None,
        config: AdaptConfig,
        progress: bool = False,
    ):
        _check_goal(source, target, target_images)
        self.source, self.G, self.G_ema = (_frozen_copy(G) for _ in range(3))
        self.config, self.progress = config, progress
        self.device = next(self.source.synthesis.parameters()).device
        self.texts = (source, target)
        self.encoder = load_encoder(clip, self.device)
        self.index = -1
        self.reason: str | None = None
        self._generator = torch.Generator().manual_seed(config.seed)
        # The same latents at every check: what differs then comes from the weights.
        z = seed_latents(config.seed, config.check_batch, self.source.z_dim)
        self.fixed_ws = self._map(z)
        self.choice = LayerChoice(self.G, config)
        self.targets = self._make_targets(source, target, target_images)
        parameters = dict(self.G.named_parameters())
        names = [name for unit in self.choice.candidates for name in unit.tensors]
        self._trained = {name: parameters[name] for name in names}
        self._lr_factors = _lr_factors(self.choice.candidates, units_of(G), config.coarse_lr)
        # One group per layer, because each has a learning rate of its own (coarse_lr).
        groups = [
            {"params": [parameters[name] for name in unit.tensors]}
            for unit in self.choice.candidates
        ]
        self.optimizer = torch.optim.Adam(groups, lr=config.lr * LR_SCALE, betas=config.betas)
        self.objective = AdaptationObjective(
            self.encoder,
            self.targets,
            [(config.magnitude or 0) * each.text_norm for each in self.targets],
            config.weights,
            config.views,
            None if target_images is None else target_images.to(self.device),
        )
        before = self.render(self.source)
        # Zeros turn every criterion off; the checks are still wanted for the records.
        rule = config.stop or StopRule(diversity=0, patience=0, length=0)
        self.monitor = StopMonitor(self.encoder, self.targets, before, rule, config.magnitude)

    def _make_targets(
        self, source: str | None, target: str | None, target_images: torch.Tensor | None
    ) -> list[Target]:
        members = [member for member, _ in members_of(self.encoder)]
        if target_images is None:
            assert source is not None and target is not None  # by _check_goal
            templates = templates_of(
                self.config.templates or ("mini" if is_mini(self.encoder) else "imagenet")
            )
            return [text_target(member, source, target, templates) for member in members]
        # Without a source text, the generator's own images stand for the source.
        parts = self._map(self._draw(SOURCE_IMAGES)).split(self.config.check_batch)
        before = torch.cat([self.render(self.source, ws) for ws in parts])
        after = target_images.to(self.device)
        return [image_target(member, before, after) for member in members]

    def _draw(self, num: int) -> torch.Tensor:
        return torch.randn([num, self.source.z_dim], generator=self._generator)

    def _map(self, z: torch.Tensor) -> torch.Tensor:
        config = self.config
        return map_latents(self.source, z, config.class_index, config.truncation)

    def render(
        self, G: MappedGenerator | None = None, ws: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Render images `[N, C, H, W]`, float32.

        Args:
            G: The generator; None: `G_ema`.
            ws: Latents `[N, num_ws, w_dim]`; None: `fixed_ws`.
        """
        render = renderer(G or self.G_ema, self.config.force_fp32)
        return render(self.fixed_ws if ws is None else ws)

    def __iter__(self) -> Iterator[AdaptStep]:
        if not self.progress:
            return self
        return with_bar(self._remaining(), self.config.steps - self.index, "adapt", show=True)

    def _remaining(self) -> Iterator[AdaptStep]:
        while self.reason is None:
            yield next(self)

    def __next__(self) -> AdaptStep:
        if self.reason is not None:
            raise StopIteration
        self.index += 1
        loss, terms, layers = self._update() if self.index else (math.nan, {}, ())
        last = self.index == self.config.steps
        check = None
        if last or self.index % self.config.check_every == 0:
            # On images of the average, since that is the result.
            check = self.monitor.measure(self.index, self.render())
            # Step 0 is the source itself, which must not end the run.
            self.reason = self.monitor.reason_to_stop() if self.index else None
        if last and self.reason is None:
            self.reason = "all steps done"
        return AdaptStep(
            self.index, self.config.steps, loss, terms, layers, check, self.reason, self
        )

    def _update(self) -> tuple[float, dict[str, float], tuple[str, ...]]:
        """Make one optimizer step; return the loss, its terms and the names of the layers."""
        config = self.config
        with torch.enable_grad():
            # Before any weight requires a gradient: `auto` only needs those of latents.
            units = self.choice.at(self.index, self._draw, self._map, self.objective.global_loss)
            active = [self._trained[name] for unit in units for name in unit.tensors]
            for parameter in active:
                parameter.requires_grad_(True)
            ws = self._map(self._draw(config.batch))
            # The mapping is frozen, so the same ws mean the same in both networks.
            before = renderer(self.source, config.force_fp32)(ws)
            # From the generator whose state is saved, so that resuming is exact.
            noise = torch.randn(before.shape, generator=self._generator)
            before = before + config.source_noise * noise.to(before)
            # Constant noise, as in `before`: the pair differs by its weights alone.
            after = self.G.synthesis(ws, noise_mode="const", force_fp32=config.force_fp32)
            loss, terms = self.objective(before, after, self._generator)
            gradients = torch.autograd.grad(loss, active)
        for parameter, gradient in zip(active, gradients, strict=True):
            parameter.requires_grad_(False)
            parameter.grad = gradient
        lr = _learning_rate(self.index, self.choice.stage(self.index).first, config)
        for group, factor in zip(self.optimizer.param_groups, self._lr_factors, strict=True):
            group["lr"] = lr * factor
        # Adam skips parameters without a gradient, so layers that are not active stay untouched.
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._after_step(units)
        return (
            float(loss.detach()),
            {name: float(value.detach()) for name, value in terms.items()},
            tuple(unit.name for unit in units),
        )

    @torch.no_grad()
    def _after_step(self, units: Sequence[Unit]) -> None:
        """Project the weights (layers=equivariant) and update the average."""
        frozen = dict(self.source.named_parameters())
        if self.choice.stage(self.index).choice == "equivariant":
            for name in (name for unit in units for name in unit.tensors):
                # Only kernels respond to frequencies.
                if self._trained[name].ndim == 4:
                    change = self._trained[name] - frozen[name]
                    self._trained[name].copy_(frozen[name] + free_of_nyquist(change))
        # A smaller decay in the first steps; otherwise the result of a short run would stay at the
        # source.
        beta = min(self.config.ema, (1 + self.index) / (10 + self.index))
        average = dict(self.G_ema.named_parameters())
        # All candidates: the average of a layer that now rests still has to catch up.
        for name, parameter in self._trained.items():
            # Written as an increment so that unchanged weights stay equal bit for bit.
            average[name].add_((parameter - average[name]) * (1 - beta))

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to resume bit for bit, see `load_state_dict`."""
        average = dict(self.G_ema.named_parameters())
        return {
            "index": self.index,
            "reason": self.reason,
            "trained": {name: p.detach().clone() for name, p in self._trained.items()},
            "average": {name: average[name].detach().clone() for name in self._trained},
            "optimizer": self.optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "choice": self.choice.state_dict(),
            "watch": self.monitor.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state of an adaptation that was created with the same arguments.

        Raises ValueError if it trains other layers.
        """
        if state["trained"].keys() != self._trained.keys():
            raise UserError(
                "layers: got others than those of the state; use the settings it was written with"
            )
        average = dict(self.G_ema.named_parameters())
        for name, parameter in self._trained.items():
            parameter.copy_(state["trained"][name])
            average[name].copy_(state["average"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"])
        self.choice.load_state_dict(state["choice"])
        self.monitor.load_state_dict(state["watch"])
        self.index, self.reason = state["index"], state["reason"]


def _learning_rate(index: int, first: int, config: AdaptConfig) -> float:
    """Learning rate of step `index` (from 1) in the stage that starts at step `first`."""
    # Otherwise the first steps of Adam are the largest (docs/ADAPTATION.md).
    factor = min(1.0, (index - first + 1) / config.warmup) if config.warmup else 1.0
    left = (config.steps + 1 - index) / (config.steps * config.decay) if config.decay else 1.0
    if left < 1:
        factor *= 0.5 - 0.5 * math.cos(math.pi * left)
    return config.lr * LR_SCALE * factor


def _lr_factors(chosen: Sequence[Unit], units: Sequence[Unit], coarse: float) -> list[float]:
    """Learning-rate factors of the `chosen` of all `units`: `coarse` for the first, 1 for the
    last, geometric in between."""
    # Depth among all units, so that a factor does not depend on what else is chosen.
    depth = {unit.name: i / (len(units) - 1) for i, unit in enumerate(units)}
    return [coarse ** (1 - depth[unit.name]) for unit in chosen]


def _frozen_copy(G: MappedGenerator) -> MappedGenerator:
    return copy.deepcopy(G).eval().requires_grad_(False)


def _check_goal(source: str | None, target: str | None, target_images: torch.Tensor | None) -> None:
    if target_images is not None:
        if target is not None:
            raise UserError("target: got a text and images; give one of them")
        if target_images.ndim != 4 or target_images.shape[1] != 3 or not len(target_images):
            shape = tuple(target_images.shape)
            raise UserError(f"target_images: got shape {shape}, expected [N, 3, H, W]")
        return
    for name, text in (("source", source), ("target", target)):
        if text is None:
            raise UserError(f"{name}: missing; give `source` and `target`, or `target_images`")
        if not text.strip():
            raise UserError(f"{name}: got {text!r}, expected a text such as 'face'")
