"""Image labels, classes or vectors, from `dataset.json` or sub-folders (REFERENCE.md §4.11)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from sg3.data.source import ImageSource

MAX_CLASSES = 1 << 20


@dataclass(frozen=True)
class Labels:
    """One label per file.

    Attributes:
        values: class indices `[files]`, below `dim`, or vectors float32 `[files, dim]`.
        dim: number of classes, or dimension of the vectors.
        class_names: names of the classes, if known.
    """

    values: np.ndarray
    dim: int
    class_names: list[str] | None = None

    def rows(self, files: np.ndarray) -> np.ndarray:
        """Return labels float32 `[B, dim]` of the files with indices `files`; classes one-hot."""
        values = self.values[files]
        return one_hot(values, self.dim) if values.ndim == 1 else values


def one_hot(classes: np.ndarray, dim: int) -> np.ndarray:
    """Return class indices `[B]` as one-hot float32 `[B, dim]`."""
    rows = np.zeros([len(classes), dim], dtype=np.float32)
    rows[np.arange(len(classes)), classes] = 1
    return rows


def read_labels(source: ImageSource, names: list[str]) -> Labels:
    """Return labels of the files `names`. Raises ValueError if there are none."""
    index = source.read_index()
    if index is None:
        return _from_folders(source, names)
    table = source.read_labels()
    if table is not None:
        return _from_table(table, names, index.get("classes"))
    raise ValueError(
        f"data: labels were asked for but dataset.json in {source.path} has none; "
        "leave out `cond`, or add them"
    )


def _from_folders(source: ImageSource, names: list[str]) -> Labels:
    """Number the first-level folders in sorted order: they are the classes."""
    parts = [PurePosixPath(name).parts for name in names]
    classes = sorted({p[0] for p in parts if len(p) > 1})
    if len(classes) < 2 or any(len(p) == 1 for p in parts):
        raise ValueError(
            f"data: labels were asked for but {source.path} has none: neither a dataset.json nor "
            "two or more sub-folders that contain all images"
        )
    number = {name: i for i, name in enumerate(classes)}
    values = np.array([number[p[0]] for p in parts], dtype=np.int64)
    return Labels(values, len(classes), classes)


def _from_table(table: dict, names: list[str], class_names: object) -> Labels:
    missing = [name for name in names if name not in table]
    if missing:
        raise ValueError(f"data: {len(missing)} images lack a label, first {missing[0]}")
    try:
        values = np.array([table[name] for name in names])
    except ValueError:
        values = np.array([None])  # ragged
    if values.ndim == 1 and np.issubdtype(values.dtype, np.integer):
        return _checked_classes(values.astype(np.int64), class_names)
    if values.ndim != 2 or values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise ValueError(
            "data: labels in dataset.json are of several kinds, expected integers, or vectors of "
            "finite numbers with the same length"
        )
    return Labels(values.astype(np.float32), values.shape[1])


def _checked_classes(values: np.ndarray, class_names: object) -> Labels:
    if values.min() < 0 or values.max() >= MAX_CLASSES:
        raise ValueError(
            f"data: labels in dataset.json range from {values.min()} to {values.max()}, expected "
            f"classes numbered from 0, at most {MAX_CLASSES}"
        )
    dim = int(values.max()) + 1
    if class_names is None:
        return Labels(values, dim)
    if not isinstance(class_names, list) or len(class_names) < dim:
        raise ValueError(
            f"data: 'classes' in dataset.json is not a list of at least {dim} names, one per label"
        )
    return Labels(values, dim, [str(name) for name in class_names[:dim]])
