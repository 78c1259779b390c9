"""Work that goes on behind the main thread: frames decoded ahead of the network, and encoded after it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, Full, Queue
from threading import Event, Thread
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
    """Makes calls one after the other in a thread of its own, a few behind; what they raise is raised here.

    Args:
        beside: in a thread of its own; otherwise each call is made at once.

    >>> done = []
    >>> with BackgroundWriter() as background:
    ...     for number in range(5):
    ...         background.do(done.append, number)
    ...     background.finish()
    >>> done
    [0, 1, 2, 3, 4]
    """

    def __init__(self, *, beside: bool = True) -> None:
        self._beside = beside
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="background")
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

    An error raised while an item is made is raised here in its place. Closing the iterator stops the thread.

    >>> list(prefetch(range(4), depth=2))
    [0, 1, 2, 3]
    """
    if depth == 0:
        yield from items
        return
    queue: Queue[tuple[Item] | BaseException | None] = Queue(depth)
    stopped = Event()

    def offer(entry: tuple[Item] | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                queue.put(entry, timeout=0.1)
            except Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not offer((item,)):
                    return
            offer(None)
        except BaseException as error:  # handed to the reader of the items
            offer(error)

    worker = Thread(target=work, name="prefetch", daemon=True)
    try:
        worker.start()
    except RuntimeError as error:
        if not is_thread_limit(error):
            raise
        yield from items  # slower, and the same
        return
    try:
        while (entry := queue.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            yield entry[0]
    finally:
        stopped.set()
        while worker.is_alive():  # room in the queue lets a waiting worker see the end at once
            try:
                queue.get_nowait()
            except Empty:
                worker.join(0.01)
