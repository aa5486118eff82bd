"""Training data of the encoder: variants of each identity, rendered once into memory maps.

python -m recipes.minifaces.encoder.pairs --dest data/pairs --identities 4600 --workers 2
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from guidance.encoders.mini_vocabulary import ATTRIBUTES, CLASSES, DOMAINS, STYLES
from recipes.arguments import argument_parser
from recipes.minifaces.world.attributes import Attributes, sample_attributes, sample_pose
from recipes.minifaces.world.captions import Mentions, truth
from recipes.minifaces.world.renderer import render
from recipes.processes import map_in_processes

NAMES = tuple(CLASSES)  # the order of the columns of `labels`
HIDDEN = -1  # the label of an attribute that the image does not show
# Per identity: the flat human; six other domains; four other styles; three combinations of domain
# and style; three flat humans with one attribute changed.
VARIANTS = 1 + 6 + 4 + 3 + 3
TRAIN_BASE, HELDOUT_BASE = 2 * 10**8, 3 * 10**8  # seeds of no other dataset


def changed(a: Attributes, rng: np.random.Generator) -> Attributes:
    """Return the identity with one visible attribute changed.

    Mouth, glasses, beard and hair style, which are hard to see, change twice as often.
    """
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
    # Women of this world are neither bald nor bearded.
    if name == "gender" and out.gender == "woman":
        out = out.with_(
            beard="none", hair_style="short" if a.hair_style == "bald" else a.hair_style
        )
    return (
        out.with_(hair_style="short") if out.hat != "none" and out.hair_style == "mohawk" else out
    )


def variants(seed: int) -> list[tuple[Attributes, str, str]]:
    """Return attributes, domain and style of the `VARIANTS` images of identity `seed`."""
    rng = np.random.default_rng([seed, 0x9A125])
    a = sample_attributes(seed)
    out = [(a, "human", "flat")]
    out += [(a, domain, "flat") for domain in DOMAINS[1:]]
    out += [(a, "human", style) for style in STYLES[1:]]
    for _ in range(3):
        out.append((a, DOMAINS[1 + int(rng.integers(6))], STYLES[1 + int(rng.integers(4))]))
    return out + [(changed(a, rng), "human", "flat") for _ in range(3)]


def labels_of(facts: Mentions) -> np.ndarray:
    """Return class indices, int8 [len(NAMES)]; HIDDEN for attributes that the image hides."""
    return np.array(
        [CLASSES[n].index(facts[n]) if n in facts else HIDDEN for n in NAMES], dtype=np.int8
    )


def facts_of(labels: np.ndarray) -> Mentions:
    """Return the facts that `labels` encode: the inverse of `labels_of`."""
    return {n: CLASSES[n][int(k)] for n, k in zip(NAMES, labels, strict=True) if k != HIDDEN}


def render_identity(seed: int, size_px: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Render all variants of an identity in the same pose.

    Returns images, uint8 [VARIANTS, size, size, 3], and labels, int8 [VARIANTS, len(NAMES)].
    """
    pose = sample_pose(seed)
    images, labels = [], []
    for a, domain, style in variants(seed):
        images.append(render(a, domain, style, size_px, pose))
        labels.append(labels_of(truth(a, domain, style)))
    return np.stack(images), np.stack(labels)


@dataclass(frozen=True)
class Pairs:
    """Images, uint8 [I, VARIANTS, 64, 64, 3], and labels, int8 [I, VARIANTS, len(NAMES)]."""

    images: np.ndarray
    labels: np.ndarray


def build(identities: int, base: int, workers: int = 1) -> Pairs:
    """Render the identities base … base + identities − 1 in `workers` processes."""
    seeds = range(base, base + identities)
    images, labels = zip(*map_in_processes(render_identity, seeds, workers), strict=True)
    return Pairs(np.stack(images), np.stack(labels))


def load_or_build(
    folder: str | os.PathLike[str], identities: int, base: int, workers: int = 1
) -> Pairs:
    """Open the memory maps in `folder`, after rendering them if they are missing."""
    folder = Path(folder)
    stem = f"pairs-{base}-{identities}"
    images, labels = folder / f"{stem}-pictures.npy", folder / f"{stem}-labels.npy"
    if not (images.exists() and labels.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        built = build(identities, base, workers)
        for path, array in ((images, built.images), (labels, built.labels)):
            temporary = path.with_suffix(".partial.npy")
            np.save(temporary, array)
            temporary.rename(path)
    return Pairs(np.load(images, mmap_mode="r"), np.load(labels))


def main() -> None:
    """Run the command."""
    parser = argument_parser(__doc__)
    parser.add_argument("--dest", required=True, help="folder for the memory maps")
    parser.add_argument(
        "--identities", type=int, default=4600, help="number of identities for training"
    )
    parser.add_argument(
        "--heldout", type=int, default=300, help="number of identities for evaluation"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="number of rendering processes"
    )
    args = parser.parse_args()
    load_or_build(args.dest, args.identities, TRAIN_BASE, args.workers)
    load_or_build(args.dest, args.heldout, HELDOUT_BASE, args.workers)


if __name__ == "__main__":
    main()
