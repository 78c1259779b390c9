"""The work on one shot: decide on it, restore it into segment files; in this process or in one of a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metadeblur.adaptation.stages import AdaptSettings
from metadeblur.clip import Clip
from metadeblur.pipeline.console import stopwatch
from metadeblur.pipeline.cuts import Shot
from metadeblur.pipeline.policy import Decision, decide, shared_budget
from metadeblur.pipeline.resume import part_path
from metadeblur.report.shot_pictures import PICTURES, Sketch, frames_to_show
from metadeblur.restoration.prefetching import BackgroundWriter, pays, prefetch
from metadeblur.restoration.restorer import Restorer, RestoreSettings, restore_pairs
from metadeblur.video import EncodeSettings, SegmentWriter, VideoReader
from metadeblur.video.info import VideoInfo
from metadeblur.video.reading import reader_clip

EachFrame = Callable[[int, float, Tensor, Tensor], None]
"""Called after each frame: (frames of the shot done, seconds that this one took, blurred, restored (3, H, W))."""


@dataclass(frozen=True)
class Film:
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

    def clip(self, index: int) -> Clip:
        """A shot's frames, read when asked for; every caller gets a reader of its own."""
        shot = self.shots[index]
        return reader_clip(self.reader, shot.start, shot.stop)

    def shot_scores(self, index: int) -> tuple[float, ...]:
        """Self-shift score of each frame of a shot, dB."""
        shot = self.shots[index]
        return self.scores[shot.start : shot.stop]

    def restorer(self, net: nn.Module) -> Restorer:
        """What sends this film's frames through a network."""
        return Restorer(net, self.info.height, self.info.width, self.restoration)

    def title(self, index: int) -> str:
        """What a person calls a shot."""
        return f"shot {index + 1} of {len(self.shots)}"


def settled(film: Film, net: nn.Module) -> dict[str, Any]:
    """Tile and precision for all shots of a film, as the first one's first window and free memory suggest.

    They are chosen once: another tile or precision changes the last digits.
    """
    restorer = film.restorer(net)
    restorer.prepare(film.clip(0).window(0, restorer.frames))
    return {"tile": restorer.tile, "precision": restorer.precision}


def decide_shot(
    film: Film, net: nn.Module, index: int, progress: Callable[[int, int, str], None] | None = None
) -> Decision:
    """Look at a shot and adapt to it where that makes sense, in its part of the time budget.

    Args:
        film: the input.
        net: the base deblurrer; it is not changed.
        index: number of the shot.
        progress: called with (done, in all, stage).
    """
    lengths = [len(shot) for shot in film.shots]
    settings = shared_budget(film.adaptation, lengths[index], lengths) if film.adapt else None
    scores, guard = film.shot_scores(index), film.adaptation.guard
    return decide(net, film.clip(index), scores, settings, guard=guard, progress=progress)


def restore_shot(
    film: Film, net: nn.Module, index: int, decision: Decision, each_frame: EachFrame | None = None
) -> dict[str, Any]:
    """Restore a shot into its segments as was decided, and keep the pictures that the report shows of it.

    A shot that is to pass untouched gets no segments yet: where all do, the file is copied instead.

    Args:
        film: the input.
        net: the base deblurrer, for pictures beside the adapted one's.
        index: number of the shot.
        decision: made by :func:`decide_shot`.
        each_frame: called after each frame.

    Returns:
        The shot's record.
    """
    shot, restorer = film.shots[index], None
    seconds = dict(decision.outcome.seconds) if decision.outcome else {}
    sketch = _sketch(film, index)
    with stopwatch(seconds, "restore"):
        if decision.model is not None:
            restorer = film.restorer(decision.model)
            write_shot(film, index, film.kinds, restorer, sketch=sketch, each_frame=each_frame)
        if sketch is not None:
            _complete(sketch, film, net, index, decision)
            sketch.save(film.path("story", index, ".npz"))
    return {
        "index": index,
        "start": shot.start,
        "stop": shot.stop,
        **decision.to_record(shot.start),
        "scores": list(film.shot_scores(index)),
        "tile": restorer.tile if restorer else None,
        "precision": restorer.precision if restorer else None,
        "seconds": seconds,
    }


def write_shot(
    film: Film,
    index: int,
    kinds: Sequence[str],
    restorer: Restorer | None,
    *,
    count: int | None = None,
    sketch: Sketch | None = None,
    each_frame: EachFrame | None = None,
) -> None:
    """Restore the first ``count`` frames of a shot into segments; without a restorer they pass as they are."""
    clip = film.clip(index)
    if count is not None:
        clip = clip.part(0, count)
    with ExitStack() as stack:
        writers = {kind: stack.enter_context(_writer(film, kind, index)) for kind in kinds}
        behind = stack.enter_context(BackgroundWriter(beside=restorer is None or pays(restorer.device)))
        began = time.monotonic()
        for number, (blurred, restored) in enumerate(stack.enter_context(closing(_pairs(clip, restorer)))):
            for kind, writer in writers.items():
                behind.do(writer.write, _beside(film.info, blurred, restored) if kind == "side" else restored)
            if sketch is not None and number in sketch.wanted:
                sketch.add(number, blurred, restored)
            if each_frame is not None:
                each_frame(number + 1, time.monotonic() - began, blurred, restored)
            began = time.monotonic()
        behind.finish()


def _writer(film: Film, kind: str, index: int) -> SegmentWriter:
    return SegmentWriter(
        film.path(kind, index),
        film.info,
        film.encoding,
        output=film.targets[kind],
        source=film.reader,
        start=film.shots[index].start,
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


def _sketch(film: Film, index: int) -> Sketch | None:
    """A collection of pictures for the report, where one is wanted and the shot is among those that it shows."""
    if not film.pictured or index >= PICTURES:
        return None
    return Sketch(frames_to_show(film.shot_scores(index), len(film.shots)))


def _complete(sketch: Sketch, film: Film, net: nn.Module, index: int, decision: Decision) -> None:
    """Add the pictures that did not come by while restoring."""
    clip = film.clip(index)
    if decision.untouched:
        for number in sketch.wanted:
            sketch.add(number, clip[number], clip[number])
    if decision.outcome is not None:
        sketch.learn(decision.outcome, max(2, PICTURES // len(film.shots)))
    if decision.share > 0:
        restorer = film.restorer(net)
        for number in sketch.wanted:
            sketch.add_base(restorer(clip.window(number, restorer.frames)))
