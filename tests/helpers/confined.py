"""A call in a child process of its own, with little memory and little time: what becomes of it."""

from __future__ import annotations

import multiprocessing
import os
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PATIENCE = 120  # seconds on the clock, for a machine that does much else

# Children begin in a process that has imported everything and run nothing: one that began in a process with threads
# could wait for ever for a lock that a thread held there.
_children = multiprocessing.get_context("forkserver")
_children.set_forkserver_preload(["metadeblur.models.weights", "metadeblur.training.loop"])


def confined(call: Callable[..., Any], *words: Any, room: int = 1 << 30, seconds: int = 10) -> Any:
    """What a call returns in a child that may take so many more bytes of memory and seconds of a processor.

    The call and its arguments are pickled: functions of modules. An error is returned as (name of its class, its text).
    """
    reading, writing = _children.Pipe(duplex=False)
    child = _children.Process(target=_work, args=(call, words, room, seconds, dict(os.environ), Path.cwd(), writing))
    child.start()
    writing.close()
    try:
        assert reading.poll(PATIENCE), f"not done after {PATIENCE} seconds"
        return reading.recv()
    except EOFError:
        child.join()
        raise AssertionError(f"the child ended with status {child.exitcode}") from None
    finally:
        reading.close()
        child.kill()
        child.join()


def _work(
    call: Callable[..., Any],
    words: tuple[Any, ...],
    room: int,
    seconds: int,
    environment: dict[str, str],
    folder: Path,
    writing: Connection,
) -> None:
    """The child's part."""
    os.environ.update(environment)
    os.chdir(folder)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + room, taken + room))
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime) + seconds + 1
    resource.setrlimit(resource.RLIMIT_CPU, (most, most))
    try:
        said = call(*words)
    except BaseException as error:
        said = (type(error).__name__, str(error))
    writing.send(said)
