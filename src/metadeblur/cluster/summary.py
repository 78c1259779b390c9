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
    """Print on stderr what became of each input; where that is no terminal, without lines and colours."""
    if talk.console is None:
        return
    drawn = talk.console.is_terminal
    table = Table(box=box.ROUNDED if drawn else None, pad_edge=drawn)
    for title in ("input", "frames", "shots", "adapted", "work", "result"):
        words = title in ("input", "result")
        table.add_column(title, overflow="fold" if words else "ellipsis", justify="left" if words else "right")
    for job, result in zip(jobs, results, strict=True):
        if isinstance(result, Exception):
            figures = ["", "", "", "", f"failed: {shown(' '.join(str(result).split()) or type(result).__name__)}"]
        else:
            shots, frames = result["shots"], result["video"]["frames"]
            adapted = "untouched" if result["untouched"] else f"{100 * result['share']:.0f} %"
            spent = sum(sum(shot["seconds"].values()) for shot in shots)
            figures = [str(frames), str(len(shots)), adapted, in_words(spent), shown(result["output"])]
        table.add_row(shown(job.source.name), *figures)
    # What is no terminal has no width to fit into.
    console = talk.console if drawn else Console(file=talk.console.file, width=_PLAIN_WIDTH)
    console.print(table, markup=False, highlight=False)
