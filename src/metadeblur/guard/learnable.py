"""Whether a clip has anything to learn from: texture, and motion that blurs it.

Black frames, plain colours, title cards and still pictures show no motion blur. Pairs made of them say nothing, and
held-out pairs of flat patches praise whatever was learnt. Both are seen on small pictures in a moment, before anything
is tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from metadeblur.clip import Clip, as_clip
from metadeblur.guard.judge import Reason

Array = NDArray[Any]

_SIDE = 480  # px: frames are reduced to this
_SMOOTH = 1.5  # px: Gaussian that takes most of the noise away
_APART = 8  # px: structure of this size survives motion blur
_FLAT = 3.0  # levels of 255 that the picture must bend by over that distance, in its most textured places
_STEADY = 4.0  # levels of 255 that a still picture may flicker by: noise and compression
_NOISE = 6.0  # times the usual difference from frame to frame that noise reaches
_NOISIEST = 12.0  # levels of 255 that noise reaches at most: beyond, things move
_STILL_SHARE = 3e-4  # of the pixels that may differ by more all the same
_STANDS_OUT = 10.0  # levels of 255 by which a small thing bends the picture more than grain does
_LIKE = 0.3  # correlation of two frames of one scene, at least
_GRAINY = 25.0  # as _FLAT, where no two frames are alike: grain


def nothing_to_learn(clip: Clip) -> Reason | None:
    """Why nothing can be learnt from a clip, or None; frames are read only until something can.

    The reason is that no frame has texture (levels of 255), or that nothing moves (shares of the pixels).
    """
    clip = as_clip(clip)
    texture = moving = 0.0
    needed = _GRAINY
    for picture, change, likeness in _changes(clip):
        texture = max(texture, _texture(picture))
        moving = max(moving, change)
        if likeness > _LIKE:  # what stays from frame to frame is no grain
            needed = _FLAT
        if texture >= needed and moving > _STILL_SHARE:
            return None
    if texture < needed:
        text = "nothing to learn here: the frames have no texture"
        return Reason("texture", texture, needed, False, text)
    text = "nothing to learn here: nothing moves"
    return Reason("motion", moving, _STILL_SHARE, False, text)


def _changes(clip: Clip) -> Iterator[tuple[Array, float, float]]:
    """For each frame but the first: a small picture, the share of pixels that changed, correlation with the last."""
    for before, after in pairwise(_small(clip, index) for index in range(len(clip))):
        yield after, *_change(before, after)


def _small(clip: Clip, index: int) -> Array:
    """A frame in grey, levels of 255, reduced and smoothed."""
    picture = clip[index].permute(1, 2, 0).float().contiguous().numpy()
    scale = min(1.0, _SIDE / max(picture.shape[:2]))
    if scale < 1:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) * 255, (0, 0), _SMOOTH))


def _texture(picture: Array) -> float:
    """By how many levels the picture bends over some pixels, in the direction in which it bends more.

    The 98 % quantile, or where a small thing stands out from a plain ground, that of this thing. A slope of brightness,
    however steep, does not bend.
    """
    most = 0.0
    for turned in (picture, picture.T):
        if len(turned) > 2 * _APART:
            bend = np.abs(2 * turned[_APART:-_APART] - turned[: -2 * _APART] - turned[2 * _APART :]) / 2
            usual, small = np.quantile(bend, (0.98, 1 - _STILL_SHARE))
            most = max(most, float(small if small > _STANDS_OUT else usual))
    return most


def _change(before: Array, after: Array) -> tuple[float, float]:
    """Share of the pixels that changed by more than noise, without a change of brightness; and the correlation."""
    x, y = before - before.mean(), after - after.mean()
    power, other, both = (float(product.mean()) for product in (x * x, y * y, x * y))
    likeness = both / max((power * other) ** 0.5, 1e-3)
    if likeness < _LIKE:
        return 1.0, likeness
    difference = np.abs(y - both / power * x)
    usual = 1.4826 * float(np.median(difference))
    return float((difference > np.clip(_NOISE * usual, _STEADY, _NOISIEST)).mean()), likeness
