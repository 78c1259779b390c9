"""Votes on an adaptation that need no truth: what restored frames of the clip look like beside the base model's.

Each vote has a figure for the adapted and for the base model, and a limit: what is normal for true sharp frames, or a
little more than the base model's own figure where that is higher, so that an adaptation is not blamed for its base.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from metadeblur.clip import Clip, as_clip
from metadeblur.errors import MetadeblurError
from metadeblur.imaging.brightness import changes
from metadeblur.imaging.clip_cache import ClipCache
from metadeblur.imaging.primitives import finest
from metadeblur.imaging.quality import colour_shift, dis_flow, flicker, ringing
from metadeblur.imaging.sharpness import self_shift_score
from metadeblur.limits import Count, Pixels, Within, check, spelt
from metadeblur.reblur.flow import FlowReblurrer
from metadeblur.reblur.paths import Spot, blur_patch, paths

_BLOCK = 32  # px: side of the regions in which divergence is looked for
_GRID = 16  # px: crops lie on multiples of this


@spelt
@dataclass(frozen=True)
class GuardSettings:
    """How an adaptation is judged."""

    # tried, besides dropping it
    shares: tuple[Annotated[float, Within(0, 1, above=True)], ...] = (1.0, 0.75, 0.5, 0.25)
    # mean PSNR on the held-out pairs that an adaptation must win over the base
    least_gain_db: Annotated[float, Within(-100, 100)] = 0.001
    spots: Count = 3  # places in the clip whose frames are restored for the votes; two neighbouring frames at each
    pixels: Pixels = 240_000  # px; larger frames are cropped to about this for the votes
    # neighbours to each side that frames are fused with for the votes on fusing, at most, and px of those frames
    fusion_radius: Count = 2
    fusion_pixels: Pixels = 80_000

    def __post_init__(self) -> None:
        check(self)
        if not self.shares:
            raise MetadeblurError("shares is empty; give one or more above 0 and at most 1")


CHEAP = GuardSettings(shares=(1.0, 0.5), spots=1, pixels=60_000, fusion_radius=1, fusion_pixels=60_000)
"""A guard for sweeps (``guard="cheap"``): all votes, but at one place of the clip instead of three, on a quarter of the
pixels, of the whole and the half of an adaptation alone, with one neighbour to each side fused."""

CHEAP_PAIRS = 2
"""Held-out pairs that it looks at."""


@dataclass(frozen=True)
class VoteKind:
    """The words of a vote, and the limit from which it is a veto."""

    subject: str
    unit: str
    complaint: str  # said with a veto
    normal: float  # figures up to this are normal (with at_least: from this on)
    slack: float  # how much worse than the base a figure may be where the base is not normal itself
    at_least: bool = False
    fatal: bool = False  # whether a veto drops the adaptation, instead of trying a smaller share


VOTES: dict[str, VoteKind] = {
    "colour drift": VoteKind(
        "the shift of broad colours against the blurred frames",
        "levels of 255",
        "the adaptation changes the colours",
        1.2,
        0.5,
    ),
    "ringing": VoteKind(
        "the overshoot beside strong edges",
        "levels of 255",
        "the adaptation over-sharpens",
        1.2,
        0.4,
    ),
    "divergence": VoteKind(
        "the change in the most changed regions, against their own contrast,",
        "of it",
        "the adaptation invents what the blurred frames do not hold",
        1.0,
        0.3,
    ),
    "flicker": VoteKind(
        "the unsteadiness from frame to frame",
        "levels of 255",
        "the adaptation makes the picture flicker",
        0.5,
        0.4,
    ),
    "reblur consistency": VoteKind(
        "the agreement with the blurred frames after blurring again by the clip's own motion",
        "dB over the base model",
        "the adapted frames explain the blurred ones worse",
        # In the guard's trial on the built-in clips, honest adaptations that won lay at -0.04 dB or above, and of those
        # that lost more than 0.05 dB and were let through, two of four at -0.41 or below.
        -0.4,
        0.0,
        at_least=True,
        fatal=True,
    ),
    "sharpness": VoteKind(
        "the self-shift score",
        "dB over the base model (lower is sharper)",
        "the adaptation learnt to leave blur in",
        0.1,
        0.0,
    ),
}

FUSION_VOTES = VOTES | {
    "reblur consistency": replace(VOTES["reblur consistency"], normal=-2.5),
    "sharpness": replace(VOTES["sharpness"], normal=1.5),
}
"""Votes on fusing: averaging takes noise away, which looks like blur, and moves things by parts of a pixel. On 19 clips
that all won by it, consistency was -1.2 to 2.7 dB and the self-shift score rose by up to 1.1 dB."""

CLEARLY_EXPLAINED = 2.0
"""dB of reblur consistency from which restored frames may be less sharp than the base model's: it overdid them."""

BETTER_EXPLAINED, CLEARLY_BETTER_PAIRS = 1.5, 1.25
"""dB of reblur consistency, where it is known, and of gain on the held-out pairs, from which together they excuse too.
MAXIM, which overdoes many things, won 0.7 and 2.1 dB with 1.8 and 3.5 dB explained better; lite won 0.1 with 1.9,
and lost up to 0.5 where it became softer with 0.1 to 1.2 (docs/results/guard.md)."""


@dataclass(frozen=True)
class Sample:
    """Some neighbouring frames of the clip at one place: what goes into the network, and what it is compared with."""

    first: int  # frame
    top: int  # px
    left: int  # px
    windows: Tensor  # (K, N, 3, h, w): K neighbouring frames, with the neighbours that the network takes
    blurred: Tensor  # (K, 3, h, w); both where the clip's frames are

    def frames_of(self, clip: Clip, indices: Sequence[int]) -> Tensor:
        """The windows of other frames of the clip, cut out at the same place: (len(indices), N, 3, h, w)."""
        height, width = self.blurred.shape[-2:]
        cut = (..., slice(self.top, self.top + height), slice(self.left, self.left + width))
        return torch.stack([clip.window(index, self.windows.shape[1])[cut] for index in indices])


@dataclass(frozen=True)
class Vote:
    """One vote as measured."""

    name: str
    figure: float
    base: float
    limit: float
    passed: bool
    excuse: str = ""  # why it passed although its figure is beyond the limit


def choose_samples(clip: Clip, frames: int, settings: GuardSettings, cache: ClipCache | None = None) -> list[Sample]:
    """Pairs of neighbouring frames spread over the clip, cropped where they are large, each elsewhere in the frame.

    Frames of different brightness are no pair. Where the clip's brightness changes, the two frames of its greatest
    change are samples too: what follows optical flow fails there first. ``frames`` is what the network takes at once.
    """
    clip = as_clip(clip)
    scale = min(1.0, math.sqrt(settings.pixels / (clip.height * clip.width)))
    height, width = (_crop_side(side, scale) for side in (clip.height, clip.width))
    firsts = sorted(
        {int((2 * spot + 1) * max(len(clip) - 1, 1) / (2 * settings.spots)) for spot in range(settings.spots)}
    )
    steps = changes(clip, cache)
    wanted = [
        (first, [first, first + 1][: 1 if first + 1 in steps or first + 1 == len(clip) else 2]) for first in firsts
    ]
    if steps:
        step = max(steps, key=lambda number: steps[number])
        wanted += [(number, [number]) for number in (step - 1, step)]
    samples = []
    for number, (first, following) in enumerate(wanted):
        # Middle, then towards one corner, then towards the opposite one, and so on.
        place = (0.5, 0.25, 0.75)[number % 3]
        top, left = (int((whole - part) * place) for whole, part in ((clip.height, height), (clip.width, width)))
        windows = torch.stack([clip.window(index, frames) for index in following])
        windows = windows[..., top : top + height, left : left + width].contiguous()
        samples.append(Sample(first, top, left, windows, windows[:, frames // 2]))
    return samples


def _crop_side(side: int, scale: float) -> int:
    return side if scale == 1 else min(side, max(_GRID, int(side * scale) // _GRID * _GRID))


def look_at(
    samples: Sequence[Sample], restored: Sequence[Tensor], reblurrer: Any = None, cache: ClipCache | None = None
) -> dict[str, float]:
    """The figures of restored frames that votes compare, by the vote's name.

    Args:
        samples: what was restored.
        restored: (K, 3, h, w) for each sample, where this is.
        reblurrer: of the clip; the vote on reblurring needs a FlowReblurrer that knows the exposure.
        cache: of the clip.
    """
    blurred, frames = torch.cat([sample.blurred for sample in samples]), torch.cat(list(restored))
    figures = {
        "colour drift": float(colour_shift(frames, blurred).mean()),
        "ringing": float(ringing(frames, blurred).mean()),
        "divergence": divergence(frames, blurred),
    }
    if any(len(sample.blurred) > 1 for sample in samples):
        figures["flicker"] = _mean_flicker(samples, restored, cache)
    if isinstance(reblurrer, FlowReblurrer) and reblurrer.exposure is not None:
        figures["reblur consistency"] = -10 * math.log10(_reblur_error(samples, restored, reblurrer))
    return figures | {"sharpness": float(self_shift_score(frames).mean())}


def compare(
    before: Mapping[str, float], after: Mapping[str, float], kinds: Mapping[str, VoteKind] = VOTES, pairs: float = 0.0
) -> list[Vote]:
    """All votes on the figures of :func:`look_at` for the base and the adapted model's frames.

    ``pairs`` is the gain over the base on the held-out pairs, dB.
    """
    votes = []
    explained = None
    if "reblur consistency" in after:
        explained = after["reblur consistency"] - before["reblur consistency"]
    for name, figure in after.items():
        kind, base = kinds[name], before[name]
        if name == "reblur consistency":
            votes.append(Vote(name, explained or 0.0, 0.0, kind.normal, (explained or 0.0) >= kind.normal))
        elif name == "sharpness":
            blurrier = figure - base
            excuse = _may_be_softer(explained, pairs) if blurrier > kind.normal else ""
            votes.append(Vote(name, blurrier, 0.0, kind.normal, blurrier <= kind.normal or bool(excuse), excuse))
        else:
            limit = max(kind.normal, base + kind.slack)
            votes.append(Vote(name, figure, base, limit, figure <= limit))
    return votes


def _may_be_softer(explained: float | None, pairs: float) -> str:
    """Why adapted frames may be less sharp than the base model's, or nothing; both figures are dB over the base."""
    again = "" if explained is None else f"blurred again, the frames explain the clip {explained:.2f} dB better"
    if explained is not None and explained >= CLEARLY_EXPLAINED:
        return f"{again} (from {CLEARLY_EXPLAINED:.2f} on they may be softer: the base model overdid them)"
    if pairs < CLEARLY_BETTER_PAIRS or (explained is not None and explained < BETTER_EXPLAINED):
        return ""
    both = f"{again}, and held-out pairs are" if again else "held-out pairs are"
    return f"{both} {pairs:.2f} dB better (so much says that the base model overdid the frames)"


def divergence(restored: Tensor, blurred: Tensor) -> float:
    """How far the most changed regions are from the blurred input, against the contrast around them.

    Deblurring moves light about within the reach of the blur, so a region cannot change much more than the contrast of
    its neighbourhood. Root mean square of the change in blocks of 32 px, over the standard deviation of the blurred
    frame in three by three blocks (at least 2.5 levels of 255); the 98 % quantile over all blocks. Both (B, 3, H, W).
    """
    side = min(_BLOCK, *blurred.shape[-2:])
    change = F.avg_pool2d((restored - blurred).square(), side).mean(1, keepdim=True)
    mean, square = (F.avg_pool2d(part, side) for part in (blurred, blurred.square()))
    mean, square = (F.avg_pool2d(part, 3, 1, 1, count_include_pad=False) for part in (mean, square))
    contrast = (square - mean.square()).mean(1, keepdim=True).clamp_min((2.5 / 255) ** 2)
    return float((change / contrast).sqrt().flatten().quantile(0.98))


def _mean_flicker(samples: Sequence[Sample], frames: Sequence[Tensor], cache: ClipCache | None) -> float:
    """Mean flicker over the samples with two frames, in levels of 255."""
    pairs = [(some, sample.blurred) for some, sample in zip(frames, samples, strict=True) if len(some) > 1]
    flow = partial(dis_flow, cache=cache)
    return math.fsum(flicker(some, blurred, flow=flow) for some, blurred in pairs) / len(pairs)


def _reblur_error(samples: Sequence[Sample], frames: Sequence[Tensor], reblurrer: FlowReblurrer) -> float:
    """Mean squared difference between restored frames, blurred again, and the blurred frames."""
    errors = []
    for sample, restored in zip(samples, frames, strict=True):
        height, width = restored.shape[-2:]
        for number, picture in enumerate(restored):
            velocity, bend = _paths(reblurrer, sample.first + number, sample.top, sample.left, height, width)
            exposure = float(reblurrer.exposure or 0.0)
            again, _ = blur_patch(picture, 0, 0, velocity, bend, exposure, reblurrer.response)
            inside = _inside(velocity, exposure).to(again.device)
            difference = (again - sample.blurred[number]).square().mean(0)
            errors.append(float(difference[inside].mean()) if inside.any() else float(difference.mean()))
    return max(math.fsum(errors) / len(errors), 1e-10)


def _paths(reblurrer: FlowReblurrer, frame: int, top: int, left: int, height: int, width: int) -> list[Tensor]:
    """Velocity and bend (h, w, 2) of a crop."""
    side = max(height, width)
    both = paths(reblurrer.clip_motion, Spot(frame, top, left, side), side)
    return [part[:height, :width].contiguous() for part in both]


def _inside(velocity: Tensor, exposure: float) -> Tensor:
    """Where (h, w) all the light on a pixel's path comes from inside the crop."""
    height, width = velocity.shape[:2]
    reach = velocity.abs() * exposure / 2
    rows, columns = (torch.arange(side, device=reach.device, dtype=finest(reach.device)) for side in (height, width))
    rows = rows[:, None]
    across = (columns - reach[..., 0] >= 0) & (columns + reach[..., 0] <= width - 1)
    down = (rows - reach[..., 1] >= 0) & (rows + reach[..., 1] <= height - 1)
    return across & down
