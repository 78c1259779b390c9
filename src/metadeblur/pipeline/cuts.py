"""Cut a video into shots, and count, time and score its frames, in one pass over it in constant memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
from numpy.typing import NDArray
from scenedetect import AdaptiveDetector, FrameTimecode

from metadeblur.imaging.sharpness import self_shift_score
from metadeblur.limits import Count, Within, check, spelt
from metadeblur.video import TimeTable, VideoInfo, VideoReader

_THUMBNAIL = 256  # px wide: what the detectors compare
_SCORED = 384  # px: side of the middle part of each frame that is scored
_COMPARED = 96  # px wide: where two frames are looked for in one another
_FLAT = 3.0  # levels of 255: standard deviation under which a small picture has no structure
_SAME_TONE = 12.0  # levels of 255: two pictures without structure show the same
_WHITE = 200.0  # levels of 255: a single frame of one colour so bright is a flash
_WINDOW = 2  # frames on each side of a cut that it is compared with


@spelt
@dataclass(frozen=True)
class ShotSettings:
    """When one shot ends and the next begins."""

    # a cut differs so many times more from its predecessor than the frames around it do
    ratio: Annotated[float, Within(0, 1_000_000)] = 2.0
    # and by at least so much (mean of hue, saturation and value, 0 to 255)
    least: Annotated[float, Within(0, 255)] = 15.0
    # frames that correlate so well after shifting show the same scene: a jolt, a flash, no cut
    alike: Annotated[float, Within(-1, 1)] = 0.8
    shortest: Count = 3  # frames; cuts closer together than this are one

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Shot:
    """Frames ``start`` to ``stop - 1``.

    >>> len(Shot(3, 10))
    7
    """

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Scan:
    """What one pass over a video found out.

    Attributes:
        shots: they cover all frames, in order.
        frames: number of frames, counted by decoding.
        sharpness: for each frame the self-shift score of its middle, dB; low is sharp. Comparable within a shot.
        times: when each frame is shown.
        info: the file, with the exact number of frames.
    """

    shots: tuple[Shot, ...]
    frames: int
    sharpness: tuple[float, ...]
    times: TimeTable
    info: VideoInfo


def find_shots(
    source: Path | str | VideoReader,
    *,
    settings: ShotSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Scan:
    """Decode a video once and cut it into shots.

    A cut is a frame that differs from the one before it much more than the frames around it do from theirs
    (PySceneDetect's adaptive detector), so that shake, fast pans and motion blur, which make many frames differ, are
    no cuts. Neither is a jolt of the camera or a flash: there the middle of one frame is found in the other.

    Args:
        source: a video file, a folder of frames, a picture, or a reader, which then knows the table of time stamps.
        settings: when a cut is one.
        progress: called after each frame with the number of frames done and the number expected.

    Raises:
        MetadeblurError: as :func:`metadeblur.video.probe`, or not one frame can be decoded, or is in the reader's part.
    """
    reader = source if isinstance(source, VideoReader) else VideoReader(source)
    info = reader.info
    detector = _CutDetector(settings or ShotSettings())
    sharpness: list[float] = []
    box = _middle(info.height, info.width)
    for frame in reader.scanned():
        detector.add(frame.thumbnail(min(_THUMBNAIL, info.width)))
        sharpness.append(float(self_shift_score(frame.rgb(box))) if box is not None else 0.0)
        if progress is not None:
            progress(len(sharpness), max(info.frames, len(sharpness)))
    edges = [0, *detector.cuts(), len(sharpness)]
    shots = tuple(Shot(start, stop) for start, stop in pairwise(edges))
    return Scan(shots, len(sharpness), tuple(sharpness), reader.times, reader.info)


class _CutDetector:
    """PySceneDetect's adaptive detector, fed with thumbnails; also sees cuts before the last frames."""

    def __init__(self, settings: ShotSettings) -> None:
        self._alike = settings.alike
        self._detector = AdaptiveDetector(
            adaptive_threshold=settings.ratio,
            min_content_val=settings.least,
            min_scene_len=settings.shortest,
            window_width=_WINDOW,
        )
        self._frames = self._given = 0
        self._cuts: list[int] = []
        self._recent: deque[NDArray[np.uint8]] = deque(maxlen=_WINDOW + 2)
        self._plain: set[int] = set()  # cuts to and from frames of one colour
        self._flashes: set[int] = set()  # and those that are none, but a flash

    def add(self, thumbnail: NDArray[np.uint8]) -> None:
        """The next frame, (h, w, 3), BGR."""
        self._frames += 1
        self._feed(thumbnail)
        self._look_for_plain()

    def cuts(self) -> list[int]:
        """After the last frame: numbers of the frames that begin a shot, without the first one."""
        # The detector needs frames behind a cut: the last ones once more, backwards, as if the camera went back.
        for thumbnail in list(self._recent)[-2 : -2 - _WINDOW : -1]:
            self._feed(thumbnail)
        return sorted({cut for cut in self._cuts if cut < self._frames} - self._flashes | self._plain)

    def _look_for_plain(self) -> None:
        """See a cut to or from frames of one colour, of any length: even one first, last or single black frame."""
        if len(self._recent) < 2:
            return
        now, (before, last) = self._frames - 1, list(self._recent)[-2:]
        if _structureless(_small(before)) == _structureless(_small(last)):
            return
        self._plain.add(now)
        if now - 1 in self._plain and len(self._recent) > 2:
            first = list(self._recent)[-3]
            lit = before.mean() > max(_WHITE, first.mean(), last.mean())
            if lit and not _structureless(_small(first)) and likeness(first, last) >= self._alike:
                self._flashes |= {now - 1, now}
                self._plain -= self._flashes

    def _feed(self, thumbnail: NDArray[np.uint8]) -> None:
        self._recent.append(thumbnail)
        cuts = self._detector.process_frame(FrameTimecode(self._given, 25.0), thumbnail)
        self._given += 1
        for cut in cuts:
            # The detector answers _WINDOW frames late, so the cut lies between the two oldest thumbnails.
            if likeness(self._recent[0], self._recent[1]) < self._alike:
                self._cuts.append(cut.frame_num)


def likeness(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """How well the middle of one picture is found in the other, at any shift: correlation, -1 to 1.

    Pictures without structure, such as black frames, are like each other (1) where they have the same tone, and like
    no other (0).

    Args:
        first: (h, w, 3), 8 bits.
        second: of the same size.
    """
    one, other = _small(first), _small(second)
    plain = [_structureless(picture) for picture in (one, other)]
    if any(plain):  # correlation says nothing of a picture without structure
        return 1.0 if all(plain) and abs(float(one.mean() - other.mean())) < _SAME_TONE else 0.0
    rows, columns = (round(0.15 * side) for side in one.shape)
    best = -1.0
    for picture, within in ((one, other), (other, one)):
        middle = picture[rows : picture.shape[0] - rows, columns : picture.shape[1] - columns]
        best = max(best, float(cv2.matchTemplate(within, middle, cv2.TM_CCOEFF_NORMED).max()))
    return best


def _structureless(small: NDArray[np.float32]) -> bool:
    return float(small.std()) < _FLAT


def _small(thumbnail: NDArray[np.uint8]) -> NDArray[np.float32]:
    height = max(4, round(thumbnail.shape[0] * _COMPARED / thumbnail.shape[1]))
    small = cv2.resize(thumbnail, (_COMPARED, height), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), np.float32)


def _middle(height: int, width: int) -> tuple[int, int, int, int] | None:
    """The part of a frame that is scored, (top, left, height, width), at even places; None where it is too small."""
    high, wide = min(height, _SCORED), min(width, _SCORED)
    if min(high, wide) < 2:
        return None
    return (height - high) // 4 * 2, (width - wide) // 4 * 2, high, wide
