"""Line plots as HTML with inline SVG: crisp at any size, in the page's colours in light and dark, with no library.

``templates/plot.html`` draws them, and ``assets/report.css`` styles its class names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from markupsafe import Markup

from metadeblur.imaging.pictures import nice_ticks
from metadeblur.report.html import as_number, fill

_MAX_POINTS = 600  # points of one drawn line; longer series show the mean and the range of each bucket


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
) -> Markup:
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
    series = [as_number(value) for value in values]
    finite = [value for value in [*series, *(as_number(v) for v in trend)] if math.isfinite(value)]
    if not finite:
        return fill("plot.html", line=None)
    low, high = min(finite), max(finite)
    flat = max(least_span - (high - low), 0.0) / 2
    room = flat or (high - low) * 0.08 or max(abs(high) * 0.05, 0.5)
    low, high = low - room, high + room
    last = max(len(series) - 1, 1)

    def across(x: float) -> float:
        return round(1000 * (x - start) / last, 2)

    def down(y: float) -> float:
        share = (y - low) / (high - low)
        return round(100 * (share if low_is_up else 1 - share), 2)

    def curve(values: Sequence[float]) -> str:
        return _path(values, start, across, down)

    x_ticks = [tick for tick in nice_ticks(start, start + len(series) - 1, 6) if float(tick).is_integer()]
    return fill(
        "plot.html",
        summary=summary,
        x_title=x_title,
        y_title=y_title,
        start=start,
        readout=",".join(f"{v:.5g}" if math.isfinite(v) else "" for v in series) if len(series) <= 4000 else "",
        x_ticks=[(f"{tick:g}", across(tick) / 10) for tick in x_ticks],
        y_ticks=[(f"{tick:g}", down(tick)) for tick in nice_ticks(low, high)],
        line=curve(series),
        trend=curve([as_number(value) for value in trend]) if trend else None,
        range=_envelope(series, start, across, down) if len(series) > _MAX_POINTS else "",
        marks=[(mark, across(mark.x), down(mark.y)) for mark in marks if math.isfinite(mark.x + mark.y)],
    )


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
