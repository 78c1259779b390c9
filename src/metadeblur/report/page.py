"""The page a person looks at after a run: one self-contained HTML file with pictures, plots, figures and reasons.

:func:`write_report` takes the record of a run and one :class:`ShotPictures` a shot. Any part of both may be empty: a
section without material is left out, so that a shot that was not adapted gets a shorter page.
Nothing is fetched and nothing is sent: pictures are inlined, and the page's own content security policy forbids both.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from metadeblur.errors import MetadeblurError
from metadeblur.report.html import as_number, flat, percent, sentence, whole_page
from metadeblur.report.record import RunRecord, ShotRecord
from metadeblur.report.shot import Look, PageSettings, ShotPictures, Values, shot_parts
from metadeblur.report.verdict import network_of, overall_verdict, shot_verdict
from metadeblur.system.json_files import write_whole
from metadeblur.system.names import in_words, utf8
from metadeblur.version import __version__

_TOO_MUCH = ("path", "display_matrix", "stream", "time_base")  # of the video's facts: nobody reads them on a page


def write_report(
    directory: Path, record: RunRecord, pictures: Sequence[ShotPictures], settings: PageSettings | None = None
) -> Path:
    """Write ``index.html`` into a directory (made if need be) and return its path.

    The file appears whole or not at all: it is written under a temporary name and renamed.

    Args:
        directory: where the page goes.
        record: the run's.
        pictures: of its shots, matched to them by their index.
        settings: sizes of the pictures.

    Raises:
        MetadeblurError: the directory cannot be written.
    """
    page = render_report(record, pictures, settings, beside=_link(record.side_by_side, Path(directory)))
    target = Path(directory) / "index.html"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise MetadeblurError(
            f"the report cannot be written to {directory}: {reason}; choose another folder with --report"
        ) from error
    write_whole(target, utf8(page))
    return target


def _link(target: str | None, directory: Path) -> str:
    """Address of a file as seen from a page in a directory; empty without one, or on another drive."""
    if target is None:
        return ""
    with suppress(ValueError):
        return quote(Path(os.path.relpath(target, directory)).as_posix(), errors="surrogateescape")
    return ""


def render_report(
    record: RunRecord, pictures: Sequence[ShotPictures], settings: PageSettings | None = None, *, beside: str = ""
) -> str:
    """The page of :func:`write_report` as text; ``beside`` is the address of the video of both next to each other."""
    settings = settings or PageSettings()
    by_index = {each.index: each for each in pictures}
    shots = record.shots
    look = Look.of(record, pictures, settings)
    parts = []
    for number, shot in enumerate(shots):
        shown = shot_parts(shot, by_index.get(shot.index) or ShotPictures(shot.index), record.video, look, number)
        parts.append(shown | _words(shot, record))
    stages, total = _stages(record)
    verdict = overall_verdict(shots, network_of(record))
    return whole_page(
        "restoration.html",
        scripts=("report.js", "report_blind.js"),
        version=record.version or __version__,
        verdict=verdict.headline,
        why=verdict.why,
        beside=beside,
        source=Path(record.input).name,
        size=_size(record.video),
        result=Path(record.output).name,
        note=sentence(shots[0].note) if len(shots) == 1 and shots[0].note else "",
        lost=record.not_kept,
        figures=_key_figures(record),
        shots=parts,
        stages=stages,
        total=total,
        **_facts(record),
    )


# --- the head of the page ------------------------------------------------------------------------------------------


def _size(video: Mapping[str, Any]) -> str:
    """How many frames and of which size the file has, to be added to its name; empty where nothing is known."""
    size = f" at {video['width']}\u00d7{video['height']}" if video.get("width") and video.get("height") else ""
    count = as_number(video.get("frames"))
    return f", {count:,.0f} {'frame' if count == 1 else 'frames'}{size}" if count > 0 else ""


def _key_figures(record: RunRecord) -> list[tuple[str, str]]:
    """The few figures worth a look before anything else."""
    figures, shots = [], record.shots
    if any(shot.adapted for shot in shots):
        figures.append(("Used of what it learnt", percent(record.share)))
    if len(shots) > 1:
        figures.append(("Shots", str(len(shots))))
    pairs = sum(len(shot.pairs) for shot in shots)
    if pairs:
        figures.append(("Places learnt from", str(pairs)))
    steps = sum(len(shot.losses) for shot in shots)
    if steps:
        figures.append(("Training steps", str(steps)))
    stages, total = _stages(record)
    if stages:
        figures.append(("Time", in_words(total)))
    memory = record.peak_memory_mb
    if memory:
        figures.append(("Peak memory", f"{memory / 1024:.1f} GB" if memory >= 1024 else f"{memory:.0f} MB"))
    return figures


# --- shots ---------------------------------------------------------------------------------------------------------


def _words(shot: ShotRecord, record: RunRecord) -> Values:
    """The line over one of several shots."""
    span, verdict = _span(shot, record), shot_verdict(shot, network_of(record))
    spent = in_words(_total(shot.seconds)) if shot.seconds else ""
    parts = [verdict.headline, verdict.why, span, spent, sentence(shot.note) if shot.note else ""]
    return {"span": span, "verdict": verdict.headline, "summary": " · ".join(filter(None, parts))}


def _span(shot: ShotRecord, record: RunRecord) -> str:
    """Which frames a shot covers, and when."""
    if not shot.length:
        return ""
    numbers = f"frames {shot.start + 1} to {shot.stop}"
    rate = as_number(record.video.get("fps"))
    return f"{numbers}, {_clock(shot.start / rate)} to {_clock(shot.stop / rate)}" if rate > 0 else numbers


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}:{rest:04.1f}"


# --- the whole run -------------------------------------------------------------------------------------------------


def _stages(record: RunRecord) -> tuple[list[tuple[str, float]], float]:
    """(stage, seconds) longest first, and the seconds of all together."""
    stages = [(name, value) for name, value in record.seconds.items() if name != "total"]
    return sorted(stages, key=lambda stage: -stage[1]), _total(record.seconds)


def _facts(record: RunRecord) -> Values:
    """Files, settings, the video's own facts, versions and machine; tables of settings stand apart, by name."""
    settings = {**record.settings, "tile_used": record.tile, "precision_used": record.precision}
    grouped = ((name, flat(group)) for name, group in settings.items() if isinstance(group, Mapping))
    made_by = {"metadeblur": record.version, **record.versions}
    return {
        "files": flat({"input": record.input, "output": record.output}),
        "settings": flat({name: value for name, value in settings.items() if not isinstance(value, Mapping)}),
        "groups": [(name, facts) for name, facts in grouped if facts],
        "video": flat(record.video, skip=_TOO_MUCH),
        "versions": flat(made_by) + flat(record.machine),
    }


def _total(times: Mapping[str, float]) -> float:
    """The "total" of a table of seconds, or the sum of its entries."""
    return times["total"] if "total" in times else sum(times.values())
