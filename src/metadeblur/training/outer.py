"""The outer update: what adapted copies get wrong on true pairs moves the meta-weights (paper, section 3.4, Eq. 7).

First order: the gradients of the query losses (Charbonnier for the reblurrer, its own loss for the deblurrer), summed
over the clip's frames, are taken at the ADAPTED weights and applied to the META-weights, by two Adams with the rates of
Eq. 7 whose moments last over the tasks. The meta-weights are never the tensors that adapt (docs/fidelity.md,
meta-weights), gradients of several tasks are added up before one step (docs/fidelity.md, task batch), and every task
begins with the same critic (docs/fidelity.md, critic per task).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from metadeblur.data.paired import PairedClip
from metadeblur.models.forward import frozen, own_loss
from metadeblur.models.losses import charbonnier, charbonnier_edge
from metadeblur.models.registry import traits
from metadeblur.reblur.fitting import NetworkReblurrer
from metadeblur.training.settings import OuterUpdate
from metadeblur.training.workers import TrainingProcess

REBLUR_LOSSES = {"charbonnier": charbonnier, "charbonnier_edge": charbonnier_edge}


@dataclass(frozen=True)
class Query:
    """One frame of a task's query set.

    Attributes:
        sharp: (F, 3, P, P), the window of sharp patches that the reblurrer is fed.
        blurred: (N, 3, P, P), the window of blurred patches that the deblurrer is fed; N is 1 for an image deblurrer.
    """

    sharp: Tensor
    blurred: Tensor


class MetaLearner:
    """The meta-weights of a deblurrer and a reblurrer, the critic that every task begins with, and the outer Adams.

    The pre-trained networks given are copied.
    """

    def __init__(
        self,
        reblurrer: NetworkReblurrer,
        deblurrer: nn.Module,
        settings: OuterUpdate,
        workers: TrainingProcess,
        *,
        bf16: bool = False,
    ) -> None:
        self.settings, self.workers, self.device = settings, workers, workers.device
        self.reblurrer = frozen(reblurrer.network).to(self.device).requires_grad_(True)
        self.deblurrer = frozen(deblurrer).to(self.device).requires_grad_(True)
        self.critic = None if reblurrer.critic is None else frozen(reblurrer.critic).to(self.device)
        self.bf16 = bf16
        self.optimizers = {"reblurrer": self._optimizer(self.reblurrer, settings.lr_reblurrer)}
        self.optimizers["deblurrer"] = self._optimizer(self.deblurrer, settings.lr_deblurrer)
        self.rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in self.optimizers.items()}

    def _optimizer(self, net: nn.Module, lr: float) -> torch.optim.Optimizer:
        if self.settings.algorithm == "reptile":
            return torch.optim.SGD(net.parameters(), lr=self.settings.reptile)
        return torch.optim.Adam(net.parameters(), lr=lr)

    def start(self) -> tuple[NetworkReblurrer, nn.Module]:
        """What a task adapts from: copies of the meta-weights, and the pre-trained critic."""
        return NetworkReblurrer(frozen(self.reblurrer), self.critic), frozen(self.deblurrer)

    def clear(self) -> None:
        """Forget the gradients of earlier tasks."""
        for net in (self.reblurrer, self.deblurrer):
            for weight in net.parameters():
                weight.grad = torch.zeros_like(weight)

    def learn(
        self,
        reblurrer: nn.Module,
        deblurrer: nn.Module,
        queries: Sequence[Query],
        *,
        share: float = 1.0,
        rate: float = 1.0,
    ) -> dict[str, float]:
        """Add what a task teaches to the gradients of the meta-weights (Eq. 7, first order).

        Args:
            reblurrer: adapted to the task.
            deblurrer: adapted to the task.
            queries: the clip's query frames, or this process's part of them; their losses are summed.
            share: weight of this task among those of one outer step.
            rate: factor of the learning rates of the steps that are taken here, with a step for each frame.

        Returns:
            The mean query losses a frame, "query_reblur" and "query_deblur"; none with Reptile.
        """
        pairs = ((self.reblurrer, reblurrer), (self.deblurrer, deblurrer))
        if self.settings.algorithm == "reptile":
            for meta, adapted in pairs:
                for weight, other in zip(meta.parameters(), adapted.parameters(), strict=True):
                    _gradient(weight).add_(weight.detach() - other.detach(), alpha=share)
            return {}
        sums = {"query_reblur": 0.0, "query_deblur": 0.0}
        for adapted in (reblurrer, deblurrer):
            adapted.requires_grad_(True).zero_grad(set_to_none=True)
        for first in range(0, len(queries), self.settings.query_batch):
            part = queries[first : first + self.settings.query_batch]
            for name, loss in zip(sums, self._query_losses(reblurrer, deblurrer, part), strict=True):
                sums[name] += loss.item()
                loss.backward()  # type: ignore[no-untyped-call]
            if self.settings.outer_step == "frame":
                self._take_over(pairs, share)
                self.step(rate)
                self.clear()
        self._take_over(pairs, share)
        for adapted in (reblurrer, deblurrer):
            adapted.requires_grad_(False)
        return {name: value / max(len(queries), 1) for name, value in sums.items()}

    def _query_losses(self, reblurrer: nn.Module, deblurrer: nn.Module, part: Sequence[Query]) -> tuple[Tensor, Tensor]:
        """The two query losses of some frames, each summed over them."""
        sharp = torch.stack([query.sharp for query in part]).to(self.device)
        blurred = torch.stack([query.blurred for query in part]).to(self.device)
        centre = blurred[:, blurred.shape[1] // 2]
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            reblurred = reblurrer(sharp)
        reblur = REBLUR_LOSSES[self.settings.reblur_loss](reblurred.float(), centre)
        fed = centre if traits(deblurrer).frames == 1 else blurred
        deblur = own_loss(deblurrer, fed, _targets(deblurrer, sharp), bf16=self.bf16)
        return reblur * len(part), deblur * len(part)

    def _take_over(self, pairs: Sequence[tuple[nn.Module, nn.Module]], share: float) -> None:
        """Move the gradients from the adapted weights to the meta-weights."""
        for meta, adapted in pairs:
            for weight, other in zip(meta.parameters(), adapted.parameters(), strict=True):
                if other.grad is not None:
                    _gradient(weight).add_(other.grad, alpha=share)
            adapted.zero_grad(set_to_none=True)

    def step(self, rate: float = 1.0) -> float:
        """One outer step of both networks from the gradients so far; returns the deblurrer's gradient's length."""
        length = 0.0
        for name, net in (("reblurrer", self.reblurrer), ("deblurrer", self.deblurrer)):
            self.workers.average_gradients(net.parameters())
            longest = self.settings.clip_gradient or float("inf")
            length = float(nn.utils.clip_grad_norm_(net.parameters(), longest))
            for group in self.optimizers[name].param_groups:
                group["lr"] = self.rates[name] * rate
            self.optimizers[name].step()
        return length


def query_set(pair: PairedClip, frames: tuple[int, int], patch: int, count: int, seed: int) -> list[Query]:
    """So many query frames of a clip (0: all), each cropped at a random place; clip ends repeat the end frame.

    ``frames`` are those that the reblurrer and the deblurrer take; ``patch`` is the side of the crops in px, less in
    small frames.
    """
    rng = np.random.default_rng((seed, 1))
    count = min(count or len(pair), len(pair))
    numbers = sorted(int(number) for number in rng.choice(len(pair), count, replace=False))
    height, width = pair.blurred.height, pair.blurred.width
    patch = min(patch, height, width)
    queries = []
    for number in numbers:
        top, left = int(rng.integers(height - patch + 1)), int(rng.integers(width - patch + 1))
        cut = (..., slice(top, top + patch), slice(left, left + patch))
        sharp, blurred = (
            clip.window(number, size)[cut].clone()
            for clip, size in zip((pair.sharp, pair.blurred), frames, strict=True)
        )
        queries.append(Query(sharp, blurred))
    return queries


def _targets(deblurrer: nn.Module, sharp: Tensor) -> Tensor:
    """What a deblurrer is to give, of the sharp windows (B, F, 3, P, P): the centre, or its whole window's frames."""
    wanted, middle = traits(deblurrer), sharp.shape[1] // 2
    reach = wanted.frames // 2
    if wanted.window_target and reach <= middle:
        return sharp[:, middle - reach : middle + reach + 1]
    return sharp[:, middle]


def _gradient(weight: nn.Parameter) -> Tensor:
    """The gradient of a meta-weight, made if there is none."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad
