"""What happens in the processes of a cluster: an errand is done with the files that are there, and its results sent."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol, TypeAlias

import cv2
import torch
from torch import Tensor, nn

from metadeblur.adaptation.stages import AdaptSettings
from metadeblur.cluster.files import Cargo, Depot, Move, Shipped, files_in, pieces
from metadeblur.data.paired import read_trial
from metadeblur.evaluation.protocol import Job as Measurement
from metadeblur.evaluation.protocol import measure_job
from metadeblur.evaluation.settings import meta_files
from metadeblur.models.weights import reblurrer_path
from metadeblur.pipeline.cuts import find_shots
from metadeblur.pipeline.shot import Film, decide_shot, restore_shot, settled, write_shot
from metadeblur.restoration.restorer import Restorer, RestoreSettings
from metadeblur.system.device import has_native_bf16
from metadeblur.system.machine import peak_memory_mb
from metadeblur.system.record import versions
from metadeblur.system.thread_limit import starting
from metadeblur.video import VideoReader
from metadeblur.video.info import VideoInfo

STEP_SECONDS = 0.3  # between two words on progress, at least


@dataclass(frozen=True)
class Step:
    """So far it has come: frames done of the errand, and what is going on."""

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
    """Files of results that are whole, and what they are; the last one ends the errand."""

    names: tuple[str, ...]
    value: Any
    last: bool
    sent: bool  # whether they were sent as pieces; otherwise they are in the driver's folder


Event: TypeAlias = Step | Missing | Piece | Made


@dataclass
class Bench:
    """What an errand finds in the process that does it."""

    net: nn.Module
    move: Move  # where a file of the driver's is here
    folder: Path  # for results
    _tell: Callable[[Event], None]
    _sees_driver: bool  # whether the folder is the driver's own
    _told_at: float = 0.0

    def step(self, done: int, stage: str = "") -> None:
        """Tell the driver how far it is, now and then."""
        now = time.monotonic()
        if now - self._told_at >= STEP_SECONDS:
            self._told_at = now
            self._tell(Step(done, stage))

    def made(self, value: Any = None, *, last: bool = True) -> None:
        """Hand over everything that is in the folder of results, and a value."""
        names = files_in(self.folder)
        if not self._sees_driver:
            for name in names:
                for data in pieces(self.folder / name):
                    self._tell(Piece(name, data))
                (self.folder / name).unlink()
        self._tell(Made(tuple(names), value, last, sent=not self._sees_driver))


class Errand(Protocol):
    """A piece of work that any worker can do, as often as need be."""

    @property
    def reads(self) -> Sequence[Path]:
        """The files that it reads."""
        ...

    def work(self, bench: Bench) -> None:
        """Do it; ends with :meth:`Bench.made`."""
        ...


# --- restore ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScanInput:
    """Cut an input into shots; the value is a :class:`metadeblur.pipeline.cuts.Scan`."""

    info: VideoInfo

    @property
    def reads(self) -> Sequence[Path]:
        """The input."""
        return input_files(self.info)

    def work(self, bench: Bench) -> None:
        """Do it."""
        reader = VideoReader(_moved_input(self.info, bench.move))
        bench.made(find_shots(reader, progress=lambda done, _: bench.step(done)))


@dataclass(frozen=True)
class FilmErrand:
    """Something to be done with a scanned input."""

    film: Film

    @property
    def reads(self) -> Sequence[Path]:
        """The input, and the reblurring network where one is named."""
        return [*input_files(self.film.info), *_weights(self.film.adaptation)]

    def here(self, bench: Bench) -> Film:
        """The film with the files that are on this machine."""
        film = self.film
        reader = VideoReader(_moved_input(film.info, bench.move), times=film.reader.times)
        adaptation = _moved_weights(film.adaptation, bench.move)
        return replace(film, reader=reader, adaptation=adaptation, folder=bench.folder)


@dataclass(frozen=True)
class Settle(FilmErrand):
    """Choose tile and precision for an input; the value is as :func:`metadeblur.pipeline.shot.settled` gives it."""

    def work(self, bench: Bench) -> None:
        """Do it."""
        bench.made(settled(self.here(bench), bench.net))


@dataclass(frozen=True)
class RestoreShot(FilmErrand):
    """Decide on a shot and restore it; the value is its record and in one sentence what was decided."""

    index: int
    previewed: int = 0  # first frames that are made for the preview, and handed over before all others

    def work(self, bench: Bench) -> None:
        """Do it."""
        film = self.here(bench)
        title = film.title(self.index)
        decision = decide_shot(
            film,
            bench.net,
            self.index,
            lambda done, total, stage: bench.step(0, f"{title}: {stage} {done} of {total}"),
        )

        def each_frame(done: int, _seconds: float, _blurred: Tensor, _restored: Tensor) -> None:
            bench.step(done, title)

        if self.previewed:
            restorer = None if decision.model is None else film.restorer(decision.model)
            write_shot(film, self.index, ["preview"], restorer, count=self.previewed)
            bench.made(last=False)
        record = restore_shot(film, bench.net, self.index, decision, each_frame)
        where = {"host": platform.node(), "process": os.getpid(), "threads": torch.get_num_threads()}
        bench.made((record | {"worker": where | {"peak_memory_mb": peak_memory_mb()}}, decision.in_short()))


@dataclass(frozen=True)
class PassShot(FilmErrand):
    """Write segments of a shot whose frames pass as they are."""

    index: int
    kinds: tuple[str, ...]

    def work(self, bench: Bench) -> None:
        """Do it."""
        write_shot(self.here(bench), self.index, self.kinds, None)
        bench.made()


def input_files(info: VideoInfo) -> Sequence[Path]:
    """The files of an input."""
    return info.files if info.kind == "frames" else (info.path,)


def _moved_input(info: VideoInfo, move: Move) -> Path:
    """An input's file, or its folder of frames, on this machine."""
    return move(info.files[0]).parent if info.kind == "frames" else move(info.path)


def _weights(settings: AdaptSettings) -> list[Path]:
    return [reblurrer_path(settings.reblurrer)] if settings.reblurrer else []


def _moved_weights(settings: AdaptSettings, move: Move) -> AdaptSettings:
    if not settings.reblurrer:
        return settings
    return replace(settings, reblurrer=str(move(reblurrer_path(settings.reblurrer))))


# --- evaluate --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClipErrand:
    """Something to be done with a paired clip."""

    job: Measurement

    @property
    def reads(self) -> Sequence[Path]:
        """The clip's frames, and the networks that its methods name."""
        settings = self.job.settings
        meta = meta_files(settings.meta) if settings.meta and "meta" in settings.methods else ()
        return [*self.job.folder.blurred, *self.job.folder.sharp, *meta, *_weights(settings.adaptation)]

    def here(self, bench: Bench) -> Measurement:
        """The job with the files that are on this machine."""
        move, folder, settings = bench.move, self.job.folder, self.job.settings
        moved = replace(
            folder,
            blurred=tuple(move(path) for path in folder.blurred),
            sharp=tuple(move(path) for path in folder.sharp),
        )
        meta = settings.meta
        if meta and "meta" in settings.methods:
            meta = str(move(meta_files(meta)[0]).parent)
        settings = replace(settings, meta=meta, adaptation=_moved_weights(settings.adaptation, move), resume=False)
        return replace(self.job, folder=moved, out=bench.folder, settings=settings)


@dataclass(frozen=True)
class SettleClip(ClipErrand):
    """Choose tile and precision for a benchmark, on its first clip; the value is a dictionary of both."""

    def work(self, bench: Bench) -> None:
        """Do it."""
        job = self.here(bench)
        clip = read_trial(job.folder, crop=job.settings.crop, frames=job.settings.frames).whole
        restorer = Restorer(bench.net, clip.height, clip.width, job.settings.restoration)
        restorer.prepare(clip.window(0, restorer.frames))
        bench.made({"tile": restorer.tile, "precision": restorer.precision})


@dataclass(frozen=True)
class MeasureClip(ClipErrand):
    """Measure a clip: its record and pictures."""

    def work(self, bench: Bench) -> None:
        """Do it."""
        job = self.here(bench)
        measure_job(job, bench.net, lambda stage: bench.step(0, f"{job.folder.name}: {stage}"))
        bench.made()


# --- the process -----------------------------------------------------------------------------------------------------


class Worker:
    """A process of the cluster: a Ray actor.

    Args:
        net: the base deblurrer.
        threads: that PyTorch and OpenCV may use.
        device: what the work is done on.
        key: of the run.
    """

    def __init__(self, net: nn.Module, threads: int, device: str, key: str) -> None:
        self._net, self._threads, self._device = net, threads, device
        self._depot = Depot(key)

    def introduce(self) -> dict[str, Any]:
        """What the driver must know before it hands out errands."""
        bf16 = has_native_bf16(torch.device(self._device))
        return {"host": platform.node(), "versions": versions(), "bf16": bf16}

    def do(self, errand: Errand, cargo: Cargo, shipped: Shipped | None, folder: Path) -> Iterator[Event]:
        """Do an errand; the last event is :class:`Made` or :class:`Missing`.

        Args:
            errand: what to do.
            cargo: the files that it reads.
            shipped: the same files in Ray's object store, where they have been shipped.
            folder: the driver's folder for results.
        """
        move = self._depot.find(cargo)
        if move is None and shipped is None:
            yield Missing()
            return
        if move is None:
            assert shipped is not None
            move = self._depot.take(cargo, shipped)
        with self._depot.bench(folder) as (results, sees_driver):
            yield from self._events(errand, move, results, sees_driver)

    def _events(self, errand: Errand, move: Move, results: Path, sees_driver: bool) -> Iterator[Event]:
        """What an errand tells while it is done in a thread of its own."""
        told: SimpleQueue[Event | BaseException | None] = SimpleQueue()
        bench = Bench(self._net, move, results, told.put, sees_driver)

        def work() -> None:
            try:
                torch.set_num_threads(self._threads)  # counts for the thread that says it
                cv2.setNumThreads(self._threads)
                errand.work(bench)
                told.put(None)
            except BaseException as error:  # handed to the driver
                told.put(error)

        with starting():
            Thread(target=work, name="errand", daemon=True).start()
        while (event := told.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event


def for_any_machine(
    adaptation: AdaptSettings, restoration: RestoreSettings, device: Any, *, bf16: bool
) -> tuple[AdaptSettings, RestoreSettings]:
    """Settings that say the same on every machine.

    Args:
        adaptation: its precision "auto" becomes what the first worker chooses.
        restoration: its tile and precision are settled apart.
        device: of the workers.
        bf16: whether the first worker computes natively in bf16.
    """
    chosen: Any = {True: "bf16", False: "fp32"}[bf16] if adaptation.precision == "auto" else adaptation.precision
    reblurrer = str(reblurrer_path(adaptation.reblurrer).absolute()) if adaptation.reblurrer else ""
    same = replace(adaptation, precision=chosen, device=device, reblurrer=reblurrer)
    return same, replace(restoration, device=device)
