"""A call in a child process of its own, with little memory and little time: what becomes of it."""

from __future__ import annotations

import os
import pickle
import resource
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

PATIENCE = 60  # seconds on the clock, for a machine that does much else
TRIES = (
    3  # a child may begin with a lock that a thread of its parent held, and wait for ever; what is endless always is
)


def confined(call: Callable[[], Any], *, room: int = 1 << 30, seconds: int = 10) -> Any:
    """What a call returns in a child that may take so many more bytes of memory and seconds of a processor.

    An error is returned as (name of its class, its text).
    """
    for _ in range(TRIES):
        said, status = _asked(call, room, seconds)
        if said is not None:
            assert said, f"the child ended with status {status}"
            return pickle.loads(said)
    raise AssertionError(f"not done after {PATIENCE} seconds, {TRIES} times")


def _asked(call: Callable[[], Any], room: int, seconds: int) -> tuple[bytes | None, int]:
    """What a child says, None if it does not end in time; and its status."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _work(call, room, seconds, writing)
    os.close(writing)
    until, said, ended = time.monotonic() + PATIENCE, b"", False
    try:
        while not ended and select.select([reading], [], [], max(until - time.monotonic(), 0))[0]:
            piece = os.read(reading, 1 << 16)
            said, ended = said + piece, not piece
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    return (said if ended else None), status


def _work(call: Callable[[], Any], room: int, seconds: int, writing: int) -> None:
    """The child's part; it never returns."""
    try:
        torch.set_num_threads(1)  # the parent's threads are not here
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + room, taken + room))
        used = resource.getrusage(resource.RUSAGE_SELF)
        most = int(used.ru_utime + used.ru_stime) + seconds + 1
        resource.setrlimit(resource.RLIMIT_CPU, (most, most))
        try:
            said = call()
        except BaseException as error:
            said = (type(error).__name__, str(error))
        with os.fdopen(writing, "wb") as file:
            file.write(pickle.dumps(said))
    finally:
        os._exit(0)
