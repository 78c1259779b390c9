"""``metadeblur restore``: video files and folders of frames in, restored ones out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import tyro

from metadeblur.cli.flags import (
    ADAPTATION,
    EVERYDAY,
    EXPERT,
    OUTPUT,
    AdaptationFlags,
    ConfigFlags,
    MachineFlags,
    NoPrefix,
    PresetFlags,
    Switch,
    TalkFlags,
    Target,
    WorkerFlags,
    writing_record,
)
from metadeblur.cli.inputs import refuse_both, refuse_missing
from metadeblur.cli.moments import seconds_of
from metadeblur.errors import MetadeblurError, UsageError
from metadeblur.limits import YEAR, OutOfRange, Quality, Seconds, Within, check
from metadeblur.pipeline.console import Terminal
from metadeblur.system.explain import error_line

if TYPE_CHECKING:
    from torch import nn

    from metadeblur.pipeline.outputs import Job
    from metadeblur.pipeline.run import RunSettings
    from metadeblur.report.record import RunRecord
    from metadeblur.video import Part


Moment: TypeAlias = Annotated[
    Annotated[float, Within(0, YEAR)] | str | None,
    tyro.conf.arg(metavar="TIME", help_behavior_hint=""),
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="TIME",
        instance_from_str=lambda words: words[0],
        is_instance=lambda value: value is None or isinstance(value, str | float | int),
        str_from_instance=lambda value: [str(value)],
    ),
]
"""Seconds, or hours, minutes and seconds."""


@dataclass(frozen=True)
class EverydayFlags:
    """What most runs need."""

    output: Annotated[
        Target | None,
        tyro.conf.arg(
            aliases=["-o"],
            metavar="OUT",
            help_behavior_hint="",
            help="Where the result goes; several inputs, or a slash at its end: a folder for it. A new name without a "
            "suffix: a folder of pictures. Default: beside each input, named NAME_deblurred.",
        ),
    ] = None
    model: Annotated[str, tyro.conf.arg(metavar="NAME|FILE")] = "lite"
    """The deblurring network: a model's name (metadeblur models), a weight file, or a folder of md.save_pretrained."""
    start: Moment = None
    """Begin at this time of the video, in seconds (75.5) or as H:MM:SS (0:01:15.5); what is before is left out."""
    end: Moment = None
    """End at this time of the video; what is behind is left out."""
    preview: Annotated[Seconds | None, tyro.conf.arg(metavar="SECONDS", help_behavior_hint="")] = None
    """First restore this many seconds to a file named OUT_preview, then go on with the whole."""
    resume: Switch = False
    """Go on where an earlier run of the same command was stopped; its finished shots are not done again."""
    overwrite: Switch = False
    """Replace outputs that are there already; otherwise nothing is done."""
    skip_existing: Switch = False
    """Leave out inputs whose output is there already."""
    shard: Annotated[str | None, tyro.conf.arg(metavar="I/N", help_behavior_hint="")] = None
    """Only every N-th input, from the I-th on: for N jobs that share an archive."""
    verbose: Annotated[Switch, tyro.conf.arg(aliases=["-v"])] = False
    """Also say why: every check of each shot, with its figure and limit."""

    def __post_init__(self) -> None:
        check(self)
        start, end = self._times()
        if end is not None and end <= start:
            raise OutOfRange("end", f"is {self.end}; give a time after --start, which is {self.start or 0}")

    def part(self) -> Part | None:
        """The part of each video that is restored; None: all of it."""
        from metadeblur.video import Part

        return None if self.start is None and self.end is None else Part(*self._times())

    def _times(self) -> tuple[float, float | None]:
        """Start and end in seconds; no end: None.

        Raises:
            OutOfRange: one of them is no time.
        """
        start = 0.0 if self.start is None else seconds_of("start", self.start)
        return start, None if self.end is None else seconds_of("end", self.end)


@dataclass(frozen=True)
class WhetherFlags:
    """How the network adapts, and how that is checked."""

    adapt: bool = True
    """Adapt the network to each shot; without, the base model is used as it is."""
    guard: bool = True
    """Keep, weaken or drop each adaptation by what it does, and leave sharp shots alone; without, use it whole."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class OutputFlags:
    """What is written, and how."""

    codec: Literal["auto", "h264", "h265", "av1", "vp9", "ffv1"] = "auto"
    """Video encoder; auto: H.264, or H.265 for more than 8 bits; VP9 or AV1 in WebM."""
    quality: Annotated[Quality | Literal["lossless"] | None, tyro.conf.arg(metavar="Q", help_behavior_hint="")] = None
    """A number as the encoder counts (0 is best), or lossless; default: visually lossless."""
    side_by_side: Annotated[Target | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Also write blurred and restored next to each other to this file (several inputs: into this folder)."""
    report: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Write a page with pictures, figures and reasons into this folder."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Write the record as JSON (several inputs: a list of records); - is standard output."""
    csv: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Write the result of each input into this table, as comma-separated values."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Restore:
    """Restore motion-blurred video with a network that first adapts itself to each shot.

    The adaptation is used only as far as it helps; a clip that is sharp already comes back untouched. Sound,
    subtitles, time stamps and metadata are kept. Exit codes: 0 done, 1 failed (nothing half-written), 2 wrong usage.
    """

    inputs: Annotated[
        list[Path], tyro.conf.Positional, tyro.conf.arg(metavar="IN...", help_behavior_hint="(one or more)")
    ] = field(default_factory=list)
    """Videos, pictures, folders of frames; folders of videos, searched to the bottom; patterns such as "c/**/*.mp4"."""
    everyday: Annotated[EverydayFlags, NoPrefix, EVERYDAY] = field(default_factory=EverydayFlags)
    presets: Annotated[PresetFlags, NoPrefix, EVERYDAY] = field(default_factory=PresetFlags)
    settings: Annotated[ConfigFlags, NoPrefix, EVERYDAY] = field(default_factory=ConfigFlags)
    talk: Annotated[TalkFlags, NoPrefix, EVERYDAY] = field(default_factory=TalkFlags)
    whether: Annotated[WhetherFlags, NoPrefix, ADAPTATION] = field(default_factory=WhetherFlags)
    adaptation: Annotated[AdaptationFlags, NoPrefix, ADAPTATION] = field(default_factory=AdaptationFlags)
    files: Annotated[OutputFlags, NoPrefix, OUTPUT] = field(default_factory=OutputFlags)
    machine: Annotated[MachineFlags, NoPrefix, EXPERT] = field(default_factory=MachineFlags)
    workers: Annotated[WorkerFlags, NoPrefix, EXPERT] = field(default_factory=WorkerFlags)

    def __post_init__(self) -> None:
        check(self)

    @property
    def output(self) -> Path | None:
        """Where the result goes."""
        return self.everyday.output

    def run(self) -> None:
        """Restore every input; one that cannot be read is named first, and the others are still done."""
        if not self.inputs:
            raise UsageError("restore needs at least one video file or folder of frames: metadeblur restore IN")
        asked = self.everyday
        refuse_both(("--skip-existing", asked.skip_existing), ("--overwrite", asked.overwrite))
        refuse_both(("--quiet", self.talk.quiet), ("--verbose", asked.verbose))
        self.workers.settings()  # refuses what makes no sense before anything is loaded
        refuse_missing(self.inputs, self.output)
        from metadeblur.pipeline.archive import find_inputs, shard
        from metadeblur.pipeline.outputs import existing, plan, refuse_existing
        from metadeblur.system.files import check_writable

        inputs = find_inputs(self.inputs, self.output)
        jobs = plan(
            inputs, self.output, side_by_side=self.files.side_by_side, report=self.files.report, json=self._json_file()
        )
        if self.everyday.shard is not None:
            chosen = {each.source for each in shard(inputs, self.everyday.shard)}
            jobs = [job for job in jobs if job.source in chosen]
        there = existing(jobs, resume=asked.resume)
        # Of a finished run there is nothing to go on with.
        passed_over = asked.skip_existing or (asked.resume and not asked.overwrite)
        if not (asked.overwrite or passed_over):
            refuse_existing(there)
        skipped = there if passed_over else []
        if self.files.csv is not None:
            check_writable(self.files.csv)
        from metadeblur.models.weights import load_deblurrer

        terminal = self.talk.terminal(verbose=self.everyday.verbose)
        with writing_record(self.files.json):
            self._restore(jobs, skipped, load_deblurrer(self.everyday.model), self.run_settings(), terminal)

    def _restore(
        self, jobs: Sequence[Job], skipped: Sequence[Job], net: nn.Module, settings: RunSettings, terminal: Terminal
    ) -> None:
        """Do it, but for jobs that are skipped, with a file for the record that is this run's alone."""
        from metadeblur.pipeline.first_look import clear_first_look, showing_first_look
        from metadeblur.pipeline.outputs import unreadable
        from metadeblur.pipeline.result_table import show_results, write_csv
        from metadeblur.pipeline.resume import clear_parts
        from metadeblur.pipeline.side_by_side import restore_files
        from metadeblur.report.record import RunRecord
        from metadeblur.system.json_files import write_json

        def failed(error: Exception) -> None:
            if len(jobs) > 1:
                terminal.say(f"metadeblur: {error_line(error)}")

        for job in skipped:
            clear_first_look(job.output)
            clear_parts(job.output)
        faults: dict[int, Exception | None] = {n: None for n, job in enumerate(jobs) if job in skipped}
        faults |= unreadable(jobs, faults) if len(jobs) > 1 else {}
        for fault in filter(None, faults.values()):  # said before the first of them is worked on
            failed(fault)
        good = [job for number, job in enumerate(jobs) if number not in faults]
        with self.workers.pool(net, self.machine.device, terminal.say) as pool:
            if pool is None:
                restored = _one_after_other(good, net, settings, self.everyday.model, terminal, failed)
            else:
                with showing_first_look(good[0].output if good else None, terminal) as listener:
                    restored = restore_files(
                        good, net, settings, pool, model=self.everyday.model, listener=listener, failed=failed
                    )
        done = iter(restored)
        results = [faults[number] if number in faults else next(done) for number in range(len(jobs))]
        if len(jobs) > 1:
            show_results(jobs, results, terminal)
        elif skipped:
            terminal.say(f"{skipped[0].output}: there already, left as it is; --overwrite replaces it")
        if self.files.csv is not None:
            write_csv(jobs, results, self.files.csv)
        if len(jobs) == 1 and isinstance(results[0], Exception):
            raise results[0]
        records = [result for result in results if isinstance(result, RunRecord)]
        if self.files.json is not None and not (len(jobs) == 1 and skipped):
            write_json(records[0] if len(jobs) == 1 else records, self.files.json)
        failures = [job.source.name for job, result in zip(jobs, results, strict=True) if isinstance(result, Exception)]
        if failures:
            raise MetadeblurError(f"{len(failures)} of {len(jobs)} inputs failed: {', '.join(failures)}")

    def run_settings(self) -> RunSettings:
        """The settings of the rooms that do the work."""
        from metadeblur.pipeline.run import RunSettings
        from metadeblur.restoration.restorer import RestoreSettings
        from metadeblur.video import EncodeSettings

        return RunSettings(
            adapt=self.whether.adapt,
            adaptation=self.adaptation.settings(
                guard=self.whether.guard, device=self.machine.device, precision=self.machine.precision
            ),
            restoration=RestoreSettings(
                tile=self.machine.tile, precision=self.machine.precision, device=self.machine.device
            ),
            encoding=EncodeSettings(codec=self.files.codec, quality=self.files.quality),
            part=self.everyday.part(),
            preview_seconds=self.everyday.preview,
            first_look=not self.talk.quiet,
            resume=self.everyday.resume,
        )

    def _json_file(self) -> Path | None:
        """Where the record goes, None for standard output or nowhere."""
        return None if self.files.json is None or str(self.files.json) == "-" else self.files.json


def _one_after_other(
    jobs: Sequence[Job],
    net: nn.Module,
    settings: RunSettings,
    model: str,
    terminal: Terminal,
    failed: Callable[[Exception], None],
) -> list[RunRecord | Exception]:
    """The records of inputs that are restored in this process, or what went wrong with them."""
    from metadeblur.pipeline.first_look import showing_first_look
    from metadeblur.pipeline.run import restore_file

    results: list[RunRecord | Exception] = []
    for job in jobs:
        how = replace(settings, first_look=settings.first_look and not results)  # later a whole result is there to see
        try:
            with showing_first_look(job.output, terminal) as listener:
                results.append(restore_file(job, net, how, model=model, listener=listener))
        except Exception as error:
            failed(error)
            results.append(error)
    return results
