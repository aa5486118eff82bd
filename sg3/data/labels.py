"""Image labels, classes or vectors, from `dataset.json` or sub-folders (REFERENCE.md §4.11)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sg3.data.listing import canonical, top_folder
from sg3.data.source import INDEX, ImageSource

MAX_CLASSES = 1 << 20
SHOWN = 10  # classes that a note names

Label = int | list[float]


@dataclass(frozen=True)
class Labels:
    """One label per file.

    Attributes:
        values: class indices `[files]`, below `dim`, or vectors float32 `[files, dim]`.
        dim: number of classes, or dimension of the vectors.
        class_names: names of the classes, if known.
        notes: lines about classes without files and labels of other files.
    """

    values: np.ndarray
    dim: int
    class_names: list[str] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """'classes' or 'vectors'."""
        return "classes" if self.values.ndim == 1 else "vectors"

    def rows(self, files: np.ndarray) -> np.ndarray:
        """Return labels float32 `[B, dim]` of the files with indices `files`; classes one-hot."""
        values = self.values[files]
        return one_hot(values, self.dim) if values.ndim == 1 else values


@dataclass(frozen=True)
class GivenLabels:
    """Labels as `dataset.json` gives them: one class or vector per file, None without.

    Attributes:
        values: one label per file.
        classes: names of the classes, if known.
        notes: a line about labels of other files.
    """

    values: list[Label | None]
    classes: list[str] | None = None
    notes: list[str] = field(default_factory=list)


def one_hot(classes: np.ndarray, dim: int) -> np.ndarray:
    """Return class indices `[B]` as one-hot float32 `[B, dim]`."""
    rows = np.zeros([len(classes), dim], dtype=np.float32)
    rows[np.arange(len(classes)), classes] = 1
    return rows


def read_labels(source: ImageSource, names: list[str]) -> Labels:
    """Return labels of the files `names`. Raises ValueError if there are none."""
    if source.index_name is None:
        return _from_folders(source, names)
    given = given_labels(source, names)
    if given is None:
        raise ValueError(
            f"data: labels were asked for but {INDEX} in {source.path} has none; "
            "leave out `cond`, or add them"
        )
    missing = [name for name, label in zip(names, given.values, strict=True) if label is None]
    if missing:
        raise ValueError(f"data: {len(missing)} images lack a label, first {missing[0]}")
    values = np.array(given.values)
    if values.ndim == 2:
        return Labels(values.astype(np.float32), values.shape[1], notes=given.notes)
    dim = int(values.max()) + 1
    classes = None if given.classes is None else given.classes[:dim]
    return Labels(values, dim, classes, given.notes + gap_notes(values.tolist(), classes))


def num_labels(source: ImageSource, names: list[str]) -> tuple[str, int] | None:
    """Return ('classes' or 'vectors', their number) if `read_labels` would give some."""
    try:
        labels = read_labels(source, names)
    except ValueError:
        return None
    numbered = [re.fullmatch(r"\d{5}", name) for name in labels.class_names or [""]]
    if source.index_name is None and all(numbered):
        return None  # 00000, 00001, …: folders that hold a thousand images each
    return labels.kind, labels.dim


# Folders -------------------------------------------------------------------------------------


def _from_folders(source: ImageSource, names: list[str]) -> Labels:
    """Number the first-level folders in sorted order: they are the classes."""
    tops = [top_folder(name) for name in names]
    classes = sorted({top for top in tops if top is not None})
    if len(classes) < 2 or None in tops:
        raise ValueError(
            f"data: labels were asked for but {source.path} has none: neither a {INDEX} nor "
            "two or more sub-folders that contain all images"
        )
    number = {name: i for i, name in enumerate(classes)}
    values = np.array([number[top] for top in tops if top is not None], dtype=np.int64)
    lost = {top_folder(name) for name in source.names} - set(classes)
    return Labels(values, len(classes), classes, lost_notes(top for top in lost if top))


def lost_notes(folders: Iterable[str]) -> list[str]:
    """Return a line about folders that are no class because none of their images is used."""
    lost = sorted(folders)
    if not lost:
        return []
    return [f"no class: {_some(lost)}, of which no image is used"]


def gap_notes(values: Iterable[Any], classes: Sequence[str] | None) -> list[str]:
    """Return a line about classes below the highest one that no image has."""
    used = set(values)
    if not used or any(isinstance(value, list) for value in used):
        return []
    lost = sorted(set(range(max(used) + 1)) - used)
    if not lost:
        return []
    named = [str(c) if classes is None else f"{c} ({classes[c]})" for c in lost[:SHOWN]]
    return [
        f"{len(lost)} of {max(used) + 1} classes have no image and cannot be trained: "
        f"{_some(named, len(lost))}"
    ]


def _some(names: Sequence[str], total: int | None = None) -> str:
    """`a, b, c …`: the first few names."""
    more = " …" if (total or len(names)) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


# dataset.json --------------------------------------------------------------------------------


def given_labels(source: ImageSource, names: Sequence[str]) -> GivenLabels | None:
    """Return what `dataset.json` says of the files `names`; None without labels.

    Raises ValueError if it is malformed or has labels but none for these files.
    """
    index = source.read_index()
    if index is None:
        return None
    where = f"data: {INDEX} in {source.path}"
    try:
        pairs = index["labels"]
        if pairs is None:
            return None
        table = {str(name): label for name, label in pairs}
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{where} is malformed: under 'labels', expected pairs of a file's name and its "
            "label, or null"
        ) from None
    assert source.index_name is not None  # it was read
    folder = canonical(source.index_name).removesuffix(INDEX)
    found = match_names(table, names, folder)
    if table and not any(name is not None for name in found):
        raise ValueError(
            f"{where} has labels, but none for these images: its first name is "
            f"{next(iter(table))}, the first image {names[0]}; correct the names, or remove it"
        )
    used = set(found)
    spare = [name for name in table if name not in used]
    notes = []
    if spare:
        notes = [f"{len(spare)} of {len(table)} labels match no image, first that of {spare[0]}"]
    values = [None if name is None else table[name] for name in found]
    labels, classes = _one_kind(values, index.get("classes"), where)
    return GivenLabels(labels, classes, notes)


def match_names(
    table: Mapping[str, object], names: Sequence[str], folder: str = ""
) -> list[str | None]:
    r"""Return for each file of `names` the name by which `table` knows it, None without.

    Names agree as written, or else with `\` for `/` and without `./`; or else below a folder that
    holds everything, in `names` or in `table`; or else in another case, if only one does.

    Args:
        table: labels by name.
        names: files.
        folder: folder of `dataset.json`, like `photos/`, which its names are relative to.
    """
    if not folder and all(name in table for name in names):
        return list(names)
    keys = _unique((canonical(name), name) for name in table)
    files = [canonical(name).removeprefix(folder) for name in names]
    keys, files = _same_depth(keys, files)
    folded = _unique((key.casefold(), name) for key, name in keys.items())
    alike = Counter(file.casefold() for file in files)
    found = []
    for name, file in zip(names, files, strict=True):
        match = name if name in table else keys.get(file)
        if match is None and alike[file.casefold()] == 1:
            match = folded.get(file.casefold())
        found.append(match)
    return found


def _unique(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return a dictionary of the keys that occur once."""
    found: dict[str, str] = {}
    twice = set()
    for key, name in pairs:
        if key in found:
            twice.add(key)
        found[key] = name
    return {key: name for key, name in found.items() if key not in twice}


def _same_depth(keys: dict[str, str], files: list[str]) -> tuple[dict[str, str], list[str]]:
    """Remove folders that hold everything from either, where most names then agree."""

    def agreeing(keys: Iterable[str], files: Iterable[str]) -> int:
        return len({key.casefold() for key in keys} & {file.casefold() for file in files})

    best, count = (keys, files), agreeing(keys, files)
    for depth in range(1, _common_depth(files) + 1):
        shorter = [_below(file, depth) for file in files]
        if (agrees := agreeing(keys, shorter)) > count:
            best, count = (keys, shorter), agrees
    for depth in range(1, _common_depth(list(keys)) + 1):
        higher = _unique((_below(key, depth), name) for key, name in keys.items())
        if (agrees := agreeing(higher, files)) > count:
            best, count = (higher, files), agrees
    return best


def _common_depth(names: Sequence[str]) -> int:
    """Return the number of folders that all names begin with."""
    if not names:
        return 0
    first, last = min(names).split("/")[:-1], max(names).split("/")[:-1]
    same = [a == b for a, b in zip(first, last, strict=False)]
    return [*same, False].index(False)


def _below(name: str, depth: int) -> str:
    return name.split("/", depth)[depth]


def _one_kind(
    values: list[Any], class_names: object, where: str
) -> tuple[list[Label | None], list[str] | None]:
    """Return labels as classes or as vectors of one length, and the names of the classes.

    Names of classes are numbered in the order of `class_names` or else sorted; whole floats are
    classes. Raises ValueError for labels of several kinds.
    """
    given = [value for value in values if value is not None]
    names = _checked_names(class_names, where)
    if all(isinstance(value, str) for value in given):
        order = names if names and set(given) <= set(names) else sorted(set(given))
        number: Callable[[Any], Label] = {name: i for i, name in enumerate(order)}.__getitem__
        return [None if value is None else number(value) for value in values], order
    if all(_is_whole(value) for value in given):
        _check_classes([int(value) for value in given], names, where)
        return [None if value is None else int(value) for value in values], names
    try:
        array = np.array(given)
    except ValueError:
        array = np.array([None])  # ragged
    if (
        array.ndim != 2
        or not array.size
        or array.dtype.kind not in "iuf"
        or not (np.abs(array) <= np.finfo(np.float32).max).all()  # as which they are used
    ):
        raise ValueError(
            f"{where} has labels of several kinds, expected class numbers, class names, or "
            "vectors of finite numbers with the same length (also for one number: [0.5])"
        )
    return values, None


def _is_whole(value: object) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


def _checked_names(class_names: object, where: str) -> list[str] | None:
    if class_names is None:
        return None
    if not isinstance(class_names, list):
        raise ValueError(f"{where} is malformed: 'classes' is not a list of names")
    return [str(name) for name in class_names]


def _check_classes(values: list[int], names: list[str] | None, where: str) -> None:
    low, high = min(values, default=0), max(values, default=0)
    if low < 0 or high >= MAX_CLASSES:
        raise ValueError(
            f"{where} has labels that range from {low} to {high}, expected classes numbered from "
            f"0, at most {MAX_CLASSES}"
        )
    if names is not None and len(names) <= high:
        raise ValueError(
            f"{where} is malformed: 'classes' is not a list of at least {high + 1} names, one "
            "per label"
        )
