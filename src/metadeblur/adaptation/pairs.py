"""Pseudo pairs: patches of the clip, blurred again as the clip is blurred (paper, Eq. 5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from metadeblur.adaptation.settings import AdaptSettings
from metadeblur.adaptation.steps import Pair
from metadeblur.adaptation.targets import Sharpener
from metadeblur.clip import Clip, as_clip
from metadeblur.guard.already_sharp import sharp_at_times
from metadeblur.imaging.clip_cache import ClipCache
from metadeblur.reblur.place import Place, Shrunk, place_window
from metadeblur.reblur.reblurrer import Reblurrer

PairSource = Callable[[Clip, Sequence[Place], Reblurrer, int, int, torch.Generator], list[Pair]]
"""Makes training pairs from (clip, places, reblurrer, pairs a place, frames of the deblurrer, generator)."""


def make_pairs(
    clip: Clip,
    places: Sequence[Place],
    reblurrer: Reblurrer,
    blurs: int,
    frames: int,
    generator: torch.Generator,
    *,
    sharpener: Sharpener | None = None,
    still: float = 0.0,
    cache: ClipCache | None = None,
) -> list[Pair]:
    """Reblur the pseudo-sharp patch of every place ``blurs`` times, all once and without gradient (paper, Eq. 5).

    With a ``sharpener`` the patch is restored first, so that a place that is never sharp does not teach blur, and
    what lies around places marked ``shrunk`` is shrunk as well before the clip's motion blurs it. A video deblurrer
    gets a window: its neighbours move as the blur says where the reblurrer knows the motion, else they are the clip's
    own (docs/fidelity.md, CDVD-TSP). Of such windows a share ``still``, drawn at random, keeps its centre sharp between
    blurred neighbours, as where a camera stops for a moment: that things move does not say that they blur.
    """
    clip, pairs = as_clip(clip), []
    for place in places:
        smaller: Shrunk | None = None
        source = clip
        if sharpener and place.shrunk:
            smaller = sharpener.shrunk(place)
        elif sharpener:
            source = sharpener(place)
        window = place_window(source, place, frames, cache)
        sharp = smaller.patch if smaller else window[frames // 2]
        for _ in range(blurs):
            blurred = reblurrer.reblur_window(source, place, frames, generator, smaller)
            if still and frames > 1 and float(torch.rand((), generator=generator)) < still:
                blurred[frames // 2] = sharp
            pairs.append(Pair(blurred if frames > 1 else blurred[0], sharp))
    return pairs


def mark_shrunk(places: Sequence[Place], reblurrer: Reblurrer, settings: AdaptSettings) -> tuple[Place, ...]:
    """The places; those whose pseudo-sharp patch is blurred itself are marked to be shrunk.

    A patch from a still moment shows things as sharp as they are; one from a moving one is as sharp only when shrunk.
    """
    if not settings.restore_first or not settings.shrink_from or not reblurrer.knows_motion:
        return tuple(places)
    return tuple(replace(place, shrunk=reblurrer.blur_at(place) >= settings.shrink_from) for place in places)


def still_share(clip: Clip, frames: int, settings: AdaptSettings, cache: ClipCache | None = None) -> float:
    """Share of the pairs whose centre stays sharp, for a deblurrer of so many frames.

    None where the clip has no sharp moments that could be taken for blurred, or the deblurrer sees no neighbours.
    """
    return settings.still if settings.still and frames > 1 and sharp_at_times(clip, cache) else 0.0
