"""Several inputs restored on a cluster: their shots are done by whichever worker is free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import nn

from metadeblur.cluster.connection import ClusterSettings, joined
from metadeblur.cluster.files import Reads
from metadeblur.cluster.worker import Step, do_shot, pass_shot, scan_input, settle_input
from metadeblur.cluster.worker_pool import Course, Pool, Task
from metadeblur.models.weights import reblurrer_path
from metadeblur.pipeline.console import Bar, Talk, stopwatch
from metadeblur.pipeline.outputs import Job
from metadeblur.pipeline.resume import kept
from metadeblur.pipeline.run import TOLD_SHOTS, Run, RunSettings
from metadeblur.pipeline.shot import Film
from metadeblur.video import VideoReader


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
    with (
        joined(cluster),
        talk.bar("restoring") as bar,
        Pool(net, cluster, settings.restoration.device, talk) as pool,
    ):
        talk.say(f"working on {pool.places.describe()}")
        together = _Together(pool, net, settings, model, talk, bar, len(jobs))
        try:
            pool.run(together.course(number, job, failed) for number, job in enumerate(jobs))
        except BaseException as error:
            if together.kept:
                error.add_note(f"{kept(together.kept)}: run it again with --resume to go on")
            raise
    return [together.results[number] for number in range(len(jobs))]


@dataclass
class _Together:
    """Inputs that are restored at the same time, what became of them, and how many of their frames are done."""

    pool: Pool
    net: nn.Module
    settings: RunSettings
    model: str
    talk: Talk
    bar: Bar
    inputs: int
    results: dict[int, dict[str, Any] | Exception] = field(default_factory=dict)  # by number of the input
    kept: int = 0  # finished shots of inputs that were stopped or failed
    frames: dict[int, int] = field(default_factory=dict)  # of each input that has been opened
    done: dict[tuple[int, int], int] = field(default_factory=dict)  # frames of each shot (input, number)

    def course(self, number: int, job: Job, failed: Callable[[Exception], None]) -> Course:
        """Restore an input; what goes wrong is its result."""
        try:
            with Run(job, self.net, self.settings, self.model, self.talk, device=self.pool.places.device) as run:
                try:
                    yield from self._steps(number, run)
                    self.results[number] = run.conclude()
                except BaseException:
                    self.kept += run.parts.finished
                    raise
        except Exception as error:
            self.results[number] = error
            failed(error)
        self.frames[number] = sum(done for (other, _), done in self.done.items() if other == number)
        self._show("")

    def _steps(self, number: int, run: Run) -> Course:
        """Take the steps of a run, and have the scan and the shots done by the workers."""
        adaptation, reader = run.settings.adaptation, VideoReader(run.job.source.absolute())
        weights = [reblurrer_path(adaptation.reblurrer)] if adaptation.reblurrer else []
        info = reader.info
        files = info.files if info.kind == "frames" else (info.path,)
        task = partial(Task, reads=Reads([*files, *weights]), into=run.parts.folder)
        name, self.frames[number] = run.job.source.name, info.frames
        with stopwatch(run.seconds, "scan"):
            yield [task(partial(scan_input, info), title=name, done=run.know)]
        self.frames[number] = run.info.frames
        reader.learn(run.reader.times)
        if run.parts.noted("settled") is None:
            yield [task(partial(settle_input, self._for_workers(run, reader)), title=name, done=run.settle)]
        film, unseen = self._for_workers(run, reader), set(run.preview)

        def finish(index: int, made: tuple[dict[str, Any], str]) -> None:
            run.finish(index, made[0])
            if len(film.shots) <= TOLD_SHOTS:
                self.talk.say(f"{name}, {film.title(index)}: {made[1]}")
            step(index, Step(len(film.shots[index])))

        def step(index: int, so_far: Step) -> None:
            self.done[number, index] = max(so_far.done, self.done.get((number, index), 0))
            self._show(so_far.stage)

        def part(index: int) -> None:
            if index in unseen:
                unseen.remove(index)
                if not unseen:
                    run.join_preview()

        shots: list[Task] = []
        for index, shot in enumerate(film.shots):
            if run.is_finished(index):
                step(index, Step(len(shot)))
                continue
            work = partial(do_shot, film, index, run.preview.get(index, 0))
            calls = {"done": partial(finish, index), "on_step": partial(step, index), "on_part": partial(part, index)}
            shots.append(task(work, title=f"{name}, {film.title(index)}", **calls))
        yield shots
        yield [
            task(
                partial(pass_shot, self._for_workers(run, reader), index, run.kinds),
                title=f"{name}, {film.title(index)}",
            )
            for index in run.passing()
        ]

    def _for_workers(self, run: Run, reader: VideoReader) -> Film:
        """The film as any worker can take it: nothing is left to its own machine to choose."""
        adaptation, restoration = self.pool.for_any_machine(run.film.adaptation, run.film.restoration)
        return replace(run.film, reader=reader, adaptation=adaptation, restoration=restoration)

    def _show(self, stage: str) -> None:
        several = f"{len(self.results)} of {self.inputs} inputs done" if self.inputs > 1 else stage
        # Inputs that have not been opened are taken to be like the others.
        opened = max(1, len(self.frames))
        self.bar(sum(self.done.values()), sum(self.frames.values()) * self.inputs // opened, several)
