"""Several processes that measure clips side by side on one machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process

import torch
from torch import nn

from metadeblur.errors import MetadeblurError
from metadeblur.evaluation.protocol import Job, measure_job
from metadeblur.system.machine import usable_cpus
from metadeblur.system.thread_limit import starting

_net: nn.Module | None = None  # of this worker process


def measure_side_by_side(
    jobs: Sequence[Job], net: nn.Module, workers: int, progress: Callable[[int, int, str], None] | None
) -> None:
    """Measure clips in ``workers`` processes; the processor's cores are shared out among them.

    Raises:
        MetadeblurError: what went wrong with a clip, or a process that died.
    """
    cores = usable_cpus()
    threads = max(1, min(torch.get_num_threads(), cores) // workers)
    # A forked process would share locks of PyTorch's threads and its hold on a GPU.
    others = set(active_children())
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_begin, initargs=(net, threads))
    try:
        with starting():
            waiting: dict[Future[None], str] = {pool.submit(_work, job): job.folder.name for job in jobs}
        count = 0
        while waiting:
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
                count += 1
                if progress:
                    progress(count, len(jobs), waiting[future])
                del waiting[future]
    except BaseException as error:
        # Nobody who stops the command, perhaps twice, waits for clips that --resume measures again.
        for worker in set(active_children()) - others:
            worker.terminate()
        if isinstance(error, BrokenProcessPool):
            raise MetadeblurError(
                "a worker process died, perhaps for want of memory; go on with --resume and fewer --workers"
            ) from error
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(net: nn.Module, threads: int) -> None:
    """Set a worker process up."""
    global _net
    torch.set_num_threads(threads)
    _net = net
    # A killed command must not leave its workers behind, working on the same records as the command that goes on.
    threading.Thread(target=_end_with_the_command, daemon=True).start()


def _end_with_the_command() -> None:
    command = parent_process()
    if command is not None:
        command.join()
        os._exit(1)


def _work(job: Job) -> None:
    """Measure one clip in a worker process."""
    if _net is None:
        raise RuntimeError("the worker process has no network")
    measure_job(job, _net)
