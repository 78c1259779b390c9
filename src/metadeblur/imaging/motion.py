"""How the pixels of a clip move: dense optical flow to both neighbours, as a curved path around each frame's time.

The path of a pixel is a parabola through where it was in the previous frame, where it is, and where it will be in
the next one: displacement(s) = s * velocity + s^2 * bend, with s in frame intervals (s = 1 is the next frame).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metadeblur.clip import Clip, as_clip
from metadeblur.imaging.brightness import Lights, small_frame
from metadeblur.imaging.clip_cache import ClipCache
from metadeblur.imaging.optical_flow import flows_between
from metadeblur.imaging.primitives import gaussian, grey, median5, reduced_size

Array = NDArray[Any]
Kept = TypeVar("Kept")


@dataclass(frozen=True)
class MotionField:
    """Paths of the pixels of one frame, in pixels of the full frame, on a grid that may be coarser than the frame.

    Attributes:
        velocity: (h, w, 2), float16, x then y, px a frame interval; where the frame is.
        bend: (h, w, 2), float16, px a squared frame interval.
    """

    velocity: Tensor
    bend: Tensor


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


def displacement(velocity: Tensor, bend: Tensor, time: np.float32) -> Tensor:
    """How far the pixels of a frame have moved at a time in frame intervals: (h, w, 2) px; see :func:`parabola`."""
    return float(time) * velocity + float(time * time) * bend


class ClipMotion:
    """The motion of a clip's frames, computed when asked for, where its frames are.

    Args:
        clip: the clip.
        pixels: flow is computed on pictures reduced to about this many pixels.
        cache: of the clip; results are kept there.
    """

    def __init__(self, clip: Clip, *, pixels: int = 256_000, cache: ClipCache | None = None) -> None:
        self.clip = clip = as_clip(clip)
        self.cache = cache or ClipCache()
        self._pixels = pixels
        self.height, self.width = reduced_size(clip.height, clip.width, pixels)
        self.lights = Lights(self._small, self.cache)

    @cached_property
    def device(self) -> torch.device:
        """Where the clip's frames are."""
        return self.clip[0].device

    @cached_property
    def step(self) -> Tensor:
        """Full-frame pixels a pixel of the reduced picture, x then y: (2,) float32."""
        return torch.tensor([self.clip.width / self.width, self.clip.height / self.height], device=self.device)

    def grey_frame(self, index: int) -> Tensor:
        """The reduced frame in grey, (height, width) uint8."""
        return self._kept("grey", index, lambda: grey(self.clip[index], self._pixels))

    def field(self, index: int) -> MotionField:
        """The paths of frame ``index``: straight with one usable neighbour, of length 0 with none."""
        return self._kept("field", index, lambda: self._make_field(index))

    def flows(self, pairs: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Displacements from one frame to another of each pair, (height, width, 2) float32, in reduced pixels."""
        pictures = [(self.grey_frame(index), self._lit_grey(index, other)) for index, other in pairs]
        return [steady(flow) for flow in flows_between(pictures, self.cache.flow)]

    def _lit_grey(self, index: int, other: int) -> Tensor:
        """Another frame in grey, in the brightness of frame ``index``."""
        light, there = self.lights.match(index, other), self.grey_frame(other)
        return there if light is None else light.applied_grey(there)

    def _small(self, index: int) -> Array:
        return self._kept("small", index, lambda: small_frame(self.clip[index]))

    def _make_field(self, index: int) -> MotionField:
        usable = [
            (index, other)
            for other in (index + 1, index - 1)
            if 0 <= other < len(self.clip) and self.lights.comparable(index, other)
        ]
        found = dict(zip(usable, self.flows(usable), strict=True))
        forward, backward = found.get((index, index + 1)), found.get((index, index - 1))
        if forward is None:
            still = torch.zeros(self.height, self.width, 2, device=self.device)
            forward = still if backward is None else -backward
        velocity, bend = parabola(forward, -forward if backward is None else backward)
        return MotionField((velocity * self.step).half(), (bend * self.step).half())

    def _kept(self, name: str, index: int, make: Callable[[], Kept]) -> Kept:
        return self.cache.of((name, index, self.height, self.width), make)
