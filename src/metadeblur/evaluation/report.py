"""The report of an evaluation: tables as files, and one page with tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metadeblur.data.pairs import read_picture
from metadeblur.evaluation.paper_table import write_paper_table
from metadeblur.evaluation.protocol import record_path
from metadeblur.evaluation.records import FIGURES, ClipRecord, Means, Summary
from metadeblur.evaluation.tables import ROW_ORDER, Lines, csv_text, effect_lines, latex, markdown, method_table, table
from metadeblur.imaging.pictures import data_uri, encode_jpeg
from metadeblur.report.html import flat, whole_page
from metadeblur.system.json_files import write_whole
from metadeblur.system.names import counted, in_words, utf8


def write_tables(records: Sequence[ClipRecord], summary: Summary, out: Path) -> str:
    """Write every table as Markdown, LaTeX and CSV, the page ``index.html``, and a table for a paper with its citation.

    Returns:
        What a terminal is to show.
    """
    tables = _tables(records, summary)
    for name, lines in tables.items():
        write_table(lines, out / name)
    write_whole(out / "index.html", utf8(render(records, summary, out)))
    write_paper_table(summary, out)
    parts = [
        *(markdown(tables[name]) for name in ("psnr", "methods") if name in tables),
        "\n".join(effect_lines(summary)),
    ]
    return "\n\n".join(part for part in parts if part)


def _tables(records: Sequence[ClipRecord], summary: Summary) -> dict[str, Lines]:
    """The lines of every table that is not empty, by file name."""
    psnr, *others = ((figure, table(records, summary, figure)) for figure in FIGURES if summary.column(figure))
    return {name: lines for name, lines in (psnr, ("methods", method_table(summary)), *others) if lines}


def write_table(lines: Lines, stem: Path) -> None:
    """Write a table as ``stem.md``, ``stem.tex`` and ``stem.csv``."""
    for ending, form in ((".md", markdown), (".tex", latex), (".csv", csv_text)):
        write_whole(stem.with_name(stem.name + ending), utf8(form(lines).rstrip("\n") + "\n"))


def render(records: Sequence[ClipRecord], summary: Summary, out: Path) -> str:
    """The page as text; pictures are taken from ``out/pictures``."""
    model = str(summary.conditions.get("model") or "the network")
    return whole_page(
        "evaluation.html",
        verdict=_verdict(summary, model),
        lead=_lead(summary, model),
        figures=_key_figures(summary),
        tables=_tables(records, summary),
        clips=[clip for clip in (_pictures(record, out) for record in records) if clip["pictures"]],
        facts=_conditions(summary),
    )


def _pictures(record: ClipRecord, out: Path) -> dict[str, Any]:
    """The pieces of a clip, rows side by side with the truth."""
    folder = out / "pictures" / record_path(out, record.clip).stem
    first = record.conditions["methods"][0]
    pictures = []
    for row in (*ROW_ORDER, "sharp"):
        names = (f"{row}.png", f"{first}_{row}.png")
        source = next((folder / name for name in names if (folder / name).is_file()), None)
        if source is not None:
            value = record.psnr.get(row)
            label = row.replace("_", " ") + (f" {value:.2f} dB" if value is not None else "")
            pictures.append((row, label, data_uri(encode_jpeg(read_picture(source)))))
    focus = f", frame {record.focus.frame}" if record.focus else ""
    return {"name": record.clip, "focus": focus, "pictures": pictures}


def _verdict(summary: Means, model: str) -> str:
    """One sentence on what came out."""
    if summary.effect is not None:
        verb = "gains" if summary.effect.gain >= 0 else "loses"
        return f"{model}: adaptation {verb} {abs(summary.effect.gain):.2f} dB over the base model"
    best = "base" if "base" in summary.psnr else "blurred"
    return f"{model}: {summary.psnr[best]:.2f} dB ({best})"


def _lead(summary: Summary, model: str) -> str:
    """How much was measured, and what a reader must know of it."""
    count, frames = len(summary.clips), summary.frames
    means = summary.psnr
    behind = ""
    if "base" in means and means["base"] < means["blurred"]:
        behind = f" Its base is below the blurred input by {means['blurred'] - means['base']:.2f} dB."
    notes = "".join(f" {note[:1].upper()}{note[1:]}." for note in summary.notes)
    clips = f"{counted(count, 'clip')} of the layout {summary.layout}, {counted(frames, 'frame')}"
    return f"{clips}, model {model}.{behind}{notes}"


def _key_figures(summary: Summary) -> list[tuple[str, str]]:
    means = summary.psnr
    figures = [(row.replace("_", " ").capitalize(), f"{means[row]:.2f} dB") for row in ROW_ORDER if row in means]
    for line in effect_lines(summary):
        name, _, value = line.partition(": ")
        figures.append((name.capitalize(), value.partition(" (")[0]))
    figures.append(("Time", in_words(sum(summary.seconds.values()))))
    if summary.peak_memory_mb:
        figures.append(("Peak memory", f"{summary.peak_memory_mb / 1024:.1f} GB"))
    return figures


def _conditions(summary: Summary) -> list[tuple[str, list[tuple[str, str]]]]:
    """Settings, versions and machine."""
    seconds = {stage: round(value, 1) for stage, value in summary.seconds.items()}
    facts = {"conditions": summary.conditions, "seconds": seconds}
    facts |= {"versions": summary.versions, "machine": summary.machine}
    return [(name.capitalize(), flat(values)) for name, values in facts.items()]
