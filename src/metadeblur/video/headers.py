"""Headers of picture files: size, depth, channels, number of pictures, without decoding."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from metadeblur.errors import MetadeblurError
from metadeblur.video import tiff

PNG, JPEG, WEBP = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"WEBP"


@dataclass(frozen=True)
class Header:
    """One picture of a file."""

    width: int  # as shown, after turning it
    height: int
    bits: int = 8  # a channel: 8 or 16
    channels: int = 3  # 1 grey, 3 colour, 4 colour with transparency
    orientation: int = 1  # EXIF's number, 1 to 8
    milliseconds: int = 0  # how long it is shown; 0: not an animation
    views: int = 1  # pictures of one moment in a stereo photograph or a panorama
    extras: int = 0  # previews and gain maps behind the picture


def read_headers(path: Path) -> list[Header] | None:
    """The pictures of a file, from its headers alone; None where only decoding it can tell.

    Raises:
        MetadeblurError: the file cannot be read.
    """
    with mapped(path) as data:
        return parse(data)


@contextmanager
def mapped(path: Path) -> Iterator[bytes]:
    """The bytes of a file, mapped into memory: only those that are used are read.

    Raises:
        MetadeblurError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            if not file.seek(0, 2):
                yield b""
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield cast(bytes, data)  # slices of it are
    except OSError as error:
        raise MetadeblurError(f"{path}: cannot be read ({error.strerror})") from error


def parse(data: bytes) -> list[Header] | None:
    """The pictures of a file's bytes, from its headers alone; None: unknown format or damaged."""
    with suppress(struct.error, IndexError, KeyError):  # damaged: decoding will say so
        if data[:8] == PNG:
            return _png(data)
        if data[:2] == JPEG:
            return _jpeg(data)
        if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _tiff(data)
        if data[:4] == b"RIFF" and data[8:12] == WEBP:
            return _webp(data)
    return None


def png_chunks(data: bytes, *, whole: bool = False) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of the chunks before the pixels, or of all."""
    place = 8
    while place + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        if kind == b"IEND" or (kind == b"IDAT" and not whole):
            return
        yield kind, data[place + 8 : place + 8 + length]
        place += 12 + length


def jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and content of the segments before the pixels."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # padding
            place += 1
            continue
        if marker == 0xDA:
            return
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        yield marker, data[place + 4 : place + 2 + length]
        place += 2 + length


def webp_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, place and length of the chunks of a WebP file."""
    place = 12
    while place + 8 <= len(data):
        kind, length = struct.unpack("<4sI", data[place : place + 8])
        yield kind, place + 8, length
        place += 8 + length + length % 2


def exif_orientation(record: bytes) -> int:
    """How a picture must be turned, 1 (not at all) to 8, by its EXIF record."""
    directories = tiff.directories(record.removeprefix(b"Exif\0\0"))
    turn = directories[0].get(tiff.ORIENTATION) if directories else None
    return turn.numbers[0] if turn and turn.numbers and 1 <= turn.numbers[0] <= 8 else 1


def _upright(width: int, height: int, orientation: int) -> tuple[int, int]:
    return (height, width) if orientation >= 5 else (width, height)


def _png(data: bytes) -> list[Header]:
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    chunks = dict(png_chunks(data))
    channels = 4 if colour & 4 or b"tRNS" in chunks else 1 if colour == 0 else 3
    orientation = exif_orientation(chunks.get(b"eXIf", b""))
    width, height = _upright(width, height, orientation)
    moments = _moments(data) if b"acTL" in chunks else [0]
    return [Header(width, height, 16 if depth == 16 else 8, channels, orientation, moment) for moment in moments]


def _moments(data: bytes) -> list[int]:
    """How long each picture of an animated PNG is shown, in milliseconds."""
    moments = []
    for kind, content in png_chunks(data, whole=True):
        if kind == b"fcTL":
            ticks, rate = struct.unpack(">HH", content[20:24])
            moments.append(max(1, round(1000 * ticks / (rate or 100))))
    return moments if len(moments) > 1 else [0]


def _jpeg(data: bytes) -> list[Header] | None:
    orientation, views, extras, size = 1, 1, 0, None
    for marker, content in jpeg_segments(data):
        if marker == 0xE1 and content[:6] == b"Exif\0\0":
            orientation = exif_orientation(content)
        elif marker == 0xE2 and content[:4] == b"MPF\0":
            views, extras = _several(content[4:])
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            size = struct.unpack(">HHB", content[1:6])
    if size is None:
        return None
    width, height = _upright(size[1], size[0], orientation)
    return [Header(width, height, 8, 1 if size[2] == 1 else 3, orientation, views=views, extras=extras)]


def _several(record: bytes) -> tuple[int, int]:
    """Views and other pictures that the record of a multi-picture file (CIPA DC-007) tells of."""
    directories = tiff.directories(record)
    entries = directories[0].get(0xB002) if directories else None
    views = others = 0
    for place in range(0, len(entries.raw) - 15 if entries else 0, 16):
        assert entries is not None
        (attributes,) = struct.unpack(f"{entries.order}I", entries.raw[place : place + 4])
        if attributes >> 16 & 0xFF == 2:  # panorama, stereo or several angles
            views += 1
        else:
            others += 1
    return (views, others) if views > 1 else (1, max(0, others + views - 1))


def _tiff(data: bytes) -> list[Header]:
    pages: list[Header] = []
    for directory in tiff.directories(data):
        tags = {tag: entry.numbers for tag, entry in directory.items() if entry.numbers}
        if tags.get(tiff.SUBFILE, (0,))[0] & 1 and pages:
            pages[-1] = Header(**{**vars(pages[-1]), "extras": pages[-1].extras + 1})  # a smaller copy of it
            continue
        grey, palette = tags.get(tiff.PHOTOMETRIC, (2,))[0] in (0, 1), tags.get(tiff.PHOTOMETRIC) == (3,)
        samples = tags.get(tiff.SAMPLES, (1,))[0]
        alpha = not grey and not palette and tags.get(tiff.PHOTOMETRIC, (2,))[0] != 5 and samples > 3
        deep = max(tags.get(tiff.BITS, (1,))) > 8
        orientation = tags.get(tiff.ORIENTATION, (1,))[0]
        width, height = _upright(tags[tiff.WIDTH][0], tags[tiff.HEIGHT][0], orientation)
        pages.append(Header(width, height, 16 if deep else 8, 1 if grey else 4 if alpha else 3, orientation))
    return pages


def _webp(data: bytes) -> list[Header]:
    width = height = 0
    channels, orientation = 3, 1
    times: list[int] = []
    for kind, place, length in webp_chunks(data):
        if kind == b"VP8X":
            channels = 4 if data[place] & 0x10 else 3
            width, height = (int.from_bytes(data[place + at : place + at + 3], "little") + 1 for at in (4, 7))
        elif kind == b"VP8L" and not width:
            (packed,) = struct.unpack("<I", data[place + 1 : place + 5])
            width, height, channels = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1, 4 if packed >> 28 & 1 else 3
        elif kind == b"VP8 " and not width:
            width, height = (side & 0x3FFF for side in struct.unpack("<HH", data[place + 6 : place + 10]))
        elif kind == b"ANMF":
            times.append(max(1, int.from_bytes(data[place + 12 : place + 15], "little")))
        elif kind == b"EXIF":
            orientation = exif_orientation(data[place : place + length])
    width, height = _upright(width, height, orientation)
    moments = times if len(times) > 1 else [0]
    return [Header(width, height, 8, channels, orientation, moment) for moment in moments]
