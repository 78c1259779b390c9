"""Tasks of many inputs, handed to whoever is free: processes of this machine, or machines of a cluster."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeAlias

from torch import nn

from metadeblur.adaptation.settings import AdaptSettings
from metadeblur.errors import MetadeblurError
from metadeblur.models.weights import reblurrer_path
from metadeblur.restoration.restorer import RestoreSettings

ATTEMPTS = 4  # at a task whose worker dies each time
SPARE = 4  # open courses beyond one for each worker: so that there is always work while some are concluded


class TaskContext(Protocol):
    """What a task finds where it is done."""

    @property
    def net(self) -> nn.Module:
        """The base deblurrer."""

    @property
    def folder(self) -> Path:
        """Where results go."""

    def locate(self, path: Path) -> Path:
        """Where a file that the task reads is here."""

    def tell(self, event: Any) -> None:
        """Pass an event on to who listens; some are left out where there are many."""


Work: TypeAlias = Callable[[TaskContext], Iterator[Any]]


@dataclass(eq=False)
class Task:
    """A piece of work that any worker can do, as often as need be."""

    work: Work
    reads: Sequence[Path]
    into: Path  # folder of the results
    title: str  # what a person calls it
    done: Callable[[Any], object] = lambda _: None  # called with each value when its results are in the folder
    on_event: Callable[[Any], object] = lambda _: None  # called with some of the events of the work
    deaths: int = 0
    running: bool = False


Course: TypeAlias = Generator[list[Task], None, None]
"""Batches of tasks for one input, each once the one before is done; what goes wrong is thrown into it."""


class TaskPool(ABC):
    """Workers that do tasks, in a ``with`` block that ends them.

    Args:
        workers: how many there are.
        say: gets lines for a person.
        device: type of the device that the workers compute on; None: what the settings choose on this machine.
    """

    def __init__(self, workers: int, say: Callable[[str], object], device: str | None = None) -> None:
        self.workers, self.say, self.device = workers, say, device
        self._open: dict[Course, list[Task]] = {}  # courses, and what is left of their batches

    def run(self, courses: Iterable[Course]) -> None:
        """Have the tasks of all courses done, those of the first ones first.

        Raises:
            MetadeblurError: the workers cannot work.
        """
        waiting = iter(courses)
        try:
            while True:
                while len(self._open) < self.workers + SPARE and (course := next(waiting, None)):
                    self._go_on(course)
                if not self._open:
                    return
                self._submit([task for tasks in self._open.values() for task in tasks if not task.running])
                self._listen()
        finally:
            if self._open:  # nobody may write any more where the courses clear up
                self.stop()
            for course in list(self._open):
                course.close()

    def for_any_machine(self, adapt: AdaptSettings, restore: RestoreSettings) -> tuple[AdaptSettings, RestoreSettings]:
        """Settings that mean the same wherever a task is done."""
        return adapt, restore

    def is_wanted(self, task: Task) -> bool:
        """Whether its course still waits for it."""
        return self._course(task) is not None

    @abstractmethod
    def _submit(self, tasks: Sequence[Task]) -> None:
        """Give tasks to workers that are free, the first ones first, and note that they are running."""

    @abstractmethod
    def _listen(self) -> None:
        """Wait for a while, and take what workers tell."""

    @abstractmethod
    def stop(self) -> None:
        """End all workers at once."""

    def __enter__(self) -> TaskPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _died(self, task: Task) -> None:
        """A worker has died over a task: it is done again, unless that has happened too often."""
        task.deaths, task.running = task.deaths + 1, False
        if task.deaths < ATTEMPTS:
            self.say(f"{task.title}: its worker died; it is done again")
            return
        text = f"{task.title}: {task.deaths} workers died over it, perhaps for want of memory; try fewer --workers or "
        self._end(task, MetadeblurError(f"{text}smaller tiles (--tile 256)"))

    def _end(self, task: Task, error: Exception | None = None) -> None:
        """Take a task off the list, and have its course go on where it was the last or has failed."""
        course = self._course(task)
        if course is not None:
            self._open[course].remove(task)
            if error or not self._open[course]:
                self._go_on(course, error)

    def _course(self, task: Task) -> Course | None:
        return next((course for course, tasks in self._open.items() if task in tasks), None)

    def _go_on(self, course: Course, error: Exception | None = None) -> None:
        """Have a course tell what is to be done next, or take up an error."""
        try:
            tasks = course.throw(error) if error else next(course)
            while not tasks:
                tasks = next(course)
            self._open[course] = tasks
        except StopIteration:
            self._open.pop(course, None)


def weights_read(adaptation: AdaptSettings) -> list[Path]:
    """The file of the reblurring network, where one is named."""
    return [reblurrer_path(adaptation.reblurrer)] if adaptation.reblurrer else []


def with_weights(adaptation: AdaptSettings, locate: Callable[[Path], Path], **changes: Any) -> AdaptSettings:
    """Settings whose reblurring network, where one is named, is found elsewhere."""
    named = [str(locate(path)) for path in weights_read(adaptation)]
    return replace(adaptation, reblurrer=named[0] if named else "", **changes)
