"""The paper's reblurring network, told how the clip moves.

From five frames the published network has to find the motion by itself, with regional tokens; trained for hours instead
of days it learns to soften, and along and across the motion alike (docs/results/paper_methods.md). This one is told, as
``lite`` is: the sharp centre read at places along the path of each pixel, which is what the blur is a mean of, and the
motion itself. They are further input channels of the first convolution at the centre frame; all else is as published,
so that weights of the published form can be gone on with.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from metadeblur.imaging.optical_flow import window_flows
from metadeblur.models.reblurring import ReblurNetwork
from metadeblur.models.steering import ALONG, DETAIL, MOTION, described, neighbours, read_at
from metadeblur.system.device import mixed_precision
from metadeblur.types import TokenOrder

TOLD = 3 * len(ALONG) + 3
"""Further channels: the centre's colours along the path less those at the pixel, and the motion."""

_KEY = "told_e.weight"


class ToldReblurNetwork(ReblurNetwork):
    """Reblurrer (B, frames, 3, H, W) -> (B, 3, H, W) that is told the motion; as :class:`ReblurNetwork` otherwise.

    Args:
        channels: feature channels at full size.
        sizes: as of :class:`ReblurNetwork`.

    >>> net = ToldReblurNetwork(channels=4, units=1, width=16, blocks=2, heads=2)
    >>> window = torch.rand(1, 5, 3, 40, 50)
    >>> torch.equal(net(window), window[:, 2])
    True
    """

    def __init__(self, channels: int = 32, **sizes: Any) -> None:
        super().__init__(channels, **sizes)
        self.told_e = nn.Conv2d(TOLD, channels, 5, padding=2, bias=False)

    def forward(self, window: Tensor, flows: Tensor | None = None) -> Tensor:
        """Reblur the centre of (B, frames, 3, H, W): (B, 3, H, W).

        Args:
            window: sharp frames, or a clip's own with the sharp one in the middle.
            flows: (B, 2, 3, h, w), from the centre to the frames before and after it, as :func:`window_flows` gives
                them, where they are known; otherwise they are worked out.

        Raises:
            MetadeblurError: another number of frames than the network's.
        """
        self.refuse_other(window)
        return self.reblur_told(window, self.told_e(self.told(window, flows)))

    def told(self, window: Tensor, flows: Tensor | None = None) -> Tensor:
        """What the network is told of the motion of windows, (B, 27, H, W); see :meth:`forward`."""
        half = window.shape[1] // 2
        with mixed_precision(window.device, enabled=False):
            near = window[:, half - 1 : half + 2].float()
            if flows is None:
                flows = torch.stack([window_flows(one) for one in near.detach()])
            velocity = neighbours(near, flows.to(near)).velocity
            along = [read_at(near[:, 1], time * velocity) - near[:, 1] for time in ALONG]
            return torch.cat([DETAIL * torch.cat(along, 1), MOTION * described(velocity)], 1)


def told_motion(network: ReblurNetwork) -> ToldReblurNetwork:
    """A network of the published form with all its weights, to be told the motion: until it is trained it blurs alike.

    One that is told already is given back as it is.
    """
    if isinstance(network, ToldReblurNetwork):
        return network
    weights = network.state_dict()
    first = weights["conv1_e.weight"]
    told = first.new_zeros(first.shape[0], TOLD, 5, 5)
    net = ToldReblurNetwork.from_weights(weights | {_KEY: told}, network.order)
    assert isinstance(net, ToldReblurNetwork)
    return net.train(network.training)


def reblur_network(weights: dict[str, Tensor], order: TokenOrder = "own") -> ReblurNetwork:
    """The reblurring network of a state dict, published or told the motion. KeyError, RuntimeError: other weights."""
    kind = ToldReblurNetwork if _KEY in weights else ReblurNetwork
    return kind.from_weights(weights, order)
