"""Paired clips measured on a cluster: each by whichever worker is free."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from metadeblur.cluster.connection import ClusterSettings, joined
from metadeblur.cluster.files import Reads, with_weights
from metadeblur.cluster.worker_pool import Context, Course, Pool, Task
from metadeblur.data.paired import read_trial
from metadeblur.errors import MetadeblurError
from metadeblur.evaluation.protocol import ClipJob, ClipProgress, is_measured, ledger_path, measure_job
from metadeblur.evaluation.settings import meta_files
from metadeblur.pipeline.console import Talk
from metadeblur.restoration.restorer import Restorer


def measure_on_cluster(
    jobs: Sequence[ClipJob],
    net: nn.Module,
    progress: ClipProgress | None = None,
    *,
    cluster: ClusterSettings | None = None,
    talk: Talk | None = None,
) -> None:
    """Measure clips on a cluster, as :func:`metadeblur.evaluation.protocol.measure_job` does each of them here.

    Raises:
        MetadeblurError: no cluster answers, or clips could not be measured; the others are.
    """
    cluster, talk = cluster or ClusterSettings(), talk or Talk(quiet=True)
    left = [job for job in jobs if not is_measured(job)]
    if not left:
        return
    done = len(jobs) - len(left)
    failures: dict[str, Exception] = {}
    settled: dict[str, Any] = {}  # tile and precision

    def tell(stage: str) -> None:
        if progress:
            progress(done, len(jobs), stage)

    def settle(job: ClipJob) -> Course:
        yield [Task(partial(_settle, job), _reads(job), job.out, job.folder.name, settled.update)]

    def measure(job: ClipJob, pool: Pool) -> Course:
        nonlocal done
        name, settings = job.folder.name, job.settings
        try:
            same = pool.for_any_machine(settings.adaptation, replace(settings.restoration, **settled))
            job = replace(job, settings=replace(settings, adaptation=same[0], restoration=same[1]))
            yield [Task(partial(_measure, job), _reads(job), job.out, name, on_step=lambda _, stage: tell(stage))]
            ledger_path(job.path).unlink(missing_ok=True)
        except Exception as error:
            failures[name] = error
            talk.say(f"{name} failed: {error}")
        done += 1
        tell(name)

    with joined(cluster), Pool(net, cluster, left[0].settings.restoration.device, talk) as pool:
        pool.run([settle(_moved(left[0], Path.absolute))])
        pool.run(measure(_moved(job, Path.absolute), pool) for job in left)
    if failures:
        reasons = " | ".join(f"{name}: {error}" for name, error in failures.items())
        raise MetadeblurError(f"{len(failures)} of {len(jobs)} clips failed (--resume measures them alone): {reasons}")


def _reads(job: ClipJob) -> Reads:
    """A clip's frames, and the networks that its methods name."""
    settings = job.settings
    meta = meta_files(settings.meta) if settings.meta and "meta" in settings.methods else ()
    return Reads([*job.folder.blurred, *job.folder.sharp, *meta], settings.adaptation)


def _moved(job: ClipJob, locate: Callable[[Path], Path]) -> ClipJob:
    """A job whose files are found elsewhere."""
    settings, meta = job.settings, job.settings.meta
    blurred, sharp = (tuple(map(locate, files)) for files in (job.folder.blurred, job.folder.sharp))
    if meta and "meta" in settings.methods:
        meta = str(locate(meta_files(meta)[0]).parent)
    settings = replace(settings, meta=meta, adaptation=with_weights(settings.adaptation, locate))
    return replace(job, folder=replace(job.folder, blurred=blurred, sharp=sharp), settings=settings)


# What workers do, with the files that are on their machines.


def _here(job: ClipJob, context: Context) -> ClipJob:
    job = _moved(job, context.locate)
    return replace(job, out=context.folder, settings=replace(job.settings, resume=False))


def _settle(job: ClipJob, context: Context) -> Iterator[dict[str, Any]]:
    """Choose tile and precision for a benchmark, on its first clip."""
    job = _here(job, context)
    clip = read_trial(job.folder, crop=job.settings.crop, frames=job.settings.frames).whole
    restorer = Restorer(context.net, clip.height, clip.width, job.settings.restoration)
    restorer.prepare(clip.window(0, restorer.frames))
    yield {"tile": restorer.tile, "precision": restorer.precision}


def _measure(job: ClipJob, context: Context) -> Iterator[None]:
    """Measure a clip: its record and pictures."""
    measure_job(_here(job, context), context.net, lambda stage: context.step(0, f"{job.folder.name}: {stage}"))
    yield
