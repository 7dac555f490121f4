"""Who may talk to the server: pages of its own, on names of its own; and what a page may load: nothing from outside."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PICTURE_POLICY = "default-src 'none'; sandbox"
"""Of pictures that others drew: opened on their own, they run nothing and load nothing."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """True for `localhost` and for addresses that only this machine reaches."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Refuse requests that another site could have made a browser send, and add the headers of `HEADERS`.

    A request's Host must be `localhost`, an address that the server may have, or one of its names: a name of somebody
    else's that points here (DNS rebinding) is refused. A request that comes from a page must come from one of ours.

    Args:
        app: what is guarded.
        names: further names of the server.
        loopback: True when it listens on this machine alone; then only loopback addresses are its own.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str] = (), loopback: bool = True) -> None:
        self.app = app
        self.names = frozenset(name.lower() for name in names)
        self.loopback = loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with 403 and one sentence."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(Headers(scope=scope))
        if refusal is None:
            await self.app(scope, receive, send_with_headers)
        else:
            await JSONResponse({"error": refusal}, 403)(scope, receive, send_with_headers)

    def _refusal(self, headers: Headers) -> str | None:
        host = headers.get("host", "")
        if not self._is_ours(host):
            return "This server does not go by the name in the request's Host. Open the address that it printed."
        origin = headers.get("origin")
        if origin is not None and not _is_at(origin, host):
            return "The request comes from another site's page. Open the address that the server printed."
        if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
            return "The request comes from another site's page. Open the address that the server printed."
        return None

    def _is_ours(self, host: str) -> bool:
        name = _name(host)
        if name is None:
            return False
        if is_loopback(name) or name in self.names:
            return True
        return not self.loopback and _is_address(name)


def _is_at(address: str, host: str) -> bool:
    parts = _split(address)
    return parts is not None and parts.netloc.lower() == host.lower()


def _name(host: str) -> str | None:
    parts = _split(f"//{host}")
    return None if parts is None else parts.hostname


def _split(address: str) -> SplitResult | None:
    try:
        return urlsplit(address)
    except ValueError:
        return None


def _is_address(name: str) -> Any:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
