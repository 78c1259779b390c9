"""``metadeblur app``: the page in the browser."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import sys
import webbrowser
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated

import tyro

from metadeblur.commands import UsageError
from metadeblur.errors import MetadeblurError

PASSWORD_VARIABLE = "METADEBLUR_PASSWORD"


@dataclass(frozen=True)
class App:
    """Show a page in the browser where anyone can restore a video by dropping it there.

    It listens on this computer alone unless --host says otherwise, loads nothing from elsewhere and sends nothing
    anywhere. What visitors bring is deleted when they close the page, and at the end (Ctrl-C). Needs the extra:
    pip install 'metadeblur[app]'.
    """

    host: Annotated[str, tyro.conf.arg(metavar="ADDRESS")] = "127.0.0.1"
    """Address to listen at; 0.0.0.0 lets everybody in who can reach this computer over the network."""
    port: Annotated[int, tyro.conf.arg(metavar="PORT")] = 7860
    """Port to listen at; 0: any that is free."""
    password: Annotated[str | None, tyro.conf.arg(metavar="PASSWORD", help_behavior_hint="")] = None
    """Asked for first, with any user name; better given in METADEBLUR_PASSWORD, as others may see a command's flags."""
    max_upload: Annotated[int, tyro.conf.arg(metavar="MB")] = 500
    """Most megabytes that one clip may have."""
    jobs: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Restorations at the same time; the others wait in line."""
    root_path: Annotated[str, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = ""
    """Where a reverse proxy shows the page, such as /deblur; default: at its root."""
    browser: bool = True
    """Open the page in a browser, where there is a screen."""

    def __post_init__(self) -> None:
        for name, least in (("max-upload", 1), ("jobs", 1), ("port", 0)):
            value = getattr(self, name.replace("-", "_"))
            if value < least:
                raise UsageError(f"--{name} {value}: give {least} or more")
        if self.port > 65535:
            raise UsageError(f"--port {self.port}: ports go up to 65535")
        if self.root_path and not self.root_path.startswith("/"):
            raise UsageError(f"--root-path {self.root_path}: it begins with /, for instance /deblur")

    def run(self) -> None:
        """Serve the page until Ctrl-C."""
        if find_spec("gradio") is None:
            raise MetadeblurError("the page needs Gradio, which is not installed: pip install 'metadeblur[app]'")
        from metadeblur.app.service import Service

        password = self.password or os.environ.get(PASSWORD_VARIABLE, "")
        for line in warnings(self.host, bool(password)):
            print(line, file=sys.stderr)
        service = Service(self.max_upload * 1_000_000, self.jobs)
        # Both are read when Gradio is imported; what it should write itself is deleted with the rest.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(service.visits.folder / "gradio")}
        from metadeblur.app.server import Site, serve

        with contextlib.suppress(KeyboardInterrupt):  # the usual way to end it
            serve(service, Site(self.host, self.port, password, self.root_path.rstrip("/")), self._ready)
        print("metadeblur app: ended, and what visitors brought is deleted", flush=True)

    def _ready(self, address: str) -> None:
        """Say where the page is, and open it."""
        print(f"metadeblur app: {address} (Ctrl-C ends it and deletes what visitors brought)", flush=True)
        screen = sys.platform in ("win32", "darwin") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        if self.browser and screen:
            webbrowser.open(address)


def warnings(host: str, password: bool) -> list[str]:
    """What listening at an address means for those who start it.

    >>> warnings("127.0.0.1", password=False)
    []
    """
    if _is_local(host):
        return []
    lines = [
        f"--host {host}: everybody who can reach this computer at that address can upload videos and have it compute; "
        "what goes over the network is not encrypted (docs/web-page.md: behind a proxy)"
    ]
    if not password:
        lines.append(f"warning: there is no password; give one with --password or in {PASSWORD_VARIABLE}")
    return lines


def _is_local(host: str) -> bool:
    """Whether an address is reached from this computer alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
