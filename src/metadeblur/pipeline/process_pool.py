"""Tasks done side by side by processes of this machine."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import nn

from metadeblur.errors import MetadeblurError
from metadeblur.pipeline.task_pool import Task, TaskPool, Work
from metadeblur.system.machine import usable_cpus
from metadeblur.system.thread_limit import starting

GRACE_SECONDS = 10.0  # that a process has to take its unfinished files away before it is killed
EVENT_SECONDS = 0.2  # between two events of a task, at least
_LISTEN_SECONDS = 1.0


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    messages: Connection
    number: int  # from 0; a process that replaces another takes its number
    task: Task | None = None


class ProcessPool(TaskPool):
    """Processes that share the processor's cores and GPUs; one that is killed is replaced, and its task done again.

    Where there are several GPUs, each process gets the next one in turn for what says "auto" or "cuda".

    When the ``with`` block ends, also by an exception or Ctrl-C, none of the processes is left.

    Args:
        net: the base deblurrer; sent to each process once.
        workers: processes, 1 or more.
        say: gets lines for a person.
    """

    def __init__(self, net: nn.Module, workers: int, say: Callable[[str], object] = lambda _: None) -> None:
        super().__init__(workers, say)
        self._net = net
        self._threads = max(1, min(torch.get_num_threads(), usable_cpus()) // workers)
        self._workers: list[_Worker] = []

    def _submit(self, tasks: Sequence[Task]) -> None:
        free = [worker for worker in self._workers if worker.task is None]
        for task in tasks:
            if not free and len(self._workers) < self.workers:
                free.append(self._start())
            if not free:
                return
            worker = free.pop()
            worker.task, task.running = task, True
            with suppress(BrokenPipeError):  # it has just died: its end is heard when it is listened to
                worker.messages.send((task.work, task.into.absolute()))

    def _listen(self) -> None:
        heard = wait([worker.messages for worker in self._workers], _LISTEN_SECONDS)
        for worker in [worker for worker in self._workers if worker.messages in heard]:
            task = worker.task
            try:
                kind, value = worker.messages.recv()
            except (EOFError, OSError):
                self._workers.remove(worker)
                worker.process.join()
                if task is not None:
                    self._died(task)
                continue
            if task is None:
                continue
            if kind in ("end", "error"):
                worker.task = None
                self._end(task, value)
            elif self.is_wanted(task):
                (task.done if kind == "value" else task.on_event)(value)

    def stop(self) -> None:
        """Have the processes clean up and end; kill those that do not."""
        workers, self._workers = self._workers, []
        try:
            for worker in workers:
                worker.process.terminate()
            until = time.monotonic() + GRACE_SECONDS
            for worker in workers:
                worker.process.join(max(0.0, until - time.monotonic()))
        finally:  # also where somebody who is impatient asks again
            for worker in workers:
                worker.process.kill()
                worker.messages.close()

    def _start(self) -> _Worker:
        # A forked process would share locks of PyTorch's threads and its hold on a GPU.
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        taken = {worker.number for worker in self._workers}
        number = next(number for number in range(self.workers + 1) if number not in taken)
        process = context.Process(target=_serve, args=(theirs, self._net, self._threads, number), name="worker")
        with starting(), _deaf():
            process.start()
        theirs.close()
        worker = _Worker(process, ours, number)
        self._workers.append(worker)
        return worker


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes that start meanwhile do not hear Ctrl-C, not even before they can ignore it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- in a worker process -------------------------------------------------------------------------------------------


@dataclass
class _ProcessContext:
    """What a task finds in a process of this machine, where all files are as they are for the others."""

    net: nn.Module
    folder: Path
    messages: Connection
    told_at: float = 0.0

    def locate(self, path: Path) -> Path:
        """The path itself."""
        return path

    def tell(self, event: Any) -> None:
        """Send an event, unless one has just been sent."""
        if time.monotonic() - self.told_at >= EVENT_SECONDS:
            self.told_at = time.monotonic()
            self.messages.send(("event", event))


def take_gpu(number: int) -> None:
    """Have this process, the one of this number among several, compute on its own of the machine's GPUs, if any."""
    if torch.cuda.is_available() and torch.cuda.device_count() > 1:
        torch.cuda.set_device(number % torch.cuda.device_count())


def _serve(messages: Connection, net: nn.Module, threads: int, number: int) -> None:
    """Do tasks, one after the other, until the pool ends this process."""
    torch.set_num_threads(threads)
    take_gpu(number)
    cv2.setNumThreads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process hears it too, and ends this one
    # By an exception, so that unfinished files are taken away.
    signal.signal(signal.SIGTERM, lambda *_: _leave())
    # A killed command must not leave its workers behind, working on the same files as the command that goes on.
    threading.Thread(target=_end_with_the_command, daemon=True).start()
    while True:
        try:
            work, folder = messages.recv()
        except EOFError:
            return
        messages.send(_done(work, _ProcessContext(net, folder, messages)))


def _done(work: Work, context: _ProcessContext) -> tuple[str, Exception | None]:
    """Do a task, and tell how it ended."""
    try:
        for value in work(context):
            context.messages.send(("value", value))
    except Exception as error:  # goes on in the main process
        return "error", _as_it_arrives(error)
    return "end", None


def _leave() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(1)


def _end_with_the_command() -> None:
    command = parent_process()
    if command is not None:
        command.join()
        os._exit(1)


def _as_it_arrives(error: Exception) -> Exception:
    """An error that says the same in another process; some cannot be sent as they are."""
    try:
        if str(pickle.loads(pickle.dumps(error))) == str(error):
            return error
    except Exception:  # an error may refuse in any way
        pass
    return MetadeblurError(str(error)) if isinstance(error, MetadeblurError) else RuntimeError(repr(error))
