"""Threads beside the main one: frames are decoded ahead of the network, and written after it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

import torch

from metadeblur.system.machine import usable_cpus
from metadeblur.system.thread_limit import is_thread_limit

Item = TypeVar("Item")

DEPTH = 3  # calls that may wait; each holds a frame


def pays(device: torch.device) -> bool:
    """Whether work beside the network gains time: on a GPU, or where PyTorch leaves processors free.

    Where its threads take every processor, others among them make each of its operations wait: on two processors the
    whole takes a quarter longer (docs/results/speed.md).
    """
    processors = usable_cpus()
    return device.type != "cpu" or processors > torch.get_num_threads()


class BackgroundWriter:
    """Makes calls one after the other in a thread of its own; a few may wait. Their errors are raised here.

    Args:
        beside: in a thread of its own; otherwise each call is made at once.

    >>> done = []
    >>> with BackgroundWriter() as writer:
    ...     for number in range(5):
    ...         writer.do(done.append, number)
    ...     writer.finish()
    >>> done
    [0, 1, 2, 3, 4]
    """

    def __init__(self, *, beside: bool = True) -> None:
        self._beside = beside
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._calls: deque[Future[Any]] = deque()

    def do(self, call: Callable[..., object], *values: object) -> None:
        """Make a call later, in order; waits while too many are outstanding."""
        if not self._beside:
            call(*values)
            return
        while len(self._calls) >= DEPTH:
            self._calls.popleft().result()
        try:
            self._calls.append(self._worker.submit(call, *values))
        except RuntimeError as error:
            if not is_thread_limit(error):
                raise
            self._beside = False  # slower, and the same
            call(*values)

    def finish(self) -> None:
        """Wait until every call is made."""
        while self._calls:
            self._calls.popleft().result()

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an error the calls that wait are dropped; the one under way must end before its writer is closed.
        self._worker.shutdown(wait=True, cancel_futures=True)


def prefetch(items: Iterable[Item], depth: int) -> Generator[Item, None, None]:
    """The items in order, made by a thread that works up to ``depth`` items ahead; with depth 0 as they are asked for.

    An error that an item raises comes out in its place. Closing the iterator stops the thread.

    >>> list(prefetch(range(4), depth=2))
    [0, 1, 2, 3]
    """
    if depth == 0:
        yield from items
        return
    end: Any = object()
    source = iter(items)
    worker = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    try:
        ahead = deque([worker.submit(next, source, end)])
    except RuntimeError as error:
        if not is_thread_limit(error):
            raise
        yield from source  # slower, and the same
        return
    try:
        while len(ahead) < depth:
            ahead.append(worker.submit(next, source, end))
        while (item := ahead.popleft().result()) is not end:
            ahead.append(worker.submit(next, source, end))
            yield item
    finally:
        worker.shutdown(cancel_futures=True)
