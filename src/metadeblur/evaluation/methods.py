"""Ways to adapt that evaluation compares: each is a pair source for the function ``adapt``.

All take the same number of places, pairs and gradient steps of the deblurrer, with the same learning rate and seed;
none sees the truth, and none is tuned on it. The guard judges all by the same kind of held-out pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from metadeblur.adaptation.pairs import PairSource, make_pairs, mark_shrunk, still_share
from metadeblur.adaptation.stages import AdaptSettings, Outcome, Pair, adapt
from metadeblur.adaptation.targets import Sharpener
from metadeblur.clip import Clip
from metadeblur.errors import MetadeblurError
from metadeblur.evaluation.pair_sources import aligned_neighbours, mixed, self_reconstruction
from metadeblur.limits import meant
from metadeblur.models.registry import traits
from metadeblur.reblur.place import Place
from metadeblur.reblur.reblurrer import Reblurrer


@dataclass(frozen=True)
class AdaptationMethod:
    """One way to adapt."""

    name: str
    summary: str  # what it learns from
    adapt: Callable[[nn.Module, Clip, AdaptSettings], Outcome] | None  # None: nothing is done


SOURCES: dict[str, tuple[PairSource, str]] = {
    "flow": (make_pairs, "sharp moments of the clip, blurred along the clip's optical flow"),
    "self": (self_reconstruction, "blurred frames that must come back when their restoration is blurred again"),
    "align": (aligned_neighbours, "blurred frames with a sharp neighbour warped onto them as target"),
}
"""Pair sources that need no weights; joined by + they are mixed in equal parts."""

_NAMES = ("none", "meta", "finetune", *SOURCES)


def find_method(name: str) -> AdaptationMethod:
    """The method of a name: none, meta, finetune, flow, self, align, or several of the last three joined by +.

    Raises:
        MetadeblurError: no such method.

    >>> find_method("flow+align").summary.count(";")
    1
    """
    if name == "none":
        return AdaptationMethod(name, "nothing: the base model as it is", None)
    if name in ("finetune", "meta"):
        what = "pre-trained" if name == "finetune" else "meta-trained"
        return AdaptationMethod(name, f"sharp moments blurred by the paper's {what} reblurring network", _by_network)
    parts = name.split("+")
    if any(part not in SOURCES for part in parts) or len(set(parts)) < len(parts):
        mixtures = f"several of {', '.join(SOURCES)} joined by +"
        hint = meant(name, _NAMES)
        raise MetadeblurError(f"method {name!r} is not known; allowed: {', '.join(_NAMES)}, or {mixtures}{hint}")
    return AdaptationMethod(name, "; ".join(SOURCES[part][1] for part in parts), partial(_by_sources, parts))


def _by_sources(parts: Sequence[str], net: nn.Module, clip: Clip, settings: AdaptSettings) -> Outcome:
    """Adapt on the pairs of sources, with the clip's optical flow as reblurrer."""
    settings = replace(settings, reblur="flow")
    if list(parts) == ["flow"]:
        return adapt(net, clip, settings=settings)
    sharpener = Sharpener(net, clip) if settings.restore_first else None
    # The clip is only read for its sharp moments where flow pairs are made.
    still = still_share(clip, traits(net).frames, settings) if "flow" in parts else 0.0

    def flow(clip: Clip, places: Sequence[Place], reblurrer: Reblurrer, *how: Any) -> list[Pair]:
        marked = mark_shrunk(places, reblurrer, settings)
        return make_pairs(clip, marked, reblurrer, *how, sharpener=sharpener, still=still)

    sources = [flow if part == "flow" else SOURCES[part][0] for part in parts]
    source = sources[0] if len(sources) == 1 else mixed(sources)
    return adapt(net, clip, settings=settings, pair_source=source)


def _by_network(net: nn.Module, clip: Clip, settings: AdaptSettings) -> Outcome:
    """Adapt on pairs of the paper's reblurring network, fitted to the clip first (Eq. 3 to 6).

    Frames are fused where the settings say so, as they are for base and oracle: a gain is that of the weights alone.
    """
    return adapt(net, clip, settings=replace(settings, reblur="network", restore_first=False))
