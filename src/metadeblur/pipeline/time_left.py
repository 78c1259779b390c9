"""How long a restoration will take: a range, from a short measured piece of it, corrected as the work goes on."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from metadeblur.adaptation.budget import PIECE_PIXELS, STEP_COST, GuardPlan
from metadeblur.adaptation.stages import AdaptSettings
from metadeblur.guard.votes import GuardSettings
from metadeblur.models.adapted import FusionSettings
from metadeblur.models.forward import frozen
from metadeblur.models.registry import final, traits
from metadeblur.pipeline.events import (
    Event,
    FrameRestored,
    Listener,
    ShotDecided,
    ShotStarted,
    StepDone,
    TimeLeft,
)
from metadeblur.pipeline.speed import quickest
from metadeblur.restoration.restorer import Restorer
from metadeblur.system.device import choose_device, has_native_bf16
from metadeblur.system.names import counted, in_words

Piece: TypeAlias = Literal["fit", "step", "guard", "frame"]
"""What a restoration is made of: finding and reblurring the pairs of a shot, its gradient steps, its guard, frames."""
Range: TypeAlias = tuple[float, float]
"""The least and the most seconds."""

LONG_RUN_SECONDS = 10.0  # runs that are expected to take longer are announced
_LATEST = 10  # pieces that show how fast it goes at present
TURN = 0.25  # of what was announced, that the next one may take back at most
CORRECTED_AFTER = 10.0  # seconds between two announcements, at least
TRIAL_SECONDS = 3.0  # spent on a piece of a long run to see how long it takes
TRIAL_FRAMES = (2, 12)
# The guard of one shot, in passes of the network: pieces of frames for the votes on fusing, and for those on adapted
# weights (mostly one or two shares are tried), and how often each held-out patch is restored.
FUSING_PIECES, JUDGING_PIECES, JUDGING_PAIRS = 25.0, 28.0, 3.0
FIT_SECONDS = (2.5, 8.0)  # the exposure of a clip told: whatever its size, and a million pixels of a frame
PLACE_SECONDS = (0.15, 1.2)  # the same of a place that is learnt from: chosen, restored and reblurred
FUSE_SECONDS = (2.0, 0.4)  # fusing and correcting, a million pixels of a frame: reduced ones, and whole ones
_ROUGH: Range = (0.8, 1.3)  # of what has not been measured, but follows from what has
MEASURED: Range = (0.85, 1.25)  # of what has been measured


@dataclass(frozen=True)
class Work:
    """Pieces of each kind that are left to do."""

    fit: int = 0
    step: int = 0
    guard: int = 0
    frame: float = 0

    def less(self, **done: float) -> Work:
        """What is left after some pieces.

        >>> Work(step=40, frame=9).less(frame=10, step=1)
        Work(fit=0, step=39, guard=0, frame=0)
        """
        return Work(**{kind: max(0, count - done.get(kind, 0)) for kind, count in vars(self).items()})


@dataclass(frozen=True)
class Costs:
    """Seconds that one piece of each kind takes."""

    fit: Range
    step: Range
    guard: Range
    frame: Range
    network: float = 0.0  # of that, the network's passes over one frame


def rough_costs(frame_seconds: float, settings: AdaptSettings, area: int) -> Costs:
    """What everything may take, from the time that the network takes for one frame.

    Args:
        frame_seconds: the network's time for a frame.
        settings: of the adaptation.
        area: pixels of a frame.

    >>> step = rough_costs(0.1, AdaptSettings(), 256 * 256 * 4).step
    >>> [round(seconds, 2) for seconds in step]
    [0.04, 0.06]
    """
    learns, guard = bool(settings.steps_on(1)), GuardSettings()
    patch = min(settings.patch**2, area) / area
    passes = settings.fuse * FUSING_PIECES * min(guard.fusion_pixels, area) / area
    if learns:
        passes += JUDGING_PIECES * min(guard.pixels, area) / area
        passes += JUDGING_PAIRS * settings.held_out * settings.pairs * patch
    return Costs(
        fit=_times(fitting(area, settings.pairs * learns), _ROUGH),
        step=_times(STEP_COST * settings.batch * patch * frame_seconds, _ROUGH),
        guard=_times(passes * frame_seconds, _ROUGH),
        frame=_plus(_times(frame_seconds, (1.0, _ROUGH[1])), fusing(settings, area)),
        network=frame_seconds,
    )


def fitting(area: int, places: int = 0) -> float:
    """Seconds in which the exposure of a clip is told and places are reblurred, roughly.

    Args:
        area: pixels of a frame.
        places: that are learnt from.
    """
    anyway, million = (one + places * other for one, other in zip(FIT_SECONDS, PLACE_SECONDS, strict=True))
    return anyway + million * area / 1e6


def too_short(settings: AdaptSettings, shots: int, frame_seconds: float, area: int) -> str | None:
    """What to say beforehand of a time limit in which not even the least that makes sense is done.

    Args:
        settings: of the adaptation, with the time for all shots together.
        shots: that are to be adapted to.
        frame_seconds: the network's time for a frame.
        area: pixels of a frame.
    """
    if not (settings.budget_seconds and shots and settings.guard):
        return None
    pixels = min(PIECE_PIXELS, area)
    votes = GuardPlan.within(0.0, frame_seconds * pixels / area, pixels, 1, fuse=settings.fuse).fusing
    least = shots * (fitting(area) + votes)
    if settings.budget_seconds >= least:
        return None
    return (
        f"{in_words(settings.budget_seconds)} for adapting is less than the least that makes sense, about "
        f"{in_words(least)}: that is taken, to tell the exposure and to vote on fused frames, and nothing is learnt"
    )


def fusing(settings: AdaptSettings, area: int) -> Range:
    """Seconds that a restored frame waits for being fused with its neighbours and corrected.

    Args:
        settings: of the adaptation; where it does not fuse, nothing.
        area: pixels of a frame.

    >>> fusing(AdaptSettings(fuse=False), 1280 * 720)
    (0.0, 0.0)
    """
    if not settings.fuse:
        return 0.0, 0.0
    reduced, whole = FUSE_SECONDS
    return _times((reduced * min(area, FusionSettings().pixels) + whole * area) / 1e6, _ROUGH)


def expected(work: Work, costs: Costs, budget: float = 0.0) -> Range:
    """Seconds that the work takes, at least and at most.

    Args:
        work: what is left.
        costs: of each piece.
        budget: seconds that adapting may take; 0: no limit.

    >>> expected(Work(step=40, frame=10), Costs((0, 0), (1, 2), (0, 0), (0.5, 1)), budget=60.0)
    (45.0, 70.0)
    """
    ends = []
    for end in (0, 1):
        adapting = work.fit * costs.fit[end] + work.step * costs.step[end] + work.guard * costs.guard[end]
        ends.append(work.frame * costs.frame[end] + min(adapting, budget or adapting))
    return ends[0], ends[1]


def step_seconds(net: nn.Module, settings: AdaptSettings, height: int, width: int) -> float:
    """How long one gradient step takes, measured on a grey patch.

    Args:
        net: the deblurrer; not changed.
        settings: of the adaptation.
        height: of a frame, px.
        width: of a frame, px.

    Raises:
        RuntimeError: memory does not hold it.
    """
    device, frames, multiple = choose_device(settings.device), traits(net).frames, traits(net).multiple
    side = -(-min(settings.patch, height, width) // multiple) * multiple
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and has_native_bf16(device))
    copied = frozen(net).to(device).requires_grad_(True)
    patches = torch.full((settings.batch, *([frames] if frames > 1 else []), 3, side, side), 0.5, device=device)

    def step() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            output = final(copied(patches))
        if output.requires_grad:
            output.float().mean().backward()  # type: ignore[no-untyped-call]

    return quickest(step, 2, TRIAL_SECONDS)  # the first one also sets up what the others use again


def measured_costs(
    restorer: Restorer,
    window: Tensor,
    net: nn.Module,
    settings: AdaptSettings,
    work: Work,
    trial: Callable[[int], int],
) -> Costs:
    """What the pieces of a run take: of a short run roughly, of a long one measured on a small part of it.

    Args:
        restorer: sends frames through the network.
        window: what it is tried on.
        net: the base deblurrer; not changed.
        settings: of the adaptation.
        work: all that is to do.
        trial: restores so many frames, if there are, on the whole way from decoding to encoding; returns how many.
    """
    settings = replace(settings, fuse=settings.fuse and work.fit > 0)  # what is not adapted to is not fused
    network = quickest(partial(restorer, window), 2, TRIAL_SECONDS)
    costs = rough_costs(network, settings, restorer.height * restorer.width)
    if expected(work, costs, settings.budget_seconds)[1] <= LONG_RUN_SECONDS:
        return costs
    least, most = TRIAL_FRAMES
    began = time.monotonic()
    count = trial(min(max(least, int(TRIAL_SECONDS / network)), most))
    frame, step = (time.monotonic() - began) / count, None
    if work.step:
        with suppress(RuntimeError):  # too little memory shows where it is needed, if it is
            step = step_seconds(net, settings, restorer.height, restorer.width)
    return tried_costs(costs, frame, step, fusing(settings, restorer.height * restorer.width))


def tried_costs(rough: Costs, frame: float, step: float | None, fused: Range) -> Costs:
    """What the pieces take where a small part of the run was tried.

    Args:
        rough: costs that follow from the network's time alone.
        frame: seconds for a frame on the whole way, but for fusing it.
        step: seconds for a gradient step; None: not tried.
        fused: seconds for fusing and correcting a frame.
    """
    # On the whole way, decoding and encoding go on beside the network as far as there are processors for them; the
    # short trial also waits for the encoder to finish.
    whole_way = min(rough.network, frame), MEASURED[1] * max(rough.network, frame)
    costs = replace(rough, frame=_plus(whole_way, fused))
    return costs if step is None else replace(costs, step=_times(step, MEASURED))


class Forecast:
    """Announces how long the rest of a run takes, and again when the work shows that this was wrong.

    It listens to the events of the run, and counts the pieces that are done by them.

    Args:
        listener: gets :class:`~metadeblur.pipeline.events.TimeLeft`.
        work: everything that is to do.
        costs: of each piece, as far as known.
        budget: seconds that adapting may take; 0: no limit.
        wait: frames that a restored one waits for before it is fused and written.
    """

    def __init__(self, listener: Listener, work: Work, costs: Costs, budget: float = 0.0, wait: int = 0) -> None:
        self.work, self.costs = work, costs
        self._listener, self._budget = listener, budget
        self._measured: dict[str, tuple[float, float]] = {}  # seconds and pieces of each kind so far
        self._latest: dict[str, deque[float]] = {}  # seconds that each of the latest pieces took
        self._began = self._announced_at = time.monotonic()
        self._total, self._turn = 0.0, ""  # what was announced for the whole, s, and how that differed from before
        self._ends: Range = (self._announced_at, self._announced_at + LONG_RUN_SECONDS)  # when it was to end
        self._adapts, self._planned, self._taken = False, 0, 0  # to the shot at hand; its gradient steps
        self._lap_began = self._announced_at
        self._wait = wait
        self._pieces: deque[float] = deque()  # of frames' work that are done when each of the shot's is written
        self._first = False  # whether the next one is the first of its shot

    def __call__(self, event: Event) -> None:
        """Count what is done."""
        match event:
            case ShotStarted(adapts=adapts, steps=steps):
                self._adapts, self._planned, self._taken, self._lap_began = adapts, steps, 0, time.monotonic()
            case StepDone(stage="adapt", done=done, total=total) if self._planned:
                self._stepped(done, total)
            case ShotDecided():
                self._decided(event)
            case FrameRestored(seconds=seconds) if seconds is not None:
                self._restored(seconds)

    def left(self) -> Range:
        """Seconds that are left, at least and at most."""
        return expected(self.work, self.costs, self._budget)

    def announce(self) -> None:
        """Tell how long it takes, if that is long."""
        low, high = self.left()
        if high <= LONG_RUN_SECONDS:
            return
        frames = int(self.work.frame)
        least, most = self.costs.frame
        parts = [f"{least:.2g} to {most:.2g} s a frame for {counted(frames, 'frame')}"]
        if self.work.fit:
            adapting = expected(self.work.less(frame=frames), self.costs, self._budget)
            parts.append(f"{range_in_words(*adapting)} to adapt")
        self._announce("", (low, high), f"expected time: {range_in_words(low, high)} ({', '.join(parts)})")

    def done(self, kind: Piece, seconds: float, count: float = 1) -> None:
        """Note that pieces are done; announces where the end is not to be expected when it was announced."""
        spent, pieces = self._measured.get(kind, (0.0, 0))
        spent, pieces = self._measured[kind] = spent + seconds, pieces + count
        latest = self._latest.setdefault(kind, deque(maxlen=_LATEST))
        latest.append(seconds / count)
        if kind in ("fit", "guard") or (pieces >= 3 and spent >= TRIAL_SECONDS):
            # A machine that was busy for a while may be so again or not.
            both = fmean(latest), spent / pieces
            self.costs = Costs(**{**vars(self.costs), kind: (MEASURED[0] * min(both), MEASURED[1] * max(both))})
        self.without(**{kind: count})

    def without(self, **pieces: float) -> None:
        """Note pieces that need not be done after all."""
        self.work = self.work.less(**pieces)
        now = time.monotonic()
        low, high = self.left()
        if now - self._announced_at < CORRECTED_AFTER or high <= LONG_RUN_SECONDS:
            return
        late, early = now + low > self._ends[1], now + high < self._ends[0]
        if late or early:
            changed: Literal["slower", "faster"] = "slower" if late else "faster"
            left = self._steady(changed, (low, high))
            self._announce(changed, left, f"{changed} than expected: {range_in_words(*left)} are left")

    def _steady(self, changed: Literal["slower", "faster"], left: Range) -> Range:
        """What is left, as it is announced: after one turn the next one the other way is a small one at a time.

        A machine that is busy for a while makes everything look long, and then short.
        """
        if not self._turn or changed == self._turn:
            return left
        total = time.monotonic() - self._began + fmean(left)
        limit = self._total * ((1 + TURN) if changed == "slower" else (1 - TURN))
        shift = min(0.0, limit - total) if changed == "slower" else max(0.0, limit - total)
        return max(0.0, left[0] + shift), max(0.0, left[1] + shift)

    def _stepped(self, done: int, total: int) -> None:
        """A gradient step is taken; the first one tells that the pairs are made."""
        seconds = self._lap()
        if self._taken == 0:
            self.without(step=self._planned - total)
            self._planned = total
            self.done("fit", seconds)
            self.without(step=done)
        else:
            self.done("step", seconds, done - self._taken)
        self._taken = done

    def _restored(self, seconds: float) -> None:
        """A frame is written; the first of a shot says nothing of the pace: it waited for its neighbours."""
        pieces = self._pieces.popleft() if self._pieces else 1.0
        if self._first:
            self._first = False
            self.without(frame=pieces)
        else:
            self.done("frame", seconds, pieces)

    def _as_they_come(self, frames: int) -> Iterator[float]:
        """What is done of the frames' work when each of a shot is written; of one frame that is 1.

        A fused frame waits for the network's work on the neighbours behind it; the last ones wait for nothing.
        """
        waiting = min(self._wait, frames - 1)
        # In eighths, so that all of them together are the frames to the last bit. Some of the work is always left: a
        # busy machine may have measured more for the network alone than for a whole frame.
        eighths = 8 * self.costs.network / max(fmean(self.costs.frame), self.costs.network, sys.float_info.min)
        network = min(7, round(eighths)) / 8 if waiting else 0.0
        for number in range(frames):
            last = number >= frames - waiting
            yield 1 + (number == 0) * waiting * network - last * network

    def _decided(self, event: ShotDecided) -> None:
        """A shot's adaptation is over; what was not done need not be done."""
        self._pieces = deque(() if event.untouched else self._as_they_come(event.length))
        self._first = True
        # All of it is counted before anything is announced.
        self.work = self.work.less(
            step=self._adapts * (self._planned - self._taken), frame=event.untouched * event.length
        )
        if self._adapts and self._taken:
            self.done("guard", self._lap())
        else:
            self.without(fit=int(self._adapts), guard=int(self._adapts))

    def _announce(self, changed: Literal["", "slower", "faster"], left: Range, text: str) -> None:
        self._announced_at = time.monotonic()
        low, high = left
        self._total, self._turn = self._announced_at - self._began + fmean(left), changed
        self._ends = (self._announced_at + low, self._announced_at + high)
        self._listener(TimeLeft(low, high, changed, text))

    def _lap(self) -> float:
        now = time.monotonic()
        seconds, self._lap_began = now - self._lap_began, now
        return seconds


def range_in_words(low: float, high: float) -> str:
    """A range of durations as a person would say it.

    >>> range_in_words(38.2, 61), range_in_words(3, 3.04), range_in_words(412, 655)
    ('38 s to 1 min 1 s', '3.0 s', '7 to 11 min')
    """
    first, last = (
        in_words(60 * round(end / 60)).removesuffix(" 0 s") if low >= 300 else in_words(end) for end in (low, high)
    )
    if first == last:
        return first
    number, _, unit = first.partition(" ")
    return f"{number} to {last}" if last.endswith(unit) and last.count(" ") == 1 else f"{first} to {last}"


def _plus(one: Range, other: Range) -> Range:
    return one[0] + other[0], one[1] + other[1]


def _times(seconds: float, factors: Range) -> Range:
    return seconds * factors[0], seconds * factors[1]
