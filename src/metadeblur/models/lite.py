"""``lite``: the built-in deblurrer, small enough for the wheel and fast on two CPU cores.

A residual U-Net that works on a pixel-unshuffled picture: the stem folds each ``fold`` x ``fold`` block of pixels into
channels, so that every convolution runs on a small map with many channels, which is the shape that processors with
wide vector or matrix units (AVX-512, AMX) like. No normalisation and no global pooling: a tile gives the same result
as the whole frame. Plain 3x3 residual blocks as in EDSR (Lim et al., CVPRW 2017), the unshuffled stem as in
Shi et al., CVPR 2016 (the inverse of the sub-pixel convolution).

From a window of frames it is told how each pixel moves: motion blur averages along that motion, so the network also
gets the picture read at places along it (deblurring by steered samples), and every neighbour warped onto the centre by
the flow between the two, because one of them may be sharper. A single picture goes through the same network as a window
that stands still.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metadeblur.imaging.optical_flow import window_flows
from metadeblur.models.steering import ALONG, DETAIL, MOTION, described, neighbours, read_at
from metadeblur.system.device import mixed_precision

_ALONE = 3 + len(ALONG) + 3
"""Prepared channels that do not grow with the window: the centre, the steered samples, the motion."""


class LiteBlock(nn.Module):
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
    """Deblurrer (B, N, 3, H, W) or (B, 3, H, W) -> (B, 3, H, W), RGB about [0, 1]; H and W multiples of ``multiple``.

    Args:
        channels: feature channels of each level, finest first.
        encoder: residual blocks of each level on the way down; the last entry is the bottleneck.
        decoder: residual blocks of each level but the last on the way up, finest first.
        fold: side of the pixel blocks folded into channels by the stem.
        frames: 1 for single pictures; an odd number for windows with their motion.

    >>> net = Lite(channels=(16, 32), encoder=(1, 1), decoder=(1,), fold=2)
    >>> tuple(net(torch.zeros(1, 3, 16, 24)).shape)
    (1, 3, 16, 24)
    """

    parts: ClassVar[dict[str, tuple[str, ...]]] = {"decoder": ("up", "decoder", "head"), "last": ("decoder.0", "head")}

    def __init__(
        self,
        channels: Sequence[int] = (32, 64, 128, 144),
        encoder: Sequence[int] = (2, 4, 2, 2),
        decoder: Sequence[int] = (3, 5, 2),
        fold: int = 2,
        frames: int = 1,
    ) -> None:
        super().__init__()
        self.fold = fold
        self.frames = frames
        self.multiple = fold * 2 ** (len(channels) - 1)
        self.stem = nn.Conv2d(prepared_channels(frames) * fold * fold, channels[0], 3, padding=1)
        self.encoder = nn.ModuleList(
            nn.Sequential(*(LiteBlock(width) for _ in range(depth)))
            for width, depth in zip(channels, encoder, strict=True)
        )
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(channels))
        self.up = nn.ModuleList(nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in pairwise(channels))
        self.decoder = nn.ModuleList(
            nn.Sequential(*(LiteBlock(width) for _ in range(depth)))
            for width, depth in zip(channels[:-1], decoder, strict=True)
        )
        self.head = nn.Conv2d(channels[0], 3 * fold * fold, 3, padding=1)
        # Start as the identity: an untrained or little adapted network then leaves the picture alone.
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        for module in self.modules():
            if isinstance(module, LiteBlock):
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

        fold = int((weights["head.weight"].shape[0] // 3) ** 0.5)
        net = cls(
            channels=channels,
            encoder=[depth("encoder", level) for level in range(levels)],
            decoder=[depth("decoder", level) for level in range(levels - 1)],
            fold=fold,
            frames=_frames(weights["stem.weight"].shape[1] // (fold * fold)),
        )
        net.load_state_dict({key: value.float() for key, value in weights.items()})
        return net

    def forward(self, x: Tensor) -> Tensor:
        """Deblur the centre of (B, N, 3, H, W), or (B, 3, H, W)."""
        return self.deblur_prepared(self.prepare_window(x))

    def prepare_window(self, x: Tensor, flows: Tensor | None = None) -> Tensor:
        """The network's input with its motion; after this step frames can be cut into tiles.

        Args:
            x: (B, N, 3, H, W), or (B, 3, H, W) for windows that stand still.
            flows: (B, N - 1, 3, h, w), from the centre to each neighbour, as :func:`window_flows` gives them, where
                they are known; otherwise they are worked out.

        Returns:
            (B, ``prepared_channels(N)``, H, W); for a network of single pictures these themselves.
        """
        if self.frames == 1:
            return x
        window = x if x.ndim == 5 else x[:, None].expand(-1, self.frames, -1, -1, -1)
        with mixed_precision(x.device, enabled=False):
            window = window.float()
            if flows is None:
                flows = torch.stack([window_flows(one) for one in window.detach()])
            return _prepared(window, flows.to(window))

    def deblur_prepared(self, prepared: Tensor) -> Tensor:
        """Deblur what :meth:`prepare_window` gave."""
        features = self.stem(F.pixel_unshuffle(prepared, self.fold))
        skips: list[Tensor] = []
        for stage, down in zip(self.encoder, self.down, strict=False):
            features = stage(features)
            skips.append(features)
            features = down(features)
        features = self.encoder[-1](features)
        for level in reversed(range(len(self.down))):
            features = self.decoder[level](F.pixel_shuffle(self.up[level](features), 2) + skips[level])
        return prepared[:, :3] + F.pixel_shuffle(self.head(features), self.fold)


def prepared_channels(frames: int) -> int:
    """Channels of a prepared window of so many frames: centre, steered samples, warped neighbours, motion.

    >>> prepared_channels(1), prepared_channels(5)
    (3, 26)
    """
    return 3 if frames == 1 else _ALONE + 3 * (frames - 1)


def _frames(channels: int) -> int:
    """The frames of a window with so many prepared channels."""
    return 1 if channels == 3 else 1 + (channels - _ALONE) // 3


def _prepared(window: Tensor, flows: Tensor) -> Tensor:
    """(B, N, 3, H, W) and (B, N - 1, 3, h, w) to (B, prepared_channels(N), H, W)."""
    count, half = window.shape[1], window.shape[1] // 2
    centre, around = window[:, half], neighbours(window, flows)
    before, after = half - 1, half
    luma = (centre * centre.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    steered = [read_at(luma, time * around.velocity) - luma for time in ALONG]
    # A neighbour that does not show a pixel says nothing of it.
    warped = [
        around.trust[:, frame] * (read_at(around.others[:, frame], around.flows[:, frame]) - centre)
        for frame in range(count - 1)
    ]
    near = DETAIL * torch.cat([*steered, warped[before], warped[after]], 1)
    farther = [DETAIL * picture for frame, picture in enumerate(warped) if frame not in (before, after)]
    return torch.cat([centre, near, MOTION * described(around.velocity), *farther], 1)
