"""The time that adapting to a clip may take, shared by pairs, gradient steps and guard."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from metadeblur.guard.votes import GuardSettings
from metadeblur.reblur.place import Place

Result = TypeVar("Result")

PAIRS_SHARE = 0.3
"""Share of the time after which no further place is reblurred: more steps on fewer pairs win more than none."""

LEAST_PLACES, LEAST_STEPS = 4, 8
"""Places that are reblurred, and gradient steps that are taken, at least: with less nothing is learnt."""

PAIR_SECONDS = 0.25
"""Roughly, for a place of a network's usual patch: chosen, restored and reblurred."""

STEP_COST = 3.5
"""A gradient step, in passes of the network over the same pixels."""

FUSION_COST = 1.4
"""Fusing, correcting and voting on a piece of a frame, in passes of the network over it, its own pass among them."""

JUDGE_FRAMES, JUDGE_PAIRS = 2.5, 3
"""Restored pieces for each one of the base model's, with the base model's, and restorations of each held-out pair:
shares that are tried (mostly one or two)."""

SHARES, PIECE_PIXELS = (1.0, 0.5, 0.25), 120_000
"""Shares that are tried, and px of the pieces that are looked at, where time is limited."""

_VOTES = ((3, 2), (2, 2), (1, 2))
"""Places of the votes and neighbours that frames are fused with for them, the most careful first."""


@dataclass(frozen=True)
class GuardPlan:
    """What the guard looks at within a time limit, and how long it takes."""

    settings: GuardSettings
    frame_seconds: float  # that the network takes for a piece of a frame
    frame_pixels: int  # of a piece
    patch_pixels: int
    fuse: bool  # whether there are votes on fusing

    @classmethod
    def within(
        cls, seconds: float, frame_seconds: float, frame_pixels: int, patch_pixels: int, *, fuse: bool
    ) -> GuardPlan:
        """The most careful votes on fusing that take no longer than ``seconds``, or the least there are.

        >>> [GuardPlan.within(s, 0.1, 90_000, 36_864, fuse=True).settings.spots for s in (60, 3, 0)]
        [3, 2, 1]
        """
        usual, plans = GuardSettings(), []
        for spots, radius in _VOTES:
            settings = replace(usual, pixels=PIECE_PIXELS, spots=spots, fusion_radius=radius, shares=SHARES)
            plans.append(cls(settings, frame_seconds, frame_pixels, patch_pixels, fuse))
        return next((plan for plan in plans if plan.fusing <= seconds), plans[-1])

    @property
    def fusing(self) -> float:
        """Seconds for the votes on fusing."""
        frames = self.settings.spots * (2 + 2 * (self.settings.fusion_radius + 1))
        return self.fuse * frames * FUSION_COST * self.frame_seconds

    def judging(self, held_out: int) -> float:
        """Seconds for the votes on adapted weights, with so many held-out pairs."""
        pairs = JUDGE_PAIRS * held_out * self.patch_pixels / self.frame_pixels
        return (2 * self.settings.spots * JUDGE_FRAMES + pairs) * self.frame_seconds

    def learning(self, batch: int) -> float:
        """Seconds for the least that is worth learning, judged."""
        step = STEP_COST * batch * self.patch_pixels / self.frame_pixels * self.frame_seconds
        return LEAST_PLACES * PAIR_SECONDS + LEAST_STEPS * step + self.judging(1)


@dataclass
class Budget:
    """How much of the time is left.

    >>> Budget(0.0).left()
    inf
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

    def until(self, share: float) -> float:
        """When this share of the time that is left now, without what is kept back, will be gone; monotonic clock.

        >>> Budget(0.0).until(0.3)
        inf
        """
        return time.monotonic() + share * self.left()

    def places(
        self, places: Sequence[Place], make: Callable[[Sequence[Place]], list[Result]]
    ) -> tuple[Sequence[Place], list[Result]]:
        """The first places, as many as there is time for, and what ``make`` gives for them."""
        if not self.limited:
            return places, make(places)
        results: list[Result] = []
        until = self.until(PAIRS_SHARE)
        for count, place in enumerate(places):
            if count >= LEAST_PLACES and time.monotonic() > until:
                return places[:count], results
            results += make([place])
        return places, results
