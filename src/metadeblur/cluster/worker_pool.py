"""Work on a Ray cluster: the driver hands out tasks, Ray finds machines for them."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import cv2
import ray
import torch
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import nn

from metadeblur.adaptation.stages import AdaptSettings
from metadeblur.cluster import connection
from metadeblur.cluster.connection import ClusterSettings, Places, folder_of
from metadeblur.cluster.files import ReadFiles, inside, pieces, receive, send
from metadeblur.errors import MetadeblurError
from metadeblur.pipeline.task_pool import Task, TaskPool, Work, with_weights
from metadeblur.restoration.restorer import RestoreSettings
from metadeblur.system.device import has_native_bf16
from metadeblur.system.json_files import versions
from metadeblur.system.scratch import DELIVERY, sweep, using
from metadeblur.types import Device

EVENT_SECONDS = 0.5  # between two events of a task, at least
LOOKS_EVERY = 5.0  # seconds between two looks at how many machines there are
PATIENCE = 20.0  # seconds without any worker, after which a line says that they are waited for
VISIBLE_WITHIN = 60.0  # seconds that a network's file system may take to show what another machine wrote
_DEATHS = (WorkerCrashedError, NodeDiedError, OutOfMemoryError, ObjectLostError)
_SAME = ("metadeblur", "torch")  # versions that decide what comes out


@dataclass
class _MachineContext:
    """What a task finds on a machine of the cluster."""

    net: nn.Module
    copies: Path | None  # where the driver's files were copied to; None: the machine sees them
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
    """A machine of the cluster at work on a task; ``key`` is of the run, and nobody else knows it."""

    def __init__(self, size: Places, key: str) -> None:
        torch.set_num_threads(size.threads)
        cv2.setNumThreads(size.threads)
        self._device, self._folder = size.device, folder_of(key)

    def introduce(self) -> dict[str, Any]:
        """What the driver must know before it uses what comes from here."""
        bf16 = has_native_bf16(torch.device(self._device))
        return {"host": platform.node(), "versions": versions(), "bf16": bf16}

    def do(self, net: nn.Module, queue: Any, work: Work, reads: ReadFiles, folder: Path) -> Iterator[Any]:
        """Do a task; tell each of its values with the files that are whole by then.

        Args:
            net: the base deblurrer.
            queue: where events go.
            work: what to do.
            reads: the files that it reads.
            folder: the driver's folder for results.

        Yields:
            None where the files to read are missing; (name, bytes) for each piece of a file for a folder that is not
            seen here; and (value, names of its files, None).
        """
        with ExitStack() as stack:
            copies = None if self.sees(reads) else self._folder / reads.mark
            shared = self.can_write(folder)
            if copies or not shared:
                sweep(self._folder.parent)
                stack.enter_context(using(self._folder))
                self._folder.mkdir(mode=0o700, exist_ok=True)
            if copies and not copies.is_dir():
                if reads.sent is None:
                    yield None
                    return
                draft = Path(tempfile.mkdtemp(dir=self._folder))
                receive(reads.sent, draft)
                with suppress(OSError):  # another worker was quicker
                    draft.rename(copies)
                shutil.rmtree(draft, ignore_errors=True)
            results = folder if shared else Path(tempfile.mkdtemp(dir=self._folder))
            if not shared:
                stack.callback(shutil.rmtree, results, ignore_errors=True)
            for value in work(_MachineContext(net, copies, results, folder.name, queue)):
                files = {path.relative_to(results).as_posix(): path for path in results.rglob("*") if path.is_file()}
                for name, path in () if shared else files.items():
                    for piece in pieces(path):
                        yield name, piece
                    path.unlink()
                yield value, list(files), None

    def sees(self, reads: ReadFiles) -> bool:
        """Whether the driver's files are on this machine."""
        return reads.are_here()

    def can_write(self, folder: Path) -> bool:
        """Whether the driver's folder for results is on this machine: nobody else makes one of its name."""
        return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def work_on(kind: type[Worker], size: Places, key: str, *given: Any) -> Iterator[Any]:
    """A task of Ray's: who does it, and then what :meth:`Worker.do` yields."""
    worker = kind(size, key)
    yield worker.introduce()
    yield from worker.do(*given)


@dataclass
class _Call:
    """A task that Ray is at."""

    task: Task
    reads: ReadFiles
    folder: Path  # where its results arrive
    introduced: bool = False


class ClusterPool(TaskPool):
    """The tasks of one run on a cluster that has been joined, in a ``with`` block that ends them.

    Args:
        net: the base deblurrer; it is put into Ray's object store once.
        settings: how many workers there are to be.
        device: what is to compute.
        say: gets lines for a person.
    """

    def __init__(self, net: nn.Module, settings: ClusterSettings, device: Device, say: Callable[[str], object]) -> None:
        # Of the workers that there are at first.
        self.places = connection.places(connection.machines(), settings, device)
        super().__init__(self.places.workers, say, self.places.device)
        self._settings, self._key = settings, uuid4().hex
        start: Any = ray.remote
        self._start = start(
            num_returns="streaming", max_retries=0, num_cpus=self.places.threads, num_gpus=self.places.gpus
        )(work_on)
        lasting = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
        queue: Any = Queue(actor_options=lasting).actor
        self._queue, self._event = queue, queue.get.remote()
        self._net = ray.put(net)
        self._bf16: bool | None = None  # whether the first worker computes natively in bf16
        self._calls: dict[Any, _Call] = {}
        self._files: dict[tuple[Path, ...], ReadFiles] = {}  # that tasks read
        self._most, self._looked_at = 0, -LOOKS_EVERY
        self._patient_until = time.monotonic() + PATIENCE
        say(f"working on {self.places.describe()}")

    def __exit__(self, *_: object) -> None:
        self.stop()
        ray.kill(self._queue)
        if self._settings.address != connection.LOCAL:
            with suppress(RayError, OSError):  # machines that do not see the driver's files have copies of them
                remove = ray.remote(num_cpus=0, max_retries=0)(connection.remove_folder_of)
                ids = [node["NodeID"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
                where = [NodeAffinitySchedulingStrategy(node_id=name, soft=False) for name in ids]
                ray.get([remove.options(scheduling_strategy=node).remote(self._key) for node in where], timeout=20)

    def for_any_machine(self, adapt: AdaptSettings, restore: RestoreSettings) -> tuple[AdaptSettings, RestoreSettings]:
        """Settings that say the same on every machine; a precision "auto" becomes what suits the first worker."""
        device: Any = self.places.device
        precision: Any = adapt.precision if adapt.precision != "auto" else "bf16" if self._bf16 else "fp32"
        adapt = with_weights(adapt, Path.absolute, precision=precision, device=device)
        return adapt, replace(restore, device=device)

    def stop(self) -> None:
        """End all tasks and take away what arrived of them."""
        for call in self._calls:
            ray.cancel(call, force=True)
        for call in self._calls.values():
            shutil.rmtree(call.folder, ignore_errors=True)
        self._calls = {}

    def _submit(self, tasks: Sequence[Task]) -> None:
        """Give Ray as many tasks as there is room for now; machines may have come or gone."""
        now = time.monotonic()
        if now - self._looked_at >= LOOKS_EVERY:
            self._looked_at, size = now, self.places
            self._most = self._settings.workers or connection.room(connection.machines(), size.threads, size.gpus)
        if self._bf16 is None and now > self._patient_until:
            self._patient_until = float("inf")
            self.say("waiting for a free worker; 'ray status' shows what the cluster is busy with")
        for task in tasks:
            if len(self._calls) >= max(1, self._most):
                return
            folder = task.into.absolute() / f"{DELIVERY}{uuid4().hex}"
            try:
                folder.mkdir()
            except OSError as error:
                self._end(task, error)
                continue
            files = tuple(task.reads)
            reads = self._files[files] = self._files.get(files) or ReadFiles(files)
            given = (self._net, self._queue, task.work, reads, folder)
            task.running = True
            self._calls[self._start.remote(Worker, self.places, self._key, *given)] = _Call(task, reads, folder)

    def _listen(self) -> None:
        for call in ray.wait([*self._calls, self._event], timeout=LOOKS_EVERY)[0]:
            if call in self._calls:
                self._hear(call)
                continue
            name, event = ray.get(call)
            self._event = self._queue.get.remote()
            for busy in self._calls.values():
                if busy.folder.name == name and self.is_wanted(busy.task):
                    busy.task.on_event(event)

    def _hear(self, name: Any) -> None:
        """Take what a worker tells of a task, or see that it is over."""
        call, fault = self._calls[name], None
        task = call.task
        try:
            event = ray.get(next(name))
            if not call.introduced:
                self._welcome(event)
                call.introduced = True
                return
            if event is not None:
                if self.is_wanted(task):  # otherwise it has failed, and nobody waits for the task any more
                    self._take(call, *event)
                return
            task.running = False
            call.reads.sent = call.reads.sent or send(call.reads.files)  # it does not see what it is to read
        except StopIteration:
            self._end(task)
        except _DEATHS:
            self._died(task)
        except RayTaskError as error:
            if not call.introduced:
                raise MetadeblurError(
                    f"a worker cannot start: {str(error).strip().splitlines()[-1].strip()}; every machine of the "
                    "cluster needs the same metadeblur[cluster] and Python"
                ) from error
            fault = error.cause
        except OSError as error:
            fault = error
        del self._calls[name]
        shutil.rmtree(call.folder, ignore_errors=True)
        if fault:
            self._end(task, fault)

    def _welcome(self, about: dict[str, Any]) -> None:
        """Refuse a machine that would make something else of a task."""
        for name in _SAME:
            theirs, ours = about["versions"][name], versions()[name]
            if theirs.partition("+")[0] != ours.partition("+")[0]:
                raise MetadeblurError(
                    f"{about['host']} has {name} {theirs}, this machine {ours}; install the same on every machine"
                )
        self._bf16 = about["bf16"] if self._bf16 is None else self._bf16

    def _take(self, call: _Call, value: Any, data: Any, *last: None) -> None:
        """Put what a task has made where it belongs, as soon as the file system shows it here."""
        folder, task = call.folder, call.task
        if not last:  # a piece of a file
            (folder / value).parent.mkdir(parents=True, exist_ok=True)
            with (folder / value).open("ab") as file:
                file.write(data)
            return
        until = time.monotonic() + VISIBLE_WITHIN
        for name in sorted(data, key=lambda name: ("/" not in name, name)):  # a record after its pictures
            arrived, target = folder / name, task.into / name
            while not arrived.exists() and time.monotonic() < until:
                time.sleep(0.2)
                with suppress(OSError):
                    list(arrived.parent.iterdir())  # has a network's file system look again
            target.parent.mkdir(parents=True, exist_ok=True)
            arrived.replace(target)
        task.done(value)
