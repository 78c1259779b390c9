"""Recognise that the system allows no further thread or process, and say so in plain words."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from metadeblur.errors import MetadeblurError

NO_MORE_THREADS = (
    "the system allows no further thread or process; end other programs, raise the limit (ulimit -u, or that of the "
    "container), or use fewer (OMP_NUM_THREADS=1, fewer --workers or --jobs)"
)


def is_thread_limit(error: BaseException) -> bool:
    """Whether an error says that no further thread or process could be started.

    >>> is_thread_limit(RuntimeError("can't start new thread")), is_thread_limit(RuntimeError("no"))
    (True, False)
    """
    if isinstance(error, OSError):
        return error.errno == errno.EAGAIN
    return isinstance(error, RuntimeError) and "can't start new thread" in str(error)


@contextmanager
def starting() -> Iterator[None]:
    """Turn a refusal to start a thread or process in the block into one clear line.

    Raises:
        MetadeblurError: the system allows none.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        if is_thread_limit(error):
            raise MetadeblurError(NO_MORE_THREADS) from error
        raise
