"""What every request passes before anything else sees it: who may ask, for what, and how much they may send.

It knows nothing of how the page looks. A request is refused that names another host or comes from another site's page;
what proxies say is believed only of those that were named; bodies are counted as they arrive, whatever they claim; and
whoever tries passwords has to wait.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from metadeblur.app.hosts import Asked, Hosts, Proxies, host_of, same_site
from metadeblur.app.throttle import Throttle

MOST_BYTES = 1_000_000  # of a body that is not an upload
MOST_DEPTH = 64  # of lists in lists in what a browser sends
BODY_SECONDS = 30.0  # for such a body to arrive
UPLOAD_PAUSE_SECONDS = 60.0  # without a byte of an upload; after so long it must also keep up with
UPLOAD_RATE = 1000.0  # bytes a second on average
MOST_HEADERS, MOST_HEADER_BYTES = 100, 32_768
MOST_PATH, MOST_QUERY = 1024, 4096  # bytes

_OWN = "'self' 'unsafe-inline'"
POLICY = (
    f"default-src 'self'; script-src {_OWN} 'unsafe-eval'; style-src {_OWN}; font-src 'self' data:; "
    "img-src 'self' data: blob:; media-src 'self' blob:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self' "
)
"""What a browser may load for the page: nothing from anywhere else, whatever Gradio's own code asks for."""
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_LOGIN = ("/login", "/login/")
_METHODS = ("GET", "HEAD", "POST")
_REPLACED = (b"host", b"forwarded", b"x-real-ip", b"x-forwarded-", b"x-original-", b"x-rewrite-", b"x-gradio-")
_STRANGE = re.compile(r"[\x00-\x1f\x7f\\%]|(?:^|/)\.\.?(?:/|$)")  # in a path that is decoded already
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)  # the last one may lack its end
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class Refused(HTTPException):
    """A request that is not answered as it wants to be."""

    def __init__(self, status: int, words: str, **headers: str) -> None:
        super().__init__(status, words, headers)


@dataclass(frozen=True)
class Rules:
    """What the gate lets through."""

    hosts: Hosts
    served: Callable[[str], bool]  # whether there is anything at a path
    is_upload: Callable[[str], bool]  # whether files are sent to a path
    upload_bytes: int  # most of one
    proxies: Proxies = field(default_factory=Proxies)
    embedded_by: str = ""  # a site that may show the page inside its own


class Gate:
    """An ASGI application around another one.

    Args:
        app: what is behind it.
        rules: who may pass.
    """

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self._app, self._rules = app, rules
        self._throttle = Throttle()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "websocket":  # there is none
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send, self._rules.embedded_by)
        try:
            scope, asked = self._cleaned(scope)
            answer.secure = asked.scheme == "https"
            await self._pass(scope, asked, receive, answer)
        except Refused as refusal:
            await answer.refuse(refusal, scope)
        except ClientDisconnect:  # nobody is left to be told
            return
        except Exception:
            await answer.refuse(Refused(500, "something went wrong here"), scope)
            raise

    def _cleaned(self, scope: Scope) -> tuple[Scope, Asked]:
        """The request as it is behind the gate: with its real visitor, host and scheme, and nobody's word for them."""
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if len(headers) > MOST_HEADERS or sum(map(len, itertools.chain(*headers))) > MOST_HEADER_BYTES:
            raise Refused(431, "the request has too many headers, or too long ones")
        told: dict[str, str] = {}
        for raw, value in headers:
            name, word = raw.decode("latin-1").lower(), value.decode("latin-1")
            told[name] = f"{told[name]},{word}" if name in told else word
        client = (scope.get("client") or ("", 0))[0]
        asked = self._rules.proxies.asked(client, scope["scheme"], told.get("host", ""), told)
        self._check_host(asked, (scope.get("server") or (None, None))[0])
        kept = [header for header in headers if not header[0].lower().startswith(_REPLACED)]
        changed = {
            "client": (asked.client, (scope.get("client") or ("", 0))[1]),
            "scheme": asked.scheme,
            "headers": [*kept, (b"host", asked.host.encode("latin-1"))],
        }
        return {**scope, **changed}, asked

    def _check_host(self, asked: Asked, arrived_at: str | None) -> None:
        host = host_of(asked.host)
        if host is None:
            raise Refused(400, "the request does not say which host it is for")
        if not self._rules.hosts.answer(host[0], arrived_at):
            raise Refused(
                421,
                f"this page does not answer to the name {host[0][:100]}; whoever runs it can allow the name with "
                f"--allow-host {host[0][:100]}",
            )

    async def _pass(self, scope: Scope, asked: Asked, receive: Receive, answer: _Answer) -> None:
        path, method = scope["path"].replace(os.sep, "/"), scope["method"]  # as Windows writes files
        if len(path) > MOST_PATH or len(scope["query_string"]) > MOST_QUERY:
            raise Refused(414, "the address is too long")
        if method not in _METHODS:
            raise Refused(405, f"there is only {', '.join(_METHODS)}", Allow=", ".join(_METHODS))
        _check_site(scope, asked, bool(self._rules.embedded_by))
        if _STRANGE.search(path) or not self._rules.served(path):
            raise Refused(404, "there is nothing at this address")
        if method == "POST" and self._rules.is_upload(path):
            _check_length(scope, self._rules.upload_bytes)
            await self._app(scope, _streamed(receive, self._rules.upload_bytes), answer)
            return
        _check_length(scope, MOST_BYTES)
        body = await _whole(receive)
        if not _is_form(scope):
            _check_depth(body)
        tries = method == "POST" and path in _LOGIN
        if tries and (wait := self._throttle.wait(asked.client)):
            seconds = int(wait) + 1
            words = f"too many wrong passwords; try again in {seconds} s"
            raise Refused(429, words, **{"Retry-After": str(seconds)})
        await self._app(scope, _again(body, receive), answer)
        if tries and answer.status == 200:
            self._throttle.right(asked.client)


def _header(scope: Scope, name: bytes) -> str:
    """A header's value; empty where there is none."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name), "")


def _check_site(scope: Scope, asked: Asked, embedded: bool) -> None:
    """Refuse what another site's page asks for; anybody may follow a link to the page itself.

    Raises:
        Refused: it comes from there.
    """
    origin, fetched = _header(scope, b"origin"), _header(scope, b"sec-fetch-site").lower()
    refusal = Refused(403, "another site's page may not ask this one for anything; open the page itself")
    if origin and not same_site(origin, asked):
        raise refusal
    if fetched in ("", "same-origin", "none"):
        return
    shown_in = ("document", "iframe") if embedded else ("document",)
    followed = _header(scope, b"sec-fetch-mode") == "navigate" and _header(scope, b"sec-fetch-dest") in shown_in
    if not (followed and scope["method"] == "GET" and scope["path"] in ("", "/")):
        raise refusal


def _check_length(scope: Scope, most: int) -> None:
    """Refuse what says beforehand that it is too long.

    Raises:
        Refused: it is.
    """
    length = _header(scope, b"content-length")
    if length and not (length.isascii() and length.isdigit()):
        raise Refused(400, "the request does not say how long it is")
    if length and int(length[:20]) > most:
        raise _too_long(most)


def _too_long(most: int) -> Refused:
    return Refused(413, f"larger than the {most / 1e6:,.0f} MB that this page takes here")


def _is_form(scope: Scope) -> bool:
    return _header(scope, b"content-type").lower().startswith(("multipart/form-data", "application/x-www-form-"))


async def _whole(receive: Receive) -> bytes:
    """A body, if it is short and does not take long.

    Raises:
        Refused: it is not, or the visitor has gone.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refused(400, "the request ends in the middle")
                body += message.get("body", b"")
                if len(body) > MOST_BYTES:
                    raise _too_long(MOST_BYTES)
                more = message.get("more_body", False)
    except TimeoutError:
        raise Refused(408, "the request took too long to arrive", Connection="close") from None
    return bytes(body)


def _again(body: bytes, receive: Receive) -> Receive:
    """Give a body that has been read; then what comes after it, which is that the visitor goes."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _streamed(receive: Receive, most: int) -> Receive:
    """Give a body as it comes; whoever sends too much or too slowly is taken to have gone."""
    began, size = time.monotonic(), 0

    async def next_piece() -> Message:
        nonlocal size
        try:
            message = await asyncio.wait_for(receive(), UPLOAD_PAUSE_SECONDS)
        except TimeoutError:
            return {"type": "http.disconnect"}
        size += len(message.get("body", b""))
        since = time.monotonic() - began
        if since > UPLOAD_PAUSE_SECONDS and size < UPLOAD_RATE * since:
            return {"type": "http.disconnect"}
        if size > most:
            raise _too_long(most)
        return message

    return next_piece


def _check_depth(body: bytes) -> None:
    """Refuse lists in lists in lists without end: reading them takes the stack of whoever does.

    Raises:
        Refused: too deep.
    """
    if body.count(b"[") + body.count(b"{") <= MOST_DEPTH:
        return
    depth = 0
    for mark in _STRING.sub(b"", body).translate(None, _NO_BRACKETS):
        depth += 1 if mark in b"[{" else -1
        if depth > MOST_DEPTH:
            raise Refused(400, "the request has lists in lists without end")


class _Answer:
    """Sends an answer with the headers that all have; cookies stay between this page and its browser.

    Args:
        send: sends it.
        embedded_by: a site that may show the page inside its own.
    """

    def __init__(self, send: Send, embedded_by: str) -> None:
        self._send, self._embedded_by = send, embedded_by
        self.secure = False
        self.status = 0

    async def __call__(self, message: Message) -> None:
        """A part of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message.setdefault("headers", [])
            headers = MutableHeaders(scope=message)
            headers.setdefault("Content-Security-Policy", f"{POLICY}{self._embedded_by}".strip())
            headers.update(_HEADERS)
            if self._embedded_by:
                del headers["X-Frame-Options"]
            if headers.get("content-type", "").startswith("text/html"):
                headers["Cache-Control"] = "no-store"
            message["headers"] = list(filter(None, map(self._header, message["headers"])))
        await self._send(message)

    def _header(self, header: tuple[bytes, bytes]) -> tuple[bytes, bytes] | None:
        """A header as it is sent; None: it is not."""
        name, value = header
        if name.lower().startswith(b"access-control-"):
            return None  # no other site is ever allowed anything
        if name.lower() != b"set-cookie":
            return header
        given, *attributes = (word.strip() for word in value.decode("latin-1").split(";"))
        if "-unsecure-" in given.partition("=")[0]:
            return None  # Gradio sends each twice: one of them is right wherever the page is
        kept = [word for word in attributes if not word.lower().startswith(("secure", "httponly", "samesite"))]
        flags = ["HttpOnly", "SameSite=Lax", *(["Secure"] if self.secure else [])]
        return name, "; ".join([given, *kept, *flags]).encode("latin-1")

    async def refuse(self, refusal: Refused, scope: Scope) -> None:
        """Say why there is no other answer, unless one has begun: as text to people, otherwise as JSON."""
        if self.status:
            return
        person = "text/html" in _header(scope, b"accept")
        body = (refusal.detail if person else json.dumps({"error": refusal.detail})).encode()
        kind = "text/plain" if person else "application/json"
        headers = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            **(refusal.headers or {}),
        }
        raw = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        await self({"type": "http.response.start", "status": refusal.status_code, "headers": raw})
        await self({"type": "http.response.body", "body": body})
