"""MIMO-UNet and MIMO-UNet+: image deblurrers that take and give three scales in one U-Net.

Cho, Ji, Hong, Jung and Ko, "Rethinking Coarse-to-Fine Approach in Single Image Deblurring", ICCV 2021: one encoder fed
with the picture at full, half and quarter size (section 3.1: SCM, FAM), asymmetric feature fusion between the levels
(section 3.2: AFF), and a decoder that gives a restored picture at each level (section 3.3). MIMO-UNet has 8 residual
blocks a level, MIMO-UNet+ has 20 and drops a tenth of the fused channels while it trains.

Parameter names are those of the published checkpoints (``{"model": state_dict}``): ``feat_extract.0..5`` are the
stem, the two steps down, the two steps up and the last convolution; ``Encoder``/``Decoder`` the residual stages;
``SCM1``/``FAM1`` work at a quarter of the size, ``SCM2``/``FAM2`` at half; ``AFFs.0`` fuses for full size, ``AFFs.1``
for half; ``Convs`` join skips, ``ConvsOut.0``/``.1`` give the pictures at a quarter and half size.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Pictures = tuple[Tensor, Tensor, Tensor]


class Convolution(nn.Module):
    """A convolution that keeps the size or strides down, or a transposed one that doubles it; with or without ReLU."""

    def __init__(
        self, taken: int, given: int, size: int, *, stride: int = 1, relu: bool = True, up: bool = False
    ) -> None:
        super().__init__()
        layer: nn.Module
        if up:
            layer = nn.ConvTranspose2d(taken, given, size, stride=stride, padding=size // 2 - 1)
        else:
            layer = nn.Conv2d(taken, given, size, stride=stride, padding=size // 2)
        self.main = nn.Sequential(layer, *([nn.ReLU(inplace=True)] if relu else []))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, taken, H, W) to (B, given, H', W')."""
        return self.main(x)


class ResBlock(nn.Module):
    """x + conv(relu(conv(x))), 3x3, shape kept (paper, figure 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(Convolution(channels, channels, 3), Convolution(channels, channels, 3, relu=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        branch: Tensor = self.main(x)
        return branch + x


class BlockStack(nn.Module):
    """Encoder or decoder block of one level: residual blocks in a row."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(ResBlock(channels) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        return self.layers(x)


class ShallowConvolution(nn.Module):
    """SCM (paper, section 3.1): features (B, C, H, W) of a smaller picture (B, 3, H, W), the picture among them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            Convolution(3, channels // 4, 3),
            Convolution(channels // 4, channels // 2, 1),
            Convolution(channels // 2, channels // 2, 3),
            Convolution(channels // 2, channels - 3, 1),
        )
        self.conv = Convolution(channels, channels, 1, relu=False)

    def forward(self, picture: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, C, H, W)."""
        return self.conv(torch.cat([picture, self.main(picture)], 1))


class FeatureAttention(nn.Module):
    """FAM (paper, section 3.1, eq. 1): x + conv(x * shallow), so that one scale stresses or hides the other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.merge = Convolution(channels, channels, 3, relu=False)

    def forward(self, x: Tensor, shallow: Tensor) -> Tensor:
        """Merge (B, C, H, W) with the shallow features of the same shape."""
        merged: Tensor = self.merge(x * shallow)
        return x + merged


class FeatureFusion(nn.Module):
    """AFF (paper, section 3.2, eq. 2): the encoder's features of all three levels, resized to one of them, merged."""

    def __init__(self, taken: int, given: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(Convolution(taken, given, 1), Convolution(given, given, 3, relu=False))

    def forward(self, *levels: Tensor) -> Tensor:
        """Map features (B, C_i, H, W) to (B, given, H, W)."""
        return self.conv(torch.cat(levels, 1))


class MIMOUNet(nn.Module):
    """Image deblurrer (B, 3, H, W), RGB about [0, 1], to three pictures, unclamped; H and W multiples of 4.

    Args:
        blocks: residual blocks of each of the six stages: 8 (MIMO-UNet) or 20 (MIMO-UNet+).
        channels: features at full size; twice as many at half size, four times at a quarter.
        dropout: share of the fused channels dropped in training mode: 0 or, for MIMO-UNet+, 0.1.

    >>> net = MIMOUNet(blocks=1, channels=16)
    >>> [tuple(picture.shape[-2:]) for picture in net(torch.zeros(1, 3, 16, 24))]
    [(4, 6), (8, 12), (16, 24)]
    """

    multiple = 4
    parts: ClassVar[dict[str, tuple[str, ...]]] = {
        "decoder": ("AFFs", "Decoder", "Convs", "ConvsOut", "feat_extract.3", "feat_extract.4", "feat_extract.5"),
        "last": ("Decoder.2", "feat_extract.5"),
    }

    def __init__(self, blocks: int = 8, channels: int = 32, dropout: float = 0.0) -> None:
        super().__init__()
        full, half, quarter = channels, 2 * channels, 4 * channels
        self.Encoder = nn.ModuleList(BlockStack(width, blocks) for width in (full, half, quarter))
        self.feat_extract = nn.ModuleList(
            [
                Convolution(3, full, 3),
                Convolution(full, half, 3, stride=2),
                Convolution(half, quarter, 3, stride=2),
                Convolution(quarter, half, 4, stride=2, up=True),
                Convolution(half, full, 4, stride=2, up=True),
                Convolution(full, 3, 3, relu=False),
            ]
        )
        self.Decoder = nn.ModuleList(BlockStack(width, blocks) for width in (quarter, half, full))
        self.Convs = nn.ModuleList([Convolution(quarter, half, 1), Convolution(half, full, 1)])
        self.ConvsOut = nn.ModuleList([Convolution(quarter, 3, 3, relu=False), Convolution(half, 3, 3, relu=False)])
        self.AFFs = nn.ModuleList(FeatureFusion(full + half + quarter, width) for width in (full, half))
        self.FAM1, self.SCM1 = FeatureAttention(quarter), ShallowConvolution(quarter)
        self.FAM2, self.SCM2 = FeatureAttention(half), ShallowConvolution(half)
        self.drop = nn.Dropout2d(dropout)

    @classmethod
    def plus(cls) -> MIMOUNet:
        """MIMO-UNet+ in its published sizes."""
        return cls(blocks=20, dropout=0.1)

    @classmethod
    def from_weights(cls, weights: dict[str, Tensor]) -> MIMOUNet:
        """The network of a state dict, its sizes read from the weights. KeyError, RuntimeError: other weights."""
        blocks = 1 + max((int(key.split(".")[3]) for key in weights if key.startswith("Encoder.0.layers.")), default=-1)
        # The published MIMO-UNet+ is the one with dropout, and nothing but its depth tells it.
        net = cls(blocks, weights["feat_extract.0.main.0.weight"].shape[0], 0.1 if blocks >= 20 else 0.0)
        net.load_state_dict({key: value.float() for key, value in weights.items()})
        return net

    def forward(self, x: Tensor) -> Pictures:
        """Deblur (B, 3, H, W) to pictures at a quarter, half and full size."""
        x_half = F.interpolate(x, scale_factor=0.5)  # nearest, as everywhere in this network
        x_quarter = F.interpolate(x_half, scale_factor=0.5)

        full = self.Encoder[0](self.feat_extract[0](x))
        half = self.Encoder[1](self.FAM2(self.feat_extract[1](full), self.SCM2(x_half)))
        features = self.Encoder[2](self.FAM1(self.feat_extract[2](half), self.SCM1(x_quarter)))

        quarter_at_half = F.interpolate(features, scale_factor=2.0)
        skip_half = self.AFFs[1](F.interpolate(full, scale_factor=0.5), half, quarter_at_half)
        skip_full = self.AFFs[0](
            full, F.interpolate(half, scale_factor=2.0), F.interpolate(quarter_at_half, scale_factor=2.0)
        )

        features = self.Decoder[0](features)
        quarter_picture = self.ConvsOut[0](features) + x_quarter
        features = torch.cat([self.feat_extract[3](features), self.drop(skip_half)], 1)
        features = self.Decoder[1](self.Convs[0](features))
        half_picture = self.ConvsOut[1](features) + x_half
        features = torch.cat([self.feat_extract[4](features), self.drop(skip_full)], 1)
        features = self.Decoder[2](self.Convs[1](features))
        return quarter_picture, half_picture, self.feat_extract[5](features) + x
