"""The page on loopback for tests that talk HTTP: a real server in a thread, asked word by word."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metadeblur.app.server import Site, listen, make_server
from metadeblur.app.service import Service, UploadedClip, Visit

PATIENCE = 60.0  # seconds, for a busy machine


def new_service(limit: int = 2_000_000, **how: Any) -> Service:
    """A service with a folder of uploads of its own."""
    os.environ.pop("GRADIO_TEMP_DIR", None)
    return Service(limit, **how)


def until(happened: Callable[[], Any], patience: float = 2 * PATIENCE) -> Any:
    """Wait for something."""
    end = time.monotonic() + patience
    while not (found := happened()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


def uploaded(service: Service, name: str, content: bytes) -> tuple[Path, str]:
    """A file as Gradio leaves it, and what it is called outside."""
    folder = service.uploads / hashlib.sha256(content).hexdigest()
    folder.mkdir(exist_ok=True)
    path = folder / (name.replace("\\", "/").rsplit("/", 1)[-1].replace("\0", "")[:80] or "file")
    path.write_bytes(content)
    return path, name


def bring(service: Service, visit: Visit, *files: tuple[str, bytes]) -> list[UploadedClip]:
    """Take files as clips, and wait until they have been looked at."""
    clips = service.bring(visit, [uploaded(service, *file) for file in files], "lite")
    until(lambda: all(clip.looking.over for clip in clips))
    return clips


def multipart(*files: tuple[str, bytes]) -> tuple[bytes, str]:
    """A form of files, and its kind."""
    parts = []
    for name, content in files:
        head = f'Content-Disposition: form-data; name="files"; filename="{name}"'
        parts.append(b"--limit\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n")
    return b"".join(parts) + b"--limit--\r\n", "multipart/form-data; boundary=limit"


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace")


@dataclass
class Place:
    """A page that is being served."""

    service: Service
    port: int

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def ask(
        self, path: str = "/", method: str = "GET", *, body: Any = None, host: str | None = None, **headers: str
    ) -> Answer:
        """One request; ``Sec_Fetch_Site="x"`` is the header Sec-Fetch-Site. The path goes as it is."""
        fields = {"Host": host or f"127.0.0.1:{self.port}"}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, dict | list):
            body, fields["Content-Type"] = json.dumps(body), "application/json"
        return self._send(method, path, body, fields)

    def upload(self, *files: tuple[str, bytes], **headers: str) -> Answer:
        """Send files to Gradio's address for them."""
        body, kind = multipart(*files)
        return self.ask("/gradio_api/upload", "POST", body=body, Content_Type=kind, **headers)

    def _send(self, method: str, path: str, body: Any, fields: Mapping[str, str]) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection._validate_path = lambda _: None  # type: ignore[attr-defined]
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            if body is not None and not {"Content-Length", "Transfer-Encoding"} & set(fields):
                body = body.encode() if isinstance(body, str) else body
                connection.putheader("Content-Length", str(len(body)))
            for name, value in fields.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            got = connection.getresponse()
            return Answer(got.status, got.headers, got.read())
        finally:
            connection.close()

    def say(self, *parts: bytes) -> bytes:
        """Send bytes and give everything that is answered until the other side closes or has answered once."""
        with self.connect() as line:
            for part in parts:
                line.sendall(part)
            got = http.client.HTTPResponse(line)
            got.begin()
            return b"%d " % got.status + got.read()


@contextmanager
def served(service: Service, **site: Any) -> Iterator[Place]:
    """Serve a page; it is ended, and its service closed, at the end."""
    how = Site(port=0, **site)
    taken = listen(how)
    server = make_server(service, how)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
    thread.start()
    until = time.monotonic() + PATIENCE
    while not server.started:
        assert time.monotonic() < until
        time.sleep(0.01)
    try:
        yield Place(service, taken.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        taken.close()
        service.close()
