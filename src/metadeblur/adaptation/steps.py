"""Gradient steps of a deblurrer on the support set's pairs (paper, Eq. 6)."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import get_swa_multi_avg_fn

from metadeblur.adaptation.parameters import free, merge_adapters
from metadeblur.adaptation.settings import AdaptSettings
from metadeblur.errors import MetadeblurError
from metadeblur.guard.judge import Reason
from metadeblur.models.forward import in_float32, own_loss, uses_bf16
from metadeblur.models.rates import stepped_at
from metadeblur.models.registry import Loss, final, traits
from metadeblur.types import AdaptStage

Progress = Callable[[int, int, AdaptStage], None]  # (done, total, stage)
Callback = Callable[[int, float, nn.Module], object]  # (step from 0, loss, network); ends the steps where it is true
OptimizerFactory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
        return f"Pair(blurred {tuple(self.blurred.shape)}, sharp {tuple(self.sharp.shape)})"

    def in_memory(self) -> Pair:
        """The same in main memory."""
        return replace(self, blurred=self.blurred.cpu(), sharp=self.sharp.cpu())

    @property
    def centre(self) -> Tensor:
        """The pseudo-blurred patch alone, (3, P, P)."""
        return self.blurred if self.blurred.ndim == 3 else self.blurred[self.blurred.shape[0] // 2]


@dataclass(frozen=True)
class Moved:
    """A deblurrer that the reblurrer's stage has moved already, and the Adam that goes on (preset "release")."""

    net: nn.Module
    optimizer: torch.optim.Optimizer


def inner_update(
    base: nn.Module,
    pairs: Sequence[Pair],
    settings: AdaptSettings,
    generator: torch.Generator,
    *,
    loss: Loss | None = None,
    moved: Moved | None = None,
    progress: Progress | None = None,
    callback: Callback | None = None,
    optimizer: OptimizerFactory | None = None,
) -> tuple[nn.Module, list[dict[str, float]], Reason | None]:
    """Gradient steps of a copy of ``base`` on pairs, in evaluation mode, with a fresh optimiser (paper, Eq. 6).

    Args:
        base: the deblurrer; not changed.
        pairs: the support set.
        settings: steps or passes, batch, order, learning rate, which parameters, precision, time budget.
        generator: draws order, mirroring and low-rank adapters.
        loss: on (output, sharp); the deblurrer's own if not given.
        moved: go on with this network and its optimiser instead of a copy and a fresh one (preset "release").
        progress: called with (steps done, steps in all, "adapt").
        callback: called after each step with (step from 0, loss, the network); ends the steps where it returns true.
        optimizer: makes the optimiser of the parameters to step; by default Adam with the settings' learning rate,
            times each layer's own where the network has such (:mod:`metadeblur.models.rates`).

    Returns:
        The adapted copy in evaluation mode, the history (step, loss, seconds), and None; or, when the loss is not
        finite or grows tenfold, a copy of the base, the history and the reason.
    """
    net = moved.net if moved else in_float32(copy.deepcopy(base))
    net.train(settings.updates.train_mode)
    weights = free(net, settings.parameters, generator)
    history: list[dict[str, float]] = []
    steps = settings.steps_on(len(pairs))
    if not pairs or not weights or steps == 0:
        text = "no gradient step was taken; the base model is used"
        return base, history, Reason("steps", float(steps), 1.0, False, text)
    device = weights[0].device
    bf16 = uses_bf16(settings.precision, device)
    stepper = moved.optimizer if moved else _optimizer(net, weights, settings, optimizer)
    began = time.monotonic()
    order: list[int] = []
    mean = _Mean(weights)
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
        stepper.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        stepper.step()
        _log.debug("step %d of %d: loss %.5g", step + 1, steps, history[-1]["loss"])
        if step >= steps * (1 - settings.average):
            mean.add()
        if progress:
            progress(step + 1, steps, "adapt")
        if callback is not None and callback(step, history[-1]["loss"], net):
            break
        spent = time.monotonic() - began
        if 0 < settings.budget_seconds < spent * (step + 2) / (step + 1):  # one more would take too long
            break
    mean.use()
    if not all(bool(weight.isfinite().all()) for weight in weights):
        text = "the adapted weights are not finite; the base model is used"
        return base, history, Reason("diverged", float("nan"), 0.0, False, text)
    merge_adapters(net)
    return net.eval().requires_grad_(False), history, None


def _optimizer(
    net: nn.Module, weights: list[nn.Parameter], settings: AdaptSettings, factory: OptimizerFactory | None
) -> torch.optim.Optimizer:
    """A fresh optimiser of the weights."""
    if factory is None:
        return torch.optim.Adam(stepped_at(net, weights, settings.lr), lr=settings.lr)
    made = factory(weights)
    how = "optimizer makes an optimiser of the parameters that it is given: lambda parameters: SGD(parameters, lr=1e-3)"
    if not isinstance(made, torch.optim.Optimizer):
        raise MetadeblurError(f"optimizer gave a {type(made).__name__}; {how}")
    if isinstance(made, torch.optim.LBFGS):
        raise MetadeblurError("optimizer gave an LBFGS, which takes several losses a step; choose another")
    known = {id(weight) for weight in weights}
    if any(id(weight) not in known for group in made.param_groups for weight in group["params"]):
        raise MetadeblurError(f"optimizer gave one of other parameters: a copy of the network is adapted; {how}")
    return made


class _Mean:
    """The running mean of weights over steps: it varies less with the order and the draw of the pairs than the last."""

    def __init__(self, weights: Sequence[nn.Parameter]) -> None:
        self._weights = weights
        self._means: list[Tensor] = []
        self._count = 0

    @torch.no_grad()
    def add(self) -> None:
        """Takes the weights as they are now into the mean."""
        if not self._means:
            self._means = [weight.clone() for weight in self._weights]
        get_swa_multi_avg_fn()(self._means, list(self._weights), self._count)  # type: ignore[no-untyped-call]
        self._count += 1

    @torch.no_grad()
    def use(self) -> None:
        """Puts the mean in the weights' place; without any it leaves them."""
        for mean, weight in zip(self._means, self._weights, strict=False):
            weight.copy_(mean)


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
    wanted = traits(net)
    measured = loss or (F.l1_loss if wanted.all_outputs else wanted.loss)

    def compared(output: Any, sharp: Tensor) -> Tensor:
        pictures = mirrored.back(final(output))
        both = zip(pairs, pictures, strict=True)
        gone = torch.stack([pair.through(picture) if pair.through else picture for pair, picture in both])
        return measured(gone, mirrored.back(sharp))

    return compared
