"""Interlaced video: which frames are woven of two fields, as they tell or as they look, and what is made of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray

_AROUND = 8  # frames on each side that are asked whether a frame that looks woven is no chance
_LEAST = 3  # of them that must look so
_COLUMNS = 256  # of a frame that are compared, at most
_MOVED = 10.0  # levels by which a sample changes where something moves
_MOVING = 0.002  # share of the samples that must move
_RATIO = 1.15  # one order of the fields fits so much worse than the other
_SIDES = (16, 1200)  # px: lines and columns at least, as the filter needs some; lines at most, no camera weaves more
_WORSE = 0.9  # a frame's own fields fit nearly as badly as, or worse than, the best pair of fields of two frames

FrameOrder = tuple[av.VideoFrame, str]
"""A frame and which of its fields comes first: "tff", "bff", "auto": as the frame tells; empty: it is progressive."""


class FieldJudge:
    """Tells frame by frame, a few frames late, which are woven of two fields.

    Those that say so are believed. Of the others those count that look woven: the fields of two frames next to one
    another fit together better, in one order, than the two in the frame do. As one frame may do so by chance, so must
    several around it, in the same order. Memory does not depend on the length.
    """

    def __init__(self) -> None:
        self._waiting: deque[av.VideoFrame] = deque()  # not given out yet
        self._looks: deque[str] = deque()  # of the frames before, the waiting ones, and as far as they are known
        self._behind = 0  # of these looks that belong to frames given out already
        self._lines: deque[NDArray[np.float32]] = deque(maxlen=3)

    def add(self, frame: av.VideoFrame) -> Iterator[FrameOrder]:
        """One more frame; yields those that are decided."""
        if min(frame.height, frame.width) < _SIDES[0] or frame.height > _SIDES[1]:
            yield frame, "auto" if frame.interlaced_frame and min(frame.height, frame.width) >= _SIDES[0] else ""
            return
        self._waiting.append(frame)
        self._lines.append(_lines(frame))
        if len(self._lines) == 3:
            self._looks.append(looks(*self._lines))
        elif len(self._lines) == 1:
            self._looks.append("")  # the first has no frame before it
        while len(self._looks) - self._behind > _AROUND:
            yield self._next()

    def finish(self) -> Iterator[FrameOrder]:
        """The rest, after the last frame."""
        while self._waiting:
            yield self._next()

    def _next(self) -> FrameOrder:
        frame, own = self._waiting.popleft(), ""
        if self._behind < len(self._looks):
            own = self._looks[self._behind]
        seen = [self._looks.count(look) for look in ("tff", "bff", "progressive")]
        self._behind += 1
        if self._behind > _AROUND:
            self._looks.popleft()
            self._behind -= 1
        return frame, _agreed(own, *seen, told=frame.interlaced_frame)


def _agreed(own: str, top: int, bottom: int, progressive: int, *, told: bool) -> str:
    """The order of a frame that looks like ``own`` among so many of each look; ``told``: it says that it is woven."""
    order, count, other = ("tff", top, bottom) if top >= bottom else ("bff", bottom, top)
    clear = count >= max(_LEAST, 4 * other)
    if told:
        return order if clear and count >= progressive else "auto"
    return order if clear and (own == order or (own == "" and count >= 3 * progressive)) else ""


def looks(before: NDArray[np.float32], frame: NDArray[np.float32], after: NDArray[np.float32]) -> str:
    """How a frame looks between two others: "tff", "bff", "progressive", or empty: it cannot be seen.

    Args:
        before: brightness of the frame before, (H, columns), 8-bit levels.
        frame: the frame.
        after: the frame after it.
    """
    if not before.shape == frame.shape == after.shape or frame.shape[0] < 8:
        return ""
    around = frame[:-2] + frame[2:]
    middle, early, late = frame[1:-1], before[1:-1], after[1:-1]
    moves = np.abs(early - middle) + np.abs(late - middle) > _MOVED
    if moves.mean() < _MOVING:
        return ""
    rough = [np.abs(around - 2 * lines) * moves for lines in (early, middle, late)]
    (odd_early, even_early), (odd_own, even_own), (odd_late, even_late) = (
        (float(lines[::2].sum()), float(lines[1::2].sum())) for lines in rough
    )
    own = odd_own + even_own
    top_late, bottom_late = even_early + odd_late, odd_early + even_late  # what fits badly in the one order, the other
    best, worst = min(top_late, bottom_late), max(top_late, bottom_late)
    if worst > _RATIO * best and own > _WORSE * best:
        return "tff" if top_late > bottom_late else "bff"
    return "progressive" if best > 1.25 * own else ""


def _lines(frame: av.VideoFrame) -> NDArray[np.float32]:
    """The brightness of some columns of a frame, (H, columns), in levels of 8 bits."""
    depth = frame.format.components[0].bits
    shifted = frame.format.name.startswith("p")  # p010 and the like: the bits lie at the upper end
    if not (frame.format.is_planar and 8 <= depth <= 16) or frame.format.is_big_endian or shifted:
        frame, depth = frame.reformat(format="gray"), 8
    plane = frame.planes[0]
    kind = np.dtype("u1") if depth == 8 else np.dtype("<u2")
    samples = np.frombuffer(memoryview(plane), kind).reshape(plane.height, plane.line_size // kind.itemsize)
    columns = samples[:, : plane.width : -(-plane.width // _COLUMNS)].astype(np.float32)
    return columns if depth == 8 else columns / np.float32(1 << (depth - 8))


def deinterlaced(frames: Iterable[FrameOrder], time_base: Fraction) -> Iterator[av.VideoFrame]:
    """One progressive frame for each frame (bwdif); frames that are progressive pass unchanged."""
    stretch: _Stretch | None = None
    before: av.VideoFrame | None = None
    for frame, order in frames:
        if stretch is not None:
            if order == stretch.order:
                stretch.push(frame)
                yield from stretch.ready()
            else:
                yield from stretch.end(frame)
                stretch = None
        if stretch is None and order:
            stretch = _Stretch(order, before, frame, time_base)
        elif not order:
            yield frame
        before = frame
    if stretch is not None:
        yield from stretch.end(None)


@dataclass
class _Stretch:
    """Frames with one order of fields in a row, on their way through the filter, which looks at the neighbours."""

    order: str
    before: av.VideoFrame | None
    first: av.VideoFrame
    time_base: Fraction

    def __post_init__(self) -> None:
        self._graph = av.filter.Graph()
        source = self._graph.add(
            "buffer",
            video_size=f"{self.first.width}x{self.first.height}",
            pix_fmt=self.first.format.name,
            time_base=str(self.time_base),
            colorspace=str(int(self.first.colorspace)),
            range=str(int(self.first.color_range)),
        )
        deinterlace = self._graph.add("bwdif", f"mode=send_frame:parity={self.order}:deint=all")
        self._graph.link_nodes(source, deinterlace, self._graph.add("buffersink")).configure()
        self._stamps: deque[int | None] = deque()  # of the frames to come out
        self._foreign = 0  # frames to come out that do not belong to the stretch
        if self.before is not None:
            self._graph.vpush(self.before)
            self._foreign = 1
        self.push(self.first)

    def push(self, frame: av.VideoFrame) -> None:
        self._stamps.append(frame.pts)
        self._graph.vpush(frame)

    def ready(self) -> Iterator[av.VideoFrame]:
        """The frames that are done."""
        while self._stamps:
            try:
                frame = self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            if self._foreign:
                self._foreign -= 1
                continue
            frame.pts = self._stamps.popleft()
            yield frame

    def end(self, following: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
        """The last frames, once it is known what follows."""
        self._graph.vpush(following)
        if following is not None:
            yield from self.ready()
            if not self._stamps:
                return
            self._graph.vpush(None)
        yield from self.ready()
