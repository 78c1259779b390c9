"""A Ray cluster to work on: one that is running, or one that is started here and ended again; and who fits on it."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from metadeblur.errors import MetadeblurError
from metadeblur.limits import Gpus, Threads, Workers, check, spelt
from metadeblur.system.extras import how_to_install
from metadeblur.system.machine import usable_cpus
from metadeblur.system.names import counted
from metadeblur.system.scratch import remove_unused, scratch_folder
from metadeblur.types import Device

LOCAL = "local"
STORE_BYTES = 200_000_000  # of the object store that is started here: workers on this machine see the files themselves
TOKEN = ".ray/auth_token"  # within the user's own folder: what lets a process into a cluster that asks for it
ANSWERS_WITHIN = 5.0  # seconds that a cluster may take to answer
_SHORT = 30  # characters of a temporary folder; Ray puts sockets into it, whose names may have 107

Machine: TypeAlias = tuple[float, float]
"""(processors, GPUs) of one machine of a cluster."""


@spelt
@dataclass(frozen=True)
class ClusterSettings:
    """Where many processes come from, and what each of them gets."""

    address: str = LOCAL  # of a running Ray cluster that this machine belongs to, "auto" to find it; "local": start one
    workers: Workers | None = None  # processes; none: as many as there is room for
    threads: Threads | None = None  # of each worker; none: all processors shared out
    gpus: Gpus = 1.0  # GPUs of each worker, where the cluster has any and they are to be used; below 1 they are shared

    def __post_init__(self) -> None:
        check(self)
        if self.address.startswith("ray://"):
            raise MetadeblurError(
                f"{self.address}: Ray's client is not supported; run metadeblur on a machine of the cluster, with "
                "--cluster auto"
            )


@dataclass(frozen=True)
class Places:
    """The workers that a cluster has room for.

    >>> Places(4, 1, 0.0).describe(), Places(2, 8, 1.0).describe()
    ('4 workers with 1 thread each', '2 workers with 8 threads each and a GPU')
    """

    workers: int
    threads: int  # of each
    gpus: float  # of each

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """What the workers compute on."""
        return "cuda" if self.gpus else "cpu"

    def describe(self) -> str:
        """In words."""
        gpu = {0.0: "", 1.0: " and a GPU"}.get(self.gpus, f" and {self.gpus:g} of a GPU")
        each = " each" if self.workers > 1 else ""
        return f"{counted(self.workers, 'worker')} with {counted(self.threads, 'thread')}{each}{gpu}"


def places(machines: Sequence[Machine], settings: ClusterSettings, device: Device) -> Places:
    """How many workers of which size work at once; with the device "auto" on GPUs where there are any.

    >>> places([(8, 0), (8, 0)], ClusterSettings(workers=4), "auto")
    Places(workers=4, threads=4, gpus=0.0)
    >>> places([(16, 2), (4, 0)], ClusterSettings(), "auto")
    Places(workers=2, threads=8, gpus=1.0)

    Raises:
        MetadeblurError: there is no room for so many.
    """
    has_gpus = any(gpus for _, gpus in machines)
    if str(device) not in ("auto", "cpu", "cuda"):
        raise MetadeblurError(
            f"--device {device}: workers of a cluster compute on auto, cpu or cuda; choose one of them"
        )
    if device == "cuda" and not has_gpus:
        raise MetadeblurError("--device cuda: the cluster has no GPU; start Ray with --num-gpus on a machine that has")
    gpus = settings.gpus if has_gpus and device != "cpu" else 0.0
    most = room(machines, settings.threads or 1, gpus)
    workers = max(1, settings.workers or most)
    if most < workers:
        each = Places(1, settings.threads or 1, gpus).describe().removeprefix("1 worker ")
        raise MetadeblurError(f"the cluster has room for {counted(most, 'worker')} {each}, not for {workers}")
    cores = max(int(cpus) for cpus, _ in machines)
    fitting = (count for count in range(cores, 0, -1) if room(machines, count, gpus) >= workers)
    return Places(workers, settings.threads or next(fitting), gpus)


def room(machines: Sequence[Machine], threads: int, gpus: float) -> int:
    """Workers with so many threads and GPUs that fit on the machines.

    >>> room([(8, 1), (3, 1)], threads=2, gpus=0.5)
    3
    """
    return sum(int(min(cpus // threads, share / gpus + 1e-6 if gpus else math.inf)) for cpus, share in machines)


def machines() -> list[Machine]:
    """The machines of the cluster that this process has joined."""
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return [(resources.get("CPU", 0.0), resources.get("GPU", 0.0)) for resources in alive]


def load_ray(address: str) -> None:
    """Import Ray for an address of a cluster; whether there is a token it must know when it is imported first.

    Raises:
        MetadeblurError: the extra is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == LOCAL:
        os.environ.setdefault("RAY_worker_niceness", "0")  # what is started here is what the user waits for
    elif "ray" not in sys.modules and ((Path.home() / TOKEN).is_file() or "RAY_AUTH_TOKEN" in os.environ):
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # by the same rule as "ray start --head"
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise MetadeblurError(f"--cluster needs Ray, which is not installed: {how_to_install('cluster')}") from error


@contextmanager
def joined(settings: ClusterSettings) -> Iterator[None]:
    """Be part of a cluster inside the ``with``; one that was started for it is ended afterwards.

    Where this process has joined a cluster already, that one is used and left as it is. Ray prints to standard output
    when a worker dies; nothing that is printed there meanwhile is shown.

    Raises:
        MetadeblurError: Ray is not installed, or no cluster answers.
    """
    load_ray(settings.address)
    import ray

    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(stack.enter_context(Path(os.devnull).open("w", errors="replace"))))
        if not ray.is_initialized():
            options: dict[str, Any] = {"address": settings.address}
            if settings.address == LOCAL:
                usual = tempfile.gettempdir()
                place = Path(usual if len(usual) <= _SHORT or os.name != "posix" else "/tmp")
                cores = usable_cpus()
                options |= {"num_cpus": max(cores, (settings.workers or 1) * (settings.threads or 1))}
                options |= {"object_store_memory": STORE_BYTES, "include_dashboard": False}
                options |= {"_temp_dir": str(stack.enter_context(scratch_folder(place)))}
            stack.callback(ray.shutdown)
            _init(settings.address, options)
        yield


def _init(address: str, options: dict[str, Any]) -> None:
    """Join the cluster at an address, or start one."""
    import ray

    mine = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        host, _, port = address.rpartition(":")
        if host and port.isdigit():  # Ray would wait some minutes where nothing answers
            socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWERS_WITHIN).close()
        ray.init(**options, log_to_driver=False, logging_level=logging.CRITICAL)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()).split(". ")[0].rstrip(".")
        if address == LOCAL:
            raise MetadeblurError(f"Ray cannot be started on this machine: {reason}") from error
        raise MetadeblurError(
            f"no Ray cluster answers at {address} ({reason}); start one with 'ray start --head', and run "
            "metadeblur on one of its machines, with the cluster's token in ~/.ray/auth_token"
        ) from error
    finally:  # Ray ends the program on SIGTERM in its own way
        if threading.current_thread() is threading.main_thread():
            for number, handler in mine.items():
                signal.signal(number, handler)


def folder_of(key: str) -> Path:
    """Where the workers of a run keep on their machine what the driver's folders cannot hold."""
    return Path(tempfile.gettempdir()) / f"metadeblur-{key}"


def remove_folder_of(key: str) -> None:
    """Remove it; done on each machine by a process that need not load PyTorch for it."""
    for _ in range(10):  # workers that are just being ended may still write
        remove_unused(folder_of(key))
        time.sleep(0.2)
        if not folder_of(key).exists():
            return
