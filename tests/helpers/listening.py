"""A listener that remembers the lines that a person would have read."""

from __future__ import annotations

from metadeblur.pipeline.events import Event, Note, TimeLeft


class Lines:
    """The lines of all events so far."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, Note | TimeLeft):
            self.lines.append(event.text)
