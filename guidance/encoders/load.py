"""Loading encoders by name."""

from __future__ import annotations

import difflib
import re
from functools import lru_cache
from pathlib import Path

import torch

from guidance.encoders.base import Encoder
from guidance.encoders.ensemble import EnsembleEncoder

ASSETS = Path(__file__).resolve().parent.parent / "assets"
#: Bundled names → their files; several files are an ensemble.
#: "mini" knows the most words. "mini-smooth" knows slightly fewer, and its gradients look more like
#: the prompt, which adaptation needs.
BUNDLED = {
    "mini": ("mini-a", "mini-b"),
    "mini-smooth": ("mini-c", "mini-d"),
    "mini-a": ("mini-a",),
    "mini-b": ("mini-b",),
    "mini-c": ("mini-c",),
    "mini-d": ("mini-d",),
}
PUBLIC = ("mini", "mini-smooth")  # the others are their members
WEIGHTED = re.compile(r"^(.+):(\d+(?:\.\d*)?|\.\d+)$")


def load_encoder(spec: str | Encoder, device: str | torch.device = "cpu") -> Encoder:
    """Load an encoder, frozen, on `device`.

    Args:
        spec: a bundled name ("mini", "mini-smooth"), the file of a mini encoder
            ("PATH.safetensors"), an open_clip model ("NAME", "NAME/TAG", "NAME/PATH"), several of
            these with optional weights ("ViT-B-32/openai:2,ViT-B-16/openai"), or an `Encoder`,
            which is returned as it is.
        device: where to run it.

    Raises ValueError, in one line, for anything else.

    Example:
        >>> import guidance
        >>> encoder = guidance.load_encoder("mini")
        >>> list(encoder.encode_texts(["a red hat", "a blue hat"]).shape)
        [2, 384]
    """
    if not isinstance(spec, str):
        if isinstance(spec, Encoder):
            return spec
        raise ValueError(f"encoder: got {type(spec).__name__}, expected a name or an Encoder")
    named = _parts(spec)
    members = [_load_one(name, str(device)) for name, _ in named]
    weights = [weight for _, weight in named]
    return members[0] if len(members) == 1 else EnsembleEncoder(members, weights)


def _parts(spec: str) -> list[tuple[str, float]]:
    """Names and weights of the encoders in `spec`, which are separated by commas."""
    parts = [part.strip() for part in spec.split(",")]
    if not all(parts):
        raise ValueError(f"encoder: got {spec!r}, expected a name such as mini or ViT-B-32/openai")
    matches = [(part, WEIGHTED.match(part)) for part in parts]
    return [(m[1], float(m[2])) if m else (part, 1.0) for part, m in matches]


def is_mini(spec: str | Encoder) -> bool:
    """Whether all encoders of `spec`, as for `load_encoder`, are mini encoders."""
    if isinstance(spec, str):
        return all(name in BUNDLED or _is_mini_file(name) for name, _ in _parts(spec))
    from guidance.encoders.mini import MiniEncoder

    members = spec.members if isinstance(spec, EnsembleEncoder) else [spec]
    return all(isinstance(member, MiniEncoder) for member in members)


def _is_mini_file(name: str) -> bool:
    return name.endswith(".safetensors") and Path(name).is_file()


def _load_one(name: str, device: str) -> Encoder:
    if name in BUNDLED:
        return _load_bundled(name, device)
    if _is_mini_file(name):
        return _load_mini(Path(name), device)
    # Only now: importing the open_clip package takes seconds.
    from guidance.encoders.open_clip import list_models, load_open_clip, split_spec

    found = split_spec(name)
    if found is None:
        known = [*PUBLIC, *list_models()]
        lower = {item.lower(): item for item in known}
        near = difflib.get_close_matches(name.split("/")[0].lower(), lower, n=3, cutoff=0.4)
        hint = f"; nearest: {', '.join(lower[item] for item in near)}" if near else ""
        raise ValueError(
            f"encoder: unknown name {name!r}, expected mini, mini-smooth or an open_clip"
            f" model such as ViT-B-32/openai{hint}"
        )
    return load_open_clip(*found, device)


@lru_cache(maxsize=6)
def _load_bundled(name: str, device: str) -> Encoder:
    """Load a bundled encoder; they are small and used often, so they stay in memory."""
    members = [_load_mini(ASSETS / f"{stem}.safetensors", device) for stem in BUNDLED[name]]
    return members[0] if len(members) == 1 else EnsembleEncoder(members, shares_views=True)


def _load_mini(path: Path, device: str) -> Encoder:
    from guidance.encoders.mini import MiniEncoder

    if not path.is_file():
        raise ValueError(f"encoder: {path} is missing; reinstall the package")
    return MiniEncoder.load(path, device, name=path.stem)
