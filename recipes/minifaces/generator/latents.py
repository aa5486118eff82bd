"""The latent space of the bundled generators: z encodes the attributes and the pose of a face.

Each attribute owns a block of coordinates of z; the index of the largest one, after adding offsets
that produce the odds of the world, is its value. Four more coordinates are the pose. So z is normal
and still determines the face, and a generator can be trained by regression.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import cache

import numpy as np
from scipy.special import ndtr, ndtri

from guidance.encoders.mini_vocabulary import ATTRIBUTES
from recipes.minifaces.world.attributes import (
    BEARD_ODDS,
    CLOTHES,
    GLASSES_ODDS,
    HAIR_ODDS,
    HAT_ODDS,
    MOUTH_ODDS,
    sample_attributes,
    sample_pose_numbers,
)

#: Number of coordinates of each attribute, in order, in z and in codes; the pose follows.
BLOCKS = {name: len(values) for name, values in ATTRIBUTES.items()} | {"clothes": len(CLOTHES)}
POSE_DIM = 4
CODE_DIM = sum(BLOCKS.values()) + POSE_DIM
Z_DIM = 64
SHORT, MOHAWK = ATTRIBUTES["hair_style"].index("short"), ATTRIBUTES["hair_style"].index("mohawk")


def start_of(name: str) -> int:
    """Return the first coordinate of attribute `name`, or of "pose"."""
    names = [*BLOCKS, "pose"]
    return sum(BLOCKS[other] for other in names[: names.index(name)])


def odds_of(name: str, gender: str) -> tuple[float, ...]:
    """Return the probability of each value of attribute `name` in the world."""
    table = {
        "hair_style": HAIR_ODDS[gender],
        "beard": BEARD_ODDS[gender],
        "mouth": MOUTH_ODDS,
        "glasses": GLASSES_ODDS,
        "hat": HAT_ODDS,
    }
    return table.get(name, (1 / BLOCKS[name],) * BLOCKS[name])


@cache
def offsets_of(odds: tuple[float, ...]) -> np.ndarray:
    """Return offsets of normal variables such that number v is the largest with odds `odds[v]`."""
    if len(set(odds)) == 1:
        return np.zeros(len(odds), np.float32)
    vectors = np.random.RandomState(0).randn(200_000, len(odds))
    wanted = np.asarray(odds)
    offsets = np.where(wanted > 0, 0.0, -1e9)
    for _ in range(60):  # fixed-point iteration: raise what is too rare
        found = np.bincount((vectors + offsets).argmax(1), minlength=len(odds)) / len(vectors)
        offsets = np.where(wanted > 0, offsets + (wanted - found), offsets)
    return offsets.astype(np.float32)


def values_of(z: np.ndarray) -> dict[str, np.ndarray]:
    """Decode `z` `[N, Z_DIM]` to the index `[N]` of each attribute's value, by name."""
    values, start = {}, 0
    woman = None
    for name, size in BLOCKS.items():
        block = z[:, start : start + size]
        start += size
        by_gender = np.stack([offsets_of(odds_of(name, g)) for g in ATTRIBUTES["gender"]])
        offsets = by_gender[0] if woman is None else by_gender[woman]
        values[name] = (block + offsets).argmax(1)
        if name == "gender":
            woman = values[name]
    hidden = (values["hat"] > 0) & (values["hair_style"] == MOHAWK)
    values["hair_style"] = np.where(hidden, SHORT, values["hair_style"])
    return values


def _encode(values: dict[str, np.ndarray], pose: np.ndarray) -> np.ndarray:
    parts = [np.eye(size, dtype=np.float32)[values[name]] for name, size in BLOCKS.items()]
    return np.concatenate([*parts, pose.astype(np.float32)], axis=1)


def code_of(z: np.ndarray) -> np.ndarray:
    """Decode `z` `[N, Z_DIM]` to codes `[N, CODE_DIM]`: one-hot blocks, and the pose in (−1, 1)."""
    start = sum(BLOCKS.values())
    return _encode(values_of(z), ndtr(z[:, start : start + POSE_DIM]) * 2 - 1)


def _code_of_seeds(seeds: np.ndarray) -> np.ndarray:
    faces = [vars(sample_attributes(int(seed))) for seed in seeds]
    values = {
        name: np.array(
            [f[name] if name == "clothes" else ATTRIBUTES[name].index(f[name]) for f in faces]
        )
        for name in BLOCKS
    }
    return _encode(values, np.array([sample_pose_numbers(int(seed)) for seed in seeds]))


def code_of_seeds(seeds: np.ndarray) -> np.ndarray:
    """Return codes `[N, CODE_DIM]` of the identities `seeds`, each in the pose of its seed."""
    chunks = np.array_split(seeds, max(len(seeds) // 1000, 1))
    with ProcessPoolExecutor() as pool:
        return np.concatenate(list(pool.map(_code_of_seeds, chunks)))


@cache
def _pools(odds: tuple[float, ...]) -> tuple[np.ndarray, ...]:
    """Return normal vectors `[·, len(odds)]` for each value that they decode to."""
    vectors = np.random.RandomState(1).randn(200_000, len(odds)).astype(np.float32)
    values = (vectors + offsets_of(odds)).argmax(1)
    return tuple(vectors[values == v] for v in range(len(odds)))


def z_of(codes: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Draw normal latents `[N, Z_DIM]` with `code_of(z) == codes`.

    For codes of the world's identities, the latents are standard normal.
    """
    num = len(codes)
    z, start, is_man = random.randn(num, Z_DIM).astype(np.float32), 0, codes[:, 0] == 1
    hatted = codes[:, start_of("hat")] == 0
    for name, size in BLOCKS.items():
        values = codes[:, start : start + size].argmax(1)
        for gender, chosen in (("man", is_man), ("woman", ~is_man)):
            odds = odds_of(name, gender)
            if max(odds) == 1:
                continue  # every vector decodes to the same value
            wanted = values.copy()
            if name == "hair_style":
                # Short hair under a hat may be a hidden mohawk.
                fraction = odds[MOHAWK] / (odds[MOHAWK] + odds[SHORT])
                swap = hatted & (wanted == SHORT) & (random.rand(num) < fraction)
                wanted[swap] = MOHAWK
            for value in np.unique(wanted[chosen]):
                rows = np.flatnonzero(chosen & (wanted == value))
                pool = _pools(odds)[value]
                z[rows, start : start + size] = pool[random.randint(len(pool), size=len(rows))]
        start += size
    z[:, start : start + POSE_DIM] = ndtri(
        np.clip((codes[:, start : start + POSE_DIM] + 1) / 2, 1e-5, 1 - 1e-5)
    )
    return z
