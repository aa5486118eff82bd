"""Layers of a generator: names, sizes, frequencies, activations, the learned input transform."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import nn

from sg3.errors import UserError
from sg3.generate import user_transform
from sg3.networks import stylegan3
from sg3.networks.generator import MappedGenerator
from sg3.networks.layer_schedule import LayerSpec
from sg3.networks.sizes import ImageSize

Kept = TypeVar("Kept")


@dataclass(frozen=True)
class Layer:
    """One activation of a generator. Frequencies are in cycles per larger side of the image.

    Attributes:
        name: "features" (Fourier features), "input" (their learned mixture), "L0_36_512" …; in a
            StyleGAN2 "const", "b4.conv1", "b4.torgb", "b4.img" (the image so far) …; "output".
        height, width: size in samples, including margins.
        channels: number of channels.
        sampling_rate: samples per larger side.
        cutoff: cutoff frequency; half the sampling rate in a StyleGAN2, which designs no filters.
        half_width: half-width of the transition band; 0 in a StyleGAN2.
        module: the module whose forward pass computes it.
        read: (module, its arguments, its output) → the activation `[N, C, H, W]`.
    """

    name: str
    height: int
    width: int
    channels: int
    sampling_rate: float
    cutoff: float
    half_width: float
    module: nn.Module = field(repr=False, compare=False)
    read: Callable[[Any, tuple, Any], torch.Tensor] = field(repr=False, compare=False)

    @property
    def is_image(self) -> bool:
        """Whether its channels are those of an image."""
        return self.name == "output" or self.name.endswith((".torgb", ".img"))


def layers(G: MappedGenerator) -> list[Layer]:
    """Return the layers of a StyleGAN3 or StyleGAN2 generator in the order in which they run."""
    if isinstance(G.synthesis, stylegan3.SynthesisNetwork):
        return _stylegan3_layers(G.synthesis)
    return _stylegan2_layers(G.synthesis)


def _output(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
    return output


def _stylegan3_layers(synthesis: stylegan3.SynthesisNetwork) -> list[Layer]:
    def of(name: str, spec: LayerSpec, module: nn.Module, read: Any = _output) -> Layer:
        size = (spec.shape.height, spec.shape.width, spec.channels)
        return Layer(name, *size, spec.sampling_rate, spec.cutoff, spec.half_width, module, read)

    first, last = synthesis.plans[0].source, synthesis.plans[-1].target
    return [
        of("features", first, synthesis.input, lambda m, args, _: fourier_features(m, args[0])),
        of("input", first, synthesis.input),
        *(of(plan.name, plan.target, getattr(synthesis, plan.name)) for plan in synthesis.plans),
        of("output", last, synthesis),
    ]


def _stylegan2_layers(synthesis: Any) -> list[Layer]:
    def of(
        name: str, size: ImageSize, channels: int, module: nn.Module, read: Any = _output
    ) -> Layer:
        rate = size.larger
        return Layer(name, size.height, size.width, channels, rate, rate / 2, 0, module, read)

    found = []
    for r in synthesis.block_resolutions:
        block = getattr(synthesis, f"b{r}")
        if block.in_channels == 0:
            shape = (block.size, len(block.const), block)
            found.append(of("const", *shape, lambda m, args, _: m.const[None]))
        else:
            found.append(of(f"b{r}.conv0", block.size, block.conv0.weight.shape[0], block.conv0))
        found.append(of(f"b{r}.conv1", block.size, block.conv1.weight.shape[0], block.conv1))
        if block.num_torgb:
            channels = synthesis.img_channels
            found.append(of(f"b{r}.torgb", block.size, channels, block.torgb))
            found.append(
                of(f"b{r}.img", block.size, channels, block, lambda m, args, output: output[1])
            )
    image = ImageSize.of(synthesis.img_resolution)
    return [*found, of("output", image, synthesis.img_channels, synthesis)]


def find_layers(G: MappedGenerator, names: Sequence[str] | None) -> list[Layer]:
    """Return the layers with these names, or all for None, in the order in which they run.

    "L3" stands for "L3_78_48". Raises ValueError for a name that matches no layer.
    """
    known = layers(G)
    if names is None:
        return known
    chosen = []
    for name in names:
        exact = [layer for layer in known if layer.name == name]
        near = exact or [layer for layer in known if layer.name.startswith(f"{name}_")]
        if len(near) != 1:
            listed = ", ".join(layer.name for layer in known)
            raise UserError(f"layers: got {name!r}, expected one of {listed}")
        chosen.append(near[0])
    return [layer for layer in known if layer in chosen]


class _DoneError(Exception):
    """Ends a forward pass after the last requested layer."""


@torch.no_grad()
def activations(
    G: MappedGenerator,
    ws: torch.Tensor,
    names: Sequence[str] | None,
    keep: Callable[[Layer, torch.Tensor], Kept],
    *,
    translate: tuple[float, float] = (0, 0),
    rotate_deg: float = 0,
    noise_mode: str = "const",
) -> dict[str, Kept]:
    """Run one forward pass and return what `keep` returns for each layer, by name.

    The pass ends with the last requested layer. Only what `keep` returns stays in memory.

    Args:
        G: generator.
        ws: latents `[N, num_ws, w_dim]`.
        names: layers as for `find_layers`; None: all.
        keep: called with each layer and its activation, float32 `[N, C, H, W]`.
        translate: (x, y), right and down, in units of the larger side; StyleGAN3 only.
        rotate_deg: degrees, counter-clockwise; StyleGAN3 only.
        noise_mode: noise of a StyleGAN2.

    Raises ValueError for unknown layers, and for a transform of a StyleGAN2.
    """
    wanted = find_layers(G, names)
    found: dict[str, Kept] = {}

    def hook_of(layer: Layer) -> Callable[[nn.Module, tuple, Any], None]:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            found[layer.name] = keep(layer, layer.read(module, args, output).to(torch.float32))
            if len(found) == len(wanted):
                raise _DoneError

        return hook

    with ExitStack() as stack:
        for layer in wanted:
            stack.callback(layer.module.register_forward_hook(hook_of(layer)).remove)
        stack.enter_context(user_transform(G, translate, rotate_deg))
        with suppress(_DoneError):
            G.synthesis(ws, noise_mode=noise_mode)
    return {layer.name: found[layer.name] for layer in wanted}


def fourier_features(source: stylegan3.SynthesisInput, w: torch.Tensor) -> torch.Tensor:
    """Return the Fourier features of `G.synthesis.input` before their learned mixture.

    `w` `[N, w_dim]` is the latent that transforms them. Returns `[N, C, H, W]` in [−1, 1].
    """
    # With √C·I as weights the mixture is the identity, so the module computes bare features.
    plain = copy.deepcopy(source)
    plain.weight.data = torch.eye(plain.channels, device=w.device) * plain.channels**0.5
    return plain.forward(w)  # not plain(w): the copy has hooks too


@dataclass(frozen=True)
class InputTransform:
    """Transform of the input that a StyleGAN3 learns to compute from the latent (SG3 App. F).

    Attributes:
        translate: (x, y), right and down, in units of the image's larger side.
        rotate_deg: degrees, counter-clockwise.
        matrix: `[3, 3]`, from output to input coordinates.
    """

    translate: tuple[float, float]
    rotate_deg: float
    matrix: torch.Tensor


@torch.no_grad()
def input_transforms(G: MappedGenerator, ws: torch.Tensor) -> list[InputTransform]:
    """Return the learned input transform of every latent of `ws` `[N, num_ws, w_dim]`.

    Raises ValueError for a StyleGAN2, which has none.
    """
    if not isinstance(G.synthesis, stylegan3.SynthesisNetwork):
        raise UserError("G: got a StyleGAN2, but only StyleGAN3 networks transform their input")
    source: Any = G.synthesis.input
    # `transforms` includes the user's own transform, which is the rightmost factor: undo it.
    learned = source.transforms(ws[:, 0].to(torch.float32)) @ source.transform.inverse()
    found = []
    for m in learned.cpu():
        cos, sin = float(m[0, 0]), float(m[1, 0])
        shift = -m[:2, :2].T @ m[:2, 2]  # m = R·T(−shift)
        found.append(
            InputTransform(
                (float(shift[0]), float(shift[1])), math.degrees(math.atan2(sin, cos)), m
            )
        )
    return found
