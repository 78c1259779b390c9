"""The means of an evaluation as a table that goes into a paper as it is, with what to cite."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from metadeblur.evaluation.records import Columns, Figure, Summary
from metadeblur.evaluation.tables import DIGITS, ROW_ORDER, escaped, tabular
from metadeblur.models.published import PUBLISHED
from metadeblur.models.weights import VARIANTS
from metadeblur.system.citation import PAPER, PROGRAM, bibtex
from metadeblur.system.json_files import write_whole
from metadeblur.system.names import counted, utf8

TABLE, CITATION = "paper.tex", "citation.bib"
_HEADS: dict[Figure, str] = {
    "psnr": r"PSNR (dB) $\uparrow$",
    "ssim": r"SSIM $\uparrow$",
    "flicker": r"Flicker $\downarrow$",
    "lpips": r"LPIPS $\downarrow$",
    "dists": r"DISTS $\downarrow$",
    "niqe": r"NIQE $\downarrow$",
}
_BENCHMARKS = {"gopro": "GoPro", "dvd": "DVD", "reds": "REDS", "realblur": "RealBlur", "bsd": "BSD", "hide": "HIDE"}
_NO_RESULTS = ("blurred", "oracle")  # rows that are never set bold: the input, and what the truth itself would teach

Row = tuple[str, dict[Figure, float]]


def write_paper_table(summary: Summary, out: Path) -> None:
    """Write ``paper.tex``, which needs LaTeX's package booktabs, and ``citation.bib`` with what it cites."""
    write_whole(out / TABLE, utf8(paper_table(summary)))
    write_whole(out / CITATION, utf8(bibtex()))


def paper_table(summary: Summary) -> str:
    """The means over clips, a row each and a column for each figure; the best result of a column is bold.

    Which program, commit and weights made it, and which paper of the network is to be cited, stands in comments.
    """
    figures = [figure for figure in _HEADS if summary.column(figure)]
    rows = _rows(summary, figures)
    cells = [["", *(_HEADS[figure] for figure in figures)]]
    cells += [[escaped(label), *(_cell(label, values, figure, rows) for figure in figures)] for label, values in rows]
    label = re.sub(r"[^a-z0-9]+", "-", f"{summary.layout} {summary.conditions.get('model', '')}".lower()).strip("-")
    parts = [
        *(f"% {line}" for line in _head(summary)),
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_caption(summary)}}}",
        rf"  \label{{tab:{label}}}",
        *(f"  {line}" for line in tabular(cells).splitlines()),
        r"\end{table}",
    ]
    return "\n".join(parts) + "\n"


def _rows(summary: Summary, figures: Sequence[Figure]) -> list[Row]:
    """The rows that were measured; where several methods were compared, those of each."""
    rows: list[Row] = []
    for row in ROW_ORDER:
        shown: dict[str, Columns] = {"": summary}
        if row.startswith("adapted") and summary.methods:
            shown = dict(summary.methods)
        for method, means in shown.items():
            values = {figure: means.column(figure)[row] for figure in figures if row in means.column(figure)}
            if values:
                rows.append((row.replace("_", " ") + (f" ({method})" if method else ""), values))
    return rows


def _cell(label: str, values: dict[Figure, float], figure: Figure, rows: Sequence[Row]) -> str:
    if figure not in values:
        return "--"
    form = f".{DIGITS[figure]}f"
    text = format(values[figure], form)
    results = [format(known[figure], form) for name, known in rows if name not in _NO_RESULTS and figure in known]
    best = sorted(results, key=float)[-1 if figure in ("psnr", "ssim") else 0] if results else ""
    return rf"\textbf{{{text}}}" if label not in _NO_RESULTS and text == best else text


def _caption(summary: Summary) -> str:
    conditions, psnr = summary.conditions, summary.psnr
    model, measure = (escaped(str(conditions.get(name) or "")) for name in ("model", "measure"))
    clips = f"{counted(len(summary.clips), 'clip')} ({counted(summary.frames, 'frame')})"
    benchmark = f" of {_BENCHMARKS[summary.layout]}" if summary.layout in _BENCHMARKS else ""
    adapted = ", adapted to each clip without its sharp frames" if "adapted" in psnr else ""
    cited = rf"metadeblur~\cite{{{PROGRAM},{PAPER}}}"
    return (
        f"Motion deblurring of {clips}{benchmark} by {model or 'the network'}{adapted}; measured with {cited}. "
        f"Means over clips. {measure.partition(': ')[0]}."
    )


def _head(summary: Summary) -> list[str]:
    """What made the table, and what else is to be cited."""
    versions, conditions = summary.versions, summary.conditions
    commit = f", commit {versions['commit']}" if "commit" in versions else ""
    model = str(conditions.get("model", ""))
    lines = [
        f"Made by metadeblur {versions.get('metadeblur', '')}{commit}, weights {conditions.get('weights', '')}.",
        r"Needs \usepackage{booktabs}; what to cite is in citation.bib, all figures are in summary.json.",
    ]
    published = PUBLISHED.get(VARIANTS.get(model, model))
    return [*lines, f"Cite the network too: {published.paper}."] if published else lines
