"""Keep, weaken or drop an adaptation, with reasons.

Held-out pseudo pairs choose the share of the adaptation first. They were made by the reblurrer that made the training
pairs, so they nearly always say "keep"; where that is a network, the same patches blurred by the clip's own motion have
to say so too. Independent votes, which need no truth, look at restored frames of the clip and may veto a share. A
vetoed share gives way to the next smaller one, but frames that do not explain the blurred ones drop the adaptation.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from metadeblur.clip import Clip, as_clip
from metadeblur.errors import MetadeblurError
from metadeblur.guard.votes import (
    FUSION_VOTES,
    VOTES,
    GuardSettings,
    Sample,
    Vote,
    VoteKind,
    choose_samples,
    compare,
    look_at,
)
from metadeblur.imaging.clip_cache import ClipCache
from metadeblur.imaging.quality import psnr
from metadeblur.models.adapted import FusionSettings
from metadeblur.models.registry import traits
from metadeblur.restoration.fusion import fuse_frames
from metadeblur.restoration.pieces import Piece, PieceRestorer, restorer_for
from metadeblur.system.device import choose_device

TELLING_DB = 0.02
"""Difference of mean PSNR on the held-out pairs under which one share is not called better than another."""

_HOPE = 1.25  # times the share that is expected to pass: shares up to this are tried

_FUSED = "with each frame fused with its neighbours"
_NOT_FUSED = "frames are not fused"
_CORRECTED = "with each frame fused with its neighbours and corrected by what it leaves unexplained"
_NOT_CORRECTED = "frames are not corrected"


@dataclass(frozen=True)
class Reason:
    """One vote on an adaptation: for the record and for people."""

    name: str  # what was looked at
    figure: float  # what was measured
    limit: float  # what is still allowed, or what is needed at least
    passed: bool  # whether the vote is for the adaptation
    text: str  # one plain sentence
    excused: bool = False  # passed although the figure is beyond the limit, for what the sentence says


@dataclass(frozen=True)
class Verdict:
    """What the guard decided."""

    share: float  # of the adaptation to use, 0 (dropped) to 1 (kept whole)
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class Before:
    """The base model's figures that votes compare with."""

    samples: tuple[Sample, ...]
    figures: dict[str, float]  # see metadeblur.guard.votes.look_at
    seconds: float  # that it took


def look_before(
    base: nn.Module,
    clip: Clip,
    reblurrer: Any = None,
    settings: GuardSettings | None = None,
    cache: ClipCache | None = None,
) -> Before:
    """Restore some frames with the base model and take the figures that the votes compare; see :func:`judge`.

    Raises:
        MetadeblurError: the base gives values that are not finite.
    """
    began = time.monotonic()
    clip, cache = _there(clip, base), cache or ClipCache()
    samples = choose_samples(clip, traits(base).frames, settings or GuardSettings(), cache)
    figures = look_at(samples, _restored(base, samples, cache), reblurrer, cache)
    return Before(tuple(samples), figures, time.monotonic() - began)


def judge(
    base: nn.Module,
    adapted: nn.Module,
    clip: Clip,
    held_out: Sequence[tuple[Tensor, Tensor]],
    *,
    motion_pairs: Sequence[tuple[Tensor, Tensor]] = (),
    reblurrer: Any = None,
    before: Before | None = None,
    settings: GuardSettings | None = None,
    until: float = math.inf,
    cache: ClipCache | None = None,
) -> Verdict:
    """Choose how much of an adaptation to use.

    Args:
        base: the deblurrer before.
        adapted: after; same architecture. Neither is changed.
        clip: the blurred clip; a few of its frames are restored.
        held_out: pairs that the adaptation has not seen: pseudo-blurred (3, P, P), or (N, 3, P, P) for a video
            deblurrer, and pseudo-sharp (3, P, P), in [0, 1].
        motion_pairs: where a network blurred those pairs: the same places blurred by the clip's own motion. An
            adaptation that is not better on these too is dropped.
        reblurrer: the clip's :class:`~metadeblur.reblur.flow.FlowReblurrer`; with it, restored frames are blurred again
            by the clip's own motion and must explain the blurred ones. Others: this vote is not taken.
        before: what :func:`look_before` gave, where it was called before.
        settings: limits and amounts.
        until: on the monotonic clock: no further share is tried from then on.
        cache: of the clip.

    Raises:
        MetadeblurError: the base itself gives values that are not finite.
    """
    clip, settings, cache = _there(clip, base), settings or GuardSettings(), cache or ClipCache()
    broken = _broken_weights(adapted)
    if broken is not None:
        return Verdict(0.0, (broken,))
    shares = sorted(set(settings.shares), reverse=True)
    gains, by_motion = (_Gains(base, adapted, some, cache) for some in (held_out, motion_pairs))
    try:
        best = gains.best(shares)
        gain = gains.of(best) if held_out else 0.0
        pairs = _pairs_reason(gain, best, settings.least_gain_db, len(held_out))
        if not pairs.passed:
            return Verdict(0.0, (pairs,))
        # A few patches do not tell shares apart whose gains are nearly the same: the largest of these is tried first.
        enough = min(gain - TELLING_DB, settings.least_gain_db)
        most = max(share for share in shares if share in gains.measured and gains.of(share) >= gain - TELLING_DB)
        shares = [share for share in shares if share <= most]
        agreed: tuple[Reason, ...] = ()
        if motion_pairs:
            agreed = (_motion_reason(by_motion.of(most), most, settings.least_gain_db, len(motion_pairs)),)
            if not agreed[0].passed:
                return Verdict(0.0, (pairs, *agreed))
    except _NotFiniteError as error:
        return Verdict(0.0, (error.reason,))
    before = before or look_before(base, clip, reblurrer, settings, cache)
    vetoes: list[Reason] = []
    while shares and not (vetoes and time.monotonic() > until):
        share, *shares = shares
        try:
            gain = gains.of(share)
            agreement = by_motion.of(share) if motion_pairs else math.inf
        except _NotFiniteError as error:
            return Verdict(0.0, (error.reason,))
        if gain < enough:
            continue
        try:
            restored = _restored(blend(base, adapted, share), before.samples, cache)
        except MetadeblurError as error:
            vetoes.append(Reason("finite", share, 0.0, False, f"{_percent(share)} of the adaptation: {error}"))
            continue
        case = f"with {_percent(share)} of the adaptation"
        votes = compare(
            before.figures,
            look_at(before.samples, restored, reblurrer, cache),
            pairs=min(gain, agreement),
        )
        reasons = [_vote_reason(vote, VOTES[vote.name], case) for vote in votes]
        failed = [reason for reason in reasons if not reason.passed]
        if not failed:
            chosen = _pairs_reason(gain, share, enough, len(held_out))
            return Verdict(share, (chosen, *agreed, *vetoes, *reasons))
        vetoes += failed
        if any(VOTES[reason.name].fatal for reason in failed):
            break
        shares = _worth_trying(shares, share, [vote for vote in votes if not vote.passed])
    return Verdict(0.0, (pairs, *agreed, *vetoes))


def _worth_trying(smaller: Sequence[float], share: float, vetoes: Sequence[Vote]) -> list[float]:
    """Those of the smaller shares that may pass: what a vote measures grows about evenly with the share.

    >>> _worth_trying([0.75, 0.5, 0.25], 1.0, [Vote("sharpness", figure=0.25, base=0.0, limit=0.1, passed=False)])
    [0.5, 0.25]
    """
    reach = min(share * (vote.limit - vote.base) / (vote.figure - vote.base) for vote in vetoes)
    return [some for some in smaller if some <= _HOPE * reach] or list(smaller[-1:])


def judge_fusion(
    model: nn.Module,
    clip: Clip,
    fusion: FusionSettings,
    *,
    reblurrer: Any = None,
    settings: GuardSettings | None = None,
    cache: ClipCache | None = None,
) -> tuple[FusionSettings | None, tuple[Reason, ...]]:
    """Whether restored frames should be fused with their neighbours, by the same votes on the same places.

    Where ``fusion`` says to correct frames too and a vote is against that, fusing alone is voted on.

    Returns:
        How to fuse, or None where votes are against it; and the votes: those of what is chosen, and every veto.
    """
    clip, settings, cache = _there(clip, model), settings or GuardSettings(), cache or ClipCache()
    smaller = replace(settings, pixels=min(settings.pixels, settings.fusion_pixels))
    samples = choose_samples(clip, traits(model).frames, smaller, cache)
    # One frame more: those at a piece's ends are fused with the others but not corrected before.
    radius = min(fusion.radius, settings.fusion_radius)
    pieces = [_Piece.around(sample, clip, model, radius + 1, cache) for sample in samples]
    alone = [piece.restored[piece.middle.start : piece.middle.stop] for piece in pieces]
    base = look_at(samples, alone, reblurrer, cache)
    vetoes: list[Reason] = []
    fused_only = replace(fusion, exposure=None)
    for candidate in dict.fromkeys((fusion, fused_only)):
        corrected = candidate.exposure is not None
        how = replace(candidate, radius=radius)
        after = [fuse_frames(piece.blurred, piece.restored, how, piece.middle, cache) for piece in pieces]
        case = (_CORRECTED, _NOT_CORRECTED) if corrected else (_FUSED, _NOT_FUSED)
        reasons = [
            replace(
                _vote_reason(vote, FUSION_VOTES[vote.name], *case),
                name=f"{'back-projection' if corrected else 'fusion'}: {vote.name}",
            )
            for vote in compare(base, look_at(samples, after, reblurrer, cache), FUSION_VOTES)
        ]
        failed = [reason for reason in reasons if not reason.passed]
        if not failed:
            return candidate, (*vetoes, *reasons)
        vetoes += failed
    return None, tuple(vetoes)


@dataclass(frozen=True)
class _Piece:
    """A sample with as many neighbours as fusing takes, restored."""

    blurred: Tensor  # (K, 3, h, w)
    restored: Tensor  # (K, 3, h, w)
    middle: range  # where the sample's own frames are

    @classmethod
    def around(cls, sample: Sample, clip: Clip, model: nn.Module, radius: int, cache: ClipCache) -> _Piece:
        """Restores the sample and ``radius`` frames to each side."""
        first = max(0, sample.first - radius)
        stop = min(len(clip), sample.first + len(sample.blurred) + radius)
        windows = sample.frames_of(clip, range(first, stop))
        wide = replace(sample, first=first, windows=windows, blurred=windows[:, windows.shape[1] // 2])
        middle = range(sample.first - first, sample.first - first + len(sample.blurred))
        return cls(wide.blurred, _restored(model, [wide], cache)[0], middle)


def blend(base: nn.Module, adapted: nn.Module, share: float) -> nn.Module:
    """A copy of ``base`` whose weights lie between it and ``adapted``: (1 - share) base + share adapted.

    >>> one, three = nn.Linear(1, 1), nn.Linear(1, 1)
    >>> _ = nn.init.ones_(one.weight), nn.init.constant_(three.weight, 3.0)
    >>> blend(one, three, 0.25).weight.item()
    1.5
    """
    between = copy.deepcopy(base)
    goal = dict(_tensors(adapted))
    with torch.no_grad():
        for name, value in _tensors(between):
            if share == 1 or not value.is_floating_point():
                value.copy_(goal[name])
            else:
                value.lerp_(goal[name].to(value), share)
    return between


def _tensors(net: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers, each once: a state dict has one that modules share under all its names."""
    return [*net.named_parameters(), *net.named_buffers()]


def _there(clip: Clip, net: nn.Module) -> Clip:
    """A clip with its frames where the network is, which is where the votes are worked out."""
    return as_clip(clip).to(choose_device(None, net))


class _NotFiniteError(Exception):
    """A share gives values that are not finite."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.text)
        self.reason = reason


class _Gains:
    """Mean PSNR that shares win over the base on pairs, dB; each is measured when it is asked for."""

    def __init__(
        self, base: nn.Module, adapted: nn.Module, pairs: Sequence[tuple[Tensor, Tensor]], cache: ClipCache
    ) -> None:
        self._base, self._adapted, self._pairs, self._cache = base, adapted, pairs, cache
        self._reference: float | None = None
        self.measured: dict[float, float] = {}

    def of(self, share: float) -> float:
        """The gain of a share."""
        if share not in self.measured:
            if self._reference is None:
                self._reference = _mean_psnr(self._base, self._pairs, self._cache)
            try:
                restored = _mean_psnr(blend(self._base, self._adapted, share), self._pairs, self._cache)
            except MetadeblurError as error:
                text = f"{_percent(share)} of the adaptation: {error}"
                raise _NotFiniteError(Reason("finite", share, 0.0, False, text)) from error
            self.measured[share] = restored - self._reference
        return self.measured[share]

    def best(self, shares: Sequence[float]) -> float:
        """The share that wins most, of shares that fall; 0 without pairs.

        The gain rises and then falls along the way from the base to the adapted weights. So the search from above ends
        at the first share that wins clearly less than one before.
        """
        best = 0.0
        for share in shares if self._pairs else ():
            if best and self.of(share) < self.of(best) - TELLING_DB:
                break
            if not best or self.of(share) > self.of(best):
                best = share
        return best


def _mean_psnr(net: nn.Module, pairs: Sequence[tuple[Tensor, Tensor]], cache: ClipCache) -> float:
    """Mean PSNR in dB of restored pseudo-blurred against pseudo-sharp patches."""
    height, width = pairs[0][1].shape[-2:]
    restorer = restorer_for(net, height, width, cache)
    return math.fsum(float(psnr(restorer.there(blurred), sharp)) for blurred, sharp in pairs) / len(pairs)


def _restored(net: nn.Module, samples: Sequence[Sample], cache: ClipCache) -> list[Tensor]:
    """Restored frames of each sample, (K, 3, h, w), where the network is."""
    if not samples:
        return []
    height, width = samples[0].blurred.shape[-2:]
    pieces = PieceRestorer(net, cache)

    def restored(sample: Sample, number: int) -> Tensor:
        piece = Piece(sample.first + number, sample.top, sample.left, height, width)
        return pieces(piece, lambda: sample.windows[number])

    return [torch.stack([restored(sample, number) for number in range(len(sample.windows))]) for sample in samples]


def _broken_weights(adapted: nn.Module) -> Reason | None:
    """The reason against weights that are not finite."""
    values = [*adapted.parameters(), *adapted.buffers()]
    count = sum(int((~value.isfinite()).sum()) for value in values if value.is_floating_point())
    if count == 0:
        return None
    text = f"{count} of the adapted weights are not finite numbers: the adaptation is dropped"
    return Reason("finite", float(count), 0.0, False, text)


def _pairs_reason(gain: float, share: float, least: float, count: int) -> Reason:
    """The vote of the held-out pairs."""
    if count == 0:
        text = "no pseudo pairs were held out, so nothing proves that the adaptation helps: it is dropped"
        return Reason("held-out pairs", 0.0, least, False, text)
    return _gain_reason("held-out pairs", gain, share, least, f"{count} held-out pseudo pairs", "not enough better")


def _motion_reason(gain: float, share: float, least: float, count: int) -> Reason:
    """The vote of held-out patches blurred by the clip's own motion, where a network blurred the pairs."""
    what = f"{count} held-out patches blurred by the clip's own motion"
    return _gain_reason(
        "motion pairs", gain, share, least, what, "so another blur than the clip's was learnt: not better"
    )


def _gain_reason(name: str, gain: float, share: float, least: float, what: str, complaint: str) -> Reason:
    """The vote of pairs: gain over the base model."""
    passed = gain >= least
    verdict = "better than the base model" if passed else f"{complaint} than the base model: it is dropped"
    text = (
        f"on {what}, {_percent(share)} of the adaptation is {gain:+.2f} dB (at least {least:+.2f} dB is asked for), "
        f"{verdict}"
    )
    return Reason(name, gain, least, passed, text)


def _vote_reason(vote: Vote, kind: VoteKind, case: str, against: str = "") -> Reason:
    """A vote in words; ``case`` says what was judged, ``against`` replaces the kind's complaint."""
    relation = "at least" if kind.at_least else "at most"
    verdict = f"; let pass: {vote.excuse}" if vote.excuse else "" if vote.passed else f": {against or kind.complaint}"
    text = (
        f"{case}, {kind.subject} is {vote.figure:.2f} {kind.unit} "
        f"(base {vote.base:.2f}, {relation} {vote.limit:.2f} allowed){verdict}"
    )
    return Reason(vote.name, vote.figure, vote.limit, vote.passed, text, bool(vote.excuse))


def _percent(share: float) -> str:
    return "the whole" if share == 1 else f"{100 * share:.0f} %"
