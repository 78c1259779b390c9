"""YUV4MPEG2 (y4m), the format that programs hand raw frames on in: a header of one line, then the frames.

Read and written here as a stream, in constant memory, from pipes that cannot be searched. Raw frames without any header
become y4m by giving them one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av

from metadeblur.errors import MetadeblurError
from metadeblur.limits import Within
from metadeblur.system.names import counted
from metadeblur.types import RawPixels
from metadeblur.video.colour import FULL, LIMITED, plane_rows
from metadeblur.video.info import main_video, open_media

MAGIC, FRAME = b"YUV4MPEG2", b"FRAME"
SIDE = Within(1, 16384)  # px
_LONGEST = 1024  # of a header, bytes
_CHUNK = 1 << 20  # bytes that are copied at once
_EXAMPLE = "a program must send y4m, such as ffmpeg -i IN -f yuv4mpegpipe -strict -1 -"

# What the tag C calls a layout, and FFmpeg's name of it; the first of several is written.
_LAYOUTS: dict[str, RawPixels] = {
    "420": "yuv420p",
    "420jpeg": "yuv420p",
    "420mpeg2": "yuv420p",
    "420paldv": "yuv420p",
    "411": "yuv411p",
    "422": "yuv422p",
    "444": "yuv444p",
    "mono": "gray",
    "420p9": "yuv420p9le",
    "420p10": "yuv420p10le",
    "420p12": "yuv420p12le",
    "420p14": "yuv420p14le",
    "420p16": "yuv420p16le",
    "422p9": "yuv422p9le",
    "422p10": "yuv422p10le",
    "422p12": "yuv422p12le",
    "422p14": "yuv422p14le",
    "422p16": "yuv422p16le",
    "444p9": "yuv444p9le",
    "444p10": "yuv444p10le",
    "444p12": "yuv444p12le",
    "444p14": "yuv444p14le",
    "444p16": "yuv444p16le",
    "mono9": "gray9le",
    "mono10": "gray10le",
    "mono12": "gray12le",
    "mono16": "gray16le",
}
_RANGES = {"LIMITED": LIMITED, "FULL": FULL}


@dataclass(frozen=True)
class Y4mHeader:
    r"""What a y4m stream says of its frames.

    >>> Y4mHeader(96, 64, Fraction(25)).line()
    b'YUV4MPEG2 W96 H64 F25:1 Ip A0:0 C420\n'
    """

    width: int  # px
    height: int
    rate: Fraction  # frames a second
    layout: str = "420"  # the tag C, one of those that are known
    fields: str = "p"  # the tag I: p progressive, t or b: the top or the bottom field first
    aspect: Fraction | None = None  # of a sample
    range: int = 0  # FFmpeg's number of the colour range; 0: not said

    @property
    def pix_fmt(self) -> RawPixels:
        """FFmpeg's name of the pixels' layout."""
        return _LAYOUTS[self.layout]

    @property
    def frame_bytes(self) -> int:
        """The bytes of one frame."""
        parts = av.VideoFormat(self.pix_fmt, self.width, self.height).components
        return sum(part.width * part.height * (1 if part.bits <= 8 else 2) for part in parts)

    def line(self) -> bytes:
        """The header as it is written."""
        aspect = self.aspect or Fraction(0)
        words = [
            f"W{self.width} H{self.height} F{self.rate.numerator}:{self.rate.denominator} I{self.fields}",
            f"A{aspect.numerator}:{aspect.denominator if aspect else 0} C{self.layout}",
            *(f"XCOLORRANGE={name}" for name, number in _RANGES.items() if number == self.range),
        ]
        return b" ".join([MAGIC, *(word.encode() for word in words)]) + b"\n"


def raw_header(width: int, height: int, rate: Fraction, pix_fmt: RawPixels) -> Y4mHeader:
    """The header for raw frames that come without one."""
    return Y4mHeader(width, height, rate, _layout(pix_fmt))


def _layout(pix_fmt: str) -> str:
    return next(layout for layout, name in _LAYOUTS.items() if name == pix_fmt)


def read_header(source: BinaryIO) -> Y4mHeader:
    """Read the header that a y4m stream begins with.

    Raises:
        MetadeblurError: there is nothing, no y4m, or a value that is not allowed.
    """
    line = source.readline(_LONGEST)
    if not line:
        raise MetadeblurError(f"standard input is empty; {_EXAMPLE}")
    if line.split()[:1] != [MAGIC]:
        raise MetadeblurError(
            f"standard input is no y4m stream, it does not begin with YUV4MPEG2; {_EXAMPLE}; raw frames need --size "
            "and --rate"
        )
    if not line.endswith(b"\n"):
        raise MetadeblurError(f"the y4m header has no end within {_LONGEST} bytes; {_EXAMPLE}")
    return _parsed(line.decode("ascii", errors="backslashreplace").split()[1:])


def _parsed(words: Iterable[str]) -> Y4mHeader:
    """The header's tags; those that say nothing of the pixels are passed over, as players do."""
    tags = {word[0]: word[1:] for word in words if word[0] != "X"}
    extras = dict(word[1:].upper().partition("=")[::2] for word in words if word[0] == "X")
    layout = tags.get("C") or extras.get("XYSCSS", extras.get("YSCSS", "420")).lower()
    if layout not in _LAYOUTS:
        raise _refused("C", layout, f"{', '.join(_LAYOUTS)}; ffmpeg -pix_fmt yuv420p converts to one of them")
    fields = tags.get("I", "p").replace("?", "p")
    if fields not in ("p", "t", "b"):
        raise _refused("I", fields, "p, t or b: all frames progressive, or all of them woven of two fields")
    return Y4mHeader(
        _side(tags, "W"),
        _side(tags, "H"),
        _ratio(tags, "F") or Fraction(25),  # as FFmpeg does where it is unknown
        layout,
        fields,
        _ratio(tags, "A"),
        _RANGES.get(extras.get("COLORRANGE", ""), 0),
    )


def _side(tags: dict[str, str], name: str) -> int:
    text = tags.get(name, "missing")
    number = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else 0
    if not SIDE.holds(number):
        raise _refused(name, text, SIDE.words("a whole number"))
    return number


def _ratio(tags: dict[str, str], name: str) -> Fraction | None:
    """A ratio; None: it is unknown, 0:0 in the format's words."""
    text = tags.get(name, "0:0")
    found = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", text)
    if found is None:
        raise _refused(name, text, "two whole numbers, such as 30000:1001")
    numerator, denominator = map(int, found.groups())
    return Fraction(numerator, denominator) if numerator and denominator else None


def _refused(tag: str, value: str, allowed: str) -> MetadeblurError:
    return MetadeblurError(f"the y4m header has {tag}{value if value != 'missing' else ' missing'}; allowed: {allowed}")


def copy_frames(
    source: BinaryIO, header: Y4mHeader, target: BinaryIO, *, raw: bool, each: Callable[[int], object]
) -> int:
    """Copy the frames that follow a header, as y4m, until there are no more.

    Args:
        source: the rest of the stream.
        header: of the frames; it is written first.
        target: where to.
        raw: the frames come one after the other with nothing between.
        each: called with the number of frames so far.

    Returns:
        The number of frames.

    Raises:
        MetadeblurError: there is no frame, or the stream ends or breaks in the middle of one.
    """
    target.write(header.line())
    count, size = 0, header.frame_bytes
    while True:
        first = source.read(1) if raw else _frame_begins(source, count)
        if not first:
            break
        target.write(FRAME + b"\n")
        _copy(source, target, size, first if raw else b"", count)
        count += 1
        each(count)
    if not count:
        raise MetadeblurError(f"standard input has no frames; {_EXAMPLE}")
    return count


def _frame_begins(source: BinaryIO, count: int) -> bytes:
    """The line before a frame; nothing at the end."""
    line = source.readline(_LONGEST)
    if line and not (line.split()[:1] == [FRAME] and line.endswith(b"\n")):
        raise MetadeblurError(
            f"standard input is damaged after {counted(count, 'frame')}: the next one does not begin with FRAME; "
            "nothing was written"
        )
    return line


def _copy(source: BinaryIO, target: BinaryIO, size: int, first: bytes, count: int) -> None:
    target.write(first)
    left = size - len(first)
    while left:
        data = source.read(min(left, _CHUNK))
        if not data:
            raise MetadeblurError(
                f"standard input ends in the middle of frame {count + 1}, {left} of {size} bytes are missing; nothing "
                "was written; did the program before this one fail, or have its frames another size or pixel format?"
            )
        target.write(data)
        left -= len(data)


def write_frames(video: Path, header: Y4mHeader, target: BinaryIO) -> None:
    """Write the frames of a video file as y4m.

    Args:
        video: the file; its frames are of a layout that y4m knows.
        header: of the stream that the video was made from: rate, aspect and, where it still holds, the layout.
        target: where to.

    Raises:
        MetadeblurError: the file cannot be read.
        BrokenPipeError: nobody reads any more.
    """
    begun = False
    with open_media(video) as container:
        for frame in container.decode(main_video(container, video)):
            if not begun:
                target.write(_header_of(frame, header).line())
                begun = True
            target.write(FRAME + b"\n")
            bits = frame.format.components[0].bits
            for plane in frame.planes:
                target.write(plane_rows(plane, bits)[:, : plane.width].tobytes())
    target.flush()


def _header_of(frame: av.VideoFrame, source: Y4mHeader) -> Y4mHeader:
    """The header for restored frames, which are progressive and may be of another layout than their source."""
    layout = source.layout if source.pix_fmt == frame.format.name else _layout(frame.format.name)
    said = int(frame.color_range) if int(frame.color_range) in _RANGES.values() else 0
    return replace(source, layout=layout, fields="p", range=said)
