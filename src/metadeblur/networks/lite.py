"""``lite``: the built-in image deblurrer, small enough for the wheel and fast on two CPU cores.

A residual U-Net that works on a pixel-unshuffled picture: the stem folds each ``fold`` x ``fold`` block of pixels into
channels, so that every convolution runs on a small map with many channels, which is the shape that processors with
wide vector or matrix units (AVX-512, AMX) like. No normalisation and no global pooling: a tile gives the same result
as the whole frame. Plain 3x3 residual blocks as in EDSR (Lim et al., CVPRW 2017), the unshuffled stem as in
Shi et al., CVPR 2016 (the inverse of the sub-pixel convolution).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), 3x3, shape kept: (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        branch: Tensor = self.conv2(F.relu(self.conv1(x), inplace=True))
        return branch.add_(x) if not torch.is_grad_enabled() else branch + x


class Lite(nn.Module):
    """Image deblurrer (B, 3, H, W) -> (B, 3, H, W), RGB about [0, 1], unclamped; H and W multiples of ``multiple``.

    Args:
        channels: feature channels of each level, finest first.
        encoder: residual blocks of each level on the way down; the last entry is the bottleneck.
        decoder: residual blocks of each level but the last on the way up, finest first.
        fold: side of the pixel blocks folded into channels by the stem.

    >>> net = Lite(channels=(16, 32), encoder=(1, 1), decoder=(1,), fold=2)
    >>> tuple(net(torch.zeros(1, 3, 16, 24)).shape)
    (1, 3, 16, 24)
    """

    def __init__(
        self,
        channels: Sequence[int] = (32, 64, 128, 144),
        encoder: Sequence[int] = (2, 4, 2, 2),
        decoder: Sequence[int] = (3, 5, 2),
        fold: int = 2,
    ) -> None:
        super().__init__()
        self.fold = fold
        self.multiple = fold * 2 ** (len(channels) - 1)
        self.stem = nn.Conv2d(3 * fold * fold, channels[0], 3, padding=1)
        self.encoder = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width) for _ in range(depth)))
            for width, depth in zip(channels, encoder, strict=True)
        )
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(channels))
        self.up = nn.ModuleList(nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in pairwise(channels))
        self.decoder = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width) for _ in range(depth)))
            for width, depth in zip(channels[:-1], decoder, strict=True)
        )
        self.head = nn.Conv2d(channels[0], 3 * fold * fold, 3, padding=1)
        # Start as the identity: an untrained or little adapted network then leaves the picture alone.
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                module.conv2.weight.data.mul_(0.1)

    @classmethod
    def from_weights(cls, weights: dict[str, Tensor]) -> Lite:
        """Build the network that a state dict belongs to, sizes read from the weights, and load it.

        Raises:
            KeyError, RuntimeError: the weights are not those of a Lite network.
        """
        levels = 1 + max((int(key.split(".")[1]) for key in weights if key.startswith("down.")), default=-1) + 1
        channels = [weights["stem.weight"].shape[0]] + [weights[f"down.{i}.weight"].shape[0] for i in range(levels - 1)]

        def depth(side: str, level: int) -> int:
            prefix = f"{side}.{level}."
            return 1 + max((int(key.split(".")[2]) for key in weights if key.startswith(prefix)), default=-1)

        net = cls(
            channels=channels,
            encoder=[depth("encoder", level) for level in range(levels)],
            decoder=[depth("decoder", level) for level in range(levels - 1)],
            fold=int((weights["stem.weight"].shape[1] // 3) ** 0.5),
        )
        net.load_state_dict({key: value.float() for key, value in weights.items()})
        return net

    def forward(self, x: Tensor) -> Tensor:
        """Deblur (B, 3, H, W)."""
        features = self.stem(F.pixel_unshuffle(x, self.fold))
        skips: list[Tensor] = []
        for stage, down in zip(self.encoder, self.down, strict=False):
            features = stage(features)
            skips.append(features)
            features = down(features)
        features = self.encoder[-1](features)
        for level in reversed(range(len(self.down))):
            features = self.decoder[level](F.pixel_shuffle(self.up[level](features), 2) + skips[level])
        return x + F.pixel_shuffle(self.head(features), self.fold)
