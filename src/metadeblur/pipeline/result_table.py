"""The results of many inputs, in one table for a person, and as comma-separated values."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from metadeblur.pipeline.console import Terminal
from metadeblur.pipeline.outputs import Job
from metadeblur.report.record import RunRecord
from metadeblur.report.verdict import network_of, overall_verdict
from metadeblur.system.json_files import write_whole
from metadeblur.system.log import record
from metadeblur.system.names import counted, in_words, shown, utf8

Result = RunRecord | Exception | None
"""Of an input: its record, why it failed, or None where it was left out because its output was there."""

_PLAIN_WIDTH = 1000  # columns of what is no terminal
_SKIPPED = "Left out: the output is there already."


def verdict_line(result: Result) -> str:
    """The result of an input in one plain line.

    >>> verdict_line(ValueError("no video in it"))
    'Failed: no video in it'
    """
    if result is None:
        return _SKIPPED
    if isinstance(result, Exception):
        return f"Failed: {' '.join(str(result).split()) or type(result).__name__}"
    return overall_verdict(result.shots, network_of(result)).headline


def show_results(jobs: Sequence[Job], results: Sequence[Result], terminal: Terminal) -> None:
    """Print on stderr the result of each input; where that is no terminal, without lines and colours."""
    console = terminal.console
    if console is not None and console.is_terminal:
        console.print(_table(jobs, results, drawn=True), markup=False, highlight=False)
    elif console is not None:  # what is no terminal has no width to fit into
        plain = Console(file=console.file, width=_PLAIN_WIDTH)
        plain.print(_table(jobs, results, drawn=False), markup=False, highlight=False)
    lines = Console(file=io.StringIO(), width=_PLAIN_WIDTH)
    with lines.capture() as told:
        lines.print(_table(jobs, results, drawn=False), markup=False, highlight=False)
    record("\n".join(line.rstrip() for line in told.get().splitlines()))
    terminal.say(summary(results))


def summary(results: Sequence[Result]) -> str:
    """How many inputs came out how, in one line.

    >>> summary([None, ValueError("no video in it"), None])
    '3 inputs: 2 left out, 1 failed'
    """
    kinds = Counter(_kind(result) for result in results)
    parts = [f"{kinds[kind]} {kind}" for kind in ("restored", "unchanged", "left out", "failed") if kinds[kind]]
    return f"{counted(len(results), 'input')}: {', '.join(parts)}"


def _table(jobs: Sequence[Job], results: Sequence[Result], *, drawn: bool) -> Table:
    """A row for each input; with lines around the cells, or without."""
    table = Table(box=box.ROUNDED if drawn else None, pad_edge=drawn)
    for title in ("input", "result", "time", "output"):
        table.add_column(title, overflow="fold", justify="right" if title == "time" else "left")
    for job, result in zip(jobs, results, strict=True):
        spent = ""
        if isinstance(result, RunRecord):
            spent = in_words(sum(sum(shot.seconds.values()) for shot in result.shots))
        output = "" if isinstance(result, Exception) else shown(str(job.output))
        table.add_row(shown(job.source.name), shown(verdict_line(result)), spent, output)
    return table


def write_csv(jobs: Sequence[Job], results: Sequence[Result], path: Path) -> None:
    """Write the result of each input as comma-separated values: input, output, verdict, frames and time.

    Raises:
        MetadeblurError: the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["input", "output", "kind", "result", "sharper_frames", "frames", "share", "seconds"])
    for job, result in zip(jobs, results, strict=True):
        figures = ["", "", "", ""]
        if isinstance(result, RunRecord):
            sharper = sum(shot.sharper or 0 for shot in result.shots)
            seconds = f"{result.seconds.get('total', 0.0):.1f}"
            figures = [str(sharper), str(result.video["frames"]), f"{result.share:g}", seconds]
        writer.writerow([str(job.source), str(job.output), _kind(result), verdict_line(result), *figures])
    write_whole(path, utf8(text.getvalue()))


def _kind(result: Result) -> str:
    if result is None:
        return "left out"
    if isinstance(result, Exception):
        return "failed"
    return "unchanged" if result.untouched else "restored"
