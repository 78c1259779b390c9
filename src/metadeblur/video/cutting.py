"""What of the other streams, and which time code, belongs to a part of a video."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil

import av

from metadeblur.video.clock import Packet
from metadeblur.video.timing import TimeTable

_OUT_OF_ORDER = 20  # seconds by which packets may lie behind later ones in a file


@dataclass
class Edges:
    """Where a part or preview begins and ends on the source's clock, in seconds; None: there is no edge.

    Sound and further videos of a part begin with the first packet in it that can be decoded alone. A text that is shown
    across its beginning begins with it, one that is shown across its end ends there. A cover picture is always kept.
    """

    begin: Fraction | None
    end: Fraction | None
    begun: set[int] = field(default_factory=set)  # streams of which a packet was taken

    @classmethod
    def of(cls, times: TimeTable) -> Edges:
        """Those of a table of time stamps."""
        unit = times.time_base
        begin = None if times.begin is None else times.begin * unit
        return cls(begin, None if times.end is None else times.end * unit)

    def is_over(self, packet: Packet) -> bool:
        """Whether no packet behind this one can be before the end."""
        return self.end is not None and _shown_at(packet) >= self.end + _OUT_OF_ORDER

    def take(self, packet: Packet) -> bool:
        """Whether a packet lies within the edges; one that is shown across them is shortened where that can be."""
        stream, at = packet.stream, _shown_at(packet)
        if self.end is not None and at >= self.end:
            return False
        if self.begin is not None and at < self.begin:
            start = ceil(self.begin / packet.time_base)
            if stream.disposition & av.stream.Disposition.attached_pic:
                packet.pts = packet.dts = start
                return True
            left = 0 if packet.pts is None else packet.pts + (packet.duration or 0) - start
            if stream.type != "subtitle" or left <= 0:
                return False
            packet.pts, packet.dts, packet.duration = start, start, left
        elif self.begin is not None and stream.type in ("audio", "video") and stream.index not in self.begun:
            if not packet.is_keyframe:
                return False
            self.begun.add(stream.index)
        if self.end is not None and stream.type == "subtitle" and packet.pts is not None and packet.duration:
            packet.duration = min(packet.duration, max(1, int(self.end / packet.time_base) - packet.pts))
        return True


def _shown_at(packet: Packet) -> Fraction:
    """When a packet is shown, in seconds."""
    ticks = packet.pts if packet.pts is not None else packet.dts
    return Fraction(ticks or 0) * packet.time_base


def moved_timecode(tags: dict[str, str], stream: av.stream.Stream, times: TimeTable) -> dict[str, str]:
    """Tags whose time code is that of the first frame of a part."""
    if times.begin is None or "timecode" not in tags:
        return tags
    main = stream if isinstance(stream, av.VideoStream) else stream.container.streams.video[0]
    rate = main.average_rate or times.rate
    first = (main.start_time or 0) * (main.time_base or times.time_base)
    frames = round((times.begin * times.time_base - first) * rate)
    return {**tags, "timecode": later_timecode(tags["timecode"], frames, rate)}


def later_timecode(code: str, frames: int, rate: Fraction) -> str:
    """The time code so many frames later; text that is none stays as it is.

    A semicolon before the frames tells that numbers are dropped: of every minute but each tenth the first two, or at 60
    frames a second the first four (SMPTE ST 12-1).

    >>> later_timecode("01:00:59:20", 10, Fraction(25)), later_timecode("00:00:59;29", 1, Fraction(30000, 1001))
    ('01:01:00:05', '00:01:00;02')
    """
    match = re.fullmatch(r"(\d\d):(\d\d):(\d\d)([:;.])(\d\d)", code)
    if match is None:
        return code
    hours, minutes, seconds, within = (int(match[group]) for group in (1, 2, 3, 5))
    second = round(rate)
    dropped = 0 if match[4] == ":" else 2 * max(1, second // 30)
    whole = hours * 60 + minutes
    count = (whole * 60 + seconds) * second + within - dropped * (whole - whole // 10) + frames
    if dropped:
        tens, rest = divmod(count, 600 * second - 9 * dropped)
        count += dropped * (9 * tens + max(0, rest - dropped) // (60 * second - dropped))
    count, within = divmod(count, second)
    return f"{count // 3600 % 24:02d}:{count // 60 % 60:02d}:{count % 60:02d}{match[4]}{within:02d}"
