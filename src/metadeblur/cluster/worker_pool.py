"""Workers, which are Ray actors, and the driver's side of them: tasks are handed to whoever is free."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import cv2
import ray
import torch
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, RayError, RayTaskError
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import nn

from metadeblur.adaptation.stages import AdaptSettings
from metadeblur.cluster import connection
from metadeblur.cluster.connection import ClusterSettings, Places, folder_of
from metadeblur.cluster.files import Reads, Sent, inside, receive, send, with_weights
from metadeblur.errors import MetadeblurError
from metadeblur.restoration.restorer import RestoreSettings
from metadeblur.system.device import has_native_bf16
from metadeblur.system.record import versions
from metadeblur.system.scratch import DELIVERY, sweep, using
from metadeblur.types import Device

ATTEMPTS = 4  # at a task whose worker dies each time, and at starting a worker
EVENT_SECONDS = 0.5  # between two events of a task, at least
LOOKS_EVERY = 5.0  # seconds between two looks at how many machines there are
PATIENCE = 20.0  # seconds without any worker, after which it is said that they are waited for
VISIBLE_WITHIN = 60.0  # seconds that a network's file system may take to show what another machine wrote
SPARE = 4  # open courses beyond one for each worker: so that there is always work while some are concluded
_DEATHS = (RayActorError, NodeDiedError, OutOfMemoryError, ObjectLostError)
_SAME = ("metadeblur", "torch")  # versions that decide what comes out


@dataclass
class Context:
    """What a task finds in the worker that does it."""

    net: nn.Module
    copies: Path | None  # where the driver's files were copied to; none: they are seen
    folder: Path  # for results
    name: str  # of the task, for the queue
    queue: Any  # where events go
    told_at: float = 0.0

    def locate(self, path: Path) -> Path:
        """Where a file of the driver's is on this machine."""
        return self.copies / inside(path) if self.copies else path

    def tell(self, event: Any) -> None:
        """Pass an event on to the driver, unless it has just had one."""
        if time.monotonic() - self.told_at >= EVENT_SECONDS:
            self.told_at = time.monotonic()
            self.queue.put_nowait.remote((self.name, event))


class Worker:
    """A process of the cluster; ``key`` is of the run, and nobody else knows it."""

    def __init__(self, size: Places, key: str) -> None:
        torch.set_num_threads(size.threads)
        cv2.setNumThreads(size.threads)
        self._device, self._folder = size.device, folder_of(key)
        self._use: AbstractContextManager[Path] | None = None

    def introduce(self) -> dict[str, Any]:
        """What the driver must know before it hands out tasks."""
        bf16 = has_native_bf16(torch.device(self._device))
        return {"host": platform.node(), "versions": versions(), "bf16": bf16}

    def do(
        self, net: nn.Module, queue: Any, work: Work, reads: Reads, folder: Path
    ) -> Iterator[tuple[Any, list[str], Sent] | None]:
        """Do a task; tell each of its values with the files that are whole by then; None: those to read are missing.

        Args:
            net: the base deblurrer.
            queue: where events go.
            work: what to do.
            reads: the files that it reads.
            folder: the driver's folder for results. The files are sent where it cannot be seen.
        """
        copies = None if self.sees(reads) else self._folder / reads.mark
        if copies and not copies.is_dir():
            if reads.sent is None:
                yield None
                return
            draft = self._scratch()
            receive(reads.sent, draft)
            with suppress(OSError):  # another worker was quicker
                draft.rename(copies)
            shutil.rmtree(draft, ignore_errors=True)
        shared = self.can_write(folder)
        results = folder if shared else self._scratch()
        try:
            for value in work(Context(net, copies, results, folder.name, queue)):
                found = {path.relative_to(results).as_posix(): path for path in results.rglob("*") if path.is_file()}
                yield value, list(found), {} if shared else send(found)
                for path in () if shared else found.values():
                    path.unlink()
        finally:
            if not shared:
                shutil.rmtree(results, ignore_errors=True)

    def sees(self, reads: Reads) -> bool:
        """Whether the driver's files are on this machine."""
        return reads.are_here()

    def can_write(self, folder: Path) -> bool:
        """Whether the driver's folder for results is on this machine: nobody else makes one of its name."""
        return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)

    def _scratch(self) -> Path:
        """A new folder for unfinished things, in one that the workers of this run share on their machine."""
        if self._use is None:
            sweep(self._folder.parent)
            self._use = using(self._folder)
            self._use.__enter__()  # until this process ends, however it does
        self._folder.mkdir(mode=0o700, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=self._folder))


Work: TypeAlias = Callable[[Context], Iterator[Any]]


@dataclass(eq=False)
class Task:
    """A piece of work that any worker can do, as often as need be."""

    work: Work
    reads: Reads
    into: Path  # folder of the results
    title: str  # what a person calls it
    done: Callable[[Any], object] = lambda _: None  # called with each value when its results are where they belong
    on_event: Callable[[Any], object] = lambda _: None  # called with some of the events of the work
    deaths: int = 0
    running: bool = False


Course: TypeAlias = Generator[list[Task], None, None]
"""Batches of tasks for one input, each once the one before is done; what goes wrong is thrown into it."""


class Pool:
    """The workers of one run on a cluster that has been joined, in a ``with`` block that ends them.

    Args:
        net: the base deblurrer; it is put into Ray's object store once.
        settings: how many workers there are to be.
        device: what is to compute.
        say: gets lines for a person.
    """

    def __init__(self, net: nn.Module, settings: ClusterSettings, device: Device, say: Callable[[str], object]) -> None:
        # Of the workers that there are at first.
        self.places = connection.places(connection.machines(), settings, device)
        self._settings, self._say, self._key = settings, say, uuid4().hex
        as_actor = ray.remote(num_cpus=self.places.threads, num_gpus=self.places.gpus, max_restarts=ATTEMPTS - 1)
        self._actor: Any = as_actor(Worker)
        lasting = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
        queue: Any = Queue(actor_options=lasting).actor
        self._queue = queue  # events of the tasks that workers are at
        self._event = self._queue.get.remote()
        self._given = (ray.put(net), queue)  # with each task: Ray restarts workers whose start needs no objects
        self._bf16: bool | None = None  # whether the first worker computes natively in bf16
        self._workers: dict[Any, bool] = {}  # and whether they have introduced themselves
        self._starting: dict[Any, Any] = {}  # workers, by the answer that is awaited
        self._free: list[Any] = []
        self._busy: dict[Any, tuple[Any, Task, Path]] = {}  # workers, their tasks and folders, by what they tell
        self._open: dict[Course, list[Task]] = {}  # courses, and what is left of their batches
        self._patient_until, self._looked_at = time.monotonic() + PATIENCE, -LOOKS_EVERY
        say(f"working on {self.places.describe()}")

    def __enter__(self) -> Pool:
        self._grow()
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        for call in self._busy.values():
            shutil.rmtree(call[2], ignore_errors=True)
        ray.kill(self._queue)
        if self._settings.address != connection.LOCAL:
            with suppress(RayError, OSError):  # workers that do not see the driver's files have left copies of them
                remove = ray.remote(num_cpus=0, max_retries=0)(connection.remove_folder_of)
                ids = [node["NodeID"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
                where = [NodeAffinitySchedulingStrategy(node_id=name, soft=False) for name in ids]
                ray.get([remove.options(scheduling_strategy=node).remote(self._key) for node in where], timeout=20)

    def run(self, courses: Iterable[Course]) -> None:
        """Have the tasks of all courses done, those of the first ones first.

        Raises:
            MetadeblurError: the workers cannot work: another version of the program, or none, on their machine.
        """
        waiting = iter(courses)
        try:
            while True:
                while len(self._open) < self.places.workers + SPARE and (course := next(waiting, None)):
                    self._go_on(course)
                if not self._open:
                    return
                self._grow()
                self._hand_out()
                for call in ray.wait([*self._starting, *self._busy, self._event], timeout=LOOKS_EVERY)[0]:
                    if call in self._starting:
                        self._welcome(call, self._starting.pop(call))
                    elif call in self._busy:
                        self._hear(call, *self._busy[call])
                    else:
                        name, event = ray.get(call)
                        self._event = self._queue.get.remote()
                        for _, task, folder in self._busy.values():
                            if folder.name == name and self._course(task):
                                task.on_event(event)
        finally:
            if self._open:  # nobody may write any more where the courses clear up
                self._kill()
            for course in list(self._open):
                course.close()

    def for_any_machine(self, adapt: AdaptSettings, restore: RestoreSettings) -> tuple[AdaptSettings, RestoreSettings]:
        """Settings that say the same on every machine; a precision "auto" becomes what suits the first worker."""
        device: Any = self.places.device
        precision: Any = adapt.precision if adapt.precision != "auto" else "bf16" if self._bf16 else "fp32"
        adapt = with_weights(adapt, Path.absolute, precision=precision, device=device)
        return adapt, replace(restore, device=device)

    def _grow(self) -> None:
        """Have as many workers as there is room for now; machines may have come or gone."""
        now = time.monotonic()
        if now - self._looked_at < LOOKS_EVERY:
            return
        self._looked_at = now
        size = self.places
        wanted = self._settings.workers or connection.room(connection.machines(), size.threads, size.gpus)
        while len(self._workers) < max(1, wanted):
            worker = self._actor.remote(self.places, self._key)
            self._workers[worker] = False
            self._introduce(worker)
        if self._bf16 is None and now > self._patient_until:
            self._patient_until = float("inf")
            self._say("waiting for a free worker; 'ray status' shows what the cluster is busy with")

    def _introduce(self, worker: Any) -> None:
        """Ask a worker who it is; one that has died answers when Ray has restarted it."""
        self._starting[worker.introduce.options(max_task_retries=-1).remote()] = worker

    def _kill(self) -> None:
        for worker in self._workers:
            ray.kill(worker)

    def _welcome(self, call: Any, worker: Any) -> None:
        """Take a worker that has introduced itself among the free ones."""
        try:
            about = ray.get(call)
        except (RayActorError, RayTaskError) as error:
            if self._workers.pop(worker):  # it did work, and Ray has restarted it as often as it may: have a new one
                self._looked_at = -LOOKS_EVERY
                return
            raise MetadeblurError(
                f"a worker cannot start: {str(error).strip().splitlines()[-1].strip()}; every machine of the cluster "
                "needs the same metadeblur[cluster] and Python"
            ) from error
        for name in _SAME:
            theirs, ours = about["versions"][name], versions()[name]
            if theirs.partition("+")[0] != ours.partition("+")[0]:
                raise MetadeblurError(
                    f"{about['host']} has {name} {theirs}, this machine {ours}; install the same on every machine"
                )
        self._bf16 = about["bf16"] if self._bf16 is None else self._bf16
        self._workers[worker] = True
        self._free.append(worker)

    def _go_on(self, course: Course, error: Exception | None = None) -> None:
        """Have a course say what is to be done next, or what becomes of an error."""
        try:
            tasks = course.throw(error) if error else next(course)
            while not tasks:
                tasks = next(course)
            self._open[course] = tasks
        except StopIteration:
            self._open.pop(course, None)

    def _hand_out(self) -> None:
        """Give every free worker the first task that waits."""

        def waiting() -> Task | None:
            return next((task for tasks in self._open.values() for task in tasks if not task.running), None)

        while self._free and (task := waiting()):
            folder = task.into.absolute() / f"{DELIVERY}{uuid4().hex}"
            try:
                folder.mkdir()
            except OSError as error:
                self._end(task, error)
                continue
            worker, task.running = self._free.pop(), True
            call = worker.do.options(num_returns="streaming").remote(*self._given, task.work, task.reads, folder)
            self._busy[call] = (worker, task, folder)

    def _hear(self, call: Any, worker: Any, task: Task, folder: Path) -> None:
        """Take what a worker has made of a task, or see that it is over."""
        fault: Exception | None = None
        task.running = False
        try:
            event = ray.get(next(call))
            if event is None:  # it does not see what it is to read
                task.reads.sent = task.reads.sent or send(task.reads.files)
            else:
                task.running = True
                if self._course(task):  # otherwise it has failed, and nobody waits for the task any more
                    self._take(task, folder, *event)
                return
        except StopIteration:
            self._end(task)
        except _DEATHS:
            self._introduce(worker)
            fault = self._died(task)
        except Exception as error:
            fault = error.cause if isinstance(error, RayTaskError) else error
        del self._busy[call]
        shutil.rmtree(folder, ignore_errors=True)
        if worker not in self._starting.values():
            self._free.append(worker)
        if fault:
            self._end(task, fault)

    def _take(self, task: Task, folder: Path, value: Any, names: list[str], sent: Sent) -> None:
        """Put what a task has made where it belongs, as soon as the file system shows it here."""
        receive(sent, folder)
        until = time.monotonic() + VISIBLE_WITHIN
        for name in sorted(names, key=lambda name: ("/" not in name, name)):  # a record after its pictures
            made, target = folder / name, task.into / name
            while not made.exists() and time.monotonic() < until:
                time.sleep(0.2)
                with suppress(OSError):
                    list(made.parent.iterdir())  # has a network's file system look again
            target.parent.mkdir(parents=True, exist_ok=True)
            made.replace(target)
        task.done(value)

    def _died(self, task: Task) -> Exception | None:
        """A worker has died over a task: it is done again, unless that has happened too often."""
        task.deaths += 1
        if task.deaths < ATTEMPTS:
            self._say(f"{task.title}: its worker died; it is done again")
            return None
        return MetadeblurError(
            f"{task.title}: {task.deaths} workers died over it, perhaps for want of memory; try fewer --workers or "
            "smaller tiles (--tile 256)"
        )

    def _course(self, task: Task) -> Course | None:
        return next((course for course, tasks in self._open.items() if task in tasks), None)

    def _end(self, task: Task, error: Exception | None = None) -> None:
        """Take a task off the list, and have its course go on where it was the last or has failed."""
        course = self._course(task)
        if course is not None:
            self._open[course].remove(task)
            if error or not self._open[course]:
                self._go_on(course, error)
