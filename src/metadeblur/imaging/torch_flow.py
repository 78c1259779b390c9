"""Dense optical flow in PyTorch alone, for devices that OpenCV does not reach: no weights, many pairs at once.

Kroeger et al., "Fast Optical Flow using Dense Inverse Search" (ECCV 2016), with the choices of OpenCV's preset "fast":
networks are trained with its flow, so that where it is right, where it is wrong and how smooth it is counts as much as
how near it is to the truth. From coarse to fine over a pyramid, small patches look for their place in the other
picture, each beginning with the best flow of those beside it; where patches overlap their flows are averaged, weighted
by how well they fit; then the flow is refined (:mod:`metadeblur.imaging.refined_flow`). OpenCV goes through the patches
one after the other; here those go at once that do not wait for each other, of all pairs. The result is OpenCV's up to
rounding. Figures: docs/results/device_flow.md.
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
_STEPS = 8  # of descent, each time that the patches are gone through: twice
_STRIPS = 8  # of rows of patches, between which nothing is taken over: OpenCV gives one to each thread
_SINGULAR = 0.001


def torch_flow(source: Tensor, target: Tensor) -> Tensor:
    """Where each pixel of the sources lies in the targets, in px.

    Args:
        source: (B, h, w), 8-bit levels of any kind of number, on any device.
        target: likewise.

    Returns:
        (B, h, w, 2) float32 on the same device, x then y.

    >>> texture = F.avg_pool2d(torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)), 5, 1, 2)[0] * 255
    >>> torch_flow(texture, texture.roll(3, -1))[0, 16:48, 16:48].mean((0, 1)).round().int().tolist()
    [3, 0]
    """
    count, height, width = source.shape
    with torch.no_grad():
        pictures = _continued(torch.cat([source, target])[:, None].float())
        levels = _pyramid(pictures)
        flow = pictures.new_zeros(count, 2, *levels[-1].shape[-2:])
        for number, level in enumerate(reversed(levels)):
            here, there = level[:count], level[count:]
            if number:
                flow = _resized(flow, here) * 2
            flow = refined(here, there, _found(here, there, flow))
        flow = _resized(flow, pictures) * (1 << _levels(*pictures.shape[-2:]).start)
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


def _resized(flow: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(flow, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _found(here: Tensor, there: Tensor, flow: Tensor) -> Tensor:
    """The flow (B, 2, h, w) between pictures (B, 1, h, w) by its patches."""
    patches = _Patches(here, there)
    moved = patches.beginning(flow)
    for direction in (1, -1):
        moved = patches.scanned(moved, direction)
    return _dense(here, there, moved.mT.reshape(*flow.shape[:2], *patches.count))


class _Patches:
    """The patches of pictures (B, 1, h, w), row by row, and where they lie in others.

    Flows of p patches are (B, p, 2), and their pixels (B, p, n).
    """

    def __init__(self, here: Tensor, there: Tensor) -> None:
        self.there = there
        self.size = height, width = there.shape[-2], there.shape[-1]
        self.count = rows, columns = (height - _PATCH) // _STRIDE + 1, (width - _PATCH) // _STRIDE + 1
        number = torch.arange(rows * columns, device=there.device)
        self.corners = torch.stack([number % columns, number // columns], -1) * _STRIDE
        # A patch may lie outside but for a pixel. Numbers are made on the device: handing them there would wait for it.
        sides = torch.stack([torch.full_like(number[0], side) for side in (width, height)])
        self.least, self.most = (1 - _PATCH - self.corners).float(), (sides - 1 - self.corners).float()
        self.levels, across, down = (_cut(plane) for plane in (here, *_sobel(here)))
        xx, xy, yy = ((one * other).sum(-1) for one, other in ((across, across), (across, down), (down, down)))
        determinant = xx * yy - xy * xy
        determinant = torch.where(determinant.abs() < _SINGULAR, _SINGULAR, determinant)[..., None]
        xx, xy, yy = (part[..., None] / determinant for part in (xx, xy, yy))
        across, down = (part - part.mean(-1, keepdim=True) for part in (across, down))
        # Times the differences of a patch, the step that it goes back: (B, p, 2, n).
        self.steps = torch.stack([yy * across - xy * down, xx * down - xy * across], -2)
        # Where in the other picture the pixels of a patch lie, as grid_sample counts.
        self.scale = 2 / sides
        pixel = torch.arange(_PATCH * _PATCH, device=there.device)
        pixels = torch.stack([pixel % _PATCH, pixel // _PATCH], -1) + 0.5
        self.pixels = (self.corners[:, None] + pixels) * self.scale - 1

    def beginning(self, flow: Tensor) -> Tensor:
        """The flow (B, 2, h, w) in the middle of each patch."""
        x, y = (self.corners + _PATCH // 2).unbind(-1)
        return flow.flatten(2).index_select(-1, y * self.size[1] + x).mT

    def scanned(self, begun: Tensor, direction: int) -> Tensor:
        """Each patch moved to where it fits best, beginning with its flow or what one of those before it has found.

        Those before it are beside and over it for a direction of 1, beside and under it for -1.
        """
        order, waves = self._order(direction)
        moved: list[Tensor] = []
        for some, lone_beside, lone_over in waves:
            group = _Group(self, some)
            own = begun.index_select(1, some)
            if moved:
                beside = torch.where(lone_beside, own, moved[-1])
                over = torch.where(lone_over, own, moved[-1].roll(1, 1))
                own = group.best(torch.stack([own, beside, over], 1))
            moved.append(group.descended(own))
        return torch.cat(moved, 1).index_select(1, order)

    def _order(self, direction: int) -> tuple[Tensor, list[tuple[Tensor, Tensor, Tensor]]]:
        """Which patches can move at the same time, because those before them have moved.

        Rows lie in strips, between which nothing is taken over. In a wave is one patch of each row: in a strip, each
        row is a column behind the row before it. So what is beside and over a patch was in the wave before.

        Returns:
            For each patch its place among all that the waves move; of each wave its patches, and which of them have
            none beside them and none over them, (p, 1).
        """
        rows, columns = self.count
        device = self.there.device
        high = -(-rows // _STRIPS)
        row = torch.arange(-(-rows // high) * high, device=device)
        behind = row % high
        last = (row - behind + high - 1).clamp(max=rows - 1)  # of its strip
        actual = row if direction == 1 else last - behind
        wave = torch.arange(columns + high - 1, device=device)[:, None]
        column = wave - behind
        lone_beside, lone_over = (column <= 0)[..., None], (behind == 0)[:, None]
        column = column.clamp(0, columns - 1) if direction == 1 else columns - 1 - column.clamp(0, columns - 1)
        some = actual.clamp(0, rows - 1) * columns + column
        waves = [(one, lone, lone_over) for one, lone in zip(some, lone_beside, strict=True)]
        row, column = torch.arange(rows, device=device)[:, None], torch.arange(columns, device=device)
        if direction == -1:
            strip = row // high * high
            row, column = strip + (strip + high - 1).clamp(max=rows - 1) - row, columns - 1 - column
        return ((column + row % high) * len(behind) + row).flatten(), waves


class _Group:
    """Some of the patches, to be moved."""

    def __init__(self, patches: _Patches, some: Tensor) -> None:
        self._patches = patches
        self._levels, self._steps = (part.index_select(1, some) for part in (patches.levels, patches.steps))
        self._least, self._most, self._pixels = (
            part.index_select(0, some) for part in (patches.least, patches.most, patches.pixels)
        )

    def apart(self, moved: Tensor) -> Tensor:
        """By how much the patches differ from what they are moved to."""
        inside = torch.clamp(moved, self._least, self._most)
        grid = torch.addcmul(self._pixels, inside[:, :, None], self._patches.scale)
        found = F.grid_sample(self._patches.there, grid, "bilinear", "border", align_corners=False)
        return found[:, 0] - self._levels

    def best(self, choice: Tensor) -> Tensor:
        """The flow of each patch that fits best, of (B, k, p, 2)."""
        misfit = torch.stack([_misfit(self.apart(one)) for one in choice.unbind(1)], 1)
        chosen = misfit.argmin(1, keepdim=True)[..., None]
        return choice.gather(1, chosen.expand(-1, -1, -1, 2))[:, 0]

    def descended(self, begun: Tensor) -> Tensor:
        """Each patch moved to where it fits better, by at most its own size, until it fits no better."""
        moved, least, going = begun, None, None
        for _ in range(_STEPS):
            apart = self.apart(moved)
            misfit = _misfit(apart)
            farther = moved - (self._steps * apart[:, :, None]).sum(-1)
            if least is None or going is None:
                moved, going = farther, torch.ones_like(misfit, dtype=torch.bool)
            else:
                moved = torch.where(going[..., None], farther, moved)
                going = going & (misfit < least)
            least = misfit
        near = (moved - begun).square().sum(-1, keepdim=True) <= _PATCH**2
        return torch.where(near, moved, begun)


def _cut(plane: Tensor) -> Tensor:
    """The pixels of each patch of a picture (B, 1, h, w): (B, p, n)."""
    return F.unfold(plane, _PATCH, stride=_STRIDE).mT.contiguous()


def _misfit(apart: Tensor) -> Tensor:
    """How badly patches fit, apart from a difference that all their pixels share: (B, p, n) to (B, p)."""
    return apart.var(-1, correction=0)


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
