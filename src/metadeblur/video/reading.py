"""Read frames: one after the other in constant memory, or any frame by its number."""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import chain, dropwhile, islice
from pathlib import Path
from typing import Protocol

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from metadeblur.clip import Clip
from metadeblur.errors import MetadeblurError
from metadeblur.video.colour import to_rgb
from metadeblur.video.decoding import SEEK_BACK, can_be_searched, decode, decode_after, decode_from, decode_part
from metadeblur.video.fields import FieldJudge, FrameOrder, deinterlaced
from metadeblur.video.info import FOLDER_FPS, VideoInfo, main_video, open_media, probe
from metadeblur.video.part import Part
from metadeblur.video.stills import Samples, as_tensor, colours_of, opacity_of
from metadeblur.video.timing import TimeTable, TimeTableBuilder
from metadeblur.video.transparency import alpha_of, filled

_SEEK_AHEAD = 48  # frames up to which decoding on is faster than seeking
_CACHE_BYTES = 192_000_000  # of converted frames that a lazy clip keeps
_CACHE_FRAMES = (8, 64)

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
        part: read only this part of a video, as if it were all; its frames are counted from 0.

    Raises:
        MetadeblurError: as :func:`probe`, or a part of what has no times.
    """

    def __init__(self, path: Path | str, *, times: TimeTable | None = None, part: Part | None = None) -> None:
        self._info = probe(path)
        self._whole_seconds = self._info.duration_seconds
        self.part = part
        self._span = None if part is None else part.span(self._info)
        self._times: TimeTable | None = None
        if part is not None:
            frames, seconds = part.estimated(self._info)
            self._info = replace(self._info, frames=frames, duration_seconds=seconds)
        if times is not None:
            self.learn(times)

    @property
    def info(self) -> VideoInfo:
        """What the file is; the number of frames is exact once :attr:`times` is known."""
        return self._info

    @property
    def times(self) -> TimeTable:
        """The table of time stamps; decodes the whole file, or part, the first time it is asked for."""
        if self._times is None:
            for _ in self.scanned():
                pass
        assert self._times is not None
        return self._times

    def learn(self, times: TimeTable) -> None:
        """Take a table that was collected while reading from start to end.

        Raises:
            MetadeblurError: no frame of it is in the part.
        """
        if self._span is not None:
            times = times.between(self._span.begin, self._span.until)
            if not times.stamps:
                raise self._empty()
        self._times = times
        self._info = self._info.with_times(times)

    def scanned(self) -> Iterator[Decoded]:
        """All decoded frames, not converted yet; after the last one :attr:`times` is known.

        Raises:
            MetadeblurError: as :meth:`decoded`, or no frame is in the part.
        """
        self._count_off()
        if self._times is not None and self._times.skipped is not None:
            yield from self.decoded()
            return
        usual = max(1, round(1 / (self.info.fps * self.info.time_base)))
        table = TimeTableBuilder(self.info.time_base, usual)
        yield from self.decoded(table=table)
        if self._span is not None and not table.stamps:
            raise self._empty()
        self.learn(table.build())

    def decoded(self, start: int = 0, *, table: TimeTableBuilder | None = None) -> Iterator[Decoded]:
        """Decoded frames from number ``start`` on, not converted yet.

        Args:
            start: number of the first one.
            table: learns of all of them; only with ``start`` 0, see :meth:`scanned`.

        Raises:
            MetadeblurError: not one frame can be decoded, or one has another size than the first.
        """
        if self.info.kind != "video":
            return _pictures(self.info, start, table)
        return self._video(start, table)

    def _count_off(self) -> None:
        """Where time stamps do not lead to the part, decode the whole file to know them and what comes before it."""
        if self._span is None or self._times is not None or self._is_searchable:
            return
        whole, begin = VideoReader(self._info.path), self._span.begin
        times = whole.times
        self._whole_seconds = whole.info.duration_seconds
        self.learn(replace(times, skipped=0 if begin is None else bisect_left(times.stamps, begin)))

    @cached_property
    def _is_searchable(self) -> bool:
        return self._span is not None and can_be_searched(self._info, self._span)

    def _empty(self) -> MetadeblurError:
        """What to say where a part has no frame."""
        lasts = f"; it lasts {self._whole_seconds:.3f} s" if self._whole_seconds else ""
        return MetadeblurError(f"{self._info.path}: no frame of it lies in the part {self.part}{lasts}")

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
        self._count_off()
        if start > 0:
            margin = 2 if self.times.fields else 0  # the deinterlacer looks at the neighbours
            jumped = self._jump(start - margin) if self.times.exact and start > _SEEK_AHEAD else None
            if jumped is not None:
                index, frames = jumped
                for frame in self._finished(frames, index):
                    if frame.index >= start:
                        yield frame
                return
        for decoded in self._finished(self._from_its_beginning(table), 0, table):
            if decoded.index >= start:
                yield decoded

    def _from_its_beginning(self, table: TimeTableBuilder | None) -> Iterator[av.VideoFrame]:
        """Decoded frames of the whole file, or of the part."""
        info, skipped = self.info, None if self._times is None else self._times.skipped
        if self._span is not None and skipped is None:
            yield from decode_part(info, self._span, table)
            return
        with open_media(info.path) as container:
            frames = decode(container, main_video(container, info.path), info, table)
            yield from frames if skipped is None else islice(frames, skipped, skipped + len(self.times))

    def _jump(self, start: int) -> tuple[int, Iterator[av.VideoFrame]] | None:
        """Frames from at most ``start`` on and the number of the first; None where the file cannot be searched."""
        times, info = self.times, self.info
        own = times.own or times.stamps
        wanted = own[max(0, min(start, len(times)) - SEEK_BACK)]
        frames = decode_after(info, wanted) if times.joined else decode_from(info, wanted)
        if self._span is not None:  # frames before the part are none of its
            frames = dropwhile(lambda frame: frame.pts is not None and frame.pts < own[0], frames)
        first = next(frames, None)
        if first is None or first.pts is None:
            return None
        index = bisect_left(own, first.pts)
        # Leading pictures that cannot be decoded are given out of order or not at all: start behind them.
        if index > start or index == len(times) or own[index] != first.pts:
            return None
        return index, islice(chain((first,), frames), len(times) - index)

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
