"""MPRNet: an image deblurrer in three stages, on quarters of the picture, on halves, and on the whole.

Zamir, Arora, Khan, Hayat, Khan, Yang and Shao, "Multi-Stage Progressive Image Restoration", CVPR 2021, in the
configuration for deblurring: two encoder-decoders (section 3.1) see four and two patches of the picture, each followed
by a supervised attention module (SAM, section 3.3) that gives a restored picture and passes features on; a third stage
works at full size without down-sampling (ORSNet, section 3.1); features cross from stage to stage (CSFF, section 3.2).

Parameter names are those of the published checkpoints (``{"state_dict": ...}``, often with a ``module.`` prefix):
``shallow_feat1..3`` open the stages, ``stage1_encoder``/``stage1_decoder``, ``stage2_*`` and ``stage3_orsnet`` are
their bodies, ``sam12``/``sam23`` and ``concat12``/``concat23`` lie between them, ``tail`` ends the last. One PReLU is
shared by all blocks and stands in the checkpoint under every block's name (``body.1.weight``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

Levels = Sequence[Tensor]  # features at full, half and quarter size of the patch


def conv(taken: int, given: int, size: int) -> nn.Conv2d:
    """A convolution that keeps the size, without bias."""
    return nn.Conv2d(taken, given, size, padding=size // 2, bias=False)


class ChannelAttention(nn.Module):
    """Every channel times a factor in (0, 1) that the means of all channels decide (B, C, H, W)."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.conv_du = nn.Sequential(
            conv(channels, channels // reduction, 1),
            nn.ReLU(inplace=True),
            conv(channels // reduction, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the channels of (B, C, H, W)."""
        factor: Tensor = self.conv_du(x.mean((2, 3), keepdim=True))
        return x * factor


class AttentionBlock(nn.Module):
    """CAB (paper, figure 3b): x + attention(conv(prelu(conv(x)))), 3x3, shape kept."""

    def __init__(self, channels: int, reduction: int, act: nn.PReLU) -> None:
        super().__init__()
        self.CA = ChannelAttention(channels, reduction)
        self.body = nn.Sequential(conv(channels, channels, 3), act, conv(channels, channels, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        branch: Tensor = self.CA(self.body(x))
        return branch + x


class Down(nn.Module):
    """Half the size (bilinear), then 1x1 to the next level's channels."""

    def __init__(self, taken: int, given: int) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Upsample(scale_factor=0.5, mode="bilinear"), conv(taken, given, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, taken, H, W) to (B, given, H / 2, W / 2)."""
        return self.down(x)


class Up(nn.Module):
    """Twice the size (bilinear), then 1x1 to the finer level's channels; a skip is added where there is one."""

    def __init__(self, taken: int, given: int) -> None:
        super().__init__()
        self.up = nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), conv(taken, given, 1))

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Map (B, taken, H, W) to (B, given, 2 H, 2 W)."""
        result: Tensor = self.up(x)
        return result if skip is None else result + skip


class Encoder(nn.Module):
    """Two attention blocks on each of three levels; the second stage adds the first one's features (CSFF)."""

    def __init__(self, widths: Sequence[int], reduction: int, act: nn.PReLU, *, fuses: bool) -> None:
        super().__init__()
        self.encoder_level1, self.encoder_level2, self.encoder_level3 = _levels(widths, reduction, act)
        self.down12 = Down(widths[0], widths[1])
        self.down23 = Down(widths[1], widths[2])
        self.fuses = fuses
        if fuses:
            self.csff_enc1, self.csff_enc2, self.csff_enc3 = (conv(width, width, 1) for width in widths)
            self.csff_dec1, self.csff_dec2, self.csff_dec3 = (conv(width, width, 1) for width in widths)

    def forward(self, x: Tensor, encoded: Levels = (), decoded: Levels = ()) -> list[Tensor]:
        """Features of (B, C, H, W) on three levels; ``encoded`` and ``decoded`` are those of the stage before."""
        full = self.encoder_level1(x)
        if self.fuses:
            full = full + self.csff_enc1(encoded[0]) + self.csff_dec1(decoded[0])
        half = self.encoder_level2(self.down12(full))
        if self.fuses:
            half = half + self.csff_enc2(encoded[1]) + self.csff_dec2(decoded[1])
        quarter = self.encoder_level3(self.down23(half))
        if self.fuses:
            quarter = quarter + self.csff_enc3(encoded[2]) + self.csff_dec3(decoded[2])
        return [full, half, quarter]


class Decoder(nn.Module):
    """Two attention blocks on each of three levels, coarse to fine, skips through an attention block."""

    def __init__(self, widths: Sequence[int], reduction: int, act: nn.PReLU) -> None:
        super().__init__()
        self.decoder_level1, self.decoder_level2, self.decoder_level3 = _levels(widths, reduction, act)
        self.skip_attn1 = AttentionBlock(widths[0], reduction, act)
        self.skip_attn2 = AttentionBlock(widths[1], reduction, act)
        self.up21 = Up(widths[1], widths[0])
        self.up32 = Up(widths[2], widths[1])

    def forward(self, encoded: Levels) -> list[Tensor]:
        """Decoded features on three levels from the encoder's."""
        full, half, quarter = encoded
        quarter = self.decoder_level3(quarter)
        half = self.decoder_level2(self.up32(quarter, self.skip_attn2(half)))
        full = self.decoder_level1(self.up21(half, self.skip_attn1(full)))
        return [full, half, quarter]


class OriginalResolutionBlock(nn.Module):
    """ORB: x + conv(attention blocks(x)), shape kept."""

    def __init__(self, channels: int, reduction: int, act: nn.PReLU, blocks: int) -> None:
        super().__init__()
        attention = (AttentionBlock(channels, reduction, act) for _ in range(blocks))
        self.body = nn.Sequential(*attention, conv(channels, channels, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        branch: Tensor = self.body(x)
        return branch + x


class OriginalResolutionNetwork(nn.Module):
    """ORSNet: three ORBs at full size; after each, one level of the second stage's features is added."""

    def __init__(self, widths: Sequence[int], channels: int, reduction: int, act: nn.PReLU, blocks: int) -> None:
        super().__init__()
        full, half, quarter = widths
        self.orb1, self.orb2, self.orb3 = (OriginalResolutionBlock(channels, reduction, act, blocks) for _ in range(3))
        self.up_enc1, self.up_dec1 = Up(half, full), Up(half, full)
        self.up_enc2 = nn.Sequential(Up(quarter, half), Up(half, full))
        self.up_dec2 = nn.Sequential(Up(quarter, half), Up(half, full))
        self.conv_enc1, self.conv_enc2, self.conv_enc3 = (conv(full, channels, 1) for _ in range(3))
        self.conv_dec1, self.conv_dec2, self.conv_dec3 = (conv(full, channels, 1) for _ in range(3))

    def forward(self, x: Tensor, encoded: Levels, decoded: Levels) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        x = self.orb1(x) + self.conv_enc1(encoded[0]) + self.conv_dec1(decoded[0])
        x = self.orb2(x) + self.conv_enc2(self.up_enc1(encoded[1])) + self.conv_dec2(self.up_dec1(decoded[1]))
        coarse = self.conv_enc3(self.up_enc2(encoded[2])) + self.conv_dec3(self.up_dec2(decoded[2]))
        return self.orb3(x) + coarse


class SupervisedAttention(nn.Module):
    """SAM (paper, figure 4): a restored picture, and features weighed by what that picture shows."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv(channels, channels, 1)
        self.conv2 = conv(channels, 3, 1)
        self.conv3 = conv(3, channels, 1)

    def forward(self, x: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
        """From features (B, C, H, W) and the blurred picture (B, 3, H, W): features, restored picture."""
        restored = self.conv2(x) + picture
        return self.conv1(x) * torch.sigmoid(self.conv3(restored)) + x, restored


class MPRNet(nn.Module):
    """Image deblurrer (B, 3, H, W), RGB about [0, 1], to three pictures, unclamped; H and W multiples of 8.

    Args:
        channels: features at full size.
        level_step: further features of each coarser level.
        stage3_step: further features of the third stage.
        blocks: attention blocks in each ORB of the third stage.
        reduction: by which channel attention narrows.

    >>> net = MPRNet(channels=8, level_step=4, stage3_step=4, blocks=1)
    >>> [tuple(picture.shape) for picture in net(torch.zeros(1, 3, 16, 24))]
    [(1, 3, 16, 24), (1, 3, 16, 24), (1, 3, 16, 24)]
    """

    multiple = 8
    parts: ClassVar[dict[str, tuple[str, ...]]] = {
        "decoder": ("stage1_decoder", "stage2_decoder", "sam12", "sam23", "concat23", "stage3_orsnet", "tail"),
        "last": ("shallow_feat3", "concat23", "stage3_orsnet", "tail"),
    }

    def __init__(
        self, channels: int = 96, level_step: int = 48, stage3_step: int = 32, blocks: int = 8, reduction: int = 4
    ) -> None:
        super().__init__()
        act = nn.PReLU()
        widths = [channels, channels + level_step, channels + 2 * level_step]
        self.shallow_feat1, self.shallow_feat2, self.shallow_feat3 = (
            nn.Sequential(conv(3, channels, 3), AttentionBlock(channels, reduction, act)) for _ in range(3)
        )
        self.stage1_encoder = Encoder(widths, reduction, act, fuses=False)
        self.stage1_decoder = Decoder(widths, reduction, act)
        self.stage2_encoder = Encoder(widths, reduction, act, fuses=True)
        self.stage2_decoder = Decoder(widths, reduction, act)
        self.stage3_orsnet = OriginalResolutionNetwork(widths, channels + stage3_step, reduction, act, blocks)
        self.sam12, self.sam23 = SupervisedAttention(channels), SupervisedAttention(channels)
        self.concat12 = conv(2 * channels, channels, 3)
        self.concat23 = conv(2 * channels, channels + stage3_step, 3)
        self.tail = conv(channels + stage3_step, 3, 3)

    @classmethod
    def from_weights(cls, weights: dict[str, Tensor]) -> MPRNet:
        """The network of a state dict, its sizes read from the weights. KeyError, RuntimeError: other weights."""
        narrow, channels = weights["shallow_feat1.1.CA.conv_du.0.weight"].shape[:2]
        net = cls(
            channels=channels,
            level_step=weights["stage1_encoder.down12.down.1.weight"].shape[0] - channels,
            stage3_step=weights["tail.weight"].shape[1] - channels,
            blocks=max(int(key.split(".")[3]) for key in weights if key.startswith("stage3_orsnet.orb1.body.")),
            reduction=channels // narrow,
        )
        net.load_state_dict({key: value.float() for key, value in weights.items()})
        return net

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Deblur (B, 3, H, W) to the pictures of stage 3 (the result), stage 2 and stage 1.

        Patches lie in the batch: all upper halves before all lower ones, and of these all left before all right ones.
        """
        halves = _cut(x, -2)
        encoded = self.stage1_encoder(self.shallow_feat1(_cut(halves, -1)))
        encoded = [_joined(level, -1) for level in encoded]
        decoded = self.stage1_decoder(encoded)
        passed, picture1 = self.sam12(decoded[0], halves)

        features = self.concat12(torch.cat([self.shallow_feat2(halves), passed], 1))
        encoded = [_joined(level, -2) for level in self.stage2_encoder(features, encoded, decoded)]
        decoded = self.stage2_decoder(encoded)
        passed, picture2 = self.sam23(decoded[0], x)

        features = self.concat23(torch.cat([self.shallow_feat3(x), passed], 1))
        picture3 = self.tail(self.stage3_orsnet(features, encoded, decoded)) + x
        return picture3, picture2, _joined(picture1, -2)


def _levels(widths: Sequence[int], reduction: int, act: nn.PReLU) -> list[nn.Sequential]:
    """Two attention blocks a level."""
    return [nn.Sequential(*(AttentionBlock(width, reduction, act) for _ in range(2))) for width in widths]


def _cut(x: Tensor, axis: int) -> Tensor:
    """Cut pictures in two along an axis and put the parts into the batch, first parts first."""
    return torch.cat(x.chunk(2, axis))


def _joined(x: Tensor, axis: int) -> Tensor:
    """Undo :func:`_cut`."""
    return torch.cat(x.chunk(2), axis)
