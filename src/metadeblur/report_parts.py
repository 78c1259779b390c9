"""The parts of a shot's section in the report: slider, guard, pairs, map, plots; each is empty without material."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metadeblur.page import (
    as_number,
    as_table,
    as_tables,
    fact_list,
    figure_text,
    flat,
    percent,
    plot_key,
    section,
    sentence,
    text,
    title_of,
)
from metadeblur.pictures import (
    Mark,
    Picture,
    data_uri,
    encode_jpeg,
    encode_png,
    heat_map,
    line_plot,
    nice_ticks,
    shrink,
    to_uint8,
)

_THUMBNAIL = 220  # px
_LEAST_WIDTH = 320  # px; frames of a page with very many shots are shrunk down to this, not further
_PAIRS_AT_ONCE = 8  # the others are one click away


@dataclass(frozen=True)
class PageSettings:
    """How large a page's pictures may be."""

    frame_width: int = 1280  # px: frames of the viewer are shrunk to this width
    quality: int = 90  # JPEG quality, 1 to 100
    megapixels: float = 60.0  # of all viewer frames together, about 0.3 MB each; more shots give smaller frames
    pairs: int = 48  # pseudo pairs shown on the whole page, shared between the shots, at least two a shot


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


def shot_parts(shot: Mapping[str, Any], story: ShotStory, video: Mapping[str, Any], look: Look, number: int) -> str:
    """Everything that there is to show of one shot, as HTML; ``number`` sets it apart from the page's other shots."""
    return "".join(
        (
            _viewer(shot, story, look, number),
            _guard(shot),
            _pairs(shot, story, look),
            _map(shot, story, video, look),
            _scores(shot, story),
            _losses(shot, story),
            _reblurrer(shot),
        )
    )


def shot_outcome(shot: Mapping[str, Any]) -> str:
    """What became of a shot: "unchanged", "whole", "part", "unchecked", "dropped" or "base" (nothing was adapted).

    >>> shot_outcome({"adapted": True, "share": 0.5, "reasons": [{"name": "gain", "passed": True}]})
    'part'
    """
    share, reasons = share_of(shot), as_tables(shot.get("reasons"))
    if shot.get("untouched"):
        return "unchanged"
    if not shot.get("adapted") and not shot.get("losses"):
        said = " ".join(f"{reason.get('name')} {reason.get('text')}" for reason in reasons)
        said = f"{said} {shot.get('note')}".lower().replace("_", " ").replace("-", " ")
        return "unchanged" if "sharp already" in said or "already sharp" in said else "base"
    if share < 0.005:
        return "dropped"
    if share > 0.995 and {reason.get("name") for reason in reasons} <= {"guard"}:
        return "unchecked"
    return "whole" if share > 0.995 else "part"


def share_of(shot: Mapping[str, Any]) -> float:
    """The share of a shot's adaptation that is used, 0 to 1."""
    share = as_number(shot.get("share"))
    return min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0


def _viewer(shot: Mapping[str, Any], story: ShotStory, look: Look, number: int) -> str:
    """The before/after slider with the choice of what to compare, the magnifier and the strip of frames."""
    if not story.frames:
        return ""
    outcome = shot_outcome(shot)
    after_names = {"unchanged": "Unchanged", "dropped": "Base model", "base": "Base model"}
    names = {"before": "Before", "after": after_names.get(outcome, "Restored")}
    base: Sequence[Any] = ()
    if outcome not in after_names and story.base is not None and len(story.base) == len(story.frames):
        base = story.base
        names |= {"base": "Base model", "after": "Adapted"}
    pictures: list[dict[str, Picture]] = []
    for position, (_, before, after) in enumerate(story.frames):
        kinds = {"before": before, "after": after}
        if base:
            kinds["base"] = base[position]
        pictures.append({kind: look.picture(picture) for kind, picture in kinds.items()})
    middle = len(pictures) // 2
    height, width = pictures[middle]["before"].shape[:2]
    bar = _compare_choice(names, number) + (
        '<div class="choice" role="group" aria-label="Magnification">'
        '<button type="button" data-zoom="1" aria-pressed="true">Fit</button>'
        '<button type="button" data-zoom="2" aria-pressed="false">2&times;</button>'
        '<button type="button" data-zoom="4" aria-pressed="false">4&times;</button></div>'
    )
    frame_number = story.frames[middle][0]
    layers = "".join(
        f'<div class="layer {side}"><img src="{look.photo(pictures[middle][kind])}" width="{width}" '
        f'height="{height}" alt="Frame {frame_number}, {names[kind].lower()}" draggable="false">'
        f'<span class="tag">{names[kind]}</span></div>'
        for side, kind in (("left", "before"), ("right", "after"))
    )
    aspect = look.aspect(pictures[middle]["before"])
    stage = (
        f'<div class="stage" style="aspect-ratio:{aspect};max-width:calc(85vh*{aspect})">{layers}'
        '<input type="range" min="0" max="100" step="1" value="50" '
        'aria-label="Where the picture before meets the picture after"><i class="divider"></i></div>'
    )
    foot = (
        f'<div class="viewer-foot"><p>Frame <b class="frame-name" aria-live="polite">{frame_number}</b></p>'
        '<p class="hint">Drag the line, or use the arrow keys. Double-click to magnify, then drag to move about.</p>'
        "</div>"
    )
    strip = _strip(story, pictures, names, middle, look)
    said = text(json.dumps(names))
    viewer = (
        f'<div class="viewer" data-names="{said}" data-compared="before after"><div class="viewer-bar">{bar}</div>'
        f"{stage}{foot}{strip}</div>"
    )
    return (
        f'<section class="part wide plainly" aria-label="Before and after"><h3 class="unseen">Before and after</h3>'
        f"{viewer}</section>"
    )


def _compare_choice(names: Mapping[str, str], number: int) -> str:
    """Which two pictures the slider compares; nothing to choose without a base picture."""
    if "base" not in names:
        return "<span></span>"
    short = {kind: name.removesuffix(" model") for kind, name in names.items()}
    buttons = "".join(
        f'<label><input type="radio" name="compared-{number}" value="{left} {right}"'
        f"{' checked' if (left, right) == ('before', 'after') else ''}>{short[left]} | {short[right]}</label>"
        for left, right in (("before", "after"), ("before", "base"), ("base", "after"))
    )
    return f'<fieldset class="choice"><legend class="unseen">Compare</legend>{buttons}</fieldset>'


def _strip(
    story: ShotStory,
    pictures: Sequence[Mapping[str, Picture]],
    names: Mapping[str, str],
    middle: int,
    look: Look,
) -> str:
    """Small pictures of all frames, before above after; each is the button that puts its frame on the stage."""
    items = []
    aspect = look.aspect(pictures[middle]["before"])
    for position, ((number, _, _), kinds) in enumerate(zip(story.frames, pictures, strict=True)):
        chosen = position == middle
        waiting = "".join(
            f' data-{kind}="{look.photo(picture)}"'
            for kind, picture in kinds.items()
            if not (chosen and kind != "base")
        )
        small = "".join(
            f'<img src="{look.photo(shrink(kinds[kind], _THUMBNAIL))}" style="aspect-ratio:{look.aspect(kinds[kind])}" '
            f'alt="{names[kind]}" draggable="false">'
            for kind in ("before", "after")
        )
        items.append(
            f'<li><button type="button" data-frame="{number}" aria-pressed="{str(chosen).lower()}"{waiting}>'
            f'{small}<span><span class="unseen">Frame </span>{number}</span></button></li>'
        )
    return (
        f'<div class="strip" style="--aspect:{aspect}"><div class="strip-names" aria-hidden="true">'
        f"<span>{names['before']}</span><span>{names['after']}</span><span>Frame</span></div>"
        f'<ol aria-label="Frames">{"".join(items)}</ol></div>'
    )


def _guard(shot: Mapping[str, Any]) -> str:
    """The guard's decision: the share on a scale, and a row for each reason."""
    reasons, outcome = as_tables(shot.get("reasons")), shot_outcome(shot)
    if outcome == "unchecked":
        said = "The guard was off: the adaptation was used as it came, and nothing was checked."
        return section("The guard\u2019s decision", said, _scale(share_of(shot)))
    if not reasons:
        return ""
    rows = "".join(_reason(reason) for reason in reasons)
    table = (
        '<table class="reasons"><caption class="unseen">Reasons</caption><thead><tr>'
        '<th scope="col">Reason</th><th scope="col" class="number">Measured</th>'
        '<th scope="col" class="number">Limit</th><th scope="col">Result</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )
    if outcome in ("unchanged", "base"):
        return section("The decision", "What was measured before anything was adapted.", table)
    said = "Before the adaptation is used it has to prove itself on pairs it never saw and on restored frames."
    return section("The guard\u2019s decision", said, _scale(share_of(shot)) + table)


def _scale(share: float) -> str:
    """How much of the adaptation is used, between the base model and the fully adapted one."""
    return (
        f'<div class="scale" role="img" aria-label="{percent(share)} of the adaptation is used"><div class="scale-bar">'
        f'<i style="width:{100 * share:.1f}%"></i><b style="left:{100 * share:.1f}%"></b></div>'
        f'<div class="scale-ends"><span>Base model</span><span>{percent(share)} used</span><span>Fully adapted</span>'
        "</div></div>"
    )


def _reason(reason: Mapping[str, Any]) -> str:
    """One row of the guard's table."""
    passed = bool(reason.get("passed"))
    figure, limit = as_number(reason.get("figure")), as_number(reason.get("limit"))
    side = ""
    if math.isfinite(figure) and math.isfinite(limit) and figure != limit:
        side = "at least " if (figure > limit) == passed else "at most "
    tick = '<path d="M3 8.5l3.2 3.2L13 4.5"/>' if passed else '<path d="M4 4l8 8M12 4l-8 8"/>'
    result = (
        f'<span class="result{"" if passed else " no"}"><svg viewBox="0 0 16 16" aria-hidden="true">{tick}</svg>'
        f"{'Passed' if passed else 'Failed'}</span>"
    )
    said = f"<small>{text(sentence(reason['text']))}</small>" if reason.get("text") else ""
    return (
        f'<tr><th scope="row">{text(title_of(reason.get("name") or "Reason"))}{said}</th>'
        f'<td class="number" data-name="Measured">{figure_text(figure)}</td>'
        f'<td class="number" data-name="Limit">{side}{figure_text(limit)}</td><td>{result}</td></tr>'
    )


def _pairs(shot: Mapping[str, Any], story: ShotStory, look: Look) -> str:
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
        said.append(f"<b>Frame {text(place['frame'])}</b>{where}{size}")
    score, blurred = as_number(place.get("score")), as_number(place.get("blurred_score"))
    scores = []
    if math.isfinite(score):
        scores.append(f"{score:.1f} dB here")
    if math.isfinite(blurred):
        frame = place.get("blurred_frame")
        scores.append(f"{blurred:.1f} dB {'at its most blurred' if frame is None else f'in frame {text(frame)}'}")
    return "<br>".join([*said, ", ".join(scores)] if scores else said)


def _map(shot: Mapping[str, Any], story: ShotStory, video: Mapping[str, Any], look: Look) -> str:
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


def _scores(shot: Mapping[str, Any], story: ShotStory) -> str:
    """Sharpness over time, with the frames that gave pseudo-sharp patches marked."""
    scores = list(story.frame_scores or shot.get("scores") or [])
    if len(scores) < 2:
        return ""
    places = as_tables(shot.get("pairs"))
    marks: list[Mark] = []
    for key, what, ring in (("blurred_frame", "real blurred", True), ("frame", "pseudo-sharp", False)):
        for frame, count in sorted(
            Counter(int(p[key]) for p in places if math.isfinite(as_number(p.get(key)))).items()
        ):
            position = frame - story.first_frame
            if 0 <= position < len(scores):
                noun = "patch" if count == 1 else "patches"
                marks.append(Mark(frame, as_number(scores[position]), f"Frame {frame}: {count} {what} {noun}", ring))
    known = [(value, n) for n, value in enumerate(map(as_number, scores)) if math.isfinite(value)]
    if not known:
        return ""
    (best, best_at), (worst, worst_at) = min(known), max(known)
    summary = (
        f"Self-shift score of {len(scores)} frames: sharpest {best:.1f} dB at frame {best_at + story.first_frame}, "
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
    key = plot_key([("mark", "gave pseudo-sharp patches"), ("hole", "gave real blurred patches")]) if marks else ""
    said = "The blur of a shaky clip comes and goes."
    if marks:
        said += " The sharper moments teach the network what the others should look like."
    return section("Sharpness over time", said, key + plot)


def _losses(shot: Mapping[str, Any], story: ShotStory) -> str:
    """The loss by step of the adaptation, with a running mean."""
    history: Sequence[Any] = story.history or shot.get("losses") or []
    losses = [as_number(entry.get("loss") if isinstance(entry, Mapping) else entry) for entry in history]
    if sum(map(math.isfinite, losses)) < 2:
        return ""
    first = history[0].get("step", 0) if isinstance(history[0], Mapping) else 0
    reach = max(2, len(losses) // 8)
    trend = [_mean_of_finite(losses[max(0, n - reach) : n + reach + 1]) for n in range(len(losses))]
    known = [loss for loss in trend if math.isfinite(loss)]
    ends = f"from {figure_text(known[0])} to {figure_text(known[-1])}"
    summary = f"Training loss over {len(losses)} steps: running mean {ends}."
    plot = line_plot(
        losses,
        summary=summary,
        x_title="Step",
        y_title="Loss",
        start=int(first) if math.isfinite(as_number(first)) else 0,
        trend=trend if len(losses) >= 8 else (),
    )
    key = plot_key([("faint", "each step"), ("line", "running mean")]) if len(losses) >= 8 else ""
    said = "The error on the pairs while the network adapts. One pair is harder than another, so it moves up and down."
    return section("Loss by step", said, key + plot)


def _reblurrer(shot: Mapping[str, Any]) -> str:
    """What the reblurrer says about itself."""
    facts = flat(as_table(shot.get("reblurrer")))
    said = "How the blur of this clip was measured and copied onto its sharp patches."
    return section("How the blur was modelled", said, fact_list(facts)) if facts else ""


def _mean_of_finite(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan
