"""Neighbouring frames of another brightness: found, and brought to the brightness of a frame.

Optical flow and whatever follows it take for granted that a thing keeps its brightness from frame to frame. Fades,
flashes, lamps and a camera's exposure steps break that. Frames are compared as small pictures, once flow between them
has taken their motion out; only a difference that is nearly the same over the picture, or very large at one place,
counts as a change of brightness. What blur, noise and hidden things change does not, so most frames pass untouched.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metadeblur.optical_flow import dense_flow

Array = NDArray[Any]

_PIXELS = 192 * 108  # of the small pictures
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_FAINT = 8 / 255  # display values under which ratios of brightness say little
_RETURNS = 1.5  # px that the flow there and back may be apart
_SEEN = 0.1  # share of the picture that must be found again to say anything of the rest
_BROAD = 4.0  # px: Gaussian that leaves brightness and takes detail away
_CELLS = (4, 6)  # the picture is compared in so many rows and columns

# Ratio of brightness, less 1. Twelve real clips, one and two frames apart: at most 0.07 (a shaken action camera),
# and then as uneven as it is large; steps of exposure by 8 %: 0.07 to 0.08, and the same all over.
_CHANGED = 0.045
_EVEN = 1.5  # times its own spread over the picture that a change must be
_CHANGED_PLACE = 0.35  # in one cell of the picture; the same clips: at most 0.29
_CHANGED_WHOLE = 0.2  # of the mean, where hardly anything is found again

_STRONGEST, _WEAKEST = 1.6, 0.1  # contrast may be raised or lowered so far: beyond, noise or nothing is left
_FINE = 1.5  # px: Gaussian over which matched frames are compared
_AGREES = 0.05  # of brightness left, at which a place of a matched neighbour counts for 1/e
_LEFT = 0.1  # spread of what is left after matching, above which a neighbour is not believed
_SMOOTH = 10.0  # px: Gaussian over which brightness may differ from place to place


@dataclass(frozen=True)
class _Small:
    """A frame as a small picture."""

    colour: Array  # (h, w, 3) float32
    light: Array  # (h, w) float32
    even: Array  # (h, w) uint8, of one mean and contrast: what flow is computed on


@dataclass(frozen=True)
class _Found:
    """A frame compared with another one."""

    warped: Array  # (h, w, 3): the frame, read where the other one shows the same
    seen: Array  # (h, w) bool: where that is borne out
    changed: bool
    comparable: bool


def matched_window(window: Tensor) -> Tensor:
    """A window whose neighbours have the brightness of its centre.

    A neighbour of another brightness is scaled and shifted, place by place; one that cannot be brought to it, such as
    a black frame, is replaced by the centre and so says nothing. Others stay as they are.

    Args:
        window: (N, 3, H, W), RGB in [0, 1], N odd.

    Returns:
        (N, 3, H, W); the same tensor where nothing had to be changed.

    >>> torch.manual_seed(0); texture = torch.rand(3, 64, 96)
    <torch._C.Generator object at ...>
    >>> scene = torch.nn.functional.avg_pool2d(texture, 9, 1, 4)
    >>> window = torch.stack([0.5 * scene, scene, torch.zeros_like(scene)])
    >>> matched = matched_window(window)
    >>> [bool((frame - scene).abs().mean() < 0.01) for frame in matched]
    [True, True, True]
    """
    half = len(window) // 2
    centre = window[half]
    small = _small(centre)
    frames = [frame if number == half else _matched(frame, centre, small) for number, frame in enumerate(window)]
    if all(frame is window[number] or torch.equal(frame, window[number]) for number, frame in enumerate(frames)):
        return window
    return torch.stack(frames)


def same_brightness(frame: Tensor, other: Tensor) -> bool:
    """Whether two frames (3, H, W) of a clip show what both show in the same brightness."""
    if torch.equal(frame, other):
        return True
    return not _find(_small(other), _small(frame)).changed


def _small(frame: Tensor) -> _Small:
    picture = frame.detach().float().cpu().permute(1, 2, 0).contiguous().numpy()
    height, width = picture.shape[:2]
    scale = min(1.0, (_PIXELS / (height * width)) ** 0.5)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    colour = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.float32)
    light = colour @ _LUMA
    even = (light - light.mean()) / (light.std() + 1 / 255) * 50 + 128
    return _Small(colour, light, np.clip(np.rint(even), 0, 255).astype(np.uint8))


def _find(other: _Small, frame: _Small) -> _Found:
    """Where ``frame`` shows what ``other`` shows, and whether its brightness differs."""
    there, back = dense_flow(other.even, frame.even), dense_flow(frame.even, other.even)
    rows, columns = np.indices(other.light.shape, dtype=np.float32)
    x, y = columns + there[..., 0], rows + there[..., 1]
    warped, returned = (
        cv2.remap(part, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for part in (frame.colour, back)
    )
    inside = (x >= 0) & (y >= 0) & (x <= x.shape[1] - 1) & (y <= x.shape[0] - 1)
    seen = inside & (np.hypot(*np.moveaxis(there + returned, -1, 0)) < _RETURNS)
    if seen.mean() < _SEEN:
        means = float(frame.light.mean()), float(other.light.mean())
        changed = abs(means[0] - means[1]) > _CHANGED_WHOLE * (sum(means) / 2 + _FAINT)
        return _Found(warped, seen, changed, False)
    ratio = _ratio(warped @ _LUMA, other.light)
    changed = _changed(ratio[seen], _CHANGED) or any(_changed(cell, _CHANGED_PLACE) for cell in _cells(ratio, seen))
    return _Found(warped, seen, changed, True)


def _changed(ratio: Array, limit: float) -> bool:
    """Whether brightness differs (n values) by more than a limit, and much the same everywhere."""
    low, middle, high = np.quantile(ratio, (0.25, 0.5, 0.75))
    return bool(abs(middle) > max(limit, _EVEN * (high - low)))


def _ratio(one: Array, other: Array, sigma: float = _BROAD) -> Array:
    """By how much, of their mean, two pictures (h, w) differ in brightness."""
    one, other = _blurred(one, sigma), _blurred(other, sigma)
    return np.asarray((one - other) / ((one + other) / 2 + _FAINT))


def _cells(ratio: Array, seen: Array) -> Iterator[Array]:
    """The values of each cell of the picture that is seen again for the most part."""
    for rows, found in zip(*(np.array_split(part, _CELLS[0]) for part in (ratio, seen)), strict=True):
        for cell, known in zip(*(np.array_split(part, _CELLS[1], 1) for part in (rows, found)), strict=True):
            if known.size and known.mean() > 0.5:
                yield cell[known]


def _matched(neighbour: Tensor, centre: Tensor, small: _Small) -> Tensor:
    """A neighbour (3, H, W) at the brightness of the centre; the centre itself where it cannot be brought to it."""
    if torch.equal(neighbour, centre):
        return neighbour
    own = _small(neighbour)
    found = _find(own, small)
    if not found.changed:
        return neighbour
    if not found.comparable:
        return centre
    gain, shift = _fit(own, found)
    if not _WEAKEST <= gain <= _STRONGEST:
        return centre
    left = _ratio(np.clip(gain * own.colour + shift, 0, 1) @ _LUMA, found.warped @ _LUMA, _FINE)
    if float(np.quantile(left[found.seen], 0.9) - np.quantile(left[found.seen], 0.1)) > _LEFT:
        return centre
    agreed = _blurred(np.exp(-np.square(left / _AGREES)) * found.seen, _BROAD)
    size = neighbour.shape[2], neighbour.shape[1]
    maps = cv2.resize(np.dstack([shift, agreed]).astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    whole = torch.from_numpy(maps).permute(2, 0, 1).to(neighbour)
    return centre.lerp((gain * neighbour + whole[:3]).clamp(0, 1), whole[3:].clamp(0, 1))


def _fit(own: _Small, found: _Found) -> tuple[float, Array]:
    """Gain, and shift (h, w, 3) place by place, that bring a frame to the brightness of another one."""
    mine, other = _blurred(own.light, _BROAD), _blurred(found.warped @ _LUMA, _BROAD)
    x, y = mine[found.seen], other[found.seen]
    variance = float(x.var())
    gain = float(((x - x.mean()) * (y - y.mean())).mean()) / variance if variance > _FAINT**2 / 16 else 1.0
    known = found.seen.astype(np.float32)
    left = (found.warped - np.float32(gain) * own.colour) * known[..., None]
    return gain, np.asarray(_blurred(left, _SMOOTH) / np.maximum(_blurred(known, _SMOOTH), 1e-3)[..., None], np.float32)


def _blurred(picture: Array, sigma: float) -> Array:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma))
