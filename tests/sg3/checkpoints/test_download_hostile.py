"""Downloads from a server that lies, breaks off, or does not end."""

import json
import resource
import shutil
import signal

import pytest
from hostile_server import CONTENT, DIGEST, Answer, honest, serve
from program import fails

from sg3.checkpoints import download, transfer
from sg3.checkpoints.content import foreign_content
from sg3.checkpoints.download import cached_path, fetch
from sg3.errors import UserError

PAGE = b"<!DOCTYPE html><html><body>Sign in to continue</body></html>" * 30
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 343\n"
SIZE = len(CONTENT)
HALF = SIZE // 2
OTHER = CONTENT[:3] + CONTENT[:2:-1]  # as long


def span(first, last, total=SIZE):
    return {"ETag": '"one"', "Content-Range": f"bytes {first}-{last}/{total}"}


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("SG3_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("DNNLIB_CACHE_DIR", str(tmp_path / "none"))
    monkeypatch.setattr(download, "PAUSE_S", 0)
    with serve() as server:
        yield server


def stored():
    """Names in the cache, without the prefix that all share."""
    folder = download.cache_dir() / "networks"
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return sorted(name.partition("-")[2] for name in names if not name.endswith(".lock"))


def part_of(url):
    path = cached_path(url)
    return path.with_name(path.name + ".part")


REFUSED = {
    "a web page": (Answer(PAGE), "a web page"),
    "a web page after spaces and a mark": (Answer(b"\xef\xbb\xbf\r\n " + PAGE), "a web page"),
    "an error as JSON": (Answer(b'{"error": "quota exceeded"}'), "sent JSON"),
    "a text": (Answer("Fehler: Datei gelöscht".encode()), "sent text"),
    "a Git LFS pointer": (Answer(POINTER), "git lfs pull"),
    "an archive": (Answer(b"\x1f\x8b\x08\0" + CONTENT), "a gzip archive"),
    "a chunked page": (Answer(PAGE, chunked=True), "a web page"),
    "nothing": (Answer(b""), "an empty file"),
    "no content": (Answer(b"", 204), "answered 204"),
    "compressed": (Answer(CONTENT, headers={"Content-Encoding": "gzip"}), "compressed"),
    "part of it": (Answer(CONTENT[HALF:], 206, span(HALF, SIZE - 1)), "answered 206"),
    "all of it as a part": (Answer(CONTENT, 206, span(0, SIZE - 1)), "answered 206"),
    "no length": (Answer(CONTENT, length=None), "how long"),
    "no length, cut": (Answer(CONTENT, length=None, cut=HALF), "how long"),
    "no length, no end": (Answer(CONTENT, length=None, endless=True), "how long"),
    "a negative length": (Answer(CONTENT, length="-5"), "length '-5'"),
    "a length in words": (Answer(CONTENT, length="many"), "length 'many'"),
    "two lengths": (Answer(CONTENT, headers={"Content-Length": "7"}), "the length"),
    "a huge length": (Answer(CONTENT, length="10000000000000000"), "more than the limit"),
    "elsewhere without TLS": (
        Answer(b"", 302, {"Location": "http://example.com/net.pkl"}),
        "expected an https",
    ),
    "a local file": (Answer(b"", 302, {"Location": "file:///etc/passwd"}), "not allowed"),
    "another scheme": (Answer(b"", 302, {"Location": "ftp://example.com/n.pkl"}), "https"),
    "a data address": (Answer(b"", 302, {"Location": "data:,abc"}), "not allowed"),
    "round in circles": (Answer(b"", 302, {"Location": "/net.pkl"}), "302"),
    "no such file": (Answer(b"", 404), "404"),
    "broken": (Answer(b"", 500), "500"),
    "no range": (Answer(b"", 416), "416"),
}


@pytest.mark.parametrize(("answer", "expected"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_the_file_is_not_stored(server, answer, expected):
    server.script = [answer]
    with pytest.raises(UserError, match=expected) as caught:
        fetch(server.url)
    assert "\n" not in str(caught.value) and server.url in str(caught.value)
    assert stored() == []
    assert server.sent < 10_000_000


def test_a_body_without_an_end_is_given_up(server, monkeypatch):
    monkeypatch.setattr(transfer, "MAX_BYTES_UNANNOUNCED", 2_000_000)
    server.script = [Answer(CONTENT, chunked=True, endless=True)]
    with pytest.raises(UserError, match="more than 2000000 bytes"):
        fetch(server.url)
    assert stored() == [] and server.sent < 20_000_000
    with pytest.raises(UserError, match="more than 1000 bytes"):
        fetch(server.url, size_bytes=1000)


GOOD = {
    "chunks": [Answer(chunked=True)],
    "chunks, cut, then ranges": [Answer(chunked=True, cut=HALF), honest()],
    "another page on this machine": [Answer(b"", 302, {"Location": "/moved.pkl"}), honest()],
    "cut, then ranges": [honest(cut=HALF), honest(cut=100), honest()],
    "ranges without an ETag": [honest(etag=None, cut=HALF), honest(etag=None)],
    "parts of parts": [
        honest(cut=HALF),
        Answer(CONTENT[HALF : HALF + 9], 206, span(HALF, HALF + 8)),
        honest(),
    ],
    "a range that starts elsewhere": [
        honest(cut=HALF),
        Answer(CONTENT[HALF - 9 :], 206, span(HALF - 9, SIZE - 1)),
        honest(),
    ],
    "a range from the start": [
        honest(cut=HALF),
        Answer(CONTENT, 206, span(0, SIZE - 1)),
        honest(),
    ],
    "a range of another file": [
        honest(cut=HALF),
        Answer(OTHER[HALF:], 206, span(HALF, SIZE - 1) | {"ETag": '"two"'}),
        honest(),
    ],
    "a range of another size": [
        honest(cut=HALF),
        Answer(OTHER[HALF:], 206, span(HALF, SIZE - 1, SIZE + 7)),
        honest(),
    ],
    "a range without a word": [honest(cut=HALF), Answer(CONTENT[HALF:], 206), honest()],
    "a range of another length": [
        honest(cut=HALF),
        Answer(CONTENT[HALF:], 206, span(HALF, SIZE - 2)),
        honest(),
    ],
    "all of it instead of a range": [honest(cut=HALF), Answer()],
    "all of it, the same file": [honest(cut=HALF), Answer(headers={"ETag": '"one"'})],
    "no such range": [honest(cut=HALF), Answer(b"", 416), honest()],
    "the file has changed": [honest(OTHER, '"zero"', cut=HALF), honest()],
}


@pytest.mark.parametrize("script", GOOD.values(), ids=GOOD)
def test_the_file_arrives(server, script):
    server.script = list(script)
    path = fetch(server.url)
    assert path.read_bytes() == CONTENT
    assert stored() == ["net.pkl", "net.pkl.sha256"]


def test_a_length_that_is_too_long_or_too_short(server):
    server.script = [Answer(length=str(SIZE + 5), headers={"ETag": '"one"'})]
    with pytest.raises(UserError, match=r"times; try again to resume.* kept in .*net\.pkl\.part"):
        fetch(server.url)
    part_of(server.url).unlink()
    server.script = [honest(length="1000")]
    with pytest.raises(UserError, match=f"1000 bytes, expected {len(CONTENT)}"):
        fetch(server.url, size_bytes=len(CONTENT))
    with pytest.raises(UserError, match=r"SHA-256 .* expected"):
        fetch(server.url, sha256=DIGEST)
    assert stored() == []


def test_a_known_hash_stands_in_for_the_length(server):
    server.script = [Answer(length=None)]
    assert fetch(server.url, sha256=DIGEST[:16]).read_bytes() == CONTENT


def test_the_same_file_without_ranges_never_loses_what_is_there(server):
    """A server without ranges that stalls earlier than the last time."""
    same = {"ETag": '"one"'}
    server.script = [Answer(headers=same, cut=HALF)] + [Answer(headers=same, cut=1000)] * 4
    with pytest.raises(UserError, match=f"resumes after {HALF} bytes"):
        fetch(server.url)
    server.script = [Answer(headers=same)]
    assert fetch(server.url).read_bytes() == CONTENT


def test_a_stalled_transfer_loses_nothing(server, monkeypatch):
    monkeypatch.setattr(transfer, "TIMEOUT_S", 0.2)
    # Less than a block arrives, then nothing for longer than the timeout.
    stalls = honest(piece=100_000, pause_s=3.0)
    server.script = [stalls, honest()]
    assert fetch(server.url).read_bytes() == CONTENT
    assert [request.get("Range") for request in server.requests] == [None, "bytes=100000-"]


def test_a_trickle_counts_as_lost(server, monkeypatch):
    monkeypatch.setattr(transfer, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(transfer, "SLOWEST_BYTES_PER_S", 50_000)
    server.script = [honest(piece=600, pause_s=0.05), honest()]
    assert fetch(server.url).read_bytes() == CONTENT
    assert 600 <= int(server.requests[1]["Range"][6:-1]) < HALF


def test_many_lost_connections_are_no_failure_while_something_arrives(server, monkeypatch):
    monkeypatch.setattr(download, "PROGRESS_BYTES", 50_000)
    server.script = [honest(cut=100_000)] * 12
    assert fetch(server.url).read_bytes() == CONTENT


def test_killed_after_the_last_byte(server):
    fetch(server.url)
    path = cached_path(server.url)
    path.rename(part_of(server.url))
    state = {"url": server.url, "etag": '"one"', "modified": None, "total": len(CONTENT)}
    part_of(server.url).with_name(path.name + ".part.json").write_text(json.dumps(state))
    assert fetch(server.url) == path and len(server.requests) == 1


def test_a_full_disk_keeps_what_arrived(server, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 1000))
    with pytest.raises(UserError, match=r"only 1000 are free there; .*SG3_CACHE_DIR"):
        fetch(server.url)
    assert stored() == []


def test_a_disk_that_fills_up(server):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, before[1]))
    try:
        with pytest.raises(UserError, match=r"net\.pkl\.part: File too large; make room"):
            fetch(server.url)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert part_of(server.url).stat().st_size == HALF
    assert fetch(server.url).read_bytes() == CONTENT
    assert server.requests[-1]["Range"] == f"bytes={HALF}-"


def test_a_page_that_an_older_version_stored_is_replaced(server):
    path = fetch(server.url)
    path.write_bytes(PAGE)
    path.with_name(path.name + ".sha256").write_text("0" * 64 + "  net.pkl\n")
    assert fetch(server.url).read_bytes() == CONTENT
    path.with_name(path.name + ".sha256").write_text("\n")  # emptied by a crash
    assert fetch(server.url) == path


def test_the_program_says_it_in_one_line(server):
    server.script = [Answer(PAGE)]
    message = fails("a web page", "models", "get", server.url)
    assert "pass its path" in message


def test_files_of_tensors_are_not_foreign():
    for head in (b"\x80\x02}q\0", b"PK\x03\x04", b"\x10\x01\0\0\0\0\0\0{", b"\x80\x05\x95"):
        assert foreign_content(head) is None
