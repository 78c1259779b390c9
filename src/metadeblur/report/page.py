"""The page a person looks at after a run: one self-contained HTML file with pictures, plots, figures and reasons.

:func:`write_report` takes the record of a run (plain JSON values) and one :class:`ShotStory` a shot (its pictures). Any
of it may be missing: a section without material is left out, so that a shot that was not adapted gets a shorter page.
Nothing is fetched and nothing is sent: pictures are inlined, and the page's own content security policy forbids both.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from metadeblur.errors import MetadeblurError
from metadeblur.report.html import (
    as_number,
    as_table,
    as_tables,
    duration,
    fact_list,
    flat,
    percent,
    section,
    sentence,
    text,
    title_of,
)
from metadeblur.report.look import Look, PageSettings, ShotStory, helped, share_of, shot_outcome
from metadeblur.report.parts import shot_parts
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
    sections = []
    for number, shot in enumerate(shots):
        story = by_index.get(shot.get("index", number)) or ShotStory(number)
        sections.append(_shot(shot, story, record, look, number, alone=len(shots) == 1))
    overview = _overview(shots, record) if len(shots) > 1 else ""
    script, style = _asset("report.js") + _asset("report_blind.js"), _asset("report.css")
    verdict = overall_verdict(shots)
    source = str(record.get("input") or "")
    return Template(_asset("report.html")).substitute(
        title=text(f"{verdict} · {Path(source).name}" if source else verdict),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=text(record.get("version") or __version__),
        style=style,
        script=script,
        verdict=text(verdict),
        lead=_lead(record, shots),
        figures=_key_figures(record, shots, stories),
        content=overview + "".join(sections) + _run(record, titled=len(shots) > 1),
    )


# --- the verdict ---------------------------------------------------------------------------------------------------


def shot_verdict(shot: Mapping[str, Any]) -> str:
    """One plain sentence on what became of a shot.

    >>> shot_verdict({"adapted": True, "share": 1.0, "reasons": [{"name": "gain", "passed": True}]})
    'Adapted to your clip: kept whole (100 %)'
    >>> shot_verdict({"adapted": True, "share": 0.5, "fused": True, "reasons": [{"name": "gain", "passed": True}]})
    'Adapted to your clip: kept in part (50 %); neighbouring frames fused'
    """
    return {
        "unchanged": "Returned unchanged: already sharp",
        "whole": "Adapted to your clip: kept whole (100 %)",
        "part": f"Adapted to your clip: kept in part ({percent(share_of(shot))})",
        "unchecked": "Adapted to your clip: used whole, not checked by the guard",
        "dropped": "Base model used: the adaptation did not help",
        "base": "Base model used: no adaptation was made",
    }[shot_outcome(shot)] + helped(shot)


def overall_verdict(shots: Sequence[Mapping[str, Any]]) -> str:
    """One plain sentence on all shots of a file.

    >>> overall_verdict([{"adapted": True, "share": 1, "reasons": [{}]}, {"adapted": False}])
    'Adapted to your clip: 1 of 2 shots kept whole, 1 with the base model'
    """
    if not shots:
        return "Nothing was restored"
    sentences = {shot_verdict(shot) for shot in shots}
    if len(sentences) == 1:
        return sentences.pop()
    counts = Counter(shot_outcome(shot) for shot in shots)
    counts["base"] += counts.pop("dropped", 0)
    words = {
        "whole": "kept whole",
        "part": "kept in part",
        "unchecked": "used without the guard",
        "base": "with the base model",
        "unchanged": "returned unchanged",
    }
    parts = [f"{counts[kind]} {what}" for kind, what in words.items() if counts[kind]]
    first, _, rest = parts[0].partition(" ")
    parts[0] = f"{first} of {len(shots)} shots {rest}"
    adapted = counts["whole"] + counts["part"] + counts["unchecked"]
    return ("Adapted to your clip: " if adapted else "Not adapted: ") + ", ".join(parts)


def _lead(record: Mapping[str, Any], shots: Sequence[Mapping[str, Any]]) -> str:
    """The sentence under the verdict: which file, how large, where the result lies."""
    video = as_table(record.get("video"))
    size = f" at {video['width']}\u00d7{video['height']}" if video.get("width") and video.get("height") else ""
    count = as_number(video.get("frames"))
    frames = f"{count:,.0f} {'frame' if count == 1 else 'frames'}{size}" if count > 0 else ""
    said = []
    if record.get("input"):
        said.append(f"<b>{text(Path(str(record['input'])).name)}</b>{', ' + text(frames) if frames else ''}.")
    if record.get("output"):
        said.append(f"Result: <b>{text(Path(str(record['output'])).name)}</b>.")
    if len(shots) == 1 and shots[0].get("note"):
        said.append(text(sentence(shots[0]["note"])))
    lost = [f'<p class="lead lost">Not kept: {text(sentence(what))}</p>' for what in record.get("not_kept") or ()]
    return (f'<p class="lead">{" ".join(said)}</p>' if said else "") + "".join(lost)


def _key_figures(record: Mapping[str, Any], shots: Sequence[Mapping[str, Any]], stories: Sequence[ShotStory]) -> str:
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
    rows = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in figures)
    return f'<dl class="figures">{rows}</dl>' if rows else ""


# --- shots ---------------------------------------------------------------------------------------------------------


def _overview(shots: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> str:
    """A table of all shots, each with a link to its section."""
    rows = []
    for number, shot in enumerate(shots):
        rows.append(
            f'<tr><th scope="row"><a href="#shot-{number + 1}">Shot {number + 1}</a></th>'
            f"<td>{text(_span(shot, record))}</td><td>{text(shot_verdict(shot))}</td></tr>"
        )
    head = '<thead><tr><th scope="col">Shot</th><th scope="col">Frames</th><th scope="col">Outcome</th></tr></thead>'
    return (
        '<section class="shots" aria-label="Shots"><div class="scroll"><table><caption class="unseen">The shots of the '
        f"file and what became of each</caption>{head}<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _shot(
    shot: Mapping[str, Any],
    story: ShotStory,
    record: Mapping[str, Any],
    look: Look,
    number: int,
    *,
    alone: bool,
) -> str:
    """One shot's section: its name and outcome where there are several, and everything there is to show of it."""
    body = shot_parts(shot, story, as_table(record.get("video")), look, number)
    if alone:
        return (
            f'<section class="shot" id="shot-1" aria-label="The clip"><h2 class="unseen">The clip</h2>{body}</section>'
        )
    note = f" · {sentence(shot['note'])}" if shot.get("note") else ""
    times = as_table(shot.get("seconds"))
    took = f" · {duration(_total(times))}" if times else ""
    span = _span(shot, record)
    said = f"{shot_verdict(shot)}{' · ' + span if span else ''}{took}{note}"
    return (
        f'<section class="shot" id="shot-{number + 1}" aria-labelledby="shot-{number + 1}-name">'
        f'<header class="shot-head"><h2 id="shot-{number + 1}-name">Shot {number + 1}</h2><p>{text(said)}</p></header>'
        f"{body}</section>"
    )


# --- the whole run -------------------------------------------------------------------------------------------------


def _run(record: Mapping[str, Any], *, titled: bool) -> str:
    """What belongs to the whole file: times, settings, versions; under a visible title where shots came before."""
    body = _times(record) + _settings(record)
    name = "" if titled else ' class="unseen"'
    return (
        f'<section class="run{" apart" if titled else ""}"><h2{name}>The whole run</h2>{body}</section>' if body else ""
    )


def _times(record: Mapping[str, Any]) -> str:
    """Seconds by stage as bars."""
    stages, total = _stages(record)
    if not stages:
        return ""
    longest = max(seconds for _, seconds in stages) or 1.0
    rows = "".join(
        f'<li><span>{text(title_of(name))}</span><span><i style="width:{100 * seconds / longest:.2f}%"></i></span>'
        f"<b>{duration(seconds)}</b></li>"
        for name, seconds in stages
    )
    return section(
        "Times by stage",
        "",
        f'<ul class="times">{rows}<li class="total"><span>Together</span><span></span>'
        f"<b>{duration(total)}</b></li></ul>",
    )


def _stages(record: Mapping[str, Any]) -> tuple[list[tuple[str, float]], float]:
    """(stage, seconds) longest first, and the seconds of all together."""
    times = as_table(record.get("seconds"))
    stages = [(str(name), as_number(value)) for name, value in times.items() if name != "total"]
    stages = sorted(((name, value) for name, value in stages if value >= 0), key=lambda stage: -stage[1])
    return stages, _total(times)


def _settings(record: Mapping[str, Any]) -> str:
    """Settings, the video's own facts, versions and machine."""
    used = {f"{key}_used": record.get(key) for key in ("tile", "precision")}
    files_used = {key: record[key] for key in ("input", "output") if record.get(key)}
    groups = [
        ("Files", "", fact_list(flat(files_used), long=True)),
        ("Settings", "What the run was asked to do.", _grouped(as_table(record.get("settings")) | used)),
        ("Video", "The file as it came.", fact_list(flat(as_table(record.get("video")), skip=_TOO_MUCH))),
        (
            "Versions and machine",
            "The same file, settings, seed and versions give the same result.",
            fact_list(
                flat({"metadeblur": record.get("version")} | as_table(record.get("versions")))
                + flat(as_table(record.get("machine")))
            ),
        ),
    ]
    return "".join(section(title, said, facts) for title, said, facts in groups if facts)


def _grouped(settings: Mapping[str, Any]) -> str:
    """Single settings first, then each table of settings under its own name."""
    body = fact_list(flat({name: value for name, value in settings.items() if not isinstance(value, Mapping)}))
    for name, group in settings.items():
        facts = fact_list(flat(as_table(group)))
        body += f"<h4>{text(title_of(name))}</h4>{facts}" if facts else ""
    return body


def _total(times: Mapping[str, Any]) -> float:
    """The "total" of a table of seconds, or the sum of its finite entries."""
    if math.isfinite(as_number(times.get("total"))):
        return as_number(times["total"])
    return sum(value for value in map(as_number, times.values()) if math.isfinite(value))


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


def _asset(name: str) -> str:
    return (files("metadeblur") / "assets" / name).read_text(encoding="utf-8")
