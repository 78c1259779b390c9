"""Where a clip is sharp enough to learn from: the places of the support set (paper, section 3.1 and Figure 2).

At a place, a square patch of one position, the sharpest of the co-located patches of all frames is the pseudo-sharp
one and the most blurred is the real blurred sample. Which places is either the paper's choice (random) or a better
one (guided): sharp, textured, steady, spread over the picture and over the frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metadeblur.clip import Clip, as_clip
from metadeblur.errors import MetadeblurError
from metadeblur.imaging.optical_flow import flows_between
from metadeblur.imaging.primitives import array, resize
from metadeblur.imaging.sharpness import Indices, box_sums, score_frame
from metadeblur.reblur.place import Place
from metadeblur.system.names import counted
from metadeblur.types import Method

MINIMUM_PATCH = 32
"""Smallest side of a support patch, in pixels."""

MINIMUM_FRAMES = 5
"""Fewest frames of a clip that adaptation is tried on."""

_FRAMES_TO_SPLIT = 6  # with fewer frames, held-out places are apart in space, not in frames
_COARSE_SHIFT = 8  # px: structure of this size survives motion blur, and its absence is flatness
_FLAT_DB = 30.0  # a patch that differs by less (8 levels of 255) from itself moved by 8 px teaches nothing
_FADED = 0.3  # of the usual contrast of a clip's frames, below which a frame shows too little of the scene
_LARGEST_OVERLAP = 0.8  # intersection over union of two places of one frame
_FRAME_COST = 0.013  # of a place's merit (0 to 1), for each place that its frame has already given
_TOGETHER = 16  # frames whose flows a device works out at once
_OVERLAP_COST = 0.067  # of a place's merit, for each wholly overlapping place of any frame

_Floats = npt.NDArray[np.float64]
_Mask = npt.NDArray[np.bool_]


def too_few(frames: int) -> str:
    """The words for a clip of too few frames.

    >>> too_few(1), too_few(3)
    ('1 frame is too few to adapt to', '3 frames are too few to adapt to')
    """
    return f"{counted(frames, 'frame')} {'is' if frames == 1 else 'are'} too few to adapt to"


@dataclass(frozen=True)
class SupportSet:
    """The places that a clip adapts on, and those kept apart for the guard."""

    train: tuple[Place, ...]  # M places
    held_out: tuple[Place, ...]  # additional places; from 6 frames on no frame is centre of both kinds
    patch: int  # side of every place, px
    frame_scores: tuple[float, ...]  # mean self-shift score of each frame over all candidate places, dB


@dataclass(frozen=True)
class _Survey:
    """Measures of K candidate places of one size in T frames, taken in one pass over the clip."""

    tops: Indices  # (K,)
    lefts: Indices  # (K,)
    size: int
    scores: _Floats  # (T, K) self-shift, dB
    coarse: _Floats  # (T, K) the same with a shift of 8 px, dB: high where flat
    motion: _Floats  # (T, K) mean length of the flow to the faster neighbour frame, px
    contrast: _Floats  # (T,) standard deviation of each frame, display values

    @property
    def blurred(self) -> _Floats:
        """The scores (T, K) of frames that show the scene, -inf for others: what has faded is not blurred."""
        shown = _telling(self.contrast, np.ones(len(self.contrast), dtype=np.bool_))
        return np.where(shown[:, None], self.scores, -np.inf)


@dataclass
class _Picked:
    """Candidates chosen so far, with the frame that each is sharpest in."""

    candidates: list[int]
    frames: list[int]


def choose_support(
    clip: Clip,
    *,
    pairs: int = 20,
    patch: int = 256,
    held_out: float = 0.25,
    method: Method = "guided",
    candidates: int = 400,
    minimum_frames: int = MINIMUM_FRAMES,
    margin: int = 0,
    generator: torch.Generator,
) -> SupportSet:
    """Chooses the support set of a clip; every frame is read once, whatever the number of places.

    Candidate places are drawn at random, and their co-located patches are scored in one pass. "random" takes them as
    drawn, as the paper does. "guided" takes those of highest merit: half of it is little flow to the neighbouring
    frames, a quarter a low score, a quarter a large gap between the most blurred frame and the sharpest, each as a
    rank. Flat places come last; frames and regions that have given places cost merit.

    From 6 frames on, every fifth frame (at the default share), by mean score, gives held-out places only. In shorter
    clips they may share a frame with train places, but overlap them as little as possible.

    Args:
        clip: at least ``minimum_frames`` frames, 32x32 pixels or more.
        pairs: M, the number of train places; fewer where the frame has fewer distinct places.
        patch: side of the places, px; at most 3/4 of the frame's shorter side, in multiples of 8, and at least 32.
        held_out: further places, as a share of ``pairs``, rounded up.
        method: "guided" or "random".
        candidates: number of places looked at.
        minimum_frames: fewest frames.
        margin: frames at each end that give no pseudo-sharp patch; the paper's release leaves out 2.
        generator: draws the candidates.

    Raises:
        MetadeblurError: too few frames, frames or patch too small, or a setting out of range.

    >>> import torch
    >>> frames = torch.rand(8, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    >>> support = choose_support(Clip(frames), pairs=4, patch=32, generator=torch.Generator().manual_seed(0))
    >>> len(support.train), len(support.held_out), support.patch, len(support.frame_scores)
    (4, 1, 32, 8)
    """
    clip = as_clip(clip)
    _check_settings(pairs, held_out, method, candidates)
    if not 0 <= margin < len(clip) / 2:
        raise MetadeblurError(
            f"margin is {margin}; {clip.name} has {counted(len(clip), 'frame')}, of which it must leave at least one"
        )
    if len(clip) < minimum_frames:
        raise MetadeblurError(
            f"{clip.name}: {too_few(len(clip))}; at least {minimum_frames} are needed, use the base model for this clip"
        )
    size = fit_patch(clip, patch)
    extra = math.ceil(held_out * pairs)
    tops, lefts = _draw(clip, size, max(candidates, 2 * (pairs + extra)), generator)
    survey = _survey(clip, tops, lefts, size, guided=method == "guided")
    inside = np.zeros(len(clip), dtype=np.bool_)
    inside[margin : len(clip) - margin] = True
    inside &= _telling(survey.contrast, inside)
    if extra and inside.sum() >= _FRAMES_TO_SPLIT:
        kept = inside.copy()
        kept[inside] = _held_out_frames(survey.scores.mean(1)[inside], extra / (pairs + extra))
        train = _choose(survey, pairs, inside & ~kept, inside, method)
        held = _choose(survey, extra, kept, inside, method)
    else:
        train = _choose(survey, pairs, inside, inside, method)
        held = _choose(survey, extra, inside, inside, method, avoid=train)
    return SupportSet(
        train=_places(survey, train),
        held_out=_places(survey, held),
        patch=size,
        frame_scores=tuple(float(score) for score in survey.scores.mean(1)),
    )


def _check_settings(pairs: int, held_out: float, method: str, candidates: int) -> None:
    """Refuses settings out of range."""
    if pairs < 1:
        raise MetadeblurError(f"pairs is {pairs}; adaptation needs 1 or more (the paper uses 20)")
    if not 0 <= held_out <= 1:
        raise MetadeblurError(f"held_out is {held_out}; it is a share of the pairs, 0 to 1")
    if method not in get_args(Method):
        raise MetadeblurError(f"method is {method!r}; choose one of {', '.join(get_args(Method))}")
    if candidates < 1:
        raise MetadeblurError(f"candidates is {candidates}; look at 1 place or more")


def fit_patch(clip: Clip, patch: int) -> int:
    """The side of a clip's patches that is used: a multiple of 8 that leaves places room to differ.

    Raises:
        MetadeblurError: frames or patch are too small.
    """
    shorter = min(clip.height, clip.width)
    if shorter < MINIMUM_PATCH:
        raise MetadeblurError(
            f"{clip.name}: frames of {clip.width}x{clip.height} are too small to adapt to; "
            f"both sides must have {MINIMUM_PATCH} pixels or more"
        )
    if patch < MINIMUM_PATCH:
        raise MetadeblurError(f"patch is {patch} px; use {MINIMUM_PATCH} or more")
    return min(patch // 8 * 8, max(MINIMUM_PATCH, shorter * 3 // 4 // 8 * 8))


def _draw(clip: Clip, size: int, count: int, generator: torch.Generator) -> tuple[Indices, Indices]:
    """Distinct random top-left corners, ``count`` of them or as many as there are."""
    columns = clip.width - size + 1
    corners = (clip.height - size + 1) * columns
    if corners <= 4 * count:
        drawn = torch.randperm(corners, generator=generator)[:count].tolist()
    else:
        drawn = list(dict.fromkeys(torch.randint(corners, (2 * count,), generator=generator).tolist()))[:count]
    tops, lefts = np.divmod(np.asarray(drawn, dtype=np.int64), columns)
    return tops, lefts


def _survey(clip: Clip, tops: Indices, lefts: Indices, size: int, *, guided: bool) -> _Survey:
    """Looks at every frame once, where it is; what is measured comes back in the end."""
    scores, coarse, motion, contrast = [], [], [], []
    factor = max(1, min(clip.height, clip.width) // 180)  # motion is as visible in a small picture, and cheaper
    small = (tops // factor, lefts // factor, size // factor, size // factor)
    pictures: list[Tensor] = []
    for number, frame in enumerate(clip, 1):
        scores.append(score_frame(frame, tops, lefts, size, size))
        contrast.append(frame.std())
        if guided:
            coarse.append(score_frame(frame, tops, lefts, size, size, shift=_COARSE_SHIFT))
            pictures.append(_small_grey(frame, factor))
            if len(pictures) > _TOGETHER or number == len(clip):
                for flow in flows_between(list(pairwise(pictures))):
                    lengths = flow.square().sum(-1).sqrt()
                    motion.append(box_sums(lengths, *small) * factor / (small[2] * small[3]))
                pictures = pictures[-1:]
    still = np.zeros((1, len(tops)))
    neighbours = np.concatenate([still, *([_in_memory(motion)] if motion else []), still])
    fastest = np.maximum(neighbours[:-1], neighbours[1:])
    return _Survey(tops, lefts, size, _in_memory(scores), _in_memory(coarse or scores), fastest, _in_memory(contrast))


def _in_memory(measured: list[Tensor]) -> _Floats:
    """What was measured of each frame, together."""
    return array(torch.stack(measured).cpu().double())


def _small_grey(frame: Tensor, factor: int) -> Tensor:
    """A frame (3, H, W) as 8-bit grey, reduced by a whole factor."""
    grey = (frame * frame.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0).clamp(0, 1).mul(255)
    height, width = grey.shape
    return resize(grey, (height // factor, width // factor), "area").round().byte()


def _telling(contrast: _Floats, inside: _Mask) -> _Mask:
    """Frames (T,) that show the scene: not those in which it has gone in a fade, a flash or a black frame."""
    return np.asarray(contrast >= _FADED * np.median(contrast[inside]))


def _held_out_frames(frame_scores: _Floats, share: float) -> _Mask:
    """Frames (T,) whose places are held out: spread evenly over the order of sharpness, the sharpest left to train."""
    count = min(len(frame_scores) - 1, max(1, round(share * len(frame_scores))))
    order = frame_scores.argsort(kind="stable")
    ranks = ((np.arange(count) + 0.5) * len(order) / count).astype(np.int64)
    kept = np.zeros(len(order), dtype=np.bool_)
    kept[order[np.maximum(ranks, 1)]] = True
    return kept


def _choose(
    survey: _Survey, count: int, allowed: _Mask, inside: _Mask, method: Method, avoid: _Picked | None = None
) -> _Picked:
    """Chooses up to ``count`` places whose pseudo-sharp frame is one of the allowed ones (T,).

    Places come first where no other frame ``inside`` the margins (T,) is sharper.
    """
    frames = np.where(allowed[:, None], survey.scores, np.inf).argmin(0)
    own = frames == np.where(inside[:, None], survey.scores, np.inf).argmin(0)
    if method == "guided":
        return _choose_guided(survey, count, frames, _merit(survey, frames) - ~own, avoid)
    order = np.argsort(~own, kind="stable").tolist()
    if avoid is not None:
        taken = set(avoid.candidates)
        order = [candidate for candidate in order if candidate not in taken]
    return _Picked(order[:count], [int(frames[candidate]) for candidate in order[:count]])


def _merit(survey: _Survey, frames: Indices) -> _Floats:
    """How much each candidate is worth with its pseudo-sharp frame, (K,): 0 to 1, minus 1 where it is flat."""
    own = np.arange(len(frames))
    score = survey.scores[frames, own]
    gap = survey.blurred.max(0) - score
    flat = survey.coarse[frames, own] > _FLAT_DB
    return 0.25 * _rank(-score) + 0.25 * _rank(gap) + 0.5 * _rank(-survey.motion[frames, own]) - flat


def _rank(values: _Floats) -> _Floats:
    """Share of the other values that are lower, (K,), 0 to 1."""
    return np.searchsorted(np.sort(values), values) / max(1, len(values) - 1)


def _choose_guided(survey: _Survey, count: int, frames: Indices, merit: _Floats, avoid: _Picked | None) -> _Picked:
    """Takes the best place again and again; taken ones cost merit around them and in their frame."""
    merit, clash = merit.copy(), np.zeros(len(merit))
    picked = _Picked([], [])
    if avoid is not None:
        for candidate, frame in zip(avoid.candidates, avoid.frames, strict=True):
            clash = np.maximum(clash, _overlaps(survey, candidate) * (frames == frame))
            clash[candidate] = 1.0
        # Train and held-out places of one frame should not share pixels: any overlap outweighs merit.
        merit -= (clash > 0) + 2 * clash
    for _ in range(min(count, len(merit) - int((clash == 1).sum()))):
        best = int((merit - 4 * (clash > _LARGEST_OVERLAP) - 8 * (clash == 1)).argmax())
        picked.candidates.append(best)
        picked.frames.append(int(frames[best]))
        overlap, same = _overlaps(survey, best), frames == frames[best]
        merit -= _OVERLAP_COST * overlap + _FRAME_COST * same
        clash = np.maximum(clash, overlap * same)
    return picked


def _overlaps(survey: _Survey, candidate: int) -> _Floats:
    """Intersection over union of a candidate with every other, (K,); 1 only with itself."""
    rows = np.maximum(0, survey.size - np.abs(survey.tops - survey.tops[candidate]))
    columns = np.maximum(0, survey.size - np.abs(survey.lefts - survey.lefts[candidate]))
    shared = rows * columns
    return np.asarray(shared / (2 * survey.size**2 - shared), dtype=np.float64)


def _places(survey: _Survey, picked: _Picked) -> tuple[Place, ...]:
    """The chosen candidates as places."""
    places, scores = [], survey.blurred
    for candidate, frame in zip(picked.candidates, picked.frames, strict=True):
        blurred = int(scores[:, candidate].argmax())
        places.append(
            Place(
                frame=frame,
                top=int(survey.tops[candidate]),
                left=int(survey.lefts[candidate]),
                size=survey.size,
                score=float(survey.scores[frame, candidate]),
                blurred_frame=blurred,
                blurred_score=float(survey.scores[blurred, candidate]),
            )
        )
    return tuple(places)
