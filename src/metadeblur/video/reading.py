"""Read frames: one after the other in constant memory, or any frame by its number."""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from metadeblur.clip import Clip
from metadeblur.errors import MetadeblurError
from metadeblur.video.clock import Packet, by_recording
from metadeblur.video.colour import to_rgb
from metadeblur.video.fields import FieldJudge, FrameOrder, deinterlaced
from metadeblur.video.info import FOLDER_FPS, VideoInfo, decoder, main_video, open_media, probe
from metadeblur.video.stills import Samples, as_tensor, colours_of, opacity_of
from metadeblur.video.timing import RECORDING, TimeTable, TimeTableBuilder
from metadeblur.video.transparency import alpha_of, filled

_SEEK_BACK = 24  # frames before the wanted one to seek to, because leading pictures of an open GOP cannot be decoded
_SEEK_AHEAD = 48  # frames up to which decoding on is faster than seeking
_CACHE_BYTES = 192_000_000  # of converted frames that a lazy clip keeps
_CACHE_FRAMES = (8, 64)

_NO_STAMPS = 0x0080  # FFmpeg's AVFMT_NOTIMESTAMPS: the format has none, FFmpeg counts them up

Box = tuple[int, int, int, int]
"""(top, left, height, width) of a part of a frame, px; top and left even."""


class Decoded(Protocol):
    """A decoded frame before it is converted."""

    @property
    def index(self) -> int:
        """Its number."""
        ...

    def rgb(self, box: Box | None = None) -> Tensor:
        """As (3, H, W), float32, RGB in [0, 1]; or only the box."""
        ...

    def thumbnail(self, width: int) -> NDArray[np.uint8]:
        """As a small picture (h, width, 3), BGR, 8 bits."""
        ...

    def layers(self) -> tuple[Tensor, Tensor] | None:
        """Its colours as stored, hidden ones too, (3, H, W), and opacity (H, W); None where all of it shows."""
        ...


class VideoReader:
    """Reads the frames of a video file, a folder of frames or a picture, in the order they are shown.

    Interlaced video is deinterlaced, one frame for each frame. Memory does not depend on the length.

    Args:
        path: the file or folder.
        times: its table of time stamps where it is known already (from :func:`metadeblur.pipeline.cuts.find_shots`);
            reading from the middle decodes the whole file once without it.

    Raises:
        MetadeblurError: as :func:`probe`.
    """

    def __init__(self, path: Path | str, *, times: TimeTable | None = None) -> None:
        self._info = probe(path)
        self._times = times
        if times is not None:
            self._info = self._info.with_times(times)

    @property
    def info(self) -> VideoInfo:
        """What the file is; the number of frames is exact once :attr:`times` is known."""
        return self._info

    @property
    def times(self) -> TimeTable:
        """The table of time stamps; decodes the whole file the first time it is asked for."""
        if self._times is None:
            builder = self.table()
            for _ in self.decoded(table=builder):
                pass
            self.learn(builder.build())
        assert self._times is not None
        return self._times

    def learn(self, times: TimeTable) -> None:
        """Take a table that was collected while reading from start to end."""
        self._times = times
        self._info = self._info.with_times(times)

    def table(self) -> TimeTableBuilder:
        """An empty table to hand to :meth:`decoded`."""
        usual = max(1, round(1 / (self.info.fps * self.info.time_base)))
        return TimeTableBuilder(self.info.time_base, usual)

    def decoded(self, start: int = 0, *, table: TimeTableBuilder | None = None) -> Iterator[Decoded]:
        """Decoded frames from number ``start`` on, not converted yet.

        Args:
            start: number of the first one.
            table: collects the time stamps; only with ``start`` 0.

        Raises:
            MetadeblurError: not one frame can be decoded, or one has another size than the first.
        """
        if self.info.kind != "video":
            return _pictures(self.info, start, table)
        return self._video(start, table)

    def __iter__(self) -> Iterator[Tensor]:
        """All frames, each (3, H, W), float32, RGB in [0, 1]."""
        return (frame.rgb() for frame in self.decoded())

    def read(self, start: int, stop: int) -> list[Tensor]:
        """Frames start..stop-1 (as far as there are any), each (3, H, W)."""
        frames: list[Tensor] = []
        if stop > start:
            for frame in self.decoded(start):
                frames.append(frame.rgb())
                if len(frames) == stop - start:
                    break
        return frames

    def _video(self, start: int, table: TimeTableBuilder | None) -> Iterator[Decoded]:
        info = self.info
        if start > 0:
            margin = 2 if self.times.fields else 0  # the deinterlacer looks at the neighbours
            jumped = self._jump(start - margin) if self.times.exact and start > _SEEK_AHEAD else None
            if jumped is not None:
                index, frames = jumped
                for frame in self._finished(frames, index):
                    if frame.index >= start:
                        yield frame
                return
        with open_media(info.path) as container:
            stream = main_video(container, info.path)
            for decoded in self._finished(_decode(container, stream, info, table), 0, table):
                if decoded.index >= start:
                    yield decoded

    def _jump(self, start: int) -> tuple[int, Iterator[av.VideoFrame]] | None:
        """Frames from at most ``start`` on and the number of the first; None where the file cannot be searched."""
        times, info = self.times, self.info
        own = times.own or times.stamps
        wanted = own[max(0, min(start, len(times)) - _SEEK_BACK)]
        frames = _decode_after(info, wanted) if times.joined else _decode_from(info, wanted)
        first = next(frames, None)
        if first is None or first.pts is None:
            return None
        index = bisect_left(own, first.pts)
        # Leading pictures that cannot be decoded are given out of order or not at all: start behind them.
        if index > start or index == len(times) or own[index] != first.pts:
            return None
        return index, _chained(first, frames)

    def _finished(
        self, frames: Iterator[av.VideoFrame], index: int, table: TimeTableBuilder | None = None
    ) -> Iterator[Decoded]:
        times, time_base = self._times, self.info.time_base
        ordered = _judged(frames, table) if times is None else _told(frames, index, times)
        if times is None or times.fields:
            frames = deinterlaced(ordered, time_base)
        for number, frame in enumerate(frames, start=index):
            yield _VideoFrame(number, frame, self.info)


def read_clip(path: Path | str, start: int = 0, stop: int | None = None) -> Clip:
    """A video file, a folder of frames or a picture as a clip, read when its frames are asked for.

    A few frames are kept, so that windows of neighbours cost one decoding each; ``clip.in_memory()`` keeps all.

    Args:
        path: the file or folder.
        start: first frame.
        stop: frame after the last one; None: all.

    Raises:
        MetadeblurError: as :func:`probe`, or there are no frames between start and stop.

    Returns:
        The clip, named after the file, with its frame rate (30 for a folder) and bit depth.
    """
    return reader_clip(VideoReader(path), start, stop)


def reader_clip(reader: VideoReader, start: int = 0, stop: int | None = None) -> Clip:
    """The same for a reader, which keeps its table of time stamps."""
    count = len(reader.times)
    stop = count if stop is None else min(stop, count)
    info = reader.info
    if not 0 <= start < stop:
        raise MetadeblurError(f"{info.path}: no frames from {start} to {stop}; it has {count}")
    return Clip(
        LazyFrames(reader, start, stop),
        fps=FOLDER_FPS if info.kind != "video" else info.fps,
        name=info.path.stem if info.kind != "frames" else info.path.name,
        bit_depth=info.bit_depth,
    )


class LazyFrames:
    """Frames start..stop-1 of a reader by number, decoded when asked for; keeps the latest ones."""

    def __init__(self, reader: VideoReader, start: int, stop: int) -> None:
        self._reader = reader
        self._start, self._stop = start, stop
        self._frames: Iterator[Decoded] = iter(())
        self._next = stop  # number of the frame that comes out of _frames next
        self._cache: OrderedDict[int, Tensor] = OrderedDict()
        size = reader.info.width * reader.info.height * 3 * 4
        self._capacity = min(max(_CACHE_BYTES // size, _CACHE_FRAMES[0]), _CACHE_FRAMES[1])

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, index: int, /) -> Tensor:
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        wanted = self._start + index
        if wanted in self._cache:
            self._cache.move_to_end(wanted)
            return self._cache[wanted]
        if not self._next <= wanted <= self._next + _SEEK_AHEAD:
            self._frames, self._next = self._reader.decoded(wanted), wanted
        for frame in self._frames:
            self._next = frame.index + 1
            if frame.index >= wanted - self._capacity // 2:
                self._cache[frame.index] = frame.rgb()
                if len(self._cache) > self._capacity:
                    self._cache.popitem(last=False)
            if frame.index == wanted:
                return self._cache[wanted]
        raise MetadeblurError(f"{self._reader.info.path}: frame {wanted} can no longer be read; did the file change?")


@dataclass(frozen=True)
class _VideoFrame:
    index: int
    frame: av.VideoFrame
    info: VideoInfo

    def rgb(self, box: Box | None = None) -> Tensor:
        layers = self.layers()
        return to_rgb(self.frame, self.info.colour, box) if layers is None else _part(filled(*layers), box)

    def layers(self) -> tuple[Tensor, Tensor] | None:
        alpha = alpha_of(self.frame)
        return None if alpha is None else (to_rgb(self.frame, self.info.colour), alpha)

    def thumbnail(self, width: int) -> NDArray[np.uint8]:
        height = max(1, round(self.frame.height * width / self.frame.width))
        small = self.frame.reformat(width=width, height=height, format="bgr24", interpolation="AREA")
        return small.to_ndarray()  # type: ignore[return-value]


def _part(frame: Tensor, box: Box | None) -> Tensor:
    if box is None:
        return frame
    top, left, height, width = box
    return frame[:, top : top + height, left : left + width]


@dataclass(frozen=True)
class _Picture:
    index: int
    picture: Samples
    opacity: Samples | None

    def rgb(self, box: Box | None = None) -> Tensor:
        layers = self.layers()
        if layers is not None:
            return _part(filled(*layers), box)
        if box is not None:
            top, left, height, width = box
            return as_tensor(self.picture[top : top + height, left : left + width])
        return as_tensor(self.picture)

    def layers(self) -> tuple[Tensor, Tensor] | None:
        return None if self.opacity is None else (as_tensor(self.picture), as_tensor(self.opacity))

    def thumbnail(self, width: int) -> NDArray[np.uint8]:
        height = max(1, round(self.picture.shape[0] * width / self.picture.shape[1]))
        small = np.asarray(cv2.resize(self.picture, (width, height), interpolation=cv2.INTER_AREA))
        if small.dtype == np.uint16:
            small = small // 257
        return np.ascontiguousarray(small[..., ::-1].astype(np.uint8))


def _pictures(info: VideoInfo, start: int, table: TimeTableBuilder | None) -> Iterator[Decoded]:
    moment = 0
    for index, still in enumerate(info.stills):
        step = still.header.milliseconds if info.time_base == Fraction(1, 1000) else 1
        if table is not None:
            table.add(moment, step)
        moment += step
        if index < start:
            continue
        picture, opacity = colours_of(still), opacity_of(still)
        height, width = picture.shape[:2]
        if (height, width) != (info.height, info.width) or (opacity is not None and opacity.shape != (height, width)):
            raise MetadeblurError(
                f"{info.path}: frames differ in size: the first is {info.width}x{info.height}, {still.path.name} is "
                f"{width}x{height}; all frames of a clip need one size"
            )
        if table is not None and opacity is not None:
            table.transparent |= bool(opacity.min() < np.iinfo(opacity.dtype).max)
        yield _Picture(index, picture, opacity)


def _decode(
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
    yield from _decoded(_numbered(container, stream, info), stream, info, table)


def _numbered(container: av.container.InputContainer, stream: av.VideoStream, info: VideoInfo) -> Iterator[Packet]:
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
    decode, decoded = decoder(stream), False
    for packet in packets:
        if table is not None and table.packets is not None and packet.dts is not None:
            table.packets.append(packet.dts)
        try:
            frames = decode(packet)
        except av.FFmpegError:
            if table is not None:
                table.damaged += 1
                if table.packets:
                    table.packets.pop()
            continue
        for frame in frames:
            if (frame.width, frame.height) != (info.width, info.height):
                raise MetadeblurError(
                    f"{info.path}: the picture changes from {info.width}x{info.height} to {frame.width}x{frame.height} "
                    "in the middle; cut the file there and restore the parts"
                )
            decoded = True
            if table is not None:
                table.add(frame.pts, frame.duration, frame.dts)
                table.see(frame)
            yield frame
    if not decoded and table is not None:
        raise MetadeblurError(f"{info.path}: not one frame could be decoded (damaged file)")


def _decode_from(info: VideoInfo, stamp: int) -> Iterator[av.VideoFrame]:
    """Decoded frames from the key frame before a time stamp on."""
    with open_media(info.path) as container:
        stream = main_video(container, info.path)
        try:
            container.seek(stamp, stream=stream, backward=True)
        except av.FFmpegError:
            return
        yield from _decode(container, stream, info)


def _decode_after(info: VideoInfo, stamp: int) -> Iterator[av.VideoFrame]:
    """The same for joined recordings, whose stamps cannot be searched for: packets before that are passed over."""
    with open_media(info.path) as container:
        stream = main_video(container, info.path)
        yield from _decoded(_from_key(_numbered(container, stream, info), stamp), stream, info)


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


def _judged(frames: Iterator[av.VideoFrame], table: TimeTableBuilder | None) -> Iterator[FrameOrder]:
    """Frames and how they are woven, as far as they tell or show it; the table learns it."""
    judge = FieldJudge()

    def noted(orders: Iterable[FrameOrder]) -> Iterator[FrameOrder]:
        for frame, order in orders:
            if table is not None:
                table.orders.append(order)
            yield frame, order

    for frame in frames:
        yield from noted(judge.add(frame))
    yield from noted(judge.finish())


def _told(frames: Iterator[av.VideoFrame], index: int, times: TimeTable) -> Iterator[FrameOrder]:
    """Frames and how they are woven, as the table of the whole video says."""
    for number, frame in enumerate(frames, start=index):
        yield frame, times.order_of(number)


def _chained(first: av.VideoFrame, rest: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    yield first
    yield from rest
