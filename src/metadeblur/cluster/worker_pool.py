"""The driver's side of the workers: tasks are handed to whoever is free, and again where a worker dies."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import nn

from metadeblur.adaptation.stages import AdaptSettings
from metadeblur.cluster.connection import ClusterSettings, Places, machines, places, remove_folder_of, room
from metadeblur.cluster.files import Reads
from metadeblur.cluster.worker import Context, Event, Made, Missing, Piece, Step, Worker
from metadeblur.errors import MetadeblurError
from metadeblur.models.weights import reblurrer_path
from metadeblur.pipeline.console import Talk
from metadeblur.restoration.restorer import RestoreSettings
from metadeblur.system.record import versions
from metadeblur.system.scratch import DELIVERY
from metadeblur.types import Device

ATTEMPTS = 4  # at a task whose worker dies each time, and at starting a worker
LOOKS_EVERY = 5.0  # seconds between two looks at how many machines there are
PATIENCE = 20.0  # seconds without any worker, after which it is said that they are waited for
VISIBLE_WITHIN = 60.0  # seconds that a network's file system may take to show what another machine wrote
SPARE = 4  # open courses beyond one for each worker: so that there is always work while some are concluded
_DEATHS = (RayActorError, WorkerCrashedError, NodeDiedError, OutOfMemoryError, ObjectLostError)
_SAME = ("metadeblur", "torch")  # versions that decide what comes out


@dataclass(eq=False)
class Task:
    """A piece of work that any worker can do, as often as need be."""

    work: Callable[[Context], Any]
    reads: Reads
    into: Path  # folder of the results
    title: str  # what a person calls it
    done: Callable[[Any], object] = lambda _: None  # called with its value when its results are where they belong
    on_step: Callable[[Step], object] = lambda _: None  # called with what it tells of its progress
    on_part: Callable[[], object] = lambda: None  # called when a part of the results is there before all are
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
        talk: where lines go.

    Attributes:
        places: how many workers there are at first, and what each has.
    """

    def __init__(self, net: nn.Module, settings: ClusterSettings, device: Device, talk: Talk) -> None:
        self.places: Places = places(machines(), settings, device)
        self._fixed, self._talk, self._key = settings.workers, talk, uuid4().hex
        as_actor = ray.remote(
            num_cpus=self.places.threads, num_gpus=self.places.gpus, max_restarts=ATTEMPTS - 1
        )
        self._actor: Any = as_actor(Worker)
        self._given = (ray.put(net), self.places.threads, self.places.device, self._key)
        self._bf16: bool | None = None  # whether the first worker computes natively in bf16
        self._workers: dict[Any, bool] = {}  # and whether they have introduced themselves
        self._free: list[Any] = []
        self._starting: dict[Any, Any] = {}  # workers, by the answer that is awaited
        self._busy: dict[Any, tuple[Any, Task, Path]] = {}  # workers, their tasks and folders, by what they tell
        self._open: dict[Course, list[Task]] = {}  # courses, and what is left of their batches
        self._left_behind = False  # whether files lie in the workers' own folders
        self._patient_until, self._looked_at = time.monotonic() + PATIENCE, -LOOKS_EVERY

    def __enter__(self) -> Pool:
        self._grow()
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        for *_, folder in self._busy.values():
            shutil.rmtree(folder, ignore_errors=True)
        if self._left_behind:
            with suppress(RayError, OSError):
                remove = ray.remote(num_cpus=0, max_retries=0)(remove_folder_of)
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
                calls = [*self._starting, *self._busy]
                for call in ray.wait(calls, timeout=LOOKS_EVERY)[0] if calls else ():
                    if call in self._starting:
                        self._welcome(call)
                    else:
                        self._hear(call)
        finally:
            if self._open:  # nobody may write any more where the courses clear up
                self._kill()
            for course in list(self._open):
                course.close()
            self._open.clear()

    def for_any_machine(
        self, adaptation: AdaptSettings, restoration: RestoreSettings
    ) -> tuple[AdaptSettings, RestoreSettings]:
        """Settings that say the same on every machine; a precision "auto" becomes what suits the first worker."""
        chosen: Any = "bf16" if self._bf16 else "fp32"
        device: Any = self.places.device
        reblurrer = str(reblurrer_path(adaptation.reblurrer).absolute()) if adaptation.reblurrer else ""
        precision = chosen if adaptation.precision == "auto" else adaptation.precision
        same = replace(adaptation, precision=precision, device=device, reblurrer=reblurrer)
        return same, replace(restoration, device=device)

    # --- workers ---------------------------------------------------------------------------------------------------

    def _grow(self) -> None:
        """Have as many workers as there is room for now; machines may have come or gone."""
        now = time.monotonic()
        if now - self._looked_at < LOOKS_EVERY:
            return
        self._looked_at = now
        wanted = self._fixed or room(machines(), self.places.threads, self.places.gpus)
        while len(self._workers) < max(1, wanted):
            self._introduce(self._actor.remote(*self._given))
        if self._bf16 is None and now > self._patient_until:
            self._patient_until = float("inf")
            self._talk.say("waiting for a free worker; 'ray status' shows what the cluster is busy with")

    def _introduce(self, worker: Any) -> None:
        """Ask a worker who it is; one that has died answers when Ray has restarted it."""
        self._workers.setdefault(worker, False)
        self._starting[worker.introduce.options(max_task_retries=-1).remote()] = worker

    def _kill(self) -> None:
        for worker in self._workers:
            ray.kill(worker)

    def _welcome(self, call: Any) -> None:
        """Take a worker that has introduced itself among the free ones."""
        worker = self._starting.pop(call)
        try:
            about = ray.get(call)
        except (RayActorError, RayTaskError) as error:
            if self._workers.pop(worker):  # it did work, and Ray has restarted it as often as it may
                self._looked_at = -LOOKS_EVERY
                return
            raise MetadeblurError(
                f"a worker cannot start: {str(error).strip().splitlines()[-1].strip()}; every machine of the cluster "
                "needs the same metadeblur[cluster] and Python"
            ) from error
        for name, ours in versions().items():
            theirs = about["versions"].get(name, "none")
            if name in _SAME and theirs.partition("+")[0] != ours.partition("+")[0]:
                raise MetadeblurError(
                    f"{about['host']} has {name} {theirs}, this machine {ours}; install the same on every machine"
                )
        self._bf16 = about["bf16"] if self._bf16 is None else self._bf16
        self._workers[worker] = True
        self._free.append(worker)

    # --- tasks -----------------------------------------------------------------------------------------------------

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
        while self._free:
            task = next((task for tasks in self._open.values() for task in tasks if not task.running), None)
            if task is None:
                return
            folder = task.into.absolute() / f"{DELIVERY}{uuid4().hex}"
            try:
                folder.mkdir()
            except OSError as error:
                self._end(task, error)
                continue
            worker, task.running = self._free.pop(), True
            call = worker.do.options(num_returns="streaming").remote(task.work, task.reads, folder)
            self._busy[call] = (worker, task, folder)

    def _hear(self, call: Any) -> None:
        """Take what a worker has to tell of its task, or has not any more."""
        worker, task, folder = self._busy[call]
        fault: Exception | None = None
        try:
            event = ray.get(next(call))
        except StopIteration:
            self._free.append(worker)
        except _DEATHS:
            self._introduce(worker)
            fault = self._died(task)
        except Exception as error:
            self._free.append(worker)
            fault = _own(error, task.title)
        else:
            self._take(task, event, folder)
            return
        del self._busy[call]
        shutil.rmtree(folder, ignore_errors=True)
        if fault is not None:
            self._end(task, fault)

    def _take(self, task: Task, event: Event, folder: Path) -> None:
        """Put what a task has made where it belongs; a task of a course that has failed is not heard any more."""
        if not any(task in tasks for tasks in self._open.values()):
            return
        ended, fault = False, None
        try:
            match event:
                case Step():
                    task.on_step(event)
                case Missing():
                    self._left_behind = True
                    task.reads.send()
                    task.running = False
                case Piece():
                    path = folder / event.name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("ab") as file:
                        file.write(event.data)
                case Made():
                    self._left_behind |= event.sent
                    for name in event.names:
                        _put(folder / name, task.into / name)
                    ended = event.last
                    if ended:
                        task.done(event.value)
                    else:
                        task.on_part()
        except Exception as error:
            fault = error
        if ended or fault:
            self._end(task, fault)

    def _died(self, task: Task) -> Exception | None:
        """A worker has died over a task: it is done again, unless that has happened too often."""
        task.deaths += 1
        if task.deaths < ATTEMPTS:
            self._talk.say(f"{task.title}: its worker died; it is done again")
            task.running = False
            return None
        return MetadeblurError(
            f"{task.title}: {task.deaths} workers died over it, perhaps for want of memory; try fewer --workers or "
            "smaller tiles (--tile 256)"
        )

    def _end(self, task: Task, error: Exception | None = None) -> None:
        """Take a task off the list, and have its course go on where it was the last or has failed."""
        for course, tasks in self._open.items():
            if task in tasks:
                tasks.remove(task)
                if error or not tasks:
                    self._go_on(course, error)
                return


def _put(made: Path, target: Path) -> None:
    """Give a file of results its place, as soon as the file system shows it here."""
    until = time.monotonic() + VISIBLE_WITHIN
    while not made.exists() and time.monotonic() < until:
        time.sleep(0.2)
        with suppress(OSError):
            list(made.parent.iterdir())  # has a network's file system look again
    target.parent.mkdir(parents=True, exist_ok=True)
    made.replace(target)


def _own(error: Exception, title: str) -> Exception:
    """What went wrong in a worker, as it was raised there."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
        return error.cause
    return MetadeblurError(f"{title}: {str(error).strip().splitlines()[0]}") if isinstance(error, RayError) else error
