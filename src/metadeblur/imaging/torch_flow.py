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
_PASSES = 2  # over all patches: flows come from the left and above, then from the right and below
_STEPS = 8  # of descent in each
_ROUNDS = 8  # of taking over flows in each


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
        levels = _levels(*pictures.shape[-2:])
        flow = None
        for level in levels:
            size = (pictures.shape[-2] >> level, pictures.shape[-1] >> level)
            here, there = area_planes(pictures, size).round().split(count)
            flow = _larger(flow, 2.0, size) if flow is not None else here.new_zeros(count, 2, *size)
            flow = refined(here, there, _found(here, there, flow))
        flow = _larger(flow, 2.0 ** levels[-1], pictures.shape[-2:])
        return flow[..., :height, :width].permute(0, 2, 3, 1).contiguous()


def _continued(pictures: Tensor) -> Tensor:
    height, width = pictures.shape[-2:]
    below = max(_SMALLEST_SIDE, -(-width // _LONGEST_TO_SHORTEST)) - height
    right = max(_SMALLEST_SIDE, -(-height // _LONGEST_TO_SHORTEST)) - width
    below, right = max(0, below), max(0, right)
    return bordered(pictures, below, right, "reflect")[..., below:, right:]


def _levels(height: int, width: int) -> range:
    """The levels of the pyramid from the coarsest on, each half the size of the next."""
    farthest = floor(log2(max(height, width) / (4 * _PATCH)) + 0.5)
    coarsest = min(farthest, floor(log2(min(height, width) / _PATCH)))
    finest = _FINEST
    if coarsest < finest:
        coarsest = max(0, floor(log2(2 * width / (5 * _PATCH))))
        finest = max(coarsest - 2, 0)
    return range(coarsest, finest - 1, -1)


def _larger(flow: Tensor, times: float, size: tuple[int, int]) -> Tensor:
    """A flow (B, 2, h, w) for pictures that are larger."""
    return F.interpolate(flow, size=size, mode="bilinear", align_corners=False) * times


def _found(here: Tensor, there: Tensor, flow: Tensor) -> Tensor:
    """The flow (B, 2, h, w) between pictures (B, 1, h, w) by its patches."""
    patches = _Patches(here, there)
    moved = patches.beginning(flow)
    for turn in range(_PASSES):
        moved = patches.descended(patches.taken_over(moved, 1 if turn % 2 == 0 else -1))
    return _dense(here, there, moved)


class _Patches:
    """The patches of pictures (B, 1, h, w), in r rows and c columns, and where they lie in others."""

    def __init__(self, here: Tensor, there: Tensor) -> None:
        self.there = there
        self.height, self.width = there.shape[-2:]
        self.tops = torch.arange(0, self.height - _PATCH + 1, _STRIDE, device=there.device)
        self.lefts = torch.arange(0, self.width - _PATCH + 1, _STRIDE, device=there.device)
        across, down = _sobel(here)
        self.levels, self.across, self.down = (self._cut(plane) for plane in (here, across, down))
        xx, xy, yy = (
            (one * other).sum(-1)
            for one, other in ((self.across, self.across), (self.across, self.down), (self.down, self.down))
        )
        determinant = xx * yy - xy * xy
        determinant = torch.where(determinant.abs() < 1e-3, 1e-3, determinant)
        self.inverse = torch.stack([yy, -xy, xx], 1) / determinant[:, None]
        places = torch.arange(_PATCH, device=there.device)
        self.rows, self.columns = (part.flatten() for part in torch.meshgrid(places, places, indexing="ij"))

    def _cut(self, plane: Tensor) -> Tensor:
        """The pixels of each patch: (B, r, c, n)."""
        cut = F.unfold(plane, _PATCH, stride=_STRIDE).mT
        return cut.reshape(len(plane), len(self.tops), len(self.lefts), -1)

    def beginning(self, flow: Tensor) -> Tensor:
        """The flow (B, 2, h, w) in the middle of each patch: (B, 2, r, c)."""
        rows, columns = self.tops + _PATCH // 2, self.lefts + _PATCH // 2
        return flow.index_select(-2, rows).index_select(-1, columns)

    def apart(self, moved: Tensor) -> Tensor:
        """By how much the patches differ from what they are moved to: (B, r, c, n)."""
        x = (self.lefts + moved[:, 0]).clamp(1 - _PATCH, self.width - 1)
        y = (self.tops[:, None] + moved[:, 1]).clamp(1 - _PATCH, self.height - 1)
        x, y = x[..., None] + self.columns, y[..., None] + self.rows
        found = read_at(self.there, x.flatten(1, 2), y.flatten(1, 2))
        return found.reshape(self.levels.shape) - self.levels

    def taken_over(self, moved: Tensor, direction: int) -> Tensor:
        """Each patch's own flow or that of a patch beside or over it, whichever fits best."""
        least = _misfit(self.apart(moved))
        for _ in range(_ROUNDS):
            for axis in (-1, -2):
                other = _shifted(moved, axis, direction)
                misfit = _misfit(self.apart(other))
                better = misfit < least
                moved, least = torch.where(better[:, None], other, moved), torch.where(better, misfit, least)
        return moved

    def descended(self, moved: Tensor) -> Tensor:
        """Each patch moved to where it fits better, by at most its own size."""
        begun, least, going = moved, None, None
        for _ in range(_STEPS):
            apart = self.apart(moved)
            misfit = _misfit(apart)
            apart = apart - apart.mean(-1, keepdim=True)
            x, y = (self.across * apart).sum(-1), (self.down * apart).sum(-1)
            xx, xy, yy = self.inverse.unbind(1)
            step = torch.stack([xx * x + xy * y, xy * x + yy * y], 1)
            if least is None:
                moved, going = moved - step, torch.ones_like(misfit, dtype=torch.bool)
            else:
                moved = torch.where(going[:, None], moved - step, moved)
                going = going & (misfit < least)
            least = misfit
        near = (moved - begun).square().sum(1, keepdim=True) <= _PATCH**2
        return torch.where(near, moved, begun)


def _misfit(apart: Tensor) -> Tensor:
    """The squared differences of each patch without their mean: (..., n) to (...)."""
    return apart.square().sum(-1) - apart.sum(-1).square() / apart.shape[-1]


def _shifted(moved: Tensor, axis: int, direction: int) -> Tensor:
    """For each patch what the one before it has, or with -1 the one after it; the outermost have their own."""
    length = moved.shape[axis]
    places = (torch.arange(length, device=moved.device) - direction).clamp(0, length - 1)
    return moved.index_select(axis, places)


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
