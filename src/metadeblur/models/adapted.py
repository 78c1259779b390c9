"""What a network that was adapted to a clip asks for beside its weights: frames that are fused once restored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import nn

from metadeblur.limits import Pixels, Positive, Within, check
from metadeblur.types import Response

_ATTRIBUTE = "clip_fusion"  # where a network carries the settings; a user's network may well have a layer "fusion"


@dataclass(frozen=True)
class FusionSettings:
    """How neighbours are weighed; chosen on synthetic clips and on clips rendered from sharp video, never on val."""

    radius: Annotated[int, Within(1, 1000)] = 5  # neighbours to each side
    # weight of a neighbour that is just as sharp and agrees fully; the frame itself has 1
    share: Annotated[float, Within(0, 1, above=True)] = 0.2
    # power of the ratio of local gradient energy, neighbour's to frame's
    detail: Annotated[float, Within(0, 100)] = 3.0
    # power of the ratio of local change by the network, frame's to neighbour's
    change: Annotated[float, Within(0, 100)] = 1.0
    most: Positive = 15.0  # times its share that a better neighbour may count at most
    floor: Positive = 0.005  # difference (of the range 0..1) that is allowed where the network changed nothing
    allowed: Positive = 0.4  # share of what the network changed, in squares, that a neighbour may differ by
    flow_px: Positive = 1.0  # disagreement of the flow there and the flow back at which trust has fallen to 1/e
    pixels: Pixels = 256_000  # px: flow, weights and corrections are worked out on pictures reduced to about this
    # frame intervals that the shutter was open; known: frames are corrected by it too
    exposure: Annotated[float, Within(0, 2, above=True)] | None = None
    response: Response = "srgb"  # how display values depend on light

    def __post_init__(self) -> None:
        check(self)


def with_fusion(net: nn.Module, settings: FusionSettings | None) -> nn.Module:
    """The network itself, marked so that whoever restores a clip with it fuses the frames; None takes the mark away.

    >>> fusion_of(with_fusion(nn.Identity(), FusionSettings(radius=1))).radius
    1
    """
    net.__dict__[_ATTRIBUTE] = settings
    return net


def fusion_of(net: nn.Module) -> FusionSettings | None:
    """How frames that this network restored are fused; None: not at all."""
    found = net.__dict__.get(_ATTRIBUTE)
    return found if isinstance(found, FusionSettings) else None
