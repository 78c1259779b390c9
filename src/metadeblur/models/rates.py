"""Learnt learning rates: how far each layer of a network moves in a step of its adaptation, beside the usual rate.

Meta-training can learn them together with the weights that steps begin from (:mod:`metadeblur.training.outer`), after
Antoniou, Edwards and Storkey, "How to train your MAML" (ICLR 2019). A network says them in its attribute
``step_rates``, a factor of the learning rate by the name of each layer; weight files hold them among their notes, and
whoever adapts such a network uses them. A layer that is not named moves as the one around it; at a factor of 0 it stays
as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from torch import nn

from metadeblur.errors import MetadeblurError
from metadeblur.limits import Within

StepRates: TypeAlias = dict[str, float]
"""Factor of the learning rate, by the name of a layer."""

ALLOWED = Within(0, 1000)
"""Factors that may be: far above it no step is a small one."""

_ATTRIBUTE = "step_rates"


def step_rates(net: nn.Module) -> StepRates:
    """The factors of a network's layers, also where it is wrapped or compiled; empty: all move at the usual rate."""
    owner = _owner(net)
    return {} if owner is None else dict(getattr(owner, _ATTRIBUTE))


def set_step_rates(net: nn.Module, rates: Mapping[str, Any]) -> None:
    """Let a network's layers move at factors of their own from now on.

    Raises:
        MetadeblurError: a name of no layer, or a factor out of range.

    >>> net = nn.Sequential(nn.Linear(1, 1))
    >>> set_step_rates(net, {"0": 0.5})
    >>> step_rates(net)
    {'0': 0.5}
    """
    layers = {name for name, _ in net.named_modules()}
    for name, rate in rates.items():
        if name not in layers:
            raise MetadeblurError(f"step rates name a layer {name!r:.60} that {type(net).__name__} does not have")
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not ALLOWED.holds(rate):
            raise MetadeblurError(
                f"the step rate of layer {name!r:.60} is {rate!r:.60}; give {ALLOWED.words('a number')}"
            )
    setattr(net, _ATTRIBUTE, {name: float(rate) for name, rate in rates.items()})


def layers_of(net: nn.Module) -> list[str]:
    """The names of the layers that have weights of their own, in the network's order.

    >>> layers_of(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Conv2d(1, 1, 1)))
    ['0', '2']
    """
    return list(dict.fromkeys(layer_of(name) for name, _ in net.named_parameters()))


def layer_of(parameter: str) -> str:
    """The layer that a parameter's name belongs to.

    >>> layer_of("encoder.0.conv.weight")
    'encoder.0.conv'
    """
    return parameter.rpartition(".")[0]


def stepped_at(net: nn.Module, weights: Sequence[nn.Parameter], lr: float) -> list[dict[str, Any]]:
    """An optimiser's groups that step some of a network's weights at its layers' rates, or all at ``lr``."""
    owner = _owner(net)
    rates: StepRates = {} if owner is None else getattr(owner, _ATTRIBUTE)
    if owner is None or not rates:
        return [{"params": list(weights), "lr": lr}]
    names = {id(weight): name for name, weight in owner.named_parameters()}
    return [{"params": [weight], "lr": lr * _rate(rates, names.get(id(weight), ""))} for weight in weights]


def rates_note(net: nn.Module, inside: nn.Module) -> dict[str, str]:
    """What a weight file notes of a network's rates, by the names of ``inside``, whose weights it holds.

    Empty where the network has none.
    """
    owner = _owner(net)
    if owner is None:
        return {}
    prefix = next((f"{name}." for name, module in owner.named_modules() if module is inside and name), "")
    rates = {layer.removeprefix(prefix): rate for layer, rate in step_rates(owner).items()}
    return {_ATTRIBUTE: json.dumps(rates, sort_keys=True)} if rates else {}


def take_note(net: nn.Module, notes: Mapping[str, str]) -> None:
    """Take up the rates that a weight file notes, if it does.

    Raises:
        MetadeblurError: the note is none of this network's.
    """
    text = notes.get(_ATTRIBUTE)
    if text is None:
        return
    try:
        rates = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MetadeblurError("its step rates cannot be read") from error
    if not isinstance(rates, dict):
        raise MetadeblurError("its step rates cannot be read")
    set_step_rates(net, rates)


def _owner(net: nn.Module) -> nn.Module | None:
    """The module that says the rates: the network itself, or the one that it wraps."""
    return next((module for module in net.modules() if _ATTRIBUTE in vars(module)), None)


def _rate(rates: StepRates, parameter: str) -> float:
    """The factor of the innermost layer around a parameter that has one."""
    layer = parameter
    while layer:
        layer = layer_of(layer)
        if layer in rates:
            return rates[layer]
    return 1.0
