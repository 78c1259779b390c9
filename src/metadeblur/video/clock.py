"""Files joined of several recordings, whose clock starts anew: which recording each packet belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import av

Packet: TypeAlias = "av.Packet[Any]"

_TS_DISCONT = 0x0200  # FFmpeg's AVFMT_TS_DISCONT: the clock of the format may begin anywhere and jump
_BACK = 0.1  # seconds by which decoding times go back where another recording begins (FFmpeg's limit)
_AHEAD = 10.0  # seconds by which they jump ahead there, in formats whose clock may jump (FFmpeg's limit)
_WAITING = 512  # packets of other streams that wait for the next one of the video
_MOST = 4000  # recordings


def may_jump(container: av.container.InputContainer) -> bool:
    """Whether the clock of a format, such as MPEG-TS, begins anywhere and may jump."""
    return bool(container.format.flags & _TS_DISCONT)


def by_recording(
    packets: Iterable[Packet], main: int, container: av.container.InputContainer
) -> Iterator[tuple[Packet, int]]:
    """Packets, in the order of the file, each with the number of the recording that it belongs to, from 0 on.

    The video tells: a new recording begins with a key frame where its decoding times go back, or jump far ahead in a
    format whose clock may jump, and go on from there; a single wrong time is none. A packet of another stream that
    lies near such a place belongs to the recording whose clock it agrees with.

    Args:
        packets: of the video, and of other streams or not.
        main: number of the video's stream.
        container: the file that they are read from.
    """
    sorter = _Sorter(main, may_jump(container))
    for packet in packets:
        yield from sorter.add(packet)
    yield from sorter.finish()


@dataclass
class _Sorter:
    main: int
    jumps: bool  # whether the clock may jump ahead as well
    number: int = 0
    latest: float | None = None  # of the video in this recording, seconds
    ended: float | None = None  # where the recording before this one ended
    suspect: Packet | None = None  # of the video: perhaps the first of a new recording
    waiting: list[Packet] = field(default_factory=list)
    arrived: set[int] = field(default_factory=set)  # streams that have begun with this recording

    def add(self, packet: Packet) -> Iterator[tuple[Packet, int]]:
        if packet.stream_index != self.main:
            self.waiting.append(packet)
            if len(self.waiting) > _WAITING:
                yield from self._release(None)
            return
        moment = _moment(packet)
        if moment is None or self._follows(self.latest, moment):
            yield from self._release(None)  # a suspect was one wrong time
            yield packet, self.number
            self.latest = self.latest if moment is None else moment
        elif self.suspect is not None and self._follows(_moment(self.suspect), moment):
            yield from self._begin()
            yield packet, self.number
            self.latest = moment
        else:
            yield from self._release(None)
            self.waiting.append(packet)
            # Frames that depend on others cannot be the first; their times may be out of order where FFmpeg guessed.
            self.suspect = packet if packet.is_keyframe else None

    def finish(self) -> Iterator[tuple[Packet, int]]:
        if self.suspect is not None:
            yield from self._begin()
        yield from self._release(None)

    def _follows(self, before: float | None, moment: float) -> bool:
        if before is None:
            return True
        return moment + _BACK >= before and not (self.jumps and moment > before + _AHEAD)

    def _begin(self) -> Iterator[tuple[Packet, int]]:
        """A new recording begins with the suspect."""
        assert self.suspect is not None
        first = _moment(self.suspect)
        yield from self._release(first)
        self.latest = first

    def _release(self, first: float | None) -> Iterator[tuple[Packet, int]]:
        """Give out the waiting packets; ``first``: when a new recording begins among them, seconds."""
        if first is not None and self.number < _MOST:
            self.ended, self.latest = self.latest, first
            self.number += 1
            self.arrived = set()
        for packet in self.waiting:
            yield packet, self.number - self._belongs_to_the_last(packet)
        self.waiting, self.suspect = [], None

    def _belongs_to_the_last(self, packet: Packet) -> bool:
        """Whether a packet is a late one of the recording before this."""
        moment = _moment(packet)
        if packet.stream_index == self.main or packet.stream_index in self.arrived:
            return False
        if moment is None or self.ended is None or self.latest is None:
            return False
        if abs(moment - self.ended) < abs(moment - self.latest):
            return True
        self.arrived.add(packet.stream_index)
        return False


def _moment(packet: Packet) -> float | None:
    """When a packet is decoded, seconds."""
    return None if packet.dts is None else float(packet.dts * packet.time_base)
