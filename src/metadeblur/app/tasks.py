"""What the page has done in processes of its own: examples filmed, clips looked at, previews and restorations.

Every function here runs in the private folder of a clip and gives back plain values. A process can be ended at any
moment, and a damaged video can at worst end its own.
"""

from __future__ import annotations

import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metadeblur.adaptation.places import MINIMUM_FRAMES, MINIMUM_PATCH
from metadeblur.adaptation.settings import preset
from metadeblur.app.bounds import Bounds
from metadeblur.app.inspection import inspect
from metadeblur.app.playable import plays_everywhere, write_frames, write_playable
from metadeblur.app.preview import Excerpt, excerpt, restored_excerpt
from metadeblur.imaging.pictures import encode_jpeg, to_uint8
from metadeblur.models.weights import load_deblurrer
from metadeblur.pipeline.demo import DemoSettings, shaky_clip
from metadeblur.pipeline.events import Event, FrameRestored, FrameScanned, StepDone
from metadeblur.pipeline.outputs import default_name, plan
from metadeblur.pipeline.run import RunSettings, restore_file
from metadeblur.pipeline.time_left import LONG_RUN_SECONDS, TRIAL_FRAMES, Range, Work, expected, rough_costs
from metadeblur.report.record import RunRecord
from metadeblur.report.verdict import PlainVerdict, network_of, overall_verdict
from metadeblur.types import Effort
from metadeblur.video import VideoReader, write_clip
from metadeblur.video.info import VideoInfo

Tell = Callable[[tuple[str, Any]], None]
"""Sends a message to the process that shows the page."""

START_SECONDS = (1.0, 5.0)  # until the first frame is under way, and from the last one to the finished file and report
_TOLD_SECONDS = 0.2  # between two figures of progress
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class Compared:
    """Two pictures or videos to be laid over each other, in the folder that browsers load from."""

    before: str
    after: str
    moving: bool
    frames: int = 1
    worst: int = 0  # the most blurred frame, from 0
    fps: float = 25.0
    part: bool = False  # whether it is the middle of the frames


@dataclass(frozen=True)
class Look:
    """What was found out about a clip, and its preview."""

    info: VideoInfo
    preview: Compared
    model: str
    pixel_seconds: float  # that the model takes for a pixel of a frame here


@dataclass(frozen=True)
class Done:
    """A finished restoration; its files are in the folder that browsers load from."""

    record: RunRecord
    verdict: PlainVerdict
    compared: Compared
    file: str  # what is downloaded: as the command line writes it, a folder of frames as one archive


@dataclass(frozen=True)
class Finishing:
    """All frames are restored; what the page shows of them is being made."""


EXAMPLES: dict[str, DemoSettings] = {
    "A shaky hand, 320x240": DemoSettings(frames=20, width=320, height=240),
    "A shaky hand, 512x384": DemoSettings(),
}


def as_flags(model: str, effort: Effort) -> str:
    """The flags of ``metadeblur restore`` that do the same.

    >>> as_flags("lite", "best"), as_flags("lite", "balanced"), as_flags("mprnet", "quick")
    ('--effort best', '', '--model mprnet --effort quick')
    """
    flags = [] if model == "lite" else [f"--model {model}"]
    return " ".join(flags + ([] if effort == "balanced" else [f"--effort {effort}"]))


def look(source: Path, example: str, bounds: Bounds, model: str, shown: Path, tell: Tell) -> Look:
    """Look whether a clip can be restored, and restore two seconds of it with the network as it is.

    Args:
        source: the clip, in the folder that this process works in.
        example: one of the :data:`EXAMPLES` to be filmed first, or nothing.
        bounds: what the clip may have.
        model: name of the network.
        shown: an empty folder that browsers load from.
        tell: gets ("event", event).

    Raises:
        MetadeblurError: as :func:`metadeblur.video.probe` and :func:`metadeblur.app.inspection.inspect`.
    """
    if example and not source.exists():
        write_clip(shaky_clip(EXAMPLES[example]).blurred, source)
    inspect(source, bounds)
    reader = VideoReader(source)
    info, net = reader.info, load_deblurrer(model)
    found = excerpt(reader)
    told = Telling(tell)
    part, restored, pixel_seconds = restored_excerpt(net, found, lambda done, total: told(FrameScanned(done, total)))
    return Look(info, _preview(part, restored, shown), model, pixel_seconds)


def _preview(part: Excerpt, restored: Tensor, shown: Path) -> Compared:
    """Write a preview's frames, before and after."""
    moving = len(restored) > 1
    paths = [shown / f"preview_{side}.{'mp4' if moving else 'jpg'}" for side in ("before", "after")]
    for path, frames in zip(paths, (part.frames, restored), strict=True):
        if moving:
            write_frames([to_uint8(frame) for frame in frames], part.fps, path)
        else:
            path.write_bytes(encode_jpeg(to_uint8(frames[0]), _JPEG_QUALITY))
    before, after = map(str, paths)
    return Compared(before, after, moving, len(restored), part.worst, float(part.fps), part.cropped)


def expected_seconds(seen: Look, effort: Effort) -> Range:
    """How long a restoration will take, at least and at most, before anything of it is known but its size."""
    info, settings = seen.info, preset(effort)
    area, frames = info.width * info.height, max(1, info.frames)
    adapted = frames >= MINIMUM_FRAMES and min(info.width, info.height) >= MINIMUM_PATCH
    steps = settings.steps_on(settings.pairs * settings.blurs)
    work = Work(fit=int(adapted), step=adapted * steps, guard=int(adapted), frame=frames)
    costs = rough_costs(seen.pixel_seconds * area, replace(settings, fuse=settings.fuse and adapted), area)
    low, high = expected(work, costs, settings.budget_seconds)
    tried = TRIAL_FRAMES[1] * costs.frame[1] if high > LONG_RUN_SECONDS else 0.0
    return low + START_SECONDS[0], high + START_SECONDS[1] + tried


def restore(
    source: Path, names: Sequence[str], stem: str, model: str, settings: RunSettings, shown: Path, tell: Tell
) -> Done:
    """Restore a clip and make everything that the page shows of it.

    Args:
        source: the clip, in the folder that this process works in.
        names: for a folder of frames what each is called in the archive to download.
        stem: how the name of the file to download begins.
        model: name of the network.
        settings: how.
        shown: a folder that browsers load from.
        tell: gets ("event", event).

    Raises:
        MetadeblurError: as :func:`metadeblur.pipeline.run.restore_file`.
    """
    run = Path("run")
    shutil.rmtree(run, ignore_errors=True)  # of a process that was ended
    run.mkdir()
    tempfile.tempdir = str(run.resolve())  # what is left there when this process is ended goes with the folder
    reader = VideoReader(source)
    output = run / f"{stem}_deblurred{Path(default_name(source)).suffix}"
    (job,) = plan([source], output, report=run / "report")
    record = restore_file(job, load_deblurrer(model), settings, model=model, listener=Telling(tell))
    tell(("event", Finishing()))
    file = shown / output.name
    if reader.info.kind == "frames":
        file = shown / f"{stem}_deblurred.zip"
        _archive(output, names, file)
    else:
        output = Path(shutil.move(output, file))
    compared = _compared(reader, VideoReader(output), record, shown)
    shutil.move(run / "report" / "index.html", shown / "report.html")
    return Done(record, overall_verdict(record.shots, network_of(record)), compared, str(file))


def _compared(before: VideoReader, after: VideoReader, record: RunRecord, shown: Path) -> Compared:
    """What is laid over each other of a clip and its restoration: what browsers show, copied where need be."""
    readers = {"before": before, "after": after}
    if before.info.kind == "image":
        pictures = [shown / f"{side}.jpg" for side in readers]
        for path, reader in zip(pictures, readers.values(), strict=True):
            frame = torch.rot90(next(iter(reader)), reader.info.rotation // 90, (-2, -1))
            path.write_bytes(encode_jpeg(to_uint8(frame), _JPEG_QUALITY))
        return Compared(str(pictures[0]), str(pictures[1]), moving=False)
    videos = []
    for side, reader in readers.items():
        path, target = reader.info.path, shown / f"{side}.mp4"
        if not plays_everywhere(path):
            write_playable(path, target)
        elif reader is before:
            shutil.copyfile(path, target)
        else:
            target = path
        videos.append(target)
    scores = [score for shot in record.shots for score in shot.scores]
    worst = max(range(len(scores)), key=scores.__getitem__, default=0)
    return Compared(str(videos[0]), str(videos[1]), True, len(before.times), worst, float(before.info.fps))


class Telling:
    """A listener that sends events to the process that shows them, not more often than a person can follow."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._told = 0.0

    def __call__(self, event: Event) -> None:
        """Send an event."""
        now, last = time.monotonic(), True
        match event:
            case FrameRestored(at=at):
                event, last = replace(event, pictures=None), at.frames_done == at.frames
            case StepDone(done=done, total=total):
                last = done == total
        if last or now - self._told >= _TOLD_SECONDS:
            self._told = now
            self._tell(("event", event))


def _archive(folder: Path, names: Sequence[str], target: Path) -> None:
    """Pack the files of a folder, in order, under other names; pictures do not get smaller by packing."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path, name in zip(sorted(folder.iterdir()), names, strict=True):
            archive.write(path, name)
