"""One metric of one generator, by name, in one process or many."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from sg3.data.dataset import TrainingImages
from sg3.metrics import equivariance
from sg3.metrics.cmmd import gaussian_discrepancy
from sg3.metrics.detectors import InceptionFeatures
from sg3.metrics.features import FeatureNetwork, load_features, load_perception
from sg3.metrics.frechet import frechet_from_statistics
from sg3.metrics.inception_score import inception_score
from sg3.metrics.kid import kernel_distance
from sg3.metrics.path_length import Perception, path_lengths, trimmed_mean
from sg3.metrics.precision_recall import precision_recall
from sg3.metrics.real import FeatureCache, choose_real_images
from sg3.metrics.registry import Metric, parse_name
from sg3.metrics.sampling import generated_images, in_batches, real_images
from sg3.metrics.statistics import (
    AllFeatures,
    Moments,
    Progress,
    TeamLike,
    collect,
    precise_device,
)

EQUIVARIANCE = ("eqt_int", "eqt_frac", "eqr")


def evaluate(
    name: str,
    G_ema: torch.nn.Module,
    dataset: TrainingImages | None,
    *,
    team: TeamLike | None = None,
    features: str | FeatureNetwork | Perception | None = None,
    batch: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict:
    """Measure `G_ema`, on the device where it is, by the metric `name` (`registry`).

    Every process of a `team` calls this alike, takes its share and gets the same answer, which
    depends on neither `batch` (images per pass of the feature network) nor the number of
    processes beyond rounding. `dataset` holds the real images and gives labels; None will do for
    metrics that need neither. `features` (a name for `load_features`, or a network) stands in for
    the official ones where the name tells none; the result's name then does.

    Returns "results" (value by name), "metric", "features", "num_real" (0 without real images),
    "num_generated", "total_time" in seconds, "num_gpus" (processes) and "peak_memory_mb" of this
    process ("cpu", resident since it began; "cuda", allocated). Raises ValueError in one
    line for an unknown name, data that do not fit, or features that cannot be had.
    """
    started = time.time()
    if team is None:
        from sg3.distributed.team import Team  # late: training itself calls this module

        team = Team()
    by_name = features is None or isinstance(features, str)
    metric = parse_name(name, features if by_name else None)
    check_fit(metric, G_ema, dataset)
    run = _Run(metric, G_ema, dataset, team, batch, seed, progress or (lambda *_: None))
    if metric.kind in EQUIVARIANCE:
        found, full_name, through = run.equivariance(), metric.name(), None
    elif metric.kind.startswith("ppl"):
        perception = load_perception(metric.features, run.device) if by_name else features
        found, through = run.path_length(perception), metric.features if by_name else features.name
        full_name = metric.name(through)
    else:
        network = load_features(metric.features, run.device) if by_name else features
        found, full_name, through = run.measure(network), metric.name(network.name), network.name
    return {
        "results": {full_name + suffix: value for suffix, value in found.values.items()},
        "metric": full_name,
        "features": through,
        "num_real": found.num_real,
        "num_generated": metric.num,
        "total_time": round(time.time() - started, 3),
        "num_gpus": team.size,
        "peak_memory_mb": peak_memory_mb(run.device),
    }


def peak_memory_mb(device: torch.device) -> dict[str, int]:
    """The most memory that this process has held: resident ("cpu"), and on a GPU ("cuda")."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    found = {"cpu": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20)}
    if device.type == "cuda":
        found["cuda"] = round(torch.cuda.max_memory_allocated(device) / 2**20)
    return found


def check_fit(metric: Metric, G: torch.nn.Module, dataset: TrainingImages | None) -> None:
    """Raise ValueError, in one line, if `G` and `dataset` do not belong together."""
    if metric.kind in EQUIVARIANCE:
        equivariance.check_movable(G)
    if dataset is None:
        if metric.needs_real_images or G.c_dim:
            need = "real images" if metric.needs_real_images else "labels for this network"
            raise ValueError(f"metrics: {metric.name(metric.features)} needs {need}; give --data")
        return
    shape = (G.img_channels, G.img_height, G.img_width)
    if metric.needs_real_images and tuple(dataset.image_shape) != shape:
        c, h, w = dataset.image_shape
        raise ValueError(
            f"data: images are {w}x{h} with {c} channels, but this network makes {shape[2]}x"
            f"{shape[1]} with {shape[0]}; prepare them with: sg3 dataset"
        )
    if G.c_dim and dataset.label_dim != G.c_dim:
        raise ValueError(
            f"data: labels have {dataset.label_dim} numbers, but this network takes {G.c_dim}"
        )


@dataclass(frozen=True)
class Found:
    """Values by what is appended to the metric's name, and how many real images they saw."""

    values: dict[str, float]
    num_real: int = 0


@dataclass(frozen=True)
class _Run:
    """One evaluation."""

    metric: Metric
    G: torch.nn.Module
    dataset: TrainingImages | None
    team: TeamLike
    batch: int
    seed: int
    progress: Progress

    @property
    def device(self) -> torch.device:
        return next(self.G.parameters()).device

    def measure(self, network: FeatureNetwork) -> Found:
        """What needs features."""
        if self.metric.kind == "is":
            return self._inception_score(network)
        keep = Moments if self.metric.kind == "fid" else AllFeatures
        real = self._real(network, keep)
        fake = self._generated(network, network.dim, keep)
        num_real = int(real.pop("num"))
        if self.metric.kind == "fid":
            statistics = (x[k].numpy() for x in (fake, real) for k in ("mean", "covariance"))
            return Found({"": frechet_from_statistics(*statistics)}, num_real)
        pair = real["features"], fake["features"]
        if self.metric.kind == "cmmd":
            return Found(
                {"": gaussian_discrepancy(*pair, device=precise_device(self.device))}, num_real
            )
        if self.metric.kind == "kid":
            return Found({"": kernel_distance(*pair, device=self.device)}, num_real)
        shares = precision_recall(*pair, self.metric.neighbour, device=self.device)
        return Found({"_precision": shares[0], "_recall": shares[1]}, num_real)

    def _inception_score(self, network: FeatureNetwork) -> Found:
        if not isinstance(network, InceptionFeatures):
            raise ValueError(f"metrics: is needs the classes of Inception, got {network.name}")
        classes = network.network.fc.out_features
        found = self._generated(network.probabilities, classes, AllFeatures)
        mean, std = inception_score(found["features"])
        return Found({"_mean": mean, "_std": std})

    def _generated(
        self, function: Callable, dim: int, keep: type[Moments] | type[AllFeatures]
    ) -> dict[str, torch.Tensor]:
        num, team = self.metric.num, self.team
        source = generated_images(self.G, self.dataset, num, self.seed, team.rank, team.size)
        into = keep(dim, num, self.device)
        batches = in_batches(source, self.batch)
        return collect("generated images", batches, function, into, team, num, self.progress)

    def _real(
        self, network: FeatureNetwork, keep: type[Moments] | type[AllFeatures]
    ) -> dict[str, torch.Tensor]:
        team = self.team
        images = choose_real_images(self.dataset, self.metric.full, self.metric.max_real)

        def compute() -> dict[str, torch.Tensor]:
            dataset, num = images.open_and_count()
            source = real_images(dataset, num, self.batch, team.rank, team.size)
            into = keep(network.dim, num, self.device)
            found = collect("real images", source, network, into, team, num, self.progress)
            return {**found, "num": torch.tensor(num)}

        return FeatureCache(images, network, keep.__name__, self.device).get(compute, team)

    def path_length(self, perception: Perception) -> Found:
        """How far pictures move along a small step of the latent."""
        num, team, (_, space_and_end) = self.metric.num, self.team, self.metric.kind.split("_")
        values = torch.zeros([num], dtype=torch.float64, device=precise_device(self.device))
        done, share = 0, -(-num // team.size)
        settings = (num, self.seed, space_and_end[0], space_and_end[1:], team.rank, team.size)
        for rows, some in path_lengths(self.G, perception, self.dataset, *settings):
            values[torch.from_numpy(rows)] = some.to(values.device)
            done += len(rows)
            self.progress("paths", min(done, share), share)
        values = team.sum_(values).cpu()
        if not bool(values.isfinite().all()):
            raise ValueError("metrics: path lengths contain NaN or infinity")
        return Found({"": trimmed_mean(values.numpy())})

    def equivariance(self) -> Found:
        """What moves the input."""
        num, team = self.metric.num, self.team
        sums = torch.zeros([2], dtype=torch.float64, device=precise_device(self.device))
        done, share = 0, -(-num // team.size)
        for draw in equivariance.draws(self.G, self.dataset, num, self.seed, team.rank, team.size):
            sums += equivariance.squared_errors(self.G, draw, self.metric.kind)
            done += len(draw.z)
            self.progress("moved images", min(done, share), share)
        error, count = team.sum_(sums).tolist()
        if not error < float("inf"):
            raise ValueError("metrics: the network's images contain NaN or infinity")
        return Found({"": equivariance.psnr(error, count)})


def write_result(result: dict, folder: str | Path, snapshot: str | None = None) -> Path:
    """Append `result` of `evaluate` to `metric-NAME.jsonl` in `folder`, as the official tools do.

    `snapshot` is the network's file. Returns the path; to be called by one process only.
    """
    path = Path(folder) / f"metric-{result['metric']}.jsonl"
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps({**result, "snapshot": snapshot, "timestamp": time.time()}) + "\n")
    return path
