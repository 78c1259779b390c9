"""Adaptation: fit a copy of a deblurrer to one blurred clip, without ground truth, and let the guard judge it.

The inner update of "Meta Transferring for Deblurring" (Liu et al., BMVC 2022, section 3, Eq. 3-6): relatively sharp
patches of the clip are reblurred with the clip's own kind of blur, and the deblurrer takes gradient steps on these
pairs with its own loss. The blur comes from the clip's optical flow, or from the paper's reblurring network, which is
fitted to the clip first (:mod:`metadeblur.reblur.fitting`). Nothing here takes sharp frames: there is no way to hand it
any. Beyond the paper, the clip's frames also help each other once restored, and what they leave unexplained of the
blurred ones corrects them (:mod:`metadeblur.restoration.fusion`): the adapted model says so
(:class:`~metadeblur.models.adapted.AdaptedModel`), and the restorer does it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from metadeblur.adaptation.budget import LEAST_STEPS, PIECE_PIXELS, Budget, GuardPlan
from metadeblur.adaptation.pairs import PairSource, make_pairs, mark_shrunk, still_share
from metadeblur.adaptation.places import MINIMUM_FRAMES, SupportSet, choose_support, too_few
from metadeblur.adaptation.settings import AdaptSettings, preset
from metadeblur.adaptation.steps import Moved, Pair, Progress, inner_update
from metadeblur.adaptation.targets import Sharpener
from metadeblur.clip import Clip
from metadeblur.guard.judge import Reason, blend, judge, judge_fusion, look_before
from metadeblur.guard.learnable import nothing_to_learn
from metadeblur.guard.votes import GuardSettings
from metadeblur.imaging.clip_cache import ClipCache
from metadeblur.models.adapted import FusionSettings, fusion_of, unwrapped, with_fusion
from metadeblur.models.forward import frozen, uses_bf16
from metadeblur.models.registry import Loss, traits
from metadeblur.reblur.fitting import Item, NetworkReblurrer, ReblurStage, collect, fit_stage
from metadeblur.reblur.flow import fit_flow_reblurrer
from metadeblur.reblur.reblurrer import Reblurrer
from metadeblur.reblur.weights import load_reblurrer
from metadeblur.system.device import choose_device
from metadeblur.system.memory import StageMeter
from metadeblur.system.names import counted
from metadeblur.types import Effort

__all__ = [
    "AdaptSettings",
    "Moved",
    "Outcome",
    "Pair",
    "adapt",
    "fit_network",
    "inner_update",
    "preset",
]

NOTHING_LEARNT = "nothing learnt in this time"
"""Where a time limit leaves too little for learning: frames are only fused and corrected, as with effort "quick"."""

REBLUR_SHARE = 0.5
"""Of the time budget, for fitting a reblurring network; the steps on the pairs get most of the rest."""


@dataclass(frozen=True)
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
    cache: ClipCache | None = None,
    effort: Effort = "balanced",
    **overrides: Any,
) -> Outcome:
    """Adapt a copy of ``net`` to a blurred clip.

    Args:
        net: any deblurrer (B, 3, H, W) -> (B, 3, H, W), or (B, N, 3, H, W) with an attribute ``frames``; not changed.
        clip: the blurred clip; its frames are read several times, so a long one should be in memory.
        settings: see :class:`AdaptSettings`; by default those of :func:`preset` with the name of the effort, or with
            ``reblur="network"`` those of "paper".
        reblurrer: makes the pseudo-blurred patches; by default the clip's optical flow, or the network that the
            settings name. A :class:`~metadeblur.reblur.fitting.NetworkReblurrer` is fitted to the clip first.
        loss: the deblurrer's own loss on (output, sharp); by default its attribute ``loss``, or L1.
        pair_source: makes the pairs that are learnt from; by default :func:`make_pairs`. The guard's are always those.
        progress: called with (steps done, steps in all, stage).
        cache: of the clip, where it was looked at before.
        effort: "quick" (no weights are learnt), "balanced" or "best"; where settings are given, they decide.
        **overrides: single fields of the settings, such as ``steps=40, seed=0``.

    Returns:
        The outcome; where nothing could be adapted (too short a clip, nothing moves, steps that diverge), its model is
        a copy of ``net`` and its reasons say why.

    Raises:
        MetadeblurError: a setting out of range, or the weights of the reblurring network are missing.
        TypeError: an override that is no setting.
    """
    if settings is None:
        settings = preset("paper" if overrides.get("reblur") == "network" else effort)
    settings = settings.changed(**overrides)
    device = choose_device(settings.device, net)
    # A plain copy: hooks and buffers come along, gradients and the caller's mode do not matter.
    base = frozen(unwrapped(net)).to(device)
    unchanged = with_fusion(base, fusion_of(net) if settings.fuse else None)  # the net may have been adapted before
    if len(clip) < MINIMUM_FRAMES:
        text = f"{too_few(len(clip))} (at least {MINIMUM_FRAMES}); the base model is used"
        return Outcome(unchanged, 0.0, (Reason("length", float(len(clip)), float(MINIMUM_FRAMES), False, text),))
    nothing = nothing_to_learn(clip)
    if nothing is not None:
        return Outcome(unchanged, 0.0, (nothing,))
    generator, costs, cache = torch.Generator().manual_seed(settings.seed), StageMeter(device), cache or ClipCache()
    context = _Context(base, clip, settings, generator, costs, Budget(settings.budget_seconds), cache, loss, progress)

    if settings.steps_on(1) == 0 and reblurrer is None:
        return _only_fused(context, unchanged)
    if reblurrer is None and settings.reblur == "network":
        reblurrer = load_reblurrer(settings.reblurrer)
    support = _select_places(context)
    fitted = _fit_reblurrer(context, support, reblurrer)
    outcome = Outcome(
        unchanged,
        0.0,
        () if fitted.failure is None else (fitted.failure,),
        support=support,
        seconds=costs.seconds,
        memory_mb=costs.memory_mb,
        reblur_history=fitted.history,
    )
    if fitted.failure is not None:
        return outcome
    witness, plan, too_little = _plan_time(context, support, fitted.reblurrer)
    if too_little is not None and plan is not None:
        quick = _only_fused(context, unchanged, witness, plan.settings)
        return replace(quick, reasons=(too_little, *quick.reasons))
    material = _make_pairs(context, support, witness, pair_source, plan)
    stepped = _take_steps(context, material, fitted.moved)
    enough = min(LEAST_STEPS, settings.steps_on(len(material.pairs)))
    if plan is not None and stepped.failure is None and len(stepped.history) < enough:
        taken = counted(len(stepped.history), "gradient step")
        text = f"{NOTHING_LEARNT}: it was over after {taken}, of {enough} at least"
        reason = Reason("time", float(len(stepped.history)), float(enough), False, text)
        quick = _only_fused(context, unchanged, material.witness, plan.settings)
        return replace(quick, reasons=(reason, *quick.reasons), support=material.support)
    outcome = replace(
        outcome,
        reblurrer=material.reblurrer,
        support=material.support,
        pairs=material.pairs,
        history=stepped.history,
    )
    if stepped.failure is not None:
        return replace(outcome, reasons=(stepped.failure,))
    return _judge(context, outcome, material, stepped)


@dataclass(frozen=True)
class _Context:
    """What all stages of one adaptation work with."""

    base: nn.Module  # frozen copy of the deblurrer
    clip: Clip
    settings: AdaptSettings
    generator: torch.Generator  # all randomness, drawn in the order of the stages
    costs: StageMeter
    budget: Budget
    cache: ClipCache  # flows and figures of the clip, for all stages
    loss: Loss | None
    progress: Progress | None

    @property
    def frames(self) -> int:
        """Frames that the deblurrer takes."""
        return traits(self.base).frames


@dataclass(frozen=True)
class _FittedReblurrer:
    """A fitted reblurrer, or the failure; neither: flow is to be fitted with the pairs."""

    reblurrer: Reblurrer | None
    moved: Moved | None = None
    failure: Reason | None = None
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class _Material:
    """What is learnt from, and what the guard has to judge by."""

    reblurrer: Reblurrer
    witness: Reblurrer  # blurs by the clip's own motion, whatever made the pairs
    support: SupportSet
    pairs: list[Pair]  # to learn from
    held_out: list[Pair]  # for the guard alone
    motion_pairs: list[Pair]  # the same places, blurred by the witness where that is another
    guard: GuardSettings | None  # what the guard looks at, where time is limited


@dataclass(frozen=True)
class _Stepped:
    """The network after its gradient steps, or why they failed."""

    adapted: nn.Module
    history: list[dict[str, float]]
    failure: Reason | None


def _only_fused(
    context: _Context, unchanged: nn.Module, witness: Reblurrer | None = None, guard: GuardSettings | None = None
) -> Outcome:
    """Learn no weights: only fuse and correct the base model's frames, where the guard's votes let it."""
    outcome = Outcome(unchanged, 0.0, (), seconds=context.costs.seconds, memory_mb=context.costs.memory_mb)
    if not context.settings.fuse:
        return outcome
    if witness is None:
        with context.costs.stage("reblur"):
            witness = fit_flow_reblurrer(context.clip, generator=context.generator, cache=context.cache)
    fusion = _fusion(context.settings, witness)
    model, reasons = with_fusion(context.base, fusion), tuple[Reason, ...]()
    if context.settings.guard:
        with context.costs.stage("guard"):
            model, reasons = _fused_if_allowed(context, context.base, fusion, witness, guard)
    return replace(outcome, model=model, reasons=reasons, fusion=fusion, reblurrer=witness)


def _fusion(settings: AdaptSettings, witness: Reblurrer) -> FusionSettings:
    """How frames of the clip are fused: corrected too, where its exposure is known and that is wanted."""
    return witness.fusion() if settings.back_project else FusionSettings()


def _fused_if_allowed(
    context: _Context, model: nn.Module, fusion: FusionSettings, witness: Reblurrer, guard: GuardSettings | None
) -> tuple[nn.Module, tuple[Reason, ...]]:
    """The model with the fusion that the votes let pass, and the votes."""
    chosen, reasons = judge_fusion(model, context.clip, fusion, reblurrer=witness, settings=guard, cache=context.cache)
    return with_fusion(model, chosen), reasons


def _select_places(context: _Context) -> SupportSet:
    """Choose the places that are learnt from, and those held out."""
    settings = context.settings
    with context.costs.stage("select"):
        return choose_support(
            context.clip,
            pairs=settings.pairs,
            patch=settings.patch,
            held_out=settings.held_out,
            method=settings.method,
            margin=settings.margin,
            generator=context.generator,
        )


def _fit_reblurrer(context: _Context, support: SupportSet, reblurrer: Reblurrer | None) -> _FittedReblurrer:
    """Fit a reblurring network to the clip; other reblurrers need no fitting."""
    if not isinstance(reblurrer, NetworkReblurrer):
        return _FittedReblurrer(reblurrer)
    with context.costs.stage("fit reblurrer"):
        frames = max(reblurrer.frames, context.frames)
        items = collect(context.clip, support.train, frames, context.settings.updates.real, context.generator)
        fitted, moved, failure = fit_network(
            reblurrer, context.base, items, context.settings, loss=context.loss, progress=context.progress
        )
    return _FittedReblurrer(fitted, moved, failure, list(fitted.history))


def _plan_time(
    context: _Context, support: SupportSet, reblurrer: Reblurrer | None
) -> tuple[Reblurrer | None, GuardPlan | None, Reason | None]:
    """With a time limit: a fitted reblurrer, what the guard will look at, and whether too little is left for learning.

    Without a limit, or a guard to keep time for: the reblurrer as it is, and nothing else.
    """
    settings, budget, cache = context.settings, context.budget, context.cache
    if not (budget.limited and settings.guard):
        return reblurrer, None, None
    if reblurrer is None:
        with context.costs.stage("reblur"):
            reblurrer = fit_flow_reblurrer(context.clip, places=support.train, generator=context.generator, cache=cache)
    with context.costs.stage("guard"):  # a piece of a frame, measured
        some = GuardSettings(spots=1, pixels=PIECE_PIXELS)
        before = look_before(context.base, context.clip, settings=some, cache=cache)
    pieces = [piece for sample in before.samples for piece in sample.blurred]
    each, pixels = before.seconds / len(pieces), pieces[0][0].numel()
    within = partial(
        GuardPlan.within, frame_seconds=each, frame_pixels=pixels, patch_pixels=support.patch**2, fuse=settings.fuse
    )
    plan = within(budget.left() / 2)
    needed, left = plan.fusing + plan.learning(settings.batch), budget.left()
    if reblurrer.learnt or needed <= left:
        return reblurrer, plan, None
    text = f"learning and judging would take {needed:.0f} s at least, and {left:.0f} s of the time limit are left"
    return reblurrer, within(left), Reason("time", left, needed, False, f"{NOTHING_LEARNT}: {text}")


def _make_pairs(
    context: _Context,
    support: SupportSet,
    reblurrer: Reblurrer | None,
    source: PairSource | None,
    plan: GuardPlan | None,
) -> _Material:
    """Blur the places again: pairs to learn from, pairs for the guard, and what it has to compare them with."""
    base, clip, settings, frames, cache = context.base, context.clip, context.settings, context.frames, context.cache
    with context.costs.stage("reblur"):
        if reblurrer is None:
            reblurrer = fit_flow_reblurrer(clip, places=support.train, generator=context.generator, cache=cache)
        # A reblurrer that is learnt learns the clip's blur on the clip's own patches, so that is what it blurs.
        first = settings.restore_first and not reblurrer.learnt
        from_clip = partial(make_pairs, sharpener=Sharpener(base, clip, cache) if first else None, cache=cache)
        places = support.train
        if source is None:
            still = still_share(clip, frames, settings, cache) if reblurrer.knows_motion else 0.0
            source = partial(from_clip, still=still)
            places = mark_shrunk(places, reblurrer, settings)
        chosen, maker = source, reblurrer
        if plan is not None:
            context.budget.kept_back = plan.fusing + plan.judging(len(support.held_out))
        train, pairs = context.budget.places(
            places, lambda some: chosen(clip, some, maker, settings.blurs, frames, context.generator)
        )
        held = support.held_out[: math.ceil(len(support.held_out) * len(train) / max(len(support.train), 1))]
        held_out = from_clip(clip, held, reblurrer, 1, frames, context.generator)
    witness, motion_pairs = reblurrer, list[Pair]()
    if reblurrer.learnt and (settings.guard or settings.fuse):
        with context.costs.stage("guard"):  # the clip's own motion knows nothing of what the network has learnt
            seeded = torch.Generator().manual_seed(settings.seed)
            witness = fit_flow_reblurrer(clip, places=support.train, generator=seeded, cache=cache)
            if settings.guard:
                sharpener = Sharpener(base, clip, cache)
                motion_pairs = make_pairs(clip, held, witness, 1, frames, seeded, sharpener=sharpener, cache=cache)
    if plan is not None:
        context.budget.kept_back = plan.fusing + plan.judging(len(held_out) + len(motion_pairs))
    support = replace(support, train=tuple(train), held_out=held)
    guard = None if plan is None else plan.settings
    return _Material(reblurrer, witness, support, pairs, held_out, motion_pairs, guard)


def _take_steps(context: _Context, material: _Material, moved: Moved | None) -> _Stepped:
    """Take the gradient steps on the pairs; with a time limit, what the guard takes of it is kept back."""
    settings, budget = context.settings, context.budget
    with context.costs.stage("adapt"):
        adapted, history, failure = inner_update(
            context.base,
            material.pairs,
            replace(settings, budget_seconds=budget.left()) if budget.limited else settings,
            context.generator,
            loss=context.loss,
            moved=moved,
            progress=context.progress,
        )
    return _Stepped(adapted, history, failure)


def _judge(context: _Context, outcome: Outcome, material: _Material, stepped: _Stepped) -> Outcome:
    """Let the guard decide how much of the adaptation is used, and whether frames are fused."""
    settings = context.settings
    fusion = _fusion(settings, material.witness) if settings.fuse else None
    adapted = with_fusion(stepped.adapted, fusion)
    outcome = replace(outcome, fusion=fusion, adapted=adapted)
    if not settings.guard:
        text = "the guard was switched off: the adaptation is used whole"
        return replace(outcome, model=adapted, share=1.0, reasons=(Reason("guard", 1.0, 1.0, True, text),))
    with context.costs.stage("guard"):
        verdict = judge(
            context.base,
            stepped.adapted,
            context.clip,
            [(pair.blurred, pair.sharp) for pair in material.held_out],
            motion_pairs=[(pair.blurred, pair.sharp) for pair in material.motion_pairs],
            reblurrer=material.witness,
            settings=material.guard,
            until=context.budget.began + context.budget.seconds if context.budget.limited else math.inf,
            cache=context.cache,
        )
        model = blend(context.base, stepped.adapted, verdict.share) if verdict.share > 0 else context.base
        reasons = verdict.reasons
        # Frames help each other whatever the weights have learnt: votes of their own decide.
        if fusion is not None:
            model, more = _fused_if_allowed(context, model, fusion, material.witness, material.guard)
            reasons += more
    return replace(outcome, model=model, share=verdict.share, reasons=reasons)


def fit_network(
    reblurrer: NetworkReblurrer,
    base: nn.Module,
    items: Sequence[Item],
    settings: AdaptSettings,
    *,
    loss: Loss | None = None,
    progress: Progress | None = None,
) -> tuple[NetworkReblurrer, Moved | None, Reason | None]:
    """Fit a copy of the reblurring network and its critic to a clip, with a base deblurrer (paper, Eq. 3 and 4).

    Returns:
        The fitted reblurrer, what the deblurrer's stage goes on with (preset "release"), and why it cannot be used.
    """
    updates, device = settings.updates, next(base.parameters()).device
    bf16 = uses_bf16(settings.precision, device)
    if updates.losses == "none":
        return reblurrer.ready(device, bf16=bf16), None, None
    stage = ReblurStage(reblurrer, base, updates, loss=loss, lr_deblurrer=settings.lr, bf16=bf16)
    history, text = fit_stage(stage, items, seconds=settings.budget_seconds * REBLUR_SHARE, progress=progress)
    failure = Reason("diverged", history[-1]["loss"], 0.0, False, text) if text else None
    moved = Moved(stage.deblurrer, stage.optimizer) if updates.shared_adam else None
    return stage.result(history), moved, failure
