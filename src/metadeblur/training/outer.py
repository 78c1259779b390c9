"""The outer update: what adapted copies get wrong on true pairs moves the meta-weights (paper, section 3.4, Eq. 7).

First order: the gradients of the query losses (Charbonnier for the reblurrer, its own loss for the deblurrer), summed
over the clip's frames, are taken at the ADAPTED weights and applied to the META-weights, by two Adams with the rates of
Eq. 7 whose moments last over the tasks. The meta-weights are never the tensors that adapt (docs/fidelity.md,
meta-weights), gradients of several tasks are added up before one step (docs/fidelity.md, task batch), and every task
begins with the same critic (docs/fidelity.md, critic per task). With flow pairs there is no reblurring network: the
deblurrer alone is meta-trained. Beyond the paper, the rate of each layer in the inner update can be learnt too
(:class:`LayerRates`), and the deblurrer judged by what it gives once frames are fused and corrected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metadeblur.clip import Clip
from metadeblur.data.paired import PairedClip
from metadeblur.models.forward import frozen, own_loss
from metadeblur.models.losses import charbonnier, charbonnier_edge
from metadeblur.models.rates import ALLOWED, StepRates, layer_of, layers_of, set_step_rates, step_rates
from metadeblur.models.registry import Loss, final, traits
from metadeblur.models.told_reblurring import told_paths
from metadeblur.reblur.fitting import NetworkReblurrer
from metadeblur.training.settings import OuterUpdate
from metadeblur.training.workers import TrainingProcess

RATES = "step_rates"
"""The learnt rates of the deblurrer's layers, among the networks that are meta-trained."""
_LEAST_RATE = 1e-6  # of a layer whose rate is learnt: a logarithm knows no zero

REBLUR_LOSSES = {"charbonnier": charbonnier, "charbonnier_edge": charbonnier_edge}


@dataclass(frozen=True)
class Query:
    """One frame of a task's query set.

    Attributes:
        sharp: (F, 3, P, P), the window of sharp patches that the reblurrer is fed.
        blurred: (N, 3, P, P), the window of blurred patches that the deblurrer is fed; N is 1 for an image deblurrer.
        fused: (3, P, P), what the adapted deblurrer gives once frames are fused and corrected; None: not asked for.
    """

    sharp: Tensor
    blurred: Tensor
    fused: Tensor | None = None


class LayerRates(nn.Module):
    """The rates of a deblurrer's layers in the inner update, as they are learnt: logarithms of factors.

    To first order (the steps' directions do not depend on their rates), the way that a layer went in the inner update
    is as long as its rate, so that the gradient for the rate's logarithm is the query gradient along that way.

    Args:
        net: the deblurrer; rates that it has are gone on with.
        first: factor that the others begin with.

    >>> LayerRates(nn.Sequential(nn.Linear(1, 1)), 1.0).rates()
    {'0': 1.0}
    """

    def __init__(self, net: nn.Module, first: float) -> None:
        super().__init__()
        known = step_rates(net)
        self.layers = layers_of(net)
        begun = [min(max(known.get(layer, first), _LEAST_RATE), ALLOWED.most) for layer in self.layers]
        self.logs = nn.Parameter(torch.tensor(begun, dtype=torch.float32).log())

    def rates(self) -> StepRates:
        """The factors by the layers' names."""
        return {
            layer: min(math.exp(log), ALLOWED.most) for layer, log in zip(self.layers, self.logs.tolist(), strict=True)
        }

    @torch.no_grad()
    def learn(self, begun: nn.Module, adapted: nn.Module, share: float) -> None:
        """Add to the gradient what a task tells, of a network that began as ``begun`` and holds its query gradient."""
        places = {layer: place for place, layer in enumerate(self.layers)}
        gradient = _gradient(self.logs)
        for (name, start), end in zip(begun.named_parameters(), adapted.parameters(), strict=True):
            if end.grad is not None:
                gradient[places[layer_of(name)]] += share * float((end.grad * (end - start)).sum())


class MetaLearner:
    """The meta-weights of a deblurrer and a reblurrer, the critic that every task begins with, and the outer Adams.

    The pre-trained networks given are copied. Without a reblurring network the deblurrer is alone.

    Args:
        reblurrer: with its critic; None: pairs are made by optical flow.
        deblurrer: any deblurrer.
        settings: of the outer update.
        workers: the processes that train together.
        bf16: mixed precision for the query losses.
        first_rate: what rates that are learnt begin with.
    """

    def __init__(
        self,
        reblurrer: NetworkReblurrer | None,
        deblurrer: nn.Module,
        settings: OuterUpdate,
        workers: TrainingProcess,
        *,
        bf16: bool = False,
        first_rate: float = 1.0,
    ) -> None:
        self.settings, self.workers, self.device = settings, workers, workers.device
        self.bf16 = bf16
        critic = None if reblurrer is None else reblurrer.critic
        self.critic = None if critic is None else frozen(critic).to(self.device)
        self.networks: dict[str, nn.Module] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        if reblurrer is not None:
            self._add("reblurrer", frozen(reblurrer.network), settings.lr_reblurrer)
        self._add("deblurrer", frozen(deblurrer), settings.lr_deblurrer)
        if settings.lr_rates:
            self._add(RATES, LayerRates(deblurrer, first_rate), settings.lr_rates)
        self.rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in self.optimizers.items()}

    def _add(self, name: str, net: nn.Module, lr: float) -> None:
        """Let a network, a copy, be moved by an optimiser of its own."""
        self.networks[name] = net.to(self.device).requires_grad_(True)
        if self.settings.algorithm == "reptile":
            self.optimizers[name] = torch.optim.SGD(net.parameters(), lr=self.settings.reptile)
        else:
            self.optimizers[name] = torch.optim.Adam(net.parameters(), lr=lr)

    @property
    def deblurrer(self) -> nn.Module:
        """The deblurrer's meta-weights."""
        return self.networks["deblurrer"]

    @property
    def reblurrer(self) -> nn.Module:
        """The reblurring network's, where there is one."""
        return self.networks["reblurrer"]

    @property
    def losses(self) -> list[str]:
        """The names of the query losses."""
        return [f"query_{name.removesuffix('rer')}" for name in ("reblurrer", "deblurrer") if name in self.networks]

    def start(self) -> tuple[NetworkReblurrer | None, nn.Module]:
        """What a task adapts from: copies of the meta-weights, and the pre-trained critic."""
        return starting(self.networks, self.critic)

    def clear(self) -> None:
        """Forget the gradients of earlier tasks."""
        for net in self.networks.values():
            for weight in net.parameters():
                weight.grad = torch.zeros_like(weight)

    def learn(
        self,
        reblurrer: nn.Module | None,
        deblurrer: nn.Module,
        queries: Sequence[Query],
        *,
        share: float = 1.0,
        rate: float = 1.0,
    ) -> dict[str, float]:
        """Add what a task teaches to the gradients of the meta-weights (Eq. 7, first order).

        Args:
            reblurrer: adapted to the task; None where there is none.
            deblurrer: adapted to the task.
            queries: the clip's query frames, or this process's part of them; their losses are summed.
            share: weight of this task among those of one outer step.
            rate: factor of the learning rates of the steps that are taken here, with a step for each frame.

        Returns:
            The mean query losses a frame, "query_reblur" and "query_deblur"; none with Reptile.
        """
        adapted = {"reblurrer": reblurrer, "deblurrer": deblurrer}
        pairs = [(self.networks[name], net) for name, net in adapted.items() if net is not None]
        if self.settings.algorithm == "reptile":
            for meta, other in pairs:
                for weight, goal in zip(meta.parameters(), other.parameters(), strict=True):
                    _gradient(weight).add_(weight.detach() - goal.detach(), alpha=share)
            return {}
        sums = dict.fromkeys(self.losses, 0.0)
        for _, other in pairs:
            other.requires_grad_(True).zero_grad(set_to_none=True)
        for first in range(0, len(queries), self.settings.query_batch):
            part = queries[first : first + self.settings.query_batch]
            for name, loss in zip(sums, self._query_losses(reblurrer, deblurrer, part), strict=True):
                sums[name] += loss.item()
                loss.backward()  # type: ignore[no-untyped-call]
            if self.settings.outer_step == "frame":
                self._take_over(pairs, share)
                self.step(rate)
                self.clear()
        rates = self.networks.get(RATES)
        if isinstance(rates, LayerRates):
            rates.learn(self.deblurrer, deblurrer, share)
        self._take_over(pairs, share)
        for _, other in pairs:
            other.requires_grad_(False)
        return {name: value / max(len(queries), 1) for name, value in sums.items()}

    def _query_losses(self, reblurrer: nn.Module | None, deblurrer: nn.Module, part: Sequence[Query]) -> list[Tensor]:
        """The query losses of some frames, each summed over them."""
        sharp = torch.stack([query.sharp for query in part]).to(self.device)
        blurred = torch.stack([query.blurred for query in part]).to(self.device)
        centre = blurred[:, blurred.shape[1] // 2]
        losses = []
        if reblurrer is not None:
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
                reblurred = reblurrer(sharp, *told_paths(reblurrer, sharp, centre))
            losses.append(REBLUR_LOSSES[self.settings.reblur_loss](reblurred.float(), centre))
        fed = centre if traits(deblurrer).frames == 1 else blurred
        fused = [query.fused for query in part if query.fused is not None]
        if fused:
            target, loss = sharp[:, sharp.shape[1] // 2], _once_fused(deblurrer, torch.stack(fused).to(self.device))
            losses.append(own_loss(deblurrer, fed, target, loss, bf16=self.bf16))
        else:
            losses.append(own_loss(deblurrer, fed, _targets(deblurrer, sharp), bf16=self.bf16))
        return [loss * len(part) for loss in losses]

    def _take_over(self, pairs: Sequence[tuple[nn.Module, nn.Module]], share: float) -> None:
        """Move the gradients from the adapted weights to the meta-weights."""
        for meta, adapted in pairs:
            for weight, other in zip(meta.parameters(), adapted.parameters(), strict=True):
                if other.grad is not None:
                    _gradient(weight).add_(other.grad, alpha=share)
            adapted.zero_grad(set_to_none=True)

    def step(self, rate: float = 1.0) -> float:
        """One outer step of all networks from the gradients so far; returns the deblurrer's gradient's length."""
        lengths = {}
        for name, net in self.networks.items():
            self.workers.average_gradients(net.parameters())
            longest = self.settings.clip_gradient or float("inf")
            lengths[name] = float(nn.utils.clip_grad_norm_(net.parameters(), longest))
            for group in self.optimizers[name].param_groups:
                group["lr"] = self.rates[name] * rate
            self.optimizers[name].step()
        return lengths["deblurrer"]


def starting(networks: dict[str, nn.Module], critic: nn.Module | None) -> tuple[NetworkReblurrer | None, nn.Module]:
    """Copies of meta-weights to adapt: the reblurrer with its critic, where there is one, and the deblurrer."""
    deblurrer, rates = frozen(networks["deblurrer"]), networks.get(RATES)
    if isinstance(rates, LayerRates):
        set_step_rates(deblurrer, rates.rates())
    reblurrer = networks.get("reblurrer")
    return None if reblurrer is None else NetworkReblurrer(frozen(reblurrer), critic), deblurrer


def query_set(
    pair: PairedClip, frames: tuple[int, int], patch: int, count: int, seed: int, fused: Clip | None = None
) -> list[Query]:
    """So many query frames of a clip (0: all), each cropped at a random place; clip ends repeat the end frame.

    ``frames`` are those that the reblurrer and the deblurrer take; ``patch`` is the side of the crops in px, less in
    small frames; ``fused`` are the clip's restored and fused frames, where the deblurrer is judged by them.
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
        queries.append(Query(sharp, blurred, None if fused is None else fused[number][cut].clone()))
    return queries


def _once_fused(deblurrer: nn.Module, fused: Tensor) -> Loss:
    """A deblurrer's loss taken at fused pictures (B, 3, P, P), as if what fusing changes were the same for any output.

    A deblurrer whose own loss wants several outputs, or several sharp frames, learns by L1 here.
    """
    wanted = traits(deblurrer)
    measured = F.l1_loss if wanted.all_outputs or wanted.window_target else wanted.loss

    def loss(output: Any, sharp: Tensor) -> Tensor:
        picture = final(output)
        return measured(picture + (fused - picture).detach(), sharp)

    return loss


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
