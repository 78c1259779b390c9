"""Results computed from the pictures of one clip: flows, changes of brightness, blurriness."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import is_dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from metadeblur.imaging.optical_flow import FAST, dense_flow

Array = NDArray[Any]
Result = TypeVar("Result")


class ClipCache:
    """Results by the content of the pictures they were computed from; the least recently used are dropped first.

    Make one for each clip, and hand it down to all that looks at this clip: the same two pictures are compared when
    pairs are made, when frames are restored, and by every vote of the guard.

    Args:
        megabytes: of the arrays kept.

    >>> cache, picture = ClipCache(), np.zeros((64, 64), np.uint8)
    >>> cache.flow(picture, picture) is cache.flow(picture.copy(), picture)
    True
    """

    def __init__(self, megabytes: float = 192.0) -> None:
        self._megabytes = megabytes
        self._room = megabytes * 2**20
        self._results: OrderedDict[Hashable, Any] = OrderedDict()

    def __reduce__(self) -> tuple[type[ClipCache], tuple[float]]:
        """Copies and pickles are empty."""
        return ClipCache, (self._megabytes,)

    def flow(self, source: Array, target: Array, preset: int = FAST) -> Array:
        """:func:`~metadeblur.imaging.optical_flow.dense_flow` of two pictures (h, w) uint8, read-only."""

        def make() -> Array:
            flow = dense_flow(source, target, preset)
            flow.flags.writeable = False
            return flow

        return self.of(("flow", preset), make, source, target)

    def of(self, name: Hashable, make: Callable[[], Result], *pictures: Array) -> Result:
        """The result of ``make``, kept by a name and its pictures; without pictures there is one for the clip."""
        key = (name, *((picture.shape, _digest(picture)) for picture in pictures))
        if key in self._results:
            self._results.move_to_end(key)
        else:
            self._results[key] = result = make()
            self._room -= _bytes(result)
            while self._room < 0 and len(self._results) > 1:
                _, oldest = self._results.popitem(last=False)
                self._room += _bytes(oldest)
        value: Result = self._results[key]
        return value


def _digest(picture: Array) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(picture).data).digest()


def _bytes(result: object) -> int:
    """Memory of an entry: about 1 kB, and the arrays or tensors that the result is, or has as fields or weights."""
    if isinstance(result, nn.Module):
        return 1024 + sum(int(weight.nbytes) for weight in result.state_dict().values())
    parts = vars(result).values() if is_dataclass(result) else [result]
    return 1024 + sum(getattr(part, "nbytes", 0) for part in parts)
