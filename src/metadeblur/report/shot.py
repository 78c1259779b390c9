"""One shot in the report: what the page is told of it, and all that ``templates/shot.html`` shows of it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

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
from metadeblur.report.html import as_number, as_table, as_tables, figure_text, flat
from metadeblur.report.plot import Mark, line_plot
from metadeblur.report.verdict import helped, share_of, shot_outcome
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


@dataclass
class ShotStory:
    """The pictures of one shot; pictures are arrays (H, W, 3), uint8 (floats in [0, 1] and tensors work too).

    Frame numbers in ``frames``, in the record's pairs, ``map_frame`` and ``first_frame`` share one numbering.
    """

    index: int  # the shot's "index" in the record
    frames: list[tuple[int, Any, Any]] = field(default_factory=list)  # (frame number, before, after)
    base: list[Any] | None = None  # the base model's picture of each of these frames, where it differs from "after"
    pairs: list[tuple[Any, Any]] = field(default_factory=list)  # (pseudo-blurred, pseudo-sharp), as in the record
    sharpness_map: NDArray[Any] | None = None  # (rows, cols) self-shift scores of one frame in dB
    history: list[dict[str, Any]] = field(default_factory=list)  # one a step: {"step", "loss", ...}
    frame_scores: list[float] = field(default_factory=list)  # mean self-shift score of each frame in dB
    map_frame: int | None = None  # number of the frame that the map belongs to
    first_frame: int = 0  # number of the frame that the first of frame_scores belongs to


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
    def of(record: Mapping[str, Any], stories: Sequence[ShotStory], settings: PageSettings) -> Look:
        """Upright, in the video's proportions, and small enough for a page of all these stories."""
        video, asked = as_table(record.get("video")), as_table(record.get("settings"))
        rotation, pixel = as_number(video.get("rotation")), as_number(video.get("sample_aspect_ratio"))
        turns = int(rotation // 90) % 4 if rotation % 90 == 0 else 0
        pixel = pixel if 0 < pixel < math.inf else 1.0
        blurs = as_number((asked | as_table(asked.get("adaptation"))).get("blurs"))
        area, widest = 0.0, 0
        for story in stories:
            for _, before, _ in story.frames:
                height, width = to_uint8(before).shape[:2]
                shown = min(width, settings.frame_width)
                widest = max(widest, shown)
                area += (2 if story.base is None else 3) * shown * shown * height / width
        factor = min(1.0, math.sqrt(settings.megapixels * 1e6 / area)) if area else 1.0
        return Look(
            width=max(min(_LEAST_WIDTH, settings.frame_width), int(widest * factor)),
            quality=settings.quality,
            pairs=max(2, settings.pairs // max(len(stories), 1)),
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


def shot_parts(shot: Mapping[str, Any], story: ShotStory, video: Mapping[str, Any], look: Look, number: int) -> Values:
    """Everything that there is to show of one shot; a part without material is None or empty.

    Args:
        shot: its record.
        story: its pictures.
        video: the record's facts about the file.
        look: how pictures are shown.
        number: sets it apart from the page's other shots.
    """
    viewer = _viewer(shot, story, look)
    return {
        "number": number,
        "outcome": shot_outcome(shot),
        "share": share_of(shot),
        "viewer": viewer,
        "blind": _blind(shot) if viewer and "base" in viewer["names"] else None,
        "reasons": [_reason(reason) for reason in as_tables(shot.get("reasons"))],
        "pairs": _pairs(shot, story, look),
        "map": _map(shot, story, video, look),
        "scores": _scores(shot, story),
        "losses": _losses(shot, story),
        "reblurrer": flat(as_table(shot.get("reblurrer"))),
    }


# --- before and after ----------------------------------------------------------------------------------------------


def _viewer(shot: Mapping[str, Any], story: ShotStory, look: Look) -> Values | None:
    """The frames before and after, and those of the base model where they differ from what was delivered."""
    if not story.frames:
        return None
    unadapted = {"unchanged": "Unchanged", "dropped": "Base model", "base": "Base model"}
    outcome = shot_outcome(shot)
    names = {"before": "Before", "after": unadapted.get(outcome, "Restored")}
    base: Sequence[Any] = ()
    if outcome not in unadapted and story.base is not None and len(story.base) == len(story.frames):
        base = story.base
        names |= {"base": "Base model", "after": "Adapted"}
    frames: list[Values] = []
    for position, (number, before, after) in enumerate(story.frames):
        kinds = {"before": before, "after": after} | ({"base": base[position]} if base else {})
        pictures = {kind: look.picture(picture) for kind, picture in kinds.items()}
        frames.append(
            {
                "number": number,
                "width": pictures["before"].shape[1],
                "height": pictures["before"].shape[0],
                "pictures": {kind: look.photo(picture) for kind, picture in pictures.items()},
                "small": {kind: look.photo(shrink(pictures[kind], _THUMBNAIL)) for kind in ("before", "after")},
                "aspects": {kind: look.aspect(picture) for kind, picture in pictures.items()},
            }
        )
    return {"names": names, "names_json": json.dumps(names), "frames": frames, "chosen": frames[len(frames) // 2]}


def _blind(shot: Mapping[str, Any]) -> Values:
    """What the two sides of the blinded comparison are; where frames were fused, one is "what you got"."""
    rival, other = "the adapted model", "the other by the model as it was adapted to your clip"
    if shot.get("fused"):
        made_by = "adapted" if share_of(shot) > 0 else "base"
        rival, other = "what you got", f"the other is what you got: restored by the {made_by} model{helped(shot, ',')}"
    return {"names_json": json.dumps({"base": "the base model", "after": rival}), "other": other}


# --- the guard -----------------------------------------------------------------------------------------------------


def _reason(reason: Mapping[str, Any]) -> Values:
    """One reason of the guard, its limit with the side on which the figure had to lie."""
    passed, excused = bool(reason.get("passed")), bool(reason.get("excused"))
    figure, limit = as_number(reason.get("figure")), as_number(reason.get("limit"))
    side = ""
    if math.isfinite(figure) and math.isfinite(limit) and figure != limit:
        side = "at least " if (figure > limit) == (passed and not excused) else "at most "
    return {
        "name": reason.get("name") or "Reason",
        "text": reason.get("text"),
        "figure": figure,
        "limit": limit,
        "side": side,
        "passed": passed,
        "result": "Let pass" if excused else "Passed" if passed else "Failed",
    }


# --- where the pairs come from -------------------------------------------------------------------------------------


def _pairs(shot: Mapping[str, Any], story: ShotStory, look: Look) -> Values | None:
    """The pseudo pairs with their places and scores."""
    if not story.pairs:
        return None
    places = as_tables(shot.get("pairs"))
    shown = []
    for number, (blurred, sharp) in enumerate(story.pairs[: look.pairs]):
        place = places[number // look.blurs] if number // look.blurs < len(places) else {}
        pictures = {"blurred": look.photo(look.picture(blurred, 256)), "sharp": look.photo(look.picture(sharp, 256))}
        shown.append(pictures | _place(place))
    return {"count": max(len(story.pairs), len(places) * look.blurs), "shown": shown}


def _place(place: Mapping[str, Any]) -> Values:
    """Where a pair comes from and how sharp it is."""
    where = f" at {place['left']}, {place['top']}" if "left" in place and "top" in place else ""
    where += (f", {place['size']} px" if "size" in place else "") + (", shrunk" if place.get("shrunk") else "")
    score, blurred, frame = as_number(place.get("score")), as_number(place.get("blurred_score")), "blurred_frame"
    scores = [f"{score:.1f} dB here"] if math.isfinite(score) else []
    if math.isfinite(blurred):
        most = place.get(frame) is None
        scores.append(f"{blurred:.1f} dB {'at its most blurred' if most else f'in frame {place[frame]}'}")
    return {"frame": place.get("frame"), "where": where, "scores": ", ".join(scores)}


def _map(shot: Mapping[str, Any], story: ShotStory, video: Mapping[str, Any], look: Look) -> Values | None:
    """The self-shift map with its colours, and the places of the pairs on the frame that it belongs to."""
    if story.sharpness_map is None:
        return None
    scores = np.atleast_2d(np.asarray(story.sharpness_map, dtype=np.float64))
    known = scores[np.isfinite(scores)]
    if not known.size:
        return None
    # Patches without any detail score up to 100 dB and would leave no colours for the rest.
    low, high = (float(v) for v in np.percentile(known, (1, 97)))
    high = max(high, low + 1)
    frame = next((before for number, before, _ in story.frames if number == story.map_frame), None)
    height, width = _frame_size(video, story, scores.shape)
    across, down = (height, width) if look.turns % 2 else (width, height)
    # The places are turned counterclockwise with the frame.
    moved = ("1 0 0 1 0 0", f"0 -1 1 0 0 {width}", f"-1 0 0 -1 {width} {height}", f"0 1 -1 0 {height} 0")
    places = [[as_number(place.get(key)) for key in ("left", "top", "size")] for place in as_tables(shot.get("pairs"))]
    return {
        "frame": story.map_frame,
        "aspect": f"{across * look.pixel:.6g}/{down}",
        "cells": data_uri(encode_png(np.rot90(heat_map(scores, low, high), look.turns))),
        "least": f"{known.min():.1f}",
        "most": f"{known.max():.1f}",
        "ramp": data_uri(encode_png(heat_map(np.linspace(low, high, 128)[None], low, high))),
        "low": f"{low:.1f}",
        "high": f"{high:.1f}",
        "ticks": [(f"{tick:g}", f"{100 * (tick - low) / (high - low):.1f}") for tick in nice_ticks(low, high)],
        "picture": None if frame is None else look.photo(look.picture(frame, 640)),
        "boxes": [[f"{value:g}" for value in place] for place in places if math.isfinite(sum(place))],
        "across": across,
        "down": down,
        "turned": moved[look.turns],
    }


def _frame_size(video: Mapping[str, Any], story: ShotStory, fallback: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of a full frame: the record's, else those of the pictures at hand."""
    height, width = as_number(video.get("height")), as_number(video.get("width"))
    if height > 0 and width > 0:
        return int(height), int(width)
    shape = to_uint8(story.frames[0][1]).shape if story.frames else fallback
    return shape[0], shape[1]


# --- plots ---------------------------------------------------------------------------------------------------------


def _scores(shot: Mapping[str, Any], story: ShotStory) -> Values | None:
    """Sharpness over time, with the frames that gave pseudo-sharp patches marked."""
    scores = list(story.frame_scores or shot.get("scores") or [])
    known = [(value, n) for n, value in enumerate(map(as_number, scores)) if math.isfinite(value)]
    if len(scores) < 2 or not known:
        return None
    places = as_tables(shot.get("pairs"))
    marks: list[Mark] = []
    for key, what, ring in (("blurred_frame", "real blurred", True), ("frame", "pseudo-sharp", False)):
        taken = Counter(int(p[key]) for p in places if math.isfinite(as_number(p.get(key))))
        for frame, count in sorted(taken.items()):
            position = frame - story.first_frame
            if 0 <= position < len(scores):
                noun = "patch" if count == 1 else "patches"
                marks.append(Mark(frame, as_number(scores[position]), f"Frame {frame}: {count} {what} {noun}", ring))
    (best, best_at), (worst, worst_at) = min(known), max(known)
    summary = (
        f"Self-shift score of {counted(len(scores), 'frame')}: "
        f"sharpest {best:.1f} dB at frame {best_at + story.first_frame}, "
        f"most blurred {worst:.1f} dB at frame {worst_at + story.first_frame}."
    )
    plot = line_plot(
        scores,
        summary=summary,
        x_title="Frame",
        y_title="Self-shift score in dB, sharper is higher",
        start=story.first_frame,
        marks=marks,
        low_is_up=True,
        least_span=2.0,
    )
    return {"plot": plot, "marked": bool(marks)}


def _losses(shot: Mapping[str, Any], story: ShotStory) -> Values | None:
    """The loss by step of the adaptation, with a running mean."""
    history: Sequence[Any] = story.history or shot.get("losses") or []
    losses = [as_number(entry.get("loss") if isinstance(entry, Mapping) else entry) for entry in history]
    if sum(map(math.isfinite, losses)) < 2:
        return None
    first = as_number(history[0].get("step", 0)) if isinstance(history[0], Mapping) else 0
    reach = max(2, len(losses) // 8)
    trend = [_mean_of_finite(losses[max(0, n - reach) : n + reach + 1]) for n in range(len(losses))]
    known = [loss for loss in trend if math.isfinite(loss)]
    ends = f"from {figure_text(known[0])} to {figure_text(known[-1])}"
    averaged = len(losses) >= 8
    plot = line_plot(
        losses,
        summary=f"Training loss over {counted(len(losses), 'step')}: running mean {ends}.",
        x_title="Step",
        y_title="Loss",
        start=int(first) if math.isfinite(first) else 0,
        trend=trend if averaged else (),
    )
    return {"plot": plot, "averaged": averaged}


def _mean_of_finite(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan
