"""A server on loopback that answers as it is told: cut, wrong, slow, endless."""

from __future__ import annotations

import hashlib
import http.server
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

CONTENT = b"\x80\x04\x95" + bytes(range(256)) * 4000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
#: As long as any test reads from an answer without an end.
ENDLESS_BYTES = 100_000_000


@dataclass
class Answer:
    """One answer.

    Attributes:
        body: what is sent after the headers.
        status: its code.
        headers: besides Content-Length.
        length: Content-Length; "right": that of `body`; None: left out.
        cut: bytes after which the connection is closed; None: all are sent.
        endless: repeat `body` for ever.
        pause_s: wait after every `piece` bytes.
        piece: bytes that are sent at once.
        chunked: send chunks, the last of them unless `cut`.
    """

    body: bytes = CONTENT
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    length: str | None = "right"
    cut: int | None = None
    endless: bool = False
    pause_s: float = 0
    piece: int = 65_536
    chunked: bool = False


Script = Answer | Callable[[dict[str, str]], Answer]


def honest(content: bytes = CONTENT, etag: str | None = '"one"', **changes) -> Script:
    """The answers of a good server with ranges, with some changes."""

    def answer(headers: dict[str, str]) -> Answer:
        tags = {"ETag": etag} if etag else {}
        wanted = re.fullmatch(r"bytes=(\d+)-", headers.get("Range", ""))
        if not wanted or headers.get("If-Range") not in (None, etag):
            return Answer(content, headers=tags, **changes)
        start, total = int(wanted[1]), len(content)
        if start >= total:
            return Answer(b"", 416, {"Content-Range": f"bytes */{total}"})
        span = f"bytes {start}-{total - 1}/{total}"
        return Answer(content[start:], 206, tags | {"Content-Range": span}, **changes)

    return answer


class HostileServer(http.server.ThreadingHTTPServer):
    """`script` lists the answers; the last one is repeated. `requests` has the headers seen."""

    daemon_threads = True
    script: list[Script]
    requests: list[dict[str, str]]
    sent: int = 0

    @property
    def url(self) -> str:
        """Address of the file."""
        return f"http://127.0.0.1:{self.server_port}/net.pkl"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: HostileServer

    def do_GET(self) -> None:
        headers = dict(self.headers)
        self.server.requests.append({**headers, "path": self.path})
        script = self.server.script
        planned = script.pop(0) if len(script) > 1 else script[0]
        answer = planned if isinstance(planned, Answer) else planned(headers)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif answer.length is not None:
            right = answer.length == "right"
            self.send_header("Content-Length", str(len(answer.body)) if right else answer.length)
        try:
            self.end_headers()
            self._send(answer)
        except OSError:
            pass  # the other side has had enough
        self.close_connection = True

    def _send(self, answer: Answer) -> None:
        data = answer.body[: answer.cut]
        while True:
            for at in range(0, len(data), answer.piece):
                piece = data[at : at + answer.piece]
                framed = b"%x\r\n%s\r\n" % (len(piece), piece) if answer.chunked else piece
                self.wfile.write(framed)
                self.server.sent += len(piece)
                if answer.pause_s:
                    time.sleep(answer.pause_s)
            if not answer.endless or self.server.sent > ENDLESS_BYTES:
                break
        if answer.chunked and answer.cut is None:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serve() -> Iterator[HostileServer]:
    """Serve until the block ends."""
    with HostileServer(("127.0.0.1", 0), _Handler) as server:
        server.protocol_version = "HTTP/1.1"
        server.script, server.requests = [honest()], []
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        yield server
        server.shutdown()
