"""Evaluation records as tables that a person reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

ROW_ORDER = ("blurred", "base", "adapted", "adapted_unguarded", "oracle")


def table(records: Sequence[dict[str, Any]], summary: dict[str, Any], figure: str = "psnr") -> list[list[str]]:
    """Head line, one line a clip, and the mean (and the means apart) of one figure, as text cells."""
    rows = [row for row in ROW_ORDER if row in records[0][figure]]
    digits = 2 if figure == "psnr" else 4
    lines = [["clip", *(row.replace("_", " ") for row in rows), "share", "gain"]]

    def line(name: str, values: dict[str, float], share: str) -> list[str]:
        both = {"base", "adapted"} <= values.keys()
        gain = f"{values['adapted'] - values['base']:+.{digits}f}" if both else ""
        return [name, *(f"{values[row]:.{digits}f}" for row in rows), share, gain]

    lines += [line(record["clip"], record[figure], f"{record['share']:.2f}") for record in records]
    lines.append(line("mean", summary[figure], ""))
    if summary.get("apart"):
        lines.append(line(f"mean of {', '.join(summary['apart']['clips'])}", summary["apart"][figure], ""))
        if summary["others"]:
            lines.append(line("mean of the others", summary["others"][figure], ""))
    return lines


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; numbers to the right.

    >>> print(markdown([["clip", "base"], ["goat", "25.10"]]))
    | clip | base |
    | --- | ---: |
    | goat | 25.10 |
    """
    head, *body = lines
    marks = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, marks, *body))
