"""The lines for a person about an input, before it is restored, and about its outputs, after."""

from __future__ import annotations

from collections.abc import Iterator

from metadeblur.pipeline.events import Detail, Event, Note
from metadeblur.pipeline.outputs import Job
from metadeblur.report.record import RunRecord, ShotRecord
from metadeblur.report.verdict import network_of, overall_verdict, shot_verdict
from metadeblur.system.names import counted, in_words
from metadeblur.video import VideoReader

TOLD_SHOTS = 12  # files with more shots are summed up


def input_lines(reader: VideoReader) -> Iterator[str]:
    """What is unusual about an input whose table of time stamps is known."""
    name, info = reader.info.path.name, reader.info
    if reader.part is not None:
        yield f"{name}, {reader.part}: {counted(info.frames, 'frame')}, {in_words(info.duration_seconds)}"
    if info.interlaced_frames == info.frames:
        yield f"{name} is interlaced: it is deinterlaced, one frame for each frame"
    elif info.interlaced:
        part = f"{info.interlaced_frames} of {info.frames} frames"
        yield f"{name} is interlaced in parts: {part} are deinterlaced, one frame for each frame"
    if info.recordings > 1:
        yield f"{name} is {info.recordings} recordings joined: the clock goes on from each to the next"
    if info.other_videos:
        others = "the other is" if info.other_videos == 1 else "the others are"
        this = f"stream {info.stream}, {info.width}x{info.height}"
        yield f"{name} has {info.other_videos + 1} videos: this one is restored ({this}), {others} copied"
    if info.missing:
        missing = f"{100 * info.missing:.0f} % of its bytes are missing"
        yield f"{name} is cut short: {missing}; what is there is restored"
    damaged = reader.times.damaged
    if damaged:
        yield f"{name} is damaged: {counted(damaged, 'packet')} could not be decoded, left out here"


def shot_events(shot: ShotRecord, shots: int, decision: str, name: str = "") -> Iterator[Event]:
    """What is told of a shot when it is done: how it came out, where it is one of a few; every reason as a detail.

    Args:
        shot: its record.
        shots: that the file has.
        decision: what was decided, in one sentence.
        name: of the file, where there are several.
    """
    if shots <= TOLD_SHOTS:
        parts = [name, f"shot {shot.index + 1} of {shots}" if shots > 1 else ""]
        title = f"{', '.join(filter(None, parts))}: " if any(parts) else ""
        if shots > 1:
            yield Note(title + shot_verdict(shot).headline)
        yield Detail(title + decision)
        if shot.reblurrer and shot.reblurrer.get("drowned"):
            yield Note(f"{title}{shot.reblurrer['drowned']}")
        for reason in shot.reasons:
            yield Detail(f"  {'passed' if reason.passed else 'failed'}: {reason.text}")


def output_lines(job: Job, record: RunRecord) -> Iterator[str]:
    """The result first, then what was made and how long it took."""
    verdict = overall_verdict(record.shots, network_of(record))
    yield verdict.headline
    if verdict.why:
        yield verdict.why
    for sentence in record.not_kept:
        yield f"not kept: {sentence}"
    yield f"{job.output} ({in_words(record.seconds['total'])})"
    if job.side_by_side is not None:
        yield f"{job.side_by_side}: blurred and restored next to each other"
    if job.report is not None:
        yield f"{job.report / 'index.html'}: the report, with every check"
