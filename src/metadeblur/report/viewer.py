"""The viewer of the report: before and after on one stage, with a slider, a magnifier and a strip of frames."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from metadeblur.imaging.pictures import Picture, shrink
from metadeblur.report.blind import blind_part
from metadeblur.report.html import text
from metadeblur.report.look import MAGNIFICATION, Look, ShotStory, shot_outcome

_THUMBNAIL = 220  # px


def viewer_part(shot: Mapping[str, Any], story: ShotStory, look: Look, number: int) -> str:
    """The before/after slider with the choice of what to compare, the magnifier and the strip of frames.

    Where there are frames of the base model too, the blinded comparison of them comes after it.
    """
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
    bar = _compare_choice(names, number) + MAGNIFICATION
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
    ) + (blind_part(shot, len(pictures), aspect, number) if base else "")


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
