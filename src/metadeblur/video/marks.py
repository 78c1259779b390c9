"""Side data of frames, such as captions, stereo and Dolby Vision marks: written again, or reported as lost."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import av

from metadeblur.video.mastering import side_data

_WORDS = {
    "A53_CC": "the captions in its picture stream (EIA-608, EIA-708)",
    "AFD": "its marks of the active part of the picture (AFD)",
    "SEI_UNREGISTERED": "the user data in its picture stream",
    "SPHERICAL": "its mark as 360-degree video",
    "STEREO3D": "its mark as stereo video",
    "DOVI": "its Dolby Vision record",
    "DYNAMIC_HDR_PLUS": "its HDR10+ record of each frame",
    "DYNAMIC_HDR_VIVID": "its HDR Vivid record of each frame",
    "S12M_TIMECODE": "the time codes in its picture stream",
    "ICC_PROFILE": "its colour profile (ICC)",
    "AMBIENT_VIEWING_ENVIRONMENT": "what it tells of the light to watch it in",
    "CROPPING": "its mark of edges to be cut off",
}
"""Kinds of marks, as FFmpeg names the side data of frames, in words."""
WRITTEN = ("A53_CC", "AFD", "SEI_UNREGISTERED")
"""Those that are written into each frame of H.264 and H.265."""
_DUMPED = {
    "spherical": "SPHERICAL",
    "stereo3d": "STEREO3D",
    "dovi configuration": "DOVI",
    "icc profile": "ICC_PROFILE",
    "ambient viewing": "AMBIENT_VIEWING_ENVIRONMENT",
    "frame cropping": "CROPPING",
}
"""How FFmpeg's description of a stream begins to tell of its marks."""
_ENCODERS = (  # the version and settings of x264 and x265, which are those of the former encoding
    bytes.fromhex("dc45e9bde6d948b7962cd820d923eeef"),
    bytes.fromhex("2ca2de09b51747dbbb55a4fe7fc2fc4e"),
)
_T35, _UNREGISTERED = 4, 5  # types of messages beside the picture (ITU-T H.274)
_ATSC = b"\xb5\x00\x31"  # United States, ATSC

Sei = tuple[int, bytes]
"""Type and content of a message beside the picture."""


@dataclass(frozen=True)
class Marks:
    """What the frames of a video carry beside their pixels."""

    kinds: frozenset[str] = frozenset()
    messages: Mapping[int, tuple[Sei, ...]] = field(default_factory=dict)  # by number of the frame


@dataclass
class MarksBuilder:
    """Collects the marks of decoded frames."""

    kinds: set[str] = field(default_factory=set)
    messages: dict[int, tuple[Sei, ...]] = field(default_factory=dict)

    def add(self, index: int, frame: av.VideoFrame) -> None:
        """One more frame."""
        marks = frame_marks(frame)
        self.kinds.update(kind for kind, _ in marks)
        messages = tuple(_message(kind, data) for kind, data in marks if kind in WRITTEN)
        if messages:
            self.messages[index] = messages

    def build(self) -> Marks:
        """All of them."""
        return Marks(frozenset(self.kinds), self.messages)


def frame_marks(frame: av.VideoFrame) -> list[tuple[str, bytes]]:
    """Kind and content of the marks of a frame."""
    marks = []
    for item in side_data(frame):
        kind, data = item.type.name, bytes(memoryview(item))
        if kind.startswith("DOVI"):
            kind = "DOVI"
        flat = kind == "STEREO3D" and not any(data[:4])
        if kind in _WORDS and not flat and not (kind == "SEI_UNREGISTERED" and data.startswith(_ENCODERS)):
            marks.append((kind, data))
    return marks


def stream_marks(container: av.container.InputContainer, stream: int) -> frozenset[str]:
    """Kinds of marks that a container tells for one of its streams, which PyAV shows in FFmpeg's description only.

    To be called before anything of the container is decoded: while PyAV listens to FFmpeg, a decoder's thread that has
    something to say waits for the interpreter, which may be waiting for that thread to end.
    """
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        text = cast(Any, container).dumps_format()
    finally:
        av.logging.set_level(level)
    own = re.split(r"^ *Stream #\d+:", text, flags=re.MULTILINE)
    lines = next((part for part in own[1:] if re.match(rf"{stream}\b", part)), "").lower().splitlines()
    kinds = {kind for line in lines for words, kind in _DUMPED.items() if line.strip().startswith(words)}
    if any(line.strip().startswith("stereo3d: 2d") for line in lines):
        kinds.discard("STEREO3D")
    return frozenset(kinds)


def lost_marks(kinds: Iterable[str], name: str, codec: str, kept: Iterable[str] = ()) -> list[str]:
    """Sentences on the marks that an output does not have.

    Args:
        kinds: those of the source.
        name: of the source.
        codec: of the output; empty: pictures.
        kept: those that the output has in another way.
    """
    holds = codec in ("h264", "hevc")
    sentences = []
    for kind, words in _WORDS.items():
        if kind in kinds and kind not in kept and not (holds and kind in WRITTEN):
            advice = "; H.264 or H.265 would keep it" if kind in WRITTEN and codec else ""
            sentences.append(f"{words} was left out of what was made of {name}{advice}")
    return sentences


def with_messages(packet: av.Packet[Any], codec: str, messages: Iterable[Sei]) -> av.Packet[Any]:
    """A packet of H.264 or H.265, as Matroska and MP4 hold it, with messages before its picture."""
    data, place = bytes(packet), 0
    while place + 4 < len(data):
        kind = data[place + 4] & 0x1F if codec == "h264" else data[place + 4] >> 1 & 0x3F
        if (1 <= kind <= 5) if codec == "h264" else kind < 32:
            break  # a slice of the picture
        place += 4 + int.from_bytes(data[place : place + 4], "big")
    unit = _unit(codec, messages)
    copy: av.Packet[Any] = av.Packet(data[:place] + len(unit).to_bytes(4, "big") + unit + data[place:])
    copy.stream, copy.time_base = packet.stream, packet.time_base
    copy.pts, copy.dts, copy.duration, copy.is_keyframe = packet.pts, packet.dts, packet.duration, packet.is_keyframe
    return copy


def _message(kind: str, data: bytes) -> Sei:
    match kind:
        case "A53_CC":
            count = min(31, len(data) // 3)
            return _T35, _ATSC + b"GA94\x03" + bytes([0x40 | count, 0xFF]) + data[: 3 * count] + b"\xff"
        case "AFD":
            return _T35, _ATSC + b"DTG1\x41" + bytes([0xF0 | data[0] & 0x0F])
        case _:
            return _UNREGISTERED, data


def _unit(codec: str, messages: Iterable[Sei]) -> bytes:
    r"""Messages as one unit of the stream (ITU-T H.264, 7.3.2.3; H.265, 7.3.2.4).

    >>> _unit("h264", [(5, b"\0\0\1")]).hex()
    '0605030000030180'
    """
    body = b"".join(_number(kind) + _number(len(data)) + data for kind, data in messages) + b"\x80"
    escaped = re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", body)
    return (b"\x06" if codec == "h264" else b"\x4e\x01") + escaped


def _number(value: int) -> bytes:
    return b"\xff" * (value // 255) + bytes([value % 255])
