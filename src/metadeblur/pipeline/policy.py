"""How one shot is to be restored: untouched, by the base model, or by a network adapted to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from metadeblur.adaptation.places import MINIMUM_FRAMES, MINIMUM_PATCH, too_few
from metadeblur.adaptation.stages import AdaptSettings, Outcome, adapt
from metadeblur.adaptation.steps import Progress
from metadeblur.clip import Clip, as_clip
from metadeblur.guard.already_sharp import sharp_already
from metadeblur.guard.judge import Reason
from metadeblur.guard.learnable import nothing_to_learn
from metadeblur.imaging.clip_cache import ClipCache
from metadeblur.report.record import ShotRecord
from metadeblur.types import ShotOutcome, Unlearnt

STRETCH_BYTES = 400_000_000  # frames that are held in memory to adapt to
STRETCH_FRAMES = 120
_TEXTURELESS_DB = 60.0  # self-shift scores above come from frames without texture, such as fades


@dataclass(frozen=True)
class Decision:
    """How one shot is to be restored, and why."""

    model: nn.Module | None  # None: the frames pass untouched
    share: float = 0.0  # of the adaptation that is used
    reasons: tuple[Reason, ...] = ()
    note: str | None = None  # what else the record says, for people
    outcome: Outcome | None = None  # of the adaptation, where there was one
    unlearnt: Unlearnt | None = None  # why no weights were learnt
    offset: int = 0  # frame of the shot that is frame 0 of the adaptation

    @property
    def untouched(self) -> bool:
        """Whether the frames pass as they are."""
        return self.model is None

    @property
    def kind(self) -> ShotOutcome:
        """How the shot is restored."""
        if self.untouched:
            return "untouched"
        if self.outcome is None or self.share <= 0:
            return "base"
        return "adapted" if self.share >= 1 else "partly"

    def in_short(self) -> str:
        """What was decided, in one sentence."""
        if self.untouched:
            return f"returned untouched: {self.note}"
        if self.outcome is None:
            return str(self.note)
        against = [reason.text for reason in self.reasons if not reason.passed]
        why = "; ".join(against or [reason.text for reason in self.reasons[:1]])
        kept = {0.0: "the adaptation is dropped", 1.0: "the adaptation is kept whole"}
        if self.outcome.adapted is None and not self.outcome.history:
            kept[0.0] = "no weights were learnt"
        text = kept.get(self.share, f"the adaptation is kept to {100 * self.share:.0f} %")
        text += ", frames are fused with their neighbours" if self.outcome.fused else ""
        text += " and corrected by what they leave unexplained" if self.outcome.back_projected else ""
        return f"{text}: {why}" if why else text

    def to_record(self, index: int, start: int, stop: int) -> ShotRecord:
        """What the record keeps of the decision, before anything is restored.

        Args:
            index: number of the shot.
            start: its first frame, counted from the beginning of the file.
            stop: one past its last.
        """
        decided = ShotRecord(
            index=index,
            start=start,
            stop=stop,
            outcome=self.kind,
            untouched=self.untouched,
            share=self.share,
            reasons=self.reasons,
            note=self.note,
            unlearnt=self.unlearnt,
        )
        outcome = self.outcome
        if outcome is None:
            return decided
        offset = start + self.offset  # places count the frames that were adapted to
        places = outcome.support.train if outcome.support else ()
        return replace(
            decided,
            adapted=outcome.adapted is not None,
            fused=outcome.fused,
            back_projected=outcome.back_projected,
            fusion=outcome.fusion,
            pairs=tuple(replace(p, frame=p.frame + offset, blurred_frame=p.blurred_frame + offset) for p in places),
            losses=tuple(outcome.history),
            reblur_losses=tuple(outcome.reblur_history),
            reblurrer=outcome.reblurrer.describe() if outcome.reblurrer else None,
            stage_memory_mb=outcome.memory_mb,
            seconds=outcome.seconds,
        )


def decide(
    net: nn.Module,
    clip: Clip,
    scores: Sequence[float],
    settings: AdaptSettings | None,
    *,
    guard: bool = True,
    progress: Progress | None = None,
) -> Decision:
    """Look at a shot, and adapt to it where that makes sense.

    Args:
        net: the base deblurrer; it is not changed.
        clip: the shot's frames, read when asked for.
        scores: self-shift score of each of its frames, dB.
        settings: of the adaptation; None: the base model is to be used.
        guard: leave a shot alone that is sharp already.
        progress: called with (done, in all, stage).
    """
    clip = as_clip(clip)
    frame_bytes = clip.height * clip.width * 3 * (1 if clip.bit_depth <= 8 else 2)
    start, stop = informative_stretch(scores, min(STRETCH_FRAMES, max(MINIMUM_FRAMES, STRETCH_BYTES // frame_bytes)))
    stretch = clip.part(start, stop).in_memory()
    cache = ClipCache()
    if guard:
        reason = sharp_already(stretch, cache)
        if reason is not None:
            return Decision(None, reasons=(reason,), note=reason.text)
        reason = _untaught(clip, stretch)
        # Base models are for pictures as well: only where there is nothing to see do they not help one that is still.
        if reason is not None and (settings is not None or reason.name == "texture"):
            return Decision(None, reasons=(reason,), note=reason.text)
    if settings is None:
        return Decision(net, note="adaptation was switched off: the base model is used", unlearnt="off")
    if len(clip) == 1:
        text = "a single picture shows no motion to learn from: the base model is used"
        return Decision(net, note=text, unlearnt="picture")
    if len(clip) < MINIMUM_FRAMES:
        text = f"{too_few(len(clip))} ({MINIMUM_FRAMES} are needed): the base model is used"
        return Decision(net, note=text, unlearnt="short")
    if min(clip.height, clip.width) < MINIMUM_PATCH:
        size = f"{clip.width}x{clip.height} px are too small to adapt to (both sides need {MINIMUM_PATCH} px)"
        return Decision(net, note=f"frames of {size}: the base model is used", unlearnt="small")
    outcome = adapt(net, stretch, settings=settings, progress=progress, cache=cache)
    cut = f"adapted to frames {start} to {stop - 1} of the shot" if stop - start < len(clip) else None
    unlearnt = None if outcome.history else _unlearnt(outcome)
    return Decision(outcome.model, outcome.share, outcome.reasons, cut, outcome, unlearnt, start)


def _unlearnt(outcome: Outcome) -> Unlearnt:
    """Why an adaptation took no step."""
    causes: dict[str, Unlearnt] = {"length": "short", "time": "time", "motion": "still", "texture": "still"}
    return next((causes[reason.name] for reason in outcome.reasons if reason.name in causes), "quick")


def _untaught(clip: Clip, stretch: Clip) -> Reason | None:
    """Why nothing can be learnt of a shot; what stands still for a while may move later on."""
    if len(clip) == 1:
        return None
    reason = nothing_to_learn(stretch)
    return reason if reason is None or len(stretch) == len(clip) else nothing_to_learn(clip)


def informative_stretch(scores: Sequence[float], limit: int) -> tuple[int, int]:
    """The ``limit`` consecutive frames in which sharp and blurred ones differ most: (first, one past the last).

    Args:
        scores: self-shift score of each frame in dB.
        limit: frames wanted; a shorter clip is taken whole.

    >>> informative_stretch([30, 30, 30, 30, 40, 30, 30, 30], 3)
    (3, 6)
    """
    if len(scores) <= limit:
        return 0, len(scores)
    textured = np.asarray(scores)
    textured = np.where(textured < _TEXTURELESS_DB, textured, np.median(textured))
    windows = np.lib.stride_tricks.sliding_window_view(textured, limit)
    starts = np.arange(0, len(windows), max(1, limit // 8))
    low, high = np.quantile(windows[starts], (0.1, 0.9), axis=1)
    best = np.flatnonzero(high - low >= (high - low).max() - 1e-9)
    first = int(starts[best[len(best) // 2]])
    return first, first + limit


def shared_budget(settings: AdaptSettings, frames: int, all_frames: Sequence[int]) -> AdaptSettings:
    """The settings with a shot's part, by its length, of the time that all adaptations may take together.

    Args:
        settings: with the time for all.
        frames: of this shot.
        all_frames: frames of every shot; those too short to adapt to take no time.
    """
    adapting = sum(count for count in all_frames if count >= MINIMUM_FRAMES)
    if settings.budget_seconds == 0 or adapting == 0:
        return settings
    return replace(settings, budget_seconds=settings.budget_seconds * frames / adapting)
