"""Evaluate encoders on held-out identities: zero-shot accuracy and paired differences.

python -m recipes.minifaces.evaluation.encoder mini-a mini-b mini
"""

from __future__ import annotations

import json

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from guidance.encoders import Encoder, load_encoder
from guidance.encoders.mini_vocabulary import CLASSES, DOMAINS, STYLES
from recipes.arguments import argument_parser
from recipes.minifaces.encoder.batches import to_float
from recipes.minifaces.encoder.pairs import HELDOUT_BASE, HIDDEN, NAMES, Pairs, build
from recipes.minifaces.world.captions import phrasings

#: Required accuracies.
GATES = {
    "domain": 0.95,
    "style": 0.95,
    "hair_colour": 0.95,
    "hair_style": 0.95,
    "hat": 0.95,
    "glasses": 0.95,
    "mouth": 0.95,
    "background": 0.95,
    "beard": 0.90,
}
COSINE_GATE, COSINE_COUNT = 0.8, 8  # required mean cosine, and number of targets that reach it
_SOURCES = ("a face", "a picture of a face", "a portrait of a face")
_STYLE_TARGETS = {
    "sketch": ("a pencil sketch of a face", "a sketch of a face", "a pencil drawing of a face"),
    "pixel": ("pixel art of a face", "a pixelated picture of a face", "a face, pixel art"),
    "neon": ("a neon sign of a face", "a face in neon lights", "neon art of a face"),
    "sepia": ("a sepia photograph of a face", "an old sepia photo of a face", "a face, sepia"),
}


@torch.no_grad()
def embed(encoder: Encoder, images: np.ndarray, batch: int = 256) -> Tensor:
    """Embed images, uint8 [N, H, W, 3], as unit vectors [N, D]."""
    return torch.cat(
        [
            encoder.encode_images(to_float(images[i : i + batch]))
            for i in range(0, len(images), batch)
        ]
    )


@torch.no_grad()
def text_mean(encoder: Encoder, texts: list[str] | tuple[str, ...]) -> Tensor:
    """Return the normalized mean embedding [D] of several phrasings."""
    return F.normalize(encoder.encode_texts(list(texts)).mean(0), dim=0)


def attribute_accuracies(
    encoder: Encoder, images: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """Return the zero-shot accuracy of each attribute over the images that show it.

    Args:
        encoder: encoder of images and texts.
        images: uint8 [N, H, W, 3].
        labels: int8 [N, len(NAMES)].
    """
    embedded = embed(encoder, images)
    target = torch.from_numpy(np.ascontiguousarray(labels).astype(np.int64))
    out = {}
    for i, name in enumerate(NAMES):
        bank = torch.stack([text_mean(encoder, phrasings(name, value)) for value in CLASSES[name]])
        shown = target[:, i] != HIDDEN
        right = (embedded @ bank.T).argmax(1) == target[:, i]
        out[name] = round(right[shown].float().mean().item(), 4)
    return out


def paired_cosines(encoder: Encoder, data: Pairs) -> tuple[dict[str, float], dict[str, float]]:
    """Return cos(E(changed) − E(plain), T(target) − T(face)) for each domain and style.

    First the mean of the cosine over identities, then the cosine of the mean difference.
    """
    plain = embed(encoder, data.images[:, 0])
    source = text_mean(encoder, _SOURCES)
    targets = {d: tuple(phrasings("domain", d, 6)) for d in DOMAINS[1:]} | _STYLE_TARGETS
    each, of_mean = {}, {}
    for variant, name in enumerate([*DOMAINS[1:], *STYLES[1:]], start=1):
        delta = embed(encoder, data.images[:, variant]) - plain
        direction = text_mean(encoder, targets[name]) - source
        cosine = F.cosine_similarity(delta, direction[None]).mean()
        each[name] = round(cosine.item(), 4)
        of_mean[name] = round(F.cosine_similarity(delta.mean(0), direction, dim=0).item(), 4)
    return each, of_mean


def evaluate_encoder(spec: str, data: Pairs) -> dict:
    """Return accuracies and cosines of an encoder, and which requirements it misses."""
    encoder = load_encoder(spec)
    found = attribute_accuracies(
        encoder,
        data.images.reshape(-1, *data.images.shape[2:]),
        data.labels.reshape(-1, len(NAMES)),
    )
    cosines, of_mean = paired_cosines(encoder, data)
    return {
        "accuracy": found,
        "missed_gates": [name for name, gate in GATES.items() if found[name] < gate],
        "paired_cosine": cosines,
        "cosine_of_mean_difference": of_mean,
        "cosines_at_gate": sum(c >= COSINE_GATE for c in cosines.values()),
        "cosine_gate_met": sum(c >= COSINE_GATE for c in cosines.values()) >= COSINE_COUNT,
    }


def main() -> None:
    """Run the command."""
    parser = argument_parser(__doc__)
    parser.add_argument(
        "encoders", nargs="*", default=["mini-a", "mini-b", "mini"], help="names or files"
    )
    parser.add_argument("--identities", type=int, default=300, help="number of identities")
    args = parser.parse_args()
    data = build(args.identities, HELDOUT_BASE)
    print(json.dumps({spec: evaluate_encoder(spec, data) for spec in args.encoders}, indent=1))


if __name__ == "__main__":
    main()
