"""How the pixels of a clip move: dense optical flow to both neighbours, as a curved path around each frame's time.

The path of a pixel is a parabola through where it was in the previous frame, where it is, and where it will be in
the next one: displacement(s) = s * velocity + s^2 * bend, with s in frame intervals (s = 1 is the next frame).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metadeblur.clip import Clip, as_clip
from metadeblur.imaging.brightness import Lights, small_frame
from metadeblur.imaging.clip_cache import ClipCache
from metadeblur.imaging.primitives import array, gaussian, grey, median5, tensor

Array = NDArray[Any]
Kept = TypeVar("Kept")


@dataclass(frozen=True)
class MotionField:
    """Paths of the pixels of one frame, in pixels of the full frame, on a grid that may be coarser than the frame.

    Attributes:
        velocity: (h, w, 2), float16, x then y, px a frame interval.
        bend: (h, w, 2), float16, px a squared frame interval.
    """

    velocity: Array
    bend: Array


def parabola(forward: Tensor, backward: Tensor) -> tuple[Tensor, Tensor]:
    """Velocity and bend of the path through backward (s = -1), zero (s = 0) and forward (s = 1).

    A bend longer than half the velocity (and a pixel) is not motion but a place hidden in one of the neighbours,
    where the two flows have nothing to do with each other: it is cut to that length.

    >>> velocity, bend = parabola(torch.full((1, 1, 2), 6.0), torch.full((1, 1, 2), -4.0))
    >>> float(velocity[0, 0, 0]), float(bend[0, 0, 0])
    (5.0, 1.0)
    """
    velocity = (forward - backward) / 2
    bend = (forward + backward) / 2
    limit = 0.5 * torch.hypot(*velocity.unbind(-1)) + 1
    return velocity, bend * (limit / torch.hypot(*bend.unbind(-1)).clamp(min=1e-6)).clamp(max=1)[..., None]


def steady(flow: Tensor) -> Tensor:
    """A flow (h, w, 2) smoothed: a small median against tears at occlusions, a Gaussian against its block edges."""
    return gaussian(median5(flow) if min(flow.shape[:2]) > 5 else flow, 1.0)


def moments(count: int, exposure: float) -> Array:
    """The middles of so many equal parts of an exposure, (count,) float32, in frame intervals from the frame's time."""
    return ((np.arange(count, dtype=np.float32) + 0.5) / count - 0.5) * np.float32(exposure)


def displacement(velocity: Array, bend: Array, time: float) -> Array:
    """How far the pixels of a frame have moved at a time in frame intervals: (h, w, 2) px; see :func:`parabola`."""
    return time * velocity + time * time * bend


def lengths(vectors: Array) -> Array:
    """Lengths of (..., 2) vectors."""
    return np.hypot(vectors[..., 0], vectors[..., 1])


class ClipMotion:
    """The motion of a clip's frames, computed when asked for.

    Args:
        clip: the clip.
        pixels: flow is computed on pictures reduced to about this many pixels.
        cache: of the clip; results are kept there.
    """

    def __init__(self, clip: Clip, *, pixels: int = 256_000, cache: ClipCache | None = None) -> None:
        self.clip = clip = as_clip(clip)
        self.cache = cache or ClipCache()
        self._pixels = pixels
        scale = min(1.0, (pixels / (clip.height * clip.width)) ** 0.5)
        self.height = max(1, round(clip.height * scale))
        self.width = max(1, round(clip.width * scale))
        self.lights = Lights(self._small, self.cache)

    @property
    def step(self) -> Array:
        """Full-frame pixels a pixel of the reduced picture, x then y: (2,) float32."""
        return np.array([self.clip.width / self.width, self.clip.height / self.height], np.float32)

    def grey_frame(self, index: int) -> Array:
        """The reduced frame in grey, (height, width) uint8."""
        return self._kept("grey", index, lambda: array(grey(self.clip[index], self._pixels)))

    def field(self, index: int) -> MotionField:
        """The paths of frame ``index``: straight with one usable neighbour, of length 0 with none."""
        return self._kept("field", index, lambda: self._make_field(index))

    def flow(self, index: int, other: int) -> Array:
        """Displacements from frame ``index`` to frame ``other``, (height, width, 2) float32, in reduced pixels."""
        light, there = self.lights.match(index, other), self.grey_frame(other)
        there = there if light is None else array(light.applied_grey(tensor(there)))
        return array(steady(tensor(self.cache.flow(self.grey_frame(index), there))))

    def _small(self, index: int) -> Array:
        return self._kept("small", index, lambda: small_frame(self.clip[index]))

    def _make_field(self, index: int) -> MotionField:
        forward, backward = (
            self.flow(index, other) if 0 <= other < len(self.clip) and self.lights.comparable(index, other) else None
            for other in (index + 1, index - 1)
        )
        if forward is None and backward is None:
            forward = np.zeros((self.height, self.width, 2), np.float32)
        if backward is None:
            assert forward is not None
            backward = -forward
        if forward is None:
            forward = -backward
        velocity, bend = (array(part) for part in parabola(tensor(forward), tensor(backward)))
        return MotionField((velocity * self.step).astype(np.float16), (bend * self.step).astype(np.float16))

    def _kept(self, name: str, index: int, make: Callable[[], Kept]) -> Kept:
        return self.cache.of((name, index, self.height, self.width), make)
