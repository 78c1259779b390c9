"""Several inputs restored side by side: their shots are done by whichever worker is free."""

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

from metadeblur.pipeline.console import stopwatch
from metadeblur.pipeline.cuts import Scan, find_shots
from metadeblur.pipeline.events import (
    Event,
    FilesAdvanced,
    FirstLook,
    FrameRestored,
    FrameScanned,
    Listener,
    PhaseEnded,
    PhaseStarted,
    Position,
    StepDone,
    ignore,
)
from metadeblur.pipeline.first_look import try_first_look
from metadeblur.pipeline.messages import shot_events
from metadeblur.pipeline.outputs import Job
from metadeblur.pipeline.resume import kept
from metadeblur.pipeline.run import Run, RunSettings
from metadeblur.pipeline.shot import ShotContext, choose_tile, decide_shot, restore_shot, write_shot
from metadeblur.pipeline.task_pool import Course, Task, TaskContext, TaskPool, weights_read, with_weights
from metadeblur.report.record import RunRecord, ShotRecord
from metadeblur.restoration.restorer import RestoreSettings
from metadeblur.system.machine import peak_memory_mb
from metadeblur.video import Part, VideoReader
from metadeblur.video.info import VideoInfo


def restore_files(
    jobs: Sequence[Job],
    net: nn.Module,
    settings: RunSettings,
    pool: TaskPool,
    *,
    model: str = "",
    listener: Listener | None = None,
    failed: Callable[[Exception], None] = lambda _: None,
) -> list[RunRecord | Exception]:
    """Restore inputs side by side, as :func:`metadeblur.pipeline.run.restore_file` does each of them alone.

    The frames are the same, byte for byte, as those of a run without a pool on a machine like the workers', with as
    many threads as a worker has.

    Args:
        jobs: the inputs and the files to make of each.
        net: the base deblurrer; it is not changed.
        settings: how.
        pool: who does the work.
        model: what the records call the network.
        listener: called with each event (:mod:`metadeblur.pipeline.events`).
        failed: called at once when an input fails.

    Returns:
        For each input its record, or what went wrong with it; the others are still done.

    Raises:
        MetadeblurError: the workers cannot work.
    """
    tell = listener or ignore
    together = _Together(net, settings, model, tell, len(jobs), failed)
    tell(PhaseStarted("restore", jobs[0].source.name if jobs else ""))
    try:
        pool.run(together.course(pool, number, job) for number, job in enumerate(jobs))
    except BaseException as error:
        if together.kept:
            error.add_note(f"{kept(together.kept)}: run it again with --resume to go on")
        raise
    finally:
        tell(PhaseEnded("restore"))
    return [together.results[number] for number in range(len(jobs))]


@dataclass
class _Together:
    """Inputs that are restored at the same time, their results, and how many of their frames are done."""

    net: nn.Module
    settings: RunSettings
    model: str
    tell: Listener
    inputs: int
    failed: Callable[[Exception], None]
    results: dict[int, RunRecord | Exception] = field(default_factory=dict)  # by number of the input
    kept: int = 0  # finished shots of inputs that were stopped or failed
    frames: dict[int, int] = field(default_factory=dict)  # of each input that has been opened
    done: dict[tuple[int, int], int] = field(default_factory=dict)  # frames of each shot (input, number)

    def course(self, pool: TaskPool, number: int, job: Job) -> Course:
        """Restore an input; what goes wrong is its result."""
        try:
            with Run(job, self.net, self.settings, self.model, self.tell, device=pool.device) as run:
                try:
                    yield from self._steps(pool, number, run)
                    self.results[number] = run.conclude()
                except BaseException:
                    self.kept += run.parts.finished
                    raise
        except Exception as error:
            self.results[number] = error
            self.failed(error)
        self.frames[number] = sum(done for (other, _), done in self.done.items() if other == number)
        self._advance(number, 0, 0)

    def _advance(self, number: int, index: int, done: int) -> None:
        """Tell that so many frames of a shot of an input are done."""
        self.done[number, index] = max(done, self.done.get((number, index), 0))
        frames = sum(self.frames.values()) * self.inputs // len(self.frames)
        self.tell(FilesAdvanced(sum(self.done.values()), frames, len(self.results), self.inputs))

    def _hear(self, number: int, index: int, start: int, event: Event) -> None:
        """Take an event of a worker that is at a shot."""
        match event:
            case FrameRestored(at=at):
                self._advance(number, index, at.frames_done - start)
            case StepDone() if self.inputs == 1:
                self.tell(event)

    def _tell_look(self, look: FirstLook | None) -> None:
        """Tell the first look, if there is one."""
        if look is not None:
            self.tell(look)

    def _steps(self, pool: TaskPool, number: int, run: Run) -> Course:
        """Take the steps of a run, and have the scan and the shots done by the workers."""
        reader = VideoReader(run.job.source.absolute(), part=run.settings.part)
        name, info = run.job.source.name, reader.info
        reads = [*(info.files if info.kind == "frames" else [info.path]), *weights_read(run.settings.adaptation)]
        self.frames[number] = info.frames

        def task(work: Any, *given: Any, title: str = name, **calls: Any) -> Task:
            return Task(partial(work, *given), reads, run.parts.folder, title, **calls)

        def for_any_machine() -> ShotContext:
            """What a worker needs to know: nothing is left to its own machine to choose."""
            adapt, restore = pool.for_any_machine(run.context.adaptation, run.context.restoration)
            return replace(run.context, reader=reader, adaptation=adapt, restoration=restore)

        def take(index: int, result: tuple[ShotRecord, str] | None) -> None:
            if result is None:
                if unseen == {index}:
                    run.join_preview()
                unseen.discard(index)
                return
            record, summary = result
            run.finish(record)
            for event in shot_events(record, len(shots), summary, name):
                self.tell(event)
            self._advance(number, index, len(shots[index]))

        looks = []
        if number == 0 and run.wants_first_look:
            restoration = pool.for_any_machine(self.settings.adaptation, self.settings.restoration)[1]
            looks = [task(_look, info, reader.part, restoration, done=self._tell_look)]
        with stopwatch(run.seconds, "scan"):
            yield [*looks, task(_scan, info, reader.part, done=run.take_scan)]
        self.frames[number] = run.info.frames
        reader.learn(run.reader.times)
        if run.parts.noted("tile") is None:
            yield [task(_choose_tile, for_any_machine(), done=run.use_tile)]
        shots, unseen = run.context.shots, set(run.preview)
        titles = [f"{name}, {run.context.title(index)}" for index in range(len(shots))]
        tasks = []
        for index, title in enumerate(titles):
            if run.is_finished(index):
                self._advance(number, index, len(shots[index]))
                continue
            hear = partial(self._hear, number, index, shots[index].start)
            given = (for_any_machine(), index, run.preview.get(index, 0))
            tasks.append(task(_restore, *given, title=title, done=partial(take, index), on_event=hear))
        yield tasks
        yield [task(_pass, for_any_machine(), index, run.kinds, title=titles[index]) for index in run.passing()]


# What workers do, with the files that are on their machines.


def _input(info: VideoInfo, context: TaskContext) -> Path:
    return context.locate(info.files[0]).parent if info.kind == "frames" else context.locate(info.path)


def _here(given: ShotContext, context: TaskContext) -> ShotContext:
    reader = VideoReader(_input(given.info, context), times=given.reader.times, part=given.reader.part)
    adaptation = with_weights(given.adaptation, context.locate)
    return replace(given, reader=reader, adaptation=adaptation, folder=context.folder)


def _look(
    info: VideoInfo, part: Part | None, settings: RestoreSettings, context: TaskContext
) -> Iterator[FirstLook | None]:
    yield try_first_look(VideoReader(_input(info, context), part=part), context.net, settings)


def _scan(info: VideoInfo, part: Part | None, context: TaskContext) -> Iterator[Scan]:
    reader = VideoReader(_input(info, context), part=part)
    yield find_shots(reader, progress=lambda *done: context.tell(FrameScanned(*done)))


def _choose_tile(shots: ShotContext, context: TaskContext) -> Iterator[dict[str, Any]]:
    yield choose_tile(_here(shots, context), context.net)


def _restore(
    shots: ShotContext, index: int, previewed: int, context: TaskContext
) -> Iterator[tuple[ShotRecord, str] | None]:
    """Restore a shot: its record and what was decided; before that None, once ``previewed`` frames are there."""
    shots, net, start = _here(shots, context), context.net, shots.shots[index].start

    def at(done: int) -> Position:
        return Position(index, len(shots.shots), start + done, shots.info.frames)

    decision = decide_shot(
        shots, net, index, lambda done, total, stage: context.tell(StepDone(at(0), stage, done, total))
    )
    if previewed:
        restorer = None if decision.model is None else shots.restorer(decision.model)
        write_shot(shots, index, ["preview"], restorer, count=previewed)
        yield None
    record = restore_shot(
        shots, net, index, decision, lambda done, *_: context.tell(FrameRestored(at(done), None, None))
    )
    worker = {"host": platform.node(), "process": os.getpid(), "threads": torch.get_num_threads()}
    yield replace(record, worker=worker | {"peak_memory_mb": peak_memory_mb()}), decision.in_short()


def _pass(shots: ShotContext, index: int, kinds: Sequence[str], context: TaskContext) -> Iterator[None]:
    """Write segments of a shot whose frames pass as they are."""
    write_shot(_here(shots, context), index, kinds, None)
    yield
