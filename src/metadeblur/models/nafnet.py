"""NAFNet: an image deblurrer without activation functions, a U-Net of gated blocks.

Chen, Chu, Zhang and Sun, "Simple Baselines for Image Restoration", ECCV 2022: blocks of layer normalisation, depthwise
convolution, SimpleGate (section 4.1, eq. 4) and simplified channel attention (section 4.1, eq. 6; figure 3c), four
levels. The networks trained on GoPro have 28 blocks on the fourth level of the encoder and one everywhere else.
Chu, Chen, Chen and Lu, "Improving Image Restoration by Revisiting Global Information Aggregation", ECCV 2022 (TLC):
what was trained on patches of 256 px averages over windows of 384 px of a larger picture, not over all of it; the
published figures are measured so.

Parameter names are those of the published checkpoints (``{"params": state_dict}``): ``intro`` and ``ending`` are the
first and last convolution, ``encoders.LEVEL.BLOCK``, ``middle_blks.BLOCK`` and ``decoders.LEVEL.BLOCK`` (coarsest level
first) hold the blocks, ``downs`` and ``ups`` lie between levels. In a block ``conv1`` to ``conv3`` and ``sca`` are the
spatial part, ``conv4`` and ``conv5`` the channel part, ``beta`` and ``gamma`` scale what each adds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WINDOW = 384  # px of the picture over which channel attention averages: one and a half training patches


class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation of each pixel over its channels, (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class WindowMean(nn.Module):
    """Mean over a window around each place (TLC), or over all where the window covers all: a map or (B, C, 1, 1).

    Args:
        side: of the window, in px of the features.

    Near the border the nearest window that lies inside is taken.

    >>> WindowMean(2)(torch.tensor([[0.0, 2.0, 4.0, 6.0]]).expand(1, 1, 2, 4))[0, 0, 0].tolist()
    [1.0, 3.0, 5.0, 5.0]
    >>> WindowMean(9)(torch.tensor([[0.0, 2.0, 4.0, 6.0]]).expand(1, 1, 2, 4)).item()
    3.0
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """Average (B, C, H, W)."""
        if max(x.shape[-2:]) <= self.side:
            return x.mean((2, 3), keepdim=True)
        result = x.float()
        for axis in (-2, -1):
            result = self._along(result, axis)
        return result.to(x.dtype)

    def _along(self, x: Tensor, axis: int) -> Tensor:
        """The mean of ``side`` neighbours along one axis, from running sums; length kept, or 1 if all are covered."""
        length = x.shape[axis]
        if length <= self.side:
            return x.mean(axis, keepdim=True)
        # About the mean: running sums of values around zero stay small, and exact.
        middle = x.mean(axis, keepdim=True)
        sums = F.pad((x - middle).cumsum(axis), (1, 0) if axis == -1 else (0, 0, 1, 0))
        count = length - self.side + 1
        inner = (sums.narrow(axis, self.side, count) - sums.narrow(axis, 0, count)) / self.side + middle
        before = (self.side - 1) // 2
        places = (torch.arange(length, device=x.device) - before).clamp(0, count - 1)
        return inner.index_select(axis, places)


class Block(nn.Module):
    """One NAFNet block (paper, figure 3c), shape kept: (B, C, H, W).

    Args:
        channels: of the features.
        window: over which channel attention averages, in px of the features.
    """

    def __init__(self, channels: int, window: int) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.conv1 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv2 = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.sca = nn.Sequential(WindowMean(window), nn.Conv2d(channels, channels, 1))
        self.conv4 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv5 = nn.Conv2d(channels, channels, 1)
        self.norm1 = LayerNorm2d(channels, eps=1e-6)
        self.norm2 = LayerNorm2d(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        features = _gate(self.conv2(self.conv1(self.norm1(x))))
        x = x + self.conv3(features * self.sca(features)) * self.beta
        return x + self.conv5(_gate(self.conv4(self.norm2(x)))) * self.gamma


class NAFNet(nn.Module):
    """Image deblurrer (B, 3, H, W) -> (B, 3, H, W), RGB about [0, 1], unclamped; H and W multiples of ``multiple``.

    Args:
        width: features at full size; twice as many on each coarser level.
        encoder: blocks of each level on the way down, finest first.
        middle: blocks of the coarsest level.
        decoder: blocks of each level on the way up, coarsest first.
        window: over which channel attention averages, in px of the picture.

    >>> net = NAFNet(width=4, encoder=(1, 1), middle=1, decoder=(1, 1))
    >>> net.multiple, tuple(net(torch.zeros(1, 3, 16, 24)).shape)
    (4, (1, 3, 16, 24))
    """

    def __init__(
        self,
        width: int = 32,
        encoder: Sequence[int] = (1, 1, 1, 28),
        middle: int = 1,
        decoder: Sequence[int] = (1, 1, 1, 1),
        window: int = WINDOW,
    ) -> None:
        super().__init__()
        levels = len(encoder)
        self.multiple = 2**levels
        self.parts = {"decoder": ("decoders", "ups", "ending"), "last": (f"decoders.{levels - 1}", "ending")}
        widths = [width * 2**level for level in range(levels + 1)]

        def stage(level: int, depth: int) -> nn.Sequential:
            return nn.Sequential(*(Block(widths[level], max(window >> level, 1)) for _ in range(depth)))

        self.intro = nn.Conv2d(3, width, 3, padding=1)
        self.ending = nn.Conv2d(width, 3, 3, padding=1)
        self.encoders = nn.ModuleList(stage(level, depth) for level, depth in enumerate(encoder))
        self.decoders = nn.ModuleList(stage(levels - 1 - index, depth) for index, depth in enumerate(decoder))
        self.middle_blks = stage(levels, middle)
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(coarse, 2 * coarse, 1, bias=False), nn.PixelShuffle(2)) for coarse in widths[:0:-1]
        )
        self.downs = nn.ModuleList(nn.Conv2d(fine, 2 * fine, 2, stride=2) for fine in widths[:-1])

    @classmethod
    def from_weights(cls, weights: dict[str, Tensor]) -> NAFNet:
        """The network of a state dict, its sizes read from the weights. KeyError, RuntimeError: other weights."""

        def depth(stage: str) -> int:
            place = stage.count(".") + 1
            return 1 + max((int(key.split(".")[place]) for key in weights if key.startswith(f"{stage}.")), default=-1)

        levels = range(depth("downs"))
        net = cls(
            width=weights["intro.weight"].shape[0],
            encoder=[depth(f"encoders.{level}") for level in levels],
            middle=depth("middle_blks"),
            decoder=[depth(f"decoders.{level}") for level in levels],
        )
        net.load_state_dict({key: value.float() for key, value in weights.items()})
        return net

    def forward(self, x: Tensor) -> Tensor:
        """Deblur (B, 3, H, W)."""
        features = self.intro(x)
        skips: list[Tensor] = []
        for stage, down in zip(self.encoders, self.downs, strict=True):
            features = stage(features)
            skips.append(features)
            features = down(features)
        features = self.middle_blks(features)
        for stage, up in zip(self.decoders, self.ups, strict=True):
            features = stage(up(features) + skips.pop())
        return self.ending(features) + x


def _gate(x: Tensor) -> Tensor:
    """SimpleGate: the product of both halves of the channels."""
    first, second = x.chunk(2, 1)
    return first * second
