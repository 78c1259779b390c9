"""Read directories of TIFF files and EXIF records, and add tags to them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

SUBFILE, WIDTH, HEIGHT, BITS, PHOTOMETRIC, ORIENTATION, SAMPLES, EXTRA = 254, 256, 257, 258, 262, 274, 277, 338
ICC_PROFILE = 34675
_POINTERS = (330, 34665, 34853, 40965)  # to further directories, which cannot be moved byte by byte
_STORAGE = {
    254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 274, 277, 278, 279, 280, 281, 284, 288, 289, 290, 291,
    292, 293, 301, 317, 318, 319, 320, 321, 322, 323, 324, 325, 332, 333, 334, 336, 338, 339, 340, 341, 342, 347,
    512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532,
}  # fmt: skip
"""Tags that say how the pixels are stored, not what the picture is about."""
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_UNITS = {5: 4, 10: 4}  # fractions are two numbers
_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}


@dataclass(frozen=True)
class Tag:
    """A tag's value, its bytes in the order of the file."""

    kind: int
    count: int
    raw: bytes
    order: Literal["<", ">"]
    place: int  # of the raw bytes in the file

    @property
    def numbers(self) -> tuple[int, ...]:
        """The whole numbers of the value; empty for other kinds."""
        letter = _NUMBERS.get(self.kind)
        return struct.unpack(f"{self.order}{self.count}{letter}", self.raw) if letter else ()

    def little_endian(self) -> bytes:
        """Its bytes, least significant first."""
        size = _UNITS.get(self.kind, _SIZES[self.kind])
        return self.raw if self.order == "<" or size == 1 else np.frombuffer(self.raw, f">u{size}").byteswap().tobytes()


Directory = dict[int, Tag]


def directories(data: bytes) -> list[Directory]:
    """The directories of a TIFF file or EXIF record, one for each picture; those before the first damage."""
    order: Literal["<", ">"] = "<" if data[:2] == b"II" else ">"
    pages: list[Directory] = []
    try:
        big = struct.unpack(f"{order}H", data[2:4])[0] == 43
        place = struct.unpack(f"{order}Q", data[8:16])[0] if big else struct.unpack(f"{order}I", data[4:8])[0]
        seen: set[int] = set()
        while place and place not in seen:
            seen.add(place)
            directory, place = _directory(data, place, order, big)
            pages.append(directory)
    except (struct.error, KeyError):
        pass
    return pages


def _directory(data: bytes, place: int, order: Literal["<", ">"], big: bool) -> tuple[Directory, int]:
    """The directory at a place, and where the next one is."""
    counted, entry, wide = ("Q", "HHQ", 8) if big else ("H", "HHI", 4)
    head, step = struct.calcsize(f"<{counted}"), struct.calcsize(f"<{entry}") + wide
    (count,) = struct.unpack(f"{order}{counted}", data[place : place + head])
    entries: Directory = {}
    start = place + head
    for number in range(min(count, 4096)):
        at = start + number * step
        tag, kind, values = struct.unpack(f"{order}{entry}", data[at : at + step - wide])
        size, at = values * _SIZES.get(kind, 1), at + step - wide
        if size > wide:
            (at,) = struct.unpack(f"{order}{'Q' if big else 'I'}", data[at : at + wide])
        raw = bytes(data[at : at + size])
        if kind in _SIZES and len(raw) == size:
            entries[tag] = Tag(kind, values, raw, order, at)
    end = start + count * step
    return entries, struct.unpack(f"{order}{'Q' if big else 'I'}", data[end : end + wide])[0]


def unmultiplied(data: bytes) -> bytes:
    """A TIFF file marked so that libtiff does not multiply its colours by the opacity."""
    for directory in directories(data) if data[:2] in (b"II", b"MM") else []:
        extra = directory.get(EXTRA)
        if extra is not None and extra.kind == 3 and extra.numbers[:1] == (2,):
            associated = struct.pack(f"{extra.order}H", 1)
            data = data[: extra.place] + associated + data[extra.place + 2 :]
    return data


def labels(directory: Directory) -> tuple[Directory, bool]:
    """Tags of a directory that describe the content, and whether it has further directories, which are not copied."""
    kept = {tag: entry for tag, entry in directory.items() if tag not in _STORAGE and tag not in _POINTERS}
    return kept, any(tag in directory for tag in _POINTERS)


def with_labels(data: bytes, entries: Mapping[int, Tag]) -> bytes:
    """A TIFF file of one picture, least significant byte first, with entries added to its directory."""
    if data[:4] != b"II*\0" or not entries:
        return data
    own = directories(data)[0]
    table, extra = [], bytearray()
    end = len(data) + len(data) % 2
    for tag, entry in sorted({**entries, **own}.items()):
        raw = entry.little_endian()
        if len(raw) > 4:
            place = end + len(extra)
            extra += raw + b"\0" * (len(raw) % 2)
            raw = struct.pack("<I", place)
        table.append(struct.pack("<HHI", tag, entry.kind, entry.count) + raw.ljust(4, b"\0"))
    directory = struct.pack("<H", len(table)) + b"".join(table) + bytes(4)
    return data[:4] + struct.pack("<I", end + len(extra)) + data[8:].ljust(end - 8, b"\0") + bytes(extra) + directory
