"""Downloads to the cache: resumable, verified, atomic."""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.parse
from contextlib import contextmanager
from pathlib import Path

from ops_cuda.cache import cache_dir
from sg3.checkpoints.content import foreign_file
from sg3.checkpoints.transfer import LOCAL_HOSTS, Download, StartOver, request
from sg3.errors import UserError
from sg3.files import prepare_folder, sha256_of, write_text
from sg3.system import lock

#: Attempts in a row that bring less than `PROGRESS_BYTES`.
ATTEMPTS, PROGRESS_BYTES = 4, 1 << 20
#: Wait after a failure; doubled after each further one.
PAUSE_S = 0.2


def check_url(url: str) -> None:
    """Raise ValueError unless `url` is https, or http on this machine."""
    parts = urllib.parse.urlsplit(url)
    local = parts.hostname in LOCAL_HOSTS
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise UserError(f"{url}: expected an https:// address")


def cached_path(url: str) -> Path:
    """Return the path in the cache for the file of `url`, whether it exists or not."""
    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rsplit("/", 1)[-1]
    safe = "".join(ch if ch.isalnum() or ch in "._-" else "_" for ch in name)[-100:]
    return cache_dir() / "networks" / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{safe}"


def official_copy(url: str) -> Path | None:
    """Return the file that the official tools downloaded from `url` on this machine, if any.

    They store `md5(url)_name` in `$DNNLIB_CACHE_DIR` or `~/.cache/dnnlib` (REFERENCE.md §7.7).
    """
    variable = os.environ.get("DNNLIB_CACHE_DIR")
    folder = Path(variable) if variable else Path.home() / ".cache" / "dnnlib"
    key = hashlib.md5(url.encode(), usedforsecurity=False).hexdigest()
    found = sorted((folder / "downloads").glob(f"{key}_*"))
    return found[0] if found else None


def fetch(
    url: str, sha256: str | None = None, size_bytes: int | None = None, progress: bool | None = None
) -> Path:
    """Return the local file of `url`: from a cache, or downloaded. Interrupted downloads resume.

    Args:
        url: https address.
        sha256: expected hash, or how it begins; None: that of the first download, which is
            stored next to the file.
        size_bytes: expected size; None: the length that the server states.
        progress: show a progress bar; None: only on a terminal.

    Raises:
        ValueError: no connection, an answer that is not the file (a web page, compressed, cut,
            too long …), wrong size or hash, or the cache is full or not writable.
    """
    check_url(url)
    target = cached_path(url)
    record = target.with_name(target.name + ".sha256")
    if target.exists() and foreign_file(target):  # older versions stored web pages
        target.unlink()
        record.unlink(missing_ok=True)
    expected = (sha256 or _recorded(record) or "").lower()
    if target.exists():
        if sha256_of(target).startswith(expected):
            return target
        target.unlink()  # damaged on disk: download it again
    official = official_copy(url)
    if official is not None and sha256_of(official).startswith(expected):
        return official
    prepare_folder(target.parent)
    job = Download(
        url, target.with_name(target.name + ".part"), size_bytes, bool(expected), progress
    )
    with _lock(job.part):
        if target.exists():  # another process was faster
            return target
        _complete(job)
        found = _judge(job, expected, record)
        # On disk before the renaming, or a crash could leave a damaged file under its final name.
        with open(job.part, "rb+") as file:
            os.fsync(file.fileno())
        # Before the renaming: a file under its final name always has its hash next to it.
        write_text(record, f"{found}  {target.name}\n")
        os.replace(job.part, target)
        job.discard()
    return target


def _recorded(record: Path) -> str | None:
    """Return the hash of an earlier download; None if there was none."""
    try:
        return record.read_text(encoding="utf-8").split()[0]
    except (OSError, ValueError, IndexError):
        return None


def _judge(job: Download, expected: str, record: Path) -> str:
    """Return the hash of the complete file; deletes it and raises UserError if it is wrong."""
    kind = foreign_file(job.part)
    found = sha256_of(job.part)
    if not kind and found.startswith(expected):
        return found
    job.discard()
    if kind:
        raise job.refusal(f"the server sent {kind}, expected a file of tensors")
    raise UserError(
        f"{job.url}: SHA-256 is {found}, expected {expected}; "
        f"if the publisher replaced the file, delete {record}"
    )


@contextmanager
def _lock(part: Path):
    """Serialize downloads of a file between processes, on systems with file locks."""
    path = part.with_suffix(".lock")
    with open(path, "w", encoding="utf-8") as file:
        lock(file)
        yield  # the lock file stays: other processes may wait for it


def _complete(job: Download) -> None:
    """Transfer until the file is complete; resume after lost connections."""
    failures, reason = 0, ""
    while failures < ATTEMPTS:
        before = job.received
        try:
            if request(job):
                return
            reason = "connection lost"
        except StartOver as error:
            job.discard()
            reason = str(error)
        except urllib.error.HTTPError as error:
            if error.code != 416 or not before:
                text = " ".join(str(error.reason).split())
                raise UserError(f"{job.url}: the server returned {error.code} {text}") from None
            job.discard()  # longer than the file: start over
            reason = "the server has no such range"
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            # Again only after progress or a lost connection: a missing network stays away.
            if job.received <= before and not isinstance(error, ConnectionError):
                raise UserError(_offline(job, error)) from None
            reason = "connection lost"
        # A bad connection may take many attempts, as long as each of them brings something.
        failures = 0 if job.received - before >= PROGRESS_BYTES else failures + 1
        time.sleep(PAUSE_S * 2**failures)
    raise UserError(f"{job.url}: {reason} {ATTEMPTS} times; try again to resume{job.kept}")


def _offline(job: Download, error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    host = urllib.parse.urlsplit(job.url).hostname
    return (
        f"cannot download {job.url}: {host}: {' '.join(str(reason).split())}{job.kept}; check the "
        "network connection, or download the file elsewhere and pass its path"
    )
