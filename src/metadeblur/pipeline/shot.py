"""The work on one shot: decide on it, restore it into segment files; in this process or in one of a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metadeblur.adaptation.stages import AdaptSettings
from metadeblur.adaptation.steps import Progress
from metadeblur.clip import Clip
from metadeblur.guard.sharper import is_sharper
from metadeblur.pipeline.console import stopwatch
from metadeblur.pipeline.cuts import Shot
from metadeblur.pipeline.policy import Decision, decide, shared_budget
from metadeblur.pipeline.resume import part_path
from metadeblur.report.record import ShotRecord
from metadeblur.report.shot_pictures import PICTURES, PictureCollector, frames_to_show
from metadeblur.restoration.clips import restore_pairs
from metadeblur.restoration.prefetching import BackgroundWriter, pays, prefetch
from metadeblur.restoration.restorer import Restorer, RestoreSettings
from metadeblur.video import EncodeSettings, SegmentWriter, VideoReader
from metadeblur.video.info import VideoInfo
from metadeblur.video.reading import reader_clip

EachFrame = Callable[[int, float, Tensor, Tensor], None]
"""Called after each frame: (frames of the shot done, seconds that this one took, blurred, restored (3, H, W))."""


@dataclass(frozen=True)
class ShotContext:
    """One input as its scan left it, and how its shots are restored: what the work on any of them needs to know.

    It can be sent to another process.
    """

    reader: VideoReader  # of the input, with its table of time stamps
    shots: tuple[Shot, ...]
    scores: tuple[float, ...]  # self-shift score of each frame, dB
    targets: Mapping[str, Path]  # the files that the segments of each kind become
    folder: Path  # where segments go
    kinds: tuple[str, ...]  # of segments that the outputs need
    pictured: bool  # whether the report needs pictures of the shots
    adapt: bool
    adaptation: AdaptSettings  # its time budget is that of all shots together
    restoration: RestoreSettings  # tile and precision are the same for all shots
    encoding: EncodeSettings

    @property
    def info(self) -> VideoInfo:
        """What the input is."""
        return self.reader.info

    def path(self, kind: str, index: int, suffix: str = "") -> Path:
        """The file of one kind for one shot."""
        return part_path(self.folder, kind, index, suffix)

    def pictures_path(self, index: int) -> Path:
        """The file of a shot's pictures for the report."""
        return self.path("pictures", index, ".npz")

    def clip(self, index: int) -> Clip:
        """A shot's frames, read when asked for; every caller gets a reader of its own."""
        shot = self.shots[index]
        return reader_clip(self.reader, shot.start, shot.stop)

    def shot_scores(self, index: int) -> tuple[float, ...]:
        """Self-shift score of each frame of a shot, dB."""
        shot = self.shots[index]
        return self.scores[shot.start : shot.stop]

    def restorer(self, net: nn.Module) -> Restorer:
        """What sends this file's frames through a network."""
        return Restorer(net, self.info.height, self.info.width, self.restoration)

    def title(self, index: int) -> str:
        """What a person calls a shot."""
        return f"shot {index + 1} of {len(self.shots)}"


def choose_tile(context: ShotContext, net: nn.Module) -> dict[str, Any]:
    """Tile and precision for all shots of a file, as the first one's first window and free memory suggest.

    They are chosen once: another tile or precision changes the last digits.
    """
    restorer = context.restorer(net)
    restorer.prepare(context.clip(0).window(0, restorer.frames))
    return {"tile": restorer.tile, "precision": restorer.precision}


def decide_shot(context: ShotContext, net: nn.Module, index: int, progress: Progress | None = None) -> Decision:
    """Look at a shot and adapt to it where that makes sense, in its part of the time budget.

    Args:
        context: what the work on it needs to know.
        net: the base deblurrer; it is not changed.
        index: number of the shot.
        progress: called with (done, in all, stage).
    """
    lengths = [len(shot) for shot in context.shots]
    settings = shared_budget(context.adaptation, lengths[index], lengths) if context.adapt else None
    scores, guard = context.shot_scores(index), bool(context.adaptation.guard)
    return decide(net, context.clip(index), scores, settings, guard=guard, progress=progress)


def restore_shot(
    context: ShotContext, net: nn.Module, index: int, decision: Decision, each_frame: EachFrame | None = None
) -> ShotRecord:
    """Restore a shot into its segments as was decided, and keep the pictures that the report shows of it.

    A shot that is to pass untouched gets no segments yet: where all do, the file is copied instead.

    Args:
        context: what the work on it needs to know.
        net: the base deblurrer, for pictures beside the adapted one's.
        index: number of the shot.
        decision: made by :func:`decide_shot`.
        each_frame: called after each frame.

    """
    shot, restorer, sharper = context.shots[index], None, None
    decided = decision.to_record(index, shot.start, shot.stop)
    seconds = dict(decided.seconds)
    pictures = _collector(context, index)
    with stopwatch(seconds, "restore"):
        if decision.model is not None:
            restorer = context.restorer(decision.model)
            sharper = write_shot(context, index, context.kinds, restorer, pictures=pictures, each_frame=each_frame)
        if pictures is not None:
            _complete(pictures, context, net, index, decision)
            pictures.save(context.pictures_path(index))
    return replace(
        decided,
        scores=context.shot_scores(index),
        sharper=sharper,
        tile=restorer.tile if restorer else None,
        precision=restorer.precision if restorer else None,
        seconds=seconds,
    )


def write_shot(
    context: ShotContext,
    index: int,
    kinds: Sequence[str],
    restorer: Restorer | None,
    *,
    count: int | None = None,
    pictures: PictureCollector | None = None,
    each_frame: EachFrame | None = None,
) -> int:
    """Restore the first ``count`` frames of a shot into segments; without a restorer they pass as they are.

    Returns:
        How many of them are measurably sharper than before.
    """
    clip = context.clip(index)
    if count is not None:
        clip = clip.part(0, count)
    with ExitStack() as stack:
        writers = {kind: stack.enter_context(_writer(context, kind, index)) for kind in kinds}
        background = stack.enter_context(BackgroundWriter(beside=restorer is None or pays(restorer.device)))
        sharper: list[bool] = []
        began = time.monotonic()
        for number, (blurred, restored) in enumerate(stack.enter_context(closing(_pairs(clip, restorer)))):
            for kind, writer in writers.items():
                background.do(writer.write, _beside(context.info, blurred, restored) if kind == "side" else restored)
            if restorer is not None and count is None:
                background.do(lambda both: sharper.append(is_sharper(*both)), (restored, blurred))
            if pictures is not None and number in pictures.wanted:
                pictures.add(number, blurred, restored)
            if each_frame is not None:
                each_frame(number + 1, time.monotonic() - began, blurred, restored)
            began = time.monotonic()
        background.finish()
    return sum(sharper)


def _writer(context: ShotContext, kind: str, index: int) -> SegmentWriter:
    return SegmentWriter(
        context.path(kind, index),
        context.info,
        context.encoding,
        output=context.targets[kind],
        source=context.reader,
        start=context.shots[index].start,
    )


def _pairs(clip: Clip, restorer: Restorer | None) -> Any:
    """(blurred, restored) frames in order; without a restorer they are the same."""
    if restorer is not None:
        return restore_pairs(restorer, clip)
    return ((frame, frame) for frame in prefetch(clip, 3))


def _beside(info: VideoInfo, blurred: Tensor, restored: Tensor) -> Tensor:
    """Both next to each other, blurred on the left once a player has turned the picture."""
    turned = info.rotation % 360
    both = [restored, blurred] if turned in (180, 270) else [blurred, restored]
    return torch.cat(both, dim=-2 if turned in (90, 270) else -1)


def _collector(context: ShotContext, index: int) -> PictureCollector | None:
    """A collection of pictures for the report, where one is wanted and the shot is among those that it shows."""
    if not context.pictured or index >= PICTURES:
        return None
    return PictureCollector(frames_to_show(context.shot_scores(index), len(context.shots)))


def _complete(pictures: PictureCollector, context: ShotContext, net: nn.Module, index: int, decision: Decision) -> None:
    """Add the pictures that did not come by while restoring."""
    clip = context.clip(index)
    if decision.untouched:
        for number in pictures.wanted:
            pictures.add(number, clip[number], clip[number])
    if decision.outcome is not None:
        pictures.learn(decision.outcome, max(2, PICTURES // len(context.shots)))
    if decision.share > 0:
        restorer = context.restorer(net)
        for number in pictures.wanted:
            pictures.add_base(restorer(clip.window(number, restorer.frames)))
