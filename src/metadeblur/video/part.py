"""A part of a video: from one moment to another, as a player's clock tells them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Annotated

import av

from metadeblur.errors import MetadeblurError
from metadeblur.limits import YEAR, OutOfRange, Within, check, told
from metadeblur.video.decoding import Span
from metadeblur.video.info import VideoInfo, open_media

_EXACTNESS = Fraction(1, 1000)  # seconds: moments are told to a millisecond, and so are the stamps of many files


@dataclass(frozen=True)
class Part:
    """The frames that begin at ``start`` or later and before ``end``.

    Both are seconds on the clock that players show, to a millisecond.
    """

    start: Annotated[float, Within(0, YEAR)] = 0.0
    end: Annotated[float, Within(0, YEAR, above=True)] | None = None  # None: to the end of the video

    def __post_init__(self) -> None:
        check(self)
        if self.end is not None and self.end <= self.start:
            raise OutOfRange("end", f"is {told(float(self.end))}; the end comes after the start, {told(self.start)}")

    def span(self, info: VideoInfo) -> Span:
        """The part by the time stamps of a file.

        Raises:
            MetadeblurError: it is no video.
        """
        if info.kind != "video":
            what = "a folder of frames" if info.kind == "frames" else "a picture"
            raise MetadeblurError(f"{info.path}: is {what}, which has no times; --start and --end are for videos")
        origin, slack = _origin(info), min(_EXACTNESS, 1 / (4 * info.fps))

        def stamp(seconds: float) -> int:
            return ceil((origin + Fraction(seconds) - slack) / info.time_base)

        return Span(stamp(self.start) if self.start else None, None if self.end is None else stamp(self.end))

    def estimated(self, info: VideoInfo) -> tuple[int, float]:
        """About how many frames of a video, and seconds, are in the part; at least one frame."""
        end = info.duration_seconds if self.end is None else min(self.end, info.duration_seconds)
        seconds = max(0.0, end - self.start)
        return max(1, min(info.frames, round(seconds * info.fps))), seconds

    def __str__(self) -> str:
        """In words, after a name.

        >>> str(Part(1.5)), str(Part(0, 2))
        ('from 1.5 s on', 'from 0 s to 2 s')
        """
        until = "on" if self.end is None else f"to {told(float(self.end))} s"
        return f"from {told(float(self.start))} s {until}"


def _origin(info: VideoInfo) -> Fraction:
    """Where the clock that players show begins on the file's own, in seconds."""
    with open_media(info.path) as container:
        return Fraction(max(0, container.start_time or 0), av.time_base)
