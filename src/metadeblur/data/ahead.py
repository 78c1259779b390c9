"""Batches made in the background while those before them are learnt from."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

from metadeblur.system.machine import usable_cpus
from metadeblur.system.thread_limit import starting

_Batch = TypeVar("_Batch")
_MOST_THREADS = 16


class Ahead(Generic[_Batch]):
    """Makes the next batches in the background while the present one is used.

    Args:
        make: gives the batch of a number; called from other threads, several at once where there are several.
        threads: that make batches, each one ahead.

    >>> [Ahead(lambda number: number * number)(step) for step in (3, 4)]
    [9, 16]
    """

    def __init__(self, make: Callable[[int], _Batch], threads: int = 1) -> None:
        self._make = make
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)
        self._begun: dict[int, Future[_Batch]] = {}

    def __call__(self, number: int) -> _Batch:
        """The batch ``number``; those after it are begun."""
        wanted = range(number, number + 1 + self._threads)
        for other in [other for other in self._begun if other not in wanted]:
            self._begun.pop(other).cancel()
        for one in wanted:
            if one not in self._begun:
                with starting():
                    self._begun[one] = self._pool.submit(self._make, one)
        return self._begun.pop(number).result()


def loading_threads(device: torch.device) -> int:
    """Threads that make batches: a GPU needs them faster than one thread gives them, on the CPU they would disturb.

    >>> loading_threads(torch.device("cpu"))
    1
    """
    return 1 if device.type == "cpu" else min(_MOST_THREADS, usable_cpus())
