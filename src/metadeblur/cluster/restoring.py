"""Several inputs restored on a cluster: their shots are done by whichever worker is free."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metadeblur.cluster.connection import ClusterSettings, joined
from metadeblur.cluster.files import Reads, with_weights
from metadeblur.cluster.worker_pool import Context, Course, Pool, Task
from metadeblur.pipeline.console import Bar, Talk, stopwatch
from metadeblur.pipeline.cuts import Scan, find_shots
from metadeblur.pipeline.outputs import Job
from metadeblur.pipeline.resume import kept
from metadeblur.pipeline.run import TOLD_SHOTS, Run, RunSettings
from metadeblur.pipeline.shot import Film, decide_shot, restore_shot, settled, write_shot
from metadeblur.system.machine import peak_memory_mb
from metadeblur.video import VideoReader
from metadeblur.video.info import VideoInfo


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
    settings, cluster, talk = settings or RunSettings(), cluster or ClusterSettings(), talk or Talk(quiet=True)
    together, device = _Together(net, settings, model, talk, len(jobs), failed), settings.restoration.device
    with joined(cluster), talk.bar("restoring") as bar, Pool(net, cluster, device, talk) as pool:
        try:
            pool.run(together.course(pool, bar, number, job) for number, job in enumerate(jobs))
        except BaseException as error:
            if together.kept:
                error.add_note(f"{kept(together.kept)}: run it again with --resume to go on")
            raise
    return [together.results[number] for number in range(len(jobs))]


@dataclass
class _Together:
    """Inputs that are restored at the same time, what became of them, and how many of their frames are done."""

    net: nn.Module
    settings: RunSettings
    model: str
    talk: Talk
    inputs: int
    failed: Callable[[Exception], None]
    results: dict[int, dict[str, Any] | Exception] = field(default_factory=dict)  # by number of the input
    kept: int = 0  # finished shots of inputs that were stopped or failed
    frames: dict[int, int] = field(default_factory=dict)  # of each input that has been opened
    done: dict[tuple[int, int], int] = field(default_factory=dict)  # frames of each shot (input, number)

    def course(self, pool: Pool, bar: Bar, number: int, job: Job) -> Course:
        """Restore an input; what goes wrong is its result."""

        def show(index: int, done: int, stage: str = "") -> None:
            self.done[number, index] = max(done, self.done.get((number, index), 0))
            several = f"{len(self.results)} of {self.inputs} inputs done" if self.inputs > 1 else stage
            # Inputs that have not been opened are taken to be like the others.
            frames = sum(self.frames.values()) * self.inputs // len(self.frames)
            bar(sum(self.done.values()), frames, several)

        try:
            with Run(job, self.net, self.settings, self.model, self.talk, device=pool.places.device) as run:
                try:
                    yield from self._steps(pool, number, run, show)
                    self.results[number] = run.conclude()
                except BaseException:
                    self.kept += run.parts.finished
                    raise
        except Exception as error:
            self.results[number] = error
            self.failed(error)
        self.frames[number] = sum(done for (other, _), done in self.done.items() if other == number)
        show(0, 0)

    def _steps(self, pool: Pool, number: int, run: Run, show: Callable[..., None]) -> Course:
        """Take the steps of a run, and have the scan and the shots done by the workers."""
        reader = VideoReader(run.job.source.absolute())
        name, info = run.job.source.name, reader.info
        reads = Reads(info.files if info.kind == "frames" else [info.path], run.settings.adaptation)
        self.frames[number] = info.frames

        def task(work: Any, *given: Any, title: str = name, **calls: Any) -> Task:
            return Task(partial(work, *given), reads, run.parts.folder, title, **calls)

        def film() -> Film:
            """The film as any worker can take it: nothing is left to its own machine to choose."""
            adapt, restore = pool.for_any_machine(run.film.adaptation, run.film.restoration)
            return replace(run.film, reader=reader, adaptation=adapt, restoration=restore)

        def made(index: int, title: str, value: tuple[dict[str, Any], str] | None) -> None:
            if value is None:
                if unseen == {index}:
                    run.join_preview()
                unseen.discard(index)
                return
            run.finish(index, value[0])
            if len(shots) <= TOLD_SHOTS:
                self.talk.say(f"{title}: {value[1]}")
            show(index, len(shots[index]))

        with stopwatch(run.seconds, "scan"):
            yield [task(_scan, info, done=run.know)]
        self.frames[number] = run.info.frames
        reader.learn(run.reader.times)
        if run.parts.noted("settled") is None:
            yield [task(_settle, film(), done=run.settle)]
        shots, unseen = run.film.shots, set(run.preview)
        titles = [f"{name}, {run.film.title(index)}" for index in range(len(shots))]
        tasks = []
        for index, title in enumerate(titles):
            if run.is_finished(index):
                show(index, len(shots[index]))
                continue
            given, done = (film(), index, run.preview.get(index, 0)), partial(made, index, title)
            tasks.append(task(_restore, *given, title=title, done=done, on_step=partial(show, index)))
        yield tasks
        yield [task(_pass, film(), index, run.kinds, title=titles[index]) for index in run.passing()]


# What workers do, with the files that are on their machines.


def _input(info: VideoInfo, context: Context) -> Path:
    return context.locate(info.files[0]).parent if info.kind == "frames" else context.locate(info.path)


def _here(film: Film, context: Context) -> Film:
    reader = VideoReader(_input(film.info, context), times=film.reader.times)
    return replace(film, reader=reader, adaptation=with_weights(film.adaptation, context.locate), folder=context.folder)


def _scan(info: VideoInfo, context: Context) -> Iterator[Scan]:
    yield find_shots(VideoReader(_input(info, context)), progress=lambda done, _: context.step(done))


def _settle(film: Film, context: Context) -> Iterator[dict[str, Any]]:
    yield settled(_here(film, context), context.net)


def _restore(film: Film, index: int, previewed: int, context: Context) -> Iterator[tuple[dict[str, Any], str] | None]:
    """Restore a shot: its record and what was decided; before that None, once ``previewed`` frames are there."""
    film, net, title = _here(film, context), context.net, film.title(index)
    decision = decide_shot(
        film, net, index, lambda done, total, stage: context.step(0, f"{title}: {stage} {done} of {total}")
    )
    if previewed:
        restorer = None if decision.model is None else film.restorer(decision.model)
        write_shot(film, index, ["preview"], restorer, count=previewed)
        yield None
    record = restore_shot(film, net, index, decision, lambda done, *_: context.step(done, title))
    worker = {"host": platform.node(), "process": os.getpid(), "threads": torch.get_num_threads()}
    yield record | {"worker": worker | {"peak_memory_mb": peak_memory_mb()}}, decision.in_short()


def _pass(film: Film, index: int, kinds: Sequence[str], context: Context) -> Iterator[None]:
    """Write segments of a shot whose frames pass as they are."""
    write_shot(_here(film, context), index, kinds, None)
    yield
