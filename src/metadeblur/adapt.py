"""Adaptation: fit a copy of a deblurrer to one blurred clip, without ground truth, and let the guard judge it.

The inner update of "Meta Transferring for Deblurring" (Liu et al., BMVC 2022, section 3, Eq. 3-6): relatively sharp
patches of the clip are reblurred with the clip's own kind of blur, and the deblurrer takes gradient steps on these
pairs with its own loss. Nothing here takes sharp frames: there is no way to hand it any.
"""

from __future__ import annotations

import copy
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
from metadeblur.networks import Loss, final, traits
from metadeblur.reblur import Reblurrer
from metadeblur.reblur.flow import fit_flow_reblurrer
from metadeblur.restore import choose_device, has_native_bf16
from metadeblur.support import MINIMUM_FRAMES, Place, SupportSet, choose_support, place_window

Progress = Callable[[int, int, str], None]  # (done, total, stage)


@dataclass(frozen=True)
class Pair:
    """One item of the support set: what the deblurrer is fed, and what it should give.

    Attributes:
        blurred: (3, P, P), or (N, 3, P, P) for a video deblurrer: the window with its centre replaced.
        sharp: (3, P, P), the pseudo-sharp patch.
    """

    blurred: Tensor
    sharp: Tensor

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
    reblur: Literal["auto", "flow"] = (
        "auto"  # where the blur comes from: flow (the clip's optical flow), or auto (the best there is)
    )
    method: Literal["guided", "random"] = "guided"  # choice of places; random: as in the paper
    held_out: float = 0.25  # further places, as a share of M, that only the guard sees
    guard: bool = True  # let the guard keep, weaken or drop the adaptation
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # of the gradient steps: auto (bf16 where native), bf16 or fp32
    budget_seconds: float = 0.0  # stop stepping after this time; 0: no limit
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto, cpu or cuda
    seed: int = 0  # the only source of randomness

    def __post_init__(self) -> None:
        least = {"pairs": 1, "blurs": 1, "steps": 0, "batch": 1, "patch": 32}
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


_CHOICES = {
    "reblur": ("auto", "flow"),
    "method": ("guided", "random"),
    "precision": ("auto", "fp32", "bf16"),
    "device": ("auto", "cpu", "cuda"),
}


@dataclass
class Outcome:
    """What adaptation gave: the network to use, how much of it is adapted, and why."""

    model: nn.Module  # to be used: base, adapted, or between
    share: float  # 0 (base) to 1 (adapted whole)
    reasons: tuple[Reason, ...]
    history: list[dict[str, float]] = field(default_factory=list)  # step, loss, seconds
    reblurrer: Reblurrer | None = None
    support: SupportSet | None = None
    pairs: list[Pair] = field(default_factory=list)  # the support set's training pairs
    adapted: nn.Module | None = None  # before the guard (share 1); None where no step was taken or it diverged
    seconds: dict[str, float] = field(default_factory=dict)  # by stage

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
            "reblurrer": self.reblurrer.describe() if self.reblurrer else None,
            "seconds": self.seconds,
        }


def adapt(
    net: nn.Module,
    clip: Clip,
    *,
    settings: AdaptSettings | None = None,
    reblurrer: Reblurrer | None = None,
    loss: Loss | None = None,
    progress: Progress | None = None,
    **overrides: Any,
) -> Outcome:
    """Adapt a copy of ``net`` to a blurred clip.

    Args:
        net: any deblurrer (B, 3, H, W) -> (B, 3, H, W), or (B, N, 3, H, W) with an attribute ``frames``; not changed.
        clip: the blurred clip; its frames are read several times, so a long one should be in memory.
        settings: see :class:`AdaptSettings`.
        reblurrer: makes the pseudo-blurred patches; by default fitted to the clip from its optical flow.
        loss: the deblurrer's own loss on (output, sharp); by default its attribute ``loss``, or L1.
        progress: called with (steps done, steps in all, stage).
        **overrides: single fields of the settings, such as ``steps=40, seed=0``.

    Returns:
        The outcome; where nothing could be adapted (too short a clip, nothing moves, steps that diverge), its model is
        a copy of ``net`` and its reasons say why.

    Raises:
        MetadeblurError: a setting out of range.
        TypeError: an override that is no setting.
    """
    settings = replace(settings or AdaptSettings(), **overrides)
    device = choose_device(settings.device)
    # A plain copy: hooks and buffers come along, gradients and the caller's mode do not matter.
    base = copy.deepcopy(net).to(device).eval().requires_grad_(False)
    if len(clip) < MINIMUM_FRAMES:
        text = f"{len(clip)} frames are too few to adapt to (at least {MINIMUM_FRAMES}); the base model is used"
        return Outcome(base, 0.0, (Reason("length", float(len(clip)), float(MINIMUM_FRAMES), False, text),))
    generator = torch.Generator().manual_seed(settings.seed)
    seconds: dict[str, float] = {}
    with _Stage(seconds, "select"):
        support = choose_support(
            clip,
            pairs=settings.pairs,
            patch=settings.patch,
            held_out=settings.held_out,
            method=settings.method,
            generator=generator,
        )
    with _Stage(seconds, "reblur"):
        if reblurrer is None:
            reblurrer = fit_flow_reblurrer(clip, places=support.train, generator=generator)
        frames = traits(net).frames
        pairs = make_pairs(clip, support.train, reblurrer, settings.blurs, frames, generator)
        held_out = make_pairs(clip, support.held_out, reblurrer, 1, frames, generator)
    outcome = Outcome(base, 0.0, (), reblurrer=reblurrer, support=support, pairs=pairs, seconds=seconds)
    with _Stage(seconds, "adapt"):
        adapted, outcome.history, failure = inner_update(
            base, pairs, settings, generator, loss=loss or traits(net).loss, progress=progress
        )
    if failure is not None:
        outcome.reasons = (failure,)
        return outcome
    outcome.adapted = adapted
    if not settings.guard:
        outcome.model, outcome.share = adapted, 1.0
        outcome.reasons = (Reason("guard", 1.0, 1.0, True, "the guard was switched off: the adaptation is used whole"),)
        return outcome
    with _Stage(seconds, "guard"):
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


def make_pairs(
    clip: Clip,
    places: Sequence[Place],
    reblurrer: Reblurrer,
    blurs: int,
    frames: int,
    generator: torch.Generator,
) -> list[Pair]:
    """Reblur the pseudo-sharp patch of every place ``blurs`` times, all once and without gradient (paper, Eq. 5)."""
    pairs = []
    for place in places:
        window = place_window(clip, place, frames)
        sharp = window[frames // 2]
        for _ in range(blurs):
            blurred = reblurrer.reblur(clip, place, generator)
            if frames > 1:
                blurred = torch.cat([window[: frames // 2], blurred[None], window[frames // 2 + 1 :]])
            pairs.append(Pair(blurred, sharp))
    return pairs


def inner_update(
    base: nn.Module,
    pairs: Sequence[Pair],
    settings: AdaptSettings,
    generator: torch.Generator,
    *,
    loss: Loss = F.l1_loss,
    progress: Progress | None = None,
) -> tuple[nn.Module, list[dict[str, float]], Reason | None]:
    """Gradient steps of a copy of ``base`` on pairs, in evaluation mode, with a fresh Adam (paper, Eq. 6).

    Args:
        base: the deblurrer; not changed.
        pairs: the support set.
        settings: steps, batch, learning rate, precision, time budget.
        generator: draws order and mirroring.
        loss: on (output, sharp).
        progress: called with (steps done, steps in all, "adapt").

    Returns:
        The adapted copy in evaluation mode, the history (step, loss, seconds), and None; or, when the loss is not
        finite or grows tenfold, a copy of the base, the history and the reason.
    """
    net = copy.deepcopy(base).eval().requires_grad_(True)
    weights = [weight for weight in net.parameters() if weight.is_floating_point()]
    history: list[dict[str, float]] = []
    if not pairs or not weights or settings.steps == 0:
        text = "no gradient step was taken; the base model is used"
        return base, history, Reason("steps", float(settings.steps), 1.0, False, text)
    device = weights[0].device
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and has_native_bf16(device))
    optimizer = torch.optim.Adam(weights, lr=settings.lr)
    began = time.monotonic()
    order: list[int] = []
    for step in range(settings.steps):
        while len(order) < settings.batch:
            order += torch.randperm(len(pairs), generator=generator).tolist()
        chosen, order = [pairs[index] for index in order[: settings.batch]], order[settings.batch :]
        blurred = torch.stack([pair.blurred for pair in chosen])
        sharp = torch.stack([pair.sharp for pair in chosen])
        blurred, sharp = (part.to(device) for part in _mirror(blurred, sharp, generator))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            output = net(_padded(blurred, traits(base).multiple))
        value = loss(_cropped(output, sharp), sharp)
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
            progress(step + 1, settings.steps, "adapt")
        if 0 < settings.budget_seconds < time.monotonic() - began:
            break
    if not all(bool(weight.isfinite().all()) for weight in weights):
        text = "the adapted weights are not finite; the base model is used"
        return base, history, Reason("diverged", float("nan"), 0.0, False, text)
    return net.requires_grad_(False), history, None


def _mirror(blurred: Tensor, sharp: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirror and transpose both alike, drawn anew for each batch."""
    across, down, swap = (bool(torch.randint(2, (), generator=generator)) for _ in range(3))
    sides = [side for side, drawn in ((-1, across), (-2, down)) if drawn]
    if sides:
        blurred, sharp = blurred.flip(sides), sharp.flip(sides)
    return (blurred.mT, sharp.mT) if swap else (blurred, sharp)


def _padded(blurred: Tensor, multiple: int) -> Tensor:
    """Repeat the border until both sides are multiples of ``multiple``."""
    height, width = blurred.shape[-2:]
    if height % multiple == 0 and width % multiple == 0:
        return blurred
    flat = blurred.reshape(-1, *blurred.shape[-3:])
    flat = F.pad(flat, (0, -width % multiple, 0, -height % multiple), mode="replicate")
    return flat.reshape(*blurred.shape[:-2], *flat.shape[-2:])


def _cropped(output: Any, sharp: Tensor) -> Any:
    """Cut the padding off again and go back to float32."""
    picture = final(output)
    return picture[..., : sharp.shape[-2], : sharp.shape[-1]].float()


class _Stage:
    """Adds the time spent in a ``with`` block to a dictionary of seconds by stage."""

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self._seconds, self._name = seconds, name

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *unused: object) -> None:
        self._seconds[self._name] = self._seconds.get(self._name, 0.0) + time.monotonic() - self._began
