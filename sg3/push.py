"""Publish a network on the Hugging Face hub, with a model card."""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from sg3.checkpoints.hub import ask_hub_once
from sg3.checkpoints.hub_files import REPOSITORY, SUFFIXES, hub_api, hub_errors
from sg3.checkpoints.load import load
from sg3.checkpoints.registry import REGISTRY
from sg3.checkpoints.snapshot_names import SNAPSHOT, last_snapshot
from sg3.errors import UserError
from sg3.generate import generate_images
from sg3.media.images import image_grid, to_uint8
from sg3.model_card import MARK, Card, make_card
from sg3.networks.generator import MappedGenerator
from sg3.push_config import PushConfig

if TYPE_CHECKING:
    from huggingface_hub import HfApi

README, SAMPLES, GRID = "README.md", "samples.png", "fakes.png"
#: Pictures on the card: seeds, columns, truncation, and the largest side of one.
SEEDS, COLUMNS, TRUNCATION, SIDE_PX = range(8), 4, 0.7, 256
#: The run's own grid is published up to this size.
MAX_GRID_BYTES = 20_000_000


@dataclass(frozen=True)
class Package:
    """The files of a repository: name → path of a file, or its content."""

    repo: str
    network: str
    files: dict[str, Path | bytes]

    @property
    def card(self) -> str:
        """The text of the card."""
        text = self.files[README]
        assert isinstance(text, bytes)
        return text.decode()


def prepare(source: str | Path, repo: str, config: PushConfig | None = None) -> Package:
    """Collect what `push` uploads: the network as it is, pictures, the card.

    Args:
        source: a network file, the folder of a run (its last snapshot), or a known name.
        repo: `OWNER/NAME`.
        config: licence and so on.

    Raises ValueError: no network, a malformed name, or a licence that nobody knows.
    """
    config = config or PushConfig()
    if not REPOSITORY.fullmatch(repo):
        raise UserError(f"repo: got {repo!r}, expected OWNER/NAME")
    path = _network_file(source)
    networks = load(path)
    known = REGISTRY.get(str(source))
    licence = config.licence or networks.meta.get("licence") or (known.licence if known else None)
    if not licence:
        raise UserError(
            f"licence: {path.name} does not say how its weights may be used; expected a name such "
            "as cc-by-4.0 or apache-2.0"
        )
    files: dict[str, Path | bytes] = {path.name: path}
    images = {SAMPLES: f"Seeds {SEEDS[0]} to {SEEDS[-1]}, truncation {TRUNCATION}."}
    files[SAMPLES] = _samples(networks.G_ema)
    run = Path(source) if Path(source).is_dir() else None
    grid = _grid_of(run, path) if run else None
    if grid is not None:
        files[GRID], images[GRID] = grid, "Images of the training run, without truncation."
    card = Card(repo, path.name, licence, config.data, images, run, path.name)
    files[README] = make_card(card, networks).encode()
    return Package(repo, path.name, files)


def require_token(repo: str) -> None:
    """Raise UserError, in one line, unless there is a token for the hub."""
    from huggingface_hub import get_token

    if not get_token():
        raise UserError(
            f"{repo}: publishing needs a token with the right to write; log in by "
            "`hf auth login`, or set HF_TOKEN"
        )


def push(package: Package, config: PushConfig | None = None) -> str:
    """Upload a package in one commit; returns its address on the web.

    A missing repository is created. A card that a person has written there is kept.

    Raises ValueError: no token, one without the right to write, or no connection.
    """
    from huggingface_hub import CommitOperationAdd

    config = config or PushConfig()
    require_token(package.repo)
    with ask_hub_once(), hub_errors(package.repo, package.repo):
        api = hub_api()
        api.create_repo(package.repo, private=config.private or None, exist_ok=True)
        files = dict(package.files)
        if _written_by_a_person(api, package.repo, config.revision):
            del files[README]
        commit = api.create_commit(
            package.repo,
            [CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message=config.message,
            revision=config.revision,
        )
    return str(commit.commit_url)


def _written_by_a_person(api: HfApi, repo: str, revision: str | None) -> bool:
    """Whether the repository has a card without our mark."""
    if README not in api.list_repo_files(repo, revision=revision):
        return False
    text = Path(api.hf_hub_download(repo, README, revision=revision)).read_text(encoding="utf-8")
    return MARK not in text and bool(re.sub(r"^---\n.*?\n---", "", text, flags=re.DOTALL).strip())


def _network_file(source: str | Path) -> Path:
    """Return the file of the network in `source`."""
    entry = REGISTRY.get(str(source))
    if entry is not None and entry.bundled is not None:
        return entry.bundled
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{source}: no such file or folder")
    if any(SNAPSHOT.fullmatch(inside.name) for inside in path.iterdir()):
        return last_snapshot(path)
    names = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and _is_network(p))
    if len(names) != 1:
        found = ", ".join(p.name for p in names) or "none"
        raise UserError(f"{source}: expected one network in the folder, found {found}; give a file")
    return names[0]


def _is_network(path: Path) -> bool:
    """Whether a file in a run's folder is a network, rather than a delta or a state."""
    if path.suffix != ".safetensors":
        return path.suffix == ".pkl"
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("format") == "sg3-networks"
    except (SafetensorError, OSError):
        return False


def _samples(G: MappedGenerator) -> bytes:
    """Return a PNG with images of the first seeds; of a network with classes one per class."""
    images = []
    for seed in SEEDS:
        label = seed % G.c_dim if G.c_dim else None
        found = next(generate_images(G, [seed], truncation_psi=TRUNCATION, class_index=label))
        images.append(_small(found.image))
    file = BytesIO()
    grid = image_grid(images, COLUMNS)
    Image.fromarray(grid.squeeze(-1) if grid.shape[-1] == 1 else grid).save(file, "PNG")
    return file.getvalue()


def _small(image: torch.Tensor | np.ndarray) -> np.ndarray:
    """Return an image as uint8 `[H, W, C]`, made smaller to `SIDE_PX` by averaging if needed."""
    array = to_uint8(image)[0] if isinstance(image, torch.Tensor) else image
    step = max(1, max(array.shape[:2]) // SIDE_PX)
    if step == 1:
        return array
    reduced = Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array).reduce(step)
    return np.asarray(reduced).reshape(reduced.height, reduced.width, -1)


def _grid_of(run: Path, snapshot: Path) -> Path | None:
    """Return the grid of images that belongs to a snapshot, or the last one of the run."""
    number = snapshot.stem.rpartition("-")[2]
    own = run / f"fakes{number}.png"
    grids = [own] if own.is_file() else sorted(run.glob("fakes[0-9]*.png"))[-1:]
    return next((grid for grid in grids if grid.stat().st_size <= MAX_GRID_BYTES), None)
