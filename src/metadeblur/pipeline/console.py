"""What a long job tells the person who waits for it: lines, and progress bars on a terminal; all on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from metadeblur.system.names import in_words as in_words  # for those that show durations
from metadeblur.system.names import shown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID
    from torch import Tensor

DELAY_SECONDS = 2.0  # work that is over sooner shows no bar


@dataclass
class Bar:
    """One progress bar; appears after :data:`DELAY_SECONDS`, and only where stderr is a terminal."""

    title: str
    console: Console | None
    unit: str = "frames"
    began: float = field(default_factory=time.monotonic)
    _live: Progress | None = None
    _task: TaskID | None = None

    def __call__(self, done: int, total: int, stage: str = "") -> None:
        """Show that ``done`` of ``total`` are ready; ``stage`` is said beside the title."""
        if self.console is None or not self.console.is_terminal:
            return
        if self._live is None:
            if time.monotonic() - self.began < DELAY_SECONDS:
                return
            self._start()
        if self._live is not None and self._task is not None:
            text = shown(f"{self.title}, {stage}" if stage else self.title)
            self._live.update(self._task, completed=done, total=total or None, description=text)

    def _start(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._live = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(self.unit),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self.console,
            transient=True,
            refresh_per_second=4,
        )
        self._task = self._live.add_task(shown(self.title), total=None)
        self._live.start()

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None


class Talk:
    """Lines and bars for a person; ``Talk(quiet=True)`` says nothing (what Python callers get by default).

    >>> Talk(quiet=True).say("nobody hears this")
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.heard = not quiet  # whether it is worth finding out what to say
        self.console: Console | None = None
        if not quiet:
            self.console = people()

    def say(self, line: str) -> None:
        """Print one line on stderr, above a bar that is showing."""
        if self.console is not None:
            self.console.print(shown(line), markup=False, emoji=False, highlight=False, soft_wrap=True)

    def show(self, number: int, blurred: Tensor, restored: Tensor) -> None:
        """A frame is restored, both (3, H, W) in [0, 1]; nothing is done with it here, a page may show it."""

    @contextmanager
    def bar(self, title: str, unit: str = "frames") -> Iterator[Bar]:
        """A progress bar for the work inside the ``with``."""
        bar = Bar(title, self.console, unit)
        try:
            yield bar
        finally:
            bar.close()


def people() -> Console:
    """Standard error, where people read; who reads no more is told to the caller as a BrokenPipeError."""
    from rich.console import Console

    class Stderr(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Stderr(stderr=True)


@contextmanager
def stopwatch(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the time spent in the block to ``seconds[stage]``."""
    began = time.monotonic()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.monotonic() - began
