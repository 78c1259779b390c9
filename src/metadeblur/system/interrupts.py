"""Short blocks of code that Ctrl-C and other requests to end do not interrupt."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def undisturbed() -> Iterator[None]:
    """Delay Ctrl-C and other requests to end until the block is over; keep it short."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    names = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    handlers = {name: signal.getsignal(name) for name in names}
    ours = {name: handler for name, handler in handlers.items() if callable(handler)}
    for name in ours:
        signal.signal(name, lambda number, _: waiting.append(number))
    try:
        yield
    finally:
        for name, handler in ours.items():
            signal.signal(name, handler)
        if waiting:
            signal.raise_signal(waiting[0])
