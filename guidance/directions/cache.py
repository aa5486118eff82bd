"""Statistics of style space on disk: bundled, cached, or resumed after an interruption."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from guidance.directions.config import RelevanceConfig
from guidance.directions.relevance import Relevance, relevance_steps
from guidance.encoders import Encoder, EnsembleEncoder, load_encoder
from guidance.encoders.open_clip import OpenClipEncoder
from guidance.generator import generator_of
from ops_cuda.cache import cache_dir
from sg3.checkpoints import Networks
from sg3.checkpoints.delta import weights_hash
from sg3.errors import DAMAGE
from sg3.files import aligned, parse_json, prepare_folder, write_tensors
from sg3.networks.generator import MappedGenerator
from sg3.progress import with_bar

FORMAT, VERSION = "sg3-relevance", "1"
TENSORS = ("mean", "std", "sums")
#: Statistics of mini-faces for the encoder `mini`.
BUNDLED = Path(__file__).resolve().parent.parent / "assets" / "relevance-mini-faces.safetensors"


def encoder_hash(encoder: Encoder) -> str | None:
    """SHA-256 of the weights of an encoder, and of the scales of an ensemble.

    None for another kind of encoder, whose weights are not accessible.
    """
    if isinstance(encoder, EnsembleEncoder):
        members = [encoder_hash(member) for member in encoder.members]
        if None in members:
            return None
        text = json.dumps([*zip(members, encoder.scales, strict=True)])
        return hashlib.sha256(text.encode()).hexdigest()
    if isinstance(encoder, OpenClipEncoder):
        return weights_hash(encoder.model)
    return weights_hash(encoder) if isinstance(encoder, nn.Module) else None


def relevance_with_cache(
    G: MappedGenerator, encoder: Encoder, config: RelevanceConfig | None = None
) -> Iterator[Relevance]:
    """`relevance_steps` with every state kept in the cache folder; yields at least once.

    Files are named by the hashes of both models' weights and the settings, so statistics are never
    used with other weights. Bundled statistics are used if they fit and have at least as many
    latents. Encoders without accessible weights are not cached.
    """
    config = config or RelevanceConfig()
    key = whose_relevance(G, encoder, config)
    path = cache_file(key) if key["encoder"] else None
    device, state = next(G.parameters()).device, None
    if path is not None:
        known = read_relevance(BUNDLED, key, device, more=True)
        state = known or read_relevance(path, key, device)
    if state is not None:
        yield state
    for step in relevance_steps(G, encoder, config, state):
        if path is not None:
            write_relevance(path, step, key)
        yield step


def whose_relevance(
    G: MappedGenerator, encoder: Encoder, config: RelevanceConfig
) -> dict[str, Any]:
    """The key of statistics: hashes of both models' weights, and the settings."""
    return {"network": weights_hash(G), "encoder": encoder_hash(encoder), **asdict(config)}


def cache_file(key: dict[str, Any]) -> Path:
    """Path of the statistics with this key; the file may not exist."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_dir() / "directions" / f"{digest[:32]}.safetensors"


def write_relevance(
    path: Path, relevance: Relevance, key: dict[str, Any], small: bool = False
) -> None:
    """Write statistics, complete or not, atomically; `small` stores the sums as float16."""
    prepare_folder(path.parent)
    content: dict[str, Any] = {"whose": key, "layers": relevance.layers}
    content |= {"images": relevance.images, "total": relevance.total}
    tensors = {name: getattr(relevance, name) for name in TENSORS}
    if small:
        tensors["sums"] = tensors["sums"].half()
    metadata = {"format": FORMAT, "version": VERSION, "content": json.dumps(content)}
    write_tensors(path, tensors, metadata)


def read_relevance(
    path: Path, key: dict[str, Any], device: torch.device | str = "cpu", more: bool = False
) -> Relevance | None:
    """Read what `write_relevance` wrote for the same key; None if missing, damaged or another's.

    `more` also accepts complete statistics of more latents.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            if (metadata.get("format"), metadata.get("version")) != (FORMAT, VERSION):
                return None
            content = parse_json(metadata["content"])
            stored_key, images = content["whose"], content["images"]
            if more and images == content["total"] >= key["images"]:
                key = {**key, "images": images}
            # The file's key went through JSON, where tuples become lists.
            if stored_key != json.loads(json.dumps(key)):
                return None
            tensors = {name: aligned(file.get_tensor(name).float()) for name in TENSORS}
    except (SafetensorError, ValueError, *DAMAGE):
        return None
    return Relevance(content["layers"], **tensors, images=images, total=content["total"])


def find_relevance(
    network: Networks | nn.Module,
    encoder: str | Encoder = "mini",
    config: RelevanceConfig | None = None,
    progress: bool = False,
) -> Relevance:
    """Complete statistics of style space: bundled, cached, or computed (minutes on a CPU).

    Args:
        network: networks of `sg3.load`, or a generator.
        encoder: what `load_encoder` takes.
        config: settings.
        progress: show a progress bar.
    """
    G, config = generator_of(network), config or RelevanceConfig()
    encoder = load_encoder(encoder, next(G.parameters()).device)
    steps = relevance_with_cache(G, encoder, config)
    return deque(with_bar(steps, config.images, "style space", progress), maxlen=1).pop()
