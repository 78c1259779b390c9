"""How the page looks and what it says: its style, its texts about a clip, a job and a result, as HTML."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

import gradio as gr

from metadeblur.app.queue import QueuedTask
from metadeblur.app.service import UploadedClip
from metadeblur.app.tasks import EXAMPLES, Done, Finishing, Look
from metadeblur.pipeline.events import FrameRestored, FrameScanned, ShotDecided, ShotStarted, StepDone
from metadeblur.report.html import sentence, text
from metadeblur.system.names import counted, in_words
from metadeblur.video.info import VideoInfo

_FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

INTRODUCTION = (
    '<header class="md-head"><h1>Restore a motion-blurred video</h1><p>A network adapts itself to your clip, without a '
    "sharp original, and the result is checked before it is used. Your files stay on the computer that runs this page, "
    "until you delete them or they expire.</p></header>"
)


def _asset(name: str) -> str:
    return (files("metadeblur") / "assets" / name).read_text(encoding="utf-8")


CSS = _asset("app.css")
COMPARE = _asset("app_compare.html")
COMPARE_SCRIPT = _asset("app_compare.js")
PAGE_SCRIPT = _asset("app.js").replace("EXAMPLES", json.dumps(list(EXAMPLES)))
"""The style of the page, what lays two videos over each other and its script, and the script of the whole page."""
NEW_ADDRESS_SCRIPT = """(job) => {
  const address = new URL(location.href);
  if (job) address.searchParams.set('job', job); else address.searchParams.delete('job');
  history.replaceState(null, '', address);
}"""
ADDRESS_SCRIPT = f"(job) => {{ if (!new URL(location.href).searchParams.has('job')) ({NEW_ADDRESS_SCRIPT})(job); }}"
"""Keep the visit in the page's address, so that it is there when the page is loaded again; the latter, if none is."""
LIVE_SCRIPT = """element.setAttribute('role', 'status');
element.setAttribute('aria-live', 'polite');
watch('value', () => {
  const box = element.querySelector('section')?.getBoundingClientRect();
  if (box && (box.top < 0 || box.top > innerHeight / 2)) element.scrollIntoView({ behavior: 'smooth' });
});"""
"""Has a result be said by a screen reader, and seen."""


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
        button_cancel_background_fill="#b3261e",
        button_cancel_background_fill_dark="#f2b8b5",
        button_cancel_background_fill_hover="#8c1d18",
        button_cancel_background_fill_hover_dark="#f9dedc",
        button_cancel_text_color="#ffffff",
        button_cancel_text_color_dark="#601410",
        body_text_color_subdued="#57534e",
        body_text_color_subdued_dark="#b5afa9",
        block_info_text_color="#57534e",
        block_info_text_color_dark="#b5afa9",
    )


def info_in_words(info: VideoInfo) -> str:
    """Size and length of a clip."""
    parts = [f"{info.width}\u00d7{info.height}", counted(max(1, info.frames), "frame")]
    if info.kind == "image":
        return f"{parts[0]}, a single picture"
    if info.kind == "video":
        parts += [in_words(info.duration_seconds), "with sound" if info.audio_streams else "no sound"]
    return ", ".join(parts)


def wrong(line: str) -> str:
    """What went wrong, in one line."""
    return f'<p class="md-error" role="alert">{text(sentence(line))}</p>'


def quiet(words: str) -> str:
    """Something said in passing."""
    return f'<p class="md-quiet">{text(words)}</p>'


def nothing(words: str) -> str:
    """Said where there is nothing to see."""
    return f'<p class="md-nothing">{text(words)}</p>'


def heading(words: str, more: str = "") -> str:
    """Where a clip stands, or its result."""
    return f"<h2>{text(words)}</h2>{quiet(more) if more else ''}"


def headline(task: QueuedTask, before: int) -> str:
    """At which stage a restoration is; it changes seldom, so that a screen reader can say it.

    Args:
        task: which.
        before: restorations that must be over first.
    """
    if task.state == "waiting":
        count = "1 restoration is" if before == 1 else f"{before} restorations are"
        return f"In line: {count} before yours" if before else "It is your turn"
    at = getattr(task.event, "at", None)
    words = _stage_words(task)
    if at is None or at.shots == 1:
        return words
    return f"Shot {at.shot + 1} of {at.shots}: {words[0].lower()}{words[1:]}"


def _stage_words(task: QueuedTask) -> str:
    match task.event:
        case Finishing():
            return "Preparing the result"
        case ShotStarted(adapts=True, steps=0):
            return "Checking whether its frames can help each other"
        case StepDone(done=done, total=total):
            return "Checking whether it helped" if done == total else "Learning from the clip"
    match task.phase:
        case None:
            return "Starting"
        case "scan":
            return "Looking through the clip"
        case "measure":
            return "Measuring how long it will take"
    return (
        "Restoring the frames" if isinstance(task.event, FrameRestored | ShotDecided) else "Choosing what to learn from"
    )


def how_far(task: QueuedTask) -> tuple[int, int, str]:
    """How far the stage of a task is: what is done, of how much, in words."""
    match task.event:
        case StepDone(done=done, total=total):
            return done, total, f"step {done} of {total}"
        case FrameScanned(done=done, total=total):
            return done, total, f"frame {done} of {total}"
        case FrameRestored(at=at):
            return at.frames_done, at.frames, f"frame {at.frames_done} of {at.frames}"
    return 0, 0, ""


def progress(task: QueuedTask, expectation: str, since: float) -> str:
    """How far a task is, and how long the rest takes: the expectation until there is a better one.

    Args:
        task: which.
        expectation: how long it takes, in words.
        since: seconds since it began.
    """
    done, total, where = how_far(task)
    under_way = task.state == "running"
    value = f' value="{done}" max="{total}"' if total and done and under_way else ""
    rest = f"expected: {expectation}" if expectation and task.time_left is None else ""
    parts = [where, f"{in_words(since)} so far" if under_way else "", rest]
    words = quiet(", ".join(part for part in parts if part))
    left = quiet(sentence(task.time_left.text)) if task.time_left else ""
    return f'<progress aria-label="Progress of this stage"{value}></progress>{words}{left}'


def preview(seen: Look) -> str:
    """What the preview shows."""
    pair = seen.preview
    what = f"Preview of {in_words(pair.frames / pair.fps)}" if pair.moving else "Preview"
    part = "the middle of the picture, restored" if pair.part else "restored"
    words = (
        f"{info_in_words(seen.info)}. Shown: {part} by {seen.model} as it is. Choose an effort to restore the whole."
    )
    return f'<section aria-label="Preview">{heading(what, words)}</section>'


def result(done: Done) -> str:
    """What became of a clip, and how."""
    words = f"{done.verdict.why} It took {in_words(done.record.seconds['total'])}.".strip()
    lost = "".join(quiet(f"Not kept: {sentence(what)}") for what in done.record.not_kept)
    return f'<section aria-label="Result">{heading(done.verdict.headline, words)}{lost}</section>'


def links(done: Done, clip: UploadedClip) -> str:
    """The report, and how to do the same elsewhere."""
    other = done.compared.moving and done.compared.after != done.file
    hint = quiet("What is shown is a copy for the browser; the download has the full quality.") if other else ""
    given = "walk" if clip.names else clip.name
    command = " ".join(f"metadeblur restore {_quoted(given)} {clip.flags}".split())
    report = address(str(Path(done.file).with_name("report.html")))
    return (
        f'{hint}<p><a href="{report}" target="_blank" rel="noopener">What it did: the report</a></p>'
        f"<p>The same on the command line: <code>{text(command)}</code></p>"
    )


def address(path: str) -> str:
    """Where a browser loads a file from, seen from the page."""
    return f"gradio_api/file={quote(Path(path).as_posix())}"


def _quoted(name: str) -> str:
    """A name as a word of a command line that is no flag.

    >>> _quoted("a.mp4"), _quoted("my clip.mp4"), _quoted("-o.mp4")
    ('a.mp4', "'my clip.mp4'", './-o.mp4')
    """
    name = f"./{name}" if name.startswith("-") else name
    return name if re.fullmatch(r"[\w./+-]+", name) else "'" + name + "'"
