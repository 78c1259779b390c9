"""A whole file restored: cut into shots, each adapted to, judged, restored and encoded, and all joined again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from metadeblur.adaptation.places import MINIMUM_FRAMES, MINIMUM_PATCH
from metadeblur.adaptation.stages import AdaptSettings
from metadeblur.limits import Seconds, check, spelt
from metadeblur.models.adapted import FusionSettings, fusion_of
from metadeblur.models.weights import parameters_digest
from metadeblur.pipeline.claims import Reads, hold_outputs
from metadeblur.pipeline.console import stopwatch
from metadeblur.pipeline.cuts import Scan, Shot, find_shots
from metadeblur.pipeline.events import (
    Event,
    FrameRestored,
    FrameScanned,
    Listener,
    Note,
    Phase,
    PhaseEnded,
    PhaseStarted,
    Position,
    ShotDecided,
    ShotStarted,
    StepDone,
)
from metadeblur.pipeline.first_look import remove_first_look, try_first_look
from metadeblur.pipeline.messages import input_lines, output_lines, shot_events
from metadeblur.pipeline.outputs import Job, can_copy, check_targets, copy_untouched, preview_path
from metadeblur.pipeline.policy import Decision
from metadeblur.pipeline.resume import Parts, kept
from metadeblur.pipeline.run_record import run_record
from metadeblur.pipeline.shot import EachFrame, ShotContext, choose_tile, decide_shot, restore_shot, write_shot
from metadeblur.pipeline.time_left import Forecast, Work, measured_costs, too_short
from metadeblur.report.page import write_report
from metadeblur.report.record import RunRecord, ShotRecord
from metadeblur.report.shot import ShotPictures
from metadeblur.report.shot_pictures import PICTURES, read_pictures
from metadeblur.restoration.restorer import RestoreSettings
from metadeblur.system.device import choose_device
from metadeblur.system.identity import InputChanged
from metadeblur.system.interrupts import undisturbed
from metadeblur.system.json_files import plain, versions
from metadeblur.version import __version__
from metadeblur.video import EncodeSettings, Part, VideoReader, assemble, whole
from metadeblur.video.info import VideoInfo
from metadeblur.video.timing import TimeTable

_DECIDING = ("torch", "av", "opencv-python-headless", "scenedetect-headless")  # libraries that decide what comes out


@spelt
@dataclass(frozen=True)
class RunSettings:
    """How a file is restored."""

    adapt: bool = True  # adapt to each shot; otherwise the base model is used as it is
    adaptation: AdaptSettings = field(default_factory=AdaptSettings)  # its time budget is that of all shots together
    restoration: RestoreSettings = field(default_factory=RestoreSettings)
    encoding: EncodeSettings = field(default_factory=EncodeSettings)
    part: Part | None = None  # only this part of each video is read and written
    preview_seconds: Seconds | None = None  # restored first, to a file of their own
    first_look: bool = False  # before anything else tell one frame that the base network restores
    resume: bool = False  # go on where an earlier run was stopped

    def __post_init__(self) -> None:
        check(self)
        # The network of a whole file was loaded for it, and is wherever it was loaded.
        for name in ("adaptation", "restoration"):
            part = getattr(self, name)
            if part.device is None:
                object.__setattr__(self, name, replace(part, device="auto"))


def restore_file(
    job: Job,
    net: nn.Module,
    settings: RunSettings | None = None,
    *,
    model: str = "",
    listener: Listener | None = None,
) -> RunRecord:
    """Restore a video file, a folder of frames or a picture, each shot with a network adapted to it.

    A shot of fewer than five frames, or a picture, gets the base model; one that is sharp already passes untouched, and
    a file that is sharp throughout is copied as it is. The output appears whole or not at all. Finished shots of a run
    that was stopped wait in a folder beside the output (:mod:`metadeblur.pipeline.resume`).

    Args:
        job: the input and the files to make of it (:func:`metadeblur.pipeline.outputs.plan`).
        net: the base deblurrer; it is not changed.
        settings: how.
        model: what the record calls the network.
        listener: called with each event (:mod:`metadeblur.pipeline.events`).

    Raises:
        MetadeblurError: the input cannot be read, an output not be written, or a setting is out of range.
    """
    with Run(job, net, settings or RunSettings(), model, listener) as run:
        return run.restore()


class Run:
    """One file on its way through the program, in a ``with`` block that keeps its outputs for this run alone.

    :meth:`restore` does all of it here; a cluster (:mod:`metadeblur.cluster`) takes the same steps, and has the scan
    and the shots done elsewhere.

    Attributes:
        context: what the work on a shot needs to know, once :meth:`take_scan` was called.
        parts: the finished shots.
        preview: the shots that the preview shows, and how many frames of each.
    """

    context: ShotContext
    preview: Mapping[int, int]

    def __init__(
        self,
        job: Job,
        net: nn.Module,
        settings: RunSettings,
        model: str,
        listener: Listener | None = None,
        *,
        device: str | None = None,
    ) -> None:
        """Open a run.

        Args:
            job: the input and the files to make of it.
            net: the base deblurrer; it is not changed.
            settings: how.
            model: what the record calls the network.
            listener: called with each event; how long a run takes is measured where there is one.
            device: type of the device that does the work; by default what the settings choose here.

        Raises:
            MetadeblurError: the input cannot be read, an output not be written, or somebody else is writing it.
        """
        self.job, self.net, self.settings, self.model, self.listener = job, net, settings, model, listener
        self.device = device or choose_device(settings.restoration.device).type
        self.began = time.monotonic()
        self.seconds: dict[str, float] = {}
        self.decisions: dict[int, Decision] = {}  # made for the preview, used again for the whole
        self.forecast: Forecast | None = None  # once it is known how long everything takes
        self.copied = False  # whether the output is a copy of the input
        self.reader = VideoReader(job.source, part=settings.part)
        self.reads = Reads.of(self.reader, settings.adaptation if settings.adapt else None)
        check_targets(job, settings.encoding)
        with ExitStack() as locks:
            hold_outputs(job, locks, preview=settings.preview_seconds is not None)
            self.parts, lines = Parts.open(job.output, self._fingerprint(), resume=settings.resume)
            locks.callback(self._leave_nothing)
            remove_first_look(job.output)
            for line in lines:
                self.tell(Note(line))
            self._locks = locks.pop_all()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run; after an error keep the finished shots and say so in it, or without any leave nothing behind."""
        with self._locks, undisturbed():
            if isinstance(error, Exception) and not isinstance(error, InputChanged):
                try:
                    self.reads.refuse_changes()
                except InputChanged as cause:  # why it went wrong
                    self.parts.discard()
                    raise cause from error
            if error is not None and self.parts.finished and not isinstance(error, InputChanged):
                error.add_note(f"{kept(self.parts.finished)}: run it again with --resume to go on")
            else:
                self.parts.discard()

    def _leave_nothing(self) -> None:
        """Remove the folder of parts where it holds no finished shot."""
        if not self.parts.finished:
            self.parts.discard()

    def tell(self, event: Event) -> None:
        """Pass an event on to the estimate of the time left and to who listens."""
        if self.forecast is not None:
            self.forecast(event)
        if self.listener is not None:
            self.listener(event)

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """A part of the work, as its events tell it."""
        self.tell(PhaseStarted(phase, self.job.source.name))
        try:
            yield
        finally:
            self.tell(PhaseEnded(phase))

    def restore(self) -> RunRecord:
        """Do all of it and return the record."""
        if self.wants_first_look:
            look = try_first_look(self.reader, self.net, self.settings.restoration)
            if look is not None:
                self.tell(look)
        with stopwatch(self.seconds, "scan"), self.phase("scan"):
            self.take_scan(find_shots(self.reader, progress=lambda done, total: self.tell(FrameScanned(done, total))))
        if self.parts.noted("tile") is None:
            self.use_tile(choose_tile(self.context, self.net))
        self._announce()
        if self.preview:
            self._preview()
        with self.phase("restore"):
            for index in range(len(self.context.shots)):
                self._shot(index)
            for index in self.passing():
                self._write(index, self.kinds, None)
        return self.conclude()

    @property
    def wants_first_look(self) -> bool:
        """Whether somebody waits for a first frame; a picture alone, or what an earlier run finished, is there soon."""
        return self.settings.first_look and self.info.kind != "image" and not self.parts.finished

    # --- steps -----------------------------------------------------------------------------------------------------

    def take_scan(self, scan: Scan) -> None:
        """Take over what a scan of the input found, and the tile and precision that an earlier run chose."""
        self.reader.learn(scan.times)
        job, settings = self.job, self.settings
        targets = {"shot": job.output, "trial": job.output, "preview": preview_path(job.output)}
        if job.side_by_side is not None:
            targets["side"] = job.side_by_side
        self.context = ShotContext(
            reader=self.reader,
            shots=tuple(scan.shots),
            scores=tuple(float(score) for score in scan.sharpness),
            targets=targets,
            folder=self.parts.folder,
            kinds=("shot", "side") if job.side_by_side is not None else ("shot",),
            pictured=job.report is not None,
            adapt=settings.adapt,
            adaptation=settings.adaptation,
            restoration=settings.restoration,
            encoding=settings.encoding,
        )
        for line in input_lines(self.reader):
            self.tell(Note(line))
        noted = self.parts.noted("tile")
        if noted is not None:
            self.use_tile(noted)
        self.preview = self._preview_shots()

    def use_tile(self, values: Mapping[str, Any]) -> None:
        """Take tile and precision for all shots, and note them: a run that was stopped must end with the same file."""
        self.context = replace(self.context, restoration=replace(self.context.restoration, **values))
        if self.parts.noted("tile") != values:
            self.parts.note("tile", values)

    def _preview_shots(self) -> dict[int, int]:
        """The shots that the preview shows, and how many frames of each; none where it would be the whole."""
        seconds, times = self.settings.preview_seconds, self.reader.times
        if seconds is None or self.parts.finished:
            return {}
        end = times.stamps[0] + seconds / float(times.time_base)
        count = max(1, sum(stamp < end for stamp in times.stamps))
        if count >= len(times):
            self.tell(Note(f"no preview: {self.job.source.name} lasts no longer than {seconds:g} s"))
            return {}
        shots = self.context.shots
        return {index: min(len(shot), count - shot.start) for index, shot in enumerate(shots) if shot.start < count}

    def join_preview(self) -> None:
        """Join the preview's segments."""
        with ExitStack() as drafts:
            self._join("preview", list(self.preview), self.reader.times.first(sum(self.preview.values())), drafts)
            self.reads.refuse_changes()
        seconds, target = self.settings.preview_seconds, self.context.targets["preview"]
        self.tell(Note(f"preview of {seconds:g} s: {target}; going on with the whole"))

    def is_finished(self, index: int) -> bool:
        """Whether a shot has been restored, by this run or an earlier one."""
        shot = self.parts.shot(index)
        return shot is not None and (shot["untouched"] or self.parts.has(index, self.context.kinds))

    def finish(self, shot: ShotRecord) -> None:
        """Take a shot's record, see :func:`restore_shot`; its segments must be in the parts' folder."""
        restoration = self.context.restoration
        if shot.precision and (shot.tile, shot.precision) != (restoration.tile, restoration.precision):
            self.use_tile({"tile": shot.tile, "precision": shot.precision})  # memory ran out
        files = [] if shot.untouched else [self.parts.path(kind, shot.index) for kind in self.context.kinds]
        pictures = self.context.pictures_path(shot.index)
        self.parts.finish(shot.index, plain(shot), [*files, pictures] if pictures.exists() else files)

    def passing(self) -> list[int]:
        """The shots that still need segments, of frames that pass as they are, once all shots are finished.

        Where all frames pass, the input is copied if it can be, and only other outputs need segments.
        """
        records = self.shot_records()
        whole_file = self.settings.part is None and can_copy(self.info, self.job.output)
        self.copied = whole_file and all(shot.untouched for shot in records)
        return [shot.index for shot in records if shot.untouched] if self.kinds else []

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of segments that are joined in the end."""
        return tuple(kind for kind in self.context.kinds if not (self.copied and kind == "shot"))

    def conclude(self) -> RunRecord:
        """Make the outputs of all segments, and return the record; they appear together, or none does."""
        records = self.shot_records()
        lost: list[str] = []
        with ExitStack() as drafts:
            with stopwatch(self.seconds, "assemble"):
                for kind in self.kinds:
                    lost += self._join(kind, range(len(records)), self.reader.times, drafts)
                if self.copied:
                    copy_untouched(self.info, drafts.enter_context(whole(self.job.output)))
            record = self._record(records, list(dict.fromkeys(lost)))
            self.reads.refuse_changes()
            if self.job.report is not None:
                write_report(self.job.report, record, self._pictures(records))
            with undisturbed():
                drafts.close()
        for line in output_lines(self.job, record):
            self.tell(Note(line))
        return record

    def _pictures(self, records: Sequence[ShotRecord]) -> list[ShotPictures]:
        """What the report shows of each shot."""
        paths = [self.context.pictures_path(shot.index) for shot in records]
        bare = sum(not path.is_file() for path in paths[:PICTURES])
        if bare:
            self.tell(Note(f"the report has no pictures of {bare} shots, which were finished without --report"))
        return [read_pictures(path, shot) for path, shot in zip(paths, records, strict=True)]

    @property
    def info(self) -> VideoInfo:
        """What the input is."""
        return self.reader.info

    def shot_records(self) -> list[ShotRecord]:
        """The records of all shots."""
        return [ShotRecord.from_json(self.parts.shot(index) or {}) for index in range(len(self.context.shots))]

    # --- shots, here -----------------------------------------------------------------------------------------------

    def _shot(self, index: int) -> None:
        """Decide on a shot and restore it, unless an earlier run has done so."""
        if self.is_finished(index):
            return
        decision = self.decisions.pop(index, None) or self._decide(index)
        shot = restore_shot(self.context, self.net, index, decision, self._watch(index, decision.model))
        self.finish(shot)
        for event in shot_events(shot, len(self.context.shots), decision.in_short()):
            self.tell(event)

    def _decide(self, index: int) -> Decision:
        shot, at = self.context.shots[index], self._position(index)
        adapts = self._adapts(shot)
        self.tell(ShotStarted(at, adapts, adapts * _steps(self.settings.adaptation)))
        decision = decide_shot(
            self.context, self.net, index, lambda done, total, stage: self.tell(StepDone(at, stage, done, total))
        )
        self.tell(ShotDecided(at, decision.untouched, len(shot)))
        return decision

    def _position(self, index: int, frames: int = 0) -> Position:
        """Where the work is when so many frames of a shot are done."""
        shots = self.context.shots
        return Position(index, len(shots), shots[index].start + frames, self.info.frames)

    def _adapts(self, shot: Shot) -> bool:
        """Whether a shot is to be adapted to, unless it turns out to be sharp."""
        large = min(self.info.height, self.info.width) >= MINIMUM_PATCH
        return self.settings.adapt and large and len(shot) >= MINIMUM_FRAMES

    def _watch(self, index: int, net: nn.Module | None) -> EachFrame:
        """What is told after each frame of a shot."""

        def each_frame(done: int, seconds: float, blurred: Tensor, restored: Tensor) -> None:
            spent = None if net is None else seconds
            self.tell(FrameRestored(self._position(index, done), spent, (blurred, restored)))

        return each_frame

    def _write(self, index: int, kinds: Sequence[str], net: nn.Module | None, count: int | None = None) -> None:
        """The first ``count`` frames of a shot, restored by a network or as they are, into segments."""
        restorer = None if net is None else self.context.restorer(net)
        write_shot(self.context, index, kinds, restorer, count=count, each_frame=self._watch(index, net))
        if restorer is not None and restorer.tile != self.context.restoration.tile:  # memory ran out
            self.use_tile({"tile": restorer.tile, "precision": restorer.precision})

    def _preview(self) -> None:
        """Restore the first seconds to a file of their own; what was decided is used again for the whole."""
        with self.phase("preview"):
            for index, count in self.preview.items():
                decision = self.decisions[index] = self._decide(index)
                self._write(index, ["preview"], decision.model, count)
        self.join_preview()

    def _join(self, kind: str, indices: Sequence[int], times: TimeTable, drafts: ExitStack) -> Sequence[str]:
        """Join segments of one kind to a file that gets its name with the others; returns what could not be kept."""
        segments, target = [self.parts.path(kind, index) for index in indices], self.context.targets[kind]
        return assemble(segments, self.info, target, times=times, draft=drafts.enter_context(whole(target)))

    # --- records and lines -----------------------------------------------------------------------------------------

    def _fingerprint(self) -> dict[str, Any]:
        """All that decides what the finished shots look like."""
        settings = self.settings
        parts = {"adaptation": settings.adaptation, "restoration": settings.restoration, "encoding": settings.encoding}
        return {
            "input": f"{self.job.source.resolve()} {self.reads.input}",
            "part": "the whole" if settings.part is None else str(settings.part),
            "container": self.job.output.suffix.lower(),
            "model": parameters_digest(self.net)[:16],
            "adapt": settings.adapt,
            "fusion": str(fusion_of(self.net)),
            "reblurrer": list(self.reads.weights.values()),
            **{f"{part}.{name}": value for part, values in parts.items() for name, value in plain(values).items()},
            "device": self.device,
            "version": __version__,
            "libraries": {name: version for name, version in versions().items() if name in _DECIDING},
        }

    def _record(self, shots: Sequence[ShotRecord], lost: Sequence[str]) -> RunRecord:
        """The record of the whole run."""
        asked = plain(self.settings)
        del asked["first_look"]  # what is shown meanwhile changes no result
        settings = {"model": self.model, "weights": parameters_digest(self.net)[:16], **asked}
        return run_record(self.job, self.info, settings, shots, lost, self.seconds, time.monotonic() - self.began)

    def _announce(self) -> None:
        """Before a long run, say how long it will take, from a short piece of it that is done for that."""
        shots = self.context.shots
        left = [index for index in range(len(shots)) if self.parts.shot(index) is None]
        if not left or self.info.kind == "image" or self.listener is None:
            return
        settings = self.settings.adaptation
        adapting = sum(self._adapts(shots[index]) for index in left)
        work = Work(
            fit=adapting,
            step=adapting * _steps(settings),
            guard=adapting * bool(settings.guard),
            frame=sum(len(shots[index]) for index in left),
        )
        work = work.less(frame=-sum(self.preview.values()))
        restorer = self.context.restorer(self.net)
        window = self.context.clip(left[0]).window(0, restorer.frames)

        def trial(count: int) -> int:
            """The first frames of a shot, to a segment that is thrown away."""
            count = min(count, len(shots[left[0]]))
            with self.phase("measure"):
                self._write(left[0], ["trial"], self.net, count)
            return count

        costs = measured_costs(restorer, window, self.net, settings, work, trial)
        warning = too_short(settings, adapting, costs.network, self.info.height * self.info.width)
        if warning is not None:
            self.tell(Note(warning))
        wait = FusionSettings().radius + 1 if settings.fuse else 0
        self.forecast = Forecast(self.listener, work, costs, settings.budget_seconds, wait)
        self.forecast.announce()


def _steps(settings: AdaptSettings) -> int:
    """Gradient steps on one shot."""
    return settings.steps_on(settings.pairs * settings.blurs)
