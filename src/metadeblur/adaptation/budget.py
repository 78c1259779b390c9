"""The time that adapting to a clip may take, shared by pairs, gradient steps and guard."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from metadeblur.reblur.place import Place

Result = TypeVar("Result")

PAIRS_SHARE = 0.3
"""Share of the time after which no further place is reblurred: more steps on fewer pairs win more than none."""

LEAST_PLACES = 4
"""Places that are reblurred however little time there is."""


@dataclass
class Budget:
    """How much of the time is left.

    >>> Budget(0.0).left(), Budget(0.0).pays_for(100.0)
    (inf, True)
    """

    seconds: float  # in all; 0: no limit
    began: float = field(default_factory=lambda: time.monotonic())
    kept_back: float = 0.0  # seconds for what comes last

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self.seconds > 0

    def left(self) -> float:
        """Seconds until the limit, but for those kept back; at least a moment, without a limit endless."""
        if not self.limited:
            return math.inf
        return max(self.seconds - self.kept_back - (time.monotonic() - self.began), 1e-3)

    def pays_for(self, share: float) -> bool:
        """Whether less than this share of the time is gone."""
        return not self.limited or time.monotonic() - self.began < share * self.seconds

    def places(
        self, places: Sequence[Place], make: Callable[[Sequence[Place]], list[Result]]
    ) -> tuple[Sequence[Place], list[Result]]:
        """The first places, as many as there is time for, and what ``make`` gives for them."""
        if not self.limited:
            return places, make(places)
        results: list[Result] = []
        for count, place in enumerate(places):
            if count >= LEAST_PLACES and not self.pays_for(PAIRS_SHARE):
                return places[:count], results
            results += make([place])
        return places, results
