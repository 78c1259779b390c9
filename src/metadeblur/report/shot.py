"""Everything that the report shows of one shot, as the values of ``templates/shot.html``."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metadeblur.imaging.pictures import data_uri, encode_png, heat_map, nice_ticks, shrink, to_uint8
from metadeblur.report.html import as_number, as_table, as_tables, figure_text, flat
from metadeblur.report.look import Look, ShotStory
from metadeblur.report.plot import Mark, line_plot
from metadeblur.report.verdict import helped, share_of, shot_outcome
from metadeblur.system.names import counted

_THUMBNAIL = 220  # px

Values = dict[str, Any]
"""What a template is given."""


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
                "shape": pictures["before"].shape,
                "pictures": {kind: look.photo(picture) for kind, picture in pictures.items()},
                "small": {kind: look.photo(shrink(pictures[kind], _THUMBNAIL)) for kind in ("before", "after")},
                "aspects": {kind: look.aspect(picture) for kind, picture in pictures.items()},
            }
        )
    chosen = frames[len(frames) // 2]
    return {
        "names": names,
        "names_json": json.dumps(names),
        "frames": frames,
        "chosen": chosen,
        "height": chosen["shape"][0],
        "width": chosen["shape"][1],
        "aspect": chosen["aspects"]["before"],
    }


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
