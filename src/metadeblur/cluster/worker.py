"""What happens in the processes of a cluster: tasks are done with the files that are there, and their results sent."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeAlias

import cv2
import torch
from torch import nn

from metadeblur.adaptation.stages import AdaptSettings
from metadeblur.cluster.connection import folder_of
from metadeblur.cluster.files import Locate, Reads, inside, pieces
from metadeblur.data.paired import read_trial
from metadeblur.evaluation.protocol import Job, measure_job
from metadeblur.evaluation.settings import meta_files
from metadeblur.models.weights import reblurrer_path
from metadeblur.pipeline.cuts import Scan, find_shots
from metadeblur.pipeline.shot import Film, decide_shot, restore_shot, settled, write_shot
from metadeblur.restoration.restorer import Restorer
from metadeblur.system.device import has_native_bf16
from metadeblur.system.record import peak_memory_mb, versions
from metadeblur.system.scratch import sweep, using
from metadeblur.system.thread_limit import starting
from metadeblur.video import VideoReader
from metadeblur.video.info import VideoInfo

STEP_SECONDS = 0.3  # between two words on progress, at least


@dataclass(frozen=True)
class Step:
    """So far a task has come: frames done, and what is going on."""

    done: int
    stage: str = ""


@dataclass(frozen=True)
class Missing:
    """The files to read are not on this machine."""


@dataclass(frozen=True)
class Piece:
    """The next bytes of a file of results."""

    name: str  # within the folder of results
    data: bytes


@dataclass(frozen=True)
class Made:
    """Files of results that are whole, and what they are; the last one ends the task."""

    names: tuple[str, ...]
    value: Any
    last: bool
    sent: bool  # whether they were sent as pieces; otherwise they are in the driver's folder


Event: TypeAlias = Step | Missing | Piece | Made


@dataclass
class Context:
    """What a task finds in the process that does it."""

    net: nn.Module
    locate: Locate
    folder: Path  # for results
    shared: bool  # whether that is the driver's own
    tell: Callable[[Event | BaseException], None]
    told_at: float = 0.0

    def step(self, done: int, stage: str = "") -> None:
        """Tell the driver how far the task is, now and then."""
        now = time.monotonic()
        if now - self.told_at >= STEP_SECONDS:
            self.told_at = now
            self.tell(Step(done, stage))

    def hand_over(self, value: Any = None, *, last: bool = False) -> None:
        """Give the driver everything that is in the folder of results, what lies in folders first, and a value."""
        found = [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()]
        names = sorted(found, key=lambda name: ("/" not in name, name))
        for name in names if not self.shared else ():
            for data in pieces(self.folder / name):
                self.tell(Piece(name, data))
            (self.folder / name).unlink()
        self.tell(Made(tuple(names), value, last, sent=not self.shared))


class Worker:
    """A process of the cluster: a Ray actor.

    Args:
        net: the base deblurrer.
        threads: that PyTorch and OpenCV may use.
        device: what the work is done on.
        key: of the run; nobody else knows it.
    """

    def __init__(self, net: nn.Module, threads: int, device: str, key: str) -> None:
        self._net, self._threads, self._device = net, threads, device
        self._folder = folder_of(key)
        self._use: AbstractContextManager[Path] | None = None

    def introduce(self) -> dict[str, Any]:
        """What the driver must know before it hands out tasks."""
        bf16 = has_native_bf16(torch.device(self._device))
        return {"host": platform.node(), "versions": versions(), "bf16": bf16}

    def do(self, work: Callable[[Context], Any], reads: Reads, folder: Path) -> Iterator[Event]:
        """Do a task in a thread and tell of it; the last event is :class:`Made` or :class:`Missing`.

        Args:
            work: what to do; its value is handed over with the last results.
            reads: the files that it reads.
            folder: the driver's folder for results.
        """
        copies = self._folder / reads.mark
        here = self.sees(reads)
        if not here and not copies.is_dir():
            if reads.sent is None:
                yield Missing()
                return
            self._receive(reads, copies)
        shared = self.can_write(folder)
        results = folder if shared else self._scratch()
        told: SimpleQueue[Event | BaseException] = SimpleQueue()
        context = Context(
            self._net, lambda path: path if here else copies / inside(path), results, shared=shared, tell=told.put
        )

        def run() -> None:
            try:
                torch.set_num_threads(self._threads)  # counts for the thread that says it
                cv2.setNumThreads(self._threads)
                context.hand_over(work(context), last=True)
            except BaseException as error:  # handed to the driver
                told.put(error)

        try:
            with starting():
                Thread(target=run, name="task", daemon=True).start()
            event: Event | BaseException | None = None
            while not (isinstance(event, Made) and event.last):
                event = told.get()
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            if not shared:
                shutil.rmtree(results, ignore_errors=True)

    def sees(self, reads: Reads) -> bool:
        """Whether the driver's files are on this machine."""
        return reads.are_here()

    def can_write(self, folder: Path) -> bool:
        """Whether the driver's folder for results is on this machine: nobody else makes one of its name."""
        return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)

    def _receive(self, reads: Reads, copies: Path) -> None:
        """Copy files out of Ray's object store, once for all workers of this machine."""
        draft = self._scratch()
        reads.receive(draft)
        try:
            draft.rename(copies)
        except OSError:  # another worker was quicker
            shutil.rmtree(draft)

    def _scratch(self) -> Path:
        """A new folder for unfinished things, in one that the workers of this run share on their machine."""
        if not self._folder.exists():
            sweep(self._folder.parent)
        if self._use is None:
            self._use = using(self._folder)
            self._use.__enter__()  # until this process ends, however it does
        self._folder.mkdir(mode=0o700, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=self._folder))


# --- tasks of restore ------------------------------------------------------------------------------------------------


def scan_input(info: VideoInfo, context: Context) -> Scan:
    """Cut an input into shots."""
    reader = VideoReader(_input_here(info, context))
    return find_shots(reader, progress=lambda done, _: context.step(done))


def settle_input(film: Film, context: Context) -> dict[str, Any]:
    """Choose tile and precision for an input."""
    return settled(_film_here(film, context), context.net)


def do_shot(film: Film, index: int, previewed: int, context: Context) -> tuple[dict[str, Any], str]:
    """Decide on a shot and restore it; returns its record and in one sentence what was decided.

    Args:
        film: the input.
        index: number of the shot.
        previewed: first frames that are made for the preview, and handed over before all others.
        context: of the worker.
    """
    film, net = _film_here(film, context), context.net
    title = film.title(index)
    decision = decide_shot(
        film, net, index, lambda done, total, stage: context.step(0, f"{title}: {stage} {done} of {total}")
    )
    if previewed:
        restorer = None if decision.model is None else film.restorer(decision.model)
        write_shot(film, index, ["preview"], restorer, count=previewed)
        context.hand_over()
    record = restore_shot(film, net, index, decision, lambda done, *_: context.step(done, title))
    worker = {"host": platform.node(), "process": os.getpid(), "threads": torch.get_num_threads()}
    return record | {"worker": worker | {"peak_memory_mb": peak_memory_mb()}}, decision.in_short()


def pass_shot(film: Film, index: int, kinds: tuple[str, ...], context: Context) -> None:
    """Write segments of a shot whose frames pass as they are."""
    write_shot(_film_here(film, context), index, kinds, None)


def _input_here(info: VideoInfo, context: Context) -> Path:
    """An input's file, or its folder of frames, on this machine."""
    return context.locate(info.files[0]).parent if info.kind == "frames" else context.locate(info.path)


def _film_here(film: Film, context: Context) -> Film:
    """A film with the files that are on this machine."""
    reader = VideoReader(_input_here(film.info, context), times=film.reader.times)
    return replace(film, reader=reader, adaptation=_weights_here(film.adaptation, context), folder=context.folder)


def _weights_here(settings: AdaptSettings, context: Context) -> AdaptSettings:
    """Settings with the reblurring network, where one is named, that is on this machine."""
    if not settings.reblurrer:
        return settings
    return replace(settings, reblurrer=str(context.locate(reblurrer_path(settings.reblurrer))))


# --- tasks of evaluate -----------------------------------------------------------------------------------------------


def settle_clip(job: Job, context: Context) -> dict[str, Any]:
    """Choose tile and precision for a benchmark, on its first clip."""
    job = _job_here(job, context)
    clip = read_trial(job.folder, crop=job.settings.crop, frames=job.settings.frames).whole
    restorer = Restorer(context.net, clip.height, clip.width, job.settings.restoration)
    restorer.prepare(clip.window(0, restorer.frames))
    return {"tile": restorer.tile, "precision": restorer.precision}


def measure_clip(job: Job, context: Context) -> None:
    """Measure a clip: its record and pictures."""
    measure_job(_job_here(job, context), context.net, lambda stage: context.step(0, f"{job.folder.name}: {stage}"))


def _job_here(job: Job, context: Context) -> Job:
    """A job with the files that are on this machine."""
    settings, meta = job.settings, job.settings.meta
    blurred, sharp = (tuple(map(context.locate, files)) for files in (job.folder.blurred, job.folder.sharp))
    if meta and "meta" in settings.methods:
        meta = str(context.locate(meta_files(meta)[0]).parent)
    settings = replace(settings, meta=meta, adaptation=_weights_here(settings.adaptation, context), resume=False)
    return replace(job, folder=replace(job.folder, blurred=blurred, sharp=sharp), out=context.folder, settings=settings)
