"""Fuse each restored frame with its neighbours, where they show the same things sharper.

In shaky footage sharp moments alternate with blurred ones, and even among equally blurred frames errors of the
restoration differ. After all frames have gone through the deblurrer, the restored neighbours of each are warped onto it
along the optical flow between restored frames, and averaged with it: a neighbour counts for as much as it is sharper,
and only where it agrees. Aligning frames and weighting them by their local sharpness is the idea of Cho, Wang and Lee,
"Video Deblurring for Hand-held Cameras Using Patch-based Synthesis" (SIGGRAPH 2012); here it follows a network, and how
far a neighbour may differ comes from how much the network itself had to change the frame at that place. Where the
clip's exposure is known, restored frames are corrected until they explain the blurred ones better
(:mod:`metadeblur.restoration.back_projection`), each alone first, so that every neighbour has its own to tell, and
again once fused.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metadeblur.imaging.brightness import Lights, Match, small
from metadeblur.imaging.clip_cache import ClipCache
from metadeblur.imaging.motion import lengths, parabola, steady
from metadeblur.imaging.optical_flow import warp
from metadeblur.models.adapted import FusionSettings
from metadeblur.restoration.back_projection import BackProjectionSettings, back_project, mean_square

Array = NDArray[Any]

_LEVELS = 65535.0  # restored frames wait as 16-bit numbers: half the memory, far finer than any video
_AROUND = 8.0  # px (of the reduced picture): Gaussian over which detail and change are averaged
_COARSER = 2  # px of the reduced picture a pixel of the maps of weights: they are smooth
_COMPARED = 1.0  # px of the maps: Gaussian over which frames are compared; finer, they differ as one of them is sharper
_LEAST = 1e-5  # squared, keeps ratios of what is almost nothing near 1
_FAR = 1e3  # px: what the flow out of the picture is set to


def fuse_pairs(
    pairs: Iterable[tuple[Tensor, Tensor]], settings: FusionSettings | None = None, cache: ClipCache | None = None
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Fuse restored frames as they come, each as soon as ``radius`` later ones are known; memory stays bounded.

    Args:
        pairs: (blurred, restored), each (3, H, W) in [0, 1], in the order of the clip.
        settings: how; the defaults are good.
        cache: of the clip.

    Yields:
        (blurred, fused), float32 in [0, 1], as many as came in.

    >>> frames = [(torch.full((3, 64, 64), 0.5), torch.full((3, 64, 64), 0.5)) for _ in range(3)]
    >>> [round(float(fused.mean()), 4) for _, fused in fuse_pairs(frames)]
    [0.5, 0.5, 0.5]
    """
    settings, cache = settings or FusionSettings(), cache or ClipCache()
    yield from _Fused(settings, cache).through(_corrected(pairs, settings, cache))


def fuse_frames(
    blurred: Tensor,
    restored: Tensor,
    settings: FusionSettings | None = None,
    only: range | None = None,
    cache: ClipCache | None = None,
) -> Tensor:
    """Fused frames of a short clip in memory: all of (T, 3, H, W) in [0, 1], or ``only`` some."""
    wanted = range(len(blurred)) if only is None else only
    settings, cache = settings or FusionSettings(), cache or ClipCache()
    fused = _Fused(settings, cache)
    for pair in _corrected(zip(blurred, restored, strict=True), settings, cache):
        fused.take(*pair)
    return torch.stack([fused.remade(number) for number in wanted])


def _corrected(
    pairs: Iterable[tuple[Tensor, Tensor]], settings: FusionSettings, cache: ClipCache
) -> Iterable[tuple[Tensor, Tensor]]:
    """(blurred, restored) frames, each corrected by itself where the exposure is known."""
    return pairs if settings.exposure is None else _Corrected(settings, cache).through(pairs)


@dataclass(frozen=True)
class _Frame:
    """What is kept of a restored frame."""

    blurred: Tensor  # (3, H, W), handed back beside the fused frame
    picture: Array  # (H, W, 3) uint16
    seen: Array  # (h, w, 3) float32, the blurred frame reduced
    grey: Array  # (h, w) uint8, the restored one reduced
    coarse: Array  # (h // 2, w // 2, 3) float32, likewise
    detail: Array  # (h // 2, w // 2) float32, local gradient energy
    change: Array  # (h // 2, w // 2) float32, local mean square of what the network changed
    compared: Array  # (h', w', 3) float32, the blurred one reduced to what brightness is compared on
    agreement: Array | None = None  # (h', w'), of a frame brought to another's brightness, in the other's coordinates

    def brought(self, how: Match) -> _Frame:
        """The frame in another's brightness."""
        picture = how.applied(self.picture.astype(np.float32) / np.float32(_LEVELS))
        return replace(
            self,
            picture=np.rint(picture * _LEVELS).astype(np.uint16),
            coarse=how.applied(self.coarse),
            detail=self.detail * how.contrast**2,
            change=self.change * how.contrast**2,
            agreement=how.seen,
        )


class _Pass(ABC):
    """A pass over the frames: each is replaced by one made from those around it."""

    def __init__(self, settings: FusionSettings, cache: ClipCache, radius: int) -> None:
        self.settings, self.cache = settings, cache
        self.radius = radius
        self.frames: OrderedDict[int, _Frame] = OrderedDict()
        self.flows: dict[tuple[int, int], Array] = {}
        self.lights = Lights(lambda number: self.frames[number].compared, cache)
        self.came = self.gone = 0

    def through(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> Generator[tuple[Tensor, Tensor], None, None]:
        """(blurred, restored) frames in, (blurred, new) frames out, each after ``radius`` later ones."""
        for pair in pairs:
            self.take(*pair)
            if self.came - self.gone > self.radius:
                yield self._next()
        while self.gone < self.came:
            yield self._next()

    def take(self, blurred: Tensor, restored: Tensor) -> None:
        """Take the next frame in."""
        self.frames[self.came] = _prepared(blurred, restored, self.settings.pixels)
        self.came += 1

    def remade(self, number: int) -> Tensor:
        """The new frame of a number that is here: (3, H, W) in [0, 1]."""
        return torch.from_numpy(self._remade(number)).permute(2, 0, 1).contiguous().clamp_(0, 1)

    @abstractmethod
    def _remade(self, number: int) -> Array:
        """The same as (H, W, 3)."""

    def _next(self) -> tuple[Tensor, Tensor]:
        ready = self.frames[self.gone].blurred, self.remade(self.gone)
        self.gone += 1
        for old in [key for key in self.frames if key < self.gone - self.radius]:
            del self.frames[old]
        oldest = self.gone - self.radius
        self.flows = {key: flow for key, flow in self.flows.items() if min(key) >= oldest}
        self.lights.forget(oldest)
        return ready

    def _explaining(self, number: int, picture: Array, settings: BackProjectionSettings) -> Array:
        """A picture (H, W, 3) of a frame, corrected where the exposure is known and neighbours tell the motion."""
        around = (number + 1, number - 1)
        if self.settings.exposure is None or not all(self._comparable(number, other) for other in around):
            return picture
        seen = self.frames[number].seen
        start = _reduced(picture, seen.shape[1::-1])
        flows = (steady(self._flow(number, other)) for other in around)
        better = back_project(seen, start, *parabola(*flows), self.settings.exposure, self.settings.response, settings)
        if better.shape == picture.shape:
            return better
        whole = picture.shape[1::-1]
        return np.asarray(picture + cv2.resize(better - start, whole, interpolation=cv2.INTER_CUBIC))

    def _comparable(self, number: int, other: int) -> bool:
        """Whether another frame is here and shows what a frame does, once it is as bright."""
        return {number, other} <= self.frames.keys() and self.lights.comparable(number, other)

    def _flow(self, source: int, target: int) -> Array:
        if (source, target) not in self.flows:
            light, there = self.lights.match(source, target), self.frames[target].grey
            there = there if light is None else light.applied_grey(there)
            self.flows[source, target] = self.cache.flow(self.frames[source].grey, there)
        return self.flows[source, target]


class _Corrected(_Pass):
    """Corrects each frame by back-projection."""

    def __init__(self, settings: FusionSettings, cache: ClipCache) -> None:
        super().__init__(settings, cache, radius=1)

    def _remade(self, number: int) -> Array:
        picture = self.frames[number].picture.astype(np.float32) / np.float32(_LEVELS)
        return self._explaining(number, picture, BackProjectionSettings())


class _Fused(_Pass):
    """Fuses each frame with those around it, then corrects it with more care: averaging has removed errors."""

    def __init__(self, settings: FusionSettings, cache: ClipCache) -> None:
        super().__init__(settings, cache, settings.radius)

    def _remade(self, number: int) -> Array:
        frame = self.frames[number]
        height, width = frame.picture.shape[:2]
        total = frame.picture.astype(np.float32)
        weights = np.ones((height, width), np.float32)
        for other in range(max(0, number - self.radius), min(self.came, number + self.radius + 1)):
            if other == number or not self._comparable(number, other):
                continue
            light, seen = self.lights.match(number, other), self.frames[other]
            seen = seen if light is None else seen.brought(light)
            there, back = self._flow(number, other), self._flow(other, number)
            warped = _warp_full(seen.picture, there)
            weight = _weight(frame, seen, warped, there, back, self.settings)
            weight = cv2.resize(weight, (width, height), interpolation=cv2.INTER_LINEAR)
            total += warped * weight[..., None]
            weights += weight
        picture = np.clip(total / (weights[..., None] * _LEVELS), 0, 1)
        return self._explaining(number, picture, BackProjectionSettings(careful=True))


def _prepared(blurred: Tensor, restored: Tensor, pixels: int) -> _Frame:
    """What is kept of a frame."""
    full, before = (part.permute(1, 2, 0).float().contiguous().numpy() for part in (restored, blurred))
    height, width = full.shape[:2]
    scale = min(1.0, (pixels / (height * width)) ** 0.5)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    coarse = max(1, size[0] // _COARSER), max(1, size[1] // _COARSER)
    reduced, seen = (_reduced(part, size) for part in (full, before))
    light = cv2.cvtColor(reduced, cv2.COLOR_RGB2GRAY)
    across, down = (cv2.Sobel(light, cv2.CV_32F, *axis) / 8 for axis in ((1, 0), (0, 1)))
    return _Frame(
        blurred=blurred,
        picture=np.rint(full * _LEVELS).astype(np.uint16),
        seen=seen,
        grey=np.rint(light * 255).astype(np.uint8),
        coarse=_reduced(reduced, coarse),
        detail=_reduced(_smooth(across * across + down * down, _AROUND), coarse),
        change=_reduced(_smooth(mean_square(reduced - seen), _AROUND), coarse),
        compared=small(before),
    )


def _weight(frame: _Frame, other: _Frame, warped: Array, there: Array, back: Array, settings: FusionSettings) -> Array:
    """How much a neighbour counts at each place of the frame's maps, (h, w) float32; the frame itself counts 1.

    ``warped`` is the neighbour warped onto the frame, (H, W, 3) in 16-bit levels; flows lead from and to the frame.
    """
    height, width = frame.detail.shape
    step = np.array([width / frame.grey.shape[1], height / frame.grey.shape[0]], np.float32)
    there, back = (_reduced(flow, (width, height)) * step for flow in (there, back))
    returned = there + warp(back, there, border=cv2.BORDER_CONSTANT, outside=_FAR)
    astray = np.square(lengths(returned / (settings.flow_px * step)))
    apart = _smooth(_reduced(warped, (width, height)) / _LEVELS - frame.coarse, _COMPARED)
    expected = settings.floor**2 + settings.allowed * frame.change
    apart_by = _smooth(mean_square(apart), _COMPARED) / (2 * expected)
    detail, change = (warp(part, there, border=cv2.BORDER_REFLECT) for part in (other.detail, other.change))
    better = ((detail + _LEAST) / (frame.detail + _LEAST)) ** settings.detail
    better *= ((frame.change + _LEAST) / (change + _LEAST)) ** settings.change
    weight = settings.share * np.exp(-apart_by - astray) * np.clip(better, 0, settings.most)
    if other.agreement is not None:
        weight *= cv2.resize(other.agreement, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(weight, np.float32)


def _warp_full(picture: Array, flow: Array) -> Array:
    """A picture (H, W, 3) read where a flow worked out on a reduced picture leads, as float32."""
    height, width = picture.shape[:2]
    rows, columns = flow.shape[:2]
    if (rows, columns) != (height, width):
        step = np.array([width / columns, height / rows], np.float32)
        flow = cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR) * step
    return warp(picture, flow, cv2.INTER_CUBIC, cv2.BORDER_REFLECT).astype(np.float32)


def _reduced(picture: Array, size: tuple[int, int]) -> Array:
    """A picture (H, W, ...) at a size (width, height) of at most its own."""
    return picture if picture.shape[1::-1] == size else cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _smooth(picture: Array, sigma: float) -> Array:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma))
