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

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from metadeblur.adaptation.budget import LEAST_STEPS, Budget
from metadeblur.adaptation.material import (
    NOTHING_LEARNT,
    Context,
    Material,
    fit_network,
    fit_reblurrer,
    make_material,
    plan_time,
    select_places,
)
from metadeblur.adaptation.notebook import excerpt_of
from metadeblur.adaptation.outcome import Outcome
from metadeblur.adaptation.pairs import PairSource, make_pairs
from metadeblur.adaptation.places import MINIMUM_FRAMES, fit_patch, too_few
from metadeblur.adaptation.settings import AdaptSettings, preset
from metadeblur.adaptation.steps import Callback, Moved, OptimizerFactory, Pair, Progress, inner_update
from metadeblur.clip import Clip, as_clip
from metadeblur.errors import MetadeblurError
from metadeblur.guard.judge import Reason, blend, judge, judge_fusion
from metadeblur.guard.learnable import nothing_to_learn
from metadeblur.guard.votes import CHEAP, CHEAP_PAIRS, GuardSettings
from metadeblur.imaging.clip_cache import ClipCache
from metadeblur.limits import refuse_unknown
from metadeblur.models.adapted import FusionSettings, fusion_of, unwrapped, with_fusion
from metadeblur.models.deblurrer import as_deblurrer
from metadeblur.models.forward import frozen, try_network
from metadeblur.models.registry import ARCHITECTURES, Loss, traits
from metadeblur.reblur.fitting import NetworkReblurrer
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
    "make_pairs",
    "preset",
]

_log = logging.getLogger(__name__)


@overload
def adapt(net: Any, clip: Clip | Tensor | np.ndarray[Any, Any], **how: Any) -> Outcome: ...


@overload
def adapt(net: Any, clip: Sequence[Any], **how: Any) -> Any: ...


def adapt(
    net: Any,
    clip: Any,
    *,
    settings: AdaptSettings | None = None,
    reblurrer: Reblurrer | None = None,
    loss: Loss | None = None,
    pair_source: PairSource | None = None,
    progress: Progress | None = None,
    callback: Callback | None = None,
    optimizer: OptimizerFactory | None = None,
    cache: ClipCache | None = None,
    effort: Effort = "balanced",
    **overrides: Any,
) -> Any:
    """Adapt a copy of ``net`` to a blurred clip, or to several together.

    Args:
        net: any deblurrer (B, 3, H, W) -> (B, 3, H, W), or (B, N, 3, H, W) with an attribute ``frames``; a module, or
            what spandrel loads. It is not changed; weights of half precision are adapted, and come back, in float32.
        clip: the blurred clip; or its frames as a tensor or array, (T, 3, H, W) or (T, H, W, 3), uint8 or float in
            [0, 1], or as a list of single frames. Frames are read several times, so a long clip should be in memory.
            A list of such clips is learnt from together: ``pairs`` places of each, ``steps`` in all, one set of
            weights; the guard judges for each clip by itself.
        settings: see :class:`AdaptSettings`; by default those of :func:`preset` with the name of the effort, or with
            ``reblur="network"`` those of "paper".
        reblurrer: makes the pseudo-blurred patches; by default the clip's optical flow, or the network that the
            settings name. A :class:`~metadeblur.reblur.fitting.NetworkReblurrer` is fitted to the clip first.
        loss: the deblurrer's own loss on (output, sharp); by default its attribute ``loss``, or L1.
        pair_source: makes the pairs that are learnt from; by default :func:`make_pairs`. The guard's are always those.
        progress: called with (steps done, steps in all, stage).
        callback: called after each gradient step with (step from 0, loss, the network as it is now); what it returns
            ends the steps if it is true.
        optimizer: makes the optimiser of the parameters that it is given, such as
            ``lambda parameters: torch.optim.SGD(parameters, lr=1e-3)``; by default Adam with the settings' ``lr``.
        cache: of the clip, where it was looked at before.
        effort: "quick" (no weights are learnt), "balanced" or "best"; where settings are given, they decide.
        **overrides: single fields of the settings, such as ``steps=40, seed=0``.

    Returns:
        The outcome, or a list with one for each of several clips. Where nothing could be adapted (too short a clip,
        nothing moves, steps that diverge), its model is a copy of ``net`` and its reasons say why.

    Raises:
        MetadeblurError: no clip, or no deblurrer; no such setting (a TypeError too), or one out of range; the weights
            of the reblurring network are missing.
    """
    settings = _settings(settings, effort, overrides)
    _refuse_no_functions(loss=loss, progress=progress, callback=callback, optimizer=optimizer)
    if optimizer is not None and ("lr" in overrides or settings.updates.shared_adam):
        what = "lr" if "lr" in overrides else "preset release"
        raise MetadeblurError(f"{what} is for the built-in Adam: give your optimizer its own, or leave one out")
    clips, several = _clips(clip)
    if several:
        _refuse_for_several(settings, reblurrer, cache)
        settings = replace(settings, patch=min(fit_patch(one, settings.patch) for one in clips))
    net = as_deblurrer(net)
    device = choose_device(settings.device, net)
    # A plain copy: hooks and buffers come along, gradients and the caller's mode do not matter.
    base = frozen(unwrapped(net)).to(device)
    _try(base, clips[0], settings.patch, device)
    unchanged = with_fusion(base, fusion_of(net) if settings.fuse else None)  # the net may have been adapted before

    def ready(one: Clip) -> Outcome | _Ready:
        """What is learnt from a clip, or its outcome where nothing is."""
        hopeless = _hopeless(one)
        if hopeless is not None:
            return Outcome(unchanged, 0.0, (hopeless,))
        generator = torch.Generator().manual_seed(settings.seed)
        budget, costs = Budget(settings.budget_seconds), StageMeter(device)
        clip_cache = cache or ClipCache()
        context = Context(base, one.to(device), one, settings, generator, costs, budget, clip_cache, loss, progress)
        return _get_ready(context, unchanged, reblurrer, pair_source)

    prepared = [ready(one) for one in clips]
    learning = [one for one in prepared if isinstance(one, _Ready)]
    stepped = _take_steps(learning, callback, optimizer) if learning else None
    outcomes = []
    for one, made in zip(clips, prepared, strict=True):
        outcome = _judged(made, stepped, unchanged) if isinstance(made, _Ready) and stepped else made
        assert isinstance(outcome, Outcome)
        outcomes.append(replace(outcome, excerpt=excerpt_of(one, outcome.support)))
        _tell(one, outcomes[-1])
    return outcomes if several else outcomes[0]


@dataclass(frozen=True)
class _Ready:
    """A clip that is ready to be learnt from."""

    context: Context
    outcome: Outcome  # so far
    material: Material
    moved: Moved | None


@dataclass(frozen=True)
class _Stepped:
    """The network after its gradient steps, or why they failed."""

    adapted: nn.Module
    history: list[dict[str, float]]
    failure: Reason | None
    ended: bool = False  # by the callback


# --- what is asked for ---------------------------------------------------------------------------------------------


def _settings(settings: AdaptSettings | None, effort: Effort, overrides: dict[str, Any]) -> AdaptSettings:
    """The settings with single fields changed."""
    own = ("settings", "reblurrer", "loss", "pair_source", "progress", "callback", "optimizer", "cache", "effort")
    refuse_unknown(overrides, (*(entry.name for entry in fields(AdaptSettings)), *own), "adapt")
    if settings is None:
        settings = preset("paper" if overrides.get("reblur") == "network" else effort)
    return settings.changed(**overrides)


def _refuse_no_functions(**given: Any) -> None:
    """Refuse what is to be called and cannot, before any time is spent."""
    for name, value in given.items():
        if value is not None and not callable(value):
            shown = " ".join(repr(value).split())  # an optimiser fills lines
            raise MetadeblurError(f"{name} is {shown:.60}; give a function, see help(md.adapt)")


def _clips(clip: Any) -> tuple[list[Clip], bool]:
    """One clip, or several, and whether they are several."""
    if isinstance(clip, list | tuple) and clip and _is_whole(clip[0]):
        clips = [as_clip(one) for one in clip]
        if all(len(one) == 1 for one in clips):
            raise MetadeblurError(
                f"{counted(len(clips), 'clip')} of one frame each: for the frames of one clip, join them "
                "(torch.cat(frames) or np.concatenate(frames))"
            )
        return clips, True
    return [as_clip(clip)], False


def _is_whole(one: Any) -> bool:
    """Whether an item of a list is a clip and not a frame."""
    return isinstance(one, Clip | list | tuple) or getattr(one, "ndim", 0) >= 4


def _refuse_for_several(settings: AdaptSettings, reblurrer: Reblurrer | None, cache: ClipCache | None) -> None:
    """Refuse what belongs to one clip."""
    belongs = {
        "budget_seconds": settings.budget_seconds > 0,
        "preset release": settings.updates.shared_adam,
        "cache": cache is not None,
        "a reblurrer that was fitted to a clip": reblurrer is not None and not isinstance(reblurrer, NetworkReblurrer),
    }
    for name, given in belongs.items():
        if given:
            raise MetadeblurError(f"{name} is for one clip, not for several: adapt to them one after the other")


def _try(base: nn.Module, clip: Clip, patch: int, device: torch.device) -> None:
    """See that a network of somebody's own does what a deblurrer does, before any time is spent."""
    if isinstance(base, tuple(entry.network for entry in ARCHITECTURES.values())):
        return
    frames = traits(base).frames
    window = clip.window(len(clip) // 2, frames)[..., :patch, :patch].to(device)
    try_network(base, window[None] if frames > 1 else window)


def _hopeless(clip: Clip) -> Reason | None:
    """Why nothing can be learnt from a clip, whatever the settings."""
    if len(clip) < MINIMUM_FRAMES:
        text = f"{too_few(len(clip))} (at least {MINIMUM_FRAMES}); the base model is used"
        return Reason("length", float(len(clip)), float(MINIMUM_FRAMES), False, text)
    return nothing_to_learn(clip)


def _tell(clip: Clip, outcome: Outcome) -> None:
    """Log what became of an adaptation."""
    _log.info("%s: %s", clip.name, outcome)
    for reason in outcome.reasons:
        _log.debug("%s: %s: %s", clip.name, "passed" if reason.passed else "failed", reason.text)


# --- the stages ----------------------------------------------------------------------------------------------------


def _get_ready(
    context: Context, unchanged: nn.Module, reblurrer: Reblurrer | None, pair_source: PairSource | None
) -> Outcome | _Ready:
    """Choose places, fit a reblurrer and make pairs; the outcome where that is all there is to do."""
    settings, costs = context.settings, context.costs
    if settings.steps_on(1) == 0 and reblurrer is None:
        return _only_fused(context, unchanged)
    if reblurrer is None and settings.reblur == "network":
        reblurrer = load_reblurrer(settings.reblurrer)
    support = select_places(context)
    _log.info("%s: learning from %d places of %d px", context.clip.name, len(support.train), support.patch)
    fitted = fit_reblurrer(context, support, reblurrer)
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
        return _fused_anyway(context, outcome)
    witness, plan, too_little = plan_time(context, support, fitted.reblurrer)
    if too_little is not None and plan is not None:
        quick = _only_fused(context, unchanged, witness, plan.settings)
        return replace(quick, reasons=(too_little, *quick.reasons))
    return _Ready(context, outcome, make_material(context, support, witness, pair_source, plan), fitted.moved)


def _take_steps(learning: Sequence[_Ready], callback: Callback | None, optimizer: OptimizerFactory | None) -> _Stepped:
    """Take the gradient steps on all pairs; with a time limit, what the guard takes of it is kept back."""
    first = learning[0]
    context, budget, ended = first.context, first.context.budget, False

    def watched(step: int, loss: float, model: nn.Module) -> bool:
        nonlocal ended
        ended = bool(callback(step, loss, model)) if callback is not None else False
        return ended

    with context.costs.stage("adapt"):
        adapted, history, failure = inner_update(
            context.base,
            [pair for one in learning for pair in one.material.pairs],
            replace(context.settings, budget_seconds=budget.left()) if budget.limited else context.settings,
            context.generator,
            loss=context.loss,
            moved=first.moved,
            progress=context.progress,
            callback=watched if callback is not None else None,
            optimizer=optimizer,
        )
    return _Stepped(adapted, history, failure, ended)


def _judged(ready: _Ready, stepped: _Stepped, unchanged: nn.Module) -> Outcome:
    """What the steps gave for one clip, as far as the guard lets it."""
    context, material = ready.context, ready.material
    enough = min(LEAST_STEPS, context.settings.steps_on(len(material.pairs)))
    in_time = len(stepped.history) >= enough or stepped.ended or material.guard is None
    if stepped.failure is None and not in_time:
        taken = counted(len(stepped.history), "gradient step")
        text = f"{NOTHING_LEARNT}: it was over after {taken}, of {enough} at least"
        reason = Reason("time", float(len(stepped.history)), float(enough), False, text)
        quick = _only_fused(context, unchanged, material.witness, material.guard)
        return replace(quick, reasons=(reason, *quick.reasons), support=material.support)
    outcome = replace(
        ready.outcome,
        reblurrer=material.reblurrer,
        support=material.support,
        pairs=[pair.in_memory() for pair in material.pairs],
        history=stepped.history,
    )
    if stepped.failure is not None:
        outcome = replace(outcome, reasons=(stepped.failure,))
        return _fused_anyway(context, outcome, material.witness, material.guard)
    return _judge(context, outcome, material, stepped)


def _only_fused(
    context: Context, unchanged: nn.Module, witness: Reblurrer | None = None, guard: GuardSettings | None = None
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


def _fused_anyway(
    context: Context, failed: Outcome, witness: Reblurrer | None = None, guard: GuardSettings | None = None
) -> Outcome:
    """An adaptation that failed: what the base model's frames tell each other does not depend on it."""
    quick = _only_fused(context, failed.model, witness, guard)
    reasons = (*failed.reasons, *quick.reasons)
    return replace(failed, model=quick.model, reasons=reasons, fusion=quick.fusion)


def _fusion(settings: AdaptSettings, witness: Reblurrer) -> FusionSettings:
    """How frames of the clip are fused: corrected too, where its exposure is known and that is wanted."""
    return witness.fusion() if settings.back_project else FusionSettings()


def _fused_if_allowed(
    context: Context, model: nn.Module, fusion: FusionSettings, witness: Reblurrer, guard: GuardSettings | None
) -> tuple[nn.Module, tuple[Reason, ...]]:
    """The model with the fusion that the votes let pass, and the votes."""
    votes = CHEAP if context.settings.guard == "cheap" else guard
    chosen, reasons = judge_fusion(model, context.clip, fusion, reblurrer=witness, settings=votes, cache=context.cache)
    return with_fusion(model, chosen), reasons


def _judge(context: Context, outcome: Outcome, material: Material, stepped: _Stepped) -> Outcome:
    """Let the guard decide how much of the adaptation is used, and whether frames are fused."""
    settings = context.settings
    fusion = _fusion(settings, material.witness) if settings.fuse else None
    adapted = with_fusion(stepped.adapted, fusion)
    outcome = replace(outcome, fusion=fusion, adapted=adapted)
    if not settings.guard:
        text = "the guard was switched off: the adaptation is used whole"
        return replace(outcome, model=adapted, share=1.0, reasons=(Reason("guard", 1.0, 1.0, True, text),))
    cheap = settings.guard == "cheap"
    most = CHEAP_PAIRS if cheap else None
    with context.costs.stage("guard"):
        verdict = judge(
            context.base,
            stepped.adapted,
            context.clip,
            [(pair.blurred, pair.sharp) for pair in material.held_out[:most]],
            motion_pairs=[(pair.blurred, pair.sharp) for pair in material.motion_pairs[:most]],
            reblurrer=material.witness,
            settings=CHEAP if cheap else material.guard,
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
