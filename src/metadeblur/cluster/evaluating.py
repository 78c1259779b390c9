"""Paired clips measured on a cluster: each by whichever worker is free."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from metadeblur.cluster.connection import ClusterSettings, joined
from metadeblur.cluster.worker import MeasureClip, SettleClip, for_any_machine
from metadeblur.cluster.worker_pool import Crew
from metadeblur.data.folders import ClipFolder
from metadeblur.errors import MetadeblurError
from metadeblur.evaluation.protocol import Job, Progress, is_measured, ledger_path
from metadeblur.pipeline.console import Talk


def measure_on_cluster(
    jobs: Sequence[Job],
    net: nn.Module,
    progress: Progress | None = None,
    *,
    cluster: ClusterSettings | None = None,
    talk: Talk | None = None,
) -> None:
    """Measure clips on a cluster, as :func:`metadeblur.evaluation.protocol.measure_job` does each of them here.

    Args:
        jobs: the clips, all of one evaluation.
        net: the deblurrer; not changed.
        progress: called with (clips done, clips in all, what is going on).
        cluster: where the processes come from; by default as many are started here as there are processors.
        talk: where lines go; by default nowhere.

    Raises:
        MetadeblurError: no cluster answers, or clips could not be measured; the others are.
    """
    cluster, talk = cluster or ClusterSettings(), talk or Talk(quiet=True)
    left = [job for job in jobs if not is_measured(job)]
    if not left:
        return
    with joined(cluster):
        crew = Crew(net, cluster, left[0].settings.restoration.device, talk)
        talk.say(f"working on {crew.places.describe()}")
        failures = crew.run(lambda: _measure(left, len(jobs), crew, progress, talk))
    if failures:
        reasons = " | ".join(f"{name}: {error}" for name, error in failures.items())
        raise MetadeblurError(f"{len(failures)} of {len(jobs)} clips failed (--resume measures them alone): {reasons}")


async def _measure(
    jobs: Sequence[Job], count: int, crew: Crew, progress: Progress | None, talk: Talk
) -> dict[str, Exception]:
    """Measure the clips; returns what went wrong, by clip."""
    done = count - len(jobs)
    failures: dict[str, Exception] = {}
    settled = await crew.do(SettleClip(_absolute(jobs[0])), jobs[0].out, title=jobs[0].folder.name)

    def tell(stage: str) -> None:
        if progress:
            progress(done, count, stage)

    async def measure(rank: int, job: Job) -> None:
        nonlocal done
        name, here = job.folder.name, _absolute(job)
        adaptation, restoration = for_any_machine(
            here.settings.adaptation,
            replace(here.settings.restoration, **settled),
            crew.places.device,
            bf16=crew.bf16,
        )
        errand = MeasureClip(
            replace(here, settings=replace(here.settings, adaptation=adaptation, restoration=restoration))
        )
        try:
            await crew.do(errand, job.out, rank=rank, title=name, on_step=lambda step: tell(step.stage))
            ledger_path(job.path).unlink(missing_ok=True)
        except Exception as error:
            failures[name] = error
            talk.say(f"{name} failed: {error}")
        crew.forget(errand)
        done += 1
        tell(name)

    await asyncio.gather(*(measure(rank, job) for rank, job in enumerate(jobs)))
    return failures


def _absolute(job: Job) -> Job:
    """A job whose files are found from any folder."""
    folder = job.folder

    def absolute(files: Sequence[Path]) -> tuple[Path, ...]:
        return tuple(path.absolute() for path in files)

    moved: ClipFolder = replace(folder, blurred=absolute(folder.blurred), sharp=absolute(folder.sharp))
    meta = str(Path(job.settings.meta).absolute()) if job.settings.meta else ""
    return replace(job, folder=moved, settings=replace(job.settings, meta=meta))
