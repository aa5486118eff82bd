"""Directions in W from weights, latents and labels. Alpha 1 is one standard deviation of W."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import reduce

import torch
from torch import nn

from guidance.directions.base import Direction
from guidance.directions.text import text_difference
from guidance.encoders import Encoder, load_encoder
from guidance.generator import generator_of
from guidance.latents import latent_statistics, map_latents, seed_latents
from guidance.render import images_at_once, renderer
from guidance.style_space import affine_weight, style_layers
from sg3.checkpoints import Networks
from sg3.devices import precise
from sg3.errors import UserError
from sg3.media.images import as_rgb
from sg3.networks.generator import MappedGenerator
from sg3.settings import ClassLabel

#: More than any w_dim: the variance along a direction needs all components of W.
ALL_COMPONENTS = 1 << 20
#: Fraction of the labelled latents that a direction is tested on instead of fitted to.
HELD_OUT = 0.2
#: Images that an encoder scores at once, at most.
SCORED_AT_ONCE = 64


def sefa_direction(
    network: Networks | nn.Module,
    index: int,
    rows: Collection[int] | None = None,
    class_index: ClassLabel | None = None,
) -> Direction:
    """SeFa: the direction of W that changes the styles most (arXiv 2007.06600, Eq. 7).

    It is an eigenvector of Σ AᵀA over the affine weights A of the layers, without the input layer
    of a StyleGAN3.

    Args:
        network: networks of `sg3.load`, or a generator.
        index: number of the eigenvector; 0 has the largest eigenvalue.
        rows: only layers that read these rows of ws.
        class_index: class of a conditional network.

    Raises ValueError for an `index` out of range.
    """
    G = generator_of(network)
    weights = [
        affine_weight(layer)
        for layer in style_layers(G)
        if not layer.is_input and (rows is None or layer.ws_row in rows)
    ]
    if not weights:
        raise UserError("layers: got none with styles, expected at least one")
    _check_index("sefa", index, G.w_dim)
    gram = reduce(torch.add, [weight.T @ weight for weight in weights])
    energies, vectors = torch.linalg.eigh(gram)
    # `eigh` sorts upwards; SeFa counts from the largest.
    direction = vectors[:, -1 - index]
    fraction = float(energies[-1 - index] / energies.sum())
    step = _one_deviation(G, direction.float(), class_index)
    return Direction(f"sefa:{index}", step, info={"share": round(fraction, 4)})


def pca_direction(
    network: Networks | nn.Module, index: int, class_index: ClassLabel | None = None
) -> Direction:
    """Principal component of W (GANSpace, arXiv 2004.02546).

    Args:
        network: networks of `sg3.load`, or a generator.
        index: number of the component; 0 has the largest variance.
        class_index: class of a conditional network.

    Raises ValueError for an `index` out of range.

    Example:
        >>> import guidance, sg3
        >>> nets = sg3.load("mini-faces")
        >>> direction = guidance.pca_direction(nets, 0)
        >>> ws = guidance.map_latents(nets.G_ema, guidance.seed_latents(3, 1, nets.G_ema.z_dim))
        >>> image = guidance.apply_directions(ws, [(direction, 2.0)]).render(nets.G_ema)
    """
    G = generator_of(network)
    statistics = latent_statistics(G, ALL_COMPONENTS, class_index)
    _check_index("pca", index, len(statistics.variances))
    step = statistics.components[index] * statistics.variances[index].sqrt()
    fraction = float(statistics.variances[index] / statistics.variances.sum())
    return Direction(f"pca:{index}", step.expand(G.num_ws, -1), info={"share": round(fraction, 4)})


def labelled_direction(
    network: Networks | nn.Module,
    w: torch.Tensor,
    labels: torch.Tensor,
    name: str = "labels",
    class_index: ClassLabel | None = None,
) -> Direction:
    """The direction along which labels of latents rise, as in InterFaceGAN (arXiv 2005.09635).

    Fitted by least squares on whitened coordinates: for two classes that is Fisher's discriminant,
    for scores a linear regression. The step is the most likely one that changes the label: along
    the normal in whitened coordinates. `info` has the quality on held-out latents: "accuracy" for
    two classes, "correlation" for scores.

    Args:
        network: networks of `sg3.load`, or a generator.
        w: latents `[N, w_dim]`, at least ten.
        labels: `[N]`, two classes or scores.
        name: name of the direction.
        class_index: class of a conditional network.

    Raises ValueError for too few latents, equal labels, or values that are not finite.
    """
    G = generator_of(network)
    statistics = latent_statistics(G, ALL_COMPONENTS, class_index)
    labels = precise(labels.to(statistics.mean))
    if w.ndim != 2 or w.shape[1] != G.w_dim or labels.shape != (len(w),):
        raise UserError(
            f"labels: got latents {list(w.shape)} and labels {list(labels.shape)}, "
            f"expected [N, {G.w_dim}] and [N]"
        )
    if len(w) < 10 or not (w.isfinite().all() and labels.isfinite().all()):
        raise UserError(f"labels: got {len(w)} latents, expected at least 10 with finite values")
    held_out = torch.zeros(len(w), dtype=torch.bool, device=labels.device)
    held_out[: max(int(HELD_OUT * len(w)), 2)] = True
    # Shuffled, since latents may come sorted by label.
    held_out = held_out[torch.randperm(len(w), generator=torch.Generator().manual_seed(0))]
    if labels[~held_out].std() == 0:
        raise UserError(f"labels: all {len(w)} are equal, expected two classes or scores")
    coordinates = precise(statistics.whiten(w.to(statistics.mean)))
    normal, offset = _least_squares(coordinates[~held_out], labels[~held_out])
    found = coordinates[held_out] @ normal + offset
    info = {"latents": len(w), **_quality(found, labels[held_out], labels.unique())}
    unit = (normal / normal.norm()).to(statistics.mean)
    step = (unit * statistics.variances.sqrt()) @ statistics.components
    return Direction(name, step.expand(G.num_ws, -1), info=info)


def described_direction(
    network: Networks | nn.Module,
    encoder: str | Encoder,
    target: str,
    neutral: str = "a face",
    samples: int = 1000,
    seed: int = 0,
    templates: str | Sequence[str] = "plain",
    class_index: ClassLabel | None = None,
) -> Direction:
    """`labelled_direction` of random images that an encoder scores by a text.

    The score is the cosine between the image and the difference from `neutral` to `target`.

    Args:
        network: networks of `sg3.load`, or a generator.
        encoder: what `load_encoder` takes.
        target: text that describes the edit.
        neutral: text that describes the image without the edit.
        samples: number of images.
        seed: random seed.
        templates: sentences to average the texts over.
        class_index: class of a conditional network.

    Raises ValueError as `text_difference` does.
    """
    G = generator_of(network)
    encoder = load_encoder(encoder, next(G.parameters()).device)
    change = text_difference(encoder, target, neutral, templates)
    ws = map_latents(G, seed_latents(seed, samples, G.z_dim), class_index)
    render, scores = renderer(G), []
    with torch.no_grad():
        for part in ws.split(min(images_at_once(G), SCORED_AT_ONCE)):
            scores.append(encoder.encode_images(as_rgb(render(part))).float() @ change)
    return labelled_direction(G, ws[:, 0], torch.cat(scores), target, class_index)


def _check_index(kind: str, index: int, count: int) -> None:
    if not 0 <= index < count:
        raise UserError(f"direction: got {kind}:{index}, expected {kind}:0 to {kind}:{count - 1}")


def _one_deviation(
    G: MappedGenerator, unit: torch.Tensor, class_index: ClassLabel | None
) -> torch.Tensor:
    """Scale `unit` `[w_dim]` to W's standard deviation along it; `[num_ws, w_dim]`."""
    statistics = latent_statistics(G, ALL_COMPONENTS, class_index)
    variance = ((statistics.components @ unit).square() * statistics.variances).sum()
    return (unit * variance.sqrt()).expand(G.num_ws, -1)


def _least_squares(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`normal` `[K]` and `offset` with y ≈ x @ normal + offset.

    A ridge of 1 keeps the solution stable with few samples: the coordinates have unit variance.
    """
    mean_x, mean_y = x.mean(dim=0), y.mean()
    centred = x - mean_x
    gram = centred.T @ centred + torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    normal = torch.linalg.solve(gram, centred.T @ (y - mean_y))
    return normal, mean_y - mean_x @ normal


def _quality(found: torch.Tensor, labels: torch.Tensor, values: torch.Tensor) -> dict[str, float]:
    """Accuracy of two classes, or correlation of scores, on held-out latents."""
    if len(values) == 2:
        right = (found > values.mean()) == (labels > values.mean())
        return {"accuracy": round(float(right.float().mean()), 4)}
    both = torch.stack([found, labels])
    return {"correlation": round(float(both.corrcoef()[0, 1]), 4)}
