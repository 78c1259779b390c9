"""Whether a clip is sharp already, or at times."""

from __future__ import annotations

from metadeblur.clip import Clip, as_clip
from metadeblur.guard.blurriness import Blurriness, blurriness
from metadeblur.guard.judge import Reason
from metadeblur.imaging.clip_cache import ClipCache

# The four limits below were set by looking at 10 sharp and 9 blurred clips; the ranges are of those same clips, so they
# say how the clips lie to the limits and not how often others would be told apart.

SHARP_WHOLE = -1.7
"""Figure of a clip's worst frames above which it counts as sharp: sharp clips -1.5 to -0.4 but for one with visible
blur in its fastest frames, -1.9; blurred clips -3.6 to -2.5, with strong noise added -2.4."""

SHARP_SPREAD = 1.0
"""Difference between a clip's best and worst frames, below which it counts as sharp: sharp clips 0.1 to 0.75; blurred
clips in which sharp frames take turns 1.1 to 1.6, others 0.2 to 0.9."""

SHARP_MOVING = -1.8
"""Figure along the motion of what moves, above which it counts as sharp: sharp clips -1.75 to -0.1 but for one whose
moving things are visibly blurred, -2.2; blurred clips -3.3 to -2.3."""

SHARP_SKEW = -0.55
"""Figure along the motion less the one across it, above which a clip counts as sharp: sharp clips -0.4 to 0.4; blurred
clips -1.7 to -0.35, so this one alone does not tell them apart."""


def sharp_already(clip: Clip, cache: ClipCache | None = None) -> Reason | None:
    """Whether a clip needs no deblurring at all.

    The figures of :mod:`metadeblur.guard.blurriness` must all say so: of the clip's worst frames as a whole and against
    its best ones, and of what moves, along the motion and against across it. A blurred clip taken for sharp would come
    back unrestored, so the limits lie on the careful side.

    Returns:
        The reason to leave it alone; None where it is blurred, or too small or plain to tell.
    """
    figures = _figures(as_clip(clip), cache)
    if figures is None or figures.whole <= SHARP_WHOLE or figures.spread >= SHARP_SPREAD:
        return None
    moving = ""
    if figures.moving is not None and figures.skew is not None:
        if figures.moving <= SHARP_MOVING or figures.skew <= SHARP_SKEW:
            return None
        moving = f", and along the motion of what moves {figures.moving:.2f} (more than {SHARP_MOVING})"
    text = (
        f"the clip is sharp already and needs no deblurring: detail of its most blurred frames is {figures.whole:.2f} "
        f"(more than {SHARP_WHOLE}; log2 of fine to coarse gradient energy){moving}"
    )
    return Reason("sharp already", figures.whole, SHARP_WHOLE, True, text)


def sharp_at_times(clip: Clip, cache: ClipCache | None = None) -> bool:
    """Whether sharp and blurred frames take turns in a clip, by the figures of :func:`sharp_already`."""
    figures = _figures(as_clip(clip), cache)
    return figures is not None and figures.spread >= SHARP_SPREAD


def _figures(clip: Clip, cache: ClipCache | None) -> Blurriness | None:
    return blurriness(clip) if cache is None else cache.of("blurriness", lambda: blurriness(clip))
