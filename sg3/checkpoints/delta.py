"""Deltas: what an adapted network has changed, in a small file, with a strength (issue 5).

    delta = difference(source, adapted, rank=8)
    save_delta(delta, "zombie.safetensors")
    G = apply_deltas(source, [(delta, 0.7), (load_delta("sketch.safetensors"), 0.4)])

Strengths multiply and sums add in weight space, as between StyleGAN-NADA's checkpoints
(REFERENCE.md §8.6).
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
from sg3.errors import UserError

__all__ = [
    "Delta",
    "DeltaMix",
    "apply_deltas",
    "check_alike",
    "check_strength",
    "difference",
    "kept_share",
    "load_delta",
    "merge",
    "save_delta",
    "weights_hash",
]


def weights_hash(G: nn.Module) -> str:
    """SHA-256 of names, types, shapes and bytes of all weights, in hexadecimal.

    The same on every device and after `sg3.save` and `sg3.load`, but not in half precision.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(G.state_dict().items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def check_alike(a: nn.Module, b: nn.Module, names: tuple[str, str]) -> None:
    """Raise UserError, naming what does not fit, unless both networks have the same tensors.

    `names` are what messages call the two.
    """
    ours, theirs = a.state_dict(), b.state_dict()
    for name in [*ours, *theirs]:
        if name not in ours or name not in theirs:
            owner, other = names if name in ours else names[::-1]
            raise UserError(f"{other}: has no tensor {name!r}, but {owner} has; they do not match")
        if ours[name].shape != theirs[name].shape:
            raise UserError(
                f"{names[1]}: tensor {name!r} has shape {list(theirs[name].shape)}, in {names[0]} "
                f"it is {list(ours[name].shape)}; they do not match"
            )


def difference(
    source: nn.Module,
    adapted: nn.Module,
    rank: int | None = None,
    dtype: torch.dtype = torch.float16,
    meta: Mapping[str, Any] | None = None,
) -> Delta:
    """What `adapted` has changed, tensor by tensor; those that are equal stay out.

    With a `rank`, weights become two factors of at most that rank where that saves numbers. The
    delta is rounded to `dtype` (float16 or float32): `apply_deltas(source, [(delta, 1)])` is what
    it says, within the rounding of `adapted`. Raises ValueError for networks that do not match, a
    rank below 1, another type, or numbers that are not finite.
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
            raise UserError(f"adapted: {name!r} and its source are not all finite numbers")
        changes[name] = compress(change, rank, dtype)
    return Delta(changes, weights_hash(source), dict(meta or {}))


def kept_share(delta: Delta, source: nn.Module, adapted: nn.Module) -> float:
    """How much of the change to `adapted` the delta keeps: 1 − |error|² / |change|²."""
    before, after = source.state_dict(), adapted.state_dict()
    error = change = 0.0
    for name in before:
        whole = (after[name].double() - before[name].double()).cpu()
        kept = dense(delta.changes[name]) if name in delta.changes else 0
        change += float(whole.square().sum())
        error += float((whole - kept).square().sum())
    return 1 - error / change if change else 1.0


class DeltaMix:
    """A copy of a generator whose strengths can be moved again and again, as a slider does.

    mix = DeltaMix(G, [zombie, sketch])
    mix.set(0.7, 0.4)                         # returns mix.G, which it changes in place

    Raises UserError for a delta of other shapes, or made from other weights unless `force`.
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
                    f"are {found[:12]}; use that one, or force it: `sg3 delta apply --force`"
                )
        changed = {name for delta in self.deltas for name in delta.changes}
        self._source = {name: tensors[name].cpu().clone() for name in tensors if name in changed}
        self.G = copy.deepcopy(G)

    @torch.no_grad()
    def set(self, *strengths: float) -> nn.Module:
        """The generator with these strengths, one for each delta; any finite numbers."""
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
    change = sum(parts)
    # Adding zero would turn −0 into 0, and not a bit may change where nothing is asked for.
    moved = torch.where(change == 0, source.double(), source.double() + change).to(source.dtype)
    if not moved.isfinite().all():
        raise UserError(f"strength: {name!r} leaves the range of its numbers; use less")
    return moved


def apply_deltas(
    G: nn.Module, deltas: Sequence[tuple[Delta, float]], force: bool = False
) -> nn.Module:
    """A copy of `G` with Σ strength · delta added, summed in float64 and rounded once.

    At strength 0 it is `G` bit for bit. `force` takes deltas that were made from other weights of
    the same shapes. Raises UserError for one that does not fit, or a strength that is no number.
    """
    mix = DeltaMix(G, [delta for delta, _ in deltas], force)
    return mix.set(*(strength for _, strength in deltas))


def merge(deltas: Sequence[tuple[Delta, float]], rank: int | None = None) -> Delta:
    """One delta that does at strength 1 what these do together.

    Factors are put side by side, so ranks add up; `rank` bounds them, at the price of what does
    not fit. Raises ValueError for none, deltas of different sources or shapes.
    """
    if not deltas:
        raise ValueError("deltas: got none, expected at least one")
    _check_rank(rank)
    first = deltas[0][0]
    for delta, strength in deltas:
        check_strength(strength)
        if delta.source_hash != first.source_hash:
            raise UserError(f"{delta.name}: made from other weights than {first.name}")
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
    """Raise UserError unless it is a finite number."""
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
            raise UserError(f"{_origin(delta)}, which has {name[:80]!r}; this network has not")
        if tuple(change.shape) != tuple(tensors[name].shape):
            raise UserError(
                f"{_origin(delta)}, whose {name!r} has shape {list(change.shape)}; "
                f"in this network it is {list(tensors[name].shape)}"
            )
