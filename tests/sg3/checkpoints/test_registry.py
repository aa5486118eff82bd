"""Names, and downloads from a local server: interrupted, resumed, wrong, offline."""

import hashlib
import http.server
import re
import threading

import pytest
import repository

import sg3
from sg3.checkpoints import download
from sg3.checkpoints.download import cached_path, fetch
from sg3.checkpoints.registry import REGISTRY, find_entry
from sg3.errors import UserError

CONTENT = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.content`; `server.cuts` lists the number of bytes before each disconnect."""

    def do_GET(self):
        server, start = self.server, 0
        server.requests.append(dict(self.headers))
        if self.path.startswith("/redirect"):
            self.send_response(302)
            self.send_header("Location", "http://example.com/elsewhere")
            self.end_headers()
            return
        if self.path.startswith("/missing"):
            self.send_error(404)
            return
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        fresh = self.headers.get("If-Range") in (None, server.etag)
        if wanted and fresh and server.ranges:
            start = int(wanted[1])
            if start >= len(server.content):
                self.send_error(416)
                return
            self.send_response(206)
            total = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(server.content) - start))
        self.send_header("ETag", server.etag)
        self.end_headers()
        data = server.content[start:]
        if server.cuts:
            data = data[: server.cuts.pop(0)]
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("SG3_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("DNNLIB_CACHE_DIR", str(tmp_path / "none"))
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.content, server.etag, server.cuts = CONTENT, '"one"', []
        server.ranges, server.requests = True, []
        server.url = f"http://127.0.0.1:{server.server_port}/net.pkl"
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        yield server
        server.shutdown()


def files():
    folder = download.cache_dir() / "networks"
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return sorted(name for name in names if not name.endswith(".lock"))


def test_download_once(server):
    path = fetch(server.url)
    assert path.read_bytes() == CONTENT and path == cached_path(server.url)
    assert fetch(server.url) == path and len(server.requests) == 1
    assert files() == [path.name, path.name + ".sha256"]
    assert DIGEST in (path.parent / (path.name + ".sha256")).read_text()


def test_cut_connections_are_resumed(server):
    server.cuts = [300_000, 200_000]
    assert fetch(server.url, sha256=DIGEST).read_bytes() == CONTENT
    ranges = [request.get("Range") for request in server.requests]
    assert ranges == [None, "bytes=300000-", "bytes=500000-"]


def test_resumed_by_a_later_run(server):
    server.cuts = [100_000] * download.ATTEMPTS
    with pytest.raises(UserError, match="resume"):
        fetch(server.url)
    assert [name.rsplit(".", 1)[1] for name in files()] == ["part", "json"]
    assert fetch(server.url).read_bytes() == CONTENT
    assert server.requests[-1]["Range"] == "bytes=400000-"


def test_a_file_that_changed_meanwhile_starts_over(server):
    server.cuts = [100_000] * download.ATTEMPTS
    with pytest.raises(UserError):
        fetch(server.url)
    server.content, server.etag = CONTENT[::-1], '"two"'
    assert fetch(server.url).read_bytes() == CONTENT[::-1]


def test_server_without_ranges(server):
    server.ranges, server.cuts = False, [300_000]
    assert fetch(server.url).read_bytes() == CONTENT


def test_wrong_size_and_wrong_hash_leave_nothing(server):
    with pytest.raises(UserError, match="1024000 bytes, expected 1000"):
        fetch(server.url, size_bytes=1000)
    with pytest.raises(UserError, match="1024000 bytes, expected 2000000"):
        fetch(server.url, size_bytes=2_000_000)
    with pytest.raises(UserError, match="SHA-256"):
        fetch(server.url, sha256="0" * 64)
    assert files() == []


def test_first_download_decides_what_is_trusted(server):
    path = fetch(server.url)
    path.unlink()
    server.content = CONTENT[::-1]
    with pytest.raises(UserError, match=r"delete .*\.sha256"):
        fetch(server.url)
    assert not path.exists()
    server.content = CONTENT
    path = fetch(server.url)
    path.write_bytes(b"damaged on disk")
    assert fetch(server.url).read_bytes() == CONTENT


def test_what_the_official_tools_downloaded_is_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv("DNNLIB_CACHE_DIR", str(tmp_path / "dnnlib"))
    key = hashlib.md5(server.url.encode(), usedforsecurity=False).hexdigest()
    copy = tmp_path / "dnnlib" / "downloads" / f"{key}_net.pkl"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(CONTENT)
    assert fetch(server.url) == copy and not server.requests
    copy.write_bytes(b"damaged")
    assert fetch(server.url, sha256=DIGEST) != copy and server.requests


def test_errors_in_one_line(server, tmp_path, monkeypatch):
    for url, expected in [
        (server.url.replace("net.pkl", "missing"), "404"),
        (server.url.replace("net.pkl", "redirect"), "https://"),
        ("https://unplugged.example/net.pkl", "check the network connection"),
        ("http://127.0.0.1:9/net.pkl", "cannot download"),
        ("file:///etc/passwd", "expected an https"),
    ]:
        with pytest.raises(UserError, match=expected) as caught:
            fetch(url)
        assert "\n" not in str(caught.value)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SG3_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot write"):
        fetch(server.url)


def test_load_from_an_address(server):
    server.content = (repository.GOLDEN / "official-sg2-32.pkl").read_bytes()
    nets = sg3.load(server.url)
    assert nets.G_ema.img_resolution == 32 and nets.meta["source"] == server.url


def test_registry_is_consistent():
    assert next(iter(REGISTRY)) == "mini-faces" and REGISTRY["mini-faces"].bundled.suffix
    assert len({entry.source for entry in REGISTRY.values()}) == len(REGISTRY)
    assert sum(name.startswith("stylegan3-") for name in REGISTRY) == 12
    assert sum(name.startswith("stylegan2-") for name in REGISTRY) == 15
    for name, entry in REGISTRY.items():
        assert name == entry.name and entry.licence and entry.resolution >= 32
        assert entry.bundled or entry.source.startswith("https://")
        assert name.endswith(f"-{entry.resolution}") or name.startswith("mini-faces")


def test_the_bundled_network_is_found_by_name(tmp_path, monkeypatch):
    if not REGISTRY["mini-faces"].bundled.exists():
        pytest.skip("mini-faces is not trained yet")
    (tmp_path / "mini-faces").mkdir()  # a folder of that name is not in the way
    monkeypatch.chdir(tmp_path)
    nets = sg3.load("mini-faces")
    assert nets.G_ema.kind == "stylegan3" and nets.G_ema.img_resolution == 64
    assert nets.meta["licence"] == "Apache-2.0" and nets.meta["name"] == "mini-faces"


def test_names_are_found():
    assert find_entry("stylegan3-t-ffhq-1024x1024.pkl").name == "stylegan3-t-ffhq-1024"
    assert find_entry("Mini-Faces").name == "mini-faces"
    with pytest.raises(UserError, match="stylegan3-r-afhqv2-512"):
        find_entry("stylegan3-r-afhq-512")
    with pytest.raises(UserError, match="sg3 models"):
        find_entry("qqqq")
