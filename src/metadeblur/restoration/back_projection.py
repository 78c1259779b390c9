"""Correct restored frames by what they leave unexplained of the blurred ones.

A restored frame, blurred again along the paths that its pixels take while the shutter is open, must give the frame that
the camera took. What is left over is spread back along the same paths and added, a few times: iterative
back-projection (Irani and Peleg, "Improving Resolution by Image Registration", CVGIP 1991), with blur as the mean of
the light along projective motion paths and its transpose as in Tai, Tan and Brown, "Richardson-Lucy Deblurring for
Scenes under a Projective Motion Path" (TPAMI 2011). It needs the exposure, which the clip itself tells
(:mod:`metadeblur.reblur.exposure`), and no weights. Motion that is known only by optical flow explains much but not
all: pixels that move little stay as they are, differences that are too large to be believed count for nothing, and the
frame is held near to what the network gave.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from metadeblur.imaging.linear_light import to_display, to_linear
from metadeblur.imaging.primitives import array, gaussian, on_opencv, places, reader
from metadeblur.limits import Positive, Within, check, spelt
from metadeblur.types import Response

_SHORT = 3.0  # px: paths up to this are read at three places
_ALMOST_NOTHING = 1e-5  # squared difference of light: keeps the ratio of two explanations near 1 where both are perfect


@spelt
@dataclass(frozen=True)
class BackProjectionSettings:
    """How frames are corrected; chosen on synthetic clips and on clips rendered from sharp video, never on val."""

    rounds: Annotated[int, Within(0, 1000)] = 4
    rate: Positive = 0.5  # share of what is left that a round adds
    # share of the way back to the network's frame that a round takes
    hold: Annotated[float, Within(0, 1, below=True)] = 0.25
    believed: Positive = 0.05  # light (of 0..1) left unexplained at which a pixel's correction has fallen to half
    blur_px: Positive = 3.0  # blur length from which a pixel is corrected in full; below, by the square of its share
    # correct less where blurring the frame again explains the blurred one worse than the frame does
    careful: bool = False
    compared_px: Positive = 8.0  # Gaussian over which the two are compared

    def __post_init__(self) -> None:
        check(self)


def back_project(
    blurred: Tensor,
    restored: Tensor,
    velocity: Tensor,
    bend: Tensor,
    exposure: float,
    response: Response = "srgb",
    settings: BackProjectionSettings | None = None,
) -> Tensor:
    """A restored frame, corrected until it explains the blurred one better.

    Pictures are (h, w, 3) float32 display values in [0, 1], RGB; velocity and bend are (h, w, 2) as in
    :mod:`metadeblur.imaging.motion`; the exposure is in frame intervals. All are on one device, and so is the result.

    >>> sharp = 0.4 + 0.2 * torch.rand(16, 64, 3, generator=torch.Generator().manual_seed(0))
    >>> blurred = torch.stack([sharp.roll(step, 1) for step in (-2, -1, 0, 1, 2)]).mean(0)
    >>> velocity = torch.tensor([5.0, 0.0]).expand(16, 64, 2)
    >>> better = back_project(blurred, blurred, velocity, 0 * velocity, 1.0, "linear")
    >>> [round(float((one - sharp).abs()[:, 8:-8].mean()), 3) for one in (blurred, better)]
    [0.044, 0.043]
    """
    settings = settings or BackProjectionSettings()
    paths = _Paths(velocity, bend, exposure)
    seen, start = (to_linear(picture, response) for picture in (blurred, restored))
    trust = settings.rate * (paths.length / settings.blur_px).clamp(max=1).square()[..., None]
    light = start.clone()
    for turn in range(settings.rounds):
        again = paths.blurred(light)
        if settings.careful and not turn:
            trust = trust * _borne_out(seen, light, again, settings.compared_px)
        left = seen - again
        left /= (left / settings.believed).square_().add_(1)
        light += trust * paths.spread(left) + settings.hold * (start - light)
        light.clamp_(0, 1)
    return to_display(light, response)


def _borne_out(seen: Tensor, light: Tensor, blurred: Tensor, sigma: float) -> Tensor:
    """1 where the frame's light, blurred along its paths, is nearer to what was seen than unblurred; less elsewhere.

    A moment when the camera held still between two fast ones has a speed by the flow to its neighbours, yet no blur.
    """
    as_it_is, explained = (gaussian(mean_square(seen - one), sigma) + _ALMOST_NOTHING for one in (light, blurred))
    return (as_it_is / explained).clamp(max=1)[..., None]


def mean_square(picture: Tensor) -> Tensor:
    """Mean of the squared colours of each pixel, (h, w, 3) to (h, w)."""
    return picture.square().mean(-1)


class _Paths:
    """The places that each pixel's path leads through while the shutter is open.

    Three places a third of the exposure apart, and around each of these three a ninth apart, are nine along the path:
    the mean of means reads a picture four times instead of nine. Where the motion varies from pixel to pixel a place
    moves as the pixel does that lies there, so such paths follow the flow.
    """

    def __init__(self, velocity: Tensor, bend: Tensor, exposure: float) -> None:
        self.length = torch.hypot(*velocity.unbind(-1)) * exposure
        # Three places are enough for short paths. Asking a device how long they are would wait for it.
        short = on_opencv(velocity) and float(np.quantile(array(self.length), 0.95)) <= _SHORT
        self._readers: list[list[list[Callable[[Tensor], Tensor]]]] = []
        for stage in range(1, 2 if short else 3):
            times = (-exposure / 3**stage, exposure / 3**stage)
            sides = [time * velocity + time * time * bend for time in times]
            self._readers.append([[reader(*places(sign * moved), "reflect101") for sign in (-1, 1)] for moved in sides])

    def blurred(self, light: Tensor) -> Tensor:
        """The mean of the light along the paths, (h, w, 3)."""
        return self._mean(light, 0)

    def spread(self, left: Tensor) -> Tensor:
        """What is left, spread back along the paths: the transpose of blurring, where neighbours move alike."""
        return self._mean(left, 1)

    def _mean(self, picture: Tensor, side: int) -> Tensor:
        for stage in self._readers:
            total = picture.clone()
            for sides in stage:
                total += sides[side](picture)
            picture = total.mul_(1 / 3)
        return picture
