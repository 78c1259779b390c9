"""Where results go: names that are chosen, and names that are refused before any work is done."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from metadeblur.errors import MetadeblurError
from metadeblur.pipeline.archive import Input
from metadeblur.pipeline.resume import parts_folder
from metadeblur.system.files import check_writable, make_folder
from metadeblur.system.names import joined, name_limit, refuse_long
from metadeblur.system.paths import is_slashed
from metadeblur.video.assembly import check_output
from metadeblur.video.encoding import CONTAINERS, EncodeSettings, output_kind
from metadeblur.video.info import VideoInfo, probe
from metadeblur.video.stills import IMAGE_SUFFIXES


@dataclass(frozen=True)
class Job:
    """One input and the files made from it."""

    source: Path
    output: Path
    side_by_side: Path | None = None  # blurred and restored next to each other
    report: Path | None = None  # folder of the page


def default_name(source: Path) -> str:
    """The name of the restored file or folder; containers that cannot be written become Matroska.

    >>> default_name(Path("films/shaky.mp4")), default_name(Path("old.wmv"))
    ('shaky_deblurred.mp4', 'old_deblurred.mkv')
    """
    if source.is_dir():
        return joined(source.resolve().name, "_deblurred", name_limit(source.resolve().parent))
    suffix = source.suffix if source.suffix.lower() in (*CONTAINERS, *IMAGE_SUFFIXES) else ".mkv"
    return joined(source.stem, f"_deblurred{suffix}", name_limit(source.parent))


def preview_path(output: Path) -> Path:
    """Where the preview of an output goes.

    >>> preview_path(Path("out.mp4")).name
    'out_preview.mp4'
    """
    return output.with_name(joined(output.stem, f"_preview{output.suffix}", name_limit(output.parent)))


def plan(
    sources: Sequence[Path | Input],
    output: Path | str | None = None,
    *,
    side_by_side: Path | str | None = None,
    report: Path | None = None,
    json: Path | None = None,
) -> list[Job]:
    """Which files are made from which input.

    Args:
        sources: the inputs; with more than one, or with one that was found in an archive, ``output``,
            ``side_by_side`` and ``report`` are folders with one entry for each input, in the folders of the archive.
        output: a file (a folder for a folder of frames). A folder that is there, or a text that ends with a slash,
            takes a video or picture under its default name; another name without a suffix becomes a folder of
            pictures. None: beside each input.
        side_by_side: file for blurred and restored next to each other, or a folder for it as with ``output``.
        report: folder for the page.
        json: file for the record; it may not be one of the others.

    Raises:
        MetadeblurError: an output is an input or lies inside one, or two outputs are the same.
    """
    for named in (output, side_by_side, report, json):
        if named is not None:
            refuse_long(Path(named))
    inputs = [source if isinstance(source, Input) else Input(source) for source in sources]
    several = len(inputs) > 1 or any(each.found for each in inputs)
    jobs = []
    for each in inputs:
        source, name = each.source, default_name(each.source)
        beside_it = source if source.name not in ("", "..") else source.resolve()
        target = _placed(output, each.folder / name, source, several) or beside_it.with_name(name)
        beside = _placed(side_by_side, each.folder / name, source, several)
        page = report / each.folder / Path(name).stem if report and several else report
        jobs.append(Job(source, target, beside, page))
    for path in (path for job in jobs for path in (job.output, job.side_by_side) if path is not None):
        refuse_long(path)
    _refuse_clashes(jobs, json)
    if json is not None:
        if json.is_dir():
            raise MetadeblurError(f"{json}: is a folder; --json needs the name of a file")
        check_writable(json)
    for named in (output, side_by_side):
        for folder in {each.folder for each in inputs if named is not None and _is_folder(named, each.source, several)}:
            make_folder(Path(named or "") / folder, "the result of several inputs" if several else "a name ending in /")
    for folder in {each.folder for each in inputs if several and report is not None}:
        make_folder(Path(report or "") / folder, "the report of several inputs")
    return jobs


def _placed(named: Path | str | None, name: Path | str, source: Path, several: bool) -> Path | None:
    """Where a result goes for which a file or a folder was named, under its default name in a folder."""
    if named is None:
        return None
    return Path(named) / name if _is_folder(named, source, several) else Path(named)


def _is_folder(named: Path | str, source: Path, several: bool) -> bool:
    """Whether a folder was named that takes files under their default names; a folder of frames is its own result."""
    return several or (not source.is_dir() and (is_slashed(named) or Path(named).is_dir()))


def _refuse_clashes(jobs: Sequence[Job], json: Path | None) -> None:
    """Refuse outputs that would overwrite an input or each other."""
    sources = [job.source.resolve() for job in jobs]
    targets = [path for job in jobs for path in (job.output, job.side_by_side) if path is not None]
    targets += [json] if json is not None else []
    for target in targets:
        place = target.resolve()
        for source in sources:
            if place == source or (target.exists() and source.exists() and target.samefile(source)):
                raise MetadeblurError(f"{target}: the output is the input itself; choose another name with -o")
            if place.is_relative_to(source) or source.is_relative_to(place):
                raise MetadeblurError(
                    f"{target}: one of output and input {source} lies inside the other; keep them apart"
                )
    twice = [path for path, count in Counter(target.resolve() for target in targets).items() if count > 1]
    if twice:
        raise MetadeblurError(f"{twice[0]}: two results would be written there; give them different names")


def existing(jobs: Sequence[Job], *, resume: bool = False) -> list[Job]:
    """Jobs whose output is there already, but for those that an earlier run has begun and this one goes on with."""

    def there(path: Path | None) -> bool:
        return path is not None and (any(path.iterdir()) if path.is_dir() else path.exists())

    going_on = {job.output for job in jobs if resume and parts_folder(job.output).is_dir()}
    return [job for job in jobs if job.output not in going_on and (there(job.output) or there(job.side_by_side))]


def refuse_existing(jobs: Sequence[Job]) -> None:
    """Refuse to replace what is there.

    Raises:
        MetadeblurError: names the first of the outputs.
    """
    if jobs:
        more = f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""
        raise MetadeblurError(
            f"{jobs[0].output}{more}: there already; --overwrite replaces it, --skip-existing leaves it as it is"
        )


def unreadable(jobs: Sequence[Job], skipped: Container[int] = ()) -> dict[int, Exception]:
    """What is wrong with inputs that cannot even be begun with, by the number of the job."""
    faults: dict[int, Exception] = {}
    for number, job in enumerate(jobs):
        if number in skipped:
            continue
        try:
            probe(job.source)
        except (MetadeblurError, OSError) as error:
            faults[number] = error
    return faults


def check_targets(job: Job, encoding: EncodeSettings) -> None:
    """Refuse outputs that could not be written, before hours are spent on them.

    Raises:
        MetadeblurError: a folder is missing or not writable, or the container cannot hold the codec or a stream.
    """
    check_output(job.source, job.output, encoding)
    if job.side_by_side is not None:
        check_output(job.source, job.side_by_side, encoding)
    if job.report is not None:
        place = job.report.absolute()
        if place.exists() and not place.is_dir():
            raise MetadeblurError(
                f"{job.report}: is a file; --report needs a folder, which is made where it is missing"
            )
        check_writable(next(parent for parent in (place, *place.parents) if parent.is_dir()) / "index.html")


def can_copy(info: VideoInfo, output: Path) -> bool:
    """Whether an output is of the same kind as its source, so that a sharp source can be copied as it is."""
    if info.kind == "frames":
        return output_kind(output) == "frames"
    return output.suffix.lower() == info.path.suffix.lower()


def copy_untouched(info: VideoInfo, draft: Path) -> None:
    """Copy a source byte for byte to a file, or its frames to a folder that is made.

    Raises:
        OSError: the disk is full, or there is no permission.
    """
    if info.kind != "frames":
        shutil.copyfile(info.path, draft)
        return
    draft.mkdir()
    for path in info.files:
        shutil.copyfile(path, draft / path.name)
