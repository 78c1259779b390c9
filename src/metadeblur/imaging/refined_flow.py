"""The last step of dense inverse search: a flow made smooth where the pictures allow it, in PyTorch, many at once.

As in Kroeger et al., "Fast Optical Flow using Dense Inverse Search" (ECCV 2016), after Brox et al., "High Accuracy
Optical Flow Estimation Based on a Theory for Warping" (ECCV 2004): brightness and its slopes are to stay the same
along the flow and the flow is to be smooth, all robustly. Weights, penalties and their scales are those of OpenCV's
``VariationalRefinement``, so that the flow is as smooth as its.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from metadeblur.imaging.primitives import read_at

_SMOOTHNESS, _BRIGHTNESS, _SLOPES = 20.0 / 2, 5.0 / 2, 10.0 / 2  # weights of the three demands
_WEIGHINGS = 5  # times that the robust weights are found anew
_SWEEPS = 5  # of the solver for each
_OVER = 1.6  # over-relaxation
_EPSILON = 0.01**2  # of the robust penalties
_FLAT = 0.1**2  # keeps the demands finite where a picture is flat


Bonds: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]
"""How firmly each pixel is held to its neighbours to the left, right, above and below."""


def refined(source: Tensor, target: Tensor, flow: Tensor) -> Tensor:
    """A flow (B, 2, h, w) between pictures (B, 1, h, w) of levels 0 to 255, made better."""
    equations = _Equations(source, target, flow)
    change = torch.zeros_like(flow)
    for _ in range(_WEIGHINGS):
        change = _solved(*equations.system(change), change)
    return flow + change


class _Equations:
    """What is known of each pixel before the flow changes."""

    def __init__(self, source: Tensor, target: Tensor, flow: Tensor) -> None:
        warped = read_at(target, *_places(flow))
        self.flow = flow
        between = (source + warped) / 2
        self.apart = warped - source
        self.across, self.down = _slopes(between)
        (self.xx, self.xy), (_, self.yy) = _slopes(self.across), _slopes(self.down)
        self.apart_x, self.apart_y = _slopes(self.apart)

    def system(self, change: Tensor) -> tuple[Tensor, Tensor, Bonds]:
        """The symmetric 2 x 2 matrix and the right side of each pixel, and the bonds to the next right and below."""
        u, v = change.chunk(2, 1)
        across, down, apart = self.across, self.down, self.apart
        norm = across.square() + down.square() + _FLAT
        misfit = (apart + across * u + down * v).square() / norm
        bright = _BRIGHTNESS * torch.rsqrt(misfit + _EPSILON) / norm
        one, two = (part.square() + self.xy.square() + _FLAT for part in (self.xx, self.yy))
        misfit = (self.apart_x + self.xx * u + self.xy * v).square() / one
        misfit = misfit + (self.apart_y + self.xy * u + self.yy * v).square() / two
        slope = _SLOPES * torch.rsqrt(misfit + _EPSILON)
        one, two = slope / one, slope / two
        a = bright * across.square() + _FLAT + one * self.xx.square() + two * self.xy.square()
        b = bright * across * down + one * self.xx * self.xy + two * self.xy * self.yy
        c = bright * down.square() + _FLAT + one * self.xy.square() + two * self.yy.square()
        x = -bright * across * apart - one * self.xx * self.apart_x - two * self.xy * self.apart_y
        y = -bright * down * apart - one * self.xy * self.apart_x - two * self.yy * self.apart_y
        bonds = _bonds(self.flow + change)
        held = bonds[0] + bonds[1] + bonds[2] + bonds[3]
        pulled = _pull(bonds, self.flow) - held * self.flow
        return torch.cat([a + held, b, c + held], 1), torch.cat([x, y], 1) + pulled, bonds


def _places(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Where a flow leads: x and y, (B, h, w)."""
    rows = torch.arange(flow.shape[-2], device=flow.device, dtype=flow.dtype)[:, None]
    columns = torch.arange(flow.shape[-1], device=flow.device, dtype=flow.dtype)
    return columns + flow[:, 0], rows + flow[:, 1]


def _slopes(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Differences across and down, over two pixels."""
    wide = F.pad(planes, (1, 1, 1, 1), mode="replicate")
    return wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2], wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1]


def _bonds(flow: Tensor) -> Bonds:
    """How firmly each pixel's flow is held to its neighbours' to the left, right, above and below: (B, 1, h, w)."""
    across = F.pad(flow[..., 1:] - flow[..., :-1], (0, 1))
    down = F.pad(flow[..., 1:, :] - flow[..., :-1, :], (0, 0, 0, 1))
    firm = _SMOOTHNESS * torch.rsqrt((across.square() + down.square()).sum(1, keepdim=True) + _EPSILON)
    beside, below = F.pad(firm[..., :-1], (1, 1)), F.pad(firm[..., :-1, :], (0, 0, 1, 1))
    return beside[..., :-1], beside[..., 1:], below[..., :-1, :], below[..., 1:, :]


def _pull(bonds: Bonds, flow: Tensor) -> Tensor:
    """The flows of the four neighbours, each times its bond."""
    left, right, above, below = bonds
    wide = F.pad(flow, (1, 1, 1, 1))
    pulled = (left * wide[..., 1:-1, :-2]).addcmul(right, wide[..., 1:-1, 2:])
    return pulled.addcmul(above, wide[..., :-2, 1:-1]).addcmul(below, wide[..., 2:, 1:-1])


def _solved(matrix: Tensor, right: Tensor, bonds: Bonds, change: Tensor) -> Tensor:
    """The changes of the flow after some sweeps of over-relaxation, over every other pixel in turn."""
    a, b, c = matrix.chunk(3, 1)
    rows = torch.arange(change.shape[-2], device=change.device)[:, None]
    odd = (rows + torch.arange(change.shape[-1], device=change.device)) % 2
    turns = [(_OVER * own / a, _OVER * own / c) for own in (1 - odd, odd)]
    for _ in range(_SWEEPS):
        for gain_x, gain_y in turns:
            wanted_x, wanted_y = (_pull(bonds, change) + right).chunk(2, 1)
            u, v = change.chunk(2, 1)
            u = u.addcmul(gain_x, wanted_x.addcmul(b, v, value=-1).addcmul(a, u, value=-1))
            v = v.addcmul(gain_y, wanted_y.addcmul(b, u, value=-1).addcmul(c, v, value=-1))
            change = torch.cat([u, v], 1)
    return change
