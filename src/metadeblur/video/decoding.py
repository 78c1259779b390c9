"""Decoded frames of a video file, from its beginning or from a place in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import av

from metadeblur.errors import MetadeblurError
from metadeblur.video.clock import Packet, by_recording
from metadeblur.video.info import VideoInfo, decoder, main_video, open_media
from metadeblur.video.timing import RECORDING, TimeTableBuilder

_NO_STAMPS = 0x0080  # FFmpeg's AVFMT_NOTIMESTAMPS: the format has none, FFmpeg counts them up
SEEK_BACK = 24
"""Frames before the wanted one to seek to, because leading pictures of an open GOP cannot be decoded."""
_SEEK_FAR_BACK = 300  # frames, in formats where a search ends between two key frames


@dataclass(frozen=True)
class Span:
    """A part of a file by the time stamps of its frames: from ``begin`` on, before ``until``; None: no limit."""

    begin: int | None
    until: int | None


class _TooLate(Exception):
    """A search ended behind the first frame that is wanted."""


def decode(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    info: VideoInfo,
    table: TimeTableBuilder | None = None,
) -> Iterator[av.VideoFrame]:
    """Decoded frames from where the container stands; packets that cannot be decoded are skipped, as players do.

    The time stamps of joined recordings hold their number, see :data:`RECORDING`.
    """
    if table is not None:
        table.even = bool(container.format.flags & _NO_STAMPS)
        table.packets = [] if container.format.name == "avi" else None
    yield from _decoded(numbered(container, stream, info), stream, info, table)


def numbered(container: av.container.InputContainer, stream: av.VideoStream, info: VideoInfo) -> Iterator[Packet]:
    """The packets of the video from where the container stands, with the number of the recording in their times."""
    packets = by_recording(container.demux(stream), stream.index, container)
    while True:
        try:
            packet, number = next(packets, (None, 0))
        except av.FFmpegError as error:
            raise MetadeblurError(f"{info.path}: reading stopped in the middle ({error.strerror})") from error
        if packet is None:
            return
        if number and packet.pts is not None:
            packet.pts += number * RECORDING
        yield packet


def _decoded(
    packets: Iterable[Packet], stream: av.VideoStream, info: VideoInfo, table: TimeTableBuilder | None = None
) -> Iterator[av.VideoFrame]:
    decoded = False
    for frame in _collected(_frames(packets, stream, table), info, table):
        decoded = True
        yield frame
    if not decoded and table is not None:
        raise MetadeblurError(f"{info.path}: not one frame could be decoded (damaged file)")


def _frames(
    packets: Iterable[Packet], stream: av.VideoStream, table: TimeTableBuilder | None = None
) -> Iterator[av.VideoFrame]:
    """The frames of packets; the table learns of the packets."""
    decode_packet = decoder(stream)
    for packet in packets:
        if table is not None and table.packets is not None and packet.dts is not None:
            table.packets.append(packet.dts)
        try:
            yield from decode_packet(packet)
        except av.FFmpegError:
            if table is not None:
                table.damaged += 1
                if table.packets:
                    table.packets.pop()


def _collected(
    frames: Iterable[av.VideoFrame], info: VideoInfo, table: TimeTableBuilder | None
) -> Iterator[av.VideoFrame]:
    """The same frames; the table learns of them."""
    for frame in frames:
        if (frame.width, frame.height) != (info.width, info.height):
            raise MetadeblurError(
                f"{info.path}: the picture changes from {info.width}x{info.height} to {frame.width}x{frame.height} "
                "in the middle; cut the file there and restore the parts"
            )
        if table is not None:
            table.add(frame.pts, frame.duration, frame.dts)
            table.see(frame)
        yield frame


def decode_from(info: VideoInfo, stamp: int) -> Iterator[av.VideoFrame]:
    """Decoded frames from the key frame before a time stamp on."""
    with open_media(info.path) as container:
        stream = main_video(container, info.path)
        try:
            container.seek(stamp, stream=stream, backward=True)
        except av.FFmpegError:
            return
        yield from decode(container, stream, info)


def decode_after(info: VideoInfo, stamp: int) -> Iterator[av.VideoFrame]:
    """The same for joined recordings, whose stamps cannot be searched for: packets before that are passed over."""
    with open_media(info.path) as container:
        stream = main_video(container, info.path)
        yield from _decoded(_from_key(numbered(container, stream, info), stamp), stream, info)


def decode_part(info: VideoInfo, span: Span, table: TimeTableBuilder | None = None) -> Iterator[av.VideoFrame]:
    """Decoded frames of a part of a file that :func:`can_be_searched`; little more than the part is decoded."""
    for back in (SEEK_BACK, _SEEK_FAR_BACK, None):
        try:
            yield from _collected(_within(info, span, back, table), info, table)
            return
        except _TooLate:  # nothing has been given out
            continue


def _within(info: VideoInfo, span: Span, back: int | None, table: TimeTableBuilder | None) -> Iterator[av.VideoFrame]:
    """The frames of a part, searched for ``back`` frames before it; None: decoded from the beginning of the file.

    Raises:
        _TooLate: the first frame that can be decoded from there on lies within the part.
    """
    with open_media(info.path) as container:
        stream = main_video(container, info.path)
        begin, behind = span.begin, False  # whether a frame before the part has been seen
        if begin is not None and back is not None:
            _seek(container, stream, begin - round(back / (info.fps * info.time_base)))
        for frame in _frames(numbered(container, stream, info), stream, table):
            stamp = frame.pts
            if begin is not None and stamp is not None:
                if stamp < begin:
                    behind = True
                    if table is not None:
                        table.damaged = 0  # that was before the part
                    continue
                if back is not None and not behind:
                    raise _TooLate
            if span.until is not None and stamp is not None and stamp >= span.until:
                return
            yield frame


def _seek(container: av.container.InputContainer, stream: av.VideoStream, stamp: int) -> None:
    """Go to the key frame before a time stamp."""
    if stamp <= (stream.start_time or 0):
        raise _TooLate
    try:
        container.seek(stamp, stream=stream, backward=True)
    except av.FFmpegError as error:
        raise _TooLate from error


def can_be_searched(info: VideoInfo, span: Span) -> bool:
    """Whether the file's own time stamps lead to the frames of a part, as its packets tell; nothing is decoded.

    Not where stamps are missing or counted up, nor where the clock starts anew before the end of the part.
    """
    with open_media(info.path) as container:
        name = container.format.name
        if name == "avi" or container.format.flags & _NO_STAMPS:
            return False
        if "mp4" in name.split(","):  # a table of all packets on one clock
            return True
        for packet in numbered(container, main_video(container, info.path), info):
            if packet.size and (packet.pts is None or packet.pts > RECORDING // 2):
                return False
            if span.until is not None and packet.dts is not None and packet.dts >= span.until:
                break
        return True


def _from_key(packets: Iterator[Packet], stamp: int) -> Iterator[Packet]:
    """Packets from the last key frame on that is shown no later than a time stamp."""
    waiting: list[Packet] = []
    for packet in packets:
        if packet.is_keyframe and packet.pts is not None and packet.pts <= stamp:
            waiting = []
        waiting.append(packet)
        if packet.pts is not None and packet.pts > stamp:
            break
    yield from waiting
    yield from packets
