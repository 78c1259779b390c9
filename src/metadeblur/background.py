"""Work that goes on behind the main thread: encoding finished frames while the network makes the next ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

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
