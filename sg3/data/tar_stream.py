"""Reader of tar shards in the layout of `webdataset`, sample by sample.

Files of a shard whose names agree up to the first dot form one sample: an image (png, jpg, jpeg
or webp) and optionally its label, in `cls` (an integer) or `json` (the key "label").
"""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

from sg3.data.listing import is_hidden
from sg3.data.source import MAX_FILE_BYTES

IMAGE_KEYS = ("png", "jpg", "jpeg", "webp")
MAX_SHARDS = 100_000
ATTEMPTS = 5  # for reading a shard over the network
WAIT = 1.0  # seconds before the second attempt, doubled each time
DAMAGE = (tarfile.TarError, EOFError, zlib.error)


@dataclass(frozen=True)
class Sample:
    """One sample of a shard: encoded image and label, None if missing."""

    name: str
    image: bytes | None
    label: int | list[float] | None

    @property
    def encoded(self) -> bytes:
        """The encoded image of a sample that has one."""
        assert self.image is not None
        return self.image


def is_shards(path: str | Path) -> bool:
    """Whether `path` names tar shards: a pattern, a URL, a .tar, or a folder of them."""
    text = str(path)
    if is_url(text) or text.endswith(".tar"):
        return True
    return bool(_tars(Path(text)))


def _tars(folder: Path) -> list[str]:
    """Return the shards in a folder, without the hidden files that macOS writes next to them."""
    return [str(p) for p in sorted(folder.glob("*.tar")) if not is_hidden(p.name)]


def is_url(path: str) -> bool:
    """Whether `path` is a URL: http(s), or of a store that fsspec knows, such as s3:// or gs://."""
    return re.match(r"[A-Za-z][\w+.-]+://", path) is not None  # C:// is a drive


def _is_http(url: str) -> bool:
    return urlsplit(url).scheme in ("http", "https")


def expand(path: str | Path) -> list[str]:
    """Return the paths or URLs of the shards at `path`, in order.

    Raises ValueError for local shards that do not exist, or without the package webdataset.
    """
    try:
        # webdataset is imported here so that a missing package is reported before reading starts.
        import webdataset  # noqa: F401
        from braceexpand import UnbalancedBracesError, braceexpand  # type: ignore[attr-defined]
    except ImportError:
        raise ValueError(
            "data: tar shards need the webdataset package; install it with: "
            "pip install 'sg3[shards]'"
        ) from None
    text = str(path)
    if not is_url(text) and Path(text).is_dir():
        return _tars(Path(text))
    try:
        urls = list(islice(braceexpand(text), MAX_SHARDS + 1))
    except UnbalancedBracesError as error:
        raise ValueError(f"data: {text} has unbalanced braces ({error})") from None
    if len(urls) > MAX_SHARDS:
        raise ValueError(f"data: {text} names more than {MAX_SHARDS} shards")
    if not is_url(text):
        missing = [url for url in urls if not Path(url).is_file()]
        if missing:
            raise ValueError(
                f"data: {len(missing)} of {len(urls)} shards do not exist, first {missing[0]}"
            )
    return urls


def read_index(path: str | Path) -> dict:
    """Return `index.json` or else `dataset.json` from next to the shards; {} without either."""
    text = str(path)
    folder = text if not is_url(text) and Path(text).is_dir() else text.rpartition("/")[0]
    if "{" in folder:
        return {}
    for name in ("index.json", "dataset.json"):
        place = f"{folder or '.'}/{name}"
        try:
            stream = _open(place)
            data = stream.read(MAX_FILE_BYTES)
            stream.close()
        except OSError:
            continue
        if not data:
            continue
        try:
            index = json.loads(data)
            if not isinstance(index, dict):
                raise ValueError("expected an object")
        except ValueError as error:
            raise ValueError(f"data: {place} is malformed: {error}") from None
        return index
    return {}


def _files(stream, url: str) -> Iterator[dict]:
    """Yield the regular files of a tar stream, in the form that webdataset groups."""
    # ignore_zeros also skips damaged headers: the files after them may be intact.
    with tarfile.open(fileobj=stream, mode="r|*", ignore_zeros=True) as archive:
        for entry in archive:
            archive.members = []  # type: ignore[attr-defined]  # would grow with the shard
            if not entry.isreg():
                continue
            if entry.size > MAX_FILE_BYTES:
                raise tarfile.ReadError(f"{entry.name} has {entry.size} bytes")
            file = archive.extractfile(entry)
            assert file is not None  # a regular file
            yield {"fname": entry.name, "data": file.read(), "__url__": url}


def _label(sample: dict) -> int | list[float] | None:
    """Return the label of a sample, None if missing or malformed."""
    try:
        if "cls" in sample:
            return int(sample["cls"])
        if "json" in sample:
            label = json.loads(sample["json"])["label"]
            if isinstance(label, list):
                return [float(value) for value in label]
            return label if isinstance(label, int) else None
    except (ValueError, KeyError, TypeError):
        pass
    return None


def _open(url: str):
    """Open a binary stream. Not webdataset for local files: it would run one named `pipe:…`."""
    if not is_url(url):
        return open(url, "rb")
    if _is_http(url):
        from webdataset.gopen import gopen

        return gopen(url)
    import fsspec  # comes with torch

    try:
        return fsspec.open(url, "rb").open()
    except (ImportError, ValueError) as error:  # no package for this protocol
        raise ValueError(f"data: cannot open {url}: {error}") from None


def _samples(url: str) -> Iterator[Sample]:
    from webdataset.tariterators import group_by_keys

    stream = _open(url)
    try:
        # The handler skips the second of two files with the same name instead of the whole shard.
        files = _files(stream, url)
        for sample in group_by_keys(files, handler=lambda error: True):
            image = next((sample[key] for key in IMAGE_KEYS if key in sample), None)
            yield Sample(f"{url}/{sample['__key__']}", image, _label(sample))
    except DAMAGE:
        # Raises OSError if the transfer failed, which is then the better error to report.
        _leave(stream, url, patience=5)
        raise
    except BaseException:
        with suppress(OSError):
            _leave(stream, url, patience=0)
        raise
    stream.close()  # raises OSError if the transfer failed


def _leave(stream, url: str, patience: float) -> None:
    """Close a stream before its end. Raises OSError if the transfer failed."""
    if _is_http(url):
        try:
            stream.proc.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            stream.proc.kill()  # curl is fine, and would wait for a reader forever
            with suppress(OSError):
                stream.close()
            return
    stream.close()


def read_shard(url: str, skip: Callable[[str, str], None]) -> Iterator[Sample]:
    """Yield the samples of one shard, in order.

    Interrupted transfers are restarted. The rest of a damaged shard is skipped and reported to
    `skip(name, reason)`. Raises ValueError if the shard cannot be read.
    """
    done = 0
    for attempt in range(ATTEMPTS):
        try:
            # A restarted transfer begins with the first sample: skip those passed on already.
            for sample in islice(_samples(url), done, None):
                done += 1
                yield sample
            return
        except (OSError, *DAMAGE) as error:
            if is_url(url) and attempt + 1 < ATTEMPTS:
                time.sleep(WAIT * 2**attempt)
                continue
            reason = " ".join(str(error).split())[:200]
            if isinstance(error, DAMAGE):
                skip(url, f"damaged after {done} samples ({reason})")
                return
            code = re.search(r"'curl'.*exit (\d+)", str(error))
            reason = f"curl exited with code {code[1]}" if code else reason
            raise ValueError(
                f"data: cannot read shard {url}: {reason}; set `resume` to latest to continue once "
                "it can be read"
            ) from None
