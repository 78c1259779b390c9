"""What the tests of things that must not get lost share: files through the whole job, their frames unchanged."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from media import moving_picture
from numpy.typing import NDArray
from torch import Tensor, nn

from metadeblur.adaptation.stages import AdaptSettings
from metadeblur.pipeline.outputs import Job
from metadeblur.pipeline.run import RunSettings, restore_file
from metadeblur.restoration.restorer import RestoreSettings
from metadeblur.video import EncodeSettings
from metadeblur.video.tiff import unmultiplied

PROFILE = struct.pack(">I4xI4s4s4s12x4s", 140, 0x02100000, b"mntr", b"RGB ", b"XYZ ", b"acsp").ljust(140, b"\7")
"""Stands for a colour profile; nothing but its header is looked at."""
TURNED = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
"""An EXIF record that asks for a quarter turn clockwise."""


class Same(nn.Module):
    """A network that changes nothing."""

    def forward(self, frames: Tensor) -> Tensor:
        return frames * 1.0


def passed(source: Path, output: Path, **encoding: Any) -> list[str]:
    """A file through the whole job, its frames unchanged; what the record says was not kept."""
    settings = RunSettings(
        adapt=False,
        adaptation=AdaptSettings(guard=False),
        restoration=RestoreSettings(device="cpu", precision="fp32"),
        encoding=EncodeSettings(**encoding),
    )
    return list(restore_file(Job(source, output), Same(), settings).not_kept)


def stored(path: Path) -> NDArray[Any]:
    """A picture as it is in its file."""
    # OpenCV would multiply the colours of some TIFF files by their opacity.
    data = np.frombuffer(unmultiplied(path.read_bytes()), np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    assert picture is not None, path
    return np.asarray(picture)


def store(path: Path, picture: NDArray[Any], options: Sequence[int] = ()) -> Path:
    """A picture in BGR or BGRA as a file, by the suffix of its name."""
    path.parent.mkdir(exist_ok=True)
    done, data = cv2.imencode(path.suffix.lower(), picture, list(options))
    assert done
    path.write_bytes(data.tobytes())
    return path


def scene(frames: int, channels: int = 3, *, bits: int = 8, size: tuple[int, int] = (40, 56)) -> list[NDArray[Any]]:
    """Pictures for files: grey, BGR, or BGR with a transparent edge that moves."""
    pictures = []
    for number, picture in enumerate(moving_picture(frames, *size)):
        values: NDArray[Any] = picture[..., 0] if channels == 1 else picture[..., ::-1]
        if channels == 4:
            across = np.clip((np.arange(size[1]) - 8 - number) * 40, 0, 255).astype(np.uint8)
            values = np.dstack([values, np.broadcast_to(across, size)])
        pictures.append(np.ascontiguousarray(values if bits == 8 else values.astype(np.uint16) * 257))
    return pictures


def png_with(data: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file with chunks added before its pixels."""
    made = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    return data[:33] + b"".join(made) + data[33:]


def jpeg_with(data: bytes, *segments: tuple[int, bytes]) -> bytes:
    """A JPEG file with segments added before all others."""
    made = [bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content for marker, content in segments]
    return data[:2] + b"".join(made) + data[2:]


def transparent_video(
    path: Path, codec: str, pix_fmt: str, frames: int = 6, *, options: dict[str, str] | None = None
) -> Path:
    """A video whose left side is transparent, black below, with a soft edge that moves."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(25), options=options or {})
        stream.width, stream.height, stream.pix_fmt = 96, 64, pix_fmt
        for number, picture in enumerate(moving_picture(frames, 64, 96)):
            alpha = np.clip((np.arange(96) - 24 - 2 * number) * 32, 0, 255).astype(np.uint8)
            rgba = np.dstack([picture * (alpha[None, :, None] > 0), np.broadcast_to(alpha, (64, 96))])
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgba), format="rgba").reformat(format=pix_fmt)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def tiled_photograph(path: Path, codec: str, brand: bytes) -> NDArray[np.uint8]:
    """A photograph of 2 x 2 tiles of 64 px in the format of AVIF and HEIC (ISO 23008-12); returns its colours."""
    picture = moving_picture(1, 128, 128)[0]
    tiles = [_tile(picture[y : y + 64, x : x + 64], codec) for y in (0, 64) for x in (0, 64)]
    grid = bytes([0, 0, 1, 1]) + struct.pack(">HH", 128, 128)
    config, kind = (b"av1C", b"av01") if codec == "libsvtav1" else (b"hvcC", b"hvc1")

    def box(name: bytes, *parts: bytes, full: int | None = None) -> bytes:
        content = (b"" if full is None else struct.pack(">I", full)) + b"".join(parts)
        return struct.pack(">I4s", len(content) + 8, name) + content

    kinds = [b"grid", *[kind] * 4]
    names = [box(b"infe", struct.pack(">HH4sB", n, 0, k, 0), full=2 << 24) for n, k in enumerate(kinds, start=1)]
    sizes = [box(b"ispe", struct.pack(">II", side, side), full=0) for side in (128, 64)]
    properties = [*sizes, box(config, tiles[0][0]), box(b"pixi", bytes([3, 8, 8, 8]), full=0)]
    uses = [struct.pack(">HB", 1, 2) + bytes([1, 4])]
    uses += [struct.pack(">HB", number, 3) + bytes([2, 0x83, 4]) for number in range(2, 6)]
    head = box(b"ftyp", brand, bytes(4), b"mif1", b"miaf", brand)

    def meta(start: int) -> bytes:
        places, at = [], start
        for number, data in enumerate([grid, *(data for _, data in tiles)], start=1):
            places.append(struct.pack(">HHHII", number, 0, 1, at, len(data)))
            at += len(data)
        return box(
            b"meta",
            box(b"hdlr", bytes(4), b"pict", bytes(13), full=0),
            box(b"pitm", struct.pack(">H", 1), full=0),
            box(b"iloc", b"\x44\0", struct.pack(">H", 5), *places, full=0),
            box(b"iinf", struct.pack(">H", 5), *names, full=0),
            box(b"iref", box(b"dimg", struct.pack(">HH4H", 1, 4, 2, 3, 4, 5)), full=0),
            box(b"iprp", box(b"ipco", *properties), box(b"ipma", struct.pack(">I", 5), *uses, full=0)),
            full=0,
        )

    start = len(head) + len(meta(0)) + 8
    path.write_bytes(head + meta(start) + box(b"mdat", grid, *(data for _, data in tiles)))
    return picture


def _tile(picture: NDArray[np.uint8], codec: str) -> tuple[bytes, bytes]:
    """One picture encoded: what its decoder must know, and its bytes."""
    os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 prints its settings otherwise
    file = io.BytesIO()
    options = {"x265-params": "log-level=none", "crf": "4"} if codec == "libx265" else {"crf": "5"}
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as container:
        data = next(bytes(packet) for packet in container.demux() if packet.size)
        return container.streams.video[0].codec_context.extradata or b"", data
