"""One request of a download: what an answer promises is checked before and while it is stored."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import string
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from sg3._version import __version__
from sg3.checkpoints.content import HEAD_BYTES, foreign_content
from sg3.errors import UserError
from sg3.files import parse_json, write_text

TIMEOUT_S = 30
BLOCK_BYTES = 1 << 18
#: A connection that delivers less per second, over `TIMEOUT_S`, counts as lost.
SLOWEST_BYTES_PER_S = 500
#: The largest file that is downloaded, and the largest whose length is not announced.
MAX_BYTES, MAX_BYTES_UNANNOUNCED = 16 << 30, 2 << 30
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


class StartOver(Exception):
    """What is on disk and what the server sends are not parts of one file."""


@dataclass(frozen=True)
class Download:
    """A file on its way into the cache.

    Attributes:
        url: its address.
        part: the file that receives it.
        size_bytes: the size that it must have; None: unknown.
        verified: whether its hash is known, so that a cut file would be noticed later.
        progress: show a progress bar; None: only on a terminal.
    """

    url: str
    part: Path
    size_bytes: int | None = None
    verified: bool = False
    progress: bool | None = None

    @property
    def state_path(self) -> Path:
        """File that says which version of the file `part` belongs to."""
        return self.part.with_name(self.part.name + ".json")

    @property
    def received(self) -> int:
        """Bytes on disk."""
        return self.part.stat().st_size if self.part.exists() else 0

    @property
    def kept(self) -> str:
        """For messages: what is on disk, and where."""
        count = self.received
        return f"; the next try resumes after {count} bytes, kept in {self.part}" if count else ""

    def discard(self) -> None:
        """Delete what has been received."""
        self.part.unlink(missing_ok=True)
        self.state_path.unlink(missing_ok=True)

    def refusal(self, reason: str) -> UserError:
        """Return the error for an answer that cannot be the file."""
        return UserError(
            f"{self.url}: {reason}; check the address, or download the file elsewhere and pass "
            "its path"
        )


@dataclass(frozen=True)
class Version:
    """What identifies one version of a file: an answer with another one is another file."""

    url: str
    etag: str | None = None
    modified: str | None = None
    total: int | None = None

    def differs(self, other: Version) -> bool:
        """Whether a value that both have is not the same."""
        pairs = zip(asdict(self).values(), asdict(other).values(), strict=True)
        return any(a != b for a, b in pairs if a is not None and b is not None)

    @property
    def condition(self) -> str | None:
        """The value of If-Range: without a match, the server sends all of the new file instead."""
        # A weak ETag may stand for different bytes.
        strong = self.etag if self.etag and not self.etag.startswith("W/") else None
        return strong or self.modified


def request(job: Download) -> bool:
    """Request what is missing of a file, and append it. Returns whether the file is complete.

    Raises:
        StartOver: what is on disk cannot be continued.
        ValueError: the answer is not the file, or the disk is full.
        OSError, http.client.HTTPException: the connection failed.
    """
    known = _read_version(job)
    start = job.received if known is not None else 0
    if known is not None and start and start == known.total:
        return True  # ended between the last byte and the renaming
    # Not compressed, since Range and the announced length count bytes as they are sent.
    headers = {"User-Agent": f"sg3/{__version__}", "Accept-Encoding": "identity"}
    if start and known is not None:
        headers["Range"] = f"bytes={start}-"
        if known.condition:
            headers["If-Range"] = known.condition
    opener = urllib.request.build_opener(_SafeRedirects)
    address = urllib.parse.quote(job.url, safe=string.punctuation)  # only what is not ASCII
    with opener.open(urllib.request.Request(address, headers=headers), timeout=TIMEOUT_S) as answer:
        first, version = _promise(job, answer, start)
        if start and known is not None and known.differs(version):
            if first:
                raise StartOver("the file has changed")
            start = 0
        elif not first and not (known and known.etag and known.etag == version.etag):
            start = 0  # a server without ranges, which does not tell versions apart
        if start == 0:
            job.discard()
        _check_space(job, version, start)
        _store(job, answer, version, first, start)
    # Without an announced length, the end is that of the last chunk, or judged by size or hash.
    wanted = job.size_bytes if job.size_bytes is not None else version.total
    if wanted is not None and job.received > wanted:
        raise job.refusal(f"{job.received} bytes, expected {wanted}")
    return wanted is None or job.received == wanted


def _promise(job: Download, answer: http.client.HTTPResponse, start: int) -> tuple[int, Version]:
    """Return the offset of the answer's first byte, and the version of the file that it is of."""
    headers = answer.headers
    encoding = headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise job.refusal(f"the server sent it compressed ({encoding}), which was not asked for")
    if answer.status not in (200, 206) or (answer.status == 206 and not start):
        raise job.refusal(f"the server answered {answer.status} to a request of the whole file")
    lengths = set(headers.get_all("Content-Length", []))
    if len(lengths) > 1 or not all(text.strip().isdecimal() for text in lengths):
        raise job.refusal(f"the server sent the length {', '.join(sorted(lengths))!r}")
    length = int(lengths.pop()) if lengths else None
    first, total = 0, length
    if answer.status == 206:
        first, total = _range(headers.get("Content-Range", ""), start, length)
    if job.size_bytes is not None and total not in (None, job.size_bytes):
        raise job.refusal(f"{total} bytes, expected {job.size_bytes}")
    if total is not None and total > MAX_BYTES:
        raise job.refusal(f"{total} bytes, more than the limit of {MAX_BYTES}")
    judged = total is not None or job.size_bytes is not None or job.verified
    if not judged and not getattr(answer, "chunked", False):
        raise job.refusal("the server does not say how long it is, so that a cut would not show")
    return first, Version(job.url, headers.get("ETag"), headers.get("Last-Modified"), total)


def _range(text: str, start: int, length: int | None) -> tuple[int, int]:
    """Return first byte and total size of `Content-Range: bytes 100-199/200`; StartOver unless it
    continues at `start`."""
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", text.strip())
    first, last, total = map(int, found.groups()) if found else (0, 0, 0)
    if first != start or not first <= last < total or length not in (None, last - first + 1):
        raise StartOver(f"the server sent the range {text!r}, expected one from {start}")
    return first, total


def _check_space(job: Download, version: Version, start: int) -> None:
    """Raise UserError if the rest of the file does not fit on the disk."""
    total = version.total if version.total is not None else job.size_bytes
    free = shutil.disk_usage(job.part.parent).free
    if total is not None and total - start > free:
        raise UserError(
            f"{job.part}: {total - start} bytes are missing, and only {free} are free there; "
            "make room, or set SG3_CACHE_DIR to another folder"
        )


def _store(
    job: Download, answer: http.client.HTTPResponse, version: Version, first: int, start: int
) -> None:
    """Append the answer, whose first byte has the offset `first`, to the `start` bytes on disk."""
    limit = MAX_BYTES_UNANNOUNCED if version.total is None else version.total
    limit = limit if job.size_bytes is None else job.size_bytes
    blocks = _blocks(answer)
    block = b""
    if first == 0:  # judged before anything is stored
        while len(block) < HEAD_BYTES and (more := next(blocks, b"")):
            block += more
        if version.total is None or len(block) >= min(HEAD_BYTES, version.total):
            if kind := foreign_content(block[:HEAD_BYTES]):
                raise job.refusal(f"the server sent {kind}, expected a file of tensors")
        elif not block:
            return
    if start == 0:
        write_text(job.state_path, json.dumps(asdict(version)))
    position = first
    with open(job.part, "ab", buffering=0) as file, _bar(job, start, version.total) as bar:
        while block or (block := next(blocks, b"")):
            position += len(block)
            if position > limit:
                job.discard()
                raise job.refusal(f"the server sent more than {limit} bytes")
            # A whole file in answer to a range: its first `start` bytes are there already.
            fresh = block[max(0, len(block) - (position - start)) :] if position > start else b""
            _write(job, file, fresh)
            bar.update(len(fresh))
            block = b""


def _blocks(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield bytes as they arrive. Raises TimeoutError if next to nothing does."""
    since, count = time.monotonic(), 0
    # read1: what has arrived before a timeout is not lost.
    while block := answer.read1(BLOCK_BYTES):
        count += len(block)
        yield block
        elapsed = time.monotonic() - since
        if elapsed > TIMEOUT_S:
            if count < SLOWEST_BYTES_PER_S * elapsed:
                raise TimeoutError(f"only {count} bytes in {elapsed:.0f} s")
            since, count = time.monotonic(), 0


def _write(job: Download, file: BinaryIO, block: bytes) -> None:
    """Write all of `block`. Raises UserError if the disk is full."""
    view = memoryview(block)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError as error:
        raise UserError(
            f"{job.part}: {error.strerror}; make room and try again, which resumes, or set "
            "SG3_CACHE_DIR to another folder"
        ) from None


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects only to https, and from this machine to itself."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        old, new = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        local = old.hostname in LOCAL_HOSTS and new.hostname in LOCAL_HOSTS
        if new.scheme != "https" and not (local and new.scheme == "http"):
            raise UserError(
                f"{req.full_url}: redirects to {newurl}, expected an https:// address; download "
                "the file elsewhere and pass its path"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _read_version(job: Download) -> Version | None:
    """Return the version that the file on disk belongs to; None if it cannot be continued."""
    try:
        found: dict[str, Any] = parse_json(job.state_path.read_text())
        version = Version(**found)
    except (OSError, ValueError, TypeError):
        return None
    return version if version.url == job.url else None


def _bar(job: Download, start: int, total: int | None) -> tqdm:
    name = job.part.name.partition("-")[2].removesuffix(".part")
    shown = sys.stderr.isatty() if job.progress is None else job.progress
    return tqdm(
        desc=name,
        initial=start,
        total=total,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        disable=not shown,
    )
