"""Features of the real images, computed once and kept on disk under what they were made from."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ops_cuda.cache import cache_dir
from sg3.data import ShardDataset, open_dataset
from sg3.data.dataset import TrainingImages
from sg3.files import atomic_path, prepare_folder
from sg3.metrics.features import FeatureNetwork
from sg3.metrics.statistics import TeamLike

PROBES = 16  # items whose pixels tell which part of its files a data set is
PROBE_SHAPE = (2, 3, 64, 64)  # pictures whose features tell one network from another
PROBE_TOLERANCE = 1e-2  # of their root mean square: rounding differs, weights differ more


@dataclass(frozen=True)
class RealImages:
    """Which real images a metric compares with; they are opened when nothing is cached."""

    key: dict
    open: Callable[[], TrainingImages]
    limit: int | None

    def open_and_count(self) -> tuple[TrainingImages, int]:
        """The images, and how many of them to use."""
        dataset = self.open()
        return dataset, len(dataset) if self.limit is None else min(len(dataset), self.limit)


def choose_real_images(dataset: TrainingImages, full: bool, limit: int | None) -> RealImages:
    """All images behind `dataset`, unmirrored, if `full`; else `dataset` as it is.

    At most `limit` of them, in order. Raises ValueError for tar shards, whose images cannot be
    asked for by number.
    """
    if isinstance(dataset, ShardDataset):
        raise ValueError(
            f"metrics: the images of {dataset.path} are tar shards, which are read as a stream; "
            "name a zip or folder of images to compare with"
        )
    key = {"files": files_key(dataset.path), "limit": limit}
    if full:
        return RealImages(key, lambda: open_dataset(str(dataset.path), cache="none"), limit)
    some = np.unique(np.linspace(0, len(dataset) - 1, PROBES).round().astype(int))
    pixels = hashlib.sha256(dataset.images(some).numpy().tobytes()).hexdigest()
    return RealImages(key | {"items": len(dataset), "pixels": pixels}, lambda: dataset, limit)


def files_key(path: str | Path) -> str:
    """SHA-256 over names, sizes and checksums of a zip's files; for a folder, whose files have
    no checksums, over their times of change.
    """
    path = Path(path)
    if path.is_dir():
        stats = ((p.relative_to(path).as_posix(), p.stat()) for p in path.rglob("*") if p.is_file())
        facts = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    else:
        with zipfile.ZipFile(path) as archive:
            facts = [(i.filename, i.file_size, i.CRC) for i in archive.infolist()]
    return hashlib.sha256(json.dumps(sorted(facts)).encode()).hexdigest()


class FeatureCache:
    """Results of `compute` by real images and feature network, on disk, for all processes alike.

    A file also holds the network's features of two fixed pictures: what was made by other weights
    under the same name is not used.
    """

    def __init__(self, images: RealImages, network: FeatureNetwork, what: str, device):
        facts = {**images.key, "network": network.name, "what": what, "format": 1}
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        self.path = cache_dir() / "metrics" / f"{digest[:32]}.safetensors"
        probes = np.random.RandomState(0).randint(0, 256, PROBE_SHAPE, dtype=np.uint8)
        with torch.no_grad():
            self._probe = network(torch.from_numpy(probes)).to("cpu", torch.float32).contiguous()
        self._device = device

    def get(
        self, compute: Callable[[], dict[str, torch.Tensor]], team: TeamLike
    ) -> dict[str, torch.Tensor]:
        """What is on disk, if every process of the team has it; else `compute()`, then kept."""
        found = self._read()
        have = team.sum_(torch.full([1], float(found is not None), device=self._device))
        if found is not None and round(float(have)) == team.size:
            return found
        found = compute()
        if team.rank == 0:
            with suppress(OSError, ValueError, SafetensorError):  # no room: computed again then
                prepare_folder(self.path.parent)
                with atomic_path(self.path) as temporary:
                    save_file({**found, "probe": self._probe}, temporary)
        return found

    def _read(self) -> dict[str, torch.Tensor] | None:
        try:
            found = load_file(self.path)
        except (OSError, SafetensorError):  # missing or damaged: made again
            return None
        probe = found.pop("probe", None)
        if probe is None or probe.shape != self._probe.shape:
            return None
        error = (probe - self._probe).square().mean().sqrt()
        same = bool(error <= PROBE_TOLERANCE * self._probe.square().mean().sqrt())
        return found if same else None
