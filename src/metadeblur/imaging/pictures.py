"""Small pictures for reports and figures: frames to PNG or JPEG bytes, side by side, heat maps."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Picture = NDArray[np.uint8]
"""A picture as (H, W, 3), uint8, RGB."""

# Dark blue to pale yellow: lightness rises all the way, so that the map also reads in grey and with colour blindness.
_HEAT = np.array(
    [(24, 22, 62), (37, 52, 112), (36, 94, 140), (38, 137, 142), (84, 177, 121), (164, 208, 92), (250, 236, 140)],
    dtype=np.float64,
)


def to_uint8(frame: Tensor | NDArray[Any]) -> Picture:
    """A frame of any kind as (H, W, 3) uint8.

    Args:
        frame: tensor (3, H, W), or array (H, W, 3) or (H, W); floats are in [0, 1] (clamped, not-a-number becomes
            black), integers in 0..255.

    Raises:
        ValueError: another shape.

    >>> to_uint8(np.full((2, 2), 0.5))[0, 0].tolist()
    [128, 128, 128]
    """
    if isinstance(frame, np.ndarray):
        array: NDArray[Any] = np.stack([frame] * 3, axis=-1) if frame.ndim == 2 else frame
    else:
        array = np.moveaxis(frame.detach().float().cpu().numpy() if frame.is_floating_point() else frame.numpy(), 0, -1)
    if array.ndim != 3 or array.shape[-1] != 3:
        raise ValueError(f"a picture has three channels, not the shape {tuple(frame.shape)}")
    if np.issubdtype(array.dtype, np.floating):
        array = np.nan_to_num(array, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1) * 255 + 0.5
    return np.ascontiguousarray(array.astype(np.uint8))


def is_whole_png(data: bytes) -> bool:
    """Whether a PNG file is as it was written: all of its chunks are there, and their checksums are right.

    >>> png = encode_png(np.zeros((2, 2, 3), np.uint8))
    >>> is_whole_png(png), is_whole_png(png[:-1]), is_whole_png(png.replace(b"IHDR", b"IHDx"))
    (True, False, False)
    """
    place, kind = 8, b""
    while place + 12 <= len(data) and kind != b"IEND":
        (length,), kind = struct.unpack_from(">I", data, place), data[place + 4 : place + 8]
        end = place + 8 + length
        if zlib.crc32(data[place + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return False
        place = end + 4
    return data.startswith(b"\x89PNG") and kind == b"IEND"


def shrink(picture: Picture, width: int) -> Picture:
    """The picture at most ``width`` px wide, its proportions kept; narrower ones come back as they are.

    >>> shrink(np.zeros((100, 400, 3), np.uint8), 200).shape
    (50, 200, 3)
    """
    height_now, width_now = picture.shape[:2]
    if width_now <= width:
        return picture
    height = max(1, round(height_now * width / width_now))
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def encode_jpeg(picture: Picture, quality: int = 90) -> bytes:
    """JPEG bytes of an RGB picture, colour at full resolution; ``quality`` is 1 to 100."""
    settings = [
        *(int(cv2.IMWRITE_JPEG_QUALITY), quality),
        *(int(cv2.IMWRITE_JPEG_SAMPLING_FACTOR), int(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)),
        *(int(cv2.IMWRITE_JPEG_OPTIMIZE), 1),
    ]
    return _encode(".jpg", picture, settings)


def encode_png(picture: Picture) -> bytes:
    """PNG bytes of an RGB picture.

    >>> encode_png(np.zeros((2, 2, 3), np.uint8))[1:4]
    b'PNG'
    """
    return _encode(".png", picture, [])


def _encode(extension: str, picture: Picture, settings: list[int]) -> bytes:
    done, data = cv2.imencode(extension, picture[..., ::-1], settings)
    if not done:
        raise ValueError(f"a picture of the shape {picture.shape} cannot be written as {extension}")
    return data.tobytes()


def data_uri(encoded: bytes) -> str:
    """PNG or JPEG bytes as a ``data:`` address for a page that carries its own pictures."""
    kind = "png" if encoded.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode('ascii')}"


def side_by_side(pictures: Sequence[Picture], labels: Sequence[str] = (), gap: int = 4) -> Picture:
    """Pictures of one height next to each other, ``gap`` px of white between them, each with its label above.

    All labels are as large, so large that the longest fits.

    >>> side_by_side([np.zeros((10, 20, 3), np.uint8)] * 2).shape
    (10, 44, 3)
    """
    if len({picture.shape[0] for picture in pictures}) != 1:
        raise ValueError(f"pictures of one height are needed, not {[picture.shape[:2] for picture in pictures]}")
    columns: list[NDArray[Any]] = []
    size = min((_text_size(picture, text) for picture, text in zip(pictures, labels, strict=False)), default=0.0)
    for number, picture in enumerate(pictures):
        if columns:
            columns.append(np.full((columns[0].shape[0], gap, 3), 255, np.uint8))
        text = labels[number] if number < len(labels) else ""
        columns.append(_titled(picture, text, size) if labels else picture)
    return np.concatenate(columns, axis=1).astype(np.uint8)


def _text_size(picture: Picture, text: str) -> float:
    """The size at which a line of text fits above a picture."""
    (wide, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.6, 1)
    return 0.6 * min(1.0, (int(picture.shape[1]) - 8) / max(int(wide), 1))


def _titled(picture: Picture, text: str, size: float) -> Picture:
    """The picture under a white line of text."""
    font, line = cv2.FONT_HERSHEY_SIMPLEX, 26
    strip = np.full((line, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, text, (4, 18), font, size, (20, 20, 20), 1, cv2.LINE_AA)
    return np.concatenate([strip, picture], axis=0)


def heat_map(values: NDArray[Any], low: float, high: float) -> Picture:
    """Values (rows, cols) as colours (rows, cols, 3): ``low`` and less is palest, ``high`` and more is darkest.

    Self-shift scores are drawn so: low is sharp, and sharp is bright. Not-a-number is grey.

    >>> heat_map(np.array([[20.0, 40.0]]), 20, 40)[0].tolist()
    [[250, 236, 140], [24, 22, 62]]
    """
    values = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(values)
    position = 1 - (np.where(finite, values, low) - low) / max(high - low, 1e-9)
    position = position.clip(0, 1) * (len(_HEAT) - 1)
    steps = np.arange(len(_HEAT))
    colours = np.stack([np.interp(position, steps, _HEAT[:, channel]) for channel in range(3)], axis=-1)
    return np.where(finite[..., None], colours.round(), 128).astype(np.uint8)


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers within [low, high], about ``count`` of them.

    >>> nice_ticks(21.3, 38.9)
    [25.0, 30.0, 35.0]
    """
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low] if math.isfinite(low) else []
    raw = (high - low) / max(count, 1)
    scale = 10.0 ** math.floor(math.log10(raw))
    step = scale * min((factor for factor in (1, 2, 5, 10) if factor * scale >= raw * 0.999), default=10)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]
