"""What the page has done in processes of its own: clips checked, expected times, restorations, pictures of frames.

Every function here runs in the visitor's private folder, on names that are ours (:mod:`metadeblur.app.uploads`), and
gives back plain values. A process can be ended at any moment, and a damaged video can at worst end its own.
"""

from __future__ import annotations

import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from metadeblur.adaptation.places import MINIMUM_FRAMES, MINIMUM_PATCH
from metadeblur.adaptation.settings import AdaptSettings, preset
from metadeblur.app.bounds import Bounds
from metadeblur.app.inspection import inspect
from metadeblur.app.playable import plays_everywhere, write_playable
from metadeblur.errors import MetadeblurError
from metadeblur.imaging.pictures import encode_jpeg, shrink, to_uint8
from metadeblur.pipeline.catalogue import MEASURED_SIDE, seconds_a_frame
from metadeblur.pipeline.demo import DemoSettings, shaky_clip
from metadeblur.pipeline.events import Event, FirstLook, FrameRestored, StepDone
from metadeblur.pipeline.outputs import default_name, plan
from metadeblur.pipeline.run import RunSettings, restore_file
from metadeblur.pipeline.time_left import LONG_RUN_SECONDS, TRIAL_FRAMES, Range, Work, expected, rough_costs
from metadeblur.report.record import RunRecord
from metadeblur.report.verdict import PlainVerdict, network_of, overall_verdict
from metadeblur.video import TimeTable, VideoReader, write_clip

PageEffort = Literal["quick", "balanced", "best", "budget"]
"""How much is spent on a clip, as everywhere; "budget" stands for a number of seconds."""
Tell = Callable[[tuple[Any, ...]], None]
"""Sends a message to the process that shows the page."""

START_SECONDS = (1.0, 5.0)  # until the first frame is under way, and from the last one to the finished file and report
PREVIEW_WIDTH = 640  # px
PREVIEW_SECONDS = 0.7  # between two pictures of the frame being worked on
_TOLD_SECONDS = 0.2  # between two figures of progress
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class Facts:
    """What there is to know of a clip before it is restored."""

    kind: Literal["video", "frames", "image"]
    width: int  # px
    height: int  # px
    frames: int  # an estimate for videos
    seconds: float  # that it lasts
    sound: bool
    picture: bytes = field(repr=False)  # a frame of it, JPEG


@dataclass(frozen=True)
class Example:
    """A clip to try without owning one, made from the photograph in the package."""

    title: str
    settings: DemoSettings


@dataclass(frozen=True)
class Done:
    """A finished restoration; paths are inside the visitor's folder."""

    record: RunRecord
    verdict: PlainVerdict
    video: Path | None  # what a browser plays; None: a single picture
    file: Path  # what is downloaded: as the command line writes it, a folder of frames as one archive
    frames: int
    before: tuple[Path, TimeTable]  # where frames are read from
    after: tuple[Path, TimeTable]


@dataclass(frozen=True)
class Finishing:
    """All frames are restored; what the page shows of them is being made."""


EXAMPLES: dict[str, Example] = {
    "small": Example("Shaky hand, small and quick", DemoSettings(frames=20, width=320, height=240)),
    "large": Example("Shaky hand, 640x480", DemoSettings()),
}


def run_settings(effort: PageEffort, seconds: float = 0.0) -> RunSettings:
    """What an effort means: the same as ``metadeblur restore --effort``.

    Args:
        effort: one of :data:`PageEffort`.
        seconds: for "budget": about how long adapting may take.

    Raises:
        MetadeblurError: an unknown effort, or a budget of no time.

    >>> run_settings("balanced") == RunSettings()
    True
    """
    if effort not in get_args(PageEffort):
        raise MetadeblurError(f"effort {effort!r}: choose one of {', '.join(get_args(PageEffort))}")
    if effort != "budget":
        return RunSettings(adaptation=preset(effort))
    if not seconds > 0:
        raise MetadeblurError("a time limit needs a number of seconds above 0")
    return RunSettings(adaptation=AdaptSettings(budget_seconds=float(seconds)))


def as_flags(model: str, effort: PageEffort, seconds: float = 0.0) -> str:
    """The flags of ``metadeblur restore`` that do the same.

    >>> as_flags("lite", "best"), as_flags("lite", "balanced")
    ('--effort best', '')
    """
    flags = [] if model == "lite" else [f"--model {model}"]
    flags += [f"--budget {seconds:g}"] if effort == "budget" else []
    flags += [f"--effort {effort}"] if effort in ("quick", "best") else []
    return " ".join(flags)


def check(source: Path, bounds: Bounds, tell: Tell) -> Facts:
    """Look whether a clip can be restored, by decoding the beginning of it.

    Raises:
        MetadeblurError: as :func:`metadeblur.video.probe` and :func:`metadeblur.app.inspection.inspect`.
    """
    del tell  # it is over before there is anything to tell
    inspect(source, bounds)
    reader = VideoReader(source)
    info = reader.info
    first = next(iter(reader), None)
    if first is None:
        raise MetadeblurError(f"{source}: not one frame could be decoded (damaged file)")
    return Facts(
        kind=info.kind,
        width=info.width,
        height=info.height,
        frames=max(1, info.frames),
        seconds=info.duration_seconds,
        sound=info.audio_streams > 0,
        picture=_small(first, info.rotation),
    )


def speed(model: str, tell: Tell) -> float:
    """Measured: how many seconds a model takes for a pixel of a frame here.

    Raises:
        MetadeblurError: no such model, or its weights are missing.
    """
    del tell
    return seconds_a_frame(model) / MEASURED_SIDE**2


def expected_seconds(facts: Facts, pixel_seconds: float, settings: RunSettings) -> Range:
    """How long a restoration will take, at least and at most, before anything of it is known but its size.

    Args:
        facts: of the clip.
        pixel_seconds: of the model, see :func:`speed`.
        settings: of the restoration.
    """
    area = facts.width * facts.height
    adapted = settings.adapt and facts.frames >= MINIMUM_FRAMES and min(facts.width, facts.height) >= MINIMUM_PATCH
    steps = settings.adaptation.steps_on(settings.adaptation.pairs * settings.adaptation.blurs)
    work = Work(fit=int(adapted), step=adapted * steps, guard=int(adapted), frame=facts.frames)
    adaptation = replace(settings.adaptation, fuse=settings.adaptation.fuse and adapted)
    costs = rough_costs(pixel_seconds * area, adaptation, area)
    low, high = expected(work, costs, settings.adaptation.budget_seconds)
    tried = TRIAL_FRAMES[1] * costs.frame[1] if high > LONG_RUN_SECONDS else 0.0
    return low + START_SECONDS[0], high + START_SECONDS[1] + tried


def make_example(name: str, target: Path, tell: Tell) -> None:
    """Film one of the :data:`EXAMPLES`."""
    del tell
    write_clip(shaky_clip(EXAMPLES[name].settings).blurred, target)


def restore(source: Path, names: Sequence[str], into: Path, model: str, settings: RunSettings, tell: Tell) -> Done:
    """Restore a clip and make everything that the page shows of it.

    Args:
        source: the clip, in the folder that this process works in.
        names: for a folder of frames what each is called in the archive to download.
        into: an empty folder.
        model: name of the network.
        settings: how.
        tell: gets ("event", event), ("first look", number, JPEG before, JPEG after) and, of frames that are being
            written, ("shown", number, JPEG before, JPEG after).

    Raises:
        MetadeblurError: as :func:`metadeblur.pipeline.run.restore_file`.
    """
    from metadeblur.models.weights import load_deblurrer

    tempfile.tempdir = str(into.resolve())  # what is left there when this process is ended goes with the folder
    before, settings = VideoReader(source), replace(settings, first_look=True)
    suffix = Path(default_name(source)).suffix
    output = into / f"restored{suffix}"
    (job,) = plan([source], output, report=into / "report")
    record = restore_file(
        job, load_deblurrer(model), settings, model=model, listener=Telling(tell, before.info.rotation)
    )
    tell(("event", Finishing()))
    after = VideoReader(output)
    video, file = None, output
    if before.info.kind != "image":
        video = output
        if not plays_everywhere(output):
            video = into / "playable.mp4"
            write_playable(output, video)
    if before.info.kind == "frames":
        file = into / "restored.zip"
        _archive(output, names, file)
    return Done(
        record=record,
        verdict=overall_verdict(record.shots, network_of(record)),
        video=video,
        file=file,
        frames=len(before.times),
        before=(source, before.times),
        after=(output, after.times),
    )


def picture(source: Path, times: TimeTable, number: int, tell: Tell) -> bytes:
    """One frame of a clip as JPEG, as it is shown.

    Raises:
        MetadeblurError: no such frame.
    """
    del tell
    reader = VideoReader(source, times=times)
    if not 0 <= number < len(times):
        raise MetadeblurError(f"frame {number}: there are {len(times)}, from 0 on")
    (frame,) = reader.read(number, number + 1)
    return encode_jpeg(to_uint8(_turned(frame, reader.info.rotation)), _JPEG_QUALITY)


class Telling:
    """A listener that sends events to the process that shows them, not more often than a person can follow."""

    def __init__(self, tell: Tell, rotation: int = 0) -> None:
        self._tell, self._rotation = tell, rotation
        self._shown = self._told = 0.0

    def __call__(self, event: Event) -> None:
        """Send an event; a restored frame as small pictures, if the last ones have been looked at."""
        now = time.monotonic()
        match event:
            case FirstLook(number, pictures):
                before, after = (encode_jpeg(shrink(picture, PREVIEW_WIDTH)) for picture in pictures)
                self._tell(("first look", number, before, after))
                return
            case FrameRestored(at=at, pictures=(blurred, restored)):
                if now - self._shown >= PREVIEW_SECONDS:
                    self._shown = now
                    before, after = (_small(frame, self._rotation) for frame in (blurred, restored))
                    self._tell(("shown", at.frames_done - 1, before, after))
                event, last = replace(event, pictures=None), at.frames_done == at.frames
            case StepDone(done=done, total=total):
                last = done == total
            case _:
                last = True
        if last or now - self._told >= _TOLD_SECONDS:
            self._told = now
            self._tell(("event", event))


def _turned(frame: Tensor, rotation: int) -> Tensor:
    """A frame (3, H, W) as a player shows it."""
    return torch.rot90(frame, rotation // 90, (-2, -1))


def _small(frame: Tensor, rotation: int) -> bytes:
    return encode_jpeg(shrink(to_uint8(_turned(frame, rotation)), PREVIEW_WIDTH))


def _archive(folder: Path, names: Sequence[str], target: Path) -> None:
    """Pack the files of a folder, in order, under other names; pictures do not get smaller by packing."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path, name in zip(sorted(folder.iterdir()), names, strict=True):
            archive.write(path, name)
