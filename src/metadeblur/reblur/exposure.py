"""Exposure time and camera response, estimated from the blurred clip alone.

Two frames A and B of a clip show the same things blurred by different motions a and b. Blurring A by b's path and B
by a's path gives the same picture, whatever was in it: but only if both paths are cut to the exposure that the
camera had. So for each candidate exposure the warped neighbour and the frame are blurred by each other's motion, and
the difference that is left, over the contrast that is left, is smallest at the true one. Where A is sharp because
nothing moved in it, this is reblurring A until it explains B. Small places vote; places whose two motions are alike
say nothing and are left out. Motions are compared on one frame's grid: where the camera zooms, what is larger in the
next frame has longer paths there, but is blurred no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metadeblur.imaging.linear_light import RESPONSES, to_linear
from metadeblur.imaging.motion import ClipMotion
from metadeblur.imaging.primitives import (
    Reading,
    array,
    box,
    gaussian,
    lengths,
    luma,
    median,
    on_opencv,
    picture_of,
    places,
    quantile,
    remap,
    resize,
    sobel,
    tensor,
)
from metadeblur.types import Response

Array = NDArray[Any]

CANDIDATES: Array = np.arange(0.0, 1.71, 0.1)
LONGEST = 1.6
"""No exposure above this is reported: a shutter open for 1.5 frame intervals, and the frames' own blur."""

_SPAN = 1.8  # frame intervals that the samples along a path cover
_SAMPLES = 33
_BLOCK = 16  # px: the places that vote
_SPEED = 14.0  # px a frame that most places have at most in the reduced pictures that are compared
_STARTS = 14  # frames, spread over the clip, whose neighbours are looked at
_SLOW = 4.0  # px a frame below which nothing more is given away to reducing
_LARGE = 80_000  # px of the pictures that are compared, at most, where motion is not slow
_BUDGET = 500_000  # px compared altogether
_DIFFERENT = 6.0  # px^2 by which two motions' outer products differ at least for a place to vote
_HEAVIEST = 60.0  # px^2 above which a place weighs no more
_LOST = 0.7  # px between where a pixel comes from and where it is led back to, above which it is not seen in both
_FEW, _CLEAR = 40, 4.0  # votes that do, and the contrast from which they do
_ENOUGH = 80  # votes that do otherwise: where all frames are blurred alike, flow errors make up to 70
_TORN = 0.2  # by how much a flow may stretch what is around a place otherwise than most of the frame
_LEAST_AREA = 0.5  # share of its area to which a flow may shrink what it leads to
_RESPONSE_PAIRS = 3  # pairs on which the responses are compared
_CLEARLY_BETTER = 0.15  # share by which another response has to leave less unexplained than sRGB to be taken
_TEXTURE = 2e-5  # mean square of the band-passed light for a place to vote


@dataclass(frozen=True)
class ExposureEstimate:
    """What the clip says about its exposure and response.

    Attributes:
        exposure: frame intervals that the shutter was open, 0 to 1.6.
        error: standard error of it, from leaving out one pair of frames after the other.
        contrast: what the worst candidate leaves unexplained over what the best one does; 1 says nothing.
        pairs: pairs of frames that were compared.
        votes: places that voted.
        response: the curve that leaves the least unexplained (sRGB where another one is hardly better).
        unexplained: by response, what is left unexplained relative to the sRGB curve.
    """

    exposure: float
    error: float
    contrast: float
    pairs: int
    votes: int
    response: Response
    unexplained: dict[Response, float]

    @property
    def strong(self) -> bool:
        """Whether the evidence is good enough to use the estimate."""
        enough = _FEW if self.contrast >= _CLEAR else _ENOUGH
        return self.votes >= enough and self.pairs >= 2 and self.contrast >= 1.12 and self.error <= 0.2


@dataclass(frozen=True)
class _Votes:
    """For each place that votes: the logarithm of the unexplained share by candidate (n, C), and its weight (n,)."""

    curves: Array
    weights: Array


@dataclass(frozen=True)
class _ComparedFrames:
    """Two frames made ready to be blurred by each other's motion, on the first one's grid of (h, w) reduced pixels.

    Attributes:
        frames: their numbers.
        there: (h, w, 2) displacements from the first to the second.
        own: velocity and bend of the first frame, (h, w, 2) each.
        other: those of the second, as they look on the first one's grid.
        voters: which places vote, bool, on the grid of places, in main memory.
        weights: of those that vote, (n,): by how much the two motions blur differently there, px^2.
    """

    frames: tuple[int, int]
    there: Tensor
    own: tuple[Tensor, Tensor]
    other: tuple[Tensor, Tensor]
    voters: Array
    weights: Array


def estimate_exposure(motion: ClipMotion) -> ExposureEstimate | None:
    """Exposure and response of a clip, or None where nothing can be compared (too short, too small, all alike).

    Reads at most 42 frames and compares at most 10 pairs, so that a long clip costs no more than a short one. Frames
    are compared where they are; what the places say comes back.

    Args:
        motion: the clip's motion.
    """
    pairs = _most_different(motion)
    if not pairs or min(motion.height, motion.width) < 5 * _BLOCK:
        return None
    scale = _comparing_scale(motion, [first for first, _ in pairs])
    height, width = round(motion.height * scale), round(motion.width * scale)
    compared = []
    for first, second in pairs[: int(np.clip(_BUDGET // (height * width), 4, 10))]:
        pair = _prepare(motion, first, second, height, width)
        if pair.voters.any():
            compared.append((pair, _vote(motion, pair, "srgb", CANDIDATES)))
    if not compared:
        return None
    votes = [vote for _, vote in compared]
    exposure, curve = _lowest(votes)
    errors = [
        _lowest(votes[:index] + votes[index + 1 :])[0] - exposure for index in range(len(votes) if votes[1:] else 0)
    ]
    telling = sorted(compared, key=lambda item: -float(item[1].weights.sum()))[:_RESPONSE_PAIRS]
    unexplained = _try_responses(motion, [pair for pair, _ in telling], exposure)
    best = min(unexplained, key=lambda response: unexplained[response])
    return ExposureEstimate(
        exposure=exposure,
        error=float(np.sqrt(np.sum(np.square(errors)) * (1 - 1 / len(errors)))) if errors else LONGEST,
        contrast=float(np.exp(curve.max() - curve.min())),
        pairs=len(compared),
        votes=sum(len(vote.weights) for vote in votes),
        response=best if unexplained[best] < 1 - _CLEARLY_BETTER else "srgb",
        unexplained=unexplained,
    )


def _most_different(motion: ClipMotion) -> list[tuple[int, int]]:
    """Pairs of near frames, those whose motions differ most first."""
    count = len(motion.clip)
    starts = sorted({round(start) for start in np.linspace(1, max(1, count - 3), _STARTS)})
    scored = []
    for start in starts:
        for other in (start + 1, start + 2):
            if other < count - 1 and motion.lights.comparable(start, other):
                a, b = (motion.field(index).velocity[::4, ::4].float() for index in (start, other))
                scored.append((median(_difference(a, b)), start, other))
    return [(start, other) for _, start, other in sorted(scored, key=lambda item: -item[0])]


def _difference(a: Tensor, b: Tensor) -> Tensor:
    """Frobenius norm of a a^T - b b^T for (..., 2) vectors: how differently two motions blur (px^2)."""
    squares = (a[..., 0] ** 2 - b[..., 0] ** 2) ** 2 + (a[..., 1] ** 2 - b[..., 1] ** 2) ** 2
    return torch.sqrt(squares + 2 * (a[..., 0] * a[..., 1] - b[..., 0] * b[..., 1]) ** 2)


def _comparing_scale(motion: ClipMotion, frames: list[int]) -> float:
    """By how much the flow's pictures are reduced further, so that paths are a few pixels long."""
    fastest = [quantile(lengths(motion.field(frame).velocity.float() / motion.step), 0.9) for frame in frames[:6]]
    speed = max(float(np.median(fastest)), 1e-3)
    smallest = 5 * _BLOCK / min(motion.height, motion.width)
    largest = max(_SLOW / speed, (_LARGE / (motion.height * motion.width)) ** 0.5)
    return float(np.clip(min(_SPEED / speed, largest), smallest, 1.0))


def _prepare(motion: ClipMotion, first: int, second: int, height: int, width: int) -> _ComparedFrames:
    """The motions of two frames on one grid, and the places where they can be compared."""
    ratio = torch.tensor([width / motion.width, height / motion.height], device=motion.device)

    def reduced(vectors: Tensor) -> Tensor:
        return resize(vectors, (height, width), "area") * ratio

    def path(index: int) -> tuple[Tensor, Tensor]:
        field = motion.field(index)
        velocity, bend = (part.float() / motion.step for part in (field.velocity, field.bend))
        return reduced(velocity), reduced(bend)

    there, back = (reduced(flow) for flow in motion.flows([(first, second), (second, first)]))
    own = path(first)
    velocity, bend = path(second)
    # What grows from one frame to the next has longer paths there, though on this grid they may be just as long.
    shrunk = _inverse_stretch(there)
    other = _times(shrunk, _warped(velocity, there)), _times(shrunk, _warped(bend, there))
    # The flow forth and back agree where the place is seen in both frames.
    lost = box(lengths(there + _warped(back, there)), _BLOCK)
    difference = box(_difference(own[0], other[0]), _BLOCK)
    texture = box(_band(_light(motion, first, "srgb", height, width)) ** 2, _BLOCK)
    # Outlines of things that move: the flow tears there.
    torn = box((shrunk - shrunk.flatten(0, 1).median(dim=0).values).square().sum((-2, -1)).sqrt(), _BLOCK)
    votes = (torn < _TORN) & (lost < _LOST) & (difference > _DIFFERENT) & (texture > _TEXTURE)
    voters, weights = (array(_at_places(part).cpu()) for part in (votes, difference))
    return _ComparedFrames((first, second), there, own, other, voters, np.minimum(weights[voters], _HEAVIEST))


def _inverse_stretch(flow: Tensor) -> Tensor:
    """The inverse of how a flow (h, w, 2) stretches and turns what is around each pixel, (h, w, 2, 2), smoothed.

    >>> grown = torch.stack(torch.meshgrid(0.25 * torch.arange(64.0), torch.zeros(64), indexing="xy"), dim=-1)
    >>> _inverse_stretch(grown)[32, 32].abs()
    tensor([[0.8000, 0.0000],
            [0.0000, 1.0000]])
    """
    smooth = gaussian(flow, _BLOCK / 4)
    down, across = torch.gradient(smooth, dim=(0, 1))
    (xx, yx), (xy, yy) = ((1 + across[..., 0], across[..., 1]), (down[..., 0], 1 + down[..., 1]))
    # At outlines a flow may tear or fold; there is no inverse, and what is there is not seen in both frames.
    area = (xx * yy - xy * yx).clamp(min=_LEAST_AREA)
    rows = torch.stack([yy, -xy], -1), torch.stack([-yx, xx], -1)
    return torch.stack(rows, -2) / area[..., None, None]


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Matrices (h, w, 2, 2) times vectors (h, w, 2)."""
    return (matrices @ vectors[..., None])[..., 0]


def _vote(motion: ClipMotion, pair: _ComparedFrames, response: Response, candidates: Array) -> _Votes:
    """Blur two frames by each other's motion at all candidate exposures: the votes of all places."""
    height, width = pair.there.shape[:2]
    first, second = pair.frames
    one = _light(motion, first, response, height, width)
    two = _light(motion, second, response, height, width, as_bright_as=first)
    by_other = _blurred(one, *pair.other, candidates)
    other_by_own = _blurred(_warped(two, pair.there, "cubic"), *pair.own, candidates)
    curves = [_at_places(_unexplained(*both)) for both in zip(by_other, other_by_own, strict=True)]
    return _Votes(np.log(array(torch.stack(curves, -1).cpu())[pair.voters]), pair.weights)


def _light(
    motion: ClipMotion, index: int, response: Response, height: int, width: int, as_bright_as: int | None = None
) -> Tensor:
    """A frame's light in grey, (height, width) float32, in its own or another frame's brightness."""
    picture = motion.clip[index]
    matched = None if as_bright_as is None else motion.lights.match(as_bright_as, index)
    if matched is not None:
        picture = matched.applied(picture_of(picture)).permute(2, 0, 1)
    levels = (picture * 255).round()
    if on_opencv(picture):
        # A table, as the frame is many times larger than what is compared: 8 bits do for that.
        table = array(to_linear(torch.arange(256) / 255, response))
        light = tensor(cv2.LUT(array(levels.byte().permute(1, 2, 0).contiguous()), table))
    else:
        light = to_linear(levels / 255, response).permute(1, 2, 0)
    return luma(resize(light, (height, width), "area"))


def _warped(picture: Tensor, flow: Tensor, how: Reading = "linear") -> Tensor:
    """A picture (h, w) or (h, w, C) read where a flow (h, w, 2) leads."""
    return remap(picture, *places(flow), how)


def _at_places(picture: Tensor) -> Tensor:
    """A picture of means around each pixel, read at the places that may vote: away from the frame's border."""
    border = 2 * _BLOCK
    return picture[border : picture.shape[0] - border + 1 : _BLOCK, border : picture.shape[1] - border + 1 : _BLOCK]


def _blurred(light: Tensor, velocity: Tensor, bend: Tensor, candidates: Array) -> list[Tensor]:
    """``light`` (h, w) averaged along the paths at each candidate exposure.

    The samples are taken once over the longest span; sums over ever wider parts of it serve all candidates.
    """
    times = ((np.arange(_SAMPLES) + 0.5) / _SAMPLES - 0.5) * _SPAN
    samples = [_warped(light, -s * (velocity + s * bend), "cubic") for s in times.astype(np.float32).tolist()]
    middle = _SAMPLES // 2
    sums = [samples[middle]]
    for k in range(1, middle + 1):
        sums.append(sums[-1] + samples[middle - k] + samples[middle + k])
    means = [total / (2 * k + 1) for k, total in enumerate(sums)]
    widths = (2 * np.arange(middle + 1) + 1) / _SAMPLES * _SPAN
    fine = torch.float64 if on_opencv(light) else light.dtype  # a difference of two means is what counts
    blurred = []
    for exposure in candidates.tolist():
        if exposure <= widths[0]:
            share = float(exposure / widths[0])
            blurred.append((1 - share) * light.to(fine) + share * means[0].to(fine))
            continue
        upper = int(np.searchsorted(widths, exposure))
        share = float((exposure - widths[upper - 1]) / (widths[upper] - widths[upper - 1]))
        blurred.append((1 - share) * means[upper - 1].to(fine) + share * means[upper].to(fine))
    return blurred


def _band(picture: Tensor) -> Tensor:
    """Without noise and without slow changes of brightness."""
    return gaussian(picture, 1.0) - gaussian(picture, 4.0)


def _unexplained(one: Tensor, two: Tensor) -> Tensor:
    """Share of the contrast around each pixel by which two pictures differ.

    What a small shift of the place explains is taken out first (least squares on the gradient): flow is never exact,
    and a shift is odd where a wrong exposure is even, so the exposure keeps its evidence.
    """
    difference = _band(one - two)
    mean = _band((one + two) / 2)
    across, down = sobel(mean)
    xx, yy, xy = (box(part, _BLOCK) for part in (across * across, down * down, across * down))
    xx, yy = xx + 1e-9, yy + 1e-9
    dx, dy = box(difference * across, _BLOCK), box(difference * down, _BLOCK)
    shift = (yy * dx * dx - 2 * xy * dx * dy + xx * dy * dy) / (xx * yy - xy * xy + 1e-14)
    rest = (box(difference * difference, _BLOCK) - shift.clamp(min=0)).clamp(min=0)
    return (rest + 1e-8) / (box(mean * mean, _BLOCK) + 1e-6)


def _mean(votes: list[_Votes]) -> Array:
    """The weighted mean of all votes' curves, (C,)."""
    weights = np.concatenate([vote.weights for vote in votes])
    return np.asarray(np.average(np.concatenate([vote.curves for vote in votes]), axis=0, weights=weights))


def _lowest(votes: list[_Votes]) -> tuple[float, Array]:
    """Exposure where the votes' weighted mean is lowest, to a fraction of a candidate's step; and that mean (C,)."""
    curve = _mean(votes)
    index = int(curve.argmin())
    exposure = float(CANDIDATES[index])
    if 0 < index < len(curve) - 1:
        left, middle, right = curve[index - 1 : index + 2]
        exposure += 0.5 * float((left - right) / (left - 2 * middle + right)) * float(CANDIDATES[1])
    return min(exposure, LONGEST), curve


def _try_responses(motion: ClipMotion, pairs: list[_ComparedFrames], exposure: float) -> dict[Response, float]:
    """What each response leaves unexplained around the estimated exposure, relative to the sRGB curve."""
    nearest = CANDIDATES[np.argsort(np.abs(CANDIDATES - exposure))[:3]]
    left = {response: _mean([_vote(motion, pair, response, nearest) for pair in pairs]).min() for response in RESPONSES}
    return {response: float(np.exp(value - left["srgb"])) for response, value in left.items()}
