"""The lines for a person about an input, before it is restored, and about its outputs, after."""

from __future__ import annotations

from collections.abc import Iterator

from metadeblur.pipeline.outputs import Job
from metadeblur.report.record import RunRecord
from metadeblur.report.verdict import why_untouched
from metadeblur.system.names import counted, in_words
from metadeblur.video import VideoReader


def input_lines(reader: VideoReader) -> Iterator[str]:
    """What is unusual about an input whose table of time stamps is known."""
    name, info = reader.info.path.name, reader.info
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


def output_lines(job: Job, record: RunRecord) -> Iterator[str]:
    """What was made, how, and how long it took."""
    if record.untouched:
        how = f"{why_untouched(record.shots)}, returned untouched"
    else:
        how = f"adaptation used to {100 * record.share:.0f} %" if record.share > 0 else "base model"
        how += ", frames fused" if any(shot.fused for shot in record.shots) else ""
    for sentence in record.not_kept:
        yield f"not kept: {sentence}"
    yield f"{job.output}: {how}, {in_words(record.seconds['total'])}"
    if job.side_by_side is not None:
        yield f"{job.side_by_side}: blurred and restored next to each other"
    if job.report is not None:
        yield f"{job.report / 'index.html'}: the report"
