"""Parts of a frame on which memory, precision and reach of a network are tried."""

from __future__ import annotations

import torch
from torch import Tensor


def centre_of(frames: Tensor, width: int, multiple: int, *, height: int | None = None) -> Tensor:
    """The middle (..., height, width) of frames (..., H, W), at most; sides and place on multiples."""
    for axis, side in ((-2, height or width), (-1, width)):
        length = min(max(side // multiple * multiple, multiple), frames.shape[axis])
        start = (frames.shape[axis] - length) // 2 // multiple * multiple
        frames = frames.narrow(axis, start, length)
    return frames


def with_texture(frames: Tensor) -> Tensor:
    """A batch of two: frames (1, ..., 3, H, W), and the same with a random texture in place of the picture.

    What is measured on a first frame must hold for all: it may be black, and a network leaves black alone.
    """
    generator = torch.Generator().manual_seed(0)
    height, width = frames.shape[-2:]
    texture = torch.full((1, 3, height, width), 0.5)
    for cell in (4, 16, 64):
        grid = torch.rand(1, 3, -(-height // cell), -(-width // cell), generator=generator) - 0.5
        large = grid.repeat_interleave(cell, -1).repeat_interleave(cell, -2)
        texture += large[..., :height, :width] / 3
    return torch.cat(
        [frames, texture.reshape(1, *[1] * (frames.ndim - 4), 3, height, width).to(frames).expand_as(frames)]
    )
