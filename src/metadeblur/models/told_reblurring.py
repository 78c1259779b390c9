"""The paper's reblurring network, told how the clip moves.

From five frames the published network has to find the motion by itself, with regional tokens; trained for hours instead
of days it learns to soften, and along and across the motion alike (docs/results/paper_methods.md). At a sharp moment,
which is what it is asked to blur, the frames around hardly move either. This one is told the path that each pixel takes
while the shutter is open: it begins with the mean of the light along it, and learns what that gets wrong, at outlines,
in highlights and where flow errs. The sharp centre read along the path, its blur and the path are further input
channels of the first convolution at the centre frame; all else is as published.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from metadeblur.imaging.linear_light import to_display, to_linear
from metadeblur.imaging.optical_flow import window_flows
from metadeblur.models.reblurring import ReblurNetwork
from metadeblur.models.steering import ALONG, DETAIL, MOTION, described, neighbours, read_at
from metadeblur.system.device import mixed_precision
from metadeblur.types import TokenOrder

TOLD = 3 * len(ALONG) + 3 + 3
"""Further channels: the centre's colours along the path and their mean, both less those at the pixel, and the path."""

EXPOSURE = 0.75
"""Frame intervals that the shutter is taken to be open where nothing says how long."""

_EXPOSURES = (0.0, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0, 1.25, 1.5)  # of those that a training pair is compared with
_PLACES, _FEW = 25, 9  # along a path, of which the blur is the mean; and where it is only compared
_KEY = "told_e.weight"


class ToldReblurNetwork(ReblurNetwork):
    """Reblurrer (B, frames, 3, H, W) -> (B, 3, H, W) that is told the motion; as :class:`ReblurNetwork` otherwise.

    A new network returns the centre blurred along the path: training corrects that.

    Args:
        channels: feature channels at full size.
        sizes: as of :class:`ReblurNetwork`.

    >>> net = ToldReblurNetwork(channels=4, units=1, width=16, blocks=2, heads=2)
    >>> window, path = torch.rand(1, 5, 3, 40, 50), torch.full((1, 2, 40, 50), 6.0)
    >>> torch.equal(net(window, path), blur_along(window[:, 2], path))
    True
    """

    def __init__(self, channels: int = 32, **sizes: Any) -> None:
        super().__init__(channels, **sizes)
        self.told_e = nn.Conv2d(TOLD, channels, 5, padding=2, bias=False)

    def forward(self, window: Tensor, path: Tensor | None = None) -> Tensor:
        """Reblur the centre of (B, frames, 3, H, W): (B, 3, H, W).

        Args:
            window: sharp frames, or a clip's own with the sharp one in the middle.
            path: (B, 2, H, W), px, x then y: the way that what each pixel shows goes while the shutter is open, half
                of it before the frame's time. Where it is not given, it is that of the window's own motion in
                ``EXPOSURE`` frame intervals.

        Raises:
            MetadeblurError: another number of frames than the network's.
        """
        self.refuse_other(window)
        path = own_velocity(window) * EXPOSURE if path is None else path
        blurred = blur_along(window[:, self.frames // 2], path)
        return blurred + self.correction(window, path, blurred)

    def correction(self, window: Tensor, path: Tensor, blurred: Tensor) -> Tensor:
        """What is to be added to the centre ``blurred`` along its path, (B, 3, H, W); see :meth:`forward`."""
        centre = window[:, self.frames // 2]
        with mixed_precision(window.device, enabled=False):
            picture, path = centre.float(), path.float()
            along = [read_at(picture, time / 2 * path) - picture for time in ALONG]
            told = torch.cat([DETAIL * torch.cat([*along, blurred - picture], 1), MOTION * described(path)], 1)
        return self.reblur_told(window, self.told_e(told)) - centre


def blur_along(picture: Tensor, path: Tensor, places: int = _PLACES) -> Tensor:
    """The mean of the light (sRGB) of pictures (B, 3, H, W) in [0, 1] along paths (B, 2, H, W), px, x then y.

    It is read at so many ``places``.

    >>> bar = torch.zeros(1, 3, 1, 9); bar[..., 4] = 1
    >>> path = torch.zeros(1, 2, 1, 9); path[:, 0] = 3
    >>> [round(float(x), 2) for x in to_linear(blur_along(bar, path))[0, 0, 0]]
    [0.0, 0.0, 0.04, 0.29, 0.33, 0.29, 0.04, 0.0, 0.0]
    """
    with mixed_precision(picture.device, enabled=False):
        light, path = to_linear(picture.float()), path.float()
        times = [(place + 0.5) / places - 0.5 for place in range(places)]
        return to_display(torch.stack([read_at(light, time * path) for time in times]).mean(0))


def own_velocity(window: Tensor) -> Tensor:
    """How the centre of windows (B, frames, 3, H, W) moves, by the frames around it: (B, 2, H, W), px a frame."""
    half = window.shape[1] // 2
    with mixed_precision(window.device, enabled=False):
        near = window[:, half - 1 : half + 2].float()
        flows = torch.stack([window_flows(one) for one in near.detach()])
        return neighbours(near, flows.to(near)).velocity


def fitted_path(window: Tensor, blurred: Tensor) -> Tensor:
    """The paths (B, 2, H, W) in px by which the centres of sharp windows come nearest to their true blur (B, 3, H, W).

    The motion is the windows' own; what is fitted is how long the shutter was open, one figure a window. A clip to
    adapt to tells that by itself (:mod:`metadeblur.reblur.exposure`); a training pair is too short to.
    """
    centre, velocity = window[:, window.shape[1] // 2], own_velocity(window)
    with torch.no_grad():
        tried = [blur_along(centre, exposure * velocity, _FEW) for exposure in _EXPOSURES]
        errors = torch.stack([(one - blurred).square().flatten(1).mean(1) for one in tried])
        best = velocity.new_tensor(_EXPOSURES)[errors.argmin(0)]
    return best[:, None, None, None] * velocity


def told_paths(network: nn.Module, window: Tensor, blurred: Tensor) -> tuple[Tensor, ...]:
    """What a network is told of windows whose true blur is known: :func:`fitted_path`, or nothing if none."""
    return (fitted_path(window, blurred),) if isinstance(network, ToldReblurNetwork) else ()


def told_motion(network: ReblurNetwork) -> ToldReblurNetwork:
    """A network of the published form with its weights, to be told the motion; its last layer begins anew.

    That layer's blur would come on top of the motion's. One that is told already is given back as it is.
    """
    if isinstance(network, ToldReblurNetwork):
        return network
    weights = network.state_dict()
    first = weights["conv1_e.weight"]
    anew = {_KEY: first.new_zeros(first.shape[0], TOLD, 5, 5)}
    anew |= {key: torch.zeros_like(weights[key]) for key in ("decode.weight", "decode.bias")}
    net = ToldReblurNetwork.from_weights(weights | anew, network.order)
    assert isinstance(net, ToldReblurNetwork)
    return net.train(network.training)


def reblur_network(weights: dict[str, Tensor], order: TokenOrder = "own") -> ReblurNetwork:
    """The reblurring network of a state dict, published or told the motion. KeyError, RuntimeError: other weights."""
    kind = ToldReblurNetwork if _KEY in weights else ReblurNetwork
    return kind.from_weights(weights, order)
