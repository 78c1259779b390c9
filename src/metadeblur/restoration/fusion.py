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
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from metadeblur.imaging.brightness import Lights, Match, enlarged
from metadeblur.imaging.clip_cache import ClipCache
from metadeblur.imaging.motion import parabola, steady
from metadeblur.imaging.optical_flow import flows_between
from metadeblur.imaging.primitives import (
    Resizing,
    as_float,
    gaussian,
    luma,
    on_opencv,
    picture_of,
    places,
    reduced_size,
    remap,
    resize,
    sobel,
)
from metadeblur.models.adapted import FusionSettings
from metadeblur.restoration.back_projection import BackProjectionSettings, back_project, mean_square
from metadeblur.restoration.windows import Arrived

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
        pairs: (blurred, restored), each (3, H, W) in [0, 1], in the order of the clip. All is done where the restored
            ones are, and the fused ones stay there.
        settings: how; the defaults are good.
        cache: of the clip.

    Yields:
        (blurred, fused), float32 in [0, 1], as many as came in.

    >>> frames = [(torch.full((3, 64, 64), 0.5), torch.full((3, 64, 64), 0.5)) for _ in range(3)]
    >>> [round(float(fused.mean()), 4) for _, fused in fuse_pairs(frames)]
    [0.5, 0.5, 0.5]
    """
    yield from fuse_given((Given.of(*pair) for pair in pairs), settings or FusionSettings(), cache or ClipCache())


class Given(NamedTuple):
    """What is known of a frame before it is fused."""

    frame: Arrived  # the blurred one
    restored: Tensor  # (3, H, W) in [0, 1], where the network is

    @classmethod
    def of(cls, blurred: Tensor, restored: Tensor) -> Given:
        """From the two alone."""
        return cls(Arrived(blurred, blurred.to(restored.device)), restored)


def fuse_given(
    given: Iterable[Given], settings: FusionSettings, cache: ClipCache
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """The same as :func:`fuse_pairs` of frames whose blurred side is on the device already."""
    yield from _Fused(settings, cache).through(_corrected(given, settings, cache))


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
    given = (Given.of(*pair) for pair in zip(blurred, restored, strict=True))
    for one in _corrected(given, settings, cache):
        fused.take(one)
    return torch.stack([fused.remade(number) for number in wanted])


def _corrected(given: Iterable[Given], settings: FusionSettings, cache: ClipCache) -> Iterable[Given]:
    """The frames, each corrected by itself where the exposure is known."""
    return given if settings.exposure is None else _Corrected(settings, cache).remade_of(given)


@dataclass(frozen=True)
class _Frame:
    """What is kept of a restored frame."""

    given: Given
    picture: Tensor  # (H, W, 3), 16-bit levels: uint16 in main memory, float32 elsewhere
    before: Tensor  # (h, w, 3) float32, the blurred frame reduced
    grey: Tensor  # (h, w) uint8, the restored one reduced
    coarse: Tensor  # (h // 2, w // 2, 3) float32, likewise
    detail: Tensor  # (h // 2, w // 2) float32, local gradient energy
    change: Tensor  # (h // 2, w // 2) float32, local mean square of what the network changed
    agreement: NDArray[Any] | None = None  # (h', w'), of one brought to another's brightness, as the other sees it

    def brought(self, how: Match) -> _Frame:
        """The frame in another's brightness."""
        return replace(
            self,
            picture=_levels(how.applied(as_float(self.picture) / _LEVELS)),
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
        self.flows: dict[tuple[int, int], Tensor] = {}
        self.lights = Lights(lambda number: self.frames[number].given.frame.small, cache)
        self.came = self.gone = 0

    def through(self, given: Iterable[Given]) -> Generator[tuple[Tensor, Tensor], None, None]:
        """(blurred, new) frames, each after ``radius`` later ones have come."""
        for one in self.remade_of(given):
            yield one.frame.read, one.restored

    def remade_of(self, given: Iterable[Given]) -> Generator[Given, None, None]:
        """The frames with new ones in place of the restored ones, each after ``radius`` later ones have come."""
        for one in given:
            self.take(one)
            if self.came - self.gone > self.radius:
                yield self._next()
        while self.gone < self.came:
            yield self._next()

    def take(self, given: Given) -> None:
        """Take the next frame in."""
        self.frames[self.came] = _prepared(given, self.settings.pixels)
        self.came += 1

    def remade(self, number: int) -> Tensor:
        """The new frame of a number that is here: (3, H, W) in [0, 1]."""
        return self._remade(number).permute(2, 0, 1).contiguous().clamp_(0, 1)

    @abstractmethod
    def _remade(self, number: int) -> Tensor:
        """The same as (H, W, 3)."""

    def _next(self) -> Given:
        ready = self.frames[self.gone].given._replace(restored=self.remade(self.gone))
        self.gone += 1
        for old in [key for key in self.frames if key < self.gone - self.radius]:
            del self.frames[old]
        oldest = self.gone - self.radius
        self.flows = {key: flow for key, flow in self.flows.items() if min(key) >= oldest}
        self.lights.forget(oldest)
        return ready

    def _explaining(self, number: int, picture: Tensor, settings: BackProjectionSettings) -> Tensor:
        """A picture (H, W, 3) of a frame, corrected where the exposure is known and neighbours tell the motion."""
        around = (number + 1, number - 1)
        if self.settings.exposure is None or not all(self._comparable(number, other) for other in around):
            return picture
        before = self.frames[number].before
        start = _resized(picture, before, "area")
        self._find_flows([(number, other) for other in around])
        motion = parabola(*(steady(self.flows[number, other]) for other in around))
        better = back_project(before, start, *motion, self.settings.exposure, self.settings.response, settings)
        return better if better.shape == picture.shape else picture + _resized(better - start, picture, "cubic")

    def _comparable(self, number: int, other: int) -> bool:
        """Whether another frame is here and shows what a frame does, once it is as bright."""
        return {number, other} <= self.frames.keys() and self.lights.comparable(number, other)

    def _find_flows(self, wanted: Iterable[tuple[int, int]]) -> None:
        """See that the flows of pairs of frames are in ``flows``: those that are not yet, together."""
        missing = [pair for pair in wanted if pair not in self.flows]
        pictures = [(self.frames[source].grey, self._lit_grey(source, target)) for source, target in missing]
        self.flows |= zip(missing, flows_between(pictures, self.cache.flow), strict=True)

    def _lit_grey(self, source: int, target: int) -> Tensor:
        """A frame in grey, in another's brightness."""
        light, there = self.lights.match(source, target), self.frames[target].grey
        return there if light is None else light.applied_grey(there)


class _Corrected(_Pass):
    """Corrects each frame by back-projection."""

    def __init__(self, settings: FusionSettings, cache: ClipCache) -> None:
        super().__init__(settings, cache, radius=1)

    def _remade(self, number: int) -> Tensor:
        picture = as_float(self.frames[number].picture) / _LEVELS
        return self._explaining(number, picture, BackProjectionSettings())


class _Fused(_Pass):
    """Fuses each frame with those around it, then corrects it with more care: averaging has removed errors."""

    def __init__(self, settings: FusionSettings, cache: ClipCache) -> None:
        super().__init__(settings, cache, settings.radius)

    def _remade(self, number: int) -> Tensor:
        frame = self.frames[number]
        total = as_float(frame.picture)
        weights = torch.ones_like(total[..., 0])
        around = range(max(0, number - self.radius), min(self.came, number + self.radius + 1))
        others = [other for other in around if other != number and self._comparable(number, other)]
        self._find_flows([pair for other in others for pair in ((number, other), (other, number))])
        for other in others:
            light, seen = self.lights.match(number, other), self.frames[other]
            seen = seen if light is None else seen.brought(light)
            there, back = self.flows[number, other], self.flows[other, number]
            warped = _warp_full(seen.picture, there)
            weight = _resized(_weight(frame, seen, warped, there, back, self.settings), total, "linear")
            total += warped * weight[..., None]
            weights += weight
        picture = (total / (weights[..., None] * _LEVELS)).clamp(0, 1)
        return self._explaining(number, picture, BackProjectionSettings(careful=True))


def _prepared(given: Given, pixels: int) -> _Frame:
    """What is kept of a frame."""
    full = picture_of(given.restored)
    size = reduced_size(full.shape[0], full.shape[1], pixels)
    coarse = max(1, size[0] // _COARSER), max(1, size[1] // _COARSER)
    reduced, before = (resize(part, size, "area") for part in (full, picture_of(given.frame.here)))
    light = luma(reduced)
    across, down = sobel(light)
    return _Frame(
        given=given,
        picture=_levels(full),
        before=before,
        grey=(light * 255).round().byte(),
        coarse=resize(reduced, coarse, "area"),
        detail=resize(gaussian(across * across + down * down, _AROUND), coarse, "area"),
        change=resize(gaussian(mean_square(reduced - before), _AROUND), coarse, "area"),
    )


def _levels(picture: Tensor) -> Tensor:
    """A picture in [0, 1] in 16-bit levels."""
    levels = (picture * _LEVELS).round()
    return levels.to(torch.uint16) if on_opencv(levels) else levels


def _weight(
    frame: _Frame, other: _Frame, warped: Tensor, there: Tensor, back: Tensor, settings: FusionSettings
) -> Tensor:
    """How much a neighbour counts at each place of the frame's maps, (h, w) float32; the frame itself counts 1.

    ``warped`` is the neighbour warped onto the frame, (H, W, 3) in 16-bit levels; flows lead from and to the frame.
    """
    height, width = frame.detail.shape
    step = there.new_tensor([width / frame.grey.shape[1], height / frame.grey.shape[0]])
    there, back = (_resized(flow, frame.detail, "area") * step for flow in (there, back))
    x, y = places(there)
    returned = there + remap(back, x, y, border="constant", outside=_FAR)
    astray = (returned / (settings.flow_px * step)).square().sum(-1)
    apart = gaussian(_resized(warped, frame.detail, "area") / _LEVELS - frame.coarse, _COMPARED)
    expected = settings.floor**2 + settings.allowed * frame.change
    apart_by = gaussian(mean_square(apart), _COMPARED) / (2 * expected)
    detail, change = (remap(part, x, y, border="reflect") for part in (other.detail, other.change))
    better = ((detail + _LEAST) / (frame.detail + _LEAST)) ** settings.detail
    better *= ((frame.change + _LEAST) / (change + _LEAST)) ** settings.change
    weight = settings.share * torch.exp(-apart_by - astray) * better.clamp(0, settings.most)
    return weight if other.agreement is None else weight * enlarged(other.agreement, weight)


def _warp_full(picture: Tensor, flow: Tensor) -> Tensor:
    """A picture (H, W, 3) read where a flow worked out on a reduced picture leads, as float32."""
    height, width = picture.shape[:2]
    rows, columns = flow.shape[:2]
    if (rows, columns) != (height, width):
        flow = _resized(flow, picture, "linear") * flow.new_tensor([width / columns, height / rows])
    return as_float(remap(picture, *places(flow), "cubic", "reflect"))


def _resized(picture: Tensor, like: Tensor, how: Resizing) -> Tensor:
    """A picture at the size of another."""
    return resize(picture, (like.shape[0], like.shape[1]), how)
