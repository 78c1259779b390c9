"""Small pictures for reports and figures: frames to PNG or JPEG bytes, side by side, heat maps, line plots.

Photographs become JPEG or PNG through OpenCV; plots are HTML with inline SVG, so that they stay crisp, follow the
page's colours in light and dark, and need no plotting library. Their class names are styled by ``assets/report.css``.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
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
_MAX_POINTS = 600  # points of one drawn line; longer series show the mean and the range of each bucket


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

    Raises:
        ValueError: no pictures, or heights that differ.

    >>> side_by_side([np.zeros((10, 20, 3), np.uint8)] * 2).shape
    (10, 44, 3)
    """
    if len({picture.shape[0] for picture in pictures}) != 1:
        raise ValueError(f"pictures of one height are needed, not {[picture.shape[:2] for picture in pictures]}")
    columns: list[NDArray[Any]] = []
    for number, picture in enumerate(pictures):
        if columns:
            columns.append(np.full((columns[0].shape[0], gap, 3), 255, np.uint8))
        text = labels[number] if number < len(labels) else ""
        columns.append(_titled(picture, text) if labels else picture)
    return np.concatenate(columns, axis=1).astype(np.uint8)


def _titled(picture: Picture, text: str) -> Picture:
    """The picture under a white line of text, small enough for the picture's width."""
    font, size, line = cv2.FONT_HERSHEY_SIMPLEX, 0.6, 26
    (wide, _), _ = cv2.getTextSize(text, font, size, 1)
    size *= min(1.0, (picture.shape[1] - 8) / max(wide, 1))
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
    known = np.isfinite(values)
    position = 1 - (np.where(known, values, low) - low) / max(high - low, 1e-9)
    position = position.clip(0, 1) * (len(_HEAT) - 1)
    steps = np.arange(len(_HEAT))
    colours = np.stack([np.interp(position, steps, _HEAT[:, channel]) for channel in range(3)], axis=-1)
    return np.where(known[..., None], colours.round(), 128).astype(np.uint8)


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


@dataclass(frozen=True)
class Mark:
    """A point of a line plot that is picked out: a full dot, or a ring where ``ring`` is set."""

    x: float
    y: float
    title: str
    ring: bool = False


def line_plot(
    values: Sequence[float | None],
    *,
    summary: str,
    x_title: str,
    y_title: str,
    start: int = 0,
    marks: Sequence[Mark] = (),
    trend: Sequence[float | None] = (),
    low_is_up: bool = False,
    least_span: float = 0.0,
) -> str:
    """A line plot as HTML with inline SVG that takes the width it is given; gaps where a value is not a number.

    Args:
        values: one a step; the first belongs to ``start`` on the x axis.
        summary: what the plot shows, in words, for readers who do not see it.
        x_title: what is counted along x.
        y_title: what is measured along y, with its unit.
        start: number of the first value.
        marks: points picked out, in the units of the axes.
        trend: a second, stronger line of the same length, such as a running mean.
        low_is_up: small values at the top.
        least_span: the y axis covers at least this much, so that noise does not look like change.
    """
    series = [_number(value) for value in values]
    known = [value for value in [*series, *(_number(v) for v in trend)] if math.isfinite(value)]
    if not known:
        return '<p class="quiet">No figures to draw.</p>'
    low, high = min(known), max(known)
    flat = max(least_span - (high - low), 0.0) / 2
    room = flat or (high - low) * 0.08 or max(abs(high) * 0.05, 0.5)
    low, high = low - room, high + room
    last = max(len(series) - 1, 1)

    def across(x: float) -> float:
        return round(1000 * (x - start) / last, 2)

    def down(y: float) -> float:
        share = (y - low) / (high - low)
        return round(100 * (share if low_is_up else 1 - share), 2)

    y_ticks = [(tick, down(tick)) for tick in nice_ticks(low, high)]
    x_ticks = [tick for tick in nice_ticks(start, start + len(series) - 1, 6) if float(tick).is_integer()]
    shapes = [f'<path class="grid" d="M0 {y}H1000"/>' for _, y in y_ticks]
    if len(series) > _MAX_POINTS:
        shapes.append(f'<path class="range" d="{_envelope(series, start, across, down)}"/>')
    quiet = " faint" if trend else ""
    shapes.append(f'<path class="line{quiet}" d="{_path(series, start, across, down)}"/>')
    if trend:
        shapes.append(f'<path class="line" d="{_path([_number(v) for v in trend], start, across, down)}"/>')
    for mark in marks:
        if math.isfinite(mark.x) and math.isfinite(mark.y):
            spot = f'd="M{across(mark.x)} {down(mark.y)}h0"'
            hole = f'<path class="hole" {spot}/>' if mark.ring else ""
            shapes.append(f'<g><title>{escape(mark.title)}</title><path class="mark" {spot}/>{hole}</g>')
    y_labels = "".join(f'<span style="top:{y}%">{tick:g}</span>' for tick, y in y_ticks)
    x_labels = "".join(f'<span style="left:{across(tick) / 10}%">{tick:g}</span>' for tick in x_ticks)
    readout = ",".join(f"{v:.5g}" if math.isfinite(v) else "" for v in series) if len(series) <= 4000 else ""
    return (
        f'<div class="plot" role="img" aria-label="{escape(summary)}">'
        f'<p class="plot-y">{escape(y_title)}</p><div class="plot-area" data-start="{start}" data-values="{readout}" '
        f'data-name="{escape(x_title)}">'
        f'<div class="ticks-y">{y_labels}</div>'
        f'<svg viewBox="0 0 1000 100" preserveAspectRatio="none" aria-hidden="true">{"".join(shapes)}</svg>'
        f'<div class="ticks-x">{x_labels}</div></div><p class="plot-x">{escape(x_title)}</p></div>'
    )


def _number(value: object) -> float:
    """The value as a float, not-a-number where it is none."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan


def _buckets(series: Sequence[float], start: int) -> list[tuple[float, list[float]]]:
    """Neighbouring values joined so that at most _MAX_POINTS points are left: (x, the values), gaps kept as empty."""
    size = max(1, math.ceil(len(series) / _MAX_POINTS))
    parts = [(begin, series[begin : begin + size]) for begin in range(0, len(series), size)]
    return [(start + begin + (len(part) - 1) / 2, [v for v in part if math.isfinite(v)]) for begin, part in parts]


def _path(series: Sequence[float], start: int, across: Any, down: Any) -> str:
    """The "d" of an SVG path through the values, broken where one is not a number."""
    pieces = []
    for empty, run in groupby(_buckets(series, start), key=lambda bucket: not bucket[1]):
        if not empty:
            points = [f"{across(x)} {down(sum(part) / len(part))}" for x, part in run]
            pieces.append("M" + "L".join(points) + ("h0" if len(points) == 1 else ""))
    return "".join(pieces)


def _envelope(series: Sequence[float], start: int, across: Any, down: Any) -> str:
    """The "d" of the area between the smallest and the largest value of each bucket."""
    filled = [(x, part) for x, part in _buckets(series, start) if part]
    upper = [f"{across(x)} {down(max(part))}" for x, part in filled]
    lower = [f"{across(x)} {down(min(part))}" for x, part in reversed(filled)]
    return "M" + "L".join(upper + lower) + "Z"
