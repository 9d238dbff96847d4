"""What a request may ask for before anything is read of it: whose it is, how large, and how many there are at once.

No page of another site may use the server in the name of whoever visits it: on a loopback address only its own names
are answered to (no DNS rebinding), and what a browser sends for another origin is refused.
"""

import hmac
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
COOKIE = "omnivl_token"  # for what a page loads without a script: pictures and films
OPEN = ("/v1/health", "/openapi.json")  # of /v1, what needs no token
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
}


@dataclass(frozen=True)
class Limits:
    """What a request may cost."""

    upload_bytes: int = 64 * 2**20
    pixels: int = 50_000_000  # of a picture or frame
    video_seconds: float = 600.0  # of an upload
    seconds: float = 120.0  # from its arrival to its answer; a file that is being decoded is finished first
    waiting: int = 128  # requests that compute, or wait to


class Refusal(Exception):
    """A request that is not done: the status and one sentence."""

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.headers = status, sentence, headers

    def response(self) -> JSONResponse:
        return JSONResponse({"error": self.sentence}, self.status, self.headers)


class Guard:
    """ASGI middleware around everything. `hosts`: the names it answers to; None: any."""

    def __init__(self, app: Any, limits: Limits, token: str | None, hosts: Collection[str] | None) -> None:
        self.app, self.limits, self.token, self.hosts = app, limits, token, hosts
        self.busy = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self.check(Request(scope))
        except Refusal as refusal:
            await refusal.response()(scope, receive, with_headers)
            return
        computes = scope["method"] == "POST"
        self.busy += computes
        try:
            await self.app(scope, self.counted(receive), with_headers)
        finally:
            self.busy -= computes

    def check(self, request: Request) -> None:
        """Raises Refusal."""
        headers = request.headers
        if self.hosts is not None and hostname(headers.get("host", "")) not in self.hosts:
            raise Refusal(421, "this server does not answer to that name")
        if request.method == "POST":
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc != headers.get("host"):
                raise Refusal(403, "pages of another site may not ask this server")
        if self.token and request.url.path.startswith("/v1/") and request.url.path not in OPEN:
            given = bearer(headers) or unquote(request.cookies.get(COOKIE, ""))
            if not hmac.compare_digest(given.encode(), self.token.encode()):
                told = {"www-authenticate": "Bearer"}
                raise Refusal(401, "a token is needed: send it as `Authorization: Bearer TOKEN`", told)
        if request.method == "POST":
            length = headers.get("content-length", "")
            if length.isdigit() and int(length) > self.limits.upload_bytes:
                raise self.too_large()
            if self.busy >= self.limits.waiting:
                raise Refusal(429, "too many requests at once: try again in a second", {"retry-after": "1"})

    def counted(self, receive: Receive) -> Receive:
        """`receive`, which raises Refusal once more has come than an upload may have."""
        size = 0

        async def counting() -> MutableMapping[str, Any]:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.limits.upload_bytes:
                raise self.too_large()
            return message

        return counting

    def too_large(self) -> Refusal:
        return Refusal(413, f"the request is larger than {self.limits.upload_bytes / 2**20:g} MiB")


def hostname(host: str) -> str:
    """Of a Host header, without the port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def bearer(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip().encode("latin-1").decode("utf-8", "replace") if scheme.lower() == "bearer" else ""
