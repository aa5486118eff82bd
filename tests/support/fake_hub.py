"""A Hugging Face hub on loopback: what huggingface_hub calls to read and to write models."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from urllib.parse import unquote, urlsplit

import pytest

READ, WRITE = "hf_readonly", "hf_writer"


@dataclass
class Repo:
    """A repository with one branch; every commit is kept under its hash."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], message: str = "") -> str:
        """Make `files` the content of the main branch; returns the commit."""
        self.messages.append(message)
        text = repr((len(self.commits), sorted((k, hash(v)) for k, v in files.items())))
        sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self.commits[sha], self.refs["main"] = files, sha
        return sha

    @property
    def files(self) -> dict[str, bytes]:
        """The files of the main branch."""
        return self.commits[self.refs["main"]]


class FakeHub(http.server.ThreadingHTTPServer):
    """`repos` by OWNER/NAME; `requests` lists method, path and headers of all requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, Message]] = []

    @property
    def url(self) -> str:
        """Its address, for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, name: str, files: dict[str, bytes], **settings: bool) -> Repo:
        """Add a repository with these files."""
        repo = self.repos[name] = Repo(**settings)
        repo.commit(files)
        return repo


class Refused(Exception):
    """An answer other than success: status, and the hub's name for the error."""

    def __init__(self, status: int, code: str = "", message: str = ""):
        super().__init__(status, code, message)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        self.server.requests.append((self.command, self.path, self.headers))
        body = self._body()
        try:
            self._route(unquote(urlsplit(self.path).path), body)
        except Refused as refused:
            status, code, message = refused.args
            said = {"X-Error-Code": code, "X-Error-Message": message}
            about = {"error": message or code, "url": self.server.url + self.path}
            self._answer(json.dumps(about).encode(), status, said)

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: object) -> None:
        self._answer(json.dumps(value).encode(), headers={"Content-Type": "application/json"})

    @property
    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _repo(self, name: str, write: bool = False) -> Repo:
        if self._token not in ("", READ, WRITE):
            raise Refused(401, message="Invalid credentials in Authorization header")
        repo = self.server.repos.get(name)
        if repo is None or (repo.private and not self._token):
            raise Refused(404 if self._token else 401, "RepoNotFound", "Repository not found")
        if repo.gated and not self._token:
            raise Refused(401, "GatedRepo", "Access to this model is restricted")
        if write and self._token != WRITE:
            raise Refused(403, message="you must use a write token to upload to a repository")
        return repo

    def _commit_of(self, repo: Repo, revision: str) -> str:
        sha = repo.refs.get(revision, revision)
        if sha not in repo.commits:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha

    def _route(self, path: str, body: bytes) -> None:
        routes = {
            r"/api/models/([^/]+/[^/]+)/preupload/(.+)": self._preupload,
            r"/api/models/([^/]+/[^/]+)/commit/(.+)": self._commit,
            r"/api/models/([^/]+/[^/]+)/revision/(.+)": self._info,
            r"/api/models/([^/]+/[^/]+)/tree/([^/]+).*": self._tree,
            r"/api/models/([^/]+/[^/]+)": self._info,
            r"/api/repos/create": self._create,
            r"/api/validate-yaml": self._validate,
            r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch": self._lfs_batch,
            r"/lfs/(\w+)": self._lfs_put,
            r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)": self._resolve,
        }
        for pattern, route in routes.items():
            if found := re.fullmatch(pattern, path):
                return route(body, *found.groups())
        raise Refused(404, message=f"the fake hub does not know {path}")

    def _info(self, body: bytes, name: str, revision: str = "main") -> None:
        repo = self._repo(name)
        sha = self._commit_of(repo, revision)
        siblings = [{"rfilename": file} for file in sorted(repo.commits[sha])]
        about = {"id": name, "modelId": name, "sha": sha, "private": repo.private}
        self._json({**about, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0})

    def _tree(self, body: bytes, name: str, revision: str) -> None:
        repo = self._repo(name)
        files = repo.commits[self._commit_of(repo, revision)]
        self._json(
            [
                {"type": "file", "path": path, "size": len(data), "oid": _sha1(data)}
                for path, data in sorted(files.items())
            ]
        )

    def _resolve(self, body: bytes, name: str, revision: str, path: str) -> None:
        repo = self._repo(name)
        sha = self._commit_of(repo, revision)
        if path not in repo.commits[sha]:
            raise Refused(404, "EntryNotFound", "Entry not found")
        data = repo.commits[sha][path]
        etag = hashlib.sha256(data).hexdigest()
        self._answer(data, headers={"ETag": f'"{etag}"', "X-Repo-Commit": sha})

    def _create(self, body: bytes) -> None:
        wanted = json.loads(body)
        if not self._token:
            raise Refused(401, message="Invalid username or password.")
        if self._token not in (READ, WRITE):
            raise Refused(401, message="Invalid credentials in Authorization header")
        if self._token != WRITE:
            raise Refused(403, message="you don't have the rights to create a model")
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.server.repos:
            about = {"error": "You already created this model repo"}
            about["url"] = f"{self.server.url}/{name}"  # of the repository
            self._answer(json.dumps(about).encode(), 409)
            return
        private = wanted.get("private") or wanted.get("visibility") == "private"
        self.server.add(name, {".gitattributes": b""}, private=bool(private))
        self._json({"url": f"{self.server.url}/{name}", "name": name, "id": name})

    def _validate(self, body: bytes) -> None:
        content = json.loads(body)["content"]
        if not content.startswith("---\n"):
            raise Refused(400, message="empty or missing yaml metadata in repo card")
        self._json({"errors": [], "warnings": []})

    def _preupload(self, body: bytes, name: str, revision: str) -> None:
        self._repo(name, write=True)
        large = (".safetensors", ".pkl", ".png", ".mp4")
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(large) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        self._json({"files": modes})

    def _lfs_batch(self, body: bytes, name: str) -> None:
        self._repo(name, write=True)
        objects = []
        for item in json.loads(body)["objects"]:
            upload = {"upload": {"href": f"{self.server.url}/lfs/{item['oid']}", "header": {}}}
            known = item["oid"] in self.server.blobs
            objects.append({**item, **({} if known else {"actions": upload})})
        self._json({"transfer": "basic", "objects": objects})

    def _lfs_put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refused(400, message="the hash does not match")
        self.server.blobs[oid] = body
        self._answer(b"")

    def _commit(self, body: bytes, name: str, revision: str) -> None:
        repo = self._repo(name, write=True)
        files, message = dict(repo.files), ""
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
            else:
                raise Refused(400, message=f"cannot do {entry['key']}")
        sha = repo.commit(files, message)
        self._json({"commitUrl": f"{self.server.url}/{name}/commit/{sha}", "commitOid": sha})

    def log_message(self, *args: object) -> None:
        pass


def _sha1(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


@contextmanager
def serve_hub() -> Iterator[FakeHub]:
    """Serve a hub without repositories until the block ends."""
    with FakeHub() as hub:
        threading.Thread(target=hub.serve_forever, args=[0.02], daemon=True).start()
        yield hub
        hub.shutdown()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on loopback that huggingface_hub uses, with an empty cache and no token."""
    from huggingface_hub import constants

    with serve_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        address = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # uploads by LFS
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield hub
