"""The record of a whole run, made of its shots'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from metadeblur.pipeline.outputs import Job
from metadeblur.report.record import RunRecord, ShotRecord
from metadeblur.system.json_files import plain, versions
from metadeblur.system.machine import describe_machine, peak_memory_mb
from metadeblur.version import __version__
from metadeblur.video.info import VideoInfo


def run_record(
    job: Job,
    info: VideoInfo,
    settings: Mapping[str, Any],
    shots: Sequence[ShotRecord],
    lost: Sequence[str],
    stages: Mapping[str, float],
    total: float,
) -> RunRecord:
    """The record of a run.

    Args:
        job: the input and what was made of it.
        info: of the input.
        settings: all that was asked for, and the model with its weights.
        shots: the records of all shots, in order.
        lost: what could not be kept of the input.
        stages: seconds of each stage that is no shot's.
        total: seconds from start to end.
    """
    seconds = dict(stages)
    for shot in shots:
        for stage, spent in shot.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + spent
    seconds["total"] = total
    return RunRecord(
        input=str(job.source),
        output=str(job.output),
        side_by_side=None if job.side_by_side is None else str(job.side_by_side),
        version=__version__,
        settings=dict(settings),
        video=plain(info.to_record()),
        shots=tuple(shots),
        untouched=all(shot.untouched for shot in shots),
        share=sum(shot.share * shot.length for shot in shots) / sum(shot.length for shot in shots),
        not_kept=tuple(lost),
        seconds=plain(seconds),
        peak_memory_mb=peak_memory_mb(),
        tile=next((shot.tile for shot in shots if shot.tile is not None), None),
        precision=next((shot.precision for shot in shots if shot.precision), None),
        versions=versions(),
        machine=describe_machine(),
    )
