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

PATIENCE = 120  # seconds on the clock, for a machine that does much else; what waits for ever takes no others


def confined(call: Callable[[], Any], *, room: int = 1 << 30, seconds: int = 10) -> Any:
    """What a call returns in a child that may take so many more bytes of memory and seconds of a processor.

    An error is returned as (name of its class, its text).
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _work(call, room, seconds, writing)
    os.close(writing)
    until, said = time.monotonic() + PATIENCE, b""
    try:
        while True:
            ready, _, _ = select.select([reading], [], [], max(until - time.monotonic(), 0))
            assert ready, f"not done after {PATIENCE} seconds"
            piece = os.read(reading, 1 << 16)
            if not piece:
                break
            said += piece
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    assert said, f"the child ended with status {status}"
    return pickle.loads(said)


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
