"""How the page looks and what it says: its style, its texts about a clip, a job and a result, as HTML."""

from __future__ import annotations

import re
from importlib.resources import files

import gradio as gr

from metadeblur.app.queue import QueuedTask
from metadeblur.app.tasks import Done, Facts, Finishing
from metadeblur.app.uploads import UploadedClip
from metadeblur.imaging.pictures import data_uri
from metadeblur.pipeline.events import FrameRestored, FrameScanned, ShotDecided, ShotStarted, StepDone
from metadeblur.report.html import sentence, text
from metadeblur.system.names import counted, in_words

_FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

INTRODUCTION = (
    '<header class="md-head"><h1>Restore a motion-blurred video</h1><p>A network adapts itself to your clip, without a '
    "sharp original, and the result is checked before it is used. Your files stay on the computer that runs this page "
    "and are deleted when you close it.</p></header>"
)


FIRST_LOOK = "A first look, by the base network; the rest of the work makes it better where it can"


def _asset(name: str) -> str:
    return (files("metadeblur") / "assets" / name).read_text(encoding="utf-8")


CSS = _asset("app.css")
DROP = _asset("app_drop.html")
DROP_SCRIPT = _asset("app_drop.js")
COMPARE_SCRIPT = _asset("app_compare.js")
"""The style of the page, the place to bring a clip to, and the scripts of that and of the comparison."""
NAMES_SCRIPT = "() => { document.querySelector('#effort').closest('fieldset').setAttribute('aria-label', 'Effort'); }"
"""Gives a group of choices the name that Gradio shows above it."""
LIVE_SCRIPT = "element.setAttribute('role', 'status'); element.setAttribute('aria-live', 'polite');"


def theme() -> gr.themes.Base:
    """Colours and fonts; nothing is loaded from elsewhere."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.stone,
        font=list(_FONT),
        font_mono=list(_MONO),
        radius_size=gr.themes.sizes.radius_md,
    ).set(
        button_primary_background_fill="#0b6b5d",
        button_primary_background_fill_dark="#56cdb3",
        button_primary_background_fill_hover="#095a4e",
        button_primary_background_fill_hover_dark="#7bdcc7",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#10201d",
        body_text_color_subdued="#57534e",
        body_text_color_subdued_dark="#b5afa9",
        block_info_text_color="#57534e",
        block_info_text_color_dark="#b5afa9",
    )


def chosen(clip: UploadedClip) -> str:
    """What the visitor has brought."""
    assert clip.facts is not None
    return (
        f'<div class="md-chosen"><img src="{data_uri(clip.facts.picture)}" alt="First frame of {text(clip.name)}">'
        f"<p><b>{text(clip.name)}</b><br>{facts_in_words(clip.facts)}</p></div>"
    )


def facts_in_words(facts: Facts) -> str:
    """Size and length of a clip.

    >>> facts_in_words(Facts("video", 640, 480, 45, 1.5, False, b""))
    '640\u00d7480, 45 frames, 1.5 s, no sound'
    """
    size = f"{facts.width}\u00d7{facts.height}"
    if facts.kind == "image":
        return f"{size}, a single picture: the base model is used"
    if facts.kind == "frames":
        return f"{size}, {counted(facts.frames, 'frame')}"
    return (
        f"{size}, {counted(facts.frames, 'frame')}, {in_words(facts.seconds)}, {'with' if facts.sound else 'no'} sound"
    )


def wrong(line: str) -> str:
    """What went wrong, in one line."""
    return f'<p class="md-error" role="alert">{text(sentence(line))}</p>'


def quiet(words: str) -> str:
    """Something said in passing."""
    return f'<p class="md-quiet">{text(words)}</p>'


def at_stage(words: str) -> str:
    """Where a restoration stands."""
    return f'<p class="md-stage">{text(words)}</p>'


def headline(job: QueuedTask, before: int) -> str:
    """At which stage a job is; it changes seldom, so that a screen reader can say it.

    Args:
        job: which.
        before: jobs that must be over first.
    """
    if job.state == "waiting":
        count = "1 restoration is" if before == 1 else f"{before} restorations are"
        return f"In line: {count} before yours" if before else "It is your turn"
    at = getattr(job.event, "at", None)
    words = _stage_words(job)
    if at is None or at.shots == 1:
        return words
    return f"Shot {at.shot + 1} of {at.shots}: {words[0].lower()}{words[1:]}"


def _stage_words(job: QueuedTask) -> str:
    match job.event:
        case Finishing():
            return "Preparing the result"
        case ShotStarted(adapts=True, steps=0):
            return "Checking whether its frames can help each other"
        case StepDone(done=done, total=total):
            return "Checking whether it helped" if done == total else "Learning from the clip"
    match job.phase:
        case None:
            return "Starting"
        case "scan":
            return "Looking through the clip"
        case "measure":
            return "Measuring how long it will take"
    return (
        "Restoring the frames" if isinstance(job.event, FrameRestored | ShotDecided) else "Choosing what to learn from"
    )


def progress(job: QueuedTask, expectation: str, facts: Facts | None, since: float) -> str:
    """How far a job is, with the frame being worked on.

    Args:
        job: which.
        expectation: how long it takes, in words.
        facts: of the clip: its first frame is shown until there is a restored one.
        since: seconds since it began.
    """
    done = total = 0
    where = ""
    match job.event:
        case StepDone(done=done, total=total):
            where = f"step {done} of {total}"
        case FrameScanned(done=done, total=total):
            where = f"frame {done} of {total}"
        case FrameRestored(at=at):
            done, total = at.frames_done, at.frames
            where = f"frame {done} of {total}"
    under_way = job.state == "running"
    value = f' value="{done}" max="{total}"' if total and done and under_way else ""
    bar = f'<progress aria-label="Progress of this stage"{value}></progress>'
    first = f"expected: {expectation}" if expectation and job.time_left is None else ""  # until there is a better one
    parts = [where, f"{in_words(since)} so far" if under_way else "", first]
    lines = [f'<p class="md-quiet">{text(", ".join(part for part in parts if part))}</p>']
    lines += [f'<p class="md-quiet">{text(sentence(job.time_left.text))}</p>'] if job.time_left else []
    return f'<div class="md-work">{bar}{"".join(lines)}{_preview(job, facts)}</div>'


def _preview(job: QueuedTask, facts: Facts | None) -> str:
    if job.shown is not None:
        number, before, after = job.shown
        pictures = ((before, "blurred"), (after, "restored"))
        pair = "".join(
            f'<figure><img src="{data_uri(picture)}" alt="Frame {number + 1}, {what}">'
            f"<figcaption>Frame {number + 1}, {what}</figcaption></figure>"
            for picture, what in pictures
        )
        return f'{quiet(FIRST_LOOK) if job.first_look else ""}<div class="md-pair">{pair}</div>'
    if facts is None:
        return ""
    return (
        f'<div class="md-pair"><figure><img src="{data_uri(facts.picture)}" alt="Frame 1, blurred">'
        "<figcaption>Frame 1, blurred</figcaption></figure></div>"
    )


def result(token: str, done: Done, clip: UploadedClip, flags: str) -> str:
    """The restored clip, what was decided, and everything to take away."""
    base = f"visit/{token}"
    record = done.record
    took = f"It took {in_words(record.seconds['total'])}."
    lost = "".join(f'<p class="md-quiet">Not kept: {text(sentence(what))}</p>' for what in record.not_kept)
    video = (
        f'<video controls playsinline preload="metadata" poster="{base}/after/0" src="{base}/video" '
        f'aria-label="The restored clip {text(clip.name)}"></video>'
        if done.video
        else ""
    )
    other = done.video is not None and done.video != done.file
    hint = "<p>The video above is a copy for the browser; the download has the full quality.</p>" if other else ""
    given = "walk" if clip.names else clip.name
    command = " ".join(f"metadeblur restore {_quoted(given)} {flags}".split())
    return (
        f'<section class="md-result" aria-label="Result"><h2>{text(done.verdict.headline)}</h2>'
        f'<p class="md-quiet">{text(" ".join([done.verdict.why, took]).strip())}</p>{lost}{video}'
        f'<p class="md-links"><a class="first" href="{base}/file" download>Download</a>'
        f'<a href="{base}/report" target="_blank" rel="noopener">What it did: the report</a></p>{hint}'
        f'<p class="md-quiet">The same on the command line: <code>{text(command)}</code></p></section>'
    )


def _quoted(name: str) -> str:
    """A name as a word of a command line that is no flag.

    >>> _quoted("a.mp4"), _quoted("my clip.mp4"), _quoted("-o.mp4")
    ('a.mp4', "'my clip.mp4'", './-o.mp4')
    """
    name = f"./{name}" if name.startswith("-") else name
    return name if re.fullmatch(r"[\w./+-]+", name) else "'" + name + "'"


def compare(token: str, done: Done) -> str:
    """Any frame before and after, with a divider and a choice of the frame; both are moved by mouse, touch or keys."""
    base = f"visit/{token}"
    frames = (
        f'<label><span>Frame</span><input type="range" class="frame" min="1" max="{done.frames}" value="1">'
        f'<b aria-hidden="true">1 of {done.frames}</b></label>'
    )
    return (
        f'<section class="md-compare" aria-label="Before and after" data-base="{base}" data-frames="{done.frames}">'
        "<h2>Before and after</h2>"
        '<div class="stage"><span>blurred</span><span>restored</span>'
        f'<img class="before" src="{base}/before/0" alt="Frame 1 as it was">'
        f'<img class="after" src="{base}/after/0" alt="Frame 1 restored"></div>'
        '<label><span>Divider</span><input type="range" class="divider" min="0" max="100" value="50">'
        '<b aria-hidden="true">50 %</b></label>'
        f"{frames if done.frames > 1 else ''}</section>"
    )
