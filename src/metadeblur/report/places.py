"""Where the report's pseudo pairs come from: the pairs themselves, and the self-shift map with their places."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metadeblur.imaging.pictures import data_uri, encode_png, heat_map, nice_ticks, to_uint8
from metadeblur.report.html import as_number, as_tables, section, text
from metadeblur.report.look import Look, ShotStory

_PAIRS_AT_ONCE = 8  # the others are one click away


def pairs_part(shot: Mapping[str, Any], story: ShotStory, look: Look) -> str:
    """The pseudo pairs with their places and scores."""
    if not story.pairs:
        return ""
    places = as_tables(shot.get("pairs"))
    shown = story.pairs[: look.pairs]
    count = max(len(story.pairs), len(places) * look.blurs)
    figures = []
    for number, (blurred, sharp) in enumerate(shown):
        place = places[number // look.blurs] if number // look.blurs < len(places) else {}
        patches = "".join(
            f'<div class="shown"><img src="{look.photo(look.picture(patch, 256))}" '
            f'alt="Pair {number + 1}, {kind}"><span>{kind}</span></div>'
            for patch, kind in ((blurred, "blurred again"), (sharp, "sharp"))
        )
        figures.append(
            f'<figure class="pair"><div>{patches}</div><figcaption>{_place_caption(place)}</figcaption></figure>'
        )
    more = f" The first {len(shown)} of {count} are shown." if len(shown) < count else ""
    said = (
        "Sharp patches found in your own clip, each blurred again with the motion of the clip. "
        f"The network learned from these and from nothing else. In dB: self-shift scores, low is sharp.{more}"
    )
    body = f'<div class="pairs">{"".join(figures[:_PAIRS_AT_ONCE])}</div>'
    rest = figures[_PAIRS_AT_ONCE:]
    if rest:
        body += f'<details><summary>Show {len(rest)} more</summary><div class="pairs">{"".join(rest)}</div></details>'
    return section(f"{count} pseudo {'pair' if count == 1 else 'pairs'}", said, body, wide=True)


def _place_caption(place: Mapping[str, Any]) -> str:
    """Where a pair comes from and how sharp it is, as HTML."""
    said = []
    if place.get("frame") is not None:
        where = f" at {text(place['left'])}, {text(place['top'])}" if "left" in place and "top" in place else ""
        size = f", {text(place['size'])} px" if "size" in place else ""
        shrunk = ", shrunk" if place.get("shrunk") else ""
        said.append(f"<b>Frame {text(place['frame'])}</b>{where}{size}{shrunk}")
    score, blurred = as_number(place.get("score")), as_number(place.get("blurred_score"))
    scores = []
    if math.isfinite(score):
        scores.append(f"{score:.1f} dB here")
    if math.isfinite(blurred):
        frame = place.get("blurred_frame")
        scores.append(f"{blurred:.1f} dB {'at its most blurred' if frame is None else f'in frame {text(frame)}'}")
    return "<br>".join([*said, ", ".join(scores)] if scores else said)


def map_part(shot: Mapping[str, Any], story: ShotStory, video: Mapping[str, Any], look: Look) -> str:
    """The self-shift map as a heat map with its colour bar, beside the frame it belongs to."""
    if story.sharpness_map is None or np.asarray(story.sharpness_map).size == 0:
        return ""
    scores = np.atleast_2d(np.asarray(story.sharpness_map, dtype=np.float64))
    known = scores[np.isfinite(scores)]
    if not known.size:
        return ""
    # Patches without any detail score up to 100 dB and would leave no colours for the rest.
    low, high = (float(v) for v in np.percentile(known, (1, 97)))
    high = max(high, low + 1)
    frame = next((before for number, before, _ in story.frames if number == story.map_frame), None)
    height, width = _frame_size(video, story, scores.shape)
    outline = _outlines(as_tables(shot.get("pairs")), height, width, look.turns)
    if look.turns % 2:
        height, width = width, height
    whose = f" of frame {story.map_frame}" if story.map_frame is not None else ""
    shape = f'style="--aspect:{width * look.pixel:.6g}/{height}"'
    cells = data_uri(encode_png(np.rot90(heat_map(scores, low, high), look.turns)))
    panels = [
        f'<figure><div class="map-picture" {shape}><img class="cells" src="{cells}" '
        f'alt="Self-shift scores{whose}, from {known.min():.1f} to {known.max():.1f} dB; pale is sharp"></div>'
        f"{_colour_bar(low, high)}</figure>"
    ]
    if frame is not None:
        picture = look.photo(look.picture(frame, 640))
        caption = f"Frame {story.map_frame}{', with the places where pairs were taken in any frame' if outline else ''}"
        panels.append(
            f'<figure><div class="map-picture" {shape}><img src="{picture}" alt="Frame {story.map_frame}">'
            f"{outline}</div><figcaption>{caption}</figcaption></figure>"
        )
    said = "How much a patch changes when it moves by one pixel: little change, a high figure, means blur."
    return section("Self-shift map", said, f'<div class="map">{"".join(panels)}</div>')


def _colour_bar(low: float, high: float) -> str:
    """The key of the heat map in dB, sharp on the left."""
    ramp = data_uri(encode_png(heat_map(np.linspace(low, high, 128)[None], low, high)))
    ticks = "".join(
        f'<span style="left:{100 * (tick - low) / (high - low):.1f}%">{tick:g}</span>' for tick in nice_ticks(low, high)
    )
    return (
        f'<div class="colour-bar"><span>sharp</span><img src="{ramp}" alt="Colours from {low:.1f} dB, pale, to '
        f'{high:.1f} dB, dark"><span>blurred</span><div class="ticks">{ticks}<span style="left:calc(100% + 1.2rem)">dB'
        "</span></div></div>"
    )


def _outlines(places: Sequence[Mapping[str, Any]], height: int, width: int, turns: int) -> str:
    """The places of the pairs as an SVG over a picture of the whole frame, turned counterclockwise with it."""
    boxes = []
    for place in places:
        left, top, size = (as_number(place.get(key)) for key in ("left", "top", "size"))
        if math.isfinite(left + top + size):
            boxes.append(f'<rect x="{left:g}" y="{top:g}" width="{size:g}" height="{size:g}"/>')
    if not boxes:
        return ""
    moved = ("1 0 0 1 0 0", f"0 -1 1 0 0 {width}", f"-1 0 0 -1 {width} {height}", f"0 1 -1 0 {height} 0")[turns]
    across, down = (height, width) if turns % 2 else (width, height)
    return (
        f'<svg viewBox="0 0 {across} {down}" preserveAspectRatio="none" aria-hidden="true">'
        f'<g transform="matrix({moved})">{"".join(boxes)}</g></svg>'
    )


def _frame_size(video: Mapping[str, Any], story: ShotStory, fallback: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of a full frame: the record's, else those of the pictures at hand."""
    height, width = as_number(video.get("height")), as_number(video.get("width"))
    if height > 0 and width > 0:
        return int(height), int(width)
    shape = to_uint8(story.frames[0][1]).shape if story.frames else fallback
    return shape[0], shape[1]
