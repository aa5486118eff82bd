"""The effect of every channel of style space on an encoder's embedding (StyleCLIP, arXiv
2103.17249, Sec. 6; REFERENCE.md §8.4).

Each channel is set to its mean ± 5 standard deviations in a number of images. The normalized mean
change of the embedding is the channel's relevance vector. That takes two images per channel and
latent; `differences` renders only the layers from the changed one on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from einops import repeat

from guidance.directions.config import RelevanceConfig
from guidance.encoders import Encoder
from guidance.latents import map_latents
from guidance.render import RENDER_BUDGET_PX
from guidance.style_space import (
    StyleLayer,
    affine_weight,
    layer_outputs,
    replaced_styles,
    resumed,
    style_layers,
    styles_of,
)
from sg3.devices import precise, precise_device
from sg3.media.images import as_rgb
from sg3.networks.generator import MappedGenerator

#: Pixels rendered at once on a CPU, whose caches hold few images; a GPU takes RENDER_BUDGET_PX.
CPU_BUDGET_PX = 2**16
#: Latents that `style_statistics` maps at once.
STATISTICS_BATCH = 8192


@dataclass(frozen=True)
class Relevance:
    """Statistics of C channels of style space, for an encoder with embeddings of size D.

    Attributes:
        layers: number of channels by layer; the rows of the tensors are in this order.
        mean: mean of each style, `[C]`.
        std: standard deviation of each style, `[C]`.
        sums: sum of the normalized changes of the embedding, `[C, D]`.
        images: number of latents so far.
        total: number of latents when complete.
    """

    layers: dict[str, int]
    mean: torch.Tensor
    std: torch.Tensor
    sums: torch.Tensor
    images: int
    total: int

    @property
    def vectors(self) -> torch.Tensor:
        """Relevance of each channel, `[C, D]` of unit norm; 0 for a channel without an effect."""
        return F.normalize(self.sums, dim=1)

    def agreement(self) -> float:
        """Median over channels of the expected cosine to the vectors of infinitely many latents.

        R / √(R² + (1 − R²)/n), where R² is the squared length of the mean of n unit vectors minus
        its expectation 1/n for random ones.
        """
        n = max(self.images, 2)
        length2 = ((self.sums.square().sum(dim=1) / n - 1) / (n - 1)).clamp(0, 1)
        cosines = (length2 / (length2 + (1 - length2) / n).clamp_min(1e-12)).sqrt()
        return float(cosines.median())

    def by_layer(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
        """Split `values` `[C, …]` by layer."""
        return dict(zip(self.layers, values.split(list(self.layers.values())), strict=True))


def compared_layers(G: MappedGenerator, max_resolution: int) -> list[StyleLayer]:
    """Layers whose channels are tried: no input, no ToRGB, none larger than `max_resolution`."""
    layers = style_layers(G)
    return [
        layer
        for layer in layers
        if not (layer.is_input or layer.to_rgb) and layer.resolution <= max_resolution
    ]


@torch.no_grad()
def style_statistics(
    G: MappedGenerator, layers: Sequence[StyleLayer], config: RelevanceConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation `[C]` of the styles of `layers`.

    Styles are affine in w, so they follow from the statistics of W: means A·m + b, variances
    diag(A·Σ·Aᵀ).
    """
    random = np.random.RandomState(config.seed)
    w_avg = G.mapping.get_buffer("w_avg")
    total = torch.zeros([], device=precise_device(w_avg.device))
    products, done = torch.zeros_like(total), 0
    while done < config.samples:
        count = min(STATISTICS_BATCH, config.samples - done)
        z = torch.from_numpy(random.randn(count, G.z_dim))
        w = precise(map_latents(G, z, config.class_index)[:, 0])
        total, products, done = total + w.sum(dim=0), products + w.T @ w, done + count
    mean = total / done
    # A difference of large numbers, hence w in double precision.
    covariance = (products - done * torch.outer(mean, mean)) / (done - 1)
    centre = precise(w_avg)
    means, deviations = [], []
    for layer in layers:
        # Truncated like the latents of `_latents`, in which the channels are tried.
        psi = config.truncation if layer.ws_row < config.cutoff else 1.0
        affine, weight = layer.affine, affine_weight(layer)
        assert affine.bias is not None
        means.append(weight @ centre.lerp(mean, psi) + precise(affine.bias) * affine.bias_gain)
        deviations.append(psi * ((weight @ covariance) * weight).sum(dim=1).clamp_min(0).sqrt())
    found = (torch.cat(means), torch.cat(deviations))
    return found[0].to(w_avg), found[1].to(w_avg)


def relevance_steps(
    G: MappedGenerator, encoder: Encoder, config: RelevanceConfig, begun: Relevance | None = None
) -> Iterator[Relevance]:
    """Yield the statistics after each latent; the last ones have `images == total`.

    Args:
        G: the generator.
        encoder: an image-text model.
        config: settings.
        begun: statistics to continue from.
    """
    layers = compared_layers(G, config.max_resolution)
    sizes = {layer.name: layer.channels for layer in layers}
    state = begun
    if state is None:
        mean, std = style_statistics(G, layers, config)
        sums = torch.zeros([len(mean), encoder.embed_dim], device=mean.device)
        state = Relevance(sizes, mean, std, sums, 0, config.images)
    ws = _latents(G, config)
    while state.images < config.images:
        one = ws[state.images : state.images + 1]
        # Each latent counts the same, however far its embedding moves.
        change = F.normalize(differences(G, encoder, one, state, config.sigmas), dim=1)
        # Sums instead of means, so that an interrupted run can continue.
        state = replace(state, sums=state.sums + change, images=state.images + 1)
        yield state


def _latents(G: MappedGenerator, config: RelevanceConfig) -> torch.Tensor:
    z = torch.from_numpy(np.random.RandomState(config.seed).randn(config.images, G.z_dim))
    ws = map_latents(G, z, config.class_index)
    rows = slice(0, config.cutoff)
    ws[:, rows] = G.mapping.get_buffer("w_avg").lerp(ws[:, rows], config.truncation)
    return ws


@torch.no_grad()
def differences(
    G: MappedGenerator, encoder: Encoder, ws: torch.Tensor, of: Relevance, sigmas: float
) -> torch.Tensor:
    """Embedding at mean + sigmas·std minus that at mean − sigmas·std, for each channel `[C, D]`.

    Args:
        G: the generator.
        encoder: an image-text model.
        ws: one latent, `[1, num_ws, w_dim]`.
        of: mean and standard deviation of the styles.
        sigmas: change of a channel to either side, in standard deviations.
    """
    layers = style_layers(G)
    _, outputs = layer_outputs(G, layers, ws)
    base = styles_of(G, ws)
    low, high = (of.by_layer(of.mean + sign * sigmas * of.std) for sign in (-1, 1))
    budget = RENDER_BUDGET_PX if ws.device.type == "cuda" else CPU_BUDGET_PX
    pairs, found = max(1, budget // (2 * G.img_height * G.img_width)), []
    for index, layer in enumerate(layers):
        if layer.name not in of.layers:
            continue
        # Only the layers from here on: 1.6 times faster (docs/EDITING.md).
        with resumed(layers, index, outputs):
            for channels in torch.arange(layer.channels, device=ws.device).split(pairs):
                styles = repeat(base[layer.name], "1 c -> n c", n=2 * len(channels)).clone()
                row = torch.arange(len(channels), device=ws.device)
                styles[row, channels] = low[layer.name][channels]
                styles[row + len(channels), channels] = high[layer.name][channels]
                with replaced_styles(G, {layer.name: styles}):
                    images = G.synthesis(ws.expand(len(styles), -1, -1), noise_mode="const")
                before, after = _embed(encoder, images).chunk(2)
                found.append(after - before)
    return torch.cat(found)


def _embed(encoder: Encoder, images: torch.Tensor) -> torch.Tensor:
    # Half precision changes an embedding by a thousandth of what five standard deviations do.
    with torch.autocast(images.device.type, torch.float16, enabled=images.is_cuda):
        return encoder.encode_images(as_rgb(images)).float()


@torch.no_grad()
def plain_differences(
    G: MappedGenerator, encoder: Encoder, ws: torch.Tensor, of: Relevance, sigmas: float
) -> Iterator[torch.Tensor]:
    """Reference implementation of `differences`: every image in full, channel by channel.

    Yields `[N, D]` per channel for N latents `ws`.
    """
    base = styles_of(G, ws)
    low, high = (of.by_layer(of.mean + sign * sigmas * of.std) for sign in (-1, 1))
    for name, channels in of.layers.items():
        for channel in range(channels):
            embeddings = []
            for value in (low[name][channel], high[name][channel]):
                styles = base[name].clone()
                styles[:, channel] = value
                with replaced_styles(G, {name: styles}):
                    images = G.synthesis(ws, noise_mode="const")
                embeddings.append(encoder.encode_images(as_rgb(images)))
            yield embeddings[1] - embeddings[0]
