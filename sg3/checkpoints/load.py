"""`sg3.load`: a name, a path, a folder or an address to networks."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

from sg3.checkpoints.download import fetch
from sg3.checkpoints.networks import Networks
from sg3.checkpoints.official_pickle import load_official_pickle
from sg3.checkpoints.registry import REGISTRY, Entry, find_entry
from sg3.checkpoints.safetensors_io import load_safetensors
from sg3.errors import UserError
from sg3.files import sha256_of

SNAPSHOT = re.compile(r"network-(?:snapshot-)?(\d+)\.(safetensors|pkl)")


def load(source: str | os.PathLike, device: str | torch.device = "cpu") -> Networks:
    """Networks of `source`: a name (`sg3 models` lists them), a `.safetensors` or official
    `.pkl` file, a training run's folder (its last snapshot), or an https address.

    Modules are in eval mode without gradients; `meta` says where they come from. Raises UserError
    in one line for an unknown name (with the nearest ones), a file of another format, a damaged
    file, or a download that fails.
    """
    path, entry = locate(source)
    form = sniff(path)
    networks = load_safetensors(path) if form == "safetensors" else load_official_pickle(path)
    if networks.G_ema is None:
        raise UserError(f"{path}: holds no generator G_ema")
    networks.meta = {
        **networks.meta,
        "name": entry.name if entry else path.stem,
        "source": entry.source if entry else str(source),
        "sha256": sha256_of(path),
        "format": form,
    }
    if entry:
        networks.meta["licence"] = entry.licence
    return networks.to(device)


def locate(source: str | os.PathLike) -> tuple[Path, Entry | None]:
    """The local file for `source`, downloaded if need be, and its registry entry if it has one."""
    text = os.fspath(source)
    if re.match(r"[a-z][a-z0-9+.-]*://", text, re.IGNORECASE):
        return fetch(text), None
    path = Path(text).expanduser()
    if text not in REGISTRY:  # a known name means the network, even beside a folder called so
        if path.is_dir():
            return last_snapshot(path), None
        if path.exists():
            return path, None
    if path.suffix in (".pkl", ".safetensors", ".pt", ".pth") or path.parent != Path("."):
        try:
            entry = find_entry(text)  # official file names are names too
        except UserError:
            raise UserError(f"{text}: no such file") from None
    else:
        entry = find_entry(text)
    if entry.bundled is not None:
        if not entry.bundled.exists():
            raise UserError(f"network {entry.name!r}: its file {entry.bundled} is not installed")
        return entry.bundled, entry
    return fetch(entry.source, entry.sha256, entry.size_bytes), entry


def last_snapshot(folder: Path) -> Path:
    """The newest `network-KIMG.safetensors`, or `network-snapshot-KIMG.pkl`, of a run."""
    found = [(int(m[1]), m[2] == "safetensors", p) for p in folder.iterdir() if (m := _named(p))]
    if not found:
        raise UserError(f"{folder}: a folder without network-KIMG.safetensors")
    return max(found)[2]


def _named(path: Path) -> re.Match | None:
    return SNAPSHOT.fullmatch(path.name)


def sniff(path: Path) -> str:
    """'safetensors' or 'official pickle', by the first bytes. Raises UserError for the rest."""
    with open(path, "rb") as file:
        head = file.read(16)
    if not head:
        raise UserError(f"{path}: the file is empty")
    if head[0] == 0x80 and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "official pickle"
    if len(head) > 8 and head[8:9] == b"{" and head[6:8] == b"\0\0":
        return "safetensors"
    met = "a zip archive, as torch.save writes" if head[:2] == b"PK" else "something else"
    if head.lstrip()[:1] == b"<":
        met = "a web page"
    raise UserError(f"{path}: expected safetensors or an official network pickle, found {met}")
