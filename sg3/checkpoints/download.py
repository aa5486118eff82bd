"""Downloads to the cache: resumable, verified, atomic."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ops_cuda.cache import cache_dir
from sg3._version import __version__
from sg3.errors import UserError
from sg3.files import prepare_folder, sha256_of, write_text

ATTEMPTS = 4
TIMEOUT_S = 30
BLOCK_BYTES = 1 << 18


def check_url(url: str) -> None:
    """Raise ValueError unless `url` is https, or http on this machine."""
    parts = urllib.parse.urlsplit(url)
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
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
        sha256: expected hash; None: that of the first download, which is stored next to the file.
        size_bytes: expected size; None: the length that the server states.
        progress: show a progress bar; None: only on a terminal.

    Raises:
        ValueError: no connection, wrong size or hash, or the cache is not writable.
    """
    check_url(url)
    target = cached_path(url)
    record = target.with_name(target.name + ".sha256")
    expected = sha256 or (record.read_text().split()[0] if record.exists() else None)
    if target.exists():
        if expected is None or sha256_of(target) == expected:
            return target
        target.unlink()  # damaged on disk: download it again
    official = official_copy(url)
    if official is not None and (expected is None or sha256_of(official) == expected):
        return official
    prepare_folder(target.parent)
    part = target.with_name(target.name + ".part")
    with _lock(part):
        if target.exists():  # another process was faster
            return target
        _complete(url, part, size_bytes, progress)
        found = sha256_of(part)
        if expected is not None and found != expected:
            _discard(part)
            raise UserError(
                f"{url}: SHA-256 is {found}, expected {expected}; "
                f"if the publisher replaced the file, delete {record}"
            )
        # On disk before the renaming, or a crash could leave a damaged file under its final name.
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        # Before the renaming: a file under its final name always has its hash next to it.
        write_text(record, f"{found}  {target.name}\n")
        os.replace(part, target)
        _discard(part)
    return target


@contextmanager
def _lock(part: Path):
    """Serialize downloads of a file between processes, on systems with file locks."""
    path = part.with_suffix(".lock")
    with open(path, "w") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        except (ImportError, OSError):
            pass
        yield  # the lock file stays: other processes may wait for it


def _state_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _state_path(part).unlink(missing_ok=True)


def _complete(url: str, part: Path, size_bytes: int | None, progress: bool | None) -> None:
    """Transfer until `part` is complete; resume after lost connections."""
    for attempt in range(ATTEMPTS):
        before = part.stat().st_size if part.exists() else 0
        try:
            total = _transfer(url, part, progress)
        except urllib.error.HTTPError as error:
            if error.code == 416 and attempt == 0:  # `part` is longer than the file: start over
                _discard(part)
                continue
            raise UserError(f"{url}: the server returned {error.code} {error.reason}") from None
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            grown = part.exists() and part.stat().st_size > before
            # Again only after progress or a lost connection: a missing network stays away.
            if attempt + 1 == ATTEMPTS or not (grown or isinstance(error, ConnectionError)):
                raise UserError(_offline(url, part, error)) from None
            time.sleep(0.2 * 2**attempt)
            continue
        size = part.stat().st_size
        wanted = size_bytes if size_bytes is not None else total
        if wanted is None or size == wanted:
            return
        announced = total if total is not None else wanted
        if size > wanted or announced != wanted:
            _discard(part)
            raise UserError(f"{url}: {max(size, total or 0)} bytes, expected {wanted}")
    raise UserError(f"{url}: connection lost {ATTEMPTS} times; try again to resume the download")


def _offline(url: str, part: Path, error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    host = urllib.parse.urlsplit(url).hostname
    kept = f"; the next try resumes after {part.stat().st_size} bytes" if part.exists() else ""
    return (
        f"cannot download {url}: {host}: {' '.join(str(reason).split())}{kept}; check the network "
        "connection, or download the file elsewhere and pass its path"
    )


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects only to https."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        check_url(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _transfer(url: str, part: Path, progress: bool | None) -> int | None:
    """Request the missing rest of `part` and append it. Returns the total size, if stated."""
    state = _read_state(part)
    start = part.stat().st_size if part.exists() and state.get("url") == url else 0
    # Not compressed, since Range and the announced length count bytes as they are sent.
    headers = {"User-Agent": f"sg3/{__version__}", "Accept-Encoding": "identity"}
    if start > 0:
        headers["Range"] = f"bytes={start}-"
        if state.get("etag"):
            # If the file has changed, the server then sends all of it, not the rest of another.
            headers["If-Range"] = state["etag"]
    opener = urllib.request.build_opener(_SafeRedirects)
    with opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S) as answer:
        # A server may ignore Range and send the whole file with status 200.
        resumed = answer.status == 206 and start > 0
        start = start if resumed else 0
        total = _total(answer, resumed)
        etag = answer.headers.get("ETag")
        # If-Range needs a strong ETag: a weak one may stand for different bytes.
        strong = etag if etag and not etag.startswith("W/") else None
        if not resumed:
            write_text(_state_path(part), json.dumps({"url": url, "etag": strong}))
        with (
            open(part, "ab" if resumed else "wb") as file,
            _bar(part, start, total, progress) as bar,
        ):
            while block := answer.read(BLOCK_BYTES):
                file.write(block)
                bar.update(len(block))
    return total


def _total(answer: http.client.HTTPResponse, resumed: bool) -> int | None:
    if resumed:  # Content-Range: bytes 100-199/200
        text = answer.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        text = answer.headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


def _read_state(part: Path) -> dict[str, Any]:
    try:
        return json.loads(_state_path(part).read_text())
    except (OSError, ValueError):
        return {}


def _bar(part: Path, start: int, total: int | None, progress: bool | None) -> tqdm:
    name = part.name.partition("-")[2].removesuffix(".part")
    shown = sys.stderr.isatty() if progress is None else progress
    return tqdm(
        desc=name,
        initial=start,
        total=total,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        disable=not shown,
    )
