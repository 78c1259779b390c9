"""Metadata of pictures: colour profile, EXIF and XMP records, and a format's own chunks."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from metadeblur.video import tiff
from metadeblur.video.headers import JPEG, PNG, WEBP, exif_orientation, jpeg_segments, parse, png_chunks, webp_chunks

_XMP_JPEG, _ICC_JPEG = b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"
_XMP_PNG = b"XML:com.adobe.xmp\0"
_OF_PNG = (
    b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"cICP", b"mDCV", b"cLLI", b"pHYs", b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"tIME",
)  # fmt: skip
_HOLDS = {
    ".png": ("icc", "exif", "xmp"),
    ".jpg": ("icc", "exif", "xmp"),
    ".jpeg": ("icc", "exif", "xmp"),
    ".webp": ("icc", "exif", "xmp"),
    ".tif": ("icc", "xmp"),
    ".tiff": ("icc", "xmp"),
    ".avif": ("exif",),  # OpenCV writes nothing else into it
}
_SEGMENT = 65_533  # bytes that a segment of JPEG may hold
_XMP_TIFF = 700


@dataclass(frozen=True)
class Labels:
    """The labels of one picture."""

    icc: bytes = b""
    exif: bytes = b""
    xmp: bytes = b""
    own: tuple[tuple[bytes, bytes], ...] = ()  # chunks of PNG or segments of JPEG, all of them, as they are
    entries: tiff.Directory | None = None  # of TIFF
    lost: tuple[str, ...] = ()  # what cannot be carried at all

    def __bool__(self) -> bool:
        return bool(self.icc or self.exif or self.xmp or self.own or self.entries)


def read_labels(data: bytes, page: int = 0) -> Labels:
    """The labels of a picture, for one that is upright already.

    Args:
        data: the file.
        page: number of the picture in it.
    """
    labels = Labels()
    if data[:8] == PNG:
        labels = _of_png(data)
    elif data[:2] == JPEG:
        labels = _of_jpeg(data)
    elif data[:4] == b"RIFF" and data[8:12] == WEBP:
        chunks = {kind: data[place : place + length] for kind, place, length in webp_chunks(data)}
        labels = Labels(chunks.get(b"ICCP", b""), _upright(chunks.get(b"EXIF", b"")), _plain(chunks.get(b"XMP ", b"")))
    elif data[:2] in (b"II", b"MM"):
        labels = _of_tiff(data, page)
    elif data[4:12] in (b"ftypavif", b"ftypavis"):
        place = data.find(b"colrprof")
        labels = Labels(data[place + 8 : place - 4 + _length(data, place)] if place >= 4 else b"")
    if labels.icc[16:20] == b"CMYK":  # the picture is RGB by now
        own = tuple((kind, chunk) for kind, chunk in labels.own if not chunk.startswith(_ICC_JPEG))
        entries = {tag: entry for tag, entry in (labels.entries or {}).items() if tag != tiff.ICC_PROFILE}
        lost = (*labels.lost, "the CMYK colour profile: the picture is RGB now")
        labels = replace(labels, icc=b"", own=own, entries=entries, lost=lost)
    return labels


def lost_labels(labels: Labels, suffix: str) -> list[str]:
    """What a format cannot hold of the labels of a picture."""
    held = _HOLDS.get(suffix, ())
    if suffix in (".tif", ".tiff") and labels.entries is not None:
        held = ("icc", "exif", "xmp")
    words = {"icc": "the colour profile (ICC)", "exif": "the EXIF record", "xmp": "the XMP record"}
    return [*labels.lost, *(word for name, word in words.items() if getattr(labels, name) and name not in held)]


def labelled(data: bytes, labels: Labels, *, transparent: bool = False) -> bytes:
    """A new picture file with labels put into it.

    Args:
        data: the file, of PNG, JPEG, WebP or TIFF; others are returned as they are.
        labels: what to put into it.
        transparent: the fourth channel of a TIFF file is transparency, which OpenCV does not say in it.
    """
    if data[:8] == PNG and labels:
        head = 8 + 25  # signature and IHDR
        return data[:head] + b"".join(_chunk(kind, content) for kind, content in _for_png(labels)) + data[head:]
    if data[:2] == JPEG and labels:
        return data[:2] + b"".join(_segment(marker, content) for marker, content in _for_jpeg(labels)) + data[2:]
    if data[8:12] == WEBP and labels:
        return _webp_with(data, labels)
    if data[:4] == b"II*\0":
        entries = dict(labels.entries or {})
        if not entries:
            for tag, kind, raw in ((tiff.ICC_PROFILE, 7, labels.icc), (_XMP_TIFF, 1, labels.xmp)):
                if raw:
                    entries[tag] = tiff.Tag(kind, len(raw), raw, "<", 0)
        if transparent:
            entries[tiff.EXTRA] = tiff.Tag(3, 1, struct.pack("<H", 2), "<", 0)
        return tiff.with_labels(data, entries)
    return data


def _length(data: bytes, place: int) -> int:
    (length,) = struct.unpack(">I", data[place - 4 : place])
    return int(length)


def _of_png(data: bytes) -> Labels:
    own = [(kind, content) for kind, content in png_chunks(data) if kind in _OF_PNG]
    own = [(kind, _upright(content) if kind == b"eXIf" else _plain(content)) for kind, content in own]
    content_of = dict(own)
    icc = b""
    if b"iCCP" in content_of:
        try:
            icc = zlib.decompress(content_of[b"iCCP"].split(b"\0", 1)[1][1:])
        except (zlib.error, IndexError):
            own = [(kind, content) for kind, content in own if kind != b"iCCP"]
    xmp = next((text.split(b"\0\0\0\0\0")[-1] for kind, text in own if kind == b"iTXt" and text[:18] == _XMP_PNG), b"")
    return Labels(icc, content_of.get(b"eXIf", b""), xmp, tuple(own))


def _of_jpeg(data: bytes) -> Labels:
    own, profile = [], []
    exif = xmp = b""
    for marker, content in jpeg_segments(data):
        if marker == 0xE1 and content[:6] == b"Exif\0\0":
            exif = _upright(content[6:])
            content = content[:6] + exif
        elif marker == 0xE1 and content.startswith(_XMP_JPEG):
            content = _plain(content)
            xmp = content[len(_XMP_JPEG) :]
        elif marker == 0xE2 and content.startswith(_ICC_JPEG):
            profile.append((content[12], content[14:]))
        elif (marker != 0xFE and not (0xE1 <= marker <= 0xED)) or content[:4] == b"MPF\0":
            continue  # JFIF and Adobe's segment tell how the pixels are coded; MPF where other pictures were
        own.append((bytes([marker]), content))
    return Labels(b"".join(part for _, part in sorted(profile)), exif, xmp, tuple(own))


def _of_tiff(data: bytes, page: int) -> Labels:
    pages = tiff.directories(data)
    pages = [directory for directory in pages if not _reduced(directory)] or pages
    if page >= len(pages):
        return Labels()
    entries, more = tiff.labels(pages[page])
    icc, xmp = (entries[tag].raw if tag in entries else b"" for tag in (tiff.ICC_PROFILE, _XMP_TIFF))
    return Labels(icc, b"", xmp, entries=entries, lost=("the EXIF record",) if more else ())


def _reduced(directory: tiff.Directory) -> bool:
    subfile = directory.get(tiff.SUBFILE)
    return bool(subfile and subfile.numbers and subfile.numbers[0] & 1)


def _for_png(labels: Labels) -> Iterator[tuple[bytes, bytes]]:
    if labels.own and len(labels.own[0][0]) == 4:
        yield from labels.own
        return
    if labels.icc:
        yield b"iCCP", b"icc\0\0" + zlib.compress(labels.icc)
    if labels.exif:
        yield b"eXIf", labels.exif
    if labels.xmp:
        yield b"iTXt", _XMP_PNG + bytes(4) + labels.xmp


def _for_jpeg(labels: Labels) -> Iterator[tuple[bytes, bytes]]:
    if labels.own and len(labels.own[0][0]) == 1:
        yield from labels.own
        return
    if labels.exif and len(labels.exif) + 6 <= _SEGMENT:
        yield b"\xe1", b"Exif\0\0" + labels.exif
    if labels.xmp and len(labels.xmp) + len(_XMP_JPEG) <= _SEGMENT:
        yield b"\xe1", _XMP_JPEG + labels.xmp
    size = _SEGMENT - len(_ICC_JPEG) - 2
    parts = [labels.icc[start : start + size] for start in range(0, len(labels.icc), size)]
    for number, part in enumerate(parts, start=1):
        yield b"\xe2", _ICC_JPEG + bytes([number, len(parts)]) + part


def _webp_with(data: bytes, labels: Labels) -> bytes:
    """A WebP file of one picture in the long form, which has room for labels."""
    header = parse(data)
    assert header is not None  # it was written a moment ago
    own = {kind: data[place : place + length] for kind, place, length in webp_chunks(data)}
    records = {b"ICCP": (labels.icc, 0x20), b"EXIF": (labels.exif, 0x08), b"XMP ": (labels.xmp, 0x04)}
    flags = sum(flag for value, flag in records.values() if value) | (0x10 if header[0].channels == 4 else 0)
    size = (header[0].width - 1).to_bytes(3, "little") + (header[0].height - 1).to_bytes(3, "little")
    pixels = {kind: part for kind, part in own.items() if kind in (b"ALPH", b"VP8 ", b"VP8L")}
    chunks: dict[bytes, bytes] = {b"VP8X": bytes([flags, 0, 0, 0]) + size, b"ICCP": labels.icc, **pixels}
    chunks |= {b"EXIF": labels.exif, b"XMP ": labels.xmp}
    body = b"".join(
        struct.pack("<4sI", kind, len(content)) + content + b"\0" * (len(content) % 2)
        for kind, content in chunks.items()
        if content
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + WEBP + body


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _segment(marker: bytes, content: bytes) -> bytes:
    return b"\xff" + marker + struct.pack(">H", len(content) + 2) + content


def _upright(exif: bytes) -> bytes:
    """An EXIF record with orientation 1, since the pixels are upright already."""
    if exif_orientation(exif) == 1:
        return exif
    head = 6 if exif[:6] == b"Exif\0\0" else 0
    entry = tiff.directories(exif[head:])[0][tiff.ORIENTATION]
    one = struct.pack(f"{entry.order}H", 1)
    return exif[: head + entry.place] + one + exif[head + entry.place + 2 :]


def _plain(xmp: bytes) -> bytes:
    """An XMP text with orientation 1."""
    return re.sub(rb"(tiff:Orientation(?:=[\"']|>))[2-8]", rb"\g<1>1", xmp)
