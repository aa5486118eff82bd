"""Labels of images: classes or vectors, from `dataset.json` or from sub-folders (REFERENCE.md §4.11)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from sg3.data.source import ImageSource

MAX_CLASSES = 1 << 20


@dataclass(frozen=True)
class Labels:
    """One label per file: classes below `dim` `[files]`, or vectors float32 `[files, dim]`."""

    values: np.ndarray
    dim: int
    class_names: list[str] | None = None

    def rows(self, files: np.ndarray) -> np.ndarray:
        """Labels float32 `[B, dim]` of the files with these numbers; classes become one-hot."""
        values = self.values[files]
        return one_hot(values, self.dim) if values.ndim == 1 else values


def one_hot(classes: np.ndarray, dim: int) -> np.ndarray:
    """Whole numbers `[B]` as float32 `[B, dim]`."""
    rows = np.zeros([len(classes), dim], dtype=np.float32)
    rows[np.arange(len(classes)), classes] = 1
    return rows


def read_labels(source: ImageSource, names: list[str]) -> Labels:
    """Labels of all the files `names` of `source`. Raises ValueError if there are none."""
    index = source.read_index()
    table = source.read_labels()
    if table is not None:
        return _from_table(table, names, index.get("classes"))
    if index is None:
        return _from_folders(source, names)
    raise ValueError(
        f"data: labels were asked for but dataset.json in {source.path} has none; "
        "leave out --cond, or add them"
    )


def _from_folders(source: ImageSource, names: list[str]) -> Labels:
    """The class of a file is its first-level folder, numbered in sorted order."""
    parts = [PurePosixPath(name).parts for name in names]
    classes = sorted({p[0] for p in parts if len(p) > 1})
    if len(classes) < 2 or any(len(p) == 1 for p in parts):
        raise ValueError(
            f"data: labels were asked for but {source.path} has none: neither a dataset.json nor "
            "two or more sub-folders that hold all images"
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
            "data: labels in dataset.json are of several kinds, expected whole numbers, or vectors "
            "of finite numbers that are equally long"
        )
    return Labels(values.astype(np.float32), values.shape[1])


def _checked_classes(values: np.ndarray, class_names: object) -> Labels:
    if values.min() < 0 or values.max() >= MAX_CLASSES:
        raise ValueError(
            f"data: labels in dataset.json go from {values.min()} to {values.max()}, expected "
            "classes numbered from 0"
        )
    dim = int(values.max()) + 1
    if class_names is None:
        return Labels(values, dim)
    if not isinstance(class_names, list) or len(class_names) < dim:
        raise ValueError(
            f"data: 'classes' in dataset.json is not a list of at least {dim} names, one per label"
        )
    return Labels(values, dim, [str(name) for name in class_names[:dim]])
