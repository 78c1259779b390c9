"""Curves as PNG, drawn with matplotlib, which is in the extra ``figures``."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from metadeblur.errors import MetadeblurError
from metadeblur.system.extras import how_to_install

# Told apart with colour blindness and in grey: Okabe and Ito's colours, and a mark each.
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7")
_MARKS = ("", "o", "s", "^", "D")


@dataclass(frozen=True)
class Curve:
    """One line of a figure."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    flat: bool = False  # a level to compare with: dashed, without marks


def curves_figure(curves: Sequence[Curve], *, title: str, x_title: str, y_title: str) -> bytes:
    """PNG bytes of curves over a logarithmic x axis.

    Raises:
        MetadeblurError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MetadeblurError(f"figures need matplotlib: {how_to_install('figures')}") from error
    figure = Figure(figsize=(5.2, 3.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, curve in enumerate(curves):
        colour, mark = _COLOURS[number % len(_COLOURS)], _MARKS[number % len(_MARKS)]
        style = "--" if curve.flat else "-"
        axes.plot(curve.x, curve.y, style, color=colour, marker="" if curve.flat else mark, label=curve.label)
    axes.set_xscale("log", base=2)
    ticks = sorted({x for curve in curves for x in curve.x})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel(x_title)
    axes.set_ylabel(y_title)
    axes.set_title(title, fontsize="medium", loc="left")
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=len(curves), frameon=False, fontsize="small")  # hides no curve
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": ""})
    return data.getvalue()
