"""Several processes that measure clips side by side on one machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from metadeblur.evaluation.protocol import ClipJob, measure_job
from metadeblur.system.process_pool import side_by_side


def measure_side_by_side(
    jobs: Sequence[ClipJob], net: nn.Module, workers: int, progress: Callable[[int, int, str], None] | None
) -> None:
    """Measure clips in ``workers`` processes.

    Raises:
        MetadeblurError: what went wrong with a clip, or a process that was killed.
    """
    count = 0

    def finished(number: int, _: object) -> None:
        nonlocal count
        count += 1
        if progress:
            progress(count, len(jobs), jobs[number].folder.name)

    side_by_side(_measure, jobs, net, workers, finished=finished)


def _measure(net: nn.Module, job: ClipJob) -> None:
    measure_job(job, net)
