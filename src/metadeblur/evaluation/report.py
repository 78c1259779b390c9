"""What a person looks at after an evaluation: tables as files, and one page with tables and pictures."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from metadeblur.data.pairs import read_picture
from metadeblur.evaluation.protocol import record_path
from metadeblur.evaluation.tables import ROW_ORDER, Lines, csv_text, latex, markdown, method_table, table, worth
from metadeblur.imaging.pictures import data_uri, encode_jpeg
from metadeblur.report.html import duration, fact_list, flat, section, text
from metadeblur.system.names import counted, utf8
from metadeblur.system.record import write_whole
from metadeblur.version import __version__

_FIGURES = {
    "psnr": ("PSNR in dB", "Higher is closer to the truth."),
    "ssim": ("SSIM", "Higher is closer to the truth; 1 is equal to it."),
    "flicker": (
        "Flicker in 8-bit levels",
        "How much less steady over time than the blurred frames; lower is steadier.",
    ),
    "self_shift": (
        "Self-shift score in dB",
        "Lower is sharper. It needs no truth, and says nothing of right or wrong.",
    ),
}


def write_tables(records: Sequence[dict[str, Any]], summary: dict[str, Any], out: Path) -> str:
    """Write every table as Markdown, LaTeX and CSV and the page ``index.html``; return what a terminal is to show."""
    tables = {figure: table(records, summary, figure) for figure in _FIGURES if summary.get(figure)}
    compared = method_table(summary)
    for name, lines in (tables | ({"methods": compared} if compared else {})).items():
        write_table(lines, out / name)
    write_whole(out / "index.html", utf8(render(records, summary, out)))
    parts = [markdown(tables["psnr"]), *([markdown(compared)] if compared else []), "\n".join(worth(summary))]
    return "\n\n".join(part for part in parts if part)


def write_table(lines: Lines, stem: Path) -> None:
    """Write a table as ``stem.md``, ``stem.tex`` and ``stem.csv``."""
    for ending, form in ((".md", markdown), (".tex", latex), (".csv", csv_text)):
        write_whole(stem.with_name(stem.name + ending), utf8(form(lines).rstrip("\n") + "\n"))


def render(records: Sequence[dict[str, Any]], summary: dict[str, Any], out: Path) -> str:
    """The page as text; pictures are taken from ``out/pictures``."""
    parts = [
        section(title, said, html_table(table(records, summary, figure)), wide=True)
        for figure, (title, said) in _FIGURES.items()
        if summary.get(figure)
    ]
    compared = method_table(summary)
    if compared:
        said = "The same places, number of pairs, steps, learning rate and seed for each; s: seconds a clip to adapt."
        parts.insert(1, section("Ways to adapt", said, html_table(compared), wide=True))
    shown = _pictures(records, out)
    if shown:
        said = "Where the blurred input is furthest from the truth: its worst frame, the piece with the largest error."
        parts.insert(1, section("Side by side", said, shown, wide=True))
    parts.append(_conditions(summary))
    conditions = summary["conditions"]
    model = str(conditions.get("model") or "the network")
    return page(_verdict(summary, model), _lead(summary, model), _key_figures(summary), "".join(parts))


def page(verdict: str, lead: str, figures: Sequence[tuple[str, str]], content: str) -> str:
    """A whole page in the form of the restoration report; ``content`` is HTML, the rest plain text."""
    script, style = _asset("report.js"), _asset("report.css")
    shown = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in figures)
    made = Template(_asset("report.html")).substitute(
        title=text(verdict),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=text(__version__),
        style=style,
        script=script,
        verdict=text(verdict),
        lead=f'<p class="lead">{text(lead)}</p>' if lead else "",
        figures=f'<dl class="figures">{shown}</dl>' if shown else "",
        content=content,
    )
    return made.replace("Restoration report", "Evaluation report")


def html_table(lines: Lines) -> str:
    """A table as HTML; the first column names the row."""
    head, *body = lines
    top = "".join(f'<th scope="col">{text(cell)}</th>' for cell in head)
    rows = ""
    for name, *cells in body:
        figures = "".join(f'<td class="number">{text(cell)}</td>' for cell in cells)
        rows += f'<tr><th scope="row">{text(name)}</th>{figures}</tr>'
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table></div>'


def _pictures(records: Sequence[dict[str, Any]], out: Path) -> str:
    """The pieces of every clip, rows side by side with the truth."""
    shown = []
    for record in records:
        folder = out / "pictures" / record_path(out, record["clip"]).stem
        first = record["conditions"]["methods"][0]
        cells = []
        for row in (*ROW_ORDER, "sharp"):
            names = (f"{row}.png", f"{first}_{row}.png")
            source = next((folder / name for name in names if (folder / name).is_file()), None)
            if source is not None:
                value = record["psnr"].get(row)
                label = row.replace("_", " ") + (f" {value:.2f} dB" if value is not None else "")
                address = data_uri(encode_jpeg(read_picture(source)))
                picture = f'<img alt="{text(record["clip"])}, {text(row)}" src="{address}">'
                cells.append(f'<figure style="margin:0">{picture}<figcaption>{text(label)}</figcaption></figure>')
        if cells:
            focus = f", frame {record['focus']['frame']}" if record.get("focus") else ""
            flow = "display:flex;flex-wrap:wrap;gap:.75rem"
            shown.append(f'<h4>{text(record["clip"] + focus)}</h4><div style="{flow}">{"".join(cells)}</div>')
    return "".join(shown)


def _verdict(summary: dict[str, Any], model: str) -> str:
    """One sentence on what came out."""
    means = summary["psnr"]
    if summary.get("gain") is not None:
        verb = "gains" if summary["gain"] >= 0 else "loses"
        return f"{model}: adaptation {verb} {abs(summary['gain']):.2f} dB over the base model"
    best = "base" if "base" in means else "blurred"
    return f"{model}: {means[best]:.2f} dB ({best})"


def _lead(summary: dict[str, Any], model: str) -> str:
    """How much was measured, and what a reader must know of it."""
    count, frames = len(summary["clips"]), summary["frames"]
    means = summary["psnr"]
    behind = ""
    if "base" in means and means["base"] < means["blurred"]:
        behind = f" Its base is below the blurred input by {means['blurred'] - means['base']:.2f} dB."
    notes = "".join(f" {note[:1].upper()}{note[1:]}." for note in summary["notes"])
    clips = f"{counted(count, 'clip')} of the layout {summary['layout']}, {counted(frames, 'frame')}"
    return f"{clips}, model {model}.{behind}{notes}"


def _key_figures(summary: dict[str, Any]) -> list[tuple[str, str]]:
    means = summary["psnr"]
    figures = [(row.replace("_", " ").capitalize(), f"{means[row]:.2f} dB") for row in ROW_ORDER if row in means]
    for line in worth(summary):
        name, _, value = line.partition(": ")
        figures.append((name.capitalize(), value.partition(" (")[0]))
    figures.append(("Time", duration(sum(summary["seconds"].values()))))
    if summary.get("peak_memory_mb"):
        figures.append(("Peak memory", f"{summary['peak_memory_mb'] / 1024:.1f} GB"))
    return figures


def _conditions(summary: dict[str, Any]) -> str:
    """Settings, versions and machine."""
    parts = []
    known = {name: summary[name] for name in ("conditions", "seconds", "versions", "machine")}
    known["seconds"] = {name: round(value, 1) for name, value in known["seconds"].items()}
    for name, facts in known.items():
        parts.append(section(name.capitalize(), "", fact_list(flat(facts))))
    return "".join(parts)


def _asset(name: str) -> str:
    return (files("metadeblur") / "assets" / name).read_text(encoding="utf-8")
