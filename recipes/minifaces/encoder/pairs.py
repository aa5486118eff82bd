"""The encoder's training data: paired variants of the same identities, rendered once into memory
maps.

python -m recipes.minifaces.encoder.pairs --dest /root/data/pairs --identities 4600 --workers 2
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from guidance.encoders.mini_vocabulary import ATTRIBUTES, CLASSES, DOMAINS, STYLES
from recipes.minifaces.world.attributes import (
    Attributes,
    sample_attributes,
    sample_pose,
)
from recipes.minifaces.world.captions import Mentions, truth
from recipes.minifaces.world.renderer import render

NAMES = tuple(CLASSES)  # the order of the columns of `labels`
HIDDEN = -1  # the label of an attribute that the picture does not show
# Per identity: the flat human; six other domains; four styles; three domain + style; three with
# one attribute changed.
VARIANTS = 1 + 6 + 4 + 3 + 3
TRAIN_BASE, HELDOUT_BASE = 2 * 10**8, 3 * 10**8  # seeds that no other data set of the recipe uses


def changed(a: Attributes, rng: np.random.Generator) -> Attributes:
    """The identity with one visible attribute replaced (mouth, glasses, beard twice as often)."""
    facts = truth(a)
    names = [n for n in facts if n in ATTRIBUTES and not (n == "beard" and a.gender == "woman")]
    weights = np.array(
        [2.0 if n in ("mouth", "glasses", "beard", "hair_style") else 1.0 for n in names]
    )
    name = names[int(rng.choice(len(names), p=weights / weights.sum()))]
    values = [v for v in ATTRIBUTES[name] if v != getattr(a, name)]
    if name == "hair_style":
        values = [v for v in values if not (v == "mohawk" and a.hat != "none")]
        values = [v for v in values if not (v == "bald" and a.gender == "woman")]
    out = a.with_(**{name: values[int(rng.integers(len(values)))]})
    if (
        name == "gender" and out.gender == "woman"
    ):  # women of this world are neither bald nor bearded
        out = out.with_(
            beard="none", hair_style="short" if a.hair_style == "bald" else a.hair_style
        )
    return (
        out.with_(hair_style="short") if out.hat != "none" and out.hair_style == "mohawk" else out
    )


def variants(seed: int) -> list[tuple[Attributes, str, str]]:
    """The `VARIANTS` pictures of identity `seed`."""
    rng = np.random.default_rng([seed, 0x9A125])
    a = sample_attributes(seed)
    out = [(a, "human", "flat")]
    out += [(a, domain, "flat") for domain in DOMAINS[1:]]
    out += [(a, "human", style) for style in STYLES[1:]]
    for _ in range(3):
        out.append((a, DOMAINS[1 + int(rng.integers(6))], STYLES[1 + int(rng.integers(4))]))
    return out + [(changed(a, rng), "human", "flat") for _ in range(3)]


def labels_of(facts: Mentions) -> np.ndarray:
    """int8 [len(NAMES)]: class numbers, HIDDEN where the picture does not show the attribute."""
    return np.array(
        [CLASSES[n].index(facts[n]) if n in facts else HIDDEN for n in NAMES], dtype=np.int8
    )


def facts_of(labels: np.ndarray) -> Mentions:
    """The inverse of `labels_of`."""
    return {n: CLASSES[n][int(k)] for n, k in zip(NAMES, labels, strict=True) if k != HIDDEN}


def render_identity(seed: int, size_px: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [VARIANTS, size, size, 3] and int8 [VARIANTS, len(NAMES)], all in one pose."""
    pose = sample_pose(seed)
    pictures, labels = [], []
    for a, domain, style in variants(seed):
        pictures.append(render(a, domain, style, size_px, pose))
        labels.append(labels_of(truth(a, domain, style)))
    return np.stack(pictures), np.stack(labels)


@dataclass(frozen=True)
class Pairs:
    """Pictures uint8 [I, VARIANTS, 64, 64, 3] and labels int8 [I, VARIANTS, len(NAMES)]."""

    pictures: np.ndarray
    labels: np.ndarray


def build(identities: int, base: int, workers: int = 1) -> Pairs:
    """Render `identities` identities, seeds base, base + 1, ..."""
    seeds = range(base, base + identities)
    if workers <= 1:
        rendered = [render_identity(s) for s in seeds]
    else:
        with multiprocessing.Pool(workers) as pool:
            rendered = pool.map(render_identity, seeds, chunksize=8)
    return Pairs(np.stack([p for p, _ in rendered]), np.stack([q for _, q in rendered]))


def load_or_build(
    folder: str | os.PathLike[str], identities: int, base: int, workers: int = 1
) -> Pairs:
    """Memory maps from `folder`, rendered there first if they are missing."""
    folder = Path(folder)
    stem = f"pairs-{base}-{identities}"
    pictures, labels = folder / f"{stem}-pictures.npy", folder / f"{stem}-labels.npy"
    if not (pictures.exists() and labels.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        built = build(identities, base, workers)
        for path, array in ((pictures, built.pictures), (labels, built.labels)):
            temporary = path.with_suffix(".partial.npy")
            np.save(temporary, array)
            temporary.rename(path)
    return Pairs(np.load(pictures, mmap_mode="r"), np.load(labels))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--dest", required=True, help="folder of the memory maps")
    parser.add_argument("--identities", type=int, default=4600)
    parser.add_argument("--heldout", type=int, default=300, help="identities for evaluation")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    args = parser.parse_args()
    load_or_build(args.dest, args.identities, TRAIN_BASE, args.workers)
    load_or_build(args.dest, args.heldout, HELDOUT_BASE, args.workers)


if __name__ == "__main__":
    main()
