"""Dataset of tar shards, for data larger than a disk: streamed, never listed."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sg3.data.base import Indices, TrainingImages
from sg3.data.decoding import DamagedImage, decode
from sg3.data.labels import MAX_CLASSES
from sg3.data.tar_stream import Sample, expand, read_index, read_shard
from sg3.files import atomic_path, write_text
from sg3.progress import with_bar

EXAMPLES = 1000  # samples of the first shards that are kept in memory
EXAMPLE_BYTES = 256 << 20
BUFFER_BYTES = 256 << 20  # size of the shuffle buffer, within
BUFFER = (64, 4000)  # its minimum and maximum number of samples


class ShardDataset(TrainingImages):
    """Images uint8 `[C, H, W]` in tar shards (layout: `sg3.data.tar_stream`).

    Only examples, the first usable samples of the first shards, have an index; `len` counts
    those. They serve image grids and labels for the generator. Training reads all samples through
    a `ShardLoader`. Samples that are damaged, have a different size or lack a required label are
    skipped and listed in `skipped` once they are read.

    Args:
        path: a folder with `*.tar`, a pattern `shards-{000..063}.tar`, or a URL like it:
            http(s), or what fsspec opens, such as s3://bucket/shards-{000..063}.tar.
        use_labels: read labels; otherwise the label dimension is 0.
        xflip: flip each sample horizontally with probability 1/2.
        yflip: flip each sample vertically with probability 1/2.
        random_seed: random seed for the flips of the examples.

    An `index.json` next to the shards can list the number of samples per shard ("shardlist" with
    "url" and "nsamples", as the package `wids` writes it), so that a resumed run opens only the
    shards it needs. It can also hold "label_dim" and "classes"; without it, the label dimension
    is that of the examples.

    Raises ValueError for shards that are missing or contain nothing usable.
    """

    def __init__(
        self,
        path: str | Path,
        use_labels: bool = False,
        xflip: bool = False,
        yflip: bool = False,
        random_seed: int = 0,
    ):
        super().__init__(_plain_name(str(path)))
        self.path, self.xflip, self.yflip = str(path), xflip, yflip
        self.urls = expand(path)
        index = read_index(path)
        self.counts = self._counts(index)
        self.use_labels = use_labels
        self._examples = self._read_examples()
        self.image_shape = _shape(decode(self._examples[0].encoded))
        self._label_dim = self._find_label_dim(index) if use_labels else 0
        if not use_labels and any(sample.label is not None for sample in self._examples):
            with suppress(ValueError):  # a malformed index does not matter without labels
                self.unused_labels = self._kind(), self._find_label_dim(index)
        classes = index.get("classes")
        self.class_names = classes if use_labels and isinstance(classes, list) else None
        self._keep_usable()
        sizes = [len(sample.encoded) for sample in self._examples]
        self.buffer = int(np.clip(BUFFER_BYTES // np.mean(sizes), *BUFFER))
        random = np.random.RandomState(random_seed)
        self._flips = (random.randint(2, size=[len(self), 2]) > 0) & [xflip, yflip]

    @property
    def num_images(self) -> int | None:
        """Number of samples in all shards, if an index lists it."""
        return None if self.counts is None else sum(self.counts)

    def describe(self) -> str:
        """Return the size in words: `1281167 images in 64 shards`."""
        labels = self._labels_in_words()
        if self.num_images is None:
            return f"{len(self.urls)} shards{labels}"
        return f"{self.num_images} images{labels} in {len(self.urls)} shards"

    def __len__(self) -> int:
        return len(self._examples)

    @property
    def label_dim(self) -> int:
        return self._label_dim

    @property
    def label_kind(self) -> str | None:
        return self._kind() if self.use_labels else None

    def _kind(self) -> str:
        vectors = any(isinstance(sample.label, list) for sample in self._examples)
        return "vectors" if vectors else "classes"

    def _counts(self, index: dict) -> list[int] | None:
        """Return the number of samples per shard, if `index` lists them all."""
        try:
            table = {_name(e["url"]): int(e["nsamples"]) for e in index.get("shardlist", [])}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"data: 'shardlist' in index.json is malformed: {error!r}") from None
        names = [_name(url) for url in self.urls]
        known = len(set(names)) == len(names) and all(name in table for name in names)
        return [table[name] for name in names] if known else None

    def _read_examples(self) -> list[Sample]:
        """Return the first samples that have an image."""
        examples: list[Sample] = []
        size = 0
        stream = (sample for url in self.urls for sample in read_shard(url, self.skip))
        for sample in islice(stream, 2 * EXAMPLES):
            if sample.image is None:
                self.skip(sample.name, "no png, jpg or webp")
                continue
            if not examples and not self._is_intact(sample):
                continue  # the first one defines the image shape
            examples.append(sample)
            size += len(sample.image)
            if len(examples) == EXAMPLES or size > EXAMPLE_BYTES:
                break
        if not examples:
            reason = f", first {self.skipped[0]}" if self.num_skipped else ""
            raise ValueError(f"data: no usable samples in {self.path}{reason}")
        return examples

    def _is_intact(self, sample: Sample) -> bool:
        try:
            decode(sample.encoded)
            return True
        except DamagedImage as error:
            self.skip(sample.name, str(error))
            return False

    def _find_label_dim(self, index: dict) -> int:
        if "label_dim" in index:
            dim = index["label_dim"]
            if not isinstance(dim, int) or not 0 < dim <= MAX_CLASSES:
                raise ValueError(f"data: label_dim in index.json is {dim!r}, expected a number")
            return dim
        labels = [sample.label for sample in self._examples if sample.label is not None]
        if not labels:
            raise ValueError(
                f"data: labels were asked for but the first {len(self)} samples of {self.path} "
                "have none (cls, or json with 'label')"
            )
        sizes = [len(label) if isinstance(label, list) else label + 1 for label in labels]
        return max(sizes)

    def _keep_usable(self) -> None:
        """Drop examples that are damaged, have a different size or lack a label."""
        read = len(self._examples)
        kept = [sample for sample in self._examples if self._is_usable(sample)]
        if 2 * len(kept) < read:
            raise ValueError(
                f"data: of the first {read} samples {read - len(kept)} cannot be used, first "
                f"{self.skipped[0]}; prepare the images with: sg3 dataset"
            )
        self._examples = kept

    def _is_usable(self, sample: Sample) -> bool:
        rows = np.empty([1, *self.image_shape], dtype=np.uint8)
        return self.usable(sample, self.decode_into([sample.image], rows)[0])

    def usable(self, sample: Sample, reason: str | None) -> bool:
        """Whether `sample` can be used; if not, it is recorded as skipped.

        `reason` says why its image could not be decoded, as returned by `decode_into`.
        """
        if reason is None and self.use_labels:
            if sample.label is None:
                reason = "no label (cls, or json with 'label')"
            else:
                self._check_label(sample.name, sample.label)
        if reason is not None:
            self.skip(sample.name, reason)
        return reason is None

    def _check_label(self, name: str, label: int | list[float]) -> None:
        dim = self._label_dim
        fits = len(label) == dim if isinstance(label, list) else 0 <= label < dim
        if not fits:
            raise ValueError(
                f"data: {name} has the label {str(label)[:80]}, which does not fit the label "
                f"dimension {dim}; write 'label_dim' to index.json next to the shards"
            )

    def decode_into(self, images: list[bytes | None], out: np.ndarray) -> list[str | None]:
        """Decode `images` into `out`, uint8 `[B, C, H, W]`; return None or an error for each."""
        reasons: list[str | None] = []
        for row, data in zip(out, images, strict=True):
            try:
                if data is None:
                    raise DamagedImage("no png, jpg or webp")
                row[:] = decode(data, self.image_shape)
                reasons.append(None)
            except ValueError as error:
                reasons.append(str(error))
        return reasons

    def label_rows(self, samples: list[Sample]) -> torch.Tensor:
        """Return labels float32 `[B, label_dim]` of usable samples."""
        if not self.use_labels:
            return torch.zeros([len(samples), 0])
        rows = np.zeros([len(samples), self.label_dim], dtype=np.float32)
        for row, sample in zip(rows, samples, strict=True):
            if isinstance(sample.label, list):
                row[:] = sample.label
            else:
                row[sample.label] = 1
        return torch.from_numpy(rows)

    def images(self, indices: Indices) -> torch.Tensor:
        """Return images uint8 `[B, C, H, W]` of the examples `indices`."""
        indices = [int(i) for i in indices]
        out = np.empty([len(indices), *self.image_shape], dtype=np.uint8)
        self.decode_into([self._examples[i].image for i in indices], out)
        flipped = [flip(x, *self._flips[i]) for x, i in zip(out, indices, strict=True)]
        return torch.from_numpy(np.stack(flipped))

    def labels(self, indices: Indices) -> torch.Tensor:
        """Return labels float32 `[B, label_dim]` of the examples `indices`."""
        return self.label_rows([self._examples[int(i)] for i in indices])


def flip(image: np.ndarray, xflip: bool, yflip: bool) -> np.ndarray:
    """Flip `image` `[C, H, W]` horizontally, vertically, or both."""
    image = image[:, :, ::-1] if xflip else image
    return image[:, ::-1] if yflip else image


def _shape(image: np.ndarray) -> tuple[int, int, int]:
    channels, height, width = image.shape
    return channels, height, width


def _name(path: str) -> str:
    """`https://host/faces/shards-{000..063}.tar?token` → `shards-{000..063}`."""
    return path.split("?")[0].rstrip("/").rpartition("/")[2].removesuffix(".tar")


def _plain_name(path: str) -> str:
    """`https://host/faces/shards-{000..063}.tar` → `shards`, fit for a folder's name."""
    return re.sub(r"\{.*\}|[^\w.-]", "", _name(path)).strip("-_.") or "shards"


def write_shards(
    dataset: TrainingImages, dest: str | Path, per_shard: int, progress: bool = False
) -> Iterator[Path]:
    """Write `dataset` as PNG to `dest/shards-000000.tar` … with an `index.json`.

    Args:
        dataset: the images, and labels if it has some: classes become `cls`, vectors `json`.
        dest: folder, created if missing.
        per_shard: images per shard.
        progress: show a progress bar.

    Yields the path of each shard when it is complete.
    """
    count = -(-len(dataset) // per_shard)
    return with_bar(_write_shards(dataset, Path(dest), per_shard), count, "write shards", progress)


def _write_shards(dataset: TrainingImages, dest: Path, per_shard: int) -> Iterator[Path]:
    dest.mkdir(parents=True, exist_ok=True)
    shards = []
    for start in range(0, len(dataset), per_shard):
        path = dest / f"shards-{start // per_shard:06d}.tar"
        items = range(start, min(start + per_shard, len(dataset)))
        with atomic_path(path) as temporary, tarfile.open(temporary, "w") as archive:
            for item in items:
                for suffix, data in _files_of(dataset, item).items():
                    entry = tarfile.TarInfo(f"{item:08d}.{suffix}")
                    entry.size = len(data)
                    archive.addfile(entry, io.BytesIO(data))
        shards.append({"url": path.name, "nsamples": len(items)})
        yield path
    index: dict[str, Any] = {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "shardlist": shards,
    }
    if dataset.has_labels:
        index["label_dim"] = dataset.label_dim
    write_text(dest / "index.json", json.dumps(index, indent=2) + "\n")


def _files_of(dataset: TrainingImages, item: int) -> dict[str, bytes]:
    """Return the contents of one sample's files, by suffix."""
    image, label = dataset[item]
    pixels = image.numpy().transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, "png")
    files = {"png": buffer.getvalue()}
    if dataset.has_labels:
        row = label.tolist()
        if sorted(set(row)) in ([0, 1], [1]) and sum(row) == 1:
            files["cls"] = str(row.index(1)).encode()
        else:
            files["json"] = json.dumps({"label": row}).encode()
    return files
