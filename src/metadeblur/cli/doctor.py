"""``metadeblur doctor``: what this machine and installation can do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from rich.console import Console

    from metadeblur.pipeline.doctor import Checkup


@dataclass(frozen=True)
class Doctor:
    """Say what this machine and installation can do, how fast, and what is wrong with it.

    Exit codes: 0, also where problems are found and told; 1 where the built-in weights are missing or damaged.
    """

    speed: bool = True
    """Measure each model whose weights are here, about two seconds each."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Write everything as JSON too; - is standard output, instead of the lines."""

    def run(self) -> None:
        """Examine and tell.

        Raises:
            MetadeblurError: the built-in weights are missing or damaged.
        """
        from rich.console import Console

        from metadeblur.errors import MetadeblurError
        from metadeblur.pipeline.console import Terminal
        from metadeblur.pipeline.doctor import examine
        from metadeblur.system.json_files import write_json

        with Terminal().bar("measuring speed", "models") as bar:
            checkup = examine(speed=self.speed, progress=bar)
        if self.json is not None:
            write_json(checkup, self.json)
        if str(self.json) != "-":
            console = Console()
            (_table if console.is_terminal else _lines)(checkup, console)
        grave = [f"{problem.what} ({problem.remedy})" for problem in checkup.problems if problem.grave]
        if grave:
            raise MetadeblurError("; ".join(grave))


def _lines(checkup: Checkup, _: Console) -> None:
    """One line a fact, for files and pipes."""
    from metadeblur.pipeline.doctor import ABOUT_SPEED, sections

    for heading, rows in sections(checkup).items():
        for name, value in rows:
            print(f"{heading}: {name}: {value}")
    if checkup.speed:
        print(ABOUT_SPEED)
    for problem in checkup.problems:
        print(f"problem: {problem.what}; {problem.remedy}")
    if not checkup.problems:
        print("no problems found")


def _table(checkup: Checkup, console: Console) -> None:
    """A table under each heading, for people."""
    from rich.table import Table
    from rich.text import Text

    from metadeblur.pipeline.doctor import ABOUT_SPEED, sections

    for heading, rows in sections(checkup).items():
        if rows:
            table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
            table.add_column(min_width=22, no_wrap=True)
            table.add_column(overflow="fold")
            for name, value in rows:
                table.add_row(Text(name), Text(value))
            console.print(Text(heading, style="bold"))
            console.print(table)
    if checkup.speed:
        console.print(Text(ABOUT_SPEED, style="dim"))
    for problem in checkup.problems:
        console.print(Text(f"problem: {problem.what}", style="bold red" if problem.grave else "yellow"))
        console.print(Text(f"  what to do: {problem.remedy}"))
    if not checkup.problems:
        console.print(Text("no problems found", style="green"))
