"""The view of an adaptation in a notebook: one place before and after, the losses, the checks."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from metadeblur.adaptation.places import SupportSet
from metadeblur.clip import Clip
from metadeblur.imaging.pictures import encode_png, to_uint8
from metadeblur.restoration.clips import restore

if TYPE_CHECKING:
    from metadeblur.adaptation.outcome import Outcome

SIDE = 256  # px of the place that is shown
AROUND = 2  # frames to each side that a fused frame needs to be much like itself


def excerpt_of(clip: Clip, support: SupportSet | None) -> Clip:
    """A few frames of the most blurred place that was looked at, or of the middle of the clip.

    >>> excerpt_of(Clip(torch.rand(9, 3, 300, 40)), None)
    Clip('clip', 5 frames of 40x256, 30 a second)
    """
    frame, top, left = len(clip) // 2, clip.height // 2, clip.width // 2
    if support is not None and support.train:
        place = max(support.train, key=lambda one: one.blurred_score)
        frame, top, left = place.blurred_frame, place.top + place.size // 2, place.left + place.size // 2
    height, width = min(SIDE, clip.height), min(SIDE, clip.width)
    top = min(max(top - height // 2, 0), clip.height - height)
    left = min(max(left - width // 2, 0), clip.width - width)
    first = min(max(frame - AROUND, 0), max(len(clip) - 2 * AROUND - 1, 0))
    numbers = range(first, min(first + 2 * AROUND + 1, len(clip)))
    frames = torch.stack([clip[number][:, top : top + height, left : left + width] for number in numbers])
    return Clip(frames.clamp(0, 1), fps=clip.fps, name=clip.name)


def outcome_html(outcome: Outcome) -> str:
    """HTML, without scripts and without anything from elsewhere."""
    parts = [f"<p><b>{escape(_headline(outcome))}</b></p>"]
    if outcome.excerpt is not None:
        middle = len(outcome.excerpt) // 2
        after = restore(outcome.model, outcome.excerpt)[middle]
        parts.append(
            f"<div style='display:flex;gap:8px'>{_figure(outcome.excerpt[middle], 'before')}"
            f"{_figure(after, 'after')}</div>"
        )
    if outcome.history:
        first, last = outcome.history[0], outcome.history[-1]
        spent = sum(outcome.seconds.values()) or last["seconds"]
        steps = f"{len(outcome.history)} steps, loss {first['loss']:.4g} to {last['loss']:.4g}, {spent:.1f} s in all"
        parts.append(f"<p>{escape(steps)}</p>")
    checks = "".join(
        f"<li>{'passed' if reason.passed else 'failed'}: {escape(reason.name)}: {escape(reason.text)}</li>"
        for reason in outcome.reasons
    )
    if checks:
        passed = sum(reason.passed for reason in outcome.reasons)
        title = f"{passed} of {len(outcome.reasons)} checks passed"
        parts.append(f"<details><summary>{title}</summary><ul>{checks}</ul></details>")
    return "".join(parts)


def _headline(outcome: Outcome) -> str:
    """What became of the adaptation, in one line."""
    if outcome.share >= 1:
        learnt = "Adapted: all that was learnt is used"
    elif outcome.share > 0:
        learnt = f"Adapted: {100 * outcome.share:.0f} % of what was learnt is used"
    else:
        learnt = "Not adapted: what was learnt is not used" if outcome.history else "Not adapted: nothing was learnt"
    fused = "; frames are fused with their neighbours" if outcome.fused else ""
    return f"{learnt}{fused}{' and corrected by the blurred ones' if outcome.back_projected else ''}."


def _figure(frame: Tensor, title: str) -> str:
    """A frame (3, H, W) with its title below."""
    data = base64.b64encode(encode_png(to_uint8(frame))).decode()
    return (
        f"<figure style='margin:0'><img alt='{title}' src='data:image/png;base64,{data}'>"
        f"<figcaption>{title}</figcaption></figure>"
    )
