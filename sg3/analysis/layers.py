"""What each layer of a generator puts out: names, sizes, frequencies, the signals themselves."""

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
from sg3.networks.layer_schedule import LayerSpec
from sg3.networks.sizes import ImageSize

Kept = TypeVar("Kept")


@dataclass(frozen=True)
class Layer:
    """One signal on the way to the picture. Frequencies in cycles per larger side of the image.

    `name` is "features" (Fourier features), "input" (their mixture), "L0_36_512" … or "const",
    "b4.conv1", "b4.torgb", "b4.img" …, and "output". StyleGAN2 designs no filters: its `cutoff`
    is half the sampling rate, its `half_width` 0. `height` and `width` include margins.
    """

    name: str
    height: int
    width: int
    channels: int
    sampling_rate: float  # samples per larger side
    cutoff: float
    half_width: float  # of the transition band around the cutoff
    module: nn.Module = field(repr=False, compare=False)
    #: (module, its arguments, its output) → the signal `[N, C, H, W]`
    read: Callable[[nn.Module, tuple, Any], torch.Tensor] = field(repr=False, compare=False)

    @property
    def is_picture(self) -> bool:
        """Whether its channels are those of the image."""
        return self.name == "output" or self.name.endswith((".torgb", ".img"))


def layers(G: nn.Module) -> list[Layer]:
    """The layers of a StyleGAN3 or StyleGAN2 generator in the order in which they run."""
    if isinstance(G.synthesis, stylegan3.SynthesisNetwork):
        return _stylegan3_layers(G.synthesis)
    return _stylegan2_layers(G.synthesis)


def _output(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
    return output


def _stylegan3_layers(synthesis: nn.Module) -> list[Layer]:
    def of(name: str, spec: LayerSpec, module: nn.Module, read=_output) -> Layer:
        size = (spec.shape.height, spec.shape.width, spec.channels)
        return Layer(name, *size, spec.sampling_rate, spec.cutoff, spec.half_width, module, read)

    first, last = synthesis.plans[0].source, synthesis.plans[-1].target
    return [
        of("features", first, synthesis.input, lambda m, args, _: fourier_features(m, args[0])),
        of("input", first, synthesis.input),
        *(of(plan.name, plan.target, getattr(synthesis, plan.name)) for plan in synthesis.plans),
        of("output", last, synthesis),
    ]


def _stylegan2_layers(synthesis: nn.Module) -> list[Layer]:
    def of(name: str, size: ImageSize, channels: int, module: nn.Module, read=_output) -> Layer:
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


def find_layers(G: nn.Module, names: Sequence[str] | None) -> list[Layer]:
    """The layers with these names, all for None; in the order in which they run.

    The start of a name will do if no other starts so ("L3"). Raises UserError.
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
            raise UserError(f"layer: got {name!r}, expected one of {listed}")
        chosen.append(near[0])
    return [layer for layer in known if layer in chosen]


class _EnoughError(Exception):
    """Ends a pass after the last layer that anyone wants to see."""


@torch.no_grad()
def activations(
    G: nn.Module,
    ws: torch.Tensor,
    names: Sequence[str] | None,
    keep: Callable[[Layer, torch.Tensor], Kept],
    *,
    translate: tuple[float, float] = (0, 0),
    rotate_deg: float = 0,
    noise_mode: str = "const",
) -> dict[str, Kept]:
    """What `keep` makes of each layer's signal (float32 `[N, C, H, W]`), by name.

    One pass over `ws` `[N, num_ws, w_dim]`, which ends with the last of `names`; only what `keep`
    returns stays in memory. `translate` (larger sides, right and down) and `rotate_deg`
    (counter-clockwise) move the input of a StyleGAN3. Raises UserError for unknown layers, and for
    moves of a StyleGAN2.
    """
    wanted = find_layers(G, names)
    found: dict[str, Kept] = {}

    def hook_of(layer: Layer):
        def hook(module, args, output):
            found[layer.name] = keep(layer, layer.read(module, args, output).to(torch.float32))
            if len(found) == len(wanted):
                raise _EnoughError

        return hook

    with ExitStack() as stack:
        for layer in wanted:
            stack.callback(layer.module.register_forward_hook(hook_of(layer)).remove)
        stack.enter_context(user_transform(G, translate, rotate_deg))
        with suppress(_EnoughError):
            G.synthesis(ws, noise_mode=noise_mode)
    return {layer.name: found[layer.name] for layer in wanted}


def fourier_features(source: nn.Module, w: torch.Tensor) -> torch.Tensor:
    """The waves of a StyleGAN3 input before they are mixed: `[N, C, H, W]` in [−1, 1].

    `source` is `G.synthesis.input`, `w` `[N, w_dim]` the latent that moves it.
    """
    plain = copy.deepcopy(source)
    plain.weight.data = torch.eye(plain.channels, device=w.device) * plain.channels**0.5
    return plain.forward(w)  # not called: hooks are copied too


@dataclass(frozen=True)
class InputTransform:
    """What a latent does to the picture before anything is drawn (SG3 App. F).

    The same as `--translate X,Y --rotate DEG`: x to the right and y down in larger sides,
    the angle counter-clockwise. `matrix` `[3, 3]` leads from picture to input coordinates.
    """

    translate: tuple[float, float]
    rotate_deg: float
    matrix: torch.Tensor


@torch.no_grad()
def input_transforms(G: nn.Module, ws: torch.Tensor) -> list[InputTransform]:
    """The learned transform of every latent of `ws` `[N, num_ws, w_dim]`.

    Raises UserError for a StyleGAN2, which has none.
    """
    if not isinstance(G.synthesis, stylegan3.SynthesisNetwork):
        raise UserError("input transform: only StyleGAN3 networks learn one")
    source = G.synthesis.input
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
