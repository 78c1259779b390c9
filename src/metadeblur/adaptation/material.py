"""What an adaptation learns from: places, a reblurrer fitted to the clip, pairs to learn from and to judge by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import nn

from metadeblur.adaptation.budget import PIECE_PIXELS, Budget, GuardPlan
from metadeblur.adaptation.pairs import PairSource, make_pairs, mark_shrunk, still_share
from metadeblur.adaptation.places import SupportSet, choose_support
from metadeblur.adaptation.settings import AdaptSettings
from metadeblur.adaptation.steps import Moved, Pair, Progress
from metadeblur.adaptation.targets import Sharpener
from metadeblur.clip import Clip
from metadeblur.guard.judge import Reason, look_before
from metadeblur.guard.votes import GuardSettings
from metadeblur.imaging.clip_cache import ClipCache
from metadeblur.models.forward import uses_bf16
from metadeblur.models.registry import Loss, traits
from metadeblur.reblur.fitting import Item, NetworkReblurrer, ReblurStage, collect, fit_stage
from metadeblur.reblur.flow import fit_flow_reblurrer
from metadeblur.reblur.reblurrer import Reblurrer
from metadeblur.system.memory import StageMeter

NOTHING_LEARNT = "nothing learnt in this time"
"""Where a time limit leaves too little for learning: frames are only fused and corrected, as with effort "quick"."""

REBLUR_SHARE = 0.5
"""Of the time budget, for fitting a reblurring network; the steps on the pairs get most of the rest."""


@dataclass(frozen=True)
class Context:
    """What all stages of one adaptation work with."""

    base: nn.Module  # frozen copy of the deblurrer
    clip: Clip  # its frames are where the deblurrer is
    read: Clip  # the same in main memory, for what people bring along
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
class FittedReblurrer:
    """A fitted reblurrer, or the failure; neither: flow is to be fitted with the pairs."""

    reblurrer: Reblurrer | None
    moved: Moved | None = None
    failure: Reason | None = None
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Material:
    """What is learnt from, and what the guard has to judge by."""

    reblurrer: Reblurrer
    witness: Reblurrer  # blurs by the clip's own motion, whatever made the pairs
    support: SupportSet
    pairs: list[Pair]  # to learn from
    held_out: list[Pair]  # for the guard alone
    motion_pairs: list[Pair]  # the same places, blurred by the witness where that is another
    guard: GuardSettings | None  # what the guard looks at, where time is limited


def select_places(context: Context) -> SupportSet:
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


def fit_reblurrer(context: Context, support: SupportSet, reblurrer: Reblurrer | None) -> FittedReblurrer:
    """Fit a reblurring network to the clip; other reblurrers need no fitting."""
    if not isinstance(reblurrer, NetworkReblurrer):
        return FittedReblurrer(reblurrer)
    with context.costs.stage("fit reblurrer"):
        frames, real = max(reblurrer.frames, context.frames), context.settings.updates.real
        reblurrer = reblurrer.told(context.clip, support.train, context.generator, context.cache)
        items = collect(context.clip, support.train, frames, real, context.generator, reblurrer.motion)
        fitted, moved, failure = fit_network(
            reblurrer, context.base, items, context.settings, loss=context.loss, progress=context.progress
        )
    return FittedReblurrer(fitted, moved, failure, list(fitted.history))


def plan_time(
    context: Context, support: SupportSet, reblurrer: Reblurrer | None
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


def make_material(
    context: Context,
    support: SupportSet,
    reblurrer: Reblurrer | None,
    source: PairSource | None,
    plan: GuardPlan | None,
) -> Material:
    """Blur the places again: pairs to learn from, pairs for the guard, and what it has to compare them with."""
    base, clip, settings, frames, cache = context.base, context.clip, context.settings, context.frames, context.cache
    with context.costs.stage("reblur"):
        if reblurrer is None:
            reblurrer = fit_flow_reblurrer(clip, places=support.train, generator=context.generator, cache=cache)
        at_hand = clip if reblurrer.anywhere else context.read
        # A reblurrer that is learnt learns the clip's blur on the clip's own patches, so that is what it blurs;
        # one that is told the motion only corrects what blur along it gets wrong.
        first = settings.restore_first and (not reblurrer.learnt or reblurrer.knows_motion)
        from_clip = partial(make_pairs, sharpener=Sharpener(base, at_hand, cache) if first else None, cache=cache)
        places, shown = support.train, context.read
        if source is None:
            still = still_share(context.read, frames, settings, cache) if reblurrer.knows_motion else 0.0
            source, shown = partial(from_clip, still=still), at_hand
            places = mark_shrunk(places, reblurrer, settings)
        chosen, maker = source, reblurrer
        if plan is not None:
            context.budget.kept_back = plan.fusing + plan.judging(len(support.held_out))
        train, pairs = context.budget.places(
            places, lambda some: chosen(shown, some, maker, settings.blurs, frames, context.generator)
        )
        held = support.held_out[: math.ceil(len(support.held_out) * len(train) / max(len(support.train), 1))]
        held_out = from_clip(at_hand, held, reblurrer, 1, frames, context.generator)
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
    return Material(reblurrer, witness, support, pairs, held_out, motion_pairs, guard)


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
