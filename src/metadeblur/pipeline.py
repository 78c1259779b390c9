"""A whole file restored: cut into shots, each adapted to, judged, restored and encoded, and all joined again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metadeblur import __version__
from metadeblur.adapt import AdaptSettings
from metadeblur.background import Behind, prefetch
from metadeblur.clip import Clip
from metadeblur.decide import Decision, decide, shared_budget
from metadeblur.forecast import Forecast, Work, measured_costs
from metadeblur.outputs import Job, check_targets, copy_untouched, preview_path
from metadeblur.progress import Bar, Talk, in_words, stopwatch
from metadeblur.record import machine, peak_memory_mb, plain, versions
from metadeblur.report import write_report
from metadeblur.restore import Restorer, RestoreSettings, choose_device, restore_pairs
from metadeblur.resume import Parts, identify
from metadeblur.shots import Shot, find_shots
from metadeblur.story import PICTURES, Sketch, frames_to_show, read_story
from metadeblur.support import MINIMUM_FRAMES, MINIMUM_PATCH
from metadeblur.video import EncodeSettings, SegmentWriter, VideoReader, assemble
from metadeblur.video.info import TimeTable
from metadeblur.video.reading import reader_clip
from metadeblur.weights import parameters_digest

TOLD_SHOTS = 12  # videos with more shots are summed up


@dataclass(frozen=True)
class RunSettings:
    """How a file is restored."""

    adapt: bool = True  # adapt to each shot; otherwise the base model is used as it is
    adaptation: AdaptSettings = field(default_factory=AdaptSettings)  # its time budget is that of all shots together
    restoration: RestoreSettings = field(default_factory=RestoreSettings)
    encoding: EncodeSettings = field(default_factory=EncodeSettings)
    preview_seconds: float | None = None  # restored first, to a file of their own
    resume: bool = False  # go on where an earlier run was stopped


def restore_file(
    job: Job,
    net: nn.Module,
    settings: RunSettings | None = None,
    *,
    model: str = "",
    talk: Talk | None = None,
) -> dict[str, Any]:
    """Restore a video file, a folder of frames or a picture, each shot with a network adapted to it.

    A shot of fewer than five frames, or a picture, gets the base model; one that is sharp already passes untouched, and
    a file that is sharp throughout is copied as it is. The output appears whole or not at all. Finished shots of a run
    that was stopped wait in a folder beside the output (:mod:`metadeblur.resume`).

    Args:
        job: the input and the files to make of it (:func:`metadeblur.outputs.plan`).
        net: the base deblurrer; it is not changed.
        settings: how.
        model: what the record calls the network.
        talk: where lines and progress go; by default nowhere.

    Returns:
        The run's record, plain JSON values.

    Raises:
        MetadeblurError: the input cannot be read, an output not be written, or a setting is out of range.
    """
    return _Run(job, net, settings or RunSettings(), model, talk or Talk(quiet=True)).run()


class _Run:
    """One file on its way through the program."""

    def __init__(self, job: Job, net: nn.Module, settings: RunSettings, model: str, talk: Talk) -> None:
        self.job, self.net, self.settings, self.model, self.talk = job, net, settings, model, talk
        self.began = time.monotonic()
        self.seconds: dict[str, float] = {}
        self.restoration = settings.restoration
        self.decisions: dict[int, Decision] = {}  # made for the preview, used again for the whole
        self.reader = VideoReader(job.source)
        self.targets = {"shot": job.output, "side": job.side_by_side, "preview": preview_path(job.output)}
        self.targets["trial"] = job.output  # a segment as those of the output, never joined
        self.shots: tuple[Shot, ...] = ()
        self.scores: Sequence[float] = ()
        self.forecast: Forecast | None = None  # once it is known how long everything takes
        check_targets(job, settings.encoding)
        self.parts, line = Parts.open(job.output, self._fingerprint(), resume=settings.resume)
        if line:
            talk.say(line)

    def run(self) -> dict[str, Any]:
        """Do all of it and return the record; what cannot be used any more is removed, also after an error."""
        try:
            record = self._restore()
        except BaseException as error:
            if self.parts.finished:
                error.add_note(f"{self.parts.finished} finished shots are kept: run it again with --resume to go on")
            else:
                self.parts.discard()
            raise
        self.parts.discard()
        return record

    def _restore(self) -> dict[str, Any]:
        with stopwatch(self.seconds, "scan"), self.talk.bar(f"looking through {self.job.source.name}") as bar:
            scan = find_shots(self.reader, progress=bar)
        self.shots, self.scores = tuple(scan.shots), [float(score) for score in scan.sharpness]
        self.info, self.times = self.reader.info, self.reader.times
        self._tell_about_input()
        self._settle()
        self._announce()
        if self.settings.preview_seconds is not None and not self.parts.finished:
            self._preview(self.settings.preview_seconds)
        with self.talk.bar("restoring") as bar:
            for index in range(len(self.shots)):
                self._shot(index, bar)
            records = [self.parts.shot(index) or {} for index in range(len(self.shots))]
            copied = all(record["untouched"] for record in records) and copy_untouched(self.info, self.job.output)
            kinds = [kind for kind in self._kinds() if not (copied and kind == "shot")]
            for index, record in enumerate(records):
                if record["untouched"] and kinds:
                    self._write(index, kinds, None, bar)
        lost = [f"the transparency of {self.job.source.name}"] if self.info.channels == 4 and not copied else []
        with stopwatch(self.seconds, "assemble"):
            for kind in kinds:
                lost += self._join(kind, range(len(self.shots)), self.times)
        record = self._record(records, list(dict.fromkeys(lost)))
        if self.job.report is not None:
            stories = [read_story(self.parts.path("story", shot["index"], ".npz"), shot) for shot in records]
            write_report(self.job.report, record, stories)
        self._tell_about_output(record)
        return record

    # --- shots -----------------------------------------------------------------------------------------------------

    def _shot(self, index: int, bar: Bar) -> None:
        """Decide on a shot and restore it, unless an earlier run has done so."""
        earlier = self.parts.shot(index)
        if earlier and (earlier["untouched"] or all(self.parts.path(kind, index).exists() for kind in self._kinds())):
            return
        shot = self.shots[index]
        decision = self.decisions.pop(index, None) or self._decide(index, bar)
        seconds = dict(decision.outcome.seconds) if decision.outcome else {}
        sketch, restorer = self._sketch(index), None
        with stopwatch(seconds, "restore"):
            if decision.model is not None:
                restorer = self._restorer(decision.model)
                self._write(index, self._kinds(), restorer, bar, sketch=sketch)
            if sketch is not None:
                self._complete(sketch, shot, decision)
                sketch.save(self.parts.path("story", index, ".npz"))
        self.parts.finish(index, self._shot_record(index, decision, restorer, seconds))
        if len(self.shots) <= TOLD_SHOTS:
            title = f"{self._title(index)}: " if len(self.shots) > 1 else ""
            self.talk.say(f"{title}{decision.in_short()}")

    def _decide(self, index: int, bar: Bar) -> Decision:
        shot, wanted = self.shots[index], self.settings.adaptation

        adapting = self.forecast.adapting(_steps(wanted)) if self.forecast and self._adapts(shot) else None

        def show(done: int, total: int, stage: str) -> None:
            bar(shot.start, self.info.frames, f"{self._title(index)}: {stage} {done} of {total}")
            if adapting is not None and stage == "adapt":
                adapting.stepped(done, total)

        lengths = [shot.stop - shot.start for shot in self.shots]
        decision = decide(
            self.net,
            self._clip(shot),
            self.scores[shot.start : shot.stop],
            shared_budget(wanted, lengths[index], lengths) if self.settings.adapt else None,
            guard=wanted.guard,
            progress=show,
        )
        if adapting is not None:
            adapting.finished()
        if self.forecast is not None and decision.untouched:
            self.forecast.without(frame=shot.stop - shot.start)
        return decision

    def _adapts(self, shot: Shot) -> bool:
        """Whether a shot is to be adapted to, unless it turns out to be sharp."""
        large = min(self.info.height, self.info.width) >= MINIMUM_PATCH
        return self.settings.adapt and large and shot.stop - shot.start >= MINIMUM_FRAMES

    def _write(
        self,
        index: int,
        kinds: Sequence[str],
        restorer: Restorer | None,
        bar: Bar,
        *,
        count: int | None = None,
        sketch: Sketch | None = None,
    ) -> None:
        """Restore the first ``count`` frames of a shot into its segments; without a restorer they pass as they are."""
        shot = self.shots[index]
        clip = self._clip(shot)
        if count is not None:
            clip = clip.part(0, count)
        with ExitStack() as stack:
            writers = {kind: stack.enter_context(self._writer(kind, index)) for kind in kinds}
            behind = stack.enter_context(Behind())
            began = time.monotonic()
            for number, (blurred, restored) in enumerate(stack.enter_context(closing(_pairs(clip, restorer)))):
                for kind, writer in writers.items():
                    behind.do(writer.write, self._beside(blurred, restored) if kind == "side" else restored)
                if sketch is not None and number in sketch.wanted:
                    sketch.add(number, blurred, restored)
                self.talk.show(shot.start + number, blurred, restored)
                bar(shot.start + number + 1, self.info.frames, self._title(index))
                if self.forecast is not None and restorer is not None:
                    self.forecast.done("frame", time.monotonic() - began)
                    began = time.monotonic()
            behind.finish()
        if restorer is not None and restorer.tile != self.restoration.tile:  # memory ran out, it was made smaller
            self._note_settled(restorer)

    def _preview(self, seconds: float) -> None:
        """Restore the first seconds to a file of their own; what was decided is used again for the whole."""
        count = self._preview_frames(seconds)
        if count >= len(self.times):
            self.talk.say(f"no preview: {self.job.source.name} lasts no longer than {seconds:g} s")
            return
        used = [index for index, shot in enumerate(self.shots) if shot.start < count]
        with self.talk.bar("making the preview") as bar:
            for index in used:
                decision = self.decisions[index] = self._decide(index, bar)
                restorer = None if decision.model is None else self._restorer(decision.model)
                self._write(index, ["preview"], restorer, bar, count=count - self.shots[index].start)
        self._join("preview", used, self.times.first(count))
        self.talk.say(f"preview of {seconds:g} s: {self.targets['preview']}; going on with the whole")

    def _preview_frames(self, seconds: float) -> int:
        """How many frames the first seconds have."""
        end = self.times.stamps[0] + seconds / float(self.times.time_base)
        return max(1, sum(stamp < end for stamp in self.times.stamps))

    def _join(self, kind: str, indices: Sequence[int], times: TimeTable) -> Sequence[str]:
        """Join segments of one kind to the finished file; returns what could not be kept."""
        target = self.targets[kind]
        assert target is not None
        return assemble([self.parts.path(kind, index) for index in indices], self.info, target, times=times)

    def _kinds(self) -> list[str]:
        """The kinds of segments that the outputs need."""
        return ["shot", "side"] if self.job.side_by_side is not None else ["shot"]

    def _writer(self, kind: str, index: int) -> SegmentWriter:
        path = self.parts.path(kind, index)
        return SegmentWriter(path, self.info, self.settings.encoding, output=self.targets[kind])

    def _settle(self) -> None:
        """Choose tile and precision once for all shots, as free memory is now; a resumed run takes those noted before.

        Another tile or precision changes the last digits, and a run that was stopped must end with the same file.
        """
        noted = self.parts.noted("settled")
        if noted is not None:
            self.restoration = replace(self.restoration, **noted)
            return
        restorer = self._restorer(self.net)
        restorer.prepare(self._clip(self.shots[0]).window(0, restorer.frames))
        self._note_settled(restorer)

    def _note_settled(self, restorer: Restorer) -> None:
        settled: dict[str, Any] = {"tile": restorer.tile, "precision": restorer.precision}
        self.restoration = replace(self.restoration, **settled)
        self.parts.note("settled", settled)

    def _restorer(self, net: nn.Module) -> Restorer:
        return Restorer(net, self.info.height, self.info.width, self.restoration)

    def _clip(self, shot: Shot) -> Clip:
        """The shot's frames, read when asked for; every caller gets a reader of its own."""
        return reader_clip(self.reader, shot.start, shot.stop)

    def _beside(self, blurred: Tensor, restored: Tensor) -> Tensor:
        """Both next to each other, blurred on the left once a player has turned the picture."""
        turned = self.info.rotation % 360
        both = [restored, blurred] if turned in (180, 270) else [blurred, restored]
        return torch.cat(both, dim=-2 if turned in (90, 270) else -1)

    # --- pictures --------------------------------------------------------------------------------------------------

    def _sketch(self, index: int) -> Sketch | None:
        """A collection of pictures for the report, where one is wanted and the shot is among those that it shows."""
        if self.job.report is None or index >= PICTURES:
            return None
        shot = self.shots[index]
        return Sketch(frames_to_show(self.scores[shot.start : shot.stop], len(self.shots)))

    def _complete(self, sketch: Sketch, shot: Shot, decision: Decision) -> None:
        """Add the pictures that did not come by while restoring."""
        clip = self._clip(shot)
        if decision.untouched:
            for number in sketch.wanted:
                sketch.add(number, clip[number], clip[number])
        if decision.outcome is not None:
            sketch.learn(decision.outcome, max(2, PICTURES // len(self.shots)))
        if decision.share > 0:
            restorer = self._restorer(self.net)
            for number in sketch.wanted:
                sketch.add_base(restorer(clip.window(number, restorer.frames)))

    # --- records and lines -----------------------------------------------------------------------------------------

    def _fingerprint(self) -> dict[str, Any]:
        """All that decides what the finished shots look like."""
        settings = self.settings
        parts = {"adaptation": settings.adaptation, "restoration": settings.restoration, "encoding": settings.encoding}
        return {
            "input": f"{self.job.source.resolve()} {identify(self.job.source)}",
            "container": self.job.output.suffix.lower(),
            "model": parameters_digest(self.net)[:16],
            "adapt": settings.adapt,
            "reblurrer": identify(Path(settings.adaptation.reblurrer)) if settings.adaptation.reblurrer else None,
            **{f"{part}.{name}": value for part, values in parts.items() for name, value in plain(values).items()},
            "device": choose_device(settings.restoration.device).type,
            "version": __version__,
            "torch": str(torch.__version__),
        }

    def _shot_record(
        self, index: int, decision: Decision, restorer: Restorer | None, seconds: dict[str, float]
    ) -> dict[str, Any]:
        shot = self.shots[index]
        return {
            "index": index,
            "start": shot.start,
            "stop": shot.stop,
            **decision.to_record(shot.start),
            "scores": list(self.scores[shot.start : shot.stop]),
            "tile": restorer.tile if restorer else None,
            "precision": restorer.precision if restorer else None,
            "seconds": seconds,
        }

    def _record(self, shots: Sequence[dict[str, Any]], lost: Sequence[str]) -> dict[str, Any]:
        """The record of the whole run, plain JSON values."""
        seconds = dict(self.seconds)
        for shot in shots:
            for stage, spent in shot["seconds"].items():
                seconds[stage] = seconds.get(stage, 0.0) + spent
        frames = [shot["stop"] - shot["start"] for shot in shots]
        settings = plain(self.settings)
        record = {
            "input": str(self.job.source),
            "output": str(self.job.output),
            "side_by_side": self.job.side_by_side,
            "version": __version__,
            "settings": {"model": self.model, "weights": parameters_digest(self.net)[:16], **settings},
            "video": self.info.to_record(),
            "shots": shots,
            "untouched": all(shot["untouched"] for shot in shots),
            "share": sum(shot["share"] * count for shot, count in zip(shots, frames, strict=True)) / sum(frames),
            "not_kept": lost,
            "seconds": {**seconds, "total": time.monotonic() - self.began},
            "peak_memory_mb": peak_memory_mb(),
            "tile": next((shot["tile"] for shot in shots if shot["tile"] is not None), None),
            "precision": next((shot["precision"] for shot in shots if shot["precision"]), None),
            "versions": versions(),
            "machine": machine(),
        }
        plain_record: dict[str, Any] = plain(record)
        return plain_record

    def _tell_about_input(self) -> None:
        """Say what is unusual about the input."""
        name = self.job.source.name
        if self.info.interlaced:
            self.talk.say(f"{name} is interlaced: it is deinterlaced, one frame for each frame")
        if self.info.missing:
            missing = f"{100 * self.info.missing:.0f} % of its bytes are missing"
            self.talk.say(f"{name} is cut short: {missing}; what is there is restored")
        if self.times.damaged:
            self.talk.say(f"{name} is damaged: {self.times.damaged} packets could not be decoded and are left out")

    def _announce(self) -> None:
        """Before a long run, say how long it will take, from a short piece of it that is done for that."""
        left = [index for index in range(len(self.shots)) if self.parts.shot(index) is None]
        if not left or self.info.kind == "image" or not self.talk.heard:
            return
        settings = self.settings.adaptation
        adapting = sum(self._adapts(self.shots[index]) for index in left)
        work = Work(
            fit=adapting,
            step=adapting * _steps(settings),
            guard=adapting * settings.guard,
            frame=sum(self.shots[index].stop - self.shots[index].start for index in left),
        )
        if self.settings.preview_seconds is not None and not self.parts.finished:
            work = work.less(frame=-self._preview_frames(self.settings.preview_seconds))
        restorer = self._restorer(self.net)
        window = self._clip(self.shots[left[0]]).window(0, restorer.frames)

        def trial(count: int) -> int:
            """The first frames of a shot, to a segment that is thrown away."""
            count = min(count, self.shots[left[0]].stop - self.shots[left[0]].start)
            with self.talk.bar("measuring") as bar:
                self._write(left[0], ["trial"], restorer, bar, count=count)
            return count

        costs = measured_costs(restorer, window, self.net, settings, work, trial)
        self.forecast = Forecast(self.talk, work, costs, settings.budget_seconds)
        self.forecast.announce()

    def _tell_about_output(self, record: dict[str, Any]) -> None:
        """Say what was made, how, and how long it took."""
        if record["untouched"]:
            how = "sharp already, returned untouched"
        else:
            how = f"adaptation used to {100 * record['share']:.0f} %" if record["share"] > 0 else "base model"
        for sentence in record["not_kept"]:
            self.talk.say(f"not kept: {sentence}")
        self.talk.say(f"{self.job.output}: {how}, {in_words(record['seconds']['total'])}")
        if self.job.side_by_side is not None:
            self.talk.say(f"{self.job.side_by_side}: blurred and restored next to each other")
        if self.job.report is not None:
            self.talk.say(f"{self.job.report / 'index.html'}: the report")

    def _title(self, index: int) -> str:
        return f"shot {index + 1} of {len(self.shots)}"


def _steps(settings: AdaptSettings) -> int:
    """Gradient steps on one shot."""
    return settings.steps_on(settings.pairs * settings.blurs)


def _pairs(clip: Clip, restorer: Restorer | None) -> Any:
    """(blurred, restored) frames in order; without a restorer they are the same."""
    if restorer is not None:
        return restore_pairs(restorer, clip)
    return ((frame, frame) for frame in prefetch(clip, 3))
