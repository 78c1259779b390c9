"""Dense optical flow in PyTorch alone, for devices that OpenCV does not reach: no weights, many pairs at once.

Kroeger et al., "Fast Optical Flow using Dense Inverse Search" (ECCV 2016), with the choices of OpenCV's preset "fast":
networks are trained with its flow, so that where it is right, where it is wrong and how smooth it is counts as much as
how near it is to the truth. From coarse to fine over a pyramid, small patches look for their place in the other
picture, each beginning with the best flow of those beside it; where patches overlap their flows are averaged, weighted
by how well they fit; then the flow is refined (:mod:`metadeblur.imaging.refined_flow`). OpenCV goes through the patches
one after the other; here all take over flows from their neighbours at the same time, in several rounds. Figures:
docs/results/device_flow.md.
"""

from __future__ import annotations

from math import floor, log2

import torch
from torch import Tensor
from torch.nn import functional as F

from metadeblur.imaging.primitives import area_planes, bordered, read_at
from metadeblur.imaging.refined_flow import refined

_PATCH = 8  # px
_STRIDE = 4  # px from one patch to the next
_FINEST = 2  # level at which the flow is known in the end; 0 would be the pictures themselves
_SMALLEST_SIDE, _LONGEST_TO_SHORTEST = 48, 3  # pictures smaller or more elongated are continued at their borders
_STEPS = 8  # of descent, twice
_STRIPS = 8  # of rows of patches, between which nothing is taken over; OpenCV's threads have one each
_ROUNDS = 6  # of taking over flows at the finest level
_ROUNDS1 = 6
_ROUNDS2 = 12
_SINGULAR = 0.001


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
        pictures = _continued(torch.cat([source, target])[:, None].float())
        size = pictures.shape[-2:]
        levels = _pyramid(pictures)
        flow = pictures.new_zeros(count, 2, *levels[-1].shape[-2:])
        for number, level in enumerate(reversed(levels)):
            here, there = level.split(count)
            if number:
                flow = _resized(flow, here.shape[-2:]) * 2
            rounds = _ROUNDS2 if number==0 else _ROUNDS if number==len(levels)-1 else _ROUNDS1
            flow = refined(here, there, _found(here, there, flow, rounds))
        flow = _resized(flow, size) * 2 ** _levels(*size).start
        return flow[..., :height, :width].permute(0, 2, 3, 1).contiguous()


def _continued(pictures: Tensor) -> Tensor:
    height, width = pictures.shape[-2:]
    below = max(_SMALLEST_SIDE, -(-width // _LONGEST_TO_SHORTEST)) - height
    right = max(_SMALLEST_SIDE, -(-height // _LONGEST_TO_SHORTEST)) - width
    below, right = max(0, below), max(0, right)
    return bordered(pictures, below, right, "reflect")[..., below:, right:]


def _levels(height: int, width: int) -> range:
    """The levels of the pyramid, finest first: how often the pictures are halved."""
    farthest = floor(log2(max(height, width) / (4 * _PATCH)) + 0.5)
    coarsest = min(farthest, floor(log2(min(height, width) / _PATCH)))
    finest = _FINEST
    if coarsest < finest:
        coarsest = max(0, floor(log2(2 * width / (5 * _PATCH))))
        finest = max(coarsest - 2, 0)
    return range(finest, coarsest + 1)


def _pyramid(pictures: Tensor) -> list[Tensor]:
    """Pictures (B, 1, h, w) at all levels, finest first, in whole numbers as OpenCV has them."""
    height, width = pictures.shape[-2:]
    levels: list[Tensor] = []
    for level in _levels(height, width):
        means = area_planes(pictures, (height >> level, width >> level))
        # OpenCV rounds means of four pixels up where they lie halfway, any others to even numbers.
        halved = pictures.shape[-2:] == (2 * means.shape[-2], 2 * means.shape[-1])
        pictures = (means + 0.5).floor() if halved else means.round()
        levels.append(pictures)
    return levels


def _resized(flow: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(flow, size=size, mode="bilinear", align_corners=False)


def _found(here: Tensor, there: Tensor, flow: Tensor, rounds: int) -> Tensor:
    """The flow (B, 2, h, w) between pictures (B, 1, h, w) by its patches."""
    patches = _Patches(here, there)
    moved = patches.beginning(flow)
    for direction in (1, -1):
        moved = patches.scanned(moved, direction, rounds)
    return _dense(here, there, moved[:, :, 0])


class _Patches:
    """The patches of pictures (B, 1, h, w), in r rows and c columns of n pixels each, and where they lie in others.

    Flows of patches are (B, 2, k, r, c): k for each to choose from.
    """

    def __init__(self, here: Tensor, there: Tensor) -> None:
        self.there = there
        height, width = there.shape[-2:]
        self.tops = torch.arange(0, height - _PATCH + 1, _STRIDE, device=there.device)[:, None]
        self.lefts = torch.arange(0, width - _PATCH + 1, _STRIDE, device=there.device)
        self.levels, self.across, self.down = (self._cut(plane) for plane in (here, *_sobel(here)))
        xx, xy, yy = (
            (one * other).sum(-1)
            for one, other in ((self.across, self.across), (self.across, self.down), (self.down, self.down))
        )
        determinant = xx * yy - xy * xy
        determinant = torch.where(determinant.abs() < _SINGULAR, _SINGULAR, determinant)
        self.inverse = yy / determinant, -xy / determinant, xx / determinant
        places = torch.arange(_PATCH, device=there.device)
        self.rows, self.columns = places.repeat_interleave(_PATCH), places.repeat(_PATCH)

    def _cut(self, plane: Tensor) -> Tensor:
        """The pixels of each patch: (B, 1, r, c, n)."""
        cut = F.unfold(plane, _PATCH, stride=_STRIDE).mT
        return cut.reshape(len(plane), 1, len(self.tops), len(self.lefts), -1)

    def beginning(self, flow: Tensor) -> Tensor:
        """The flow (B, 2, h, w) in the middle of each patch."""
        rows, columns = self.tops[:, 0] + _PATCH // 2, self.lefts + _PATCH // 2
        return flow.index_select(-2, rows).index_select(-1, columns)[:, :, None]

    def apart(self, moved: Tensor) -> Tensor:
        """By how much patches differ from what they are moved to: (B, k, r, c, n)."""
        height, width = self.there.shape[-2:]
        x = (self.lefts + moved[:, 0]).clamp(1 - _PATCH, width - 1)[..., None] + self.columns
        y = (self.tops + moved[:, 1]).clamp(1 - _PATCH, height - 1)[..., None] + self.rows
        return read_at(self.there, x.flatten(1, 3), y.flatten(1, 3)).reshape(x.shape) - self.levels

    def scanned(self, begun: Tensor, direction: int, rounds: int) -> Tensor:
        """Each patch moved to where it fits best, beginning with its flow or one of those before it.

        Those before it are beside and over it for a direction of 1, beside and under it for -1. One after the other
        every patch would begin with what those before it have found; here all look again in every round, so that what
        one finds gets by one farther in each.
        """
        moved = self.descended(begun)
        for _ in range(rounds):
            choice = torch.cat([begun, *self._before(begun, moved, direction)], 2)
            best = _misfit(self.apart(choice)).argmin(1, keepdim=True)
            moved = self.descended(choice.gather(2, best[:, None].expand_as(moved)))
        return moved

    def _before(self, begun: Tensor, moved: Tensor, direction: int) -> tuple[Tensor, Tensor]:
        """What those beside and over each patch have found; where there is none, what it begins with itself."""
        height, width = begun.shape[-2:]
        rows = torch.arange(height, device=begun.device)[:, None]
        columns = torch.arange(width, device=begun.device)
        strip = -(-height // _STRIPS)
        none_beside = columns == (0 if direction == 1 else width - 1)
        none_over = (rows % strip == 0) if direction == 1 else (rows % strip == strip - 1) | (rows == height - 1)
        return (
            torch.where(none_beside, begun, moved.roll(direction, -1)),
            torch.where(none_over, begun, moved.roll(direction, -2)),
        )

    def descended(self, begun: Tensor) -> Tensor:
        """Each patch moved to where it fits better, by at most its own size."""
        moved, least, going = begun, torch.inf, True
        xx, xy, yy = self.inverse
        for _ in range(_STEPS):
            apart = self.apart(moved)
            misfit = _misfit(apart)
            apart = apart - apart.mean(-1, keepdim=True)
            x, y = (self.across * apart).sum(-1), (self.down * apart).sum(-1)
            step = torch.stack([xx * x + xy * y, xy * x + yy * y], 1)
            moved = torch.where(going[:, None], moved - step, moved) if isinstance(going, Tensor) else moved - step
            going, least = (misfit < least) & going, misfit
        near = (moved - begun).square().sum(1, keepdim=True) <= _PATCH**2
        return torch.where(near, moved, begun)


def _misfit(apart: Tensor) -> Tensor:
    """The squared differences of each patch without their mean: (..., n) to (...)."""
    return apart.square().sum(-1) - apart.sum(-1).square() / apart.shape[-1]


def _sobel(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Eight times the slopes across and down: every step of descent is an eighth of Newton's, as in OpenCV."""
    wide = bordered(pictures, 1, 1, "reflect101")
    down = wide[..., 2:, :] - wide[..., :-2, :]
    across = wide[..., 2:] - wide[..., :-2]
    return (
        across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :],
        down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:],
    )


def _dense(here: Tensor, there: Tensor, moved: Tensor) -> Tensor:
    """The flow of each pixel: the mean over the patches that cover it, weighted by how well its level fits there."""
    rows, columns = (torch.arange(length, device=here.device) for length in here.shape[-2:])
    flow, total = torch.zeros_like(here), torch.zeros_like(here)
    for row, in_row in _covering(rows, moved.shape[-2]):
        for column, in_column in _covering(columns, moved.shape[-1]):
            one = moved.index_select(-2, row).index_select(-1, column)
            apart = read_at(there, columns + one[:, 0], rows[:, None] + one[:, 1]) - here
            weight = (in_row[:, None] & in_column) / apart.abs().clamp(min=1)
            flow, total = flow + weight * one, total + weight
    return flow / total


def _covering(places: Tensor, patches: int) -> list[tuple[Tensor, Tensor]]:
    """The patches, of so many, that cover each pixel along an axis, and whether there is such a one.

    Pixels after the end of the last patch count to it.
    """
    last = (places // _STRIDE).clamp(max=patches)
    each = [last - before for before in range(_PATCH // _STRIDE)]
    return [(one.clamp(0, patches - 1), (one >= 0) & (one < patches)) for one in each]
