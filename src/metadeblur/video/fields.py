"""Interlaced video: recognise frames that are woven of two fields, and deinterlace them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray

from metadeblur.video.colour import plane_rows

_AROUND = 8  # frames on each side that are looked at to confirm that a frame is woven
_LEAST = 3  # of them that must look so
_COLUMNS = 256  # of a frame that are compared, at most
_MOVED = 10.0  # levels by which a sample changes where something moves
_MOVING = 0.002  # share of the samples that must move
_RATIO = 1.15  # one order of the fields fits so much worse than the other
_SIDES = (16, 1200)  # px: least height and width that the filter takes; greatest height of interlaced video
_WORSE = 0.9  # a frame's own fields fit nearly as badly as, or worse than, the best pair of fields of two frames

_TOP_BOTTOM = ("tff", "bff")
FrameOrder = tuple[av.VideoFrame, str]
"""A frame and which of its fields comes first: "tff", "bff", "auto": as the frame tells; empty: it is progressive."""


class FieldJudge:
    """Decides for each frame, a few frames later, whether it is woven of two fields.

    Those that say so are believed. Of the others those count that look woven: the fields of two frames next to one
    another fit together better, in one order, than the two in the frame do. As one frame may do so by chance, so must
    several around it, in the same order. Memory does not depend on the length.
    """

    def __init__(self) -> None:
        self._waiting: deque[av.VideoFrame] = deque()  # not given out yet
        self._looks: deque[str] = deque()  # of the frames around the first waiting one
        self._behind = 0  # of these looks that belong to frames before it
        self._lines: deque[NDArray[np.float32] | None] = deque([None, None], maxlen=3)

    def add(self, frame: av.VideoFrame) -> Iterator[FrameOrder]:
        """One more frame; yields those that are decided."""
        small = min(frame.height, frame.width) < _SIDES[0]
        if small or frame.height > _SIDES[1] or frame.format.components[0].bits < 8:  # few levels are dithered
            yield frame, "auto" if frame.interlaced_frame and not small else ""
            return
        self._waiting.append(frame)
        self._look(_lines(frame))
        while len(self._looks) - self._behind > _AROUND:
            yield self._next()

    def finish(self) -> Iterator[FrameOrder]:
        """The rest, after the last frame."""
        self._look(None)
        while self._waiting:
            yield self._next()

    def _look(self, lines: NDArray[np.float32] | None) -> None:
        """Look at the latest frame, now that the one after it is known."""
        self._lines.append(lines)
        before, frame, after = self._lines
        if frame is not None:
            self._looks.append(looks(before, frame, after))

    def _next(self) -> FrameOrder:
        frame, looked = self._waiting.popleft(), list(self._looks)
        order = _agreed(looked[: self._behind], looked[self._behind :], flagged=frame.interlaced_frame)
        self._behind += 1
        if self._behind > _AROUND:
            self._looks.popleft()
            self._behind -= 1
        return frame, order


def _agreed(before: list[str], from_here: list[str], *, flagged: bool) -> str:
    """The order of a frame by its own look, the first of ``from_here``, and those around it.

    ``told``: the frame says that it is woven.
    """
    own = from_here[0]
    # The order may change from one frame to the next, so it is enough that those on one side agree.
    for side in ([*before, own], from_here, [*before, *from_here]):
        for order in _TOP_BOTTOM:
            progressive = side.count("progressive") if own == "" else 0
            if own in (order, "") and _clear(side, order) and side.count(order) >= (1 if flagged else 3) * progressive:
                return order
    around = [*before, *from_here]  # also of one that looks progressive among many that do not
    for order in _TOP_BOTTOM:
        if _clear(around, order) and around.count(order) >= 8 * around.count("progressive"):
            return order
    return "auto" if flagged else ""


def _clear(some: list[str], order: str) -> bool:
    """Whether enough frames look woven in one order, and next to none in the other."""
    other = "bff" if order == "tff" else "tff"
    return some.count(order) >= max(_LEAST, 4 * some.count(other))


def looks(before: NDArray[np.float32] | None, frame: NDArray[np.float32], after: NDArray[np.float32] | None) -> str:
    """How a frame looks between two others: "tff", "bff", "progressive", or empty: it cannot be seen.

    Args:
        before: brightness of the frame before, (H, columns), 8-bit levels; None: there is none.
        frame: the frame.
        after: the frame after it, likewise.
    """
    if before is None or after is None:
        return ""  # woven frames, and those that share a field with their only neighbour, look the same
    around, middle = frame[:-2] + frame[2:], frame[1:-1]
    changes = [np.abs(other[1:-1] - middle) for other in (before, after)]
    moves = changes[0] + changes[1] > _MOVED
    if moves.mean() < _MOVING:
        return ""
    own = float((np.abs(around - 2 * middle) * moves).sum())
    # How badly the odd and the even lines of each of the two fit between the frame's own lines.
    early, late = (_by_field(np.abs(around - 2 * other[1:-1]) * moves) for other in (before, after))
    misfit = {"tff": early[0] + late[1], "bff": early[1] + late[0]}
    best, worst = sorted(misfit.values())
    if worst > _RATIO * best and own > _WORSE * best:
        return min(misfit, key=lambda order: misfit[order])
    # Beside a cut one of the two fits badly in any case; in telecined video one may share a field with the frame.
    sides = zip((early, late), changes, strict=True)
    sure = all(2 * min(side) > 1.25 * own or _shares_a_field(change * moves) for side, change in sides)
    return "progressive" if sure and best > 1.25 * own else ""


def _by_field(lines: NDArray[np.float32]) -> tuple[float, float]:
    """Sums over the odd and the even lines of a frame, without its first and last one."""
    return float(lines[::2].sum()), float(lines[1::2].sum())


def _shares_a_field(change: NDArray[np.float32]) -> bool:
    less, more = sorted(_by_field(change))
    return less < 0.3 * more


def _lines(frame: av.VideoFrame) -> NDArray[np.float32]:
    """The brightness of some columns of a frame, (H, columns), in levels of 8 bits."""
    depth = frame.format.components[0].bits
    shifted = frame.format.name.startswith("p")  # p010 and the like: the bits lie at the upper end
    if not (frame.format.is_planar and 8 <= depth <= 16) or frame.format.is_big_endian or shifted:
        frame, depth = frame.reformat(format="gray"), 8
    plane = frame.planes[0]
    columns = plane_rows(plane, depth)[:, : plane.width : -(-plane.width // _COLUMNS)].astype(np.float32)
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
        """The last frames; ``following`` is the frame after the stretch, None at the end."""
        self._graph.vpush(following)
        if following is not None:
            yield from self.ready()
            if not self._stamps:
                return
            self._graph.vpush(None)
        yield from self.ready()
