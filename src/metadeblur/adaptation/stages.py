"""Adaptation: fit a copy of a deblurrer to one blurred clip, without ground truth, and let the guard judge it.

The inner update of "Meta Transferring for Deblurring" (Liu et al., BMVC 2022, section 3, Eq. 3-6): relatively sharp
patches of the clip are reblurred with the clip's own kind of blur, and the deblurrer takes gradient steps on these
pairs with its own loss. The blur comes from the clip's optical flow, or from the paper's reblurring network, which is
fitted to the clip first (:mod:`metadeblur.reblur.fitting`). Nothing here takes sharp frames: there is no way to hand it
any. Beyond the paper, the clip's frames also help each other once restored, and what they leave unexplained of the
blurred ones corrects them (:mod:`metadeblur.restoration.fusion`): the adapted model carries the wish, and whoever
restores the clip with it does so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from metadeblur.adaptation.budget import Budget
from metadeblur.adaptation.places import MINIMUM_FRAMES, SupportSet, choose_support, too_few
from metadeblur.adaptation.settings import AdaptSettings, preset
from metadeblur.adaptation.steps import Moved, Pair, Progress, inner_update
from metadeblur.adaptation.targets import Sharpener
from metadeblur.clip import Clip
from metadeblur.guard.judge import Reason, blend, judge, judge_fusion, look_before, sharp_at_times
from metadeblur.guard.learnable import nothing_to_learn
from metadeblur.models.adapted import FusionSettings, fusion_of, with_fusion
from metadeblur.models.forward import frozen, uses_bf16
from metadeblur.models.registry import Loss, traits
from metadeblur.reblur.fitting import Item, NetworkReblurrer, ReblurStage, collect, fit_stage
from metadeblur.reblur.flow import FlowReblurrer, fit_flow_reblurrer
from metadeblur.reblur.place import Place, Shrunk, place_window
from metadeblur.reblur.reblurrer import Reblurrer
from metadeblur.reblur.weights import load_reblurrer
from metadeblur.system.device import choose_device
from metadeblur.system.memory import Costs

__all__ = [
    "AdaptSettings",
    "Moved",
    "Outcome",
    "Pair",
    "PairSource",
    "adapt",
    "fit_network",
    "inner_update",
    "make_pairs",
    "mark_shrunk",
    "preset",
    "still_share",
]

REBLUR_SHARE = 0.5
"""Of the time budget, for fitting a reblurring network; the steps on the pairs get most of the rest."""

GUARD_ROUNDS, FUSION_ROUNDS = 2.0, 2.5
"""What the guard takes, in the time for the base model's part of its votes: shares that are tried (mostly one or two)
with the held-out pairs, and fusing."""


@dataclass
class Outcome:
    """What adaptation gave: the network to use, how much of it is adapted, and why."""

    model: nn.Module  # to be used: base, adapted, or between
    share: float  # of the adapted weights, 0 (base) to 1 (whole)
    reasons: tuple[Reason, ...]
    fusion: FusionSettings | None = None  # how frames would be fused, before the guard
    history: list[dict[str, float]] = field(default_factory=list)  # step, loss, seconds of the deblurrer's steps
    reblurrer: Reblurrer | None = None
    support: SupportSet | None = None
    pairs: list[Pair] = field(default_factory=list)  # the support set's training pairs
    adapted: nn.Module | None = None  # before the guard (share 1); None where no step was taken or it diverged
    seconds: dict[str, float] = field(default_factory=dict)  # by stage
    memory_mb: dict[str, float] = field(default_factory=dict)  # most memory held in each stage
    reblur_history: list[dict[str, float]] = field(default_factory=list)  # terms of the reblurrer's steps, see updates

    @property
    def fused(self) -> bool:
        """Whether frames that the model restores are fused with their neighbours."""
        return fusion_of(self.model) is not None

    @property
    def back_projected(self) -> bool:
        """Whether fused frames are also corrected by what they leave unexplained."""
        chosen = fusion_of(self.model)
        return chosen is not None and chosen.exposure is not None

    def to_record(self) -> dict[str, Any]:
        """The plain values that the record of a run keeps."""
        places = self.support.train if self.support else ()
        return {
            "share": self.share,
            "adapted": self.share > 0,
            "fused": self.fused,
            "back_projected": self.back_projected,
            "fusion": asdict(self.fusion) if self.fusion else None,
            "reasons": [asdict(reason) for reason in self.reasons],
            "pairs": [asdict(place) for place in places],
            "scores": list(self.support.frame_scores) if self.support else [],
            "losses": self.history,
            "reblur_losses": self.reblur_history,
            "reblurrer": self.reblurrer.describe() if self.reblurrer else None,
            "seconds": self.seconds,
            "stage_memory_mb": self.memory_mb,
        }


def adapt(
    net: nn.Module,
    clip: Clip,
    *,
    settings: AdaptSettings | None = None,
    reblurrer: Reblurrer | None = None,
    loss: Loss | None = None,
    pair_source: PairSource | None = None,
    progress: Progress | None = None,
    **overrides: Any,
) -> Outcome:
    """Adapt a copy of ``net`` to a blurred clip.

    Args:
        net: any deblurrer (B, 3, H, W) -> (B, 3, H, W), or (B, N, 3, H, W) with an attribute ``frames``; not changed.
        clip: the blurred clip; its frames are read several times, so a long one should be in memory.
        settings: see :class:`AdaptSettings`; by default those of :func:`preset` "flow", or with ``reblur="network"``
            those of "paper".
        reblurrer: makes the pseudo-blurred patches; by default the clip's optical flow, or the network that the
            settings name. A :class:`~metadeblur.reblur.fitting.NetworkReblurrer` is fitted to the clip first.
        loss: the deblurrer's own loss on (output, sharp); by default its attribute ``loss``, or L1.
        pair_source: makes the pairs that are learnt from; by default :func:`make_pairs`. The guard's are always those.
        progress: called with (steps done, steps in all, stage).
        **overrides: single fields of the settings, such as ``steps=40, seed=0``.

    Returns:
        The outcome; where nothing could be adapted (too short a clip, nothing moves, steps that diverge), its model is
        a copy of ``net`` and its reasons say why.

    Raises:
        MetadeblurError: a setting out of range, or the weights of the reblurring network are missing.
        TypeError: an override that is no setting.
    """
    if settings is None:
        settings = preset("paper" if overrides.get("reblur") == "network" else "flow")
    settings = settings.changed(**overrides)
    device = choose_device(settings.device)
    # A plain copy: hooks and buffers come along, gradients and the caller's mode do not matter.
    base = frozen(net).to(device)
    if not settings.fuse:
        with_fusion(base, None)  # the mark of weights that were adapted before
    if len(clip) < MINIMUM_FRAMES:
        text = f"{too_few(len(clip))} (at least {MINIMUM_FRAMES}); the base model is used"
        return Outcome(base, 0.0, (Reason("length", float(len(clip)), float(MINIMUM_FRAMES), False, text),))
    nothing = nothing_to_learn(clip)
    if nothing is not None:
        return Outcome(base, 0.0, (nothing,))
    if reblurrer is None and settings.reblur == "network":
        reblurrer = load_reblurrer(settings.reblurrer)
    generator = torch.Generator().manual_seed(settings.seed)
    costs, budget = Costs(device), Budget(settings.budget_seconds)
    with costs.stage("select"):
        support = choose_support(
            clip,
            pairs=settings.pairs,
            patch=settings.patch,
            held_out=settings.held_out,
            method=settings.method,
            margin=settings.margin,
            generator=generator,
        )
    outcome = Outcome(base, 0.0, (), support=support, seconds=costs.seconds, memory_mb=costs.memory_mb)
    moved: Moved | None = None
    if isinstance(reblurrer, NetworkReblurrer):
        with costs.stage("fit reblurrer"):
            frames = max(reblurrer.frames, traits(net).frames)
            items = collect(clip, support.train, frames, settings.updates.real, generator)
            reblurrer, moved, failure = fit_network(reblurrer, base, items, settings, loss=loss, progress=progress)
        outcome.reblur_history = list(reblurrer.history)
        if failure is not None:
            outcome.reasons = (failure,)
            return outcome
    with costs.stage("reblur"):
        if reblurrer is None:
            reblurrer = fit_flow_reblurrer(clip, places=support.train, generator=generator)
        outcome.reblurrer = reblurrer
        frames = traits(net).frames
        # The paper's network learns the clip's blur on the clip's own patches, so that is what it blurs.
        first = settings.restore_first and not isinstance(reblurrer, NetworkReblurrer)
        from_clip = partial(make_pairs, sharpener=Sharpener(base, clip) if first else None)
        source, places = pair_source, support.train
        if source is None:
            source = partial(from_clip, still=still_share(clip, frames, settings))
            places = mark_shrunk(places, reblurrer, settings)
        train, outcome.pairs = budget.places(
            places, lambda some: source(clip, some, reblurrer, settings.blurs, frames, generator)
        )
        held = support.held_out[: math.ceil(len(support.held_out) * len(train) / max(len(support.train), 1))]
        held_out = from_clip(clip, held, reblurrer, 1, frames, generator)
        outcome.support = replace(support, train=tuple(train), held_out=held)
    before, witness, known = None, reblurrer, list[Pair]()
    if isinstance(reblurrer, NetworkReblurrer) and (settings.guard or settings.fuse):
        with costs.stage("guard"):  # the clip's own motion knows nothing of what the network has learnt
            seeded = torch.Generator().manual_seed(settings.seed)
            witness = fit_flow_reblurrer(clip, places=support.train, generator=seeded)
            if settings.guard:
                known = make_pairs(clip, held, witness, 1, frames, seeded, sharpener=Sharpener(base, clip))
    if settings.guard and budget.limited:
        with costs.stage("guard"):
            before = look_before(base, clip, witness)
            budget.kept_back = before.seconds * (GUARD_ROUNDS + FUSION_ROUNDS * settings.fuse)
    with costs.stage("adapt"):
        adapted, outcome.history, failure = inner_update(
            base,
            outcome.pairs,
            replace(settings, budget_seconds=budget.left()) if budget.limited else settings,
            generator,
            loss=loss,
            moved=moved,
            progress=progress,
        )
    if failure is not None:
        outcome.reasons = (failure,)
        return outcome
    outcome.fusion = _fusion(settings, witness)
    outcome.adapted = with_fusion(adapted, outcome.fusion)
    if not settings.guard:
        outcome.model, outcome.share = adapted, 1.0
        outcome.reasons = (Reason("guard", 1.0, 1.0, True, "the guard was switched off: the adaptation is used whole"),)
        return outcome
    with costs.stage("guard"):
        verdict = judge(
            base,
            adapted,
            clip,
            [(pair.blurred, pair.sharp) for pair in held_out],
            known=[(pair.blurred, pair.sharp) for pair in known],
            reblurrer=witness,
            before=before,
        )
        outcome.share, outcome.reasons = verdict.share, verdict.reasons
        if verdict.share > 0:
            outcome.model = blend(base, adapted, verdict.share)
        # Frames help each other whatever the weights have learnt: votes of their own decide.
        if outcome.fusion is not None:
            chosen, reasons = judge_fusion(outcome.model, clip, outcome.fusion, reblurrer=witness)
            outcome.reasons += reasons
            with_fusion(outcome.model, chosen)
    return outcome


def _fusion(settings: AdaptSettings, reblurrer: Reblurrer) -> FusionSettings | None:
    """How restored frames of the clip are to be fused, and corrected where the clip tells its exposure."""
    if not settings.fuse:
        return None
    if not settings.back_project or not isinstance(reblurrer, FlowReblurrer):
        return FusionSettings()
    return FusionSettings(exposure=reblurrer.exposure or None, response=reblurrer.response)


def fit_network(
    reblurrer: NetworkReblurrer,
    base: nn.Module,
    items: Sequence[Item],
    settings: AdaptSettings,
    *,
    loss: Loss | None = None,
    progress: Progress | None = None,
) -> tuple[NetworkReblurrer, Moved | None, Reason | None]:
    """Fit a copy of the reblurring network and its critic to a clip (paper, Eq. 3 and 4).

    Args:
        reblurrer: to start from; not changed.
        base: the deblurrer of the cycle loss; not changed.
        items: one for each place of the support set.
        settings: its ``updates`` say how; precision, time budget, and the deblurrer's rate where it moves too.
        loss: the deblurrer's own loss, if not its attribute.
        progress: called with (steps done, steps in all, stage).

    Returns:
        The fitted reblurrer, what the deblurrer's stage goes on with (preset "release"), and why it cannot be used.
    """
    updates, device = settings.updates, next(base.parameters()).device
    bf16 = uses_bf16(settings.precision, device)
    if updates.losses == "none":
        return reblurrer.ready(device, bf16=bf16), None, None
    stage = ReblurStage(reblurrer, base, updates, loss=loss, lr_deblurrer=settings.lr, bf16=bf16)
    history, said = fit_stage(stage, items, seconds=settings.budget_seconds * REBLUR_SHARE, progress=progress)
    failure = Reason("diverged", history[-1]["loss"], 0.0, False, said) if said else None
    moved = Moved(stage.deblurrer, stage.optimizer) if updates.shared_adam else None
    return stage.result(history), moved, failure


def make_pairs(
    clip: Clip,
    places: Sequence[Place],
    reblurrer: Reblurrer,
    blurs: int,
    frames: int,
    generator: torch.Generator,
    *,
    sharpener: Sharpener | None = None,
    still: float = 0.0,
) -> list[Pair]:
    """Reblur the pseudo-sharp patch of every place ``blurs`` times, all once and without gradient (paper, Eq. 5).

    With a ``sharpener`` the patch is restored first, so that a place that is never sharp does not teach blur, and
    what lies around places marked ``shrunk`` is shrunk as well before the clip's motion blurs it. A video deblurrer
    gets a window: its neighbours move as the blur says where the reblurrer knows the motion, else they are the clip's
    own (docs/fidelity.md, CDVD-TSP). Of such windows a share ``still``, drawn at random, keeps its centre sharp between
    blurred neighbours, as where a camera stops for a moment: that things move does not say that they blur.
    """
    pairs = []
    for place in places:
        smaller: Shrunk | None = None
        source = clip
        if sharpener and place.shrunk and isinstance(reblurrer, FlowReblurrer):
            smaller = sharpener.shrunk(place)
        elif sharpener:
            source = sharpener(place)
        window = place_window(source, place, frames)
        sharp = smaller.patch if smaller else window[frames // 2]
        for _ in range(blurs):
            if isinstance(reblurrer, FlowReblurrer):
                blurred = reblurrer.reblur_window(source, place, frames, generator, smaller)
                blurred = blurred if frames > 1 else blurred[0]
                if frames > 1 and still and float(torch.rand((), generator=generator)) < still:
                    blurred[frames // 2] = sharp
            else:
                blurred = reblurrer.reblur(source, place, generator)
                if frames > 1:
                    blurred = torch.cat([window[: frames // 2], blurred[None], window[frames // 2 + 1 :]])
            pairs.append(Pair(blurred, sharp))
    return pairs


def mark_shrunk(places: Sequence[Place], reblurrer: Reblurrer, settings: AdaptSettings) -> tuple[Place, ...]:
    """The places, those marked to be shrunk whose pseudo-sharp patch is blurred itself.

    A patch from a still moment shows things as sharp as they are; one from a moving one is as sharp only when shrunk.
    """
    if not settings.restore_first or not settings.shrink_from or not isinstance(reblurrer, FlowReblurrer):
        return tuple(places)
    return tuple(replace(place, shrunk=reblurrer.blur_at(place) >= settings.shrink_from) for place in places)


def still_share(clip: Clip, frames: int, settings: AdaptSettings) -> float:
    """Share of the pairs whose centre stays sharp, for a deblurrer of so many frames.

    None where the clip has no sharp moments that could be taken for blurred, or the deblurrer sees no neighbours.
    """
    return settings.still if settings.still and frames > 1 and sharp_at_times(clip) else 0.0


PairSource = Callable[[Clip, Sequence[Place], Reblurrer, int, int, torch.Generator], list[Pair]]
"""Makes training pairs from (clip, places, reblurrer, pairs a place, frames of the deblurrer, generator)."""
