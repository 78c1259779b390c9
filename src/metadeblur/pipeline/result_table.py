"""The results of many inputs, in one table for a person."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from metadeblur.pipeline.console import Terminal
from metadeblur.pipeline.outputs import Job
from metadeblur.report.record import RunRecord
from metadeblur.system.names import in_words, shown

_PLAIN_WIDTH = 1000  # columns of what is no terminal


def show_results(jobs: Sequence[Job], results: Sequence[RunRecord | Exception], terminal: Terminal) -> None:
    """Print on stderr the result of each input; where that is no terminal, without lines and colours."""
    if terminal.console is None:
        return
    drawn = terminal.console.is_terminal
    table = Table(box=box.ROUNDED if drawn else None, pad_edge=drawn)
    for title in ("input", "frames", "shots", "adapted", "work", "result"):
        words = title in ("input", "result")
        table.add_column(title, overflow="fold" if words else "ellipsis", justify="left" if words else "right")
    for job, result in zip(jobs, results, strict=True):
        if isinstance(result, Exception):
            figures = ["", "", "", "", f"failed: {shown(' '.join(str(result).split()) or type(result).__name__)}"]
        else:
            frames = result.video["frames"]
            adapted = "untouched" if result.untouched else f"{100 * result.share:.0f} %"
            spent = sum(sum(shot.seconds.values()) for shot in result.shots)
            figures = [str(frames), str(len(result.shots)), adapted, in_words(spent), shown(result.output)]
        table.add_row(shown(job.source.name), *figures)
    # What is no terminal has no width to fit into.
    console = terminal.console if drawn else Console(file=terminal.console.file, width=_PLAIN_WIDTH)
    console.print(table, markup=False, highlight=False)
