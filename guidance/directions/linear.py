"""Directions in W that need no text: of the weights, of the latents, of labels.

A step of alpha 1 is one standard deviation of W along the direction.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from guidance.directions.base import Direction
from guidance.directions.text import text_difference
from guidance.encoders import Encoder
from guidance.latents import latent_statistics, map_latents, seed_latents
from guidance.render import images_at_once, renderer
from guidance.style_space import style_layers
from sg3.errors import UserError
from sg3.media.images import as_rgb

#: Of W, for a step of one standard deviation in any direction.
ALL_COMPONENTS = 1 << 20
#: Share of the labelled latents that a direction is tested on, not made from.
HELD_OUT = 0.2


def sefa_direction(
    G: nn.Module, index: int, rows: Sequence[int] | None = None, class_index: int | None = None
) -> Direction:
    """The unit n in W that changes the styles of the layers at `rows` most: SeFa.

    Eigenvector number `index` (0: largest) of Σ AᵀA over the affine weights A of these layers
    (arXiv 2007.06600, Eq. 7), without the input of a StyleGAN3. Raises UserError for an `index`
    that is not there.
    """
    weights = [
        layer.module.affine.weight.double() * layer.module.affine.weight_gain
        for layer in style_layers(G)
        if not layer.is_input and (rows is None or layer.ws_row in rows)
    ]
    if not weights:
        raise UserError("layers: got none with styles, expected at least one")
    _check_index("sefa", index, G.w_dim)
    energies, vectors = torch.linalg.eigh(sum(weight.T @ weight for weight in weights))
    direction = vectors[:, -1 - index]
    share = float(energies[-1 - index] / energies.sum())
    step = _one_deviation(G, direction.float(), class_index)
    return Direction(f"sefa:{index}", step, info={"share": round(share, 4)})


def pca_direction(G: nn.Module, index: int, class_index: int | None = None) -> Direction:
    """Principal component number `index` (0: largest) of W (GANSpace, arXiv 2004.02546).

    Raises UserError for an `index` that is not there.
    """
    statistics = latent_statistics(G, ALL_COMPONENTS, class_index)
    _check_index("pca", index, len(statistics.variances))
    step = statistics.components[index] * statistics.variances[index].sqrt()
    share = float(statistics.variances[index] / statistics.variances.sum())
    return Direction(f"pca:{index}", step.expand(G.num_ws, -1), info={"share": round(share, 4)})


def labelled_direction(
    G: nn.Module,
    w: torch.Tensor,
    labels: torch.Tensor,
    name: str = "labels",
    class_index: int | None = None,
) -> Direction:
    """The direction in which `labels` `[N]` of latents `w` `[N, w_dim]` rise, as InterFaceGAN's.

    Least squares on coordinates of unit variance: for two classes that is Fisher's discriminant,
    for scores a regression. The step is the likeliest move that changes the label: along the
    normal in those coordinates. `info` says how well labels of latents that were held out are
    told: "accuracy" for two classes, the correlation for scores. Raises UserError for fewer than
    ten latents, labels that are all alike, numbers that are not finite.
    """
    statistics = latent_statistics(G, ALL_COMPONENTS, class_index)
    labels = labels.to(statistics.mean).double()
    if w.ndim != 2 or w.shape[1] != G.w_dim or labels.shape != (len(w),):
        raise UserError(
            f"labels: got latents {list(w.shape)} and labels {list(labels.shape)}, "
            f"expected [N, {G.w_dim}] and [N]"
        )
    if len(w) < 10 or not (w.isfinite().all() and labels.isfinite().all()):
        raise UserError(f"labels: got {len(w)} latents, expected at least 10, all finite numbers")
    held_out = torch.zeros(len(w), dtype=torch.bool, device=labels.device)
    held_out[: max(int(HELD_OUT * len(w)), 2)] = True
    held_out = held_out[torch.randperm(len(w), generator=torch.Generator().manual_seed(0))]
    if labels[~held_out].std() == 0:
        raise UserError(f"labels: all {len(w)} are alike, expected two classes or scores")
    coordinates = statistics.whiten(w.to(statistics.mean)).double()
    normal, offset = _least_squares(coordinates[~held_out], labels[~held_out])
    found = coordinates[held_out] @ normal + offset
    info = {"latents": len(w), **_quality(found, labels[held_out], labels.unique())}
    unit = (normal / normal.norm()).float()
    step = (unit * statistics.variances.sqrt()) @ statistics.components
    return Direction(name, step.expand(G.num_ws, -1), info=info)


def described_direction(
    G: nn.Module,
    encoder: Encoder,
    target: str,
    neutral: str = "a face",
    samples: int = 1000,
    seed: int = 0,
    templates: str | Sequence[str] = "plain",
    class_index: int | None = None,
) -> Direction:
    """`labelled_direction` of random pictures, labelled by how much an encoder sees of a text.

    A picture's label is its cosine with the way from `neutral` to `target`.
    """
    change = text_difference(encoder, target, neutral, templates)
    ws = map_latents(G, seed_latents(seed, samples, G.z_dim), class_index)
    render, scores = renderer(G), []
    with torch.no_grad():
        for part in ws.split(min(images_at_once(G), 64)):
            scores.append(encoder.encode_images(as_rgb(render(part))).float() @ change)
    return labelled_direction(G, ws[:, 0], torch.cat(scores), target, class_index)


def _check_index(kind: str, index: int, count: int) -> None:
    if not 0 <= index < count:
        raise UserError(f"direction: got {kind}:{index}, expected {kind}:0 to {kind}:{count - 1}")


def _one_deviation(G: nn.Module, unit: torch.Tensor, class_index: int | None) -> torch.Tensor:
    """`unit` `[w_dim]` as long as W's standard deviation along it, `[num_ws, w_dim]`."""
    statistics = latent_statistics(G, ALL_COMPONENTS, class_index)
    variance = ((statistics.components @ unit).square() * statistics.variances).sum()
    return (unit * variance.sqrt()).expand(G.num_ws, -1)


def _least_squares(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`normal` `[K]` and `offset` with y ≈ x @ normal + offset; a little ridge for few samples."""
    mean_x, mean_y = x.mean(dim=0), y.mean()
    centred = x - mean_x
    gram = centred.T @ centred + torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    normal = torch.linalg.solve(gram, centred.T @ (y - mean_y))
    return normal, mean_y - mean_x @ normal


def _quality(found: torch.Tensor, labels: torch.Tensor, values: torch.Tensor) -> dict[str, float]:
    if len(values) == 2:
        right = (found > values.mean()) == (labels > values.mean())
        return {"accuracy": round(float(right.double().mean()), 4)}
    both = torch.stack([found, labels])
    return {"correlation": round(float(both.corrcoef()[0, 1]), 4)}
