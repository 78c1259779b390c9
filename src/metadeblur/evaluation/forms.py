"""Which form a network has: the sizes of its paper, or reduced ones, whose figures are not the paper's."""

from __future__ import annotations

import torch
from torch import nn

from metadeblur.models.adapted import unwrapped
from metadeblur.models.reblurring import ReblurNetwork
from metadeblur.models.registry import ARCHITECTURES, recognise
from metadeblur.models.told_reblurring import ToldReblurNetwork

PUBLISHED = "as published"


def network_form(net: nn.Module) -> str:
    """Whether a deblurrer has its paper's sizes, in words.

    >>> network_form(ARCHITECTURES["mprnet"].small())
    'reduced (0.74 M parameters)'
    """
    net = unwrapped(net)
    name = recognise(net.state_dict())
    if name is None:
        return f"a network of its own ({_millions(net)})"
    with torch.device("meta"):
        published = ARCHITECTURES[name].published()
    return _form(net, published)


def reblurrer_form(network: nn.Module) -> str:
    """Whether a reblurring network has the paper's sizes, in words, and whether it is told the motion.

    >>> reblurrer_form(ReblurNetwork()), reblurrer_form(ReblurNetwork(channels=16))
    ('as published', 'reduced (7.10 M parameters)')
    """
    told = isinstance(network, ToldReblurNetwork)
    with torch.device("meta"):
        published = ToldReblurNetwork() if told else ReblurNetwork()
    return f"{_form(network, published)}, told the motion" if told else _form(network, published)


def _form(net: nn.Module, published: nn.Module) -> str:
    shapes, wanted = ({name: value.shape for name, value in one.state_dict().items()} for one in (net, published))
    if shapes == wanted:
        return PUBLISHED
    smaller = _count(net) < _count(published)
    return f"{'reduced' if smaller else 'of other sizes'} ({_millions(net)})"


def _millions(net: nn.Module) -> str:
    return f"{_count(net) / 1e6:.2f} M parameters"


def _count(net: nn.Module) -> int:
    return sum(weight.numel() for weight in net.parameters())
