"""The curves of a training as one PNG.

    python recipes/curves.py RUN FILE.png --figures log:loss validation:gain log:critic_gap [--mean 10]

RUN is the folder of `metadeblur train`; each figure is a column of RUN/log.csv or RUN/validation.csv, a panel each.
Thick lines of the log are running means. Needs matplotlib (the extra `figures`).
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("png", type=Path)
    parser.add_argument("--figures", nargs="+", required=True)
    parser.add_argument("--mean", type=int, default=10, help="lines of the log that the running mean is over")
    given = parser.parse_args()
    figure = Figure(figsize=(3.4 * len(given.figures), 2.8), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(given.figures))), given.figures, strict=True):
        table, column = name.split(":")
        steps, values = _column(given.run / f"{table}.csv", column)
        if table == "log":
            axes.plot(steps, values, color="#9ecae1", linewidth=0.8)
            width = min(given.mean, len(values))
            means = np.convolve(values, np.ones(width) / width, mode="valid")
            axes.plot(steps[width - 1 :], means, color="#0072B2")
        else:
            axes.plot(steps, values, color="#D55E00", marker="o", markersize=4)
        axes.set_title(f"{column.replace('_', ' ')} ({table})", fontsize="medium", loc="left")
        axes.set_xlabel("step")
        axes.grid(axis="y", alpha=0.3)
    given.png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(given.png, format="png", metadata={"Software": ""})


def _column(path: Path, name: str) -> tuple[list[float], list[float]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [float(row["step"]) for row in rows], [float(row[name]) for row in rows]


if __name__ == "__main__":
    main()
