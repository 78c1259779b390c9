"""``metadeblur app``: the page in the browser."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import sys
import webbrowser
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import tyro

from metadeblur.app.bounds import Bounds
from metadeblur.app.hosts import host_of, plain_address
from metadeblur.errors import MetadeblurError, UsageError
from metadeblur.limits import Within, check
from metadeblur.system.extras import how_to_install

if TYPE_CHECKING:
    from metadeblur.app.server import Site

PASSWORD_VARIABLE = "METADEBLUR_PASSWORD"

_Several = tyro.conf.UseAppendAction[tuple[str, ...]]


@dataclass(frozen=True)
class App:
    """Show a page in the browser where anyone can restore a video by dropping it there.

    It listens on this computer alone unless --host says otherwise, loads nothing from elsewhere and sends nothing
    anywhere. What visitors bring is kept until they delete it or it expires, at most until the end (Ctrl-C). Needs the
    extra app.
    """

    host: Annotated[str, tyro.conf.arg(metavar="ADDRESS")] = "127.0.0.1"
    """Address to listen at; 0.0.0.0 lets everybody in who can reach this computer over the network."""
    port: Annotated[int, Within(0, 65_535), tyro.conf.arg(metavar="PORT")] = 7860
    """Port to listen at; 0: any that is free."""
    password: Annotated[str | None, tyro.conf.arg(metavar="PASSWORD", help_behavior_hint="")] = None
    """Asked for first, with any user name; better given in METADEBLUR_PASSWORD, as others may see a command's flags."""
    max_upload: Annotated[int, Within(1, 1_000_000), tyro.conf.arg(metavar="MB")] = 500
    """Most megabytes that one clip may have."""
    max_frames: Annotated[int, Within(1, 100_000_000), tyro.conf.arg(metavar="N")] = Bounds.frames
    """Most frames that one clip may have."""
    max_megapixels: Annotated[float, Within(0.01, 1000), tyro.conf.arg(metavar="N")] = Bounds.pixels / 1e6
    """Most million pixels that a frame may have; 8K video has 33."""
    jobs: Annotated[int, Within(1, 1000), tyro.conf.arg(metavar="N")] = 1
    """Restorations at the same time; the others wait in line."""
    keep: Annotated[float, Within(0.01, 8760), tyro.conf.arg(metavar="HOURS")] = 24
    """Hours for which clips and results are kept after their visitor was there last."""
    allow_host: Annotated[_Several, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = ()
    """A further name that the page is reached by, such as deblur.example.org; may be given several times."""
    proxy: Annotated[_Several, tyro.conf.arg(metavar="ADDRESS", help_behavior_hint="")] = ()
    """Address or network of a proxy that is believed when it says who asks; may be given several times."""
    root_path: Annotated[str, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = ""
    """Where a reverse proxy shows the page, such as /deblur; default: at its root."""
    browser: bool = True
    """Open the page in a browser, where there is a screen."""

    def __post_init__(self) -> None:
        check(self)
        for name in self.allow_host:
            if host_of(f"[{name}]" if name.count(":") > 1 else name) != (plain_address(name.lower()), None):
                raise UsageError(f"--allow-host {name}: give the name alone, for instance deblur.example.org")
        for address in self.proxy:
            _check_proxy(address)
        if self.root_path and not self.root_path.startswith("/"):
            raise UsageError(f"--root-path {self.root_path}: it begins with /, for instance /deblur")

    def run(self) -> None:
        """Serve the page until Ctrl-C."""
        if find_spec("gradio") is None:
            raise MetadeblurError(f"the page needs Gradio, which is not installed: {how_to_install('app')}")
        from metadeblur.app.service import Service

        bounds = Bounds(round(self.max_megapixels * 1e6), self.max_frames)
        password = self.password or os.environ.get(PASSWORD_VARIABLE, "")
        for line in warnings(self.host, bool(password)):
            print(line, file=sys.stderr)
        os.environ.pop("GRADIO_TEMP_DIR", None)  # it goes with the rest
        service = Service(self.max_upload * 1_000_000, self.jobs, bounds, self.keep * 3600)
        with contextlib.closing(service), contextlib.suppress(KeyboardInterrupt):  # the usual way to end it
            # Read when Gradio and torch's compiler are imported; what they should write themselves goes with the rest.
            own = service.folder
            os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(own / "torch"))
            service.workers.warm()
            from metadeblur.app.server import serve

            serve(service, self._site(password), self._ready)
        print("metadeblur app: ended, and what visitors brought is deleted", flush=True)

    def _site(self, password: str) -> Site:
        from metadeblur.app.server import Site

        root = self.root_path.rstrip("/")
        return Site(self.host, self.port, password, root, further_hosts=self.allow_host, proxies=self.proxy)

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


def _check_proxy(address: str) -> None:
    """Refuse what is not the address of a proxy or of its network.

    Raises:
        UsageError: it is something else, or everybody.
    """
    try:
        network = ipaddress.ip_network(address, strict=False)
    except ValueError:
        raise UsageError(f"--proxy {address}: give an address or a network, such as 127.0.0.1 or 10.0.0.0/8") from None
    if network.prefixlen == 0:
        raise UsageError(f"--proxy {address}: this is everybody; give the proxy's own address, such as 127.0.0.1")


def _is_local(host: str) -> bool:
    """Whether an address is reached from this computer alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
