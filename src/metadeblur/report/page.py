"""The page a person looks at after a run: one self-contained HTML file with pictures, plots, figures and reasons.

:func:`write_report` takes the record of a run (plain JSON values) and one :class:`ShotStory` a shot (its pictures). Any
of it may be missing: a section without material is left out, so that a shot that was not adapted gets a shorter page.
Nothing is fetched and nothing is sent: pictures are inlined, and the page's own content security policy forbids both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metadeblur.errors import MetadeblurError
from metadeblur.report.html import as_number, as_table, as_tables, duration, flat, percent, sentence, whole_page
from metadeblur.report.shot import Look, PageSettings, ShotStory, Values, shot_parts
from metadeblur.report.verdict import overall_verdict, share_of, shot_outcome, shot_verdict
from metadeblur.system.names import utf8
from metadeblur.system.record import write_whole
from metadeblur.version import __version__

_TOO_MUCH = ("path", "display_matrix", "stream", "time_base")  # of the video's facts: nobody reads them on a page

__all__ = [
    "PageSettings",
    "ShotStory",
    "overall_verdict",
    "render_report",
    "shot_outcome",
    "shot_verdict",
    "write_report",
]


def write_report(
    directory: Path, record: Mapping[str, Any], stories: Sequence[ShotStory], settings: PageSettings | None = None
) -> Path:
    """Write ``index.html`` into a directory (made if need be) and return its path.

    The file appears whole or not at all: it is written under a temporary name and renamed.

    Args:
        directory: where the page goes.
        record: the run's record: "input", "output", "settings", "shots", "seconds", ... (docs: the JSON record).
        stories: the pictures, matched to the record's shots by their index.
        settings: sizes of the pictures.

    Raises:
        MetadeblurError: the directory cannot be written.
    """
    page = render_report(record, stories, settings)
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


def render_report(record: Mapping[str, Any], stories: Sequence[ShotStory], settings: PageSettings | None = None) -> str:
    """The page of :func:`write_report` as text."""
    settings = settings or PageSettings()
    by_index = {story.index: story for story in stories}
    shots = as_tables(record.get("shots")) or [{"index": story.index} for story in stories]
    look = Look.of(record, stories, settings)
    parts = []
    for number, shot in enumerate(shots):
        story = by_index.get(shot.get("index", number)) or ShotStory(number)
        shown = shot_parts(shot, story, as_table(record.get("video")), look, number)
        parts.append(shown | _words(shot, record))
    stages, total = _stages(record)
    return whole_page(
        "restoration.html",
        scripts=("report.js", "report_blind.js"),
        version=record.get("version") or __version__,
        verdict=overall_verdict(shots),
        source=Path(str(record.get("input") or "")).name,
        size=_size(as_table(record.get("video"))),
        made=Path(str(record.get("output") or "")).name,
        note=sentence(shots[0]["note"]) if len(shots) == 1 and shots[0].get("note") else "",
        lost=record.get("not_kept") or (),
        figures=_key_figures(record, shots, stories),
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


def _key_figures(
    record: Mapping[str, Any], shots: Sequence[Mapping[str, Any]], stories: Sequence[ShotStory]
) -> list[tuple[str, str]]:
    """The few figures worth a look before anything else."""
    figures = []
    if any(shot.get("adapted") for shot in shots):
        shares = [share_of(shot) for shot in shots]
        mean = as_number(record.get("share"))
        figures.append(("Adaptation used", percent(mean if math.isfinite(mean) else sum(shares) / len(shares))))
    if len(shots) > 1:
        figures.append(("Shots", str(len(shots))))
    pairs = sum(len(as_tables(shot.get("pairs"))) for shot in shots) or sum(len(story.pairs) for story in stories)
    if pairs:
        figures.append(("Patches learned from", str(pairs)))
    steps = sum(len(shot.get("losses") or ()) for shot in shots) or sum(len(story.history) for story in stories)
    if steps:
        figures.append(("Training steps", str(steps)))
    stages, total = _stages(record)
    if stages:
        figures.append(("Time", duration(total)))
    memory = as_number(record.get("peak_memory_mb"))
    if memory > 0:
        figures.append(("Peak memory", f"{memory / 1024:.1f} GB" if memory >= 1024 else f"{memory:.0f} MB"))
    return figures


# --- shots ---------------------------------------------------------------------------------------------------------


def _words(shot: Mapping[str, Any], record: Mapping[str, Any]) -> Values:
    """What is said of one of several shots."""
    span, verdict, times = _span(shot, record), shot_verdict(shot), as_table(shot.get("seconds"))
    said = [verdict, span, duration(_total(times)) if times else "", sentence(shot["note"]) if shot.get("note") else ""]
    return {"span": span, "verdict": verdict, "said": " · ".join(filter(None, said))}


def _span(shot: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """Which frames a shot covers, and when."""
    start, stop = as_number(shot.get("start")), as_number(shot.get("stop"))
    if not math.isfinite(start + stop):
        return ""
    said = f"frames {start:.0f} to {stop - 1:.0f}"
    rate = as_number(as_table(record.get("video")).get("fps"))
    return f"{said}, {_clock(start / rate)} to {_clock(stop / rate)}" if rate > 0 else said


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}:{rest:04.1f}"


# --- the whole run -------------------------------------------------------------------------------------------------


def _stages(record: Mapping[str, Any]) -> tuple[list[tuple[str, float]], float]:
    """(stage, seconds) longest first, and the seconds of all together."""
    times = as_table(record.get("seconds"))
    stages = [(str(name), as_number(value)) for name, value in times.items() if name != "total"]
    stages = sorted(((name, value) for name, value in stages if value >= 0), key=lambda stage: -stage[1])
    return stages, _total(times)


def _facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """Files, settings, the video's own facts, versions and machine; tables of settings stand apart, by name."""
    used = {f"{key}_used": record.get(key) for key in ("tile", "precision")}
    settings = as_table(record.get("settings")) | used
    grouped = ((name, flat(as_table(group))) for name, group in settings.items())
    made_by = {"metadeblur": record.get("version")} | as_table(record.get("versions"))
    return {
        "files": flat({key: record[key] for key in ("input", "output") if record.get(key)}),
        "settings": flat({name: value for name, value in settings.items() if not isinstance(value, Mapping)}),
        "groups": [(name, facts) for name, facts in grouped if facts],
        "video": flat(as_table(record.get("video")), skip=_TOO_MUCH),
        "versions": flat(made_by) + flat(as_table(record.get("machine"))),
    }


def _total(times: Mapping[str, Any]) -> float:
    """The "total" of a table of seconds, or the sum of its finite entries."""
    if math.isfinite(as_number(times.get("total"))):
        return as_number(times["total"])
    return sum(value for value in map(as_number, times.values()) if math.isfinite(value))
