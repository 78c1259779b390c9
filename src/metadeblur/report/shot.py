"""One shot in the report: what the page is told of it, and all that ``templates/shot.html`` shows of it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from metadeblur.guard.judge import Reason
from metadeblur.imaging.pictures import (
    Picture,
    data_uri,
    encode_jpeg,
    encode_png,
    heat_map,
    nice_ticks,
    shrink,
    to_uint8,
)
from metadeblur.limits import CountOrNone, Within, check
from metadeblur.reblur.place import Place
from metadeblur.report.html import as_number, figure_text, flat
from metadeblur.report.plot import Mark, line_plot
from metadeblur.report.record import RunRecord, ShotRecord
from metadeblur.report.verdict import shot_result
from metadeblur.system.names import counted

_LEAST_WIDTH = 320  # px; frames of a page with very many shots are shrunk down to this, not further
_THUMBNAIL = 220  # px

Values = dict[str, Any]
"""What a template is given."""


@dataclass(frozen=True)
class PageSettings:
    """How large a page's pictures may be."""

    frame_width: Annotated[int, Within(16, 16_384)] = 1280  # px: frames of the viewer are shrunk to this width
    quality: Annotated[int, Within(1, 100)] = 90  # JPEG quality, 1 to 100
    # of all viewer frames together, about 0.3 MB each; more shots give smaller frames
    megapixels: Annotated[float, Within(0, 1_000_000, above=True)] = 60.0
    pairs: CountOrNone = 48  # pseudo pairs shown on the whole page, shared between the shots, at least two a shot

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class ShotPictures:
    """The pictures of one shot; pictures are arrays (H, W, 3), uint8 (floats in [0, 1] and tensors work too).

    Frame numbers are those of the shot's record: they count from the beginning of the file.
    """

    index: int  # the shot's "index" in the record
    frames: Sequence[tuple[int, Any, Any]] = ()  # (frame number, before, after)
    base: Sequence[Any] | None = None  # the base model's picture of each of these, where it differs from "after"
    pairs: Sequence[tuple[Any, Any]] = ()  # (pseudo-blurred, pseudo-sharp), as in the record
    sharpness_map: NDArray[Any] | None = None  # (rows, cols) self-shift scores of one frame in dB
    map_frame: int | None = None  # number of the frame that the map belongs to


@dataclass(frozen=True)
class Look:
    """How the pictures of one page are shown."""

    width: int  # px, of the viewer's frames at most
    quality: int  # JPEG quality
    pairs: int  # pseudo pairs shown of each shot
    turns: int = 0  # quarter turns counterclockwise that a player makes
    pixel: float = 1.0  # width of a pixel as shown, over its height
    blurs: int = 1  # pairs made from each place, next to each other in the list

    @staticmethod
    def of(record: RunRecord, shots: Sequence[ShotPictures], settings: PageSettings) -> Look:
        """Upright, in the video's proportions, and small enough for a page of all these shots."""
        video = record.video
        rotation, pixel = as_number(video.get("rotation")), as_number(video.get("sample_aspect_ratio"))
        turns = int(rotation // 90) % 4 if rotation % 90 == 0 else 0
        pixel = pixel if 0 < pixel < math.inf else 1.0
        blurs = as_number(record.settings.get("adaptation", {}).get("blurs"))
        area, widest = 0.0, 0
        for shot in shots:
            for _, before, _ in shot.frames:
                height, width = to_uint8(before).shape[:2]
                shown = min(width, settings.frame_width)
                widest = max(widest, shown)
                area += (2 if shot.base is None else 3) * shown * shown * height / width
        factor = min(1.0, math.sqrt(settings.megapixels * 1e6 / area)) if area else 1.0
        return Look(
            width=max(min(_LEAST_WIDTH, settings.frame_width), int(widest * factor)),
            quality=settings.quality,
            pairs=max(2, settings.pairs // max(len(shots), 1)),
            turns=turns,
            pixel=1 / pixel if turns % 2 else pixel,
            blurs=int(blurs) if blurs >= 1 else 1,
        )

    def picture(self, frame: Any, width: int | None = None) -> Picture:
        """A frame as it is shown: upright and at most ``width`` px wide."""
        upright = np.ascontiguousarray(np.rot90(to_uint8(frame), self.turns))
        return shrink(upright, self.width if width is None else min(width, self.width))

    def photo(self, picture: Picture) -> str:
        """The picture as JPEG in a ``data:`` address."""
        return data_uri(encode_jpeg(picture, self.quality))

    def aspect(self, picture: Picture) -> str:
        """Width over height as shown, for the page's style."""
        return f"{picture.shape[1] * self.pixel:.6g}/{picture.shape[0]}"


def shot_parts(shot: ShotRecord, pictures: ShotPictures, video: Mapping[str, Any], look: Look, number: int) -> Values:
    """Everything that there is to show of one shot; a part without material is None or empty.

    Args:
        shot: its record.
        pictures: of it.
        video: the record's facts about the file.
        look: how pictures are shown.
        number: sets it apart from the page's other shots.
    """
    viewer = _viewer(shot, pictures, look)
    return {
        "number": number,
        "outcome": shot_result(shot),
        "share": shot.share,
        "viewer": viewer,
        "blind": _blind(shot) if viewer and "base" in viewer["names"] else None,
        "reasons": [_reason(reason) for reason in shot.reasons],
        "pairs": _pairs(shot, pictures, look),
        "map": _map(shot, pictures, video, look),
        "scores": _scores(shot),
        "losses": _losses(shot),
        "reblurrer": flat(shot.reblurrer or {}),
    }


# --- before and after ----------------------------------------------------------------------------------------------


def _viewer(shot: ShotRecord, pictures: ShotPictures, look: Look) -> Values | None:
    """The frames before and after, and those of the base model where they differ from what was delivered."""
    if not pictures.frames:
        return None
    outcome = shot_result(shot)
    names = {"before": "Before", "after": "Unchanged" if outcome == "untouched" else "Restored"}
    base: Sequence[Any] = ()
    learnt = outcome in ("whole", "part", "unchecked")
    if learnt and pictures.base is not None and len(pictures.base) == len(pictures.frames):
        base = pictures.base
        names |= {"base": "Base model"}
    frames: list[Values] = []
    for position, (number, before, after) in enumerate(pictures.frames):
        kinds = {"before": before, "after": after} | ({"base": base[position]} if base else {})
        upright = {kind: look.picture(picture) for kind, picture in kinds.items()}
        frames.append(
            {
                "number": number + 1,
                "width": upright["before"].shape[1],
                "height": upright["before"].shape[0],
                "pictures": {kind: look.photo(picture) for kind, picture in upright.items()},
                "small": {kind: look.photo(shrink(upright[kind], _THUMBNAIL)) for kind in ("before", "after")},
                "aspects": {kind: look.aspect(picture) for kind, picture in upright.items()},
            }
        )
    return {"names": names, "names_json": json.dumps(names), "frames": frames, "chosen": frames[len(frames) // 2]}


def _blind(shot: ShotRecord) -> Values:
    """What the two sides of the blinded comparison are; where frames were fused, one is "what you got"."""
    rival, other = "the adapted model", "the other by the model as it was adapted to your clip"
    if shot.fused:
        made_by = "adapted" if shot.share > 0 else "base"
        also = " and corrected by the blurred ones" if shot.back_projected else ""
        rival = "what you got"
        other = f"the other is what you got: restored by the {made_by} model, frames fused{also}"
    return {"names_json": json.dumps({"base": "the base model", "after": rival}), "other": other}


# --- the guard -----------------------------------------------------------------------------------------------------


def _reason(reason: Reason) -> Values:
    """One reason of the guard, its limit with the side on which the figure had to lie."""
    figure, limit = as_number(reason.figure), as_number(reason.limit)  # JSON has null for what is no number
    side = ""
    if math.isfinite(figure) and math.isfinite(limit) and figure != limit:
        side = "at least " if (figure > limit) == (reason.passed and not reason.excused) else "at most "
    result = "Let pass" if reason.excused else "Passed" if reason.passed else "Failed"
    return vars(reason) | {"figure": figure, "limit": limit, "side": side, "result": result}


# --- where the pairs come from -------------------------------------------------------------------------------------


def _pairs(shot: ShotRecord, pictures: ShotPictures, look: Look) -> Values | None:
    """The pseudo pairs with their places and scores."""
    if not pictures.pairs:
        return None
    shown = []
    for number, (blurred, sharp) in enumerate(pictures.pairs[: look.pairs]):
        place = shot.pairs[number // look.blurs] if number // look.blurs < len(shot.pairs) else None
        pair = {"blurred": look.photo(look.picture(blurred, 256)), "sharp": look.photo(look.picture(sharp, 256))}
        shown.append(pair | (_place(place) if place else {"frame": None, "where": "", "scores": ""}))
    return {"count": max(len(pictures.pairs), len(shot.pairs) * look.blurs), "shown": shown}


def _place(place: Place) -> Values:
    """Where a pair comes from and how sharp it is."""
    where = f" at {place.left}, {place.top}, {place.size} px{', shrunk' if place.shrunk else ''}"
    scores = f"{place.score:.1f} dB here, {place.blurred_score:.1f} dB in frame {place.blurred_frame + 1}"
    return {"frame": place.frame + 1, "where": where, "scores": scores}


def _map(shot: ShotRecord, pictures: ShotPictures, video: Mapping[str, Any], look: Look) -> Values | None:
    """The self-shift map with its colours, and the places of the pairs on the frame that it belongs to."""
    if pictures.sharpness_map is None:
        return None
    scores = np.atleast_2d(np.asarray(pictures.sharpness_map, dtype=np.float64))
    finite = scores[np.isfinite(scores)]
    if not finite.size:
        return None
    # Patches without any detail score up to 100 dB and would leave no colours for the rest.
    low, high = (float(v) for v in np.percentile(finite, (1, 97)))
    high = max(high, low + 1)
    frame = next((before for number, before, _ in pictures.frames if number == pictures.map_frame), None)
    height, width = _frame_size(video, pictures, scores.shape)
    across, down = (height, width) if look.turns % 2 else (width, height)
    # The places are turned counterclockwise with the frame.
    moved = ("1 0 0 1 0 0", f"0 -1 1 0 0 {width}", f"-1 0 0 -1 {width} {height}", f"0 1 -1 0 {height} 0")
    return {
        "frame": None if pictures.map_frame is None else pictures.map_frame + 1,
        "aspect": f"{across * look.pixel:.6g}/{down}",
        "cells": data_uri(encode_png(np.rot90(heat_map(scores, low, high), look.turns))),
        "least": f"{finite.min():.1f}",
        "most": f"{finite.max():.1f}",
        "ramp": data_uri(encode_png(heat_map(np.linspace(low, high, 128)[None], low, high))),
        "low": f"{low:.1f}",
        "high": f"{high:.1f}",
        "ticks": [(f"{tick:g}", f"{100 * (tick - low) / (high - low):.1f}") for tick in nice_ticks(low, high)],
        "picture": None if frame is None else look.photo(look.picture(frame, 640)),
        "boxes": [(place.left, place.top, place.size) for place in shot.pairs],
        "across": across,
        "down": down,
        "turned": moved[look.turns],
    }


def _frame_size(video: Mapping[str, Any], pictures: ShotPictures, fallback: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of a full frame: the record's, else those of the pictures at hand."""
    height, width = as_number(video.get("height")), as_number(video.get("width"))
    if height > 0 and width > 0:
        return int(height), int(width)
    shape = to_uint8(pictures.frames[0][1]).shape if pictures.frames else fallback
    return shape[0], shape[1]


# --- plots ---------------------------------------------------------------------------------------------------------


def _scores(shot: ShotRecord) -> Values | None:
    """Sharpness over time, with the frames that gave pseudo-sharp patches marked."""
    scores = list(map(as_number, shot.scores))
    finite = [(value, n) for n, value in enumerate(scores) if math.isfinite(value)]
    if len(scores) < 2 or not finite:
        return None
    marks: list[Mark] = []
    blurred, sharp = [place.blurred_frame for place in shot.pairs], [place.frame for place in shot.pairs]
    for numbers, what, ring in ((blurred, "real blurred", True), (sharp, "pseudo-sharp", False)):
        for frame, count in sorted(Counter(numbers).items()):
            position = frame - shot.start
            if 0 <= position < len(scores):
                noun = "patch" if count == 1 else "patches"
                marks.append(Mark(frame + 1, scores[position], f"Frame {frame + 1}: {count} {what} {noun}", ring))
    (best, best_at), (worst, worst_at) = min(finite), max(finite)
    summary = (
        f"Self-shift score of {counted(len(scores), 'frame')}: "
        f"sharpest {best:.1f} dB at frame {best_at + shot.start + 1}, "
        f"most blurred {worst:.1f} dB at frame {worst_at + shot.start + 1}."
    )
    plot = line_plot(
        scores,
        summary=summary,
        x_title="Frame",
        y_title="Self-shift score in dB, sharper is higher",
        start=shot.start + 1,
        marks=marks,
        low_is_up=True,
        least_span=2.0,
    )
    return {"plot": plot, "marked": bool(marks)}


def _losses(shot: ShotRecord) -> Values | None:
    """The loss by step of the adaptation, with a running mean."""
    losses = [as_number(entry["loss"]) for entry in shot.losses]
    if sum(map(math.isfinite, losses)) < 2:
        return None
    reach = max(2, len(losses) // 8)
    trend = [_mean_of_finite(losses[max(0, n - reach) : n + reach + 1]) for n in range(len(losses))]
    finite = [loss for loss in trend if math.isfinite(loss)]
    ends = f"from {figure_text(finite[0])} to {figure_text(finite[-1])}"
    averaged = len(losses) >= 8
    plot = line_plot(
        losses,
        summary=f"Training loss over {counted(len(losses), 'step')}: running mean {ends}.",
        x_title="Step",
        y_title="Loss",
        start=int(shot.losses[0]["step"]),
        trend=trend if averaged else (),
    )
    return {"plot": plot, "averaged": averaged}


def _mean_of_finite(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
