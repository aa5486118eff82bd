"""Training images in tar shards, for data that outgrow one disk: read as a stream, never listed."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sg3.data.base import TrainingImages
from sg3.data.labels import MAX_CLASSES, one_hot
from sg3.data.source import DamagedImage, decode
from sg3.data.tar_stream import Sample, expand, read_index, read_shard
from sg3.files import atomic_path, write_text

EXAMPLES = 1000  # samples of the first shards that are kept at hand
EXAMPLE_BYTES = 256 << 20
BUFFER_BYTES = 256 << 20  # that the shuffling of a stream may hold
BUFFER = (64, 4000)  # fewest and most samples of it


class ShardDataset(TrainingImages):
    """Images uint8 `[C, H, W]` in tar shards (`sg3.data.tar_stream` has the layout).

    What can be asked for by number are examples: the first usable samples of the first shards.
    They serve pictures of real images and labels for the generator; `len` counts them. Training
    reads all samples with a `ShardLoader`. Samples that are damaged, of another size or without a
    label that is needed are left out and listed in `skipped` as they are met.

    Args:
        path: a folder with `*.tar`, a pattern `shards-{000..063}.tar`, or an http(s) URL like it.
        use_labels: read labels; otherwise the label dimension is 0.
        xflip, yflip: mirror samples at random, evenly.
        random_seed: of the examples' flips.

    An `index.json` beside the shards tells the number of samples of each ("shardlist" with "url"
    and "nsamples", as the package `wids` writes it), so that a resumed run opens only the shards
    it needs; it may hold "label_dim" and "classes" too. Without it, the dimension of labels is
    that of the examples.

    Raises ValueError, in one line, for shards that are missing or hold nothing usable.
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
        images = [decode(sample.image) for sample in self._examples[:1]]
        self.image_shape = images[0].shape
        self._label_dim = self._find_label_dim(index) if use_labels else 0
        classes = index.get("classes")
        self.class_names = classes if use_labels and isinstance(classes, list) else None
        self._keep_usable()
        sizes = [len(sample.image) for sample in self._examples]
        self.buffer = int(np.clip(BUFFER_BYTES // np.mean(sizes), *BUFFER))
        self._flips = np.random.RandomState(random_seed).randint(2, size=[len(self), 2]) > 0
        self._flips &= [xflip, yflip]

    @property
    def num_images(self) -> int | None:
        """Samples in all shards, if an index tells."""
        return None if self.counts is None else sum(self.counts)

    def describe(self) -> str:
        """How much there is, for people: `1281167 images in 64 shards`."""
        images = "" if self.num_images is None else f"{self.num_images} images in "
        return f"{images}{len(self.urls)} shards"

    def __len__(self) -> int:
        return len(self._examples)

    @property
    def label_dim(self) -> int:
        return self._label_dim

    def _counts(self, index: dict) -> list[int] | None:
        """Samples of each shard, if `index` lists them all."""
        try:
            table = {_name(e["url"]): int(e["nsamples"]) for e in index.get("shardlist", [])}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"data: 'shardlist' in index.json is malformed: {error!r}") from None
        names = [_name(url) for url in self.urls]
        known = len(set(names)) == len(names) and all(name in table for name in names)
        return [table[name] for name in names] if known else None

    def _read_examples(self) -> list[Sample]:
        """The first samples whose images can be opened."""
        examples, size = [], 0
        stream = (sample for url in self.urls for sample in read_shard(url, self.skip))
        for sample in islice(stream, 2 * EXAMPLES):
            if sample.image is None:
                self.skip(sample.name, "no png, jpg or webp")
                continue
            if not examples and isinstance(self._decoded(sample), DamagedImage):
                continue
            examples.append(sample)
            size += len(sample.image)
            if len(examples) == EXAMPLES or size > EXAMPLE_BYTES:
                break
        if not examples:
            reason = f", first {self.skipped[0]}" if self.num_skipped else ""
            raise ValueError(f"data: no usable samples in {self.path}{reason}")
        return examples

    def _decoded(self, sample: Sample) -> np.ndarray | DamagedImage:
        try:
            return decode(sample.image)
        except DamagedImage as error:
            self.skip(sample.name, str(error))
            return error

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
        """Drop examples of another size, damaged, or without a label."""
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
        """Whether `sample` can be shown; if not, why is noted. `reason`: why its image cannot."""
        if reason is None and self.use_labels:
            if sample.label is None:
                reason = "no label (cls, or json with 'label')"
            else:
                self._check_label(sample)
        if reason is not None:
            self.skip(sample.name, reason)
        return reason is None

    def _check_label(self, sample: Sample) -> None:
        label, dim = sample.label, self._label_dim
        fits = len(label) == dim if isinstance(label, list) else 0 <= label < dim
        if not fits:
            raise ValueError(
                f"data: {sample.name} has the label {str(label)[:80]}, which does not fit the "
                f"label dimension {dim}; write 'label_dim' to index.json beside the shards"
            )

    def decode_into(self, images: list[bytes | None], out: np.ndarray) -> list[str | None]:
        """Write encoded `images` to `out`, uint8 `[B, C, H, W]`; for each why that failed."""
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
        """Labels float32 `[B, label_dim]` of usable samples."""
        if not self.use_labels:
            return torch.zeros([len(samples), 0])
        rows = [
            np.float32(s.label) if isinstance(s.label, list) else one_hot([s.label], self.label_dim)
            for s in samples
        ]
        return torch.from_numpy(np.stack(rows).reshape(len(samples), self.label_dim))

    def images(self, indices) -> torch.Tensor:
        """Images uint8 `[B, C, H, W]` of the examples `indices`."""
        indices = [int(i) for i in indices]
        out = np.empty([len(indices), *self.image_shape], dtype=np.uint8)
        self.decode_into([self._examples[i].image for i in indices], out)
        flipped = [flip(x, *self._flips[i]) for x, i in zip(out, indices, strict=True)]
        return torch.from_numpy(np.stack(flipped))

    def labels(self, indices) -> torch.Tensor:
        """Labels float32 `[B, label_dim]` of the examples `indices`."""
        return self.label_rows([self._examples[int(i)] for i in indices])


def flip(image: np.ndarray, mirrored: bool, upside_down: bool) -> np.ndarray:
    """`image` `[C, H, W]`, mirrored, upside down, or both."""
    image = image[:, :, ::-1] if mirrored else image
    return image[:, ::-1] if upside_down else image


def _name(path: str) -> str:
    """`https://host/faces/shards-{000..063}.tar?token` → `shards-{000..063}`."""
    return path.split("?")[0].rstrip("/").rpartition("/")[2].removesuffix(".tar")


def _plain_name(path: str) -> str:
    """`https://host/faces/shards-{000..063}.tar` → `shards`: something to name a folder by."""
    return re.sub(r"\{.*\}|[^\w.-]", "", _name(path)).strip("-_.") or "shards"


def write_shards(dataset: TrainingImages, dest: str | Path, per_shard: int) -> Iterator[Path]:
    """Write the items of `dataset` as PNG to `dest/shards-000000.tar` … and an `index.json`.

    Yields every shard when it is complete. Classes become `cls`, label vectors `json`.
    """
    dest = Path(dest)
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
    index = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": shards}
    if dataset.has_labels:
        index["label_dim"] = dataset.label_dim
    write_text(dest / "index.json", json.dumps(index, indent=2) + "\n")


def _files_of(dataset: TrainingImages, item: int) -> dict[str, bytes]:
    """Content of the files of one sample, by suffix."""
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
