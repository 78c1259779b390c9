"""The terminal as a listener: lines, and progress bars where it can show them; all on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from metadeblur.system.log import record
from metadeblur.system.names import shown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from metadeblur.pipeline.events import Event, PhaseStarted, Position

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
        """Show that ``done`` of ``total`` are ready, and ``stage`` beside the title."""
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


class Terminal:
    """Lines and bars for a person; as a listener it shows the events of a restoration.

    All of it also goes to the logger (:mod:`metadeblur.system.log`), whether it is shown or not.

    >>> Terminal(quiet=True).say("nobody reads this")
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self.verbose = verbose  # whether reasons are shown too
        self.console: Console | None = None if quiet else stderr_console()
        self._bars: list[Bar] = []  # of the phases that are under way

    def say(self, line: str) -> None:
        """Print one line on stderr, above a bar that is showing."""
        record(line)
        if self.console is not None:
            self.console.print(shown(line), markup=False, emoji=False, highlight=False, soft_wrap=True)

    def show(self, text: str) -> None:
        """Print a result on standard output, also where nothing else is said."""
        record(text)
        print(text, flush=True)

    @contextmanager
    def bar(self, title: str, unit: str = "frames") -> Iterator[Bar]:
        """A progress bar for the work inside the ``with``."""
        record(title, detail=True)
        bar = Bar(title, self.console, unit)
        try:
            yield bar
        finally:
            bar.close()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        from metadeblur.pipeline import events

        match event:
            case events.Note(text) | events.TimeLeft(text=text):
                self.say(text)
            case events.Detail(text):
                if self.verbose:
                    self.say(text)
                else:
                    record(text, detail=True)
            case events.PhaseStarted():
                record(_phase_title(event), detail=True)
                self._bars.append(Bar(_phase_title(event), self.console))
            case events.PhaseEnded():
                self._bars.pop().close()
            case _ if self._bars:
                self._advance(self._bars[-1], event)

    def _advance(self, bar: Bar, event: Event) -> None:
        from metadeblur.pipeline import events

        match event:
            case events.FrameScanned(done, total):
                bar(done, total)
            case events.StepDone(at, stage, done, total):
                bar(at.frames_done, at.frames, f"{_shot_title(at)}: {stage} {done} of {total}")
            case events.FrameRestored(at=at):
                bar(at.frames_done, at.frames, _shot_title(at))
            case events.FilesAdvanced():
                bar(event.frames_done, event.frames, f"{event.files_done} of {event.files} inputs done")


def _phase_title(event: PhaseStarted) -> str:
    return {
        "scan": f"looking through {event.name}",
        "measure": "measuring the speed",
        "preview": "making the preview",
        "restore": "restoring",
        "compare": "measuring against the sharp frames",
    }[event.phase]


def _shot_title(at: Position) -> str:
    return f"shot {at.shot + 1} of {at.shots}"


def stderr_console() -> Console:
    """Standard error, where people read; a reader that has gone away raises BrokenPipeError."""
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
