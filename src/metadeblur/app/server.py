"""The page on the network: what a browser may load, what Gradio may serve, the start and the end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import hmac
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse, Response
from gradio import route_utils
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException
from starlette.routing import Mount

from metadeblur.app.connections import Connection
from metadeblur.app.gate import MOST_HEADER_BYTES, Gate, Rules
from metadeblur.app.hosts import Hosts, Proxies
from metadeblur.app.html import CSS, theme
from metadeblur.app.page import make_page
from metadeblur.app.service import Service
from metadeblur.errors import MetadeblurError

SWEEP_SECONDS = 5.0  # between two looks at who has left
GRACE_SECONDS = 10  # for requests under way when it ends; those that pages hold open end at once
CLIPS_AT_ONCE = 5  # of the largest size, in one upload

REPORT_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'; sandbox allow-scripts"
)
_UPLOADS = ("/gradio_api/upload", "/gradio_api/upload/")
_FILES = "/gradio_api/file="
_GRADIO_MAY = (
    *("run/", "queue/", "heartbeat/", "startup-events", "app_id", "theme.css", "user", "api/", "call/"),
    "upload_progress",
)
"""What the page needs of Gradio's interface; the rest of it (proxy, streams, its own files) is not there."""
_PAGES = ("", "/", "/config", "/config/", "/login", "/login/", "/logout", "/theme.css", "/favicon.ico", "/robots.txt")
_FOLDERS = ("/assets/", "/static/", "/svelte/")
_INLINE = {".mp4": "video/mp4", ".m4v": "video/mp4", ".jpg": "image/jpeg", ".html": "text/html; charset=utf-8"}
"""What a browser shows; all else is taken away only."""
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
    embedded_by: str = ""  # a site that may show the page inside its own

    def rules(self, service: Service) -> Rules:
        """What the gate lets through."""
        return Rules(
            hosts=Hosts.of(self.host, self.further_hosts),
            served=functools.partial(_served, service.shown.as_posix()),
            is_upload=_UPLOADS.__contains__,
            upload_bytes=CLIPS_AT_ONCE * service.limit,
            proxies=Proxies(self.proxies),
            embedded_by=self.embedded_by,
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

    @app.api_route(f"{_FILES}{{path:path}}", methods=["GET", "HEAD"])
    def file(path: str) -> Response:
        return _file(service.shown, Path(path))

    route_utils.GradioMultiPartParser = Upload  # type: ignore[misc]
    page = make_page(service)
    page.state_session_capacity = MOST_SESSIONS
    page.has_launched = True  # otherwise Gradio takes any file of the computer for an upload
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
        max_file_size=service.limit,
        show_error=False,
        theme=theme(),
        css=CSS,
    )
    app.add_middleware(Gate, rules=site.rules(service))
    return app


def space() -> gr.Blocks:
    """The page for a Space of Hugging Face, which says by its environment where it is reached; ``launch()`` serves it.

    Nothing is asked for before; the Space's own settings say who may come in.
    """
    service = Service(limit=200_000_000)
    service.workers.warm()
    page = make_page(service)
    page.launch = functools.partial(_launch, service)  # type: ignore[assignment, method-assign]
    return page


def _launch(service: Service, **_: Any) -> None:
    """Serve the page of a Space, by the gate that this program's own command has; see :meth:`gradio.Blocks.launch`."""
    name = os.environ.get("SPACE_HOST", "")
    site = Site(
        host=os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0" if name else "127.0.0.1"),
        port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")),
        further_hosts=(name,) if name else (),
        proxies=("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16") if name else (),
        embedded_by="https://huggingface.co" if name else "",
    )
    with contextlib.suppress(KeyboardInterrupt):
        serve(service, site, lambda address: print(f"metadeblur app: {address}", flush=True))


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


class Upload(route_utils.GradioMultiPartParser):
    """Gradio's reader of uploads, which also refuses what it would keep in memory, and leaves nothing half."""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """Some of a part has arrived."""
        if self._current_part.file is None:
            raise MultiPartException("only files are taken here")
        super().on_part_data(data, start, end)

    async def parse(self) -> FormData:
        """Read all of it.

        Raises:
            MultiPartException: it is damaged or too large, or there is no room on the disk.
        """
        try:
            return await super().parse()
        except BaseException as error:
            for file in self._files_to_close_on_error:
                with contextlib.suppress(OSError):
                    file.close()
                Path(file.name).unlink(missing_ok=True)
            if isinstance(error, OSError):
                words = "the computer that runs this page has no room for it at the moment; come back later"
                raise MultiPartException(words) from error
            raise


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


def _served(shown: str, path: str) -> bool:
    """Whether there is anything at a path: what visitors may load, and of Gradio what the page needs.

    >>> paths = ("/", "/gradio_api/queue/join", "/gradio_api/file=/x/y.mp4", "/gradio_api/file=/etc/x", "/file=/x/y")
    >>> [_served("/x", path) for path in paths]
    [True, True, True, False, False]
    """
    _, found, rest = path.partition("/gradio_api/")
    if found:
        known = path in _UPLOADS or path.startswith(f"{_FILES}{shown}/")
        return known or (path.startswith("/gradio_api/") and rest.startswith(_GRADIO_MAY))
    return path in _PAGES or path.startswith(_FOLDERS)


def _file(shown: Path, file: Path) -> Response:
    """A file that somebody may load who knows its name; in place of Gradio's own way, which shows no report.

    Raises:
        HTTPException: there is no such file.
    """
    if shown not in file.parents or ".." in file.parts or not file.is_file():
        raise HTTPException(404)
    headers = {"Cache-Control": "private, no-store"}
    if file.suffix == ".html":
        headers["Content-Security-Policy"] = REPORT_POLICY
    kind = _INLINE.get(file.suffix.lower())
    name = None if file.suffix == ".html" else file.name
    return FileResponse(
        file,
        headers=headers,
        media_type=kind or "application/octet-stream",
        filename=name,
        content_disposition_type="inline" if kind else "attachment",
    )


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
