"""Pieces of work done side by side by several processes of this machine.

:func:`side_by_side` does it all. Other kinds of pools can take its parts: :func:`threads_each`, :func:`begin_worker`,
:func:`sendable` and :func:`end_workers`.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch

from metadeblur.errors import MetadeblurError
from metadeblur.system.machine import usable_cpus
from metadeblur.system.thread_limit import starting

GRACE_SECONDS = 10.0  # that a process has to take its unfinished files away before it is killed

_Shared = TypeVar("_Shared")
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def side_by_side(
    work: Callable[[_Shared, _Item], _Result],
    items: Sequence[_Item],
    shared: _Shared,
    workers: int,
    *,
    finished: Callable[[int, _Result | Exception], None] | None = None,
    keep_going: bool = False,
) -> list[_Result | Exception]:
    """Do ``work(shared, item)`` for every item in ``workers`` processes, which share the processor's cores.

    When this function ends, also by an exception or Ctrl-C, none of its processes is left. A process that is killed
    does not leave others behind, nor does this one.

    Args:
        work: a function of a module, since processes find it by its name.
        items: what is worked on; each is sent to one process.
        shared: what every item needs, such as a network; sent to each process once.
        workers: processes, 1 or more.
        finished: called in this process with an item's number and result, as soon as it is finished.
        keep_going: an exception takes the place of its item's result, and the other items are still worked on.

    Returns:
        The results in the order of the items.

    Raises:
        MetadeblurError: a process was killed, or the system allows no further one.
        Exception: what ``work`` raised, without ``keep_going``.
    """
    others = set(active_children())
    results: dict[int, _Result | Exception] = {}
    # A forked process would share locks of PyTorch's threads and its hold on a GPU.
    pool = ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=_begin, initargs=(work, shared, threads_each(workers))
    )
    try:
        with starting():
            running: dict[Future[Any], int] = {pool.submit(_work, item): at for at, item in enumerate(items)}
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number = running.pop(future)
                result = future.result()
                if isinstance(result, _Failure) and not keep_going:
                    raise result.error from RuntimeError(result.trace)
                results[number] = result.error if isinstance(result, _Failure) else result
                if finished:
                    finished(number, results[number])
    except BaseException as error:
        end_workers([process for process in active_children() if process not in others])
        if isinstance(error, BrokenProcessPool):
            raise MetadeblurError(
                "a worker process was killed, perhaps because memory ran out; go on with --resume and fewer --workers"
            ) from error
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return [results[number] for number in range(len(items))]


def threads_each(workers: int) -> int:
    """Threads of PyTorch for each of several processes, which share the processor's cores."""
    return max(1, min(torch.get_num_threads(), usable_cpus()) // workers)


def end_workers(processes: Sequence[BaseProcess]) -> None:
    """Have processes clean up and end; kill those that take longer than :data:`GRACE_SECONDS`."""
    try:
        for process in processes:
            process.terminate()
        until = time.monotonic() + GRACE_SECONDS
        for process in processes:
            process.join(max(0.0, until - time.monotonic()))
    finally:  # also after a second Ctrl-C
        for process in processes:
            process.kill()


# --- in a worker process -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Failure:
    """What went wrong with an item, and the trace of it in its process, for whoever debugs."""

    error: Exception
    trace: str


_given: tuple[Callable[[Any, Any], Any], Any] | None = None  # the work and what is shared
_ending = False


def begin_worker(threads: int) -> None:
    """Set this worker process up, in its main thread.

    It leaves Ctrl-C to the main process, leaves its work by SystemExit when it is told to end, and ends with the main
    process even if that is killed.
    """
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    # Those of a killed command would work on the same files as the command that goes on.
    threading.Thread(target=_end_with_the_command, daemon=True).start()


def _begin(work: Callable[[Any, Any], Any], shared: Any, threads: int) -> None:
    """Set a worker process of :func:`side_by_side` up."""
    global _given
    _given = work, shared
    begin_worker(threads)


def _stop(*_: object) -> None:
    """Leave what is being worked on by an exception, so that it takes its unfinished files away."""
    global _ending
    if not _ending:
        _ending = True
        raise SystemExit(1)


def _end_with_the_command() -> None:
    command = parent_process()
    if command is not None:
        command.join()
        os._exit(1)


def _work(item: Any) -> Any:
    """Work on one item."""
    if _given is None or _ending:
        raise SystemExit(1)
    work, shared = _given
    try:
        return work(shared, item)
    except SystemExit:
        os._exit(1)  # the pool would give this process the next item
    except Exception as error:
        return _Failure(sendable(error), traceback.format_exc())


def sendable(error: Exception) -> Exception:
    """An error that says the same in another process; some cannot be sent as they are."""
    try:
        if str(pickle.loads(pickle.dumps(error))) == str(error):
            return error
    except Exception:  # an error may refuse in any way
        pass
    return MetadeblurError(str(error)) if isinstance(error, MetadeblurError) else RuntimeError(repr(error))
