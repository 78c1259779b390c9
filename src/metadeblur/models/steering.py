"""Pictures read along the motion of their pixels: what networks are told that know how a clip moves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

ALONG = (-1.0, -0.75, -0.5, -0.25, 0.25, 0.5, 0.75, 1.0)
"""Where a picture is read along the motion of each pixel, in frame intervals."""

DETAIL = 4.0
"""Differences are small beside the picture: this brings them to its scale."""

MOTION = 0.1
"""Motion in px, brought to about 1."""


@dataclass(frozen=True)
class Neighbours:
    """The frames around a window's centre, and how its pixels move to them.

    Attributes:
        others: (B, N - 1, 3, H, W), without the centre.
        flows: (B, N - 1, 2, H, W), px, x then y; zero where a neighbour says nothing.
        trust: (B, N - 1, 1, H, W), 0 to 1.
        velocity: (B, 2, H, W), px a frame interval, from the two nearest ones.
    """

    others: Tensor
    flows: Tensor
    trust: Tensor
    velocity: Tensor


def neighbours(window: Tensor, flows: Tensor) -> Neighbours:
    """What surrounds the centre of windows (B, N, 3, H, W), by flows (B, N - 1, 3, h, w) of ``window_flows``.

    A neighbour that is the centre itself, at the end of a clip, stays where it is and says nothing of the motion.
    """
    count, half = window.shape[1], window.shape[1] // 2
    centre, size = window[:, half], window.shape[-2:]
    flows = F.interpolate(flows.flatten(1, 2), size=size, mode="bilinear", align_corners=False)
    flows = flows.reshape(len(window), count - 1, 3, *size)
    flows, trust = flows[:, :, :2], flows[:, :, 2:]
    others = window[:, [frame for frame in range(count) if frame != half]]
    tells = (others != centre[:, None]).flatten(2).any(2).to(flows)[:, :, None, None, None]
    flows = flows * tells
    telling = (tells[:, half - 1] + tells[:, half]).clamp(min=1)
    return Neighbours(others, flows, trust, (flows[:, half] - flows[:, half - 1]) / telling)


def described(velocity: Tensor) -> Tensor:
    """A motion (B, 2, H, W) as three channels: its length, px, and its direction at double its angle, times that.

    Blur does not know forward from backward, and neither do these.
    """
    x, y = velocity.unbind(1)
    length = (x * x + y * y + 1e-4).sqrt()
    return torch.stack([length, (x * x - y * y) / length, 2 * x * y / length], 1)


def read_at(picture: Tensor, offset: Tensor) -> Tensor:
    """A picture (B, C, H, W) read at each pixel's place plus its offset (B, 2, H, W), x then y, in px."""
    height, width = picture.shape[-2:]
    rows = torch.arange(height, dtype=picture.dtype, device=picture.device)[:, None]
    columns = torch.arange(width, dtype=picture.dtype, device=picture.device)
    x = (columns + offset[:, 0]) * (2 / max(width - 1, 1)) - 1
    y = (rows + offset[:, 1]) * (2 / max(height - 1, 1)) - 1
    return F.grid_sample(picture, torch.stack([x, y], -1), align_corners=True, padding_mode="border")
