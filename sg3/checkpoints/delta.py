"""Deltas: the weight changes of an adapted network, in a small file, applied with a strength.

    delta = difference(source, adapted, rank=8)
    save_delta(delta, "zombie.safetensors")
    G = apply_deltas(source, [(delta, 0.7), (load_delta("sketch.safetensors"), 0.4)])

Deltas are scaled and added in weight space, as in the interpolation between checkpoints of
StyleGAN-NADA (REFERENCE.md §8.6).
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sg3.checkpoints.delta_file import DTYPES, Delta, load_delta, save_delta
from sg3.checkpoints.low_rank import compress, dense, stored_parts, weighted_sum
from sg3.devices import precise
from sg3.errors import UserError

__all__ = [
    "Delta",
    "DeltaMix",
    "apply_deltas",
    "check_alike",
    "check_strength",
    "difference",
    "kept_fraction",
    "load_delta",
    "merge",
    "save_delta",
    "weights_hash",
]


def weights_hash(G: nn.Module) -> str:
    """Return the SHA-256 of names, dtypes, shapes and bytes of all weights, in hexadecimal.

    It is the same on all devices and after `sg3.save` and `sg3.load`, except with `fp16=True`.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(G.state_dict().items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def check_alike(a: nn.Module, b: nn.Module, names: tuple[str, str]) -> None:
    """Raise ValueError unless both networks have tensors of the same names and shapes.

    `names` are the names of the two networks in error messages.
    """
    ours, theirs = a.state_dict(), b.state_dict()
    for name in [*ours, *theirs]:
        if name not in ours or name not in theirs:
            owner, other = names if name in ours else names[::-1]
            raise UserError(
                f"{other}: has no tensor {name!r}, unlike {owner}; the networks do not match"
            )
        if ours[name].shape != theirs[name].shape:
            raise UserError(
                f"{names[1]}: tensor {name!r} has shape {list(theirs[name].shape)}, in {names[0]} "
                f"it is {list(ours[name].shape)}; the networks do not match"
            )


def difference(
    source: nn.Module,
    adapted: nn.Module,
    rank: int | None = None,
    dtype: torch.dtype = torch.float16,
    meta: Mapping[str, Any] | None = None,
) -> Delta:
    """Return the delta from `source` to `adapted`. Tensors that are equal are left out.

    Args:
        source: the original network.
        adapted: a network of the same shapes.
        rank: store changes as two factors of at most this rank where that saves memory; None: in
            full.
        dtype: float16 or float32, the dtype of the stored changes.
        meta: JSON-serializable provenance.

    Returns:
        A delta; `apply_deltas(source, [(delta, 1)])` is `adapted` up to rounding and rank.

    Raises:
        ValueError: the networks do not match, invalid `rank` or `dtype`, or values that are not
            finite.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype: got {dtype}, expected float16 or float32")
    _check_rank(rank)
    check_alike(source, adapted, ("source", "adapted"))
    before, after = source.state_dict(), adapted.state_dict()
    changes = {}
    for name in before:
        old, new = before[name].cpu(), after[name].cpu()
        if torch.equal(old, new):
            continue
        change = new.double() - old.double()
        if not change.isfinite().all():
            raise UserError(
                f"adapted: tensor {name!r} or its source has values that are not finite"
            )
        changes[name] = compress(change, rank, dtype)
    return Delta(changes, weights_hash(source), dict(meta or {}))


def kept_fraction(delta: Delta, source: nn.Module, adapted: nn.Module) -> float:
    """Return the fraction of the change that the delta keeps: 1 − |error|² / |change|²."""
    before, after = source.state_dict(), adapted.state_dict()
    error = change = 0.0
    for name in before:
        exact = (precise(after[name]) - precise(before[name])).cpu()
        kept = dense(delta.changes[name]) if name in delta.changes else 0
        change += float(exact.square().sum())
        error += float((exact - kept).square().sum())
    return 1 - error / change if change else 1.0


class DeltaMix:
    """A copy of a generator with deltas whose strengths can be changed repeatedly, as by sliders.

        mix = DeltaMix(G, [zombie, sketch])
        mix.set(0.7, 0.4)                         # changes and returns mix.G

    Args:
        G: the generator; it is copied.
        deltas: deltas made from `G`.
        force: accept deltas made from other weights of the same shapes.

    Raises:
        ValueError: a delta has other shapes, or was made from other weights without `force`.
    """

    def __init__(self, G: nn.Module, deltas: Sequence[Delta], force: bool = False):
        self.deltas = tuple(deltas)
        tensors = G.state_dict()
        found = weights_hash(G) if self.deltas else ""
        for delta in self.deltas:
            _check_fits(delta, tensors)
            if delta.source_hash != found and not force:
                raise UserError(
                    f"{_origin(delta)} (weights {delta.source_hash[:12]}), this network's "
                    f"are {found[:12]}; use that network, or force=True (sg3 delta apply --force)"
                )
        changed = {name for delta in self.deltas for name in delta.changes}
        self._source = {name: tensors[name].cpu().clone() for name in tensors if name in changed}
        self.G = copy.deepcopy(G)

    @torch.no_grad()
    def set(self, *strengths: float) -> nn.Module:
        """Set one strength per delta (any finite numbers) and return the generator."""
        for strength in strengths:
            check_strength(strength)
        tensors = self.G.state_dict()
        for name, source in self._source.items():
            parts = [
                dense(delta.changes[name]) * strength
                for delta, strength in zip(self.deltas, strengths, strict=True)
                if strength and name in delta.changes
            ]
            tensors[name].copy_(_moved(source, parts, name))
        return self.G


def _moved(source: torch.Tensor, parts: Sequence[torch.Tensor], name: str) -> torch.Tensor:
    if not parts:
        return source
    change, exact = sum(parts, start=torch.zeros([], dtype=torch.float64)), precise(source)
    # Adding zero would turn −0 into 0, but unchanged weights must stay equal bit for bit.
    moved = torch.where(change == 0, exact, exact + change).to(source.dtype)
    if not moved.isfinite().all():
        raise UserError(
            f"strength: tensor {name!r} overflows {source.dtype}; use a smaller strength"
        )
    return moved


def apply_deltas(
    G: nn.Module, deltas: Sequence[tuple[Delta, float]], force: bool = False
) -> nn.Module:
    """Return a copy of `G` with Σ strength · delta added, summed in float64 and rounded once.

    At strength 0 the result equals `G` bit for bit.

    Args:
        G: the generator; it is not changed.
        deltas: pairs of delta and strength.
        force: accept deltas made from other weights of the same shapes.

    Raises:
        ValueError: a delta does not match `G`, or a strength is not finite.
    """
    mix = DeltaMix(G, [delta for delta, _ in deltas], force)
    return mix.set(*(strength for _, strength in deltas))


def merge(deltas: Sequence[tuple[Delta, float]], rank: int | None = None) -> Delta:
    """Return one delta that has at strength 1 the effect of all `deltas` with their strengths.

    Args:
        deltas: pairs of delta and strength, made from the same weights.
        rank: maximum rank; None: ranks add up, without loss.

    Raises:
        ValueError: no deltas, different source weights, or different shapes.
    """
    if not deltas:
        raise ValueError("deltas: got none, expected at least one")
    _check_rank(rank)
    first = deltas[0][0]
    for delta, strength in deltas:
        check_strength(strength)
        if delta.source_hash != first.source_hash:
            raise UserError(f"{delta.name}: made from different weights than {first.name}")
    used = [(delta, strength) for delta, strength in deltas if strength]
    changes = {}
    for name in dict.fromkeys(name for delta, _ in used for name in delta.changes):
        parts = [(d.changes[name], strength) for d, strength in used if name in d.changes]
        change = weighted_sum(parts, rank)
        if all(part.any() for part in stored_parts(change)):
            changes[name] = change
    meta = {"merged": [{"strength": strength, **delta.meta} for delta, strength in deltas]}
    shared = {k: v for k, v in first.meta.items() if all(d.meta.get(k) == v for d, _ in deltas)}
    return Delta(changes, first.source_hash, shared | meta)


def check_strength(strength: float) -> None:
    """Raise ValueError unless `strength` is a finite number."""
    if not math.isfinite(strength):
        raise UserError(f"strength: got {strength}, expected a number like 0.7")


def _check_rank(rank: int | None) -> None:
    if rank is not None and rank < 1:
        raise ValueError(f"rank: got {rank}, expected at least 1")


def _origin(delta: Delta) -> str:
    return f"{delta.name}: made from {str(delta.meta.get('source', 'a network'))[:60]!r}"


def _check_fits(delta: Delta, tensors: Mapping[str, torch.Tensor]) -> None:
    for name, change in delta.changes.items():
        if name not in tensors:
            raise UserError(f"{_origin(delta)}; this network has no tensor {name[:80]!r}")
        if tuple(change.shape) != tuple(tensors[name].shape):
            raise UserError(
                f"{_origin(delta)}, whose tensor {name!r} has shape {list(change.shape)}; "
                f"in this network it is {list(tensors[name].shape)}"
            )
