"""Adaptation: fit a copy of a deblurrer to one blurred clip, without ground truth, and let the guard judge it.

The inner update of "Meta Transferring for Deblurring" (Liu et al., BMVC 2022, section 3, Eq. 3-6): relatively sharp
patches of the clip are reblurred with the clip's own kind of blur, and the deblurrer takes gradient steps on these
pairs with its own loss. The blur comes from the clip's optical flow, or from the paper's reblurring network, which is
fitted to the clip first (:mod:`metadeblur.reblur.updates`). Nothing here takes sharp frames: there is no way to hand it
any.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metadeblur.clip import Clip
from metadeblur.errors import MetadeblurError
from metadeblur.guard import GuardSettings, Reason, blend, judge
from metadeblur.learning import frozen, own_loss, uses_bf16
from metadeblur.memory import Costs
from metadeblur.networks import Loss, final, traits
from metadeblur.reblur import Reblurrer
from metadeblur.reblur.flow import FlowReblurrer, fit_flow_reblurrer
from metadeblur.reblur.updates import Item, NetworkReblurrer, ReblurStage, ReblurUpdates, collect, fit_stage
from metadeblur.restore import choose_device
from metadeblur.subset import PARAMETERS, free, settle
from metadeblur.support import MINIMUM_FRAMES, Place, SupportSet, choose_support, place_window
from metadeblur.weights import load_reblurrer

REBLUR_SHARE = 0.5  # of the time budget, for fitting a reblurring network; the steps on the pairs get the rest

Progress = Callable[[int, int, str], None]  # (done, total, stage)


@dataclass(frozen=True)
class Pair:
    """One item of the support set: what the deblurrer is fed, and what it should give.

    Attributes:
        blurred: (3, P, P), or (N, 3, P, P) for a video deblurrer: the window with its centre replaced.
        sharp: (3, P, P), the pseudo-sharp patch.
        through: what the deblurrer's output (3, P, P) goes through, with gradient, before it is compared: a blur, a
            mask; none: it is compared as it is.
    """

    blurred: Tensor
    sharp: Tensor
    through: Callable[[Tensor], Tensor] | None = None

    @property
    def centre(self) -> Tensor:
        """The pseudo-blurred patch alone, (3, P, P)."""
        return self.blurred if self.blurred.ndim == 3 else self.blurred[self.blurred.shape[0] // 2]


@dataclass(frozen=True)
class AdaptSettings:
    """How a deblurrer adapts to a clip."""

    pairs: int = 20  # M: places whose pseudo-sharp patch is reblurred
    blurs: int = 2  # different blurs made for each place
    steps: int = 40  # gradient steps
    lr: float = 1e-4  # learning rate of Adam
    patch: int = 256  # side of a patch in px; shrinks to fit small frames
    batch: int = 2  # pairs a step
    reblur: Literal["auto", "flow", "network"] = (
        "auto"  # where the blur comes from: flow (the clip's optical flow), network (the paper's), auto (now: flow)
    )
    method: Literal["guided", "random"] = "guided"  # choice of places; random: as in the paper
    margin: int = 0  # frames at each end of the clip that give no pseudo-sharp patch; the release: 2
    passes: int = 0  # steps are counted as passes through the pairs; 0: there are as many steps as ``steps`` says
    shuffle: bool = True  # draw the order of the pairs anew for each pass
    mirror: bool = True  # mirror and transpose each batch at random
    reblurrer: str = ""  # weight file of the reblurring network and its critic; none: the built-in one
    updates: ReblurUpdates = field(default_factory=ReblurUpdates)  # how that network is fitted to the clip
    parameters: Literal["all", "norms-and-biases", "decoder", "last", "low-rank"] = (
        "all"  # what moves: all, or a part that takes less memory (last: the last stage, or the finest decoder level)
    )
    held_out: float = 0.25  # further places, as a share of M, that only the guard sees
    guard: bool = True  # let the guard keep, weaken or drop the adaptation
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # of the gradient steps: auto (bf16 where native), bf16 or fp32
    budget_seconds: float = 0.0  # stop stepping after this time; 0: no limit
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto, cpu or cuda
    seed: int = 0  # the only source of randomness

    def __post_init__(self) -> None:
        least = {"pairs": 1, "blurs": 1, "steps": 0, "batch": 1, "patch": 32, "margin": 0, "passes": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise MetadeblurError(f"{name} is {getattr(self, name)}; it must be at least {low}")
        if not 0 < self.lr < 1:
            raise MetadeblurError(f"lr is {self.lr}; a learning rate lies between 0 and 1, for instance 1e-4")
        if not 0 <= self.held_out <= 2:
            raise MetadeblurError(f"held_out is {self.held_out}; it must lie between 0 and 2")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise MetadeblurError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        if self.updates.shared_adam and self.parameters != "all":
            raise MetadeblurError(f"parameters is {self.parameters!r}; the preset release moves all of them")

    def steps_on(self, pairs: int) -> int:
        """Gradient steps of the deblurrer on so many pairs.

        >>> AdaptSettings(batch=2, passes=3).steps_on(5)
        9
        """
        return self.passes * math.ceil(pairs / self.batch) if self.passes else self.steps

    def changed(self, **overrides: Any) -> AdaptSettings:
        """The settings with some fields changed; a number of steps replaces a number of passes.

        >>> preset("paper").changed(steps=40).steps_on(20)
        40
        """
        if "steps" in overrides:
            overrides.setdefault("passes", 0)
        return replace(self, **overrides)


def preset(name: str) -> AdaptSettings:
    """The settings called "flow", "paper" or "release".

    "paper" is the inner update as the paper says it: M = 20 random places of 256x256, reblurrer and critic by L_adv +
    0.01 L_cycle, all pairs made once, one pass of a fresh Adam over them, evaluation mode throughout. "release" differs
    as the authors' released code does (FIDELITY 1, 2, 5, 6, 8, 10): it moves the deblurrer in the reblurrer's stage
    too (its FFT loss of MIMO-UNet, FIDELITY 26, is ``loss=partial(multiscale_fft, transform="1d")``). Both keep this
    program's own guard and the places that it holds out; ``guard=False, held_out=0`` is without.

    >>> preset("paper").lr, preset("release").lr
    (2.5e-06, 2.5e-06)

    Raises:
        MetadeblurError: no such preset.
    """
    if name == "flow":
        return AdaptSettings()
    paper = AdaptSettings(
        reblur="network", method="random", blurs=1, batch=1, passes=1, lr=2.5e-6, mirror=False, updates=ReblurUpdates()
    )
    if name == "paper":
        return paper
    if name == "release":
        updates = ReblurUpdates(adversarial=0.99, lr_reblurrer=2.5e-6, real="neighbour", shared_adam=True)
        return replace(paper, margin=2, updates=updates)
    raise MetadeblurError(f"preset {name!r} is not known; allowed: flow, paper, release")


_CHOICES = {
    "reblur": ("auto", "flow", "network"),
    "method": ("guided", "random"),
    "parameters": PARAMETERS,
    "precision": ("auto", "fp32", "bf16"),
    "device": ("auto", "cpu", "cuda"),
}


@dataclass
class Outcome:
    """What adaptation gave: the network to use, how much of it is adapted, and why."""

    model: nn.Module  # to be used: base, adapted, or between
    share: float  # 0 (base) to 1 (adapted whole)
    reasons: tuple[Reason, ...]
    history: list[dict[str, float]] = field(default_factory=list)  # step, loss, seconds of the deblurrer's steps
    reblurrer: Reblurrer | None = None
    support: SupportSet | None = None
    pairs: list[Pair] = field(default_factory=list)  # the support set's training pairs
    adapted: nn.Module | None = None  # before the guard (share 1); None where no step was taken or it diverged
    seconds: dict[str, float] = field(default_factory=dict)  # by stage
    memory_mb: dict[str, float] = field(default_factory=dict)  # most memory held in each stage
    reblur_history: list[dict[str, float]] = field(default_factory=list)  # terms of the reblurrer's steps, see updates

    def to_record(self) -> dict[str, Any]:
        """The plain values that the record of a run keeps."""
        places = self.support.train if self.support else ()
        return {
            "share": self.share,
            "adapted": self.share > 0,
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
            settings name. A :class:`~metadeblur.reblur.updates.NetworkReblurrer` is fitted to the clip first.
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
    if len(clip) < MINIMUM_FRAMES:
        text = f"{len(clip)} frames are too few to adapt to (at least {MINIMUM_FRAMES}); the base model is used"
        return Outcome(base, 0.0, (Reason("length", float(len(clip)), float(MINIMUM_FRAMES), False, text),))
    if reblurrer is None and settings.reblur == "network":
        reblurrer = load_reblurrer(settings.reblurrer)
    generator = torch.Generator().manual_seed(settings.seed)
    costs = Costs(device)
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
        outcome.pairs = (pair_source or make_pairs)(clip, support.train, reblurrer, settings.blurs, frames, generator)
        held_out = make_pairs(clip, support.held_out, reblurrer, 1, frames, generator)
    with costs.stage("adapt"):
        spent = outcome.reblur_history[-1]["seconds"] if outcome.reblur_history else 0.0
        adapted, outcome.history, failure = inner_update(
            base,
            outcome.pairs,
            _with_rest_of_time(settings, spent),
            generator,
            loss=loss,
            moved=moved,
            progress=progress,
        )
    if failure is not None:
        outcome.reasons = (failure,)
        return outcome
    outcome.adapted = adapted
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
            reblurrer=reblurrer,
            settings=GuardSettings(),
        )
        outcome.share, outcome.reasons = verdict.share, verdict.reasons
        outcome.model = base if verdict.share == 0 else blend(base, adapted, verdict.share)
    return outcome


def _with_rest_of_time(settings: AdaptSettings, spent: float) -> AdaptSettings:
    """The settings with what is left of the time budget; at least one step is always taken."""
    if settings.budget_seconds == 0:
        return settings
    return replace(settings, budget_seconds=max(settings.budget_seconds - spent, 1e-3))


@dataclass(frozen=True)
class Moved:
    """A deblurrer that the reblurrer's stage has moved already, and the Adam that goes on (release, FIDELITY 1, 2)."""

    net: nn.Module
    optimizer: torch.optim.Optimizer


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
) -> list[Pair]:
    """Reblur the pseudo-sharp patch of every place ``blurs`` times, all once and without gradient (paper, Eq. 5).

    A video deblurrer gets a window: its neighbours move as the blur says where the reblurrer knows the motion, else
    they are the clip's own (FIDELITY 27).
    """
    pairs = []
    for place in places:
        window = place_window(clip, place, frames)
        sharp = window[frames // 2]
        for _ in range(blurs):
            if frames > 1 and isinstance(reblurrer, FlowReblurrer):
                blurred = reblurrer.reblur_window(clip, place, frames, generator)
            else:
                blurred = reblurrer.reblur(clip, place, generator)
                if frames > 1:
                    blurred = torch.cat([window[: frames // 2], blurred[None], window[frames // 2 + 1 :]])
            pairs.append(Pair(blurred, sharp))
    return pairs


PairSource = Callable[[Clip, Sequence[Place], Reblurrer, int, int, torch.Generator], list[Pair]]
"""Makes training pairs from (clip, places, reblurrer, pairs a place, frames of the deblurrer, generator)."""


def inner_update(
    base: nn.Module,
    pairs: Sequence[Pair],
    settings: AdaptSettings,
    generator: torch.Generator,
    *,
    loss: Loss | None = None,
    moved: Moved | None = None,
    progress: Progress | None = None,
) -> tuple[nn.Module, list[dict[str, float]], Reason | None]:
    """Gradient steps of a copy of ``base`` on pairs, in evaluation mode, with a fresh Adam (paper, Eq. 6).

    Args:
        base: the deblurrer; not changed.
        pairs: the support set.
        settings: steps or passes, batch, order, learning rate, which parameters, precision, time budget.
        generator: draws order and mirroring, and where low-rank adapters start.
        loss: on (output, sharp); the deblurrer's own if not given.
        moved: go on with this network and its optimiser instead of a copy and a fresh one (preset "release").
        progress: called with (steps done, steps in all, "adapt").

    Returns:
        The adapted copy in evaluation mode, the history (step, loss, seconds), and None; or, when the loss is not
        finite or grows tenfold, a copy of the base, the history and the reason.
    """
    net = moved.net if moved else copy.deepcopy(base)
    net.train(settings.updates.train_mode)
    weights = free(net, settings.parameters, generator)
    history: list[dict[str, float]] = []
    steps = settings.steps_on(len(pairs))
    if not pairs or not weights or steps == 0:
        text = "no gradient step was taken; the base model is used"
        return base, history, Reason("steps", float(steps), 1.0, False, text)
    device = weights[0].device
    bf16 = uses_bf16(settings.precision, device)
    optimizer = moved.optimizer if moved else torch.optim.Adam(weights, lr=settings.lr)
    began = time.monotonic()
    order: list[int] = []
    for step in range(steps):
        while len(order) < settings.batch:
            every = torch.randperm(len(pairs), generator=generator) if settings.shuffle else torch.arange(len(pairs))
            order += every.tolist()
        chosen, order = [pairs[index] for index in order[: settings.batch]], order[settings.batch :]
        blurred = torch.stack([pair.blurred for pair in chosen])
        sharp = torch.stack([pair.sharp for pair in chosen])
        mirrored = _Mirrored.drawn(generator) if settings.mirror else _Mirrored()
        blurred, sharp = mirrored(blurred), mirrored(sharp)
        compared = _through(chosen, mirrored, net, loss) if any(pair.through for pair in chosen) else loss
        value = own_loss(net, blurred.to(device), sharp.to(device), compared, bf16=bf16)
        history.append({"step": step, "loss": value.item(), "seconds": time.monotonic() - began})
        # Some losses (of the PSNR kind) are negative; a tenth is far above what any of them starts with by chance.
        limit = history[0]["loss"] + max(10 * abs(history[0]["loss"]), 0.1)
        if not history[-1]["loss"] <= limit:
            text = f"the loss went to {history[-1]['loss']:.3g} at step {step}; the base model is used"
            return base, history, Reason("diverged", history[-1]["loss"], limit, False, text)
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if progress:
            progress(step + 1, steps, "adapt")
        if 0 < settings.budget_seconds < time.monotonic() - began:
            break
    if not all(bool(weight.isfinite().all()) for weight in weights):
        text = "the adapted weights are not finite; the base model is used"
        return base, history, Reason("diverged", float("nan"), 0.0, False, text)
    settle(net)
    return net.eval().requires_grad_(False), history, None


@dataclass(frozen=True)
class _Mirrored:
    """How a batch is mirrored and transposed."""

    across: bool = False
    down: bool = False
    swapped: bool = False

    @classmethod
    def drawn(cls, generator: torch.Generator) -> _Mirrored:
        """Drawn anew for each batch."""
        return cls(*(bool(torch.randint(2, (), generator=generator)) for _ in range(3)))

    @property
    def _sides(self) -> list[int]:
        return [side for side, drawn in ((-1, self.across), (-2, self.down)) if drawn]

    def __call__(self, pictures: Tensor) -> Tensor:
        """The pictures (..., H, W), mirrored."""
        flipped = pictures.flip(self._sides) if self._sides else pictures
        return flipped.mT if self.swapped else flipped

    def back(self, pictures: Tensor) -> Tensor:
        """Mirrored pictures as they were."""
        turned = pictures.mT if self.swapped else pictures
        return turned.flip(self._sides) if self._sides else turned


def _through(pairs: Sequence[Pair], mirrored: _Mirrored, net: nn.Module, loss: Loss | None) -> Loss:
    """A loss that sends each full-size output through its pair's operator, as it lies in the clip, not mirrored.

    A deblurrer whose own loss wants several outputs learns by L1 here: operators are made for the full size.
    """
    known = traits(net)
    measured = loss or (F.l1_loss if known.all_outputs else known.loss)

    def compared(output: Any, sharp: Tensor) -> Tensor:
        pictures = mirrored.back(final(output))
        both = zip(pairs, pictures, strict=True)
        gone = torch.stack([pair.through(picture) if pair.through else picture for pair, picture in both])
        return measured(gone, mirrored.back(sharp))

    return compared
