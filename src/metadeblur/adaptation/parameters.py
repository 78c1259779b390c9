"""What adapts: all parameters of a network, or a named part of them, so that large networks take little memory.

Steps on a part keep fewer activations and fewer moments of Adam: nothing before the first parameter that moves needs a
gradient at all. Low-rank adapters (Hu et al., "LoRA", ICLR 2022) learn for each convolution and linear layer a product
of two thin matrices that is added to its weight; afterwards the sum is written into the weight, so that the network is
as before, in names and in speed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from metadeblur.errors import MetadeblurError
from metadeblur.models.forward import trainable

PARAMETERS = ("all", "norms-and-biases", "decoder", "last", "low-rank")
RANK = 4
"""Of a low-rank adapter."""

_ADAPTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


class LowRank(nn.Module):
    """Adds a product of two thin matrices, zero at the start, to a weight (rows, ...).

    Args:
        weight: to be added to.
        generator: on the CPU, draws one of the two.
    """

    def __init__(self, weight: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        drawn = torch.randn(RANK, columns, generator=generator) / math.sqrt(columns)
        self.inner = nn.Parameter(drawn.to(weight))
        self.outer = nn.Parameter(weight.new_zeros(rows, RANK))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with what was learnt."""
        return weight + (self.outer @ self.inner).view_as(weight)


def free(net: nn.Module, which: str, generator: torch.Generator) -> list[nn.Parameter]:
    """Let a part of a network's parameters take gradients, and only these; :func:`merge_adapters` ends it.

    Args:
        net: changed in place.
        which: one of ``PARAMETERS``. "norms-and-biases" are all that have one number a channel or head; "decoder" and
            "last" are what the network's attribute ``parts`` says.
        generator: on the CPU, draws the start of low-rank adapters.

    Returns:
        The parameters to step.

    Raises:
        MetadeblurError: the network has no such part.

    >>> net = nn.Conv2d(8, 16, 3)
    >>> [sum(one.numel() for one in free(net, which, torch.Generator())) for which in ("all", "norms-and-biases")]
    [1168, 16]
    """
    if which == "all":
        net.requires_grad_(True)
        return trainable(net)
    net.requires_grad_(False)
    if which == "low-rank":
        chosen = _with_adapters(net, generator)
    elif which == "norms-and-biases":
        chosen = [weight for weight in trainable(net) if weight.numel() == max(weight.shape, default=1)]
    else:
        chosen = _part(net, which)
    if not chosen:
        raise MetadeblurError(
            f"parameters {which!r}: {type(net).__name__} has none such; use --parameters all, or another part"
        )
    for weight in chosen:
        weight.requires_grad_(True)
    return chosen


def merge_adapters(net: nn.Module) -> None:
    """Write what low-rank adapters have learnt into the weights and take them away; names keep their order."""
    for module in list(net.modules()):
        if isinstance(module, _ADAPTED) and parametrize.is_parametrized(module, "weight"):
            others = list(module.named_parameters(recurse=False))
            parametrize.remove_parametrizations(module, "weight")
            for name, weight in others:
                delattr(module, name)
                module.register_parameter(name, weight)


def _with_adapters(net: nn.Module, generator: torch.Generator) -> list[nn.Parameter]:
    """Hang an adapter on every layer whose weight is larger than it."""
    chosen: list[nn.Parameter] = []
    for module in list(net.modules()):
        if not isinstance(module, _ADAPTED):
            continue
        rows, columns = module.weight.shape[0], module.weight[0].numel()
        if RANK * (rows + columns) < module.weight.numel():
            adapter = LowRank(module.weight, generator)
            parametrize.register_parametrization(module, "weight", adapter)
            chosen += adapter.parameters()
    return chosen


def _part(net: nn.Module, which: str) -> list[nn.Parameter]:
    """The parameters of a part that the network, or the one that it wraps, names in ``parts``."""
    for prefix, module in net.named_modules():
        parts = getattr(module, "parts", None)
        if isinstance(parts, dict) and which in parts:
            inside = tuple(f"{prefix}.{part}.".lstrip(".") for part in parts[which])
            named = {f"{name}.": weight for name, weight in net.named_parameters() if weight.is_floating_point()}
            return [weight for name, weight in named.items() if name.startswith(inside)]
    raise MetadeblurError(
        f"parameters {which!r}: {type(net).__name__} does not say which of its modules these are; give it an attribute "
        "parts = {'decoder': (...), 'last': (...)} with their names, or use all, norms-and-biases or low-rank"
    )
