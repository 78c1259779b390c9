"""Several inputs restored on a cluster: their shots are done by whichever worker is free."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from metadeblur.cluster.connection import ClusterSettings, joined
from metadeblur.cluster.worker import PassShot, RestoreShot, ScanInput, Settle, Step, for_any_machine
from metadeblur.cluster.worker_pool import Crew
from metadeblur.pipeline.console import Bar, Talk, stopwatch
from metadeblur.pipeline.outputs import Job
from metadeblur.pipeline.resume import kept
from metadeblur.pipeline.run import TOLD_SHOTS, Run, RunSettings
from metadeblur.pipeline.shot import Film
from metadeblur.video import VideoReader

OPEN_INPUTS = 4  # beyond one for each worker: so that there is always work while some are joined


def restore_files(
    jobs: Sequence[Job],
    net: nn.Module,
    settings: RunSettings | None = None,
    cluster: ClusterSettings | None = None,
    *,
    model: str = "",
    talk: Talk | None = None,
    failed: Callable[[Exception], None] = lambda _: None,
) -> list[dict[str, Any] | Exception]:
    """Restore inputs on a cluster, as :func:`metadeblur.pipeline.run.restore_file` does each of them here.

    The frames are the same, byte for byte, as those of a run without a cluster on a machine like the workers', with as
    many threads as a worker has (:class:`~metadeblur.cluster.connection.ClusterSettings`).

    Args:
        jobs: the inputs and the files to make of each.
        net: the base deblurrer; it is not changed.
        settings: how.
        cluster: where the processes come from; by default as many are started here as there are processors.
        model: what the records call the network.
        talk: where lines and progress go; by default nowhere.
        failed: called at once when an input fails.

    Returns:
        For each input its record, plain JSON values, or what went wrong with it; the others are still done.

    Raises:
        MetadeblurError: no cluster answers, has no room, or its workers cannot work.
    """
    settings, talk = settings or RunSettings(), talk or Talk(quiet=True)
    cluster = cluster or ClusterSettings()
    with joined(cluster):
        crew = Crew(net, cluster, settings.restoration.device, talk)
        talk.say(f"working on {crew.places.describe()}")
        with talk.bar("restoring") as bar:
            together = _Together(jobs, net, settings, crew, model, talk, bar, failed)
            try:
                return crew.run(together.all)
            except BaseException as error:
                if together.kept:
                    error.add_note(f"{kept(together.kept)}: run it again with --resume to go on")
                raise


class _Together:
    """Inputs that are restored at the same time."""

    def __init__(
        self,
        jobs: Sequence[Job],
        net: nn.Module,
        settings: RunSettings,
        crew: Crew,
        model: str,
        talk: Talk,
        bar: Bar,
        failed: Callable[[Exception], None],
    ) -> None:
        self.jobs, self.net, self.settings, self.crew, self.model = jobs, net, settings, crew, model
        self.talk, self.failed = talk, failed
        self.counted = _Counted(bar, len(jobs))
        self.kept = 0  # finished shots of inputs that were stopped or failed

    async def all(self) -> list[dict[str, Any] | Exception]:
        """Restore every input."""
        gate = asyncio.Semaphore(self.crew.places.workers + OPEN_INPUTS)
        return await asyncio.gather(*(self._one(number, job, gate) for number, job in enumerate(self.jobs)))

    async def _one(self, number: int, job: Job, gate: asyncio.Semaphore) -> dict[str, Any] | Exception:
        """Restore an input; what goes wrong is returned."""
        async with gate:
            try:
                return await self._restored(number, job)
            except Exception as error:
                self.failed(error)
                return error
            finally:
                self.counted.over(number)

    async def _restored(self, number: int, job: Job) -> dict[str, Any]:
        device = self.crew.places.device
        with Run(job, self.net, self.settings, self.model, self.talk, device=device) as run:
            try:
                return await self._shots_of(number, run)
            except BaseException:
                self.kept += run.parts.finished
                raise

    async def _shots_of(self, number: int, run: Run) -> dict[str, Any]:
        """Take the steps of a run, and have the scan and the shots done by the crew."""
        name, folder = run.job.source.name, run.parts.folder
        reader = VideoReader(run.job.source.absolute())
        scan = ScanInput(reader.info)
        self.counted.expect(number, reader.info.frames)
        with stopwatch(run.seconds, "scan"):
            run.know(await self.crew.do(scan, folder, rank=number, title=name))
        self.counted.expect(number, run.info.frames)
        reader.learn(run.reader.times)
        if run.parts.noted("settled") is None:
            settle = Settle(self._for_workers(run.film, reader))
            run.settle(await self.crew.do(settle, folder, rank=number, title=name))
        unseen = set(run.preview)
        await _all(self._shot(number, run, index, reader, unseen) for index in range(len(run.film.shots)))
        film = self._for_workers(run.film, reader)
        await _all(
            self.crew.do(PassShot(film, index, run.kinds), folder, rank=number, title=f"{name}, {film.title(index)}")
            for index in run.passing()
        )
        self.crew.forget(scan)
        return run.conclude()

    async def _shot(self, number: int, run: Run, index: int, reader: VideoReader, unseen: set[int]) -> None:
        """Have a shot restored, unless an earlier run has done so; ``unseen``: shots that the preview waits for."""
        title = f"{run.job.source.name}, {run.film.title(index)}"
        if not run.is_finished(index):
            errand = RestoreShot(self._for_workers(run.film, reader), index, run.preview.get(index, 0))

            def on_step(step: Step) -> None:
                self.counted.so_far(number, index, step.done, step.stage)

            def on_part() -> None:
                if index in unseen:
                    unseen.remove(index)
                    if not unseen:
                        run.join_preview()

            folder = run.parts.folder
            record, said = await self.crew.do(
                errand, folder, rank=number, title=title, on_step=on_step, on_part=on_part
            )
            run.finish(index, record)
            if len(run.film.shots) <= TOLD_SHOTS:
                self.talk.say(f"{title}: {said}")
        self.counted.so_far(number, index, len(run.film.shots[index]))

    def _for_workers(self, film: Film, reader: VideoReader) -> Film:
        """The film as any worker can take it: nothing is left to its own machine to choose."""
        adaptation, restoration = for_any_machine(
            film.adaptation, film.restoration, self.crew.places.device, bf16=self.crew.bf16
        )
        return replace(film, reader=reader, adaptation=adaptation, restoration=restoration)


class _Counted:
    """How many frames of all inputs are done."""

    def __init__(self, bar: Bar, inputs: int) -> None:
        self.bar, self.inputs = bar, inputs
        self.frames: dict[int, int] = {}  # of each input that has been opened
        self.done: dict[tuple[int, int], int] = {}  # of each shot (input, number)
        self.finished = 0  # inputs

    def expect(self, number: int, frames: int) -> None:
        """An input has so many frames."""
        self.frames[number] = frames

    def so_far(self, number: int, index: int, done: int, stage: str = "") -> None:
        """So many frames of a shot are done."""
        self.done[number, index] = max(done, self.done.get((number, index), 0))
        self._show(stage)

    def over(self, number: int) -> None:
        """An input is finished, or failed: it is not waited for any more."""
        self.finished += 1
        self.frames[number] = sum(done for (other, _), done in self.done.items() if other == number)
        self._show("")

    def _show(self, stage: str) -> None:
        several = f"{self.finished} of {self.inputs} inputs done" if self.inputs > 1 else stage
        # Inputs that have not been opened are taken to be like the others.
        opened = max(1, len(self.frames))
        self.bar(sum(self.done.values()), sum(self.frames.values()) * self.inputs // opened, several)


async def _all(work: Any) -> None:
    """Wait for all of some coroutines; where one fails the others are dropped."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
