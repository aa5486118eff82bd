"""Disk cache for features of the real images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ops_cuda.cache import cache_dir
from sg3.data import ImageDataset, open_dataset
from sg3.data.base import TrainingImages
from sg3.data.listing import list_folder
from sg3.distributed.team import Team
from sg3.files import atomic_path, prepare_folder
from sg3.metrics.features import FeatureNetwork
from sg3.zip_files import open_zip

PROBES = 16  # items whose pixels identify which subset of its files a dataset is
PROBE_SHAPE = (2, 3, 64, 64)  # images whose features identify a network's weights
PROBE_TOLERANCE = 1e-2  # relative to their root mean square: rounding differs less, weights more


@dataclass(frozen=True)
class RealImages:
    """The real images of a metric.

    Attributes:
        key: identifies them in the cache.
        open: opens them; called only if their features are not cached.
        limit: maximum number of images. None: all.
    """

    key: dict[str, Any]
    open: Callable[[], TrainingImages]
    limit: int | None

    def open_and_count(self) -> tuple[TrainingImages, int]:
        """Return the dataset and the number of images to use."""
        dataset = self.open()
        return dataset, len(dataset) if self.limit is None else min(len(dataset), self.limit)


def choose_real_images(dataset: TrainingImages, full: bool, limit: int | None) -> RealImages:
    """Choose the real images to compare with.

    Args:
        dataset: the dataset.
        full: use all images in its files, without flips, instead of `dataset` as it is.
        limit: maximum number, the first ones. None: all.

    Raises ValueError for tar shards, which have no random access.
    """
    if not isinstance(dataset, ImageDataset):
        path = getattr(dataset, "path", dataset.name)
        raise ValueError(
            f"metrics: {path} consists of tar shards, which are read as a stream; use a zip or "
            "folder of images"
        )
    path = dataset.path
    key: dict[str, Any] = {"files": files_key(path), "limit": limit}
    if full:
        return RealImages(key, lambda: open_dataset(str(path), cache="none"), limit)
    # unique, because a dataset of fewer than PROBES items repeats indices.
    some = np.unique(np.linspace(0, len(dataset) - 1, PROBES).round().astype(int))
    pixels = hashlib.sha256(dataset.images(some).numpy().tobytes()).hexdigest()
    return RealImages(key | {"items": len(dataset), "pixels": pixels}, lambda: dataset, limit)


def files_key(path: str | Path) -> str:
    """Return a SHA-256 over names, sizes and checksums of the files in a zip.

    For a folder, whose files have no checksums, modification times take their place.
    """
    path = Path(path)
    if path.is_dir():
        stats = ((name, (path / name).stat()) for name in list_folder(path).names)
        facts = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    else:
        with open_zip(path) as archive:
            facts = [(i.filename, i.file_size, i.CRC) for i in archive.infolist()]
    return hashlib.sha256(json.dumps(sorted(facts)).encode()).hexdigest()


class FeatureCache:
    """One cache entry: results for these real images with this feature network.

    The file also holds the network's features of two fixed images: an entry computed with
    different weights of the same name is ignored.

    Args:
        images: the real images.
        network: the feature network.
        what: kind of result, part of the key.
        device: device for messages between processes.
    """

    def __init__(
        self, images: RealImages, network: FeatureNetwork, what: str, device: torch.device
    ):
        facts = {**images.key, "network": network.name, "what": what, "format": 2}
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        self.path = cache_dir() / "metrics" / f"{digest[:32]}.safetensors"
        probes = np.random.RandomState(0).randint(0, 256, PROBE_SHAPE, dtype=np.uint8)
        with torch.no_grad():
            self._probe = network(torch.from_numpy(probes)).to("cpu", torch.float32).contiguous()
        self._device = device

    def get(
        self, compute: Callable[[], dict[str, torch.Tensor]], team: Team
    ) -> dict[str, torch.Tensor]:
        """Return the entry if all processes can read it; else `compute()`, which is then stored."""
        found = self._read()
        # `compute` waits for the other processes: all of them must call it, or none.
        have = team.sum_(torch.full([1], float(found is not None), device=self._device))
        if found is not None and round(float(have)) == team.size:
            return found
        found = compute()
        if team.rank == 0:
            # A full disk is no failure: the result is computed again next time.
            with suppress(OSError, ValueError, SafetensorError):
                prepare_folder(self.path.parent)
                with atomic_path(self.path) as temporary:
                    save_file({**found, "probe": self._probe}, temporary)
        return found

    def _read(self) -> dict[str, torch.Tensor] | None:
        try:
            found = load_file(self.path)
        except (OSError, SafetensorError):  # missing or damaged
            return None
        probe = found.pop("probe", None)
        if probe is None or probe.shape != self._probe.shape:
            return None
        error = (probe - self._probe).square().mean().sqrt()
        same = bool(error <= PROBE_TOLERANCE * self._probe.square().mean().sqrt())
        return found if same else None
