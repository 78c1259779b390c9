"""Time stamps of frames: a table of them, repaired where a file's are wrong, and the frame rate."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from statistics import median

import av
import numpy as np

from metadeblur.video.marks import Marks, MarksBuilder
from metadeblur.video.transparency import is_transparent

RECORDING = 1 << 50
"""What is added to the time stamps of each further one of several joined recordings while they are decoded."""

_STANDARD_RATES = tuple(
    Fraction(rate)
    for rate in ("24000/1001", "24", "25", "30000/1001", "30", "50", "60000/1001", "60", "12", "12.5", "15", "10",
                 "100", "120000/1001", "120", "240")
)  # fmt: skip
_DISORDER = 0.1  # share of frames out of order from which on the whole file is sorted, not repaired
_FASTEST = 1000  # frames a second; closer time stamps are taken for wrong


@dataclass(frozen=True)
class TimeTable:
    """The time stamp of each frame, from decoding the whole file.

    ``stamps`` strictly increase, in ``time_base`` seconds; ``duration`` is that of the last frame.
    """

    stamps: tuple[int, ...]
    time_base: Fraction
    duration: int
    end: int | None = None  # end of a shortened table, as for a preview; None: the whole video
    begin: int | None = None  # where the clock of a part begins, its first frame; None: the file's own clock
    skipped: int | None = None  # frames before a part that has to be counted off; None: time stamps lead to it
    exact: bool = True  # frames can be searched for by the file's own stamps; otherwise some are missing or wrong
    own: tuple[int, ...] = ()  # the file's own stamps, with `RECORDING` in them, where they differ
    damaged: int = 0  # packets that could not be decoded
    shifts: tuple[int, ...] = (0,)  # for each of the recordings that the file is joined of, added to its own clock
    fields: tuple[tuple[int, int, str], ...] = ()  # stretches to deinterlace: first frame, frame after it, order
    transparent: bool = False  # some pixel of a frame is not opaque
    marks: Marks = field(default_factory=Marks)  # what frames carry beside their pixels

    def __len__(self) -> int:
        return len(self.stamps)

    def first(self, count: int) -> TimeTable:
        """The table of the first ``count`` frames only, as for a preview."""
        if count >= len(self.stamps):
            return self
        end = self.stamps[count]
        return replace(self, stamps=self.stamps[:count], duration=end - self.stamps[count - 1], end=end)

    def between(self, begin: int | None, until: int | None) -> TimeTable:
        """The table of the frames that begin in a part, at ``begin`` or later and before ``until``; None: no limit.

        The last one lasts no longer than the part, unless it is an ordinary frame that ends a little later.
        """
        first = 0 if begin is None else bisect_left(self.stamps, begin)
        last = len(self) if until is None else bisect_left(self.stamps, until)
        if first >= last:
            return replace(self, stamps=())
        stamps = self.stamps[first:last]
        duration, end = self.duration, self.end
        if last < len(self):
            duration = self.stamps[last] - stamps[-1]
        if until is not None:
            step = usual_step(stamps, (), self.time_base) or duration
            duration = min(duration, max(step, until - stamps[-1]))
            end = max(until, stamps[-1] + duration)
        fields = ((max(0, start - first), min(stop, last) - first, order) for start, stop, order in self.fields)
        messages = {index - first: sei for index, sei in self.marks.messages.items() if first <= index < last}
        return replace(
            self,
            stamps=stamps,
            duration=duration,
            end=end,
            begin=None if begin is None else stamps[0],
            own=self.own[first:last],
            fields=tuple((start, stop, order) for start, stop, order in fields if stop > start),
            marks=replace(self.marks, messages=messages),
        )

    @property
    def variable(self) -> bool:
        """Whether the frames last differently long, by more than the rounding of the time base."""
        if len(self.stamps) < 3:
            return False
        stamps = np.array(self.stamps, np.float64)
        even = np.linspace(stamps[0], stamps[-1], len(stamps))
        return bool(np.abs(stamps - even).max() > 1)

    @property
    def rate(self) -> Fraction:
        """Mean frames a second."""
        steps = max(1, len(self.stamps) - 1)
        span = self.stamps[-1] - self.stamps[0] if len(self.stamps) > 1 else max(1, self.duration)
        return (steps / (span * self.time_base)).limit_denominator(1001)

    @property
    def joined(self) -> bool:
        """Whether the file is several recordings, one after the other."""
        return len(self.shifts) > 1

    def order_of(self, frame: int) -> str:
        """Which field of a frame comes first: "tff", "bff", "auto" as the frame tells; empty: it is progressive."""
        place = bisect_right(self.fields, frame, key=lambda stretch: stretch[0]) - 1
        return self.fields[place][2] if place >= 0 and frame < self.fields[place][1] else ""


@dataclass
class TimeTableBuilder:
    """Collects the time stamps of decoded frames in the order they are shown, and mends what is wrong with them."""

    time_base: Fraction
    usual: int  # duration to assume where the file does not tell, in time_base
    stamps: list[int | None] = field(default_factory=list)
    decoded: list[int | None] = field(default_factory=list)  # when the packet was decoded that brought the frame out
    packets: list[int] | None = None  # decoding times of packets, for files whose other time stamps are wrong (AVI)
    even: bool = False  # the file has no time stamps; FFmpeg counted them up
    durations: list[int] = field(default_factory=list)
    orders: list[str] = field(default_factory=list)  # of fields, see `TimeTable.order_of`
    damaged: int = 0
    transparent: bool = False
    marks: MarksBuilder = field(default_factory=MarksBuilder)

    def add(self, stamp: int | None, duration: int | None, decoded: int | None = None) -> None:
        """One more frame."""
        self.stamps.append(stamp)
        self.decoded.append(decoded)
        self.durations.append(duration or 0)

    def see(self, frame: av.VideoFrame) -> None:
        """What the frame that was added last is and carries beside its pixels."""
        if not self.transparent:
            self.transparent = is_transparent(frame)
        self.marks.add(len(self.stamps) - 1, frame)

    def build(self) -> TimeTable:
        """The finished table."""
        stated: Sequence[int | None] = self.stamps
        if self.packets:
            stated = _as_decoded(self.packets, self.decoded, len(stated))
        step = self._step(stated)
        stamps: list[int] = []
        shifts = [0]
        for number, start, stop in _recordings(stated):
            clock = [None if stamp is None else split(stamp)[1] for stamp in stated[start:stop]]
            mended = _mended(clock, self.durations[start:stop], step)
            if self.even:
                mended = _evened(mended)
            if stamps:
                shifts += [shifts[-1]] * (number - len(shifts))  # of recordings without a frame
                shifts.append(stamps[-1] + step - mended[0])
            stamps += [stamp + shifts[-1] for stamp in mended]
        table = TimeTable(
            tuple(stamps),
            self.time_base,
            self._last(step),
            damaged=self.damaged,
            shifts=tuple(shifts),
            fields=_stretches(self.orders),
            transparent=self.transparent,
            marks=self.marks.build(),
        )
        own = [stamp for stamp in self.stamps if stamp is not None]
        exact = len(own) == len(stamps) and all(before < after for before, after in pairwise(own))
        return replace(table, exact=exact, own=tuple(own) if exact and own != stamps else ())

    def _step(self, stamps: Sequence[int | None]) -> int:
        """How long a frame lasts as a rule, in ``time_base``."""
        return usual_step(stamps, self.durations, self.time_base) or self.usual

    def _last(self, step: int) -> int:
        """How long the last frame lasts: as told where that can be true."""
        stated = self.durations[-1] if self.durations else 0
        return stated if 0 < stated < 1000 * step else step


def split(stamp: int) -> tuple[int, int]:
    """The number of the recording in a stamp (see :data:`RECORDING`), and the stamp on that recording's own clock.

    >>> split(2 * RECORDING - 5)
    (2, -5)
    """
    number = (stamp + RECORDING // 2) // RECORDING
    return number, stamp - number * RECORDING


def usual_step(stamps: Sequence[int | None], durations: Sequence[int], time_base: Fraction) -> int | None:
    """How long a frame lasts as a rule by its time stamps, or by its duration where those cannot be true.

    >>> usual_step([0, 40, 80], [0, 0, 0], Fraction(1, 1000)), usual_step([0, 1, 2], [40, 40, 40], Fraction(1, 5000))
    (40, 40)
    """
    shown = sorted(stamp for stamp in stamps if stamp is not None)
    steps = [after - before for before, after in pairwise(shown) if 0 < after - before < RECORDING // 2]
    lengths = [duration for duration in durations if duration > 0]
    for values in (steps, lengths):
        if values and (step := round(median(values))) * time_base * _FASTEST >= 1:
            return step
    return None


def likely_rate(
    stated: Iterable[Fraction | int | None],
    stamps: Sequence[int | None],
    durations: Sequence[int],
    time_base: Fraction,
) -> Fraction | None:
    """The rate that a file tells of and that its first frames agree with; None where there is none.

    >>> str(likely_rate([Fraction(60000), Fraction(25)], [0, 2400, 4800], [], Fraction(1, 60000)))
    '25'
    """
    rates = [Fraction(rate) for rate in stated if rate]
    step = usual_step(stamps, durations, time_base)
    if step is None:
        return next((rate for rate in rates if rate <= _FASTEST), None)
    measured = 1 / (step * time_base)
    shown = [stamp for stamp in stamps if stamp is not None]
    constant = all(abs(after - before - step) <= 1 for before, after in pairwise(shown))
    agreeing = [rate for rate in rates if abs(1 / rate / time_base - step) <= 1] if constant else []
    near = [rate for rate in rates if measured / 2 <= rate <= 2 * measured]
    return next(iter([*agreeing, *near]), _standard(measured, Fraction(1, 2 * step)))


def measured_rate(stated: Fraction, times: TimeTable) -> Fraction:
    """Frames a second: as the file states, unless the time stamps contradict it.

    >>> str(measured_rate(Fraction(60000), TimeTable((0, 2002, 4004), Fraction(1, 60000), 2002)))
    '30000/1001'
    """
    steps, span = len(times) - 1, times.stamps[-1] - times.stamps[0]
    if not steps:
        steps, span = 1, max(1, times.duration)
    mean = steps / (span * times.time_base)
    if times.variable:
        usual = usual_step(times.stamps, (), times.time_base)
        rates = (mean, 1 / (usual * times.time_base) if usual else mean)
        return stated if min(rates) / 2 <= stated <= 2 * max(rates) else times.rate
    if abs(steps / stated / times.time_base - span) <= 1.5:
        return stated
    return _standard(mean, Fraction(3, 2 * span))


def _standard(rate: Fraction, tolerance: Fraction) -> Fraction:
    """The standard rate within a relative ``tolerance`` of a measured one; otherwise the measured one."""
    nearest = min(_STANDARD_RATES, key=lambda usual: abs(usual - rate))
    return nearest if abs(nearest / rate - 1) <= tolerance else rate.limit_denominator(1001)


def _recordings(stamps: Sequence[int | None]) -> list[tuple[int, int, int]]:
    """The number of each of the joined recordings that has frames, its first frame and the one after its last."""
    begins = [(0, 0)]
    for place, stamp in enumerate(stamps):
        # A frame of the earlier one may come late.
        if stamp is not None and split(stamp)[0] > begins[-1][0]:
            begins.append((split(stamp)[0], place))
    ends = [*(place for _, place in begins[1:]), len(stamps)]
    return [(number, start, stop) for (number, start), stop in zip(begins, ends, strict=True) if stop > start]


def _as_decoded(packets: Sequence[int], decoded: Sequence[int | None], count: int) -> Sequence[int | None]:
    """The time stamps of frames in a file that tells only when packets are decoded, as AVI does.

    Its frames follow one another as its packets do, however late the decoder gives them out.
    """
    if len(packets) == count:
        return sorted(packets)
    lag = next((time for time in decoded if time is not None), packets[0]) - packets[0]
    return [None if time is None else time - lag for time in decoded]


def _mended(stamps: list[int | None], durations: Sequence[int], step: int) -> list[int]:
    """Stamps that increase: those that are out of order put in order, those that are missing or wrong made up."""
    values = [stamp for stamp in stamps if stamp is not None]
    if not values:
        lengths = [duration or step for duration in durations]
        return [int(start) for start in np.cumsum([0, *lengths[:-1]])]
    places = [place for place, stamp in enumerate(stamps) if stamp is not None]
    if (usual_step(values, (), Fraction(1)) or step) * 50 < step:  # frames that were counted, not timed
        values = [value * step for value in values]
    late = sum(after < before for before, after in pairwise(values))
    if late > max(1, _DISORDER * len(values)):
        values = sorted(values)
    kept = _longest_rise(values)
    anchors = [(places[index], values[index]) for index in kept]
    return _filled(anchors, len(stamps), step)


def _longest_rise(values: Sequence[int]) -> list[int]:
    """Indices of the most values that rise from one to the next."""
    ends: list[int] = []  # of rises of length 1, 2, ...: index of their last value
    before: list[int] = []
    for index, value in enumerate(values):
        place = bisect_left(ends, value, key=lambda end: values[end])
        before.append(ends[place - 1] if place else -1)
        if place == len(ends) or values[ends[place]] > value:  # of equal ones the first
            ends[place : place + 1] = [index]
    rise, index = [], ends[-1]
    while index >= 0:
        rise.append(index)
        index = before[index]
    return rise[::-1]


def _filled(anchors: Sequence[tuple[int, int]], count: int, step: int) -> list[int]:
    """Stamps for all places: those of the anchors, evenly between them, by the step before and after."""
    first, last = anchors[0], anchors[-1]
    filled = [first[1] - step * (first[0] - place) for place in range(first[0])]
    for (place, stamp), (following, until) in pairwise(anchors):
        gap = following - place
        filled += [stamp + (until - stamp) * index // gap for index in range(gap)]
    filled += [last[1] + step * index for index in range(count - last[0])]
    for place in range(1, count):  # where there is less room than frames
        filled[place] = max(filled[place], filled[place - 1] + 1)
    return filled


def _evened(stamps: list[int]) -> list[int]:
    """Stamps that a demultiplexer counted up, without the first step, which it did not know yet."""
    steps = {after - before for before, after in pairwise(stamps[1:])}
    if len(steps) != 1:
        return stamps
    step = steps.pop()
    return [stamps[0] + step * index for index in range(len(stamps))]


def _stretches(orders: Sequence[str]) -> tuple[tuple[int, int, str], ...]:
    edges = [0, *(place for place in range(1, len(orders)) if orders[place] != orders[place - 1]), len(orders)]
    return tuple((start, stop, orders[start]) for start, stop in pairwise(edges) if stop > start and orders[start])
