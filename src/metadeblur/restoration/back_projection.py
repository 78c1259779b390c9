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

from dataclasses import dataclass
from typing import Annotated, Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from metadeblur.imaging.linear_light import to_display, to_linear
from metadeblur.imaging.motion import displacement, lengths
from metadeblur.imaging.optical_flow import positions
from metadeblur.limits import Positive, Within, check
from metadeblur.types import Response

Array = NDArray[Any]

_SHORT = 3.0  # px: paths up to this are read at three places
_ALMOST_NOTHING = 1e-5  # squared difference of light: keeps the ratio of two explanations near 1 where both are perfect


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
    blurred: Array,
    restored: Array,
    velocity: Array,
    bend: Array,
    exposure: float,
    response: Response = "srgb",
    settings: BackProjectionSettings | None = None,
) -> Array:
    """A restored frame, corrected until it explains the blurred one better.

    Pictures are (h, w, 3) float32 display values in [0, 1], RGB; velocity and bend are (h, w, 2) as in
    :mod:`metadeblur.imaging.motion`; the exposure is in frame intervals.

    >>> sharp = np.random.default_rng(0).uniform(0.4, 0.6, (16, 64, 3)).astype(np.float32)
    >>> blurred = np.mean([np.roll(sharp, step, 1) for step in (-2, -1, 0, 1, 2)], 0)
    >>> velocity = np.zeros((16, 64, 2), np.float32)
    >>> velocity[..., 0] = 5.0
    >>> better = back_project(blurred, blurred, velocity, 0 * velocity, 1.0, "linear")
    >>> [round(float(np.abs(one - sharp)[:, 8:-8].mean()), 3) for one in (blurred, better)]
    [0.043, 0.041]
    """
    settings = settings or BackProjectionSettings()
    paths = _Paths(velocity.astype(np.float32), bend.astype(np.float32), exposure)
    seen, start = (_convert(to_linear, picture, response) for picture in (blurred, restored))
    trust = settings.rate * np.square(np.minimum(1, paths.length / settings.blur_px))[..., None]
    light = start.copy()
    for turn in range(settings.rounds):
        again = paths.blurred(light)
        if settings.careful and not turn:
            trust = trust * _borne_out(seen, light, again, settings.compared_px)
        left = seen - again
        left /= 1 + np.square(left / settings.believed)
        light += trust * paths.spread(left) + settings.hold * (start - light)
        np.clip(light, 0, 1, out=light)
    return _convert(to_display, light, response)


def _borne_out(seen: Array, light: Array, blurred: Array, sigma: float) -> Array:
    """1 where the frame's light, blurred along its paths, is nearer to what was seen than unblurred; less elsewhere.

    A moment when the camera held still between two fast ones has a speed by the flow to its neighbours, yet no blur.
    """
    as_it_is, explained = (
        cv2.GaussianBlur(mean_square(seen - one), (0, 0), sigma) + _ALMOST_NOTHING for one in (light, blurred)
    )
    return np.asarray(np.minimum(1, as_it_is / explained), np.float32)[..., None]


def mean_square(picture: Array) -> Array:
    """Mean of the squared colours of each pixel, (h, w, 3) to (h, w)."""
    return np.asarray(np.einsum("hwc,hwc->hw", picture, picture) / picture.shape[-1])


def _convert(curve: Any, picture: Array, response: Response) -> Array:
    return np.asarray(curve(torch.from_numpy(np.ascontiguousarray(picture)), response).numpy(), np.float32)


class _Paths:
    """The places that each pixel's path leads through while the shutter is open.

    Three places a third of the exposure apart, and around each of these three a ninth apart, are nine along the path:
    the mean of means reads a picture four times instead of nine. Where the motion varies from pixel to pixel a place
    moves as the pixel does that lies there, so such paths follow the flow.
    """

    def __init__(self, velocity: Array, bend: Array, exposure: float) -> None:
        self.length = lengths(velocity) * np.float32(exposure)
        stages = 1 if np.quantile(self.length, 0.95) <= _SHORT else 2
        # Fixed-point maps are read twice as fast, and are read in every round.
        self._maps: list[list[list[Any]]] = []
        for stage in range(1, stages + 1):
            sides = [displacement(velocity, bend, time) for time in (-exposure / 3**stage, exposure / 3**stage)]
            self._maps.append(
                [[cv2.convertMaps(*positions(sign * moved), cv2.CV_16SC2) for sign in (-1, 1)] for moved in sides]
            )

    def blurred(self, light: Array) -> Array:
        """The mean of the light along the paths, (h, w, 3)."""
        return self._mean(light, 0)

    def spread(self, left: Array) -> Array:
        """What is left, spread back along the paths: the transpose of blurring, where neighbours move alike."""
        return self._mean(left, 1)

    def _mean(self, picture: Array, side: int) -> Array:
        for stage in self._maps:
            total = picture.copy()
            for sides in stage:
                x, y = sides[side]
                total += cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
            total *= np.float32(1 / 3)
            picture = total
        return picture
