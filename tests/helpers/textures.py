"""Frames of random texture, and a network of next to no effect."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def texture(height: int, width: int, seed: int = 0) -> Tensor:
    """A picture with detail of several sizes, (3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.zeros(3, height, width)
    for cell in (3, 8, 24):
        grid = torch.rand(1, 3, -(-height // cell) + 1, -(-width // cell) + 1, generator=generator)
        picture += F.interpolate(grid, size=(height, width), mode="bicubic")[0].clamp(0, 1) / 3
    return picture


class Lighten(nn.Module):
    """A plain image deblurrer with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain
