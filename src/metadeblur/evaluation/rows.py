"""Measure one row of a clip: all frames by one network; and the notes from which a killed run goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from metadeblur.clip import clip_of
from metadeblur.data.paired import TrialClip
from metadeblur.errors import MetadeblurError
from metadeblur.evaluation.measures import Measure, to_8bit
from metadeblur.evaluation.perceptual import Perceptual
from metadeblur.evaluation.records import ClipNotes, Focus, FrameFigures, MethodNotes, RowRecord, read_record
from metadeblur.evaluation.sealed import write_sealed
from metadeblur.imaging.pictures import encode_png, to_uint8
from metadeblur.imaging.quality import flicker, psnr
from metadeblur.imaging.sharpness import self_shift_score
from metadeblur.restoration.clips import restore_frames
from metadeblur.restoration.restorer import Restorer, RestoreSettings
from metadeblur.system.json_files import from_plain, plain, write_whole

FOCUS_SIDE = 200  # px: pieces of frames that are shown side by side


def piece_in(frame: Tensor, focus: Focus) -> Tensor:
    """The piece (3, side, side) of a frame (3, H, W)."""
    return frame[:, focus.top : focus.top + focus.side, focus.left : focus.left + focus.side]


def choose_focus(clip: TrialClip, side: int = FOCUS_SIDE) -> Focus:
    """Where the blurred input is furthest from the truth: its worst frame, and there the piece of largest error."""
    blurred = clip.pair.blurred
    scores = [float(psnr(blurred[index], clip.pair.sharp[index])) for index in range(len(clip))]
    worst = int(np.argmin(scores))
    side = min(side, blurred.height, blurred.width)
    error = (blurred[worst] - clip.pair.sharp[worst]).square().mean(0).double().numpy()
    sums = cv2.integral(error)
    totals = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    top, left = np.unravel_index(int(totals.argmax()), totals.shape)
    return Focus(worst, int(top), int(left), side)


def keep_picture(frame: Tensor, focus: Focus, path: Path) -> None:
    """Write the piece of a frame in focus as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, encode_png(to_uint8(piece_in(frame, focus))))


def measure_row(
    clip: TrialClip,
    model: nn.Module | None,
    rule: Measure,
    settings: RestoreSettings,
    focus: Focus | None = None,
    picture: Path | None = None,
    perceptual: Perceptual | None = None,
) -> RowRecord:
    """Figures of one row: means over the frames, and those of each frame.

    Args:
        clip: the clip.
        model: the deblurrer; None: the blurred frames are measured as they are.
        rule: how a frame is measured.
        settings: how frames go through the network.
        focus: the piece to keep a picture of.
        picture: where to.
        perceptual: measures how frames look to people, too.
    """
    figures: dict[str, list[float]] = {}
    kept: list[Tensor] = []
    with_time = clip.video and clip.one_size and len(clip) > 1
    for index, frame in enumerate(_restored(clip, model, settings)):
        truth = clip.truth(index)
        # Padding is never measured: each frame is cut to the size of its truth.
        frame = to_8bit(frame[:, : truth.shape[-2], : truth.shape[-1]])
        shown = frame.float() / 255
        looks = perceptual(shown, truth) if perceptual else {}
        for name, value in (rule(shown, truth) | looks).items():
            figures.setdefault(name, []).append(value)
        figures.setdefault("self_shift", []).append(float(self_shift_score(shown)))
        if with_time:
            kept.append(frame)
        if focus is not None and picture is not None and index == focus.frame:
            keep_picture(shown, focus, picture)
    return RowRecord(
        **{name: fmean(values) for name, values in figures.items()},
        per_frame=FrameFigures(tuple(figures["psnr"]), tuple(figures["ssim"])),
        flicker=flicker(clip_of(torch.stack(kept)), clip.pair.blurred) if with_time else None,
    )


def _restored(clip: TrialClip, model: nn.Module | None, settings: RestoreSettings) -> Iterator[Tensor]:
    if model is None:
        return iter(clip.whole)
    return restore_frames(Restorer(model, clip.whole.height, clip.whole.width, settings), clip.whole)


class Ledger:
    """The finished rows of a clip; with a path, they are written there after each row.

    A run that is killed loses at most the row that it was at.

    Args:
        path: the notes' file; None: nothing is written.
        conditions: what the figures depend on; notes under other conditions do not count.
        keep: use the notes of an earlier run.
    """

    def __init__(self, path: Path | None = None, conditions: Any = None, *, keep: bool = False) -> None:
        self.path, self.conditions = path, conditions
        self.rows: dict[str, RowRecord] = {}
        self.methods: dict[str, MethodNotes] = {}
        self.seconds: dict[str, float] = {}
        if keep and path is not None and path.exists():
            with suppress(MetadeblurError):  # damaged notes do not count either
                notes = read_record(path, ClipNotes)
                if notes.conditions == conditions:
                    self.rows, self.methods, self.seconds = notes.rows, notes.methods, notes.seconds

    def note(self, row: str, figures: RowRecord) -> None:
        """Keep a row's figures."""
        self.rows[row] = from_plain(RowRecord, plain(figures))  # rounded, as a run that is gone on with reads them
        self._write()

    def note_method(self, name: str, notes: MethodNotes) -> None:
        """Keep what a method's adaptation was like."""
        self.methods[name] = from_plain(MethodNotes, plain(notes))
        self._write()

    def forget(self) -> None:
        """Remove the notes' file, once the record is written."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        if self.path is not None:
            write_sealed(ClipNotes(self.conditions, self.rows, self.methods, self.seconds), self.path)
