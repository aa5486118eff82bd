"""`sg3.load`: load networks from a name, file, folder or URL."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

import torch

from sg3.checkpoints.content import HEAD_BYTES, name_file
from sg3.checkpoints.download import fetch
from sg3.checkpoints.hub_files import SCHEME, fetch_from_hub, parse_hub_address
from sg3.checkpoints.layouts import Stated
from sg3.checkpoints.networks import Networks
from sg3.checkpoints.official_pickle import load_official_pickle
from sg3.checkpoints.peers import (
    check_unstated,
    is_plain_safetensors,
    load_plain_safetensors,
    load_torch_archive,
)
from sg3.checkpoints.registry import REGISTRY, Entry, find_entry
from sg3.checkpoints.safetensors_io import load_safetensors
from sg3.checkpoints.snapshot_names import last_snapshot
from sg3.checkpoints.torch_archive import LEGACY_HEAD
from sg3.errors import NetworkNote, UserError
from sg3.files import first_nonfinite, sha256_of

URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def load(
    source: str | os.PathLike,
    device: str | torch.device = "cpu",
    as_: str | None = None,
    only_ema: bool = False,
    allow_nonfinite: bool = False,
) -> Networks:
    """Load networks.

    Pickles and torch archives are parsed without running any code that they contain or name.

    Args:
        source: the name of a known network (`sg3 models` lists them), a `.safetensors` file, an
            official `.pkl` file, a `.pt` file of another tool (docs/FILES.md), the folder of a
            training run (its last snapshot), an https URL, or `hf://OWNER/NAME[/FILE][@REVISION]`
            on the Hugging Face hub. Downloads are cached.
        device: device of the networks.
        as_: what a file without constructor arguments does not tell, like
            "stylegan3-t,conv_clamp=none"; None: infer everything.
        only_ema: leave G, D and augment_pipe out, which halves time and memory.
        allow_nonfinite: load weights that are NaN or infinite, too. Their images are black.

    Returns:
        The networks, in eval mode and without gradients. `meta` holds their name, source, SHA-256,
        format and licence; of files of other tools also their layout.

    Raises:
        ValueError: unknown name, unknown format, damaged file, arguments that cannot be inferred,
            weights that are not finite, or failed download.

    Warns:
        NetworkNote: what was left out, assumed or estimated.

    Example:
        >>> import sg3, torch
        >>> nets = sg3.load("mini-faces")
        >>> images = nets.G_ema(torch.randn(4, nets.G_ema.z_dim))
        >>> images.shape
        torch.Size([4, 3, 64, 64])
    """
    stated = Stated.parse(as_)
    path, entry = locate(source)
    form = sniff(path)
    networks = _read(path, form, stated, only_ema)
    if notes := networks.meta.pop("notes", None):
        about = f"{path.name} is {networks.meta['layout']}: {'; '.join(notes)}"
        warnings.warn(about, NetworkNote, stacklevel=2)
    if networks.G_ema is None:
        raise UserError(f"{path}: has no generator G_ema")
    if not allow_nonfinite:
        _check_finite(path, networks)
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


def _check_finite(path: Path, networks: Networks) -> None:
    for part, network in networks.parts().items():
        if (name := first_nonfinite(network.state_dict())) is not None:
            raise UserError(
                f"{path}: {part}.{name} has values that are not finite (a training that diverged, "
                "or damage); `allow_nonfinite` loads it anyway"
            )


def _read(path: Path, form: str, stated: Stated, only_ema: bool) -> Networks:
    """Load the networks of a file of a known format."""
    if form == "torch archive":
        return load_torch_archive(path, stated, only_ema)
    if form == "safetensors" and is_plain_safetensors(path):
        return load_plain_safetensors(path, stated, only_ema)
    check_unstated(stated)
    reader = load_safetensors if form == "safetensors" else load_official_pickle
    return reader(path, only_ema)


def locate(source: str | os.PathLike) -> tuple[Path, Entry | None]:
    """Return the local file of `source`, downloaded if needed, and its registry entry, if any."""
    text = os.fspath(source)
    if text.startswith(SCHEME):
        return fetch_from_hub(text), None
    if URL.match(text):
        return fetch(text), None
    found = _find(text)
    return (found, None) if isinstance(found, Path) else (_file_of(found), found)


def check_source(source: str | os.PathLike) -> None:
    """Raise ValueError if `load` would refuse `source` by its name or the first bytes of its file.

    Loads and downloads nothing, for commands that have other work to do first.
    """
    text = os.fspath(source)
    if text.startswith(SCHEME):
        parse_hub_address(text)
    elif not URL.match(text) and isinstance(found := _find(text), Path):
        sniff(found)


def _find(text: str) -> Path | Entry:
    """Return the file, or the known network, that a name stands for."""
    path = Path(text).expanduser()
    if text not in REGISTRY:  # a known name takes precedence over a folder of that name
        if path.is_dir():
            return last_snapshot(path)
        if path.exists():
            return path
    if path.suffix in (".pkl", ".safetensors", ".pt", ".pth") or path.parent != Path("."):
        try:
            return find_entry(text)  # official file names are names too
        except UserError:
            raise UserError(f"{text}: no such file") from None
    return find_entry(text)


def _file_of(entry: Entry) -> Path:
    """Return the local file of a known network; raises UserError for one with another hash."""
    if entry.bundled is None and not entry.source.startswith(SCHEME):
        return fetch(entry.source, entry.sha256, entry.size_bytes)
    path = entry.bundled or fetch_from_hub(entry.source)
    if not path.exists():
        raise UserError(f"network {entry.name!r}: file {path} is missing")
    if entry.sha256 and sha256_of(path) != entry.sha256:
        raise UserError(
            f"network {entry.name!r}: SHA-256 of {path} is not {entry.sha256}, as the list of "
            "models says"
        )
    return path


def sniff(path: Path) -> str:
    """Return the format by the first bytes: "safetensors", "official pickle" or "torch archive".

    Raises ValueError for others.
    """
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise UserError(f"{path}: the file is empty")
    if head.startswith((b"PK\3\4", LEGACY_HEAD)):
        return "torch archive"
    if head[0] == 0x80 and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "official pickle"
    if len(head) > 8 and head[8:9] == b"{" and head[6:8] == b"\0\0":
        return "safetensors"
    raise UserError(
        f"{path}: expected safetensors, an official network pickle or a torch.save file, "
        f"found {name_file(head)}"
    )
