"""Relevance statistics on disk: bundled, found again, or gone on with after an interruption."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from guidance.directions.relevance import Relevance, RelevanceConfig, relevance_steps
from guidance.encoders import Encoder, EnsembleEncoder
from guidance.encoders.open_clip import OpenClipEncoder
from ops_cuda.cache import cache_dir
from sg3.checkpoints.delta import weights_hash
from sg3.files import aligned, prepare_folder, write_tensors

FORMAT, VERSION = "sg3-relevance", "1"
TENSORS = ("mean", "std", "sums")
#: Statistics of mini-faces seen by `mini`: a newcomer's first text takes seconds.
BUNDLED = Path(__file__).resolve().parent.parent / "assets" / "relevance-mini-faces.safetensors"


def encoder_hash(encoder: Encoder) -> str | None:
    """SHA-256 of all weights of an encoder and of the shares of an ensemble's members.

    None for an encoder of another make, of which only the name is known.
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
    G: nn.Module, encoder: Encoder, config: RelevanceConfig | None = None
) -> Iterator[Relevance]:
    """`relevance_steps`, each kept in our cache folder; yields at least once.

    The file goes by the weights of the network and the encoder and by the settings, so other
    weights never meet these statistics. An encoder without weights to look at is not cached.
    Bundled statistics are taken where they fit and are of at least as many latents.
    """
    config = config or RelevanceConfig()
    whose = whose_relevance(G, encoder, config)
    path = cache_file(whose) if whose["encoder"] else None
    device, state = next(G.parameters()).device, None
    if path is not None:
        known = read_relevance(BUNDLED, whose, device, more=True)
        state = known or read_relevance(path, whose, device)
    if state is not None:
        yield state
    for step in relevance_steps(G, encoder, config, state):
        if path is not None:
            write_relevance(path, step, whose)
        yield step


def whose_relevance(G: nn.Module, encoder: Encoder, config: RelevanceConfig) -> dict:
    """What statistics go by: hashes of both models' weights, and the settings."""
    return {"network": weights_hash(G), "encoder": encoder_hash(encoder), **asdict(config)}


def cache_file(whose: dict) -> Path:
    """Where statistics of these weights and settings lie; the file may not exist."""
    digest = hashlib.sha256(json.dumps(whose, sort_keys=True).encode()).hexdigest()
    return cache_dir() / "directions" / f"{digest[:32]}.safetensors"


def write_relevance(path: Path, relevance: Relevance, whose: dict, small: bool = False) -> None:
    """Write the statistics, finished or not, atomically; `small`: sums in half precision."""
    prepare_folder(path.parent)
    content = {"whose": whose, "layers": relevance.layers}
    content |= {"images": relevance.images, "total": relevance.total}
    tensors = {name: getattr(relevance, name) for name in TENSORS}
    if small:
        tensors["sums"] = tensors["sums"].half()
    metadata = {"format": FORMAT, "version": VERSION, "content": json.dumps(content)}
    write_tensors(path, tensors, metadata)


def read_relevance(
    path: Path, whose: dict, device: torch.device | str = "cpu", more: bool = False
) -> Relevance | None:
    """What `write_relevance` wrote for the same `whose`; None for none, or a damaged file.

    `more`: finished statistics of more latents than `whose` says will do.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            if (metadata.get("format"), metadata.get("version")) != (FORMAT, VERSION):
                return None
            content = json.loads(metadata["content"])
            theirs, images = content["whose"], content["images"]
            if more and images == content["total"] >= whose["images"]:
                whose = {**whose, "images": images}
            if theirs != json.loads(json.dumps(whose)):
                return None
            tensors = {name: aligned(file.get_tensor(name).float()) for name in TENSORS}
    except (SafetensorError, KeyError, json.JSONDecodeError):
        return None
    return Relevance(content["layers"], **tensors, images=images, total=content["total"])


def find_relevance(
    G: nn.Module, encoder: Encoder, config: RelevanceConfig | None = None
) -> Relevance:
    """The finished statistics, from the cache or computed (minutes on a processor)."""
    return deque(relevance_with_cache(G, encoder, config), maxlen=1).pop()
