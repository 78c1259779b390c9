"""The lines that a run says of its input, before, and of its outputs, after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metadeblur.pipeline.console import Talk, in_words
from metadeblur.pipeline.outputs import Job
from metadeblur.report.verdict import why_untouched
from metadeblur.system.names import counted
from metadeblur.video import VideoReader


def tell_about_input(talk: Talk, reader: VideoReader) -> None:
    """Say what is unusual about an input whose table of time stamps is known."""
    name, info = reader.info.path.name, reader.info
    if info.interlaced_frames == info.frames:
        talk.say(f"{name} is interlaced: it is deinterlaced, one frame for each frame")
    elif info.interlaced:
        part = f"{info.interlaced_frames} of {info.frames} frames"
        talk.say(f"{name} is interlaced in parts: {part} are deinterlaced, one frame for each frame")
    if info.recordings > 1:
        talk.say(f"{name} is {info.recordings} recordings joined: the clock goes on from each to the next")
    if info.other_videos:
        others = "the other is" if info.other_videos == 1 else "the others are"
        this = f"stream {info.stream}, {info.width}x{info.height}"
        talk.say(f"{name} has {info.other_videos + 1} videos: this one is restored ({this}), {others} copied")
    if info.missing:
        missing = f"{100 * info.missing:.0f} % of its bytes are missing"
        talk.say(f"{name} is cut short: {missing}; what is there is restored")
    damaged = reader.times.damaged
    if damaged:
        talk.say(f"{name} is damaged: {counted(damaged, 'packet')} could not be decoded, left out here")


def tell_about_output(talk: Talk, job: Job, record: Mapping[str, Any]) -> None:
    """Say what was made, how, and how long it took."""
    if record["untouched"]:
        how = f"{why_untouched(record['shots'])}, returned untouched"
    else:
        how = f"adaptation used to {100 * record['share']:.0f} %" if record["share"] > 0 else "base model"
        how += ", frames fused" if any(shot.get("fused") for shot in record["shots"]) else ""
    for sentence in record["not_kept"]:
        talk.say(f"not kept: {sentence}")
    talk.say(f"{job.output}: {how}, {in_words(record['seconds']['total'])}")
    if job.side_by_side is not None:
        talk.say(f"{job.side_by_side}: blurred and restored next to each other")
    if job.report is not None:
        talk.say(f"{job.report / 'index.html'}: the report")
