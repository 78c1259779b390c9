"""Neighbouring frames of another brightness: found, and changed to a frame's own brightness before they are compared.

Optical flow assumes that a thing looks equally bright in every frame. Fades, flashes, steps
of exposure, flickering lamps and cuts break that. Here neighbouring frames are compared on small pictures, along their
flow. Where they agree within what noise and motion make of one brightness (:func:`differs`), nothing happens. Where
they do not, a neighbour gets a gain and an offset for each colour, which vary over the picture (:func:`match`); places
that still do not agree say nothing, and a neighbour without anything in common is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metadeblur.imaging.clip_cache import ClipCache
from metadeblur.imaging.optical_flow import Flow, dense_flow, trust, warp
from metadeblur.imaging.primitives import array, picture_of, places, reduced_size, remap, resize, tensor

Array = NDArray[Any]

_PIXELS = 30_000  # of the pictures that are compared
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_LEVEL = np.float32(1 / 255)
_BOX = 17  # px of those pictures: the places whose brightness is compared
_TRUST_STEP = 2.0  # px: makes flow there and back count as one up to 3 px apart

# The dead zone: purity, levels, and the share of the picture that differs so. Neighbouring frames of nine real clips
# reach 0.30, 0.14 and 0.03 (a shaken action camera and a phone, whose exposure drifts); a fade over 40 frames 0.75,
# exposure that grows by 4 % a frame 0.89, a lamp or the bands of a flickering one 0.4 to 0.7.
_DIFFERENT = (0.8, 2.0, 0.45), (0.8, 8.0, 0.18), (0.8, 16.0, 0.05)
_BROAD = 3.5  # levels by which two frames without texture differ
_ALIGNED = 0.4  # share of the picture whose flow is borne out; below, the flow has failed
_WELL_ALIGNED = 0.8  # below, it is tried in other ways too
_ELSEWHERE = 24.0  # levels between the means of two frames that flow does not connect: not one scene in one light
_FLAT = 2.5  # levels of contrast: a frame with less is one colour
_FLATTER = 6.0  # times the contrast of another frame: beside it, it is one colour as well

_GAINS = 0.2, 5.0  # of the whole picture
_LOCAL_GAINS = 0.4, 2.5  # of a place, besides
_DARK = np.float32(0.03)  # added to both sides of a ratio of brightnesses
_AMPLIFIED = 2.0, 4.0  # gains from which noise and steps of 8 bits are too much, at first a little, then wholly
_AGREED = 5.0  # levels of difference in brightness, after matching, at which agreement has fallen to 1/e
_CLIPPED = 0.98  # of the range: a neighbour as bright as this may have been any brighter
_SPREAD = 8.0  # px: Gaussian that carries what places say to those that say nothing
_LEAST_AGREED = 0.4  # share of the picture that must agree for a neighbour to be of use


@dataclass(frozen=True)
class Match:
    """Gain and offset that give a neighbour a frame's brightness; small maps in the neighbour's coordinates.

    Attributes:
        gain: (h, w, 3).
        offset: (h, w, 3).
        agreement: (h, w), 1 where the two then show the same thing equally bright, to 0.
        seen: the same in the frame's coordinates.
        back: (h, w, 2), where the neighbour's pixels lie in the frame, px of the small picture.
    """

    gain: Array
    offset: Array
    agreement: Array
    seen: Array
    back: Array

    @property
    def contrast(self) -> float:
        """By how much the neighbour's contrast is raised, as a mean over the picture."""
        return float(self.gain.mean())

    def applied(self, picture: Tensor) -> Tensor:
        """The neighbour (H, W, 3), float32 in [0, 1] and of any size, in the frame's brightness."""
        gain, offset = (enlarged(part, picture) for part in (self.gain, self.offset))
        return (picture * gain + offset).clamp(0, 1)

    def applied_grey(self, picture: Tensor) -> Tensor:
        """The neighbour in grey, (h, w) uint8 of any size, in the frame's brightness."""
        gain, offset = (enlarged(part @ _LUMA, picture) for part in (self.gain, self.offset))
        return (picture * gain + 255 * offset).round().clamp(0, 255).byte()

    def completed(self, picture: Tensor, frame: Tensor) -> Tensor:
        """The neighbour (H, W, 3) in the frame's brightness, with what the frame shows where the two do not agree."""
        height, width = picture.shape[:2]
        rows, columns = self.back.shape[:2]
        flow = enlarged(self.back, picture) * picture.new_tensor([width / columns, height / rows])
        share = enlarged(self.agreement, picture)[..., None]
        return share * self.applied(picture) + (1 - share) * remap(frame, *places(flow))


def small(picture: Tensor) -> Array:
    """A picture (H, W, 3), float32 in [0, 1], reduced to what is compared: (h, w, 3), in main memory.

    Pictures are compared there: what to do next depends on it, and a device would have to be waited for.
    """
    return array(resize(picture, reduced_size(picture.shape[0], picture.shape[1], _PIXELS), "area").cpu())


def small_frame(frame: Tensor) -> Array:
    """The same of a frame (3, H, W)."""
    return small(picture_of(frame))


def enlarged(values: Array, picture: Tensor) -> Tensor:
    """Small maps at the size and on the device of a picture."""
    return resize(tensor(values).to(picture.device), (picture.shape[0], picture.shape[1]), "linear")


def flat(picture: Array) -> bool:
    """Whether a picture (h, w, 3) is of one colour all over, but for noise: black, white, anything.

    >>> flat(np.zeros((32, 32, 3), np.float32)), flat(np.eye(32, dtype=np.float32)[..., None].repeat(3, -1))
    (True, False)
    """
    return contrast(picture) < _FLAT * float(_LEVEL)


def contrast(picture: Array) -> float:
    """Standard deviation of a picture's (h, w, 3) broad features, of the colour that varies most."""
    side = max(1, min(picture.shape[:2]) // 12)
    return float(cv2.blur(picture, (side, side)).std((0, 1)).max())


def differs(one: Array, other: Array, cache: ClipCache | None = None) -> bool:
    """Whether :func:`small` pictures of two neighbouring frames differ in brightness, or have nothing in common.

    >>> texture = cv2.GaussianBlur(np.random.default_rng(0).random((96, 128, 3), np.float32), (0, 0), 3)
    >>> differs(texture, np.roll(texture, 3, 1)), differs(texture, 0.9 * np.roll(texture, 3, 1))
    (False, True)
    """
    if one is other:  # as at the ends of a clip
        return False
    if cache is None:
        return _differs(one, other, dense_flow)
    return cache.of("differs", lambda: _differs(one, other, cache.flow), one, other)


def _differs(one: Array, other: Array, flow: Flow) -> bool:
    if np.array_equal(one, other):
        return False
    apart = float(np.abs(one.mean((0, 1)) - other.mean((0, 1))).max()) / float(_LEVEL)
    contrasts = sorted((contrast(one), contrast(other)))
    if contrasts[0] * _FLATTER < contrasts[1] and contrasts[1] > _FLAT * _LEVEL:
        return True
    if contrasts[1] <= _FLAT * _LEVEL:
        return apart > _BROAD
    along = _best(one, other, flow)
    return _stands_out(along, other) if along.share >= _ALIGNED else apart > _ELSEWHERE


def _stands_out(along: _Aligned, other: Array) -> bool:
    """Whether aligned pictures differ by more than noise and errors of the flow make."""
    difference = along.warped - other
    mean = along.mean(difference)
    square = along.mean(np.square(difference))
    levels = np.abs(mean) / _LEVEL
    reliable = along.reliable
    most = levels.argmax(-1)[..., None]
    levels, square = (np.take_along_axis(part, most, -1)[..., 0] for part in (levels, square))
    # A change of light moves all pixels of a place by about as much; an error of the flow moves some up, some down.
    purity = np.square(levels * _LEVEL) / (square + 1e-8)
    return any(
        float(((purity > pure) & (levels > least))[reliable].mean()) > share for pure, least, share in _DIFFERENT
    )


def match(frame: Array, other: Array, flow: Flow = dense_flow) -> Match | None:
    """How a neighbour gets a frame's brightness, from :func:`small` pictures; None: they have nothing in common."""
    if flat(other) or contrast(other) * _GAINS[1] < contrast(frame):
        return None
    bright = other
    for _ in range(3):
        along = _best(frame, bright, flow)
        if not along.reliable.any():
            return None
        gain, offset = _fields(along, other)
        bright = np.clip(other * gain + offset, 0, 1)
    apart = np.abs(along.mean(along.warped - bright)).max(-1) / (_AGREED * _LEVEL)
    few, many = _AMPLIFIED
    agreement = np.exp(-np.square(apart)) * np.clip((many - gain.max(-1)) / (many - few), 0, 1) * along.weight
    agreement *= 1 - cv2.blur((other.max(-1) > _CLIPPED).astype(np.float32), (5, 5))  # how bright it was is lost
    if float(agreement.mean()) < _LEAST_AGREED:
        return None
    agreement = agreement.astype(np.float32)
    return Match(gain, offset, agreement, warp(agreement, along.there), along.back)


@dataclass(frozen=True)
class _Aligned:
    """A frame warped onto its neighbour, (h, w, 3), and where the flow can be trusted."""

    warped: Array  # the frame, in the neighbour's coordinates
    valid: Array  # (h, w) float32, 1 or 0
    weight: Array  # (h, w) float32, share of valid pixels around
    there: Array
    back: Array

    @classmethod
    def of(cls, frame: Array, greys: tuple[Array, Array], flow: Flow) -> _Aligned:
        """By the flow between two grey pictures, the frame's and its neighbour's."""
        there, back = flow(*greys), flow(*greys[::-1])
        borne_out = trust(tensor(back), tensor(there), torch.full((2,), _TRUST_STEP))
        valid = (array(borne_out) > 0.75).astype(np.float32)
        return cls(warp(frame, back), valid, _box(valid), there, back)

    @property
    def reliable(self) -> Array:
        """Where (h, w) enough around is valid."""
        return np.asarray(self.weight > 0.5 * self.weight.max())

    @property
    def share(self) -> float:
        """Of the picture that is aligned."""
        return float(self.valid.mean())

    def mean(self, values: Array) -> Array:
        """The mean of (h, w, C) over what is valid around each pixel."""
        return np.asarray(_box(values * self.valid[..., None]) / np.maximum(self.weight, 0.01)[..., None])


def _best(frame: Array, other: Array, flow: Flow) -> _Aligned:
    """The two aligned by their grey values; where that fails, by their structure, or with one spread of tones."""
    here, there = _grey(frame), _grey(other)
    along = _Aligned.of(frame, (here, there), flow)
    if along.share < _WELL_ALIGNED:
        structures = _structure(here), _structure(there)
        along = max(along, _Aligned.of(frame, structures, flow), key=lambda one: one.share)
    if along.share < _ALIGNED:
        toned = here, _grey(_same_tones(frame, other))
        along = max(along, _Aligned.of(frame, toned, flow), key=lambda one: one.share)
    return along


def _fields(along: _Aligned, other: Array) -> tuple[Array, Array]:
    """Gain and offset (h, w, 3) that give a neighbour the brightness of the aligned frame."""
    wanted, has = along.mean(along.warped), along.mean(other)
    gain, offset = _whole(along, other, wanted, has)
    has = gain * has + offset
    weight = (along.weight * along.reliable)[..., None]
    total = cv2.GaussianBlur(weight, (0, 0), _SPREAD)[..., None]
    left = cv2.GaussianBlur(weight * (wanted - has), (0, 0), _SPREAD) / (total + 0.02)
    here = cv2.GaussianBlur(gain * other + offset, (0, 0), _SPREAD)
    # What is left is a lamp, a shadow, a band of flicker: light times something; the rest is added.
    local = np.clip((here + left + _DARK) / np.maximum(here + _DARK, _DARK), *_LOCAL_GAINS)
    return (local * gain).astype(np.float32), (local * (offset - here) + here + left).astype(np.float32)


def _whole(along: _Aligned, other: Array, wanted: Array, has: Array) -> tuple[Array, Array]:
    """Gain and offset (3,) of the whole picture, by least squares in which outliers count little."""
    first, second = (np.asarray(part[along.reliable], np.float64) for part in (wanted, has))
    deviation = [along.mean(np.square(part)) - np.square(along.mean(part)) for part in (along.warped, other)]
    ratio = [np.sqrt(np.maximum(part[along.reliable].mean(0), 0)) + 0.002 for part in deviation]
    prior = np.clip(ratio[0] / ratio[1], *_GAINS)
    weight = np.ones_like(first)
    for _ in range(6):
        total = weight.sum(0)
        middle, centre = (weight * first).sum(0) / total, (weight * second).sum(0) / total
        away = second - centre
        # Where places are alike, the contrast within them tells the gain.
        held = (4 * _LEVEL) ** 2 * total
        gain = ((weight * away * (first - middle)).sum(0) + held * prior) / ((weight * away * away).sum(0) + held)
        gain = np.clip(gain, *_GAINS)
        offset = middle - gain * centre
        astray = np.abs(first - gain * second - offset)
        weight = 1 / (1 + np.square(astray / (np.median(astray, axis=0) + _LEVEL)))
    return gain.astype(np.float32), offset.astype(np.float32)


def _same_tones(frame: Array, other: Array) -> Array:
    """The other picture with the frame's histogram of tones, roughly."""
    shares = np.linspace(0.05, 0.95, 19)
    wanted, has = (np.quantile(part.reshape(-1, 3), shares, axis=0) for part in (frame, other))
    away = has - has.mean(0)
    gain = np.clip((away * (wanted - wanted.mean(0))).sum(0) / ((away * away).sum(0) + 1e-6), *_GAINS)
    return np.asarray(np.clip(other * gain + wanted.mean(0) - gain * has.mean(0), 0, 1), np.float32)


class Lights:
    """Brightness of the frames of a clip, compared with each other.

    Args:
        picture: the :func:`small` picture of a frame, by its number.
        cache: of the clip.
    """

    def __init__(self, picture: Callable[[int], Array], cache: ClipCache) -> None:
        self._picture, self._cache = picture, cache
        self._steps: dict[int, bool] = {}  # whether a frame differs from the one before it

    def differ(self, number: int, other: int) -> bool:
        """Whether brightness changes between two frames."""
        for step in range(min(number, other) + 1, max(number, other) + 1):
            if step not in self._steps:
                self._steps[step] = differs(self._picture(step - 1), self._picture(step), self._cache)
            if self._steps[step]:
                return True
        return False

    def match(self, number: int, other: int) -> Match | None:
        """The match of another frame to a frame; None: not needed, or not possible."""
        if not self.differ(number, other):
            return None
        pair = self._picture(number), self._picture(other)
        return self._cache.of("match", lambda: match(*pair, self._cache.flow), *pair)

    def forget(self, number: int) -> None:
        """Forget the frames before one: they are not asked for again."""
        self._steps = {step: differ for step, differ in self._steps.items() if step > number}

    def comparable(self, number: int, other: int) -> bool:
        """Whether another frame shows what a frame does, once it is as bright."""
        return not self.differ(number, other) or self.match(number, other) is not None


def changes(frames: Iterable[Tensor], cache: ClipCache | None = None) -> dict[int, float]:
    """Frames of a clip whose brightness differs from the one before: their numbers, and the difference of the means.

    >>> texture = torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(0))
    >>> list(changes([texture, texture, 0 * texture, 0 * texture]))
    [2]
    """
    pictures = map(small_frame, frames)
    return {
        number: float(np.abs(one.mean((0, 1)) - other.mean((0, 1))).max())
        for number, (one, other) in enumerate(pairwise(pictures), 1)
        if differs(one, other, cache)
    }


def matched_window(window: Tensor, cache: ClipCache | None = None) -> Tensor:
    """A window of frames (N, 3, H, W) with each neighbour in the brightness of the centre.

    What a neighbour does not show equally bright is filled in from the centre; one that shows nothing of it is the
    centre again, as at the ends of a clip. Where all frames have one brightness the window itself comes back.

    >>> window = torch.rand(3, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    >>> window[2] = 0
    >>> torch.equal(matched_window(window[[1, 1, 2]])[2], window[1])
    True
    """
    before = list(window)
    frames = matched_frames(before, [small_frame(frame) for frame in before], cache or ClipCache())
    unchanged = all(one is other for one, other in zip(before, frames, strict=True))
    return window if unchanged else torch.stack(frames)


def matched_frames(window: Sequence[Tensor], pictures: Sequence[Array], cache: ClipCache) -> list[Tensor]:
    """The same of frames (3, H, W) each; those that are as bright as the centre come back themselves.

    Frames may be on any device, and stay there; ``pictures`` are what :func:`small_frame` made of them.
    """
    half = len(window) // 2
    steps = [differs(*pair, cache) for pair in pairwise(pictures)]
    frames = list(window)
    for number in range(len(window)):
        if any(steps[min(number, half) : max(number, half)]):
            how = match(pictures[half], pictures[number], cache.flow)
            frames[number] = _matched(window[half], window[number], how)
    return frames


def _matched(frame: Tensor, other: Tensor, how: Match | None) -> Tensor:
    """A neighbour (3, H, W) in a frame's brightness; without a match the frame itself."""
    if how is None:
        return frame
    return how.completed(picture_of(other), picture_of(frame)).permute(2, 0, 1).to(other)


def _grey(picture: Array) -> Array:
    return np.asarray(np.rint(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) * 255), np.uint8)


def _structure(grey: Array) -> Array:
    """A picture (h, w) uint8 without slow changes of brightness, and of one contrast."""
    values = grey.astype(np.float32)
    values -= cv2.GaussianBlur(values, (0, 0), _SPREAD)
    deviation = np.sqrt(cv2.GaussianBlur(values * values, (0, 0), _SPREAD))
    return np.asarray(np.clip(128 + 40 * values / (deviation + 2), 0, 255), np.uint8)


def _box(values: Array) -> Array:
    return np.asarray(cv2.boxFilter(values, -1, (_BOX, _BOX), borderType=cv2.BORDER_CONSTANT))
