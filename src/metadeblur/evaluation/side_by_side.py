"""Paired clips measured side by side: each by whichever worker is free."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from metadeblur.data.paired import read_trial
from metadeblur.errors import MetadeblurError
from metadeblur.evaluation.protocol import ClipJob, ClipProgress, is_measured, ledger_path, measure_job
from metadeblur.evaluation.settings import meta_files
from metadeblur.pipeline.task_pool import Course, Task, TaskContext, TaskPool, weights_read, with_weights
from metadeblur.restoration.restorer import Restorer


def measure_side_by_side(
    jobs: Sequence[ClipJob],
    pool: TaskPool,
    progress: ClipProgress | None = None,
) -> None:
    """Measure clips, as :func:`metadeblur.evaluation.protocol.measure_job` does each of them alone.

    Raises:
        MetadeblurError: the workers cannot work, or clips could not be measured; the others are.
    """
    left = [job for job in jobs if not is_measured(job)]
    if not left:
        return
    done = len(jobs) - len(left)
    failures: dict[str, Exception] = {}
    chosen: dict[str, Any] = {}  # tile and precision

    def tell(stage: str) -> None:
        if progress:
            progress(done, len(jobs), stage)

    def choose(job: ClipJob) -> Course:
        yield [Task(partial(_choose_tile, job), _reads(job), job.out, job.folder.name, chosen.update)]

    def measure(job: ClipJob) -> Course:
        nonlocal done
        name, settings = job.folder.name, job.settings
        try:
            same = pool.for_any_machine(settings.adaptation, replace(settings.restoration, **chosen))
            job = replace(job, settings=replace(settings, adaptation=same[0], restoration=same[1]))
            yield [Task(partial(_measure, job), _reads(job), job.out, name, on_event=tell)]
            ledger_path(job.path).unlink(missing_ok=True)
        except Exception as error:
            failures[name] = error
            pool.say(f"{name} failed: {error}")
        done += 1
        tell(name)

    pool.run([choose(_moved(left[0], Path.absolute))])
    pool.run(measure(_moved(job, Path.absolute)) for job in left)
    if failures:
        reasons = " | ".join(f"{name}: {error}" for name, error in failures.items())
        raise MetadeblurError(f"{len(failures)} of {len(jobs)} clips failed (--resume measures them alone): {reasons}")


def _reads(job: ClipJob) -> list[Path]:
    """A clip's frames, and the networks that its methods name."""
    settings = job.settings
    meta = meta_files(settings.meta) if settings.meta and "meta" in settings.methods else ()
    return [*job.folder.blurred, *job.folder.sharp, *meta, *weights_read(settings.adaptation)]


def _moved(job: ClipJob, locate: Callable[[Path], Path]) -> ClipJob:
    """A job whose files are found elsewhere."""
    settings, meta = job.settings, job.settings.meta
    blurred, sharp = (tuple(map(locate, files)) for files in (job.folder.blurred, job.folder.sharp))
    if meta and "meta" in settings.methods:
        meta = str(locate(meta_files(meta)[0]).parent)
    settings = replace(settings, meta=meta, adaptation=with_weights(settings.adaptation, locate))
    folder = replace(job.folder, blurred=blurred, sharp=sharp)
    return replace(job, folder=folder, out=job.out.absolute(), settings=settings)


# What workers do, with the files that are on their machines.


def _here(job: ClipJob, context: TaskContext) -> ClipJob:
    job = _moved(job, context.locate)
    resume = job.settings.resume and context.folder == job.out  # elsewhere there is nothing to go on with
    return replace(job, out=context.folder, settings=replace(job.settings, resume=resume))


def _choose_tile(job: ClipJob, context: TaskContext) -> Iterator[dict[str, Any]]:
    """Choose tile and precision for a benchmark, on its first clip."""
    job = _here(job, context)
    clip = read_trial(job.folder, crop=job.settings.crop, frames=job.settings.frames).whole
    restorer = Restorer(context.net, clip.height, clip.width, job.settings.restoration)
    restorer.prepare(clip.window(0, restorer.frames))
    yield {"tile": restorer.tile, "precision": restorer.precision}


def _measure(job: ClipJob, context: TaskContext) -> Iterator[None]:
    """Measure a clip: its record and pictures."""
    measure_job(_here(job, context), context.net, lambda stage: context.tell(f"{job.folder.name}: {stage}"))
    yield
