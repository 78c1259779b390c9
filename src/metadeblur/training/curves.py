"""The curves of a training as a page: every figure of its logs over the steps."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from metadeblur.report.html import as_number, title_of, whole_page
from metadeblur.report.plot import line_plot
from metadeblur.system.files import whole
from metadeblur.system.names import utf8

_MEAN_OVER = 20  # lines of the log that the drawn running mean looks back at


def write_curves(run: Path) -> Path:
    """Write ``curves.html`` into a run's folder from its ``log.csv`` and ``validation.csv``, and return its path."""
    parts = []
    for name, title in (("validation", "On held-out data"), ("log", "While training")):
        columns = _columns(run / f"{name}.csv")
        steps = columns.pop("step", [])
        plots = [_plot(figure, values, steps) for figure, values in columns.items()]
        if plots:
            parts.append((title, f"{name}.csv", plots))
    target = run / "curves.html"
    with whole(target) as partial:
        partial.write_bytes(utf8(whole_page("curves.html", scripts=(), name=run.name, parts=parts)))
    return target


def _plot(figure: str, values: Sequence[float], steps: Sequence[float]) -> str:
    """One figure over the steps; long ones with their running mean."""
    stride = steps[0] if steps else 1
    reach = range(len(values)) if len(values) > _MEAN_OVER else ()
    trend = [fmean(values[max(0, place - _MEAN_OVER + 1) : place + 1]) for place in reach]
    summary = f"{title_of(figure)}: from {values[0]:.4g} to {values[-1]:.4g}"
    x_title = f"line of the log, one each {stride:g} steps"
    return line_plot(values, summary=summary, x_title=x_title, y_title=title_of(figure), start=1, trend=trend)


def _columns(path: Path) -> dict[str, list[float]]:
    """The columns of a CSV file; empty where there is none."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        return {name: [as_number(row[name]) for row in rows] for name in reader.fieldnames or [] if rows}
