"""Work in processes of its own: started one after the other, watched while it goes on, ended when nobody wants it.

A thread of Python cannot be stopped in the middle of a network; a process can, at once, and it takes nothing else with
it when memory runs out or a damaged file brings a decoder down.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

from metadeblur.errors import MetadeblurError
from metadeblur.pipeline.events import Note, Phase, PhaseEnded, PhaseStarted, TimeLeft
from metadeblur.system.explain import error_line
from metadeblur.system.thread_limit import starting
from metadeblur.video.info import limit_pixels

State = Literal["waiting", "running", "done", "failed", "cancelled"]
_renaming = threading.Lock()


class TaskProcesses:
    """Starts functions in processes that have imported what they need already.

    Args:
        share: how many of them compute at the same time; each gets its part of the processors.
        pixels: most of a frame that they decode.
    """

    def __init__(self, share: int = 1, pixels: int = 2**31 - 1) -> None:
        # Processes that are forked from a small one without threads start at once; elsewhere each starts anew.
        self._context: Any = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
        if sys.platform != "win32":
            # The second one is what torch loads when a network first learns: seconds, for every restoration.
            self._context.set_forkserver_preload(["metadeblur.app.tasks", "torch._dynamo"])
        self._share, self._pixels = share, pixels

    def warm(self) -> None:
        """Begin to import what the processes need, so that the first one need not wait for it; returns at once."""
        if sys.platform != "win32":
            forkserver.ensure_running()

    def start(self, folder: Path, function: Callable[..., Any], *values: Any) -> tuple[BaseProcess, Connection]:
        """Call ``function(*values, tell)`` in a process that works in ``folder``; its messages come by the connection.

        The last message is ("done", what the function returned) or ("failed", one line).
        """
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_work,
            args=(theirs, folder, self._share, self._pixels, function, values),
            daemon=True,
            name=function.__name__,
        )
        try:
            with starting(), _nameless_main():
                process.start()
        finally:
            theirs.close()
        return process, ours


@contextlib.contextmanager
def _nameless_main() -> Iterator[None]:
    """Keep a process from importing the program that starts it, such as the page of a Space: it needs nothing of it."""
    main: Any = sys.modules["__main__"]
    with _renaming:  # by one thread at a time, or the second one would keep the first one's None
        known = main.__spec__, getattr(main, "__file__", None)
        main.__spec__ = main.__file__ = None
        try:
            yield
        finally:
            main.__spec__, main.__file__ = known


def _work(
    messages: Connection, folder: Path, share: int, pixels: int, function: Callable[..., Any], values: tuple[Any, ...]
) -> None:
    """What a process does."""
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    limit_pixels(pixels)
    os.umask(0o077)
    tempfile.tempdir = str(folder)
    if share > 1:
        import torch

        torch.set_num_threads(max(1, torch.get_num_threads() // share))
    with contextlib.suppress(BrokenPipeError):  # nobody is left to hear it
        try:
            os.chdir(folder)
            messages.send(("done", function(*values, messages.send)))
        except BrokenPipeError:
            raise
        except BaseException as error:  # told to whoever waits
            messages.send(("failed", error_line(error).removeprefix("error: ")))


def _end_with(parent: BaseProcess | None) -> None:
    """End this process as soon as the one that wanted it is gone, even if that was killed and could say nothing."""
    if parent is not None:
        parent.join()
        os._exit(1)


def _ended(code: int | None) -> str:
    """What to say of a process that ended without a word."""
    if code == -9:
        return (
            "the system ended the computation, most likely because memory ran out; a smaller clip or model needs less"
        )
    return f"the computation ended without a result (code {code}); the file may be damaged"


@dataclass(eq=False)
class QueuedTask:
    """A piece of work, from the moment it is asked for; only its :class:`TaskQueue` changes it."""

    folder: Path
    function: Callable[..., Any]
    values: tuple[Any, ...]
    wanted: Callable[[], bool] = lambda: True  # whether somebody waits for it
    limit: float = math.inf  # seconds that it may take
    state: State = "waiting"
    phase: Phase | None = None  # part of the work that is under way
    event: object = None  # the latest that tells how far it is
    time_left: TimeLeft | None = None  # the latest estimate
    result: Any = None
    error: str = ""
    began: float = 0.0  # when it came to its turn, on the monotonic clock
    process: BaseProcess | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ("done", "failed", "cancelled")

    def late(self) -> bool:
        """Whether it takes longer than it may."""
        return time.monotonic() - self.began > self.limit


class TaskQueue:
    """Tasks wait in line for one of a few places.

    One that nobody waits for, as its browser has died, keeps its place in the line and is passed over until somebody
    does; where it is under way already it makes room for one that is wanted, and begins again.

    Args:
        workers: start the processes.
        places: tasks that run at the same time.
    """

    def __init__(self, workers: TaskProcesses, places: int = 1) -> None:
        self._workers, self._places = workers, places
        self._lock = threading.RLock()
        self._tasks: list[QueuedTask] = []  # waiting and running, in the order they came

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, task: QueuedTask) -> QueuedTask:
        """Have a task's ``function(*values, tell)`` called in a process of its own when its turn comes."""
        with self._lock:
            self._tasks.append(task)
        self.turn()
        return task

    def before(self, task: QueuedTask) -> int:
        """How many tasks must be over before this one begins; 0: it is its turn."""
        with self._lock:
            if task.state != "waiting":
                return 0
            earlier = self._tasks[: self._tasks.index(task)]
            return max(0, sum(other.wanted() for other in earlier) + 1 - self._places)

    def cancel(self, task: QueuedTask) -> None:
        """End a task, wherever it stands; returns when its process is gone."""
        with self._lock:
            if not task.over:
                self._end(task, "cancelled")
        self.turn()

    def close(self) -> None:
        """End all tasks."""
        with self._lock:
            for task in list(self._tasks):
                self._end(task, "cancelled")

    def turn(self) -> None:
        """Begin the tasks whose turn it is, and end those that take too long."""
        with self._lock:
            for task in [task for task in self._tasks if task.state == "running" and task.late()]:
                task.error = f"it took longer than {task.limit:g} s; a shorter or smaller clip may work"
                self._end(task, "failed")
            for task in [task for task in self._tasks if task.state == "waiting" and task.wanted()]:
                under_way = [other for other in self._tasks if other.state == "running"]
                if len(under_way) >= self._places:
                    unwanted = next((other for other in under_way if not other.wanted()), None)
                    if unwanted is None:
                        return
                    self._end(unwanted, "waiting")
                self._begin(task)

    def _begin(self, task: QueuedTask) -> None:
        task.state, task.began = "running", time.monotonic()
        task.phase = task.event = task.time_left = None
        try:
            task.process, messages = self._workers.start(task.folder, task.function, *task.values)
            with starting():
                threading.Thread(target=self._listen, args=(task, task.process, messages), daemon=True).start()
        except (OSError, MetadeblurError) as error:  # no more processes or threads, or no memory for one
            task.error = error_line(error).removeprefix("error: ")
            self._end(task, "failed")

    def _end(self, task: QueuedTask, state: State) -> None:
        """A task is over or, where its new state is "waiting", begins again later."""
        task.state = state
        if task.over:
            self._tasks.remove(task)
        if task.process is not None:
            task.process.kill()
            task.process.join()

    def _listen(self, task: QueuedTask, process: BaseProcess, messages: Connection) -> None:
        """Take a process's messages until it has no more to say, in a thread that mostly waits."""
        with contextlib.suppress(EOFError, OSError), contextlib.closing(messages):
            while self._take(task, process, messages.recv()):
                pass
        process.join()
        with self._lock:
            if task.process is process and task.state == "running":
                task.error = _ended(process.exitcode)
                self._end(task, "failed")
        self.turn()

    def _take(self, task: QueuedTask, process: BaseProcess, message: tuple[str, Any]) -> bool:
        """Take one message; whether more may come."""
        kind, value = message
        with self._lock:
            if task.process is not process or task.state != "running":
                return False
            match kind, value:
                case "done", result:
                    task.result = result
                    self._end(task, "done")
                case "failed", line:
                    task.error = line
                    self._end(task, "failed")
                case _, PhaseStarted(phase=phase):
                    task.phase, task.event = phase, None
                case _, TimeLeft():
                    task.time_left = value
                case _, event if not isinstance(event, PhaseEnded | Note):
                    task.event = event
            return task.state == "running"
