"""What became of many inputs, in one table for a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from metadeblur.pipeline.console import Talk, in_words
from metadeblur.pipeline.outputs import Job
from metadeblur.system.names import shown

_PLAIN_WIDTH = 1000  # columns of what is no terminal


def tell_results(jobs: Sequence[Job], results: Sequence[dict[str, Any] | Exception], talk: Talk) -> None:
    """Print the table on stderr; where that is no terminal, without lines and colours.

    Args:
        jobs: the inputs.
        results: the record of each, or what went wrong with it.
        talk: where it goes.
    """
    if talk.console is None:
        return
    drawn = talk.console.is_terminal
    table = Table(box=box.ROUNDED if drawn else None, pad_edge=drawn)
    table.add_column("input", overflow="fold")
    for title in ("frames", "shots", "adapted", "work"):
        table.add_column(title, justify="right")
    table.add_column("result", overflow="fold")
    for job, result in zip(jobs, results, strict=True):
        if isinstance(result, Exception):
            reason = " ".join(str(result).split()) or type(result).__name__
            table.add_row(shown(job.source.name), "", "", "", "", f"failed: {shown(reason)}")
        else:
            table.add_row(shown(job.source.name), *_figures(result), shown(result["output"]))
    # What is no terminal has no width to fit into.
    console = talk.console if drawn else Console(file=talk.console.file, width=_PLAIN_WIDTH)
    console.print(table, markup=False, highlight=False)


def _figures(record: dict[str, Any]) -> tuple[str, str, str, str]:
    """Frames, shots, how far they are adapted, and the workers' time."""
    shots = record["shots"]
    adapted = "untouched" if record["untouched"] else f"{100 * record['share']:.0f} %"
    spent = sum(sum(shot["seconds"].values()) for shot in shots)
    return str(record["video"]["frames"]), str(len(shots)), adapted, in_words(spent)
