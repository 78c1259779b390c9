"""Where tiles lie and how they fade into each other; padding to the sides that a network wants."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

RAMP = 32
"""Pixels over which neighbouring tiles fade into each other."""


def middle_box(height: int, width: int, pixels: float) -> tuple[int, int, int, int]:
    """Top and left, which are even, height and width of a part in the middle, of so many pixels in the whole's shape.

    >>> middle_box(480, 640, 640 * 480), middle_box(2160, 3840, 640 * 480)
    ((0, 0, 480, 640), (872, 1550, 414, 738))
    """
    scale = math.sqrt(pixels / (height * width))
    if scale >= 1:
        return 0, 0, height, width
    high, wide = (min(side, max(2, int(scale * side) // 2 * 2)) for side in (height, width))
    return (height - high) // 4 * 2, (width - wide) // 4 * 2, high, wide


def middle_of(frames: Tensor, pixels: float) -> Tensor:
    """The part in the middle of frames (..., H, W) that has so many pixels."""
    top, left, height, width = middle_box(frames.shape[-2], frames.shape[-1], pixels)
    return frames[..., top : top + height, left : left + width]


def pad_to_multiple(frames: Tensor, multiple: int) -> Tensor:
    """Pad (..., H, W) at bottom and right to multiples of ``multiple`` px.

    By reflection; a side too short to be reflected so far repeats its last line for the rest.

    >>> pad_to_multiple(torch.arange(3.0).expand(1, 1, 1, 3), 4).squeeze().tolist()[0]
    [0.0, 1.0, 2.0, 1.0]
    """
    height, width = frames.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if not bottom and not right:
        return frames
    flat = frames.reshape(-1, 1, height, width)
    reflected = F.pad(flat, (0, min(right, width - 1), 0, min(bottom, height - 1)), mode="reflect")
    more = (0, right - min(right, width - 1), 0, bottom - min(bottom, height - 1))
    padded = F.pad(reflected, more, mode="replicate")
    return padded.reshape(*frames.shape[:-2], height + bottom, width + right)


@dataclass(frozen=True)
class Span:
    """One tile along one axis, px: what the network sees and how much each pixel of it counts."""

    start: int
    stop: int
    weight: Tensor  # (stop - start,), 0 in the margin, rising along a raised cosine, 1 inside


def spans(length: int, tile: int, margin: int, multiple: int) -> list[Span]:
    """Cut an axis into tiles whose weights add up to one at every pixel.

    Args:
        length: of the axis, px, a multiple of ``multiple``.
        tile: largest tile without its margin, px.
        margin: px seen beyond the fading zone on both sides.
        multiple: of which every start and stop is one, px.

    >>> [(span.start, span.stop) for span in spans(256, 96, 16, 16)]
    [(0, 112), (48, 192), (128, 256)]
    """
    units = length // multiple
    count = math.ceil(length / max(tile // multiple * multiple, multiple))
    borders = [index * units // count * multiple for index in range(count + 1)]
    ramp = min(RAMP, min(stop - start for start, stop in itertools.pairwise(borders)))
    reach = ramp // 2 + margin
    place = torch.arange(length, dtype=torch.float32) + 0.5

    def risen(border: int) -> Tensor:
        """0 before the border, 1 after it, a raised cosine of ``ramp`` px across it."""
        return 0.5 - 0.5 * torch.cos(math.pi * ((place - border) / ramp + 0.5).clamp(0, 1))

    result = []
    for start, stop in itertools.pairwise(borders):
        left, right = (
            max(0, start - reach) // multiple * multiple,
            min(length, -(-(stop + reach) // multiple) * multiple),
        )
        rising = risen(start) if start > 0 else torch.ones(length)
        falling = 1 - risen(stop) if stop < length else torch.ones(length)
        result.append(Span(left, right, (rising * falling)[left:right]))
    return result
