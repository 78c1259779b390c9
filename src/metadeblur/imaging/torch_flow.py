"""Dense optical flow in PyTorch alone, for devices that OpenCV does not reach: no weights, many pairs at once.

From coarse to fine over a pyramid, as usual. At each level the flow so far, the same a pixel to each side, and those of
places around it compete by how well they fit (the search of Kroeger et al., "Fast Optical Flow using Dense Inverse
Search", ECCV 2016, on whole pictures), which finds small things that move by themselves. Then the flow is refined a few
times: brightness and gradients of neighbourhoods are to stay what they are, and the flow is to be smooth, both robustly
(Bruhn, Weickert and Schnoerr, "Lucas/Kanade Meets Horn/Schunck", IJCV 2005, with the penalties of Brox et al., ECCV
2004); each time the linear equations are solved by Chebyshev's iteration on Jacobi's, and a median follows (Sun, Roth
and Black, CVPR 2010). Figures: docs/results/device_flow.md.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from metadeblur.imaging.primitives import filtered, gaussian_planes, median_planes, read_at

_COARSEST = 12  # px: the least side of a level of the pyramid
_FINEST = 1  # level at which the flow is known in the end; 0 would be the pictures themselves
_NOISE = 0.6  # px: Gaussian over the pictures before all
_DETAIL = 2.0  # weight of gradients beside brightness
_FIT = 1.5  # px: Gaussian over which candidates of the search are compared
_STAY = 0.9  # times its cost: the flow so far wins against candidates that are hardly better
_OUTSIDE = 0.05  # cost of a place outside of the picture
_AROUND = 3  # px from which flows are taken over
_REFINED = 3  # times at each level
_TOGETHER = 3.0  # px: Gaussian over which pixels are taken to move alike
_OUTLIER = 0.003  # difference (of the range 0..1) from which pixels count less
_SMOOTHNESS = 0.01
_TEAR = 0.1  # px of difference between neighbours from which the flow may tear
_ROUNDS = 20  # of the solver
_RADIUS = 0.97  # of the spectrum of Jacobi's iteration, as Chebyshev's assumes it
_SLOPE = (1 / 12, -8 / 12, 0.0, 8 / 12, -1 / 12)  # derivative, of fourth order


def torch_flow(source: Tensor, target: Tensor) -> Tensor:
    """Where each pixel of the sources lies in the targets, in px.

    Args:
        source: (B, h, w), 8-bit levels of any kind of number, on any device.
        target: likewise.

    Returns:
        (B, h, w, 2) float32 on the same device, x then y.

    >>> texture = F.avg_pool2d(torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)), 5, 1, 2)[0] * 255
    >>> torch_flow(texture, texture.roll(3, -1))[0, 16:48, 16:48].mean((0, 1)).round().tolist()
    [3.0, 0.0]
    """
    count, height, width = source.shape
    with torch.no_grad():
        levels = [gaussian_planes(torch.cat([source, target])[:, None].float() / 255, _NOISE)]
        while min(levels[-1].shape[-2:]) >= 2 * _COARSEST:
            levels.append(_halved(levels[-1]))
        flow = levels[-1].new_zeros(count, 2, *levels[-1].shape[-2:])
        for number in range(len(levels) - 1, min(_FINEST, len(levels) - 1) - 1, -1):
            pictures = levels[number]
            flow = _larger(flow, *pictures.shape[-2:])
            flow = _level(pictures[:count], pictures[count:], flow)
        return _larger(flow, height, width).permute(0, 2, 3, 1).contiguous()


def _halved(pictures: Tensor) -> Tensor:
    height, width = pictures.shape[-2:]
    size = ((height + 1) // 2, (width + 1) // 2)
    return F.interpolate(gaussian_planes(pictures, 0.7), size=size, mode="bilinear", align_corners=False)


def _larger(flow: Tensor, height: int, width: int) -> Tensor:
    """A flow (B, 2, h, w) for pictures of another size."""
    if flow.shape[-2:] == (height, width):
        return flow
    x, y = F.interpolate(flow, size=(height, width), mode="bilinear", align_corners=False).unbind(1)
    return torch.stack([x * (width / flow.shape[-1]), y * (height / flow.shape[-2])], 1)


def _level(source: Tensor, target: Tensor, flow: Tensor) -> Tensor:
    """The flow (B, 2, h, w) between pictures (B, 1, h, w), made better."""
    here, there = _features(source), _features(target)
    flow = _searched(here, there, flow)
    slopes = _slopes(here)
    others = torch.cat([there, *_slopes(there)], 1)
    for _ in range(_REFINED):
        flow = median_planes(_refined(here, slopes, others, flow))
    return flow


def _features(pictures: Tensor) -> Tensor:
    """What is to stay the same along the flow: brightness, and its slopes across and down: (B, 3, h, w)."""
    return torch.cat([pictures, *(_DETAIL * slope for slope in _slopes(pictures))], 1)


def _slopes(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives across and down."""
    slope, one = planes.new_tensor(_SLOPE), planes.new_ones(1)
    return filtered(planes, one, slope, "replicate"), filtered(planes, slope, one, "replicate")


def _places(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Where a flow leads: x and y, (B, h, w)."""
    rows = torch.arange(flow.shape[-2], device=flow.device, dtype=flow.dtype)[:, None]
    columns = torch.arange(flow.shape[-1], device=flow.device, dtype=flow.dtype)
    return columns + flow[:, 0], rows + flow[:, 1]


def _inside(x: Tensor, y: Tensor, margin: float = 0.0) -> Tensor:
    height, width = x.shape[-2:]
    across = (x >= -margin) & (x <= width - 1 + margin)
    return (across & (y >= -margin) & (y <= height - 1 + margin))[:, None]


def _searched(here: Tensor, there: Tensor, flow: Tensor) -> Tensor:
    """At each pixel the best of the flow, the flow a pixel farther to each side, and those around."""
    best, least = flow, _cost(here, there, flow) * _STAY
    for candidate in _candidates(flow):
        cost = _cost(here, there, candidate)
        better = cost < least
        best, least = torch.where(better, candidate, best), torch.where(better, cost, least)
    return best


def _candidates(flow: Tensor) -> list[Tensor]:
    height, width = flow.shape[-2:]
    steps = [step for step in product((-1.0, 0.0, 1.0), repeat=2) if step != (0.0, 0.0)]
    farther = [torch.stack([flow[:, 0] + x, flow[:, 1] + y], 1) for x, y in steps]
    wide = F.pad(flow, (_AROUND,) * 4, mode="replicate")
    corners = ((0, _AROUND), (2 * _AROUND, _AROUND), (_AROUND, 0), (_AROUND, 2 * _AROUND))
    return farther + [wide[..., top : top + height, left : left + width] for top, left in corners]


def _cost(here: Tensor, there: Tensor, flow: Tensor) -> Tensor:
    """How badly a flow fits around each pixel, (B, 1, h, w)."""
    x, y = _places(flow)
    apart = ((read_at(there, x, y) - here).square() + 1e-5).sqrt().sum(1, keepdim=True)
    return gaussian_planes(apart + _OUTSIDE * ~_inside(x, y, 1.0), _FIT)


def _refined(here: Tensor, slopes: tuple[Tensor, Tensor], others: Tensor, flow: Tensor) -> Tensor:
    """The flow after one linearisation."""
    x, y = _places(flow)
    there, across, down = read_at(others, x, y).chunk(3, 1)
    across, down, apart = (across + slopes[0]) / 2, (down + slopes[1]) / 2, there - here
    squares = apart.square()
    kinds = squares[:, :1], squares[:, 1:].sum(1, keepdim=True)  # brightness, gradient
    robust = [torch.rsqrt(kind + _OUTLIER**2) * _inside(x, y) for kind in kinds]
    weight = torch.cat([robust[0], robust[1], robust[1]], 1)
    products = (across * across, across * down, down * down, across * apart, down * apart)
    system = torch.stack([(weight * product).sum(1) for product in products], 1)
    return _solved(gaussian_planes(system, _TOGETHER), flow)


def _solved(system: Tensor, flow: Tensor) -> Tensor:
    """The flow that balances the equations of each pixel, (B, 5, h, w), with smoothness."""
    left, right, above, below = _bonds(flow)
    bound = (left + right + above + below)[:, 0]
    xx, xy, yy, xt, yt = system.unbind(1)
    a, c = xx + bound, yy + bound
    scale = 1 / (a * c - xy * xy)
    wanted_x = xx * flow[:, 0] + xy * flow[:, 1] - xt
    wanted_y = xy * flow[:, 0] + yy * flow[:, 1] - yt
    before, now, factor = flow, flow, 1.0
    for turn in range(_ROUNDS):
        wide = F.pad(now, (1, 1, 1, 1), mode="replicate")
        around = left * wide[..., 1:-1, :-2] + right * wide[..., 1:-1, 2:]
        around = around + above * wide[..., :-2, 1:-1] + below * wide[..., 2:, 1:-1]
        x, y = around[:, 0] + wanted_x, around[:, 1] + wanted_y
        new = torch.stack([(c * x - xy * y) * scale, (a * y - xy * x) * scale], 1)
        if turn:
            factor = 1 / (1 - _RADIUS**2 / 2) if turn == 1 else 1 / (1 - _RADIUS**2 * factor / 4)
            new = factor * (new - before) + before
        before, now = now, new
    return now


def _bonds(flow: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """How firmly each pixel's flow is held to its neighbours' to the left, right, above and below: (B, 1, h, w)."""
    across = F.pad(flow[..., 1:] - flow[..., :-1], (0, 1))
    down = F.pad(flow[..., 1:, :] - flow[..., :-1, :], (0, 0, 0, 1))
    firm = _SMOOTHNESS * torch.rsqrt((across.square() + down.square()).sum(1, keepdim=True) + _TEAR**2)
    beside = F.pad((firm[..., 1:] + firm[..., :-1]) / 2, (1, 1))
    over = F.pad((firm[..., 1:, :] + firm[..., :-1, :]) / 2, (0, 0, 1, 1))
    return beside[..., :-1], beside[..., 1:], over[..., :-1, :], over[..., 1:, :]
