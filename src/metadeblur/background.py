"""Work that goes on behind the main thread: frames decoded ahead of the network, and encoded behind it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, Full, Queue
from threading import Event, Thread
from types import TracebackType
from typing import Any, TypeVar

Item = TypeVar("Item")

DEPTH = 3  # calls that may wait; each holds a frame


class Behind:
    """Makes calls one after the other in a thread of its own, a few behind; what they raise is raised here.

    >>> done = []
    >>> with Behind() as behind:
    ...     for number in range(5):
    ...         behind.do(done.append, number)
    ...     behind.finish()
    >>> done
    [0, 1, 2, 3, 4]
    """

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="behind")
        self._calls: deque[Future[Any]] = deque()

    def do(self, call: Callable[..., object], *values: object) -> None:
        """Make a call later, in order; waits while too many are outstanding."""
        while len(self._calls) >= DEPTH:
            self._calls.popleft().result()
        self._calls.append(self._worker.submit(call, *values))

    def finish(self) -> None:
        """Wait until every call is made."""
        while self._calls:
            self._calls.popleft().result()

    def __enter__(self) -> Behind:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an error the calls that wait are dropped; the one under way must end before its writer is closed.
        self._worker.shutdown(wait=True, cancel_futures=True)


def prefetch(items: Iterable[Item], depth: int) -> Generator[Item, None, None]:
    """The items in order, made by a thread that works up to ``depth`` items ahead.

    An error raised while an item is made is raised here in its place. Closing the iterator stops the thread.

    >>> list(prefetch(range(4), depth=2))
    [0, 1, 2, 3]
    """
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
    worker.start()
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
