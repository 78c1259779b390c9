"""Tables of evaluation records, as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from statistics import fmean, stdev

from metadeblur.evaluation.records import ClipRecord, Effect, Figure, Means, Summary

ROW_ORDER = ("blurred", "base", "base_fused", "quick", "adapted", "adapted_unguarded", "oracle")
DIGITS: dict[Figure, int] = {
    "psnr": 2, "ssim": 4, "flicker": 2, "self_shift": 2, "lpips": 4, "dists": 4, "niqe": 2
}  # fmt: skip
_LATEX = str.maketrans(
    {mark: f"\\{mark}" for mark in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "±": r"$\pm$"}
)

Lines = Sequence[Sequence[str]]


def table(records: Sequence[ClipRecord], summary: Summary, figure: Figure = "psnr") -> list[list[str]]:
    """Head line, one line a clip, and the mean (and the means apart) of one figure, as text cells."""
    rows = [row for row in ROW_ORDER if all(row in record.column(figure) for record in records)]
    digits = DIGITS[figure]
    lines = [["clip", *(row.replace("_", " ") for row in rows), "share", "gain"]]

    def line(name: str, values: dict[str, float], share: str) -> list[str]:
        both = {"base", "adapted"} <= values.keys()
        gain = f"{values['adapted'] - values['base']:+.{digits}f}" if both else ""
        return [name, *(f"{values[row]:.{digits}f}" for row in rows), share, gain]

    lines += [line(record.clip, record.column(figure), f"{record.share:.2f}") for record in records]
    lines.append(line("mean", summary.column(figure), ""))
    if summary.apart:
        lines.append(line(f"mean of {', '.join(summary.apart.clips)}", summary.apart.column(figure), ""))
    if summary.others:
        lines.append(line("mean of the others", summary.others.column(figure), ""))
    return lines


def seeds_table(runs: Sequence[tuple[Sequence[ClipRecord], Summary]]) -> list[list[str]]:
    """The table of PSNR in dB of several runs over the same clips: means, with standard deviations over the runs.

    What is the same in all runs (blurred, base) stands alone. ``share`` lists that of each run. A row that only some
    runs have says of how many it is.

    Args:
        runs: records and summary of each, of different seeds.
    """
    first, _ = runs[0]
    having = {row: sum(all(row in record.psnr for record in records) for records, _ in runs) for row in ROW_ORDER}
    rows = [row for row in ROW_ORDER if having[row]]
    some = {row: f" ({having[row]} of {len(runs)})" if having[row] < len(runs) else "" for row in rows}
    lines = [["clip", *(row.replace("_", " ") + some[row] for row in rows), "share", "gain"]]

    def cell(values: Sequence[float]) -> str:
        return spread(values if len(set(values)) > 1 else values[:1])

    def line(name: str, tables: Sequence[dict[str, float]], share: str = "") -> list[str]:
        gains = [table["adapted"] - table["base"] for table in tables if {"base", "adapted"} <= table.keys()]
        cells = (cell([table[row] for table in tables if row in table]) for row in rows)
        return [name, *cells, share, spread(gains, "+.2f")]

    for number, record in enumerate(first):
        same = [records[number] for records, _ in runs]
        share = ", ".join(f"{one.share:g}" for one in same)
        lines.append(line(record.clip, [one.psnr for one in same], share))
    lines.append(line("mean", [summary.psnr for _, summary in runs]))
    others = [summary.others.psnr for _, summary in runs if summary.others]
    if len(others) == len(runs):
        lines.append(line("mean of the others", others))
    return lines


def method_table(summary: Summary) -> list[list[str]]:
    """One line a method: PSNR with and without the guard, gain with its interval, oracle ratio, harm rate, seconds.

    Empty where fewer than two methods were compared.
    """
    if len(summary.methods or {}) < 2:
        return []
    groups: list[tuple[str, Means]] = [("all", summary)]
    if summary.others:
        groups.insert(0, ("others", summary.others))
    if summary.apart:
        groups.insert(0, (", ".join(summary.apart.clips), summary.apart))
    head = ["method", "adapted", "gain", "95 %", "oracle ratio", "harm", "unguarded", "its gain", "its harm"]
    head += ["share", "s"]
    lines = [["clips", *head]] if summary.apart else [head]
    for group, means in groups:
        for name, method in (means.methods or {}).items():
            gain, span, ratio, harm = _effect_cells(method.effect)
            whole_gain, _, _, whole_harm = _effect_cells(method.unguarded)
            adapted, unguarded = (_number(method.psnr.get(row), ".2f") for row in ("adapted", "adapted_unguarded"))
            cells = [name, adapted, gain, span, ratio, harm, unguarded, whole_gain, whole_harm]
            cells += [f"{method.share:.2f}", f"{method.seconds:.0f}"]
            lines.append([group, *cells] if summary.apart else cells)
    return lines


def effect_lines(summary: Means) -> list[str]:
    """Gain, oracle ratio and harm rate, each in one line; empty where they were not measured."""
    effect = summary.effect
    if effect is None:
        return []
    span = _span(effect.interval)
    lines = [] if effect.oracle_ratio is None else [f"oracle ratio: {effect.oracle_ratio:.2f}"]
    lines.append(f"gain: {effect.gain:+.2f} dB{f' (95 % over clips: {span})' if span else ''}")
    if "base_fused" in summary.psnr:
        alone = summary.psnr["base_fused"] - summary.psnr["base"]
        lines.append(f"of it by fusing and correcting frames alone, without adapted weights: {alone:+.2f} dB")
    lines.append(f"harm rate: {_share(effect.harm_rate)} (adapted more than 0.05 dB below base)")
    return lines


def markdown(lines: Lines) -> str:
    """A Markdown table; numbers to the right.

    >>> print(markdown([["clip", "base"], ["goat", "25.10"]]))
    | clip | base |
    | --- | ---: |
    | goat | 25.10 |
    """
    head, *body = lines
    marks = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, marks, *body))


def latex(lines: Lines) -> str:
    r"""A LaTeX tabular (package booktabs); numbers to the right.

    >>> print(latex([["clip", "share %"], ["a_b", "25"]]))
    \begin{tabular}{lr}
    \toprule
    clip & share \% \\
    \midrule
    a\_b & 25 \\
    \bottomrule
    \end{tabular}
    """
    return tabular([[escaped(cell) for cell in cells] for cells in lines])


def tabular(lines: Lines) -> str:
    """A LaTeX tabular of cells that are LaTeX already."""
    head, *body = [" & ".join(cells) + r" \\" for cells in lines]
    columns = "l" + "r" * (len(lines[0]) - 1)
    parts = [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        head,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(parts)


def escaped(text: str) -> str:
    r"""Text as LaTeX prints it.

    >>> print(escaped("50 % of a_b"))
    50 \% of a\_b
    """
    return text.translate(_LATEX)


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Mean, and standard deviation where there are several values, to as many digits; nothing of none.

    >>> spread([1.0, 1.2], "+.2f"), spread([1.0])
    ('+1.10 ± 0.14', '1.00')
    """
    if not values:
        return ""
    unsigned = form.removeprefix("+")
    return format(fmean(values), form) + (f" \u00b1 {stdev(values):{unsigned}}" if len(values) > 1 else "")


def csv_text(lines: Lines) -> str:
    """The table as comma-separated values.

    >>> csv_text([["clip", "base"], ["a, b", "25.10"]]).splitlines()
    ['clip,base', '"a, b",25.10']
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _effect_cells(effect: Effect | None) -> tuple[str, str, str, str]:
    """Gain, its interval, oracle ratio and harm rate."""
    if effect is None:
        return "", "", "", ""
    return f"{effect.gain:+.2f}", _span(effect.interval), _number(effect.oracle_ratio, ".2f"), _share(effect.harm_rate)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def _span(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{interval[0]:+.2f} to {interval[1]:+.2f}"
