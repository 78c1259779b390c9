"""The report's blinded comparison: base model against what was delivered, without a name until the person has judged.

Only the frame of it is written here. The pictures are those of the viewer's strip, which ``assets/report_blind.js``
puts on the stage in an order that it draws itself; so nothing in the page's text tells which is which.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from metadeblur.report.html import text
from metadeblur.report.look import MAGNIFICATION, helped, share_of


def blind_part(shot: Mapping[str, Any], frames: int, aspect: str, number: int) -> str:
    """The section that follows the viewer of a shot whose story has the base model's pictures.

    Args:
        shot: the shot's record; where its frames were fused, the rival of the base model is "what you got".
        frames: how many frames the viewer's strip holds.
        aspect: width over height of its pictures as shown, as in ``Look.aspect``.
        number: of the shot on the page, for names that must differ.
    """
    rival, whose = "the adapted model", "the other by the model as it was adapted to your clip"
    if shot.get("fused"):
        made_by = "adapted" if share_of(shot) > 0 else "base"
        rival, whose = (
            "what you got",
            f"the other is what you got: restored by the {made_by} model{helped(shot, ',')}",
        )
    names = text(json.dumps({"base": "the base model", "after": rival}))
    count = f"{frames} frame{'' if frames == 1 else 's'}"
    said = (
        f"You see {count} without a name, each as A and as B. One of the two was restored by the base model, {whose}. "
        "Which is A is drawn anew for each frame, and the frames come in a random order. "
        "What you choose stays on this page and is forgotten when you close it."
    )
    flip = "".join(
        f'<button type="button" data-show="{place}" aria-pressed="{str(not place).lower()}">{letter}</button>'
        for place, letter in enumerate("AB")
    )
    answers = "".join(
        f'<button type="button" class="act" data-answer="{place}">{words}</button>'
        for place, words in enumerate(("A is better", "B is better", "No difference"))
    )
    stage = (
        f'<div class="stage" tabindex="0" role="group" aria-label="The picture to judge" '
        f'style="aspect-ratio:{aspect};max-width:calc(65vh*{aspect})"><div class="blind-pane"></div>'
        '<span class="tag" aria-hidden="true"></span></div>'
    )
    judging = (
        '<div class="blind-judging" hidden>'
        f'<div class="viewer-bar"><p class="blind-where" aria-live="polite"></p>{MAGNIFICATION}</div>{stage}'
        f'<div class="blind-flip"><div class="choice" role="group" aria-label="Picture shown">{flip}</div></div>'
        f'<div class="blind-answers" role="group" aria-label="Which is better?">{answers}</div>'
        '<div class="viewer-foot"><p class="hint">Keys: A and B flip; 1, 2 and 3 answer. '
        "Double-click to magnify, then drag to move about.</p>"
        '<button type="button" class="act blind-reveal">Show what they were</button></div></div>'
    )
    result = (
        '<div class="blind-said" role="status" tabindex="-1"></div><div class="blind-result" hidden>'
        '<div class="scroll"><table><caption class="unseen">What A and B were, and what you chose</caption><thead><tr>'
        '<th scope="col">Frame</th><th scope="col">A was</th><th scope="col">B was</th>'
        '<th scope="col">You preferred</th></tr></thead><tbody></tbody></table></div></div>'
    )
    return (
        f'<section class="part wide blind" aria-labelledby="blind-{number}" data-names="{names}"><header>'
        f'<h3 id="blind-{number}">Judge for yourself</h3><p>{said}</p></header><div>{judging}{result}'
        f'<button type="button" class="act first blind-start">Judge {count}</button></div></section>'
    )
