"""Measure on paired clips: rows blurred, base, adapted (guarded and not) and oracle, one JSON record a clip.

Adaptation sees blurred frames alone. The oracle takes the same number of gradient steps, on patches of the same size,
but of TRUE pairs of the clip: an upper bound of what adaptation could win, for evaluation only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from metadeblur.data.layouts import Benchmark, ClipFolder, open_benchmark
from metadeblur.data.paired import read_trial
from metadeblur.errors import MetadeblurError
from metadeblur.evaluation.measures import Measure, measure_for
from metadeblur.evaluation.records import ClipRecord, GroupMeans, OtherVersion, Summary, read_record
from metadeblur.evaluation.rows import Ledger
from metadeblur.evaluation.sealed import write_sealed
from metadeblur.evaluation.settings import NETWORKS, EvaluateSettings, unnamed
from metadeblur.evaluation.summary import summarize
from metadeblur.evaluation.trial import evaluate_clip
from metadeblur.pipeline.process_pool import ProcessPool
from metadeblur.pipeline.task_pool import TaskPool
from metadeblur.system.files import filling
from metadeblur.system.identity import identify_files
from metadeblur.system.json_files import from_plain, versions, write_json
from metadeblur.system.locks import beside
from metadeblur.system.machine import describe_machine
from metadeblur.system.plain_files import RECORD, read_object
from metadeblur.system.scratch import remove_deliveries

__all__ = [
    "ClipJob",
    "EvaluateSettings",
    "evaluate",
    "is_measured",
    "ledger_path",
    "measure_job",
    "read_records",
    "read_summary",
    "record_path",
]

ClipProgress = Callable[[int, int, str], None]  # (clips done, clips in all, stage)


@dataclass(frozen=True)
class ClipJob:
    """One clip to be measured, and where to."""

    folder: ClipFolder
    out: Path
    settings: EvaluateSettings
    measure: Measure
    conditions: dict[str, Any]
    mark: str = ""  # by which the clip's files are recognised
    renew: bool = False  # records of other networks are made anew instead of refused

    @property
    def path(self) -> Path:
        """The record's file."""
        return record_path(self.out, self.folder.name)


def record_path(out: Path, clip: str) -> Path:
    """The file of a clip's record."""
    return out / f"{clip.replace('/', '_')}.json"


def ledger_path(record: Path) -> Path:
    """The file of a clip's notes, which hold finished rows until the record is written."""
    return beside(record, "rows", ".json")


def read_records(out: Path, summary: Summary) -> list[ClipRecord]:
    """The records of the clips that a summary names.

    Raises:
        MetadeblurError: see :func:`metadeblur.evaluation.records.read_record`.
    """
    return [read_record(record_path(out, clip), ClipRecord) for clip in summary.clips]


def read_summary(out: Path) -> Summary:
    """What ``summary.json`` of an evaluation holds.

    Raises:
        MetadeblurError: it is not there, damaged, or of another version of this program.
    """
    path = out / "summary.json"
    values = read_object(path, RECORD)
    try:
        return from_plain(Summary, values)
    except MetadeblurError as error:
        raise OtherVersion(
            f"{path}: is damaged, or was written by another version of this program ({error})"
        ) from error


def evaluate(
    root: Path | Benchmark,
    net: nn.Module,
    out: Path,
    settings: EvaluateSettings | None = None,
    *,
    model: str = "",
    progress: ClipProgress | None = None,
    pool: TaskPool | None = None,
    say: Callable[[str], object] = lambda _: None,
    renew: bool = False,
) -> Summary:
    """Evaluate a deblurrer on paired clips.

    Args:
        root: folder of clips in any layout of :mod:`metadeblur.data.layouts`, or what was found in one.
        net: the deblurrer; not changed.
        out: folder for ``<clip>.json``, ``summary.json`` and ``pictures/<clip>/<row>.png``.
        settings: see :class:`EvaluateSettings`.
        model: how the records call the deblurrer.
        progress: called before each step of the work.
        pool: measures the clips side by side; by default ``settings.workers`` processes of this machine.
        say: told what of an earlier run cannot be used.
        renew: where records are to be kept, make those anew that other networks made, instead of refusing them.

    Returns:
        What ``summary.json`` holds.

    Raises:
        MetadeblurError: no clips, unpaired frames, records of other settings to resume, a clip that was changed
            meanwhile, somebody else who writes into the folder, see the rooms used.
    """
    settings = settings or EvaluateSettings()
    found = root if isinstance(root, Benchmark) else None
    benchmark = found or open_benchmark(Path(str(root)), settings.layout, part=settings.part, inputs=settings.inputs)
    folders = _chosen(benchmark, settings)
    conditions = settings.conditions(net, model, benchmark)
    measure = measure_for(benchmark.layout, settings.ssim)
    jobs = [ClipJob(folder, out, settings, measure, conditions, _mark(folder), renew) for folder in folders]
    with filling(out, "evaluate"):
        remove_deliveries(out)
        left = [job for job in jobs if not is_measured(job, say)]
        if pool is None and settings.workers == 1:
            for number, job in enumerate(jobs):
                measure_job(job, net, _counting(progress, number, len(jobs), job.folder.name))
        else:
            from metadeblur.evaluation.side_by_side import measure_side_by_side

            with ExitStack() as stack:
                pool = pool or stack.enter_context(ProcessPool(net, settings.workers, say))
                measure_side_by_side(jobs, pool, progress)
        for job in left:
            _refuse_change(job)
        records = [read_record(job.path, ClipRecord) for job in jobs]
        write_json(_summary(records, settings, benchmark, conditions), out / "summary.json")
    return read_summary(out)


def _mark(folder: ClipFolder) -> str:
    """Checksum of the files of a clip."""
    return identify_files([*folder.blurred, *folder.sharp])


def _refuse_change(job: ClipJob) -> None:
    """Refuse a clip that was changed while it was being measured, and remove its record."""
    if _mark(job.folder) != job.mark:
        job.path.unlink(missing_ok=True)
        raise MetadeblurError(
            f"{job.folder.name} was changed while it was being measured, so its figures were not kept; run it again "
            "with --resume when nothing else writes to it"
        )


def _chosen(benchmark: Benchmark, settings: EvaluateSettings) -> list[ClipFolder]:
    """The clips that are measured."""
    names = [folder.name for folder in benchmark.clips]
    settings.refuse_unknown(names)
    folders = [folder for folder in benchmark.clips if not settings.clips or folder.name in settings.clips]
    files = [record_path(Path(), folder.name).name for folder in folders]
    taken = next((name for name in files if files.count(name) > 1 or name == "summary.json"), None)
    if taken:
        raise MetadeblurError(f"two records would be called {taken}; rename the clip's folder")
    return folders


def _counting(progress: ClipProgress | None, number: int, count: int, name: str) -> Callable[[str], object] | None:
    """Says what is done of one clip."""
    return (lambda stage: progress(number, count, f"{name}: {stage}")) if progress else None


def is_measured(job: ClipJob, say: Callable[[str], object] = lambda _: None) -> bool:
    """Whether an earlier run under the same conditions wrote the clip's record.

    Args:
        job: the clip.
        say: told why a record that is there does not count.

    Raises:
        MetadeblurError: a record of other conditions is there that is to be kept, or a damaged one.
    """
    if not job.settings.resume or not job.path.exists():
        return False
    try:
        record = read_record(job.path, ClipRecord)
    except MetadeblurError as error:
        fault = "of another version" if isinstance(error, OtherVersion) else "damaged"
        say(f"{job.path}: the record is {fault}; {job.folder.name} is measured again")
        return False
    if record.input != job.mark:
        say(f"{job.path}: the frames of {job.folder.name} were changed since; it is measured again")
        return False
    if unnamed(record.conditions) == unnamed(job.conditions):
        return True
    if job.renew and unnamed(record.conditions, *NETWORKS) == unnamed(job.conditions, *NETWORKS):
        say(f"{job.path}: its networks were changed since; {job.folder.name} is measured again")
        return False
    way_out = "" if job.renew else ", or drop --resume"
    raise MetadeblurError(f"{job.path} was measured under other settings; give another folder with -o{way_out}")


def measure_job(job: ClipJob, net: nn.Module, say: Callable[[str], object] | None = None) -> None:
    """Measure a clip and write its record, unless :func:`is_measured`."""
    if is_measured(job):
        ledger_path(job.path).unlink(missing_ok=True)  # of a run that was killed before it removed its notes
        return
    clip = read_trial(job.folder, crop=job.settings.crop, frames=job.settings.frames)
    ledger = Ledger(ledger_path(job.path), {**unnamed(job.conditions), "input": job.mark}, keep=job.settings.resume)
    record = evaluate_clip(
        clip,
        net,
        job.settings,
        measure=job.measure,
        ledger=ledger,
        pictures=job.out / "pictures" / job.path.stem,
        say=say,
        conditions=job.conditions,
        mark=job.mark,
    )
    write_sealed(record, job.path)
    ledger.forget()


def _summary(
    records: Sequence[ClipRecord], settings: EvaluateSettings, benchmark: Benchmark, conditions: dict[str, Any]
) -> Summary:
    """What ``summary.json`` holds."""
    apart = [record for record in records if record.clip in settings.apart]
    others = [record for record in records if record.clip not in settings.apart]
    return Summary(
        **vars(summarize(records)),
        clips=tuple(record.clip for record in records),
        frames=sum(record.frames for record in records),
        layout=benchmark.layout,
        notes=(*benchmark.notes, *settings.notes()),
        conditions=conditions,
        versions=versions(),
        machine=describe_machine(),
        apart=GroupMeans(**vars(summarize(apart)), clips=settings.apart) if apart else None,
        others=GroupMeans(**vars(summarize(others)), clips=tuple(record.clip for record in others))
        if apart and others
        else None,
    )
