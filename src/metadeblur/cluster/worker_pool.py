"""The driver's side of the workers: errands are handed to whoever is free, and again where a worker dies."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import ray
from ray.exceptions import (
    GetTimeoutError,
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

from metadeblur.cluster.connection import ClusterSettings, Places, machines, places, remove_folder_of, room
from metadeblur.cluster.files import Cargo, Shipped, delivery
from metadeblur.cluster.worker import Errand, Event, Made, Missing, Piece, Step, Worker
from metadeblur.errors import MetadeblurError
from metadeblur.pipeline.console import Talk
from metadeblur.system.record import versions
from metadeblur.types import Device

ATTEMPTS = 4  # at an errand whose worker dies each time
GROWS_EVERY = 5.0  # seconds between two looks at how many machines there are
PATIENCE = 20.0  # seconds without any worker, after which it is said that they are waited for
VISIBLE_WITHIN = 60.0  # seconds that a network's file system may take to show what another machine wrote
_DEATHS = (RayActorError, WorkerCrashedError, NodeDiedError, OutOfMemoryError, ObjectLostError)
_SAME = ("metadeblur", "torch")  # versions that decide what comes out

Result = TypeVar("Result")


@dataclass(order=True)
class _Order:
    """An errand that waits for a worker."""

    rank: tuple[int, int]  # what comes first is done first
    errand: Errand = field(compare=False)
    cargo: Cargo = field(compare=False)
    into: Path = field(compare=False)  # where its results belong
    title: str = field(compare=False)
    outcome: asyncio.Future[Any] = field(compare=False)
    on_step: Callable[[Step], None] = field(compare=False)
    on_part: Callable[[], None] = field(compare=False)
    deaths: int = field(default=0, compare=False)


class Crew:
    """The workers of one run on a cluster that has been joined.

    Args:
        net: the base deblurrer; it is put into Ray's object store once.
        settings: how many workers there are to be.
        device: what is to compute.
        talk: where lines go.

    Attributes:
        places: how many workers there are at first, and what each has.
        bf16: whether the first worker computes natively in bf16; known in errands' coroutines.
    """

    bf16: bool

    def __init__(self, net: nn.Module, settings: ClusterSettings, device: Device, talk: Talk) -> None:
        self.places: Places = places(machines(), settings, device)
        self._net = ray.put(net)
        self._fixed, self._talk = settings.workers, talk
        self._key = uuid4().hex
        self._orders: asyncio.PriorityQueue[_Order] = asyncio.PriorityQueue()
        self._count = itertools.count()
        self._shipped: dict[str, Shipped] = {}
        self._ready = asyncio.Event()
        self._left_behind = False  # whether files lie in the workers' own folders
        self._stillborn = 0  # workers that died before they could introduce themselves
        as_actor = ray.remote(num_cpus=self.places.threads, num_gpus=self.places.gpus, max_restarts=0)
        self._kind: Any = as_actor(Worker)

    def run(self, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Keep workers while a coroutine uses them through :meth:`do`; returns its result.

        Raises:
            MetadeblurError: the workers cannot work: another version of the program, or none, on their machine.
        """
        try:
            return asyncio.run(self._while_kept(work()))
        finally:
            if self._left_behind:
                self._tidy()

    async def do(
        self,
        errand: Errand,
        into: Path,
        *,
        rank: int = 0,
        title: str = "",
        on_step: Callable[[Step], None] = lambda _: None,
        on_part: Callable[[], None] = lambda: None,
    ) -> Any:
        """Have an errand done; returns its value when its results are where they belong.

        Args:
            errand: what to do.
            into: folder of the results.
            rank: errands of lower rank are done first.
            title: what a person calls it.
            on_step: called with what it tells of its progress.
            on_part: called when a part of the results is there before all are.

        Raises:
            MetadeblurError: (or another exception) what went wrong in the worker, or every worker died of it.
        """
        await self._ready.wait()
        outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        cargo, place = Cargo.of(errand.reads), (rank, next(self._count))
        self._orders.put_nowait(_Order(place, errand, cargo, into.absolute(), title, outcome, on_step, on_part))
        return await outcome

    def forget(self, errand: Errand) -> None:
        """The files that an errand reads are not needed any more: give back what they take of Ray's object store."""
        self._shipped.pop(Cargo.of(errand.reads).mark, None)

    # --- workers ---------------------------------------------------------------------------------------------------

    async def _while_kept(self, work: Coroutine[Any, Any, Result]) -> Result:
        keeper, worker = asyncio.create_task(self._keep()), asyncio.create_task(work)
        try:
            await asyncio.wait({keeper, worker}, return_when=asyncio.FIRST_COMPLETED)
            if not worker.done():
                keeper.result()  # it only ends by an error
            return worker.result()
        finally:
            for task in (worker, keeper):
                task.cancel()
            await asyncio.gather(worker, keeper, return_exceptions=True)

    async def _keep(self) -> None:
        """Have as many workers as there is room for, for ever; raises what makes work impossible."""
        began, patient = time.monotonic(), True
        tending: set[asyncio.Task[None]] = set()
        try:
            while True:
                while len(tending) < max(1, self._wanted()):
                    tending.add(asyncio.create_task(self._tend()))
                done, tending = await asyncio.wait(tending, timeout=GROWS_EVERY, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                if patient and not self._ready.is_set() and time.monotonic() - began > PATIENCE:
                    patient = False
                    self._talk.say("waiting for a free worker; 'ray status' shows what the cluster is busy with")
        finally:
            for task in tending:
                task.cancel()
            await asyncio.gather(*tending, return_exceptions=True)

    def _wanted(self) -> int:
        """How many workers there should be now; machines may have come or gone."""
        return self._fixed or room(machines(), self.places.threads, self.places.gpus)

    async def _tend(self) -> None:
        """Have a worker do one errand after the other; ends when it dies."""
        actor = self._kind.remote(self._net, self.places.threads, self.places.device, self._key)
        try:
            if not await self._introduced(actor):
                return
            while True:
                order = await self._orders.get()
                if not order.outcome.done():
                    try:
                        await self._carry_out(actor, order)
                    except asyncio.CancelledError:
                        self._orders.put_nowait(order)
                        raise
                    except _DEATHS:
                        self._died(order)
                        return
                    except Exception as error:
                        if not order.outcome.done():
                            order.outcome.set_exception(_own(error, order.title))
        finally:
            ray.kill(actor)

    async def _introduced(self, actor: Any) -> bool:
        """Get to know a worker once it runs; False where it died."""
        try:
            about = await actor.introduce.remote()
        except (RayActorError, RayTaskError) as error:
            self._stillborn += 1
            if isinstance(error, RayActorError) and not error.actor_init_failed and self._stillborn < ATTEMPTS:
                return False
            raise MetadeblurError(
                f"a worker cannot start: {str(error).strip().splitlines()[-1].strip()}; every machine of the cluster "
                "needs the same metadeblur[cluster] and Python"
            ) from error
        here = versions()
        for name in _SAME:
            theirs, ours = about["versions"][name], here[name]
            if theirs.partition("+")[0] != ours.partition("+")[0]:
                raise MetadeblurError(
                    f"{about['host']} has {name} {theirs}, this machine {ours}; install the same on every machine"
                )
        if not self._ready.is_set():
            self.bf16 = about["bf16"]
            self._ready.set()
        self._stillborn = 0
        return True

    def _died(self, order: _Order) -> None:
        """A worker has died over an errand: it is done again, unless that has happened too often."""
        if order.outcome.done():
            return
        order.deaths += 1
        if order.deaths < ATTEMPTS:
            self._talk.say(f"{order.title}: its worker died; it is done again")
            self._orders.put_nowait(order)
            return
        order.outcome.set_exception(
            MetadeblurError(
                f"{order.title}: {order.deaths} workers died over it, perhaps for want of memory; try fewer --workers "
                "or smaller tiles (--tile 256)"
            )
        )

    # --- errands ---------------------------------------------------------------------------------------------------

    async def _carry_out(self, actor: Any, order: _Order) -> None:
        """Have a worker do an errand; what it makes is put where it belongs."""
        shipped = self._shipped.get(order.cargo.mark)
        with delivery(order.into) as folder:
            call = actor.do.options(num_returns="streaming")
            async for reference in call.remote(order.errand, order.cargo, shipped, folder):
                event: Event = await reference
                if order.outcome.done():  # nobody waits for it any more
                    continue
                match event:
                    case Step():
                        order.on_step(event)
                    case Missing():
                        self._left_behind = True
                        self._shipped.setdefault(order.cargo.mark, order.cargo.ship())
                        self._orders.put_nowait(order)
                    case Piece():
                        self._left_behind = True
                        path = folder / event.name
                        path.parent.mkdir(parents=True, exist_ok=True)
                        with path.open("ab") as file:
                            file.write(event.data)
                    case Made():
                        self._left_behind |= event.sent
                        for name in event.names:
                            await _put(folder / name, order.into / name)
                        if event.last:
                            order.outcome.set_result(event.value)
                        else:
                            order.on_part()

    def _tidy(self) -> None:
        """Remove what the workers of this run have left on their machines."""
        with suppress(RayError, OSError):
            remove = ray.remote(num_cpus=0, max_retries=0)(remove_folder_of)
            ids = [node["NodeID"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
            where = [NodeAffinitySchedulingStrategy(node_id=name, soft=False) for name in ids]
            with suppress(GetTimeoutError):
                ray.get([remove.options(scheduling_strategy=node).remote(self._key) for node in where], timeout=20)


async def _put(made: Path, target: Path) -> None:
    """Give a file of results its place, as soon as the file system shows it here."""
    until = time.monotonic() + VISIBLE_WITHIN
    while not made.exists() and time.monotonic() < until:
        await asyncio.sleep(0.2)
        with suppress(OSError):
            list(made.parent.iterdir())  # has a network's file system look again
    target.parent.mkdir(parents=True, exist_ok=True)
    made.replace(target)


def _own(error: Exception, title: str) -> Exception:
    """What went wrong in a worker, as it was raised there."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
        return error.cause
    if isinstance(error, RayError):
        return MetadeblurError(f"{title}: {str(error).strip().splitlines()[0]}")
    return error
