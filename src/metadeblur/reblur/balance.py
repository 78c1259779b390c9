"""Whether both losses of a reblurring network count: how hard each pulls at it, and what to do where one does not.

The adversarial loss stands beside another one, L_cycle on a clip and Charbonnier in ``train reblur``. An optimiser that
scales its steps, as Adam does, follows the one with the longer gradient and hardly sees the other, whatever their
values are (docs/results/critic.md).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

DROWNS = 50.0
"""How many times longer a loss's gradient is than the other's where that one no longer counts."""

EVERY = 20
"""Steps between two looks: each costs about another backward pass."""

ALONE = 1e9
"""The ratio where one loss does not pull at all."""

RATIO = "gradient_ratio"
"""What logs and records call the ratio of :func:`gradient_ratio`."""

_HEAVIEST = 1e4  # that an adaptive weight becomes, as in VQGAN


def gradient_ratio(adversarial: Tensor, other: Tensor, network: nn.Module) -> float:
    """How many times longer the gradient of one weighted loss is than the other's, at a network's weights.

    The graph is kept, and no gradient is left at the weights. At most :data:`ALONE`, which is also the ratio where the
    other loss has none; 1 where neither has.

    >>> net = nn.Linear(1, 1); out = net(torch.ones(1, 1)).sum()
    >>> round(gradient_ratio(30 * out, 2 * out, net), 3)
    15.0
    """
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    lengths = [_length(term, weights) for term in (adversarial, other)]
    if lengths[1] == 0:
        return ALONE if lengths[0] else 1.0
    return min(lengths[0] / lengths[1], ALONE)


def adaptive_weight(adversarial: Tensor, other: Tensor, network: nn.Module) -> float:
    """What to multiply the adversarial loss by so that it pulls as hard as the other at a network's last layer.

    That is the network's ``last_layer`` where it has one, and otherwise the last of its weights. The adaptive weight of
    VQGAN (Esser et al., CVPR 2021, eq. 7), of at most 10,000; 1 where neither has a gradient.

    >>> net = nn.Linear(1, 1); out = net(torch.ones(1, 1)).sum()
    >>> round(adaptive_weight(30 * out, 3 * out, net), 3)
    0.1
    """
    layers = [weight for weight in network.parameters() if weight.requires_grad and weight.ndim > 1]
    last = getattr(network, "last_layer", layers[-1])
    lengths = [_length(term, [last]) for term in (adversarial, other)]
    if lengths[0] == 0:
        return _HEAVIEST if lengths[1] else 1.0
    return min(lengths[1] / lengths[0], _HEAVIEST)


def drowned(ratio: float, names: tuple[str, str], remedy: str) -> str | None:
    """One line where one loss drowns the other, or None.

    Args:
        ratio: see :func:`gradient_ratio`.
        names: of the adversarial loss and of the other.
        remedy: what to do.

    >>> drowned(0.001, ("L_adv", "L_cycle"), "weigh it less")
    'L_cycle pulls 1000 times as hard at the reblurring network as L_adv, which then hardly counts: weigh it less'
    >>> drowned(20, ("L_adv", "L_cycle"), "weigh it less") is None
    True
    """
    if 1 / DROWNS <= ratio <= DROWNS:
        return None
    strong, weak = names if ratio > 1 else names[::-1]
    times = max(ratio, 1 / ratio) if ratio else ALONE
    if times >= ALONE:
        return f"{strong} pulls alone at the reblurring network, and {weak} not at all: {remedy}"
    hard = f"{times:.0f} times as hard at the reblurring network as {weak}"
    return f"{strong} pulls {hard}, which then hardly counts: {remedy}"


def _length(term: Tensor, weights: Iterable[nn.Parameter]) -> float:
    """The 2-norm of a loss's gradient at some weights."""
    parts = torch.autograd.grad(term, list(weights), retain_graph=True, allow_unused=True)
    lengths = [part.float().norm() for part in parts if part is not None]
    return float(torch.stack(lengths).norm()) if lengths else 0.0
