"""The page on the network: addresses of a visitor's own files, what Gradio may serve, the start and the end."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import socket
from collections.abc import AsyncIterator, Callable
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
from starlette.datastructures import MutableHeaders
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from metadeblur.app.look import CSS, theme
from metadeblur.app.page import make_page
from metadeblur.app.service import Service
from metadeblur.app.uploads import Visit, clean_name
from metadeblur.errors import MetadeblurError

SWEEP_SECONDS = 30.0  # between two looks at who has left
GRACE_SECONDS = 10  # for requests under way when it ends; those that pages hold open end at once

_OWN = "'self' 'unsafe-inline'"
POLICY = (
    f"default-src 'self'; script-src {_OWN} 'unsafe-eval'; style-src {_OWN}; font-src 'self' data:; "
    "img-src 'self' data: blob:; media-src 'self' blob:; worker-src 'self' blob:; object-src 'none'; "
    "form-action 'self'; frame-ancestors 'self'"
)
"""What a browser may load for the page: nothing from anywhere else, whatever Gradio's own code asks for."""
REPORT_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; sandbox allow-scripts"
)
_GRADIO_MAY = ("run/", "queue/", "heartbeat/", "startup-events", "app_id", "theme.css", "user", "api/", "call/")
"""What the page needs of Gradio's interface; the rest of it (files, uploads, proxy, streams) is not there."""


@dataclass(frozen=True)
class Site:
    """How the page is put on the network."""

    host: str = "127.0.0.1"  # address to listen at
    port: int = 7860  # 0: any that is free
    password: str = ""  # asked for with any user name; none: everybody may come in
    root_path: str = ""  # where a reverse proxy shows the page, such as /deblur


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
    gr.mount_gradio_app(
        app,
        make_page(service),
        path="/",
        auth=_checked(site.password) if site.password else None,
        auth_message="Any user name will do; the password is the one you were given." if site.password else None,
        root_path=site.root_path or None,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        max_file_size=0,
        theme=theme(),
        css=CSS,
    )
    app.add_middleware(Narrow)
    return app


def _checked(password: str) -> Callable[[str, str], bool]:
    def check(_: str, given: str) -> bool:
        return hmac.compare_digest(given.encode(), password.encode())

    return check


async def _sweep(service: Service) -> None:
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        await run_in_threadpool(service.sweep)


class _Server(uvicorn.Server):
    """Ends the connections that every open page holds, instead of waiting for people to close their pages."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal asks for the end."""
        app = self.config.app
        for route in app.routes if isinstance(app, FastAPI) else ():
            if isinstance(route, Mount) and isinstance(route.app, gr.routes.App):
                route.app.stop_event.set()
        super().handle_exit(sig, frame)


class Narrow:
    """Lets through of Gradio what the page needs, and tells browsers to load nothing from anywhere else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        _, found, rest = scope["path"].partition("/gradio_api/")
        if found and not rest.startswith(_GRADIO_MAY):
            await Response(status_code=404)(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", POLICY)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                if headers.get("content-type", "").startswith("text/html"):
                    headers["Cache-Control"] = "no-store"
            await send(message)

        await self._app(scope, receive, with_headers)


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
        picture = service.picture(visit_of(token), side, number)
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
        config: dict[str, Any] = {
            "log_level": "warning",
            "access_log": False,
            "timeout_graceful_shutdown": GRACE_SECONDS,
        }
        server = _Server(uvicorn.Config(make_app(service, site), **config))
        host = f"[{site.host}]" if ":" in site.host else site.host
        ready(f"http://{host}:{taken.getsockname()[1]}/")
        server.run(sockets=[taken])
