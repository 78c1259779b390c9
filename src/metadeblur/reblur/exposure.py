"""How long the shutter was open and how light became display values, worked out from the blurred clip alone.

Two frames A and B of a clip show the same things blurred by different motions a and b. Blurring A by b's path and B
by a's path gives the same picture, whatever was in it: but only if both paths are cut to the exposure that the
camera had. So for each candidate exposure the warped neighbour and the frame are blurred by each other's motion, and
the difference that is left, over the contrast that is left, is smallest at the true one. Where A is sharp because
nothing moved in it, this is reblurring A until it explains B. Small places vote; places whose two motions are alike
say nothing and are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from metadeblur.linear_light import RESPONSES, Response, to_linear
from metadeblur.reblur.motion import ClipMotion, lengths, parabola

Array = NDArray[Any]

CANDIDATES: Array = np.arange(0.0, 1.71, 0.1)
LONGEST = 1.6
"""No exposure above this is reported: a shutter open for 1.5 frame intervals, and the frames' own blur."""

_SPAN = 1.8  # frame intervals that the samples along a path cover
_SAMPLES = 33
_BLOCK = 16  # px: the places that vote
_SPEED = 14.0  # px a frame that most places have at most in the reduced pictures that are compared
_SLOW = 4.0  # px a frame below which nothing more is given away to reducing
_LARGE = 120_000  # px of the pictures that are compared, at most, where motion is not slow
_BUDGET = 700_000  # px compared altogether: about a second
_DIFFERENT = 6.0  # px^2 by which two motions' outer products differ at least for a place to vote
_TEXTURE = 2e-5  # mean square of the band-passed light for a place to vote


@dataclass(frozen=True)
class ExposureEstimate:
    """What the clip says about its exposure and response.

    Attributes:
        exposure: frame intervals that the shutter was open, 0 to 1.6.
        error: standard error of it, from leaving out one pair of frames after the other.
        contrast: unexplained difference at no exposure over that at the estimate; 1 says nothing.
        pairs: pairs of frames that were compared.
        votes: places that voted.
        response: the curve with the smallest unexplained difference (sRGB where they are too close to tell).
        response_gain: by how much of its value it is smaller than the next best, 0 where sRGB was only kept.
    """

    exposure: float
    error: float
    contrast: float
    pairs: int
    votes: int
    response: Response
    response_gain: float

    @property
    def strong(self) -> bool:
        """Whether the evidence is good enough to use the estimate."""
        return self.votes >= 40 and self.pairs >= 2 and self.contrast >= 1.12 and self.error <= 0.2


@dataclass(frozen=True)
class _Votes:
    """For each place that votes: the logarithm of the unexplained share by candidate (n, C), and its weight (n,)."""

    curves: Array
    weights: Array


def estimate_exposure(motion: ClipMotion) -> ExposureEstimate | None:
    """Exposure and response of a clip, or None where nothing can be compared (too short, too small, all alike).

    Costs about two seconds whatever the clip's length.

    Args:
        motion: the clip's motion.
    """
    pairs = _most_different(motion)
    if not pairs or min(motion.height, motion.width) < 5 * _BLOCK:
        return None
    scale = _comparing_scale(motion, [first for first, _ in pairs])
    height, width = round(motion.height * scale), round(motion.width * scale)
    pairs = pairs[: int(np.clip(_BUDGET // (height * width), 4, 10))]
    votes = [_compare(motion, *pair, height, width, "srgb") for pair in pairs]
    telling = [index for index, vote in enumerate(votes) if len(vote.weights) > 0]
    if not telling:
        return None
    exposure, curve = _lowest([votes[index] for index in telling])
    errors = [_lowest([votes[k] for k in telling if k != index])[0] for index in telling] if len(telling) > 1 else []
    error = float(np.sqrt(np.sum((np.array(errors) - exposure) ** 2) * (1 - 1 / len(errors)))) if errors else LONGEST
    best = sorted(telling, key=lambda index: -float(votes[index].weights.sum()))[:2]
    response, gain = _choose_response(motion, {pairs[index]: votes[index] for index in best}, height, width)
    return ExposureEstimate(
        exposure=exposure,
        error=error,
        contrast=float(np.exp(curve[0] - curve.min())),
        pairs=len(telling),
        votes=sum(len(votes[index].weights) for index in telling),
        response=response,
        response_gain=gain,
    )


def _most_different(motion: ClipMotion) -> list[tuple[int, int]]:
    """Pairs of near frames, those whose motions differ most first."""
    count = len(motion.clip)
    starts = sorted({round(start) for start in np.linspace(1, max(1, count - 3), 24)})
    scored = []
    for start in starts:
        for other in (start + 1, start + 2):
            if other < count - 1:
                a, b = (motion.field(index).velocity[::4, ::4].astype(np.float32) for index in (start, other))
                scored.append((float(np.median(_difference(a, b))), start, other))
    return [(start, other) for _, start, other in sorted(scored, key=lambda item: -item[0])]


def _difference(a: Array, b: Array) -> Array:
    """Frobenius norm of a a^T - b b^T for (..., 2) vectors: how differently two motions blur (px^2)."""
    squares = (a[..., 0] ** 2 - b[..., 0] ** 2) ** 2 + (a[..., 1] ** 2 - b[..., 1] ** 2) ** 2
    return np.asarray(np.sqrt(squares + 2 * (a[..., 0] * a[..., 1] - b[..., 0] * b[..., 1]) ** 2))


def _comparing_scale(motion: ClipMotion, frames: list[int]) -> float:
    """By how much the flow's pictures are reduced further, so that paths are a few pixels long."""
    fastest = [
        float(np.quantile(lengths((motion.field(frame).velocity / motion.step).astype(np.float32)), 0.9))
        for frame in frames[:6]
    ]
    speed = max(float(np.median(fastest)), 1e-3)
    smallest = 5 * _BLOCK / min(motion.height, motion.width)
    largest = max(_SLOW / speed, (_LARGE / (motion.height * motion.width)) ** 0.5)
    return float(np.clip(min(_SPEED / speed, largest), smallest, 1.0))


def _compare(motion: ClipMotion, first: int, second: int, height: int, width: int, response: Response) -> _Votes:
    """Blur the two frames by each other's motion at all candidate exposures; what each place makes of it."""
    size = (width, height)
    ratio = np.array([width / motion.width, height / motion.height], np.float32)

    def flow(index: int, other: int) -> Array:
        return np.asarray(cv2.resize(motion.flow(index, other), size, interpolation=cv2.INTER_AREA) * ratio)

    def light(index: int) -> Array:
        frame = motion.clip[index].permute(1, 2, 0).contiguous().numpy()
        small = cv2.resize(to_linear_array(frame, response), size, interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))

    there, back = flow(first, second), flow(second, first)
    velocity_a, bend_a = parabola(flow(first, first + 1), flow(first, first - 1))
    path_b = np.concatenate(parabola(flow(second, second + 1), flow(second, second - 1)), -1)
    path_b = sample(path_b, there)
    velocity_b, bend_b = path_b[..., :2], path_b[..., 2:]
    by_other = _blurred(light(first), velocity_b, bend_b)
    other_by_own = _blurred(sample(light(second), there, cv2.INTER_CUBIC), velocity_a, bend_a)
    unexplained = np.stack([_unexplained(one, two) for one, two in zip(by_other, other_by_own, strict=True)], -1)
    # The forth and back flow agree where the place is seen in both frames.
    lost = _box(lengths(there + sample(back, there)))
    texture = _box(_band(by_other[len(by_other) // 2]) ** 2)
    difference = _box(_difference(velocity_a, velocity_b))
    places = (slice(2 * _BLOCK, height - 2 * _BLOCK + 1, _BLOCK), slice(2 * _BLOCK, width - 2 * _BLOCK + 1, _BLOCK))
    votes = (lost < 0.7) & (difference > _DIFFERENT) & (texture > _TEXTURE)
    chosen = votes[places]
    return _Votes(np.log(unexplained[places][chosen]), np.minimum(difference[places][chosen], 60.0))


def to_linear_array(picture: Array, response: Response) -> Array:
    """:func:`metadeblur.linear_light.to_linear` for a float32 array."""
    return to_linear(torch.from_numpy(picture), response).numpy()


def sample(picture: Array, displacement: Array, interpolation: int = cv2.INTER_LINEAR) -> Array:
    """``picture`` (h, w) or (h, w, C) read at each pixel's place plus ``displacement`` (h, w, 2)."""
    rows, columns = np.mgrid[0 : displacement.shape[0], 0 : displacement.shape[1]].astype(np.float32)
    return np.asarray(
        cv2.remap(
            picture,
            columns + displacement[..., 0],
            rows + displacement[..., 1],
            interpolation,
            borderMode=cv2.BORDER_REPLICATE,
        )
    )


def _blurred(light: Array, velocity: Array, bend: Array) -> list[Array]:
    """``light`` (h, w) averaged along the paths at each candidate exposure.

    The samples are taken once over the longest span; sums over ever wider parts of it serve all candidates.
    """
    times = ((np.arange(_SAMPLES) + 0.5) / _SAMPLES - 0.5) * _SPAN
    samples = [sample(light, -(s * velocity + s * s * bend).astype(np.float32), cv2.INTER_CUBIC) for s in times]
    middle = _SAMPLES // 2
    sums = [samples[middle]]
    for k in range(1, middle + 1):
        sums.append(sums[-1] + samples[middle - k] + samples[middle + k])
    means = [total / (2 * k + 1) for k, total in enumerate(sums)]
    widths = (2 * np.arange(middle + 1) + 1) / _SAMPLES * _SPAN
    blurred = []
    for exposure in CANDIDATES:
        if exposure <= widths[0]:
            share = exposure / widths[0]
            blurred.append((1 - share) * light + share * means[0] if share < 1 else means[0])
            continue
        upper = int(np.searchsorted(widths, exposure))
        share = (exposure - widths[upper - 1]) / (widths[upper] - widths[upper - 1])
        blurred.append((1 - share) * means[upper - 1] + share * means[upper])
    return blurred


def _band(picture: Array) -> Array:
    """Without noise and without slow changes of brightness."""
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), 1.0) - cv2.GaussianBlur(picture, (0, 0), 4.0))


def _box(picture: Array) -> Array:
    return np.asarray(cv2.boxFilter(picture, -1, (_BLOCK, _BLOCK)))


def _unexplained(one: Array, two: Array) -> Array:
    """Share of the contrast around each pixel by which two pictures differ.

    What a small shift of the place explains is taken out first (least squares on the gradient): flow is never exact,
    and a shift is odd where a wrong exposure is even, so the exposure keeps its evidence.
    """
    difference = _band(one - two)
    mean = _band((one + two) / 2)
    across, down = cv2.Sobel(mean, -1, 1, 0, scale=1 / 8), cv2.Sobel(mean, -1, 0, 1, scale=1 / 8)
    xx, yy, xy = _box(across * across) + 1e-9, _box(down * down) + 1e-9, _box(across * down)
    dx, dy = _box(difference * across), _box(difference * down)
    shift = (yy * dx * dx - 2 * xy * dx * dy + xx * dy * dy) / (xx * yy - xy * xy + 1e-14)
    rest = np.maximum(_box(difference * difference) - np.maximum(shift, 0), 0)
    return np.asarray((rest + 1e-8) / (_box(mean * mean) + 1e-6))


def _lowest(votes: list[_Votes]) -> tuple[float, Array]:
    """Exposure where the votes' weighted mean is lowest, to a fraction of a candidate's step; and that mean (C,)."""
    weights = np.concatenate([vote.weights for vote in votes])
    curve = np.average(np.concatenate([vote.curves for vote in votes]), axis=0, weights=weights)
    index = int(curve.argmin())
    exposure = float(CANDIDATES[index])
    if 0 < index < len(curve) - 1:
        left, middle, right = curve[index - 1 : index + 2]
        exposure += 0.5 * float((left - right) / (left - 2 * middle + right)) * float(CANDIDATES[1])
    return min(exposure, LONGEST), curve


def _choose_response(
    motion: ClipMotion, known: dict[tuple[int, int], _Votes], height: int, width: int
) -> tuple[Response, float]:
    """The response with the least unexplained difference, and its lead over the next best.

    Args:
        motion: the clip's motion.
        known: the votes of the pairs to compare under the sRGB curve.
        height: of the pictures that are compared, px.
        width: of them, px.
    """
    least: dict[Response, float] = {}
    for response in RESPONSES:
        votes = [
            vote if response == "srgb" else _compare(motion, *pair, height, width, response)
            for pair, vote in known.items()
        ]
        votes = [vote for vote in votes if len(vote.weights) > 0]
        if votes:
            least[response] = float(_lowest(votes)[1].min())
    if len(least) < len(RESPONSES):
        return "srgb", 0.0
    ranked = sorted(least, key=lambda response: least[response])
    gain = 1 - float(np.exp(least[ranked[0]] - least["srgb"]))
    if ranked[0] == "srgb":
        return "srgb", 1 - float(np.exp(least["srgb"] - least[ranked[1]]))
    return (ranked[0], gain) if gain > 0.1 else ("srgb", 0.0)
