"""Work in processes of its own: started one after the other, watched while it goes on, ended when nobody wants it.

A thread of Python cannot be stopped in the middle of a network; a process can, at once, and it takes nothing else with
it when memory runs out or a damaged file brings a decoder down.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
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
            with starting():
                process.start()
        finally:
            theirs.close()
        return process, ours

    def call(self, folder: Path, function: Callable[..., Any], *values: Any, seconds: float = 120.0) -> Any:
        """Do something short in a process and wait for what it returns.

        Raises:
            MetadeblurError: what the function says went wrong, or it takes longer than ``seconds``.
        """
        process, messages = self.start(folder, function, *values)
        try:
            until = time.monotonic() + seconds
            while messages.poll(max(0.0, until - time.monotonic())):
                message = messages.recv()
                if message[0] == "done":
                    return message[1]
                if message[0] == "failed":
                    raise MetadeblurError(message[1])
            raise MetadeblurError(f"it took longer than {seconds:g} s; a shorter or smaller clip may work")
        except EOFError as error:
            process.join()
            raise MetadeblurError(_ended(process.exitcode)) from error
        finally:
            _end(process)
            messages.close()


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


def _end(process: BaseProcess) -> None:
    """End a process that has no more to say."""
    process.kill()
    process.join()


def _ended(code: int | None) -> str:
    """What to say of a process that ended without a word."""
    if code == -9:
        return (
            "the system ended the computation, most likely because memory ran out; a smaller clip or model needs less"
        )
    return f"the computation ended without a result (code {code}); the file may be damaged"


@dataclass
class QueuedTask:
    """One restoration, from the moment it is asked for; only its :class:`TaskQueue` changes it."""

    folder: Path
    function: Callable[..., Any]
    values: tuple[Any, ...]
    state: State = "waiting"
    phase: Phase | None = None  # part of the work that is under way
    event: object = None  # the latest that tells how far it is
    time_left: TimeLeft | None = None  # the latest estimate
    shown: tuple[int, bytes, bytes] | None = None  # number and pictures of the frame being worked on
    first_look: bool = False  # whether that is the first look still
    result: Any = None
    error: str = ""
    began: float = 0.0  # when it came to its turn, on the monotonic clock
    process: BaseProcess | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ("done", "failed", "cancelled")


class TaskQueue:
    """Jobs wait in line for one of a few places.

    Args:
        workers: start the processes.
        places: jobs that run at the same time.
    """

    def __init__(self, workers: TaskProcesses, places: int = 1) -> None:
        self._workers, self._places = workers, places
        self._change = threading.Condition()
        self._jobs: list[QueuedTask] = []  # waiting and running, in the order they came

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, folder: Path, function: Callable[..., Any], *values: Any) -> QueuedTask:
        """Have ``function(*values, tell)`` called in a process of its own when its turn comes."""
        job = QueuedTask(folder, function, values)
        with self._change:
            self._jobs.append(job)
        try:
            with starting():
                threading.Thread(target=self._run, args=(job,), name="job", daemon=True).start()
        except MetadeblurError:
            with self._change:
                self._jobs.remove(job)
            raise
        return job

    def before(self, job: QueuedTask) -> int:
        """How many jobs must be over before this one begins; 0: it is its turn."""
        with self._change:
            if job.state != "waiting":
                return 0
            return max(0, self._jobs.index(job) + 1 - self._places)

    def cancel(self, job: QueuedTask) -> None:
        """End a job, wherever it stands; returns when its process is gone."""
        with self._change:
            if job.over:
                return
            job.state = "cancelled"
            if job.process is not None:
                _end(job.process)
            if job in self._jobs:
                self._jobs.remove(job)
            self._change.notify_all()

    def close(self) -> None:
        """End all jobs."""
        for job in list(self._jobs):
            self.cancel(job)

    def _run(self, job: QueuedTask) -> None:
        """One job, in a thread that mostly waits."""
        with self._change:
            self._change.wait_for(lambda: job.over or self._jobs.index(job) < self._places)
            if job.over:
                return
            try:
                job.process, messages = self._workers.start(job.folder, job.function, *job.values)
            except OSError as error:  # no more processes, or no memory for one
                self._finish(job, "failed", error=error_line(error).removeprefix("error: "))
                return
            job.state, job.began = "running", time.monotonic()
        try:
            while not job.over:
                self._take(job, messages.recv())
        except (EOFError, OSError):
            job.process.join()
            self._finish(job, "failed", error=_ended(job.process.exitcode))
        finally:
            messages.close()
            job.process.join()

    def _take(self, job: QueuedTask, message: tuple[Any, ...]) -> None:
        """One message of a job's process."""
        match message:
            case ("done", result):
                self._finish(job, "done", result=result)
            case ("failed", line):
                self._finish(job, "failed", error=line)
            case ("first look" | "shown" as kind, number, before, after):
                job.shown, job.first_look = (number, before, after), kind == "first look"
            case ("event", PhaseStarted(phase=phase)):
                job.phase, job.event = phase, None
            case ("event", TimeLeft() as estimate):
                job.time_left = estimate
            case ("event", event) if not isinstance(event, PhaseEnded | Note):
                job.event = event

    def _finish(self, job: QueuedTask, state: State, *, result: Any = None, error: str = "") -> None:
        """A job is over, unless it was cancelled meanwhile."""
        with self._change:
            if job.over:
                return
            job.result, job.error, job.state = result, error, state
            self._jobs.remove(job)
            self._change.notify_all()
