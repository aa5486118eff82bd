"""Make a generator of attribute codes take normal latents, by constructing a mapping network.

    python -m recipes.minifaces.generator.distil --network sharp.safetensors --out mini.safetensors

`latents.code_of` decodes a normal z to a code: the largest coordinate of each block is the value of
an attribute. This module writes that function down as two layers of a mapping network (one
ReLU per pair of coordinates of a block, then one per value) and appends the original mapping from
codes to w. Nothing is trained: a network trained to do this left half of the variance of w
unexplained (docs/LOG.md).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import sg3
from guidance.encoders.mini_vocabulary import ATTRIBUTES
from recipes.arguments import argument_parser
from recipes.minifaces.generator.latents import (
    BLOCKS,
    CODE_DIM,
    MOHAWK,
    POSE_DIM,
    SHORT,
    Z_DIM,
    code_of,
    odds_of,
    offsets_of,
    start_of,
)
from sg3.checkpoints import Networks
from sg3.networks import build_network

#: Coordinates closer than 1/SHARPNESS give a blend of two values: the mapping is continuous.
SHARPNESS = 12.0
GAIN, SLOPE = 2**0.5, 0.2  # of the leaky ReLU of mapping networks


class Rectifiers:
    """A layer of units relu(row·input + bias), built from the leaky ReLUs of a mapping network."""

    def __init__(self) -> None:
        self.rows: list[np.ndarray] = []
        self.biases: list[float] = []

    def add(self, row: np.ndarray, bias: float) -> int:
        """Add a unit `relu(row·input + bias)`; returns its index."""
        self.rows.append(row)
        self.biases.append(bias)
        return len(self.rows) - 1

    def layer(self) -> tuple[np.ndarray, np.ndarray]:
        """Return weight `[2K, inputs]` and bias `[2K]`: every unit and its negative."""
        rows, biases = np.stack(self.rows), np.array(self.biases)
        return np.concatenate([rows, -rows]), np.concatenate([biases, -biases])

    def read(self) -> np.ndarray:
        """Return the matrix `[K, 2K]` from the 2K leaky outputs to the K rectified ones."""
        one = np.eye(len(self.rows))
        # leaky(x) + slope·leaky(−x) is (1 − slope²)·relu(x).
        return np.concatenate([one, SLOPE * one], axis=1) / ((1 - SLOPE**2) * GAIN)


def pair_layer() -> tuple[Rectifiers, dict]:
    """Return layer 1: by how much coordinate j of a block exceeds coordinate i, for all pairs.

    Also returns the units by attribute and gender: `beats[name, gender][i, j]`.
    """
    layer, beats = Rectifiers(), {}
    for name, size in BLOCKS.items():
        genders = ATTRIBUTES["gender"] if name == "hair_style" else ATTRIBUTES["gender"][:1]
        for gender in genders:
            offsets = offsets_of(odds_of(name, gender))
            units = beats[name, gender] = {}
            for i in range(size):
                for j in range(size):
                    if i == j:
                        continue
                    row = np.zeros(Z_DIM)
                    row[start_of(name) + i], row[start_of(name) + j] = -SHARPNESS, SHARPNESS
                    # Large offsets mean "never"; they must fit float16.
                    ahead = float(np.clip(offsets[i] - offsets[j], -20, 20))
                    units[i, j] = layer.add(row, 0.5 - SHARPNESS * ahead)
    return layer, beats


def _nothing_beats(beats: dict, name: str, gender: str, value: int, num_units: int) -> np.ndarray:
    """Return a row of layer 2: 0 where `value` is the largest of its block, negative elsewhere."""
    row = np.zeros(num_units)
    for (i, _), unit in beats[name, gender].items():
        row[unit] -= i == value
    return row


def value_layer(pairs: Rectifiers, beats: dict) -> tuple[Rectifiers, np.ndarray]:
    """Return layer 2, and the matrix `[CODE_DIM, K]` from its units to codes without pose."""
    k = len(pairs.rows)
    layer, columns = Rectifiers(), []

    def unit(row: np.ndarray, coordinates: dict[int, float]) -> None:
        layer.add(row, 1.0)
        column = np.zeros(CODE_DIM)
        for coordinate, factor in coordinates.items():
            column[coordinate] = factor
        columns.append(column)

    man, woman = (_nothing_beats(beats, "gender", "man", v, k) for v in range(2))
    no_hat = _nothing_beats(beats, "hat", "man", 0, k)
    for name, size in BLOCKS.items():
        first = start_of(name)
        for value in range(size):
            own = _nothing_beats(beats, name, "man", value, k)
            if name == "hair_style":
                for gender, condition in zip(ATTRIBUTES["gender"], (man, woman), strict=True):
                    own = _nothing_beats(beats, name, gender, value, k) + condition
                    unit(own, {first + (SHORT if value == MOHAWK else value): 1.0})
                    if value == MOHAWK:  # under a hat it becomes short hair
                        unit(own + no_hat, {first + MOHAWK: 1.0, first + SHORT: -1.0})
            elif name == "beard":
                unit(own + man, {first + value: 1.0})
            else:
                unit(own, {first + value: 1.0})
    unit(woman, {start_of("beard"): 1.0})
    return layer, np.stack(columns, axis=1)


def mapping_layers(codes_to_w: nn.Module) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return effective weights and biases of the layers from normal latents to w."""
    pairs, beats = pair_layer()
    values, decode = value_layer(pairs, beats)
    weight, bias = pairs.layer()
    pose = np.eye(Z_DIM)[start_of("pose") : start_of("pose") + POSE_DIM]
    layers = [(np.concatenate([weight, pose, -pose]), np.concatenate([bias, np.zeros(8)]))]
    keep = np.concatenate([np.eye(POSE_DIM), -np.eye(POSE_DIM)], axis=1) / ((1 + SLOPE) * GAIN)

    # Layer 2: values, and the pose clipped to ±1, which approximates the normal CDF 2·Φ(x) − 1.
    weight, bias = values.layer()
    weight = weight @ pairs.read()
    num_pairs, num_values = 2 * len(pairs.rows), 2 * len(values.rows)
    bends = np.concatenate([keep, -keep, keep, -keep]) * POSE_STEEPNESS
    offset = np.repeat([1.0, -1.0, -1.0, 1.0], POSE_DIM)
    full = np.zeros([num_values + 4 * POSE_DIM, num_pairs + 2 * POSE_DIM])
    full[:num_values, :num_pairs], full[num_values:, num_pairs:] = weight, bends
    layers.append((full, np.concatenate([bias, offset])))

    # Codes are linear in these units, so they merge with the first layer of the original mapping.
    to_code = np.zeros([CODE_DIM, full.shape[0]])
    to_code[:, :num_values] = decode @ values.read()
    one = np.eye(POSE_DIM) / ((1 - SLOPE**2) * GAIN)
    clipped = np.concatenate([one, SLOPE * one, -one, -SLOPE * one], axis=1)
    to_code[-POSE_DIM:, num_values:] = clipped
    shift = np.zeros(CODE_DIM)
    shift[-POSE_DIM:] = -1.0
    # The original mapping normalizes the second moment of its input: the factor on average.
    scale = (CODE_DIM / (len(BLOCKS) + POSE_DIM / 3)) ** 0.5
    for index in range(codes_to_w.num_layers):
        fc = getattr(codes_to_w, f"fc{index}")
        weight = fc.weight.detach().double().numpy() * fc.weight_gain
        bias = fc.bias.detach().double().numpy() * fc.bias_gain
        if index == 0:
            weight, bias = weight @ to_code * scale, bias + weight @ shift * scale
        layers.append((weight, bias))
    return layers


#: Slope of the clipped line that is closest to 2·Φ(x) − 1 on average.
POSE_STEEPNESS = 0.68


def distil(teacher: nn.Module) -> nn.Module:
    """Return a generator of normal latents with the weights of `teacher`, a generator of codes."""
    layers = mapping_layers(teacher.mapping)
    features = max(len(bias) for _, bias in layers[:-1])
    mapping = {"num_layers": len(layers), "layer_features": features}
    G = build_network(teacher.kind, dict(teacher.init_kwargs, z_dim=Z_DIM, mapping_kwargs=mapping))
    G.synthesis.load_state_dict(teacher.synthesis.state_dict())
    with torch.no_grad():
        for index, (weight, bias) in enumerate(layers):
            fc = getattr(G.mapping, f"fc{index}")
            fc.weight.zero_(), fc.bias.zero_()
            rows, columns = weight.shape
            fc.weight[:rows, :columns] = torch.from_numpy(weight) / fc.weight_gain
            fc.bias[:rows] = torch.from_numpy(bias) / fc.bias_gain
        G.eval().requires_grad_(False)
        z = torch.from_numpy(np.random.RandomState(0).randn(20_000, Z_DIM))
        G.mapping.w_avg.copy_(G.mapping(z)[:, 0].mean(0))
    return G


def unexplained(teacher: nn.Module, student: nn.Module, num: int = 5000) -> float:
    """Return the fraction of the variance of w in which the student differs from the teacher."""
    z = np.random.RandomState(1).randn(num, Z_DIM).astype(np.float32)
    with torch.no_grad():
        target = teacher.mapping(torch.from_numpy(code_of(z)))[:, 0]
        w = student.mapping(torch.from_numpy(z))[:, 0]
    return float((w - target).square().mean() / target.var(0).mean())


def main() -> None:
    """Run the command."""
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--network", required=True, help="network of recipes.minifaces.generator.pretrain"
    )
    parser.add_argument("--out", required=True, help="network file to write (.safetensors)")
    args = parser.parse_args()
    networks = sg3.load(args.network)
    G = distil(networks.G_ema)
    error = unexplained(networks.G_ema, G)
    meta = {**networks.meta, "unexplained_share_of_w": round(error, 4)}
    sg3.save(Networks(G=G, D=networks.D, G_ema=G, meta=meta), args.out)
    print(f"{args.out}: unexplained fraction of the variance of w {error:.4f}")


if __name__ == "__main__":
    main()
