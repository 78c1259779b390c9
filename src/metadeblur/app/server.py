"""The page on the network: addresses of a visitor's own files, what Gradio may serve, the start and the end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import hmac
import re
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import quote

import gradio as gr
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.routing import Mount

from metadeblur.app.connections import Connection
from metadeblur.app.gate import MOST_HEADER_BYTES, Gate, Rules
from metadeblur.app.hosts import Hosts, Proxies
from metadeblur.app.html import CSS, theme
from metadeblur.app.page import make_page
from metadeblur.app.service import Service
from metadeblur.app.uploads import Visit, clean_name
from metadeblur.errors import MetadeblurError

SWEEP_SECONDS = 30.0  # between two looks at who has left
GRACE_SECONDS = 10  # for requests under way when it ends; those that pages hold open end at once

REPORT_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'; sandbox allow-scripts"
)
_GRADIO_MAY = ("run/", "queue/", "heartbeat/", "startup-events", "app_id", "theme.css", "user", "api/", "call/")
"""What the page needs of Gradio's interface; the rest of it (files, uploads, proxy, streams) is not there."""
_PAGES = ("", "/", "/config", "/config/", "/login", "/login/", "/logout", "/theme.css", "/favicon.ico", "/robots.txt")
_FOLDERS = ("/visit/", "/assets/", "/static/", "/svelte/")
MOST_SESSIONS = 1000  # of Gradio's: open pages, and those that were closed a while ago


@dataclass(frozen=True)
class Site:
    """How the page is put on the network."""

    host: str = "127.0.0.1"  # address to listen at
    port: int = 7860  # 0: any that is free
    password: str = ""  # asked for with any user name; none: everybody may come in
    root_path: str = ""  # where a reverse proxy shows the page, such as /deblur
    further_hosts: tuple[str, ...] = ()  # names that the page is reached by, besides the loopback names and `host`
    proxies: tuple[str, ...] = ()  # addresses of proxies that may say for whom they ask, and by which name

    def rules(self, service: Service) -> Rules:
        """What the gate lets through."""
        return Rules(
            hosts=Hosts.of(self.host, self.further_hosts),
            served=_served,
            is_upload=lambda path: _UPLOAD.fullmatch(path) is not None,
            upload_bytes=service.visits.limit,
            proxies=Proxies(self.proxies),
        )


def make_app(service: Service, site: Site) -> FastAPI:
    """The whole site as an ASGI application; the service is closed with it."""

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(_sweep(service))
        try:
            yield
        finally:
            sweeping.cancel()
            service.close()

    app = FastAPI(lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    _add_addresses(app, service)
    page = make_page(service)
    page.state_session_capacity = MOST_SESSIONS
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        auth=_checked(site.password) if site.password else None,
        auth_message=_ABOUT_PASSWORDS if site.password else None,
        root_path=site.root_path or None,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        max_file_size=0,
        show_error=False,
        theme=theme(),
        css=CSS,
    )
    app.add_middleware(Gate, rules=site.rules(service))
    return app


def _checked(password: str) -> Callable[[str, str], bool]:
    wanted = _digest(password)

    def check(_: str, given: str) -> bool:
        return hmac.compare_digest(_digest(given), wanted)

    return check


def _digest(word: str) -> bytes:
    """As long for every word, so that comparing tells nothing of its length."""
    return hashlib.sha256(word.encode("utf-8", "backslashreplace")).digest()


_ABOUT_PASSWORDS = (
    "Any user name will do; the password is the one you were given. After some wrong ones you have to wait before the "
    "next, longer each time."
)


async def _sweep(service: Service) -> None:
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        await run_in_threadpool(service.sweep)


class _Server(uvicorn.Server):
    """Ends the connections that every open page holds, instead of waiting for people to close their pages."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None] | None) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer; signals to end are heard from before."""
        await super().startup(sockets)
        if self._ready is not None and self.started:
            await run_in_threadpool(self._ready)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal asks for the end."""
        app = self.config.app
        for route in app.routes if isinstance(app, FastAPI) else ():
            if isinstance(route, Mount) and isinstance(route.app, gr.routes.App):
                route.app.stop_event.set()
        super().handle_exit(sig, frame)


def _served(path: str) -> bool:
    """Whether there is anything at a path: our own addresses, and of Gradio what the page needs.

    >>> [_served(path) for path in ("/", "/visit/x/file", "/gradio_api/queue/join", "/gradio_api/file=x", "/file=x")]
    [True, True, True, False, False]
    """
    _, found, rest = path.partition("/gradio_api/")
    if found:
        return path.startswith("/gradio_api/") and rest.startswith(_GRADIO_MAY)
    return path in _PAGES or path.startswith(_FOLDERS)


_UPLOAD = re.compile(r"/visit/[^/]+/upload")


def _add_addresses(app: FastAPI, service: Service) -> None:
    """What a visitor's browser asks for by the visitor's own secret token."""

    def visit_of(token: str) -> Visit:
        visit = service.visits.get(token)
        if visit is None:
            raise HTTPException(404)
        return visit

    @app.post("/visit/{token}/upload")
    async def upload(token: str, number: int, name: str, request: Request) -> Response:
        try:
            await service.visits.receive(visit_of(token), number, name, request.stream())
        except MetadeblurError as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        except ClientDisconnect:  # nobody is left to be told
            return Response(status_code=400)
        return Response(status_code=204)

    @app.post("/visit/{token}/here")
    def here(token: str) -> Response:
        visit_of(token)
        return Response(status_code=204)

    @app.post("/visit/{token}/leave")
    def leave(token: str) -> Response:
        service.end(visit_of(token))
        return Response(status_code=204)

    @app.get("/visit/{token}/{side}/{number}")
    def frame(token: str, side: str, number: int) -> Response:
        try:
            picture = service.picture(visit_of(token), side, number)
        except MetadeblurError as error:
            raise HTTPException(503, str(error)) from error
        if picture is None:
            raise HTTPException(404)
        return Response(picture, media_type="image/jpeg", headers=_PRIVATE)

    @app.get("/visit/{token}/{what}")
    def result(token: str, what: str) -> Response:
        visit = visit_of(token)
        done = service.finished(visit)
        if done is None:
            raise HTTPException(404)
        if what == "video" and done.video is not None:
            return FileResponse(visit.folder / done.video, media_type="video/mp4", headers=_PRIVATE)
        if what == "file":
            assert visit.clip is not None
            name = download_name(visit.clip.name, done.file)
            return FileResponse(
                visit.folder / done.file,
                media_type="application/octet-stream",
                headers={**_PRIVATE, "Content-Disposition": f"attachment; filename*=utf-8''{quote(name)}"},
            )
        if what == "report":
            page = (visit.run / "report" / "index.html").read_text(encoding="utf-8")
            return HTMLResponse(page, headers={**_PRIVATE, "Content-Security-Policy": REPORT_POLICY})
        raise HTTPException(404)


_PRIVATE = {"Cache-Control": "private, no-store"}


def download_name(name: str, file: Path) -> str:
    """What a restored file is offered as.

    >>> download_name("../my clip.mov", Path("run/restored.mov")), download_name("3 frames", Path("run/restored.zip"))
    ('my clip_deblurred.mov', '3 frames_deblurred.zip')
    """
    return f"{Path(clean_name(name)).stem}_deblurred{file.suffix}"


def listen(site: Site) -> socket.socket:
    """A socket at the site's address.

    Raises:
        MetadeblurError: no such address here, or the port is taken.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(site.host, site.port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
        taken.listen(128)
    except OSError as error:
        reason = error.strerror or str(error)
        raise MetadeblurError(
            f"{site.host}:{site.port}: {reason}; choose another port with --port (0: any that is free), or another "
            "address of this machine with --host"
        ) from error
    return taken


def serve(service: Service, site: Site, ready: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C or a polite request to end; then everything that visitors brought is deleted.

    Args:
        service: what is served; closed at the end.
        site: how.
        ready: called with the page's address as soon as it can be opened.

    Raises:
        MetadeblurError: see :func:`listen`.
    """
    with contextlib.closing(service), contextlib.closing(listen(site)) as taken:
        host = f"[{site.host}]" if ":" in site.host else site.host
        address = f"http://{host}:{taken.getsockname()[1]}/"
        server = make_server(service, site, lambda: ready(address))
        with closed_terminal_ends(server):
            server.run(sockets=[taken])


def make_server(service: Service, site: Site, ready: Callable[[], None] | None = None) -> uvicorn.Server:
    """What answers at a socket of :func:`listen`; ``ready`` is called as soon as it does."""
    config: dict[str, Any] = {
        "http": functools.partial(Connection, proxies=Proxies(site.proxies)),
        "h11_max_incomplete_event_size": MOST_HEADER_BYTES,
        "ws": "none",
        "proxy_headers": False,  # the gate reads them, and only from proxies that were named
        "server_header": False,
        "log_level": "error",
        "access_log": False,
        "timeout_graceful_shutdown": GRACE_SECONDS,
    }
    return _Server(uvicorn.Config(make_app(service, site), **config), ready)


@contextlib.contextmanager
def closed_terminal_ends(server: uvicorn.Server) -> Iterator[None]:
    """Have a closed terminal end the page as Ctrl-C does; a program that is to outlive it (nohup) does."""
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is None or signal.getsignal(hangup) is signal.SIG_IGN:
        yield
        return
    before = signal.signal(hangup, server.handle_exit)
    try:
        yield
    finally:
        signal.signal(hangup, before)
