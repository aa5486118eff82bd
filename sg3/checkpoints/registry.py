"""Networks known by name: bundled ones, the public StyleGAN3 and StyleGAN2 releases, and the
user's own (`sg3.checkpoints.user_models`)."""

from __future__ import annotations

import difflib
import re

from sg3.checkpoints.entry import ASSETS as ASSETS
from sg3.checkpoints.entry import Entry as Entry
from sg3.checkpoints.user_models import read_user_models
from sg3.errors import UserError

NGC = "https://api.ngc.nvidia.com/v2/models/nvidia/research/{}/versions/1/files/"
STYLEGAN3_URL, STYLEGAN2_URL = NGC.format("stylegan3"), NGC.format("stylegan2")
ADA_URL = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/"
NVIDIA_LICENCE = "NVIDIA, non-commercial (see the model's page)"
BUNDLED_LICENCE = "Apache-2.0"

STYLEGAN3_DATA = (
    [(kind, data, 1024) for kind in "tr" for data in ("ffhq", "ffhqu", "metfaces", "metfacesu")]
    + [(kind, "ffhqu", 256) for kind in "tr"]
    + [(kind, "afhqv2", 512) for kind in "tr"]
)
STYLEGAN2_DATA = [
    ("ffhq", 1024),
    ("ffhq", 512),
    ("ffhq", 256),
    ("ffhqu", 1024),
    ("ffhqu", 256),
    ("metfaces", 1024),
    ("metfacesu", 1024),
    ("afhqv2", 512),
    ("afhqcat", 512),
    ("afhqdog", 512),
    ("afhqwild", 512),
    ("brecahad", 512),
    ("cifar10", 32),
    ("celebahq", 256),
    ("lsundog", 256),
]
ADA_DATA = [
    ("ffhq", 1024),
    ("metfaces", 1024),
    ("afhqcat", 512),
    ("afhqdog", 512),
    ("afhqwild", 512),
    ("brecahad", 512),
    ("cifar10", 32),
]
#: Name → file of the folder transfer-learning-source-nets, resolution.
ADA_SOURCE_DATA = {
    "ada-source-ffhq-256": ("ffhq-res256-mirror-paper256-noaug", 256),
    "ada-source-ffhq-512": ("ffhq-res512-mirror-stylegan2-noaug", 512),
    "ada-source-ffhq-1024": ("ffhq-res1024-mirror-stylegan2-noaug", 1024),
    "ada-source-celebahq-256": (
        "celebahq-res256-mirror-paper256-kimg100000-ada-target0.5",
        256,
    ),
    "ada-source-lsundog-256": ("lsundog-res256-paper256-kimg100000-noaug", 256),
}


def _entries() -> list[Entry]:
    entries = [
        Entry(name, f"{name}.safetensors", 64, BUNDLED_LICENCE)
        for name in ("mini-faces", "mini-faces-r", "mini-faces-stylegan2")
    ]
    entries.append(Entry("fashion-32", "fashion-32.safetensors", 32, BUNDLED_LICENCE))

    def add(name: str, url: str, size: int) -> None:
        entries.append(Entry(name, url, size, NVIDIA_LICENCE))

    for kind, data, size in STYLEGAN3_DATA:
        name = f"stylegan3-{kind}-{data}-{size}"
        add(name, f"{STYLEGAN3_URL}{name}x{size}.pkl", size)
    for data, size in STYLEGAN2_DATA:
        name = f"stylegan2-{data}-{size}"
        add(name, f"{STYLEGAN2_URL}{name}x{size}.pkl", size)
    for data, size in ADA_DATA:
        add(f"ada-{data}-{size}", f"{ADA_URL}{data}.pkl", size)
    for name, (file, size) in ADA_SOURCE_DATA.items():
        add(name, f"{ADA_URL}transfer-learning-source-nets/{file}.pkl", size)
    return entries


#: All known networks by name, in the order of `sg3 models`.
REGISTRY: dict[str, Entry] = {entry.name: entry for entry in _entries()}


def known_networks() -> dict[str, Entry]:
    """Return all networks by name: `REGISTRY`, then those of the user's file.

    Raises ValueError if that file is malformed.
    """
    return {**REGISTRY, **read_user_models(taken=REGISTRY)}


def find_entry(name: str) -> Entry:
    """Return the entry of a name or an official file name.

    Raises ValueError with the nearest names for an unknown one.
    """
    key = re.sub(r"x\d+$", "", name.strip().lower().removesuffix(".pkl"))
    if key in REGISTRY:
        return REGISTRY[key]
    known = known_networks()
    if name.strip() in known:
        return known[name.strip()]
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    hint = f"nearest names: {', '.join(near)}" if near else "`sg3 models` lists the names"
    raise UserError(f"network {name!r}: neither a known name nor a file; {hint}")
