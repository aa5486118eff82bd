"""Tar shards in the layout of `webdataset`: finding them, reading their samples one by one.

Files of a shard that share a name up to its first dot are one sample: an image (png, jpg, jpeg or
webp) and perhaps its label, in `cls` (a whole number) or `json` (the key "label").
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

from sg3.data.source import MAX_FILE_BYTES

IMAGE_KEYS = ("png", "jpg", "jpeg", "webp")
MAX_SHARDS = 100_000
ATTEMPTS = 5  # to read a shard over the network
WAIT = 1.0  # seconds before the second one, doubled each time
DAMAGE = (tarfile.TarError, EOFError, zlib.error)


@dataclass(frozen=True)
class Sample:
    """One sample as it lies in a shard; `image` is None if there is none."""

    name: str
    image: bytes | None
    label: int | list[float] | None


def is_shards(path: str | Path) -> bool:
    """Whether `path` names tar shards: a pattern, an URL, a .tar, or a folder that holds some."""
    text = str(path)
    if is_url(text) or text.endswith(".tar"):
        return True
    return Path(text).is_dir() and any(Path(text).glob("*.tar"))


def is_url(path: str) -> bool:
    """Whether `path` is read over the network."""
    return urlsplit(path).scheme in ("http", "https")


def expand(path: str | Path) -> list[str]:
    """Paths or URLs of the shards that `path` names, in order. Raises ValueError if none do."""
    try:
        import webdataset  # noqa: F401 - here, so that it is missed before anything is read
        from braceexpand import UnbalancedBracesError, braceexpand
    except ImportError:
        raise ValueError(
            "data: tar shards need the package webdataset; install it with: "
            "pip install 'sg3[shards]'"
        ) from None
    text = str(path)
    if not is_url(text) and Path(text).is_dir():
        return [str(p) for p in sorted(Path(text).glob("*.tar"))]
    try:
        urls = list(islice(braceexpand(text), MAX_SHARDS + 1))
    except UnbalancedBracesError as error:
        raise ValueError(f"data: {text} has braces that do not match ({error})") from None
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
    """`index.json`, or else `dataset.json`, beside the shards; {} if there is neither."""
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
    """Regular files of an open tar stream, as webdataset groups them."""
    # Damaged headers are passed over: what follows them may be sound.
    with tarfile.open(fileobj=stream, mode="r|*", ignore_zeros=True) as archive:
        for entry in archive:
            archive.members = []  # the list would grow with the shard
            if not entry.isreg():
                continue
            if entry.size > MAX_FILE_BYTES:
                raise tarfile.ReadError(f"{entry.name} has {entry.size} bytes")
            yield {"fname": entry.name, "data": archive.extractfile(entry).read(), "__url__": url}


def _label(sample: dict) -> int | list[float] | None:
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
    """A binary stream. Files are opened here: webdataset would run a file named `pipe:…`."""
    from webdataset.gopen import gopen

    return gopen(url) if is_url(url) else open(url, "rb")


def _samples(url: str) -> Iterator[Sample]:
    from webdataset.tariterators import group_by_keys

    stream = _open(url)
    try:
        # Two files of one name cost the second of them, not the shard.
        files = _files(stream, url)
        for sample in group_by_keys(files, handler=lambda error: True):
            image = next((sample[key] for key in IMAGE_KEYS if key in sample), None)
            yield Sample(f"{url}/{sample['__key__']}", image, _label(sample))
    except DAMAGE:
        _leave(stream, url, patience=5)  # an error of the transfer tells more than its effect
        raise
    except BaseException:
        with suppress(OSError):
            _leave(stream, url, patience=0)
        raise
    stream.close()  # where a transfer that failed says so


def _leave(stream, url: str, patience: float) -> None:
    """Close a stream in the middle. Raises OSError if its transfer ended with an error."""
    if is_url(url):
        try:
            stream.proc.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            stream.proc.kill()  # curl is sound, and would wait for somebody to read on
            with suppress(OSError):
                stream.close()
            return
    stream.close()


def read_shard(url: str, skip: Callable[[str, str], None]) -> Iterator[Sample]:
    """Samples of one shard, in order.

    A transfer that breaks is begun again; the rest of a shard that is damaged is left out and
    reported to `skip(name, reason)`. Raises ValueError if the shard cannot be read at all.
    """
    done = 0
    for attempt in range(ATTEMPTS):
        try:
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
                return skip(url, f"damaged after {done} samples ({reason})")
            code = re.search(r"'curl'.*exit (\d+)", str(error))
            reason = f"curl exited with code {code[1]}" if code else reason
            raise ValueError(
                f"data: cannot read shard {url}: {reason}; go on with --resume latest when it is "
                "there again"
            ) from None
