"""Refuses requests to a private page that other sites have a browser make."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class LoopbackOnly:
    """ASGI middleware that answers only requests to, and from pages of, loopback names.

    A site whose name is made to resolve to 127.0.0.1 (DNS rebinding) sends its own name as Host; a
    form of another site sends that site as Origin, which Gradio's own check lets through for
    uploads, as browsers ask no permission for forms.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with status 403."""
        if scope["type"] == "http" and (reason := _refusal(Headers(scope=scope))):
            await PlainTextResponse(f"refused: {reason}\n", 403)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def _refusal(headers: Headers) -> str | None:
    if _hostname(f"//{headers.get('host', '')}") not in LOOPBACK:
        return "this page answers only to localhost and 127.0.0.1"
    if "origin" in headers and _hostname(headers["origin"]) not in LOOPBACK:
        return "the request comes from another site"
    return None


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:  # brackets that do not match
        return None
