"""Restormer: an image deblurrer, a U-Net of transformer blocks that attend across channels.

Zamir, Arora, Khan, Hayat, Khan and Yang, "Restormer: Efficient Transformer for High-Resolution Image Restoration",
CVPR 2022, in the configuration for motion deblurring: multi-Dconv head transposed attention (MDTA, section 3.1, eq. 1)
and gated-Dconv feed-forward (GDFN, section 3.2, eq. 2) on four levels, then a refinement stage (figure 2). Attention
maps are channels by channels, so its cost grows with the picture's area, not with the square of it.

Parameter names are those of the published checkpoints (``{"params": state_dict}``): ``patch_embed.proj`` is the stem,
``encoder_level1..3``, ``latent``, ``decoder_level3..1`` and ``refinement`` hold the blocks (``norm1``, ``attn``,
``norm2``, ``ffn``), ``down1_2`` and ``up2_1`` lie between levels, ``reduce_chan_level2/3`` join skips, ``output`` ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ChannelNorm(nn.Module):
    """Layer normalisation of each pixel over its channels, (B, C, H, W); ``body`` holds scale and offset."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.LayerNorm(channels, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        result: Tensor = self.body(x.permute(0, 2, 3, 1))
        return result.permute(0, 3, 1, 2)


class TransposedAttention(nn.Module):
    """MDTA (paper, section 3.1, eq. 1): a head's channels attend to each other by their cosine over all pixels.

    Args:
        channels: of the features.
        heads: into which the channels are split.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.qkv_dwconv = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=False)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        query, key, value = (
            part.unflatten(1, (self.heads, -1)).flatten(3) for part in self.qkv_dwconv(self.qkv(x)).chunk(3, 1)
        )
        # Dividing the small (C, C) products by both norms is the cosine, without normalised copies of the large maps.
        lengths = query.norm(dim=-1, keepdim=True) * key.norm(dim=-1).unsqueeze(-2)
        attention = ((query @ key.mT) / lengths.clamp_min(1e-12) * self.temperature).softmax(-1)
        mixed = (attention @ value).reshape(x.shape)
        return self.project_out(mixed)


class GatedFeedForward(nn.Module):
    """GDFN (paper, section 3.2, eq. 2): 1x1, depthwise 3x3, one half gates the other through GELU, 1x1."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.project_in = nn.Conv2d(channels, 2 * hidden, 1, bias=False)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        gate, passed = self.dwconv(self.project_in(x)).chunk(2, 1)
        return self.project_out(F.gelu(gate) * passed)


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)) (paper, figure 2)."""

    def __init__(self, channels: int, heads: int, expansion: float) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(channels)
        self.attn = TransposedAttention(channels, heads)
        self.norm2 = ChannelNorm(channels)
        self.ffn = GatedFeedForward(channels, int(channels * expansion))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class Stem(nn.Module):
    """3x3 convolution from the picture to features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, C, H, W)."""
        return self.proj(x)


class ShuffleResize(nn.Module):
    """Half the size and twice the channels, or twice the size and half the channels; pixels (un)shuffled."""

    def __init__(self, channels: int, *, up: bool) -> None:
        super().__init__()
        given = 2 * channels if up else channels // 2
        shuffle = nn.PixelShuffle(2) if up else nn.PixelUnshuffle(2)
        self.body = nn.Sequential(nn.Conv2d(channels, given, 3, padding=1, bias=False), shuffle)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, 2 C, H / 2, W / 2), or (B, C / 2, 2 H, 2 W)."""
        return self.body(x)


class Restormer(nn.Module):
    """Image deblurrer (B, 3, H, W) -> (B, 3, H, W), RGB about [0, 1], unclamped; H and W multiples of 8.

    Args:
        channels: features at full size; twice as many on each coarser level.
        blocks: transformer blocks of the four levels, the coarsest last.
        refinement: transformer blocks after the decoder.
        heads: attention heads of the four levels.
        expansion: hidden channels of the feed-forward part, as a multiple.

    >>> net = Restormer(channels=8, blocks=(1, 1, 1, 1), refinement=1, heads=(1, 2, 2, 4))
    >>> tuple(net(torch.zeros(1, 3, 16, 24)).shape)
    (1, 3, 16, 24)
    """

    multiple = 8
    parts: ClassVar[dict[str, tuple[str, ...]]] = {
        "decoder": (
            *("up4_3", "reduce_chan_level3", "decoder_level3", "up3_2", "reduce_chan_level2", "decoder_level2"),
            *("up2_1", "decoder_level1", "refinement", "output"),
        ),
        "last": ("refinement", "output"),
    }

    def __init__(
        self,
        channels: int = 48,
        blocks: Sequence[int] = (4, 6, 6, 8),
        refinement: int = 4,
        heads: Sequence[int] = (1, 2, 4, 8),
        expansion: float = 2.66,
    ) -> None:
        super().__init__()
        wide, wider, widest = 2 * channels, 4 * channels, 8 * channels

        def stage(width: int, level: int, depth: int | None = None) -> nn.Sequential:
            count = blocks[level] if depth is None else depth
            return nn.Sequential(*(TransformerBlock(width, heads[level], expansion) for _ in range(count)))

        self.patch_embed = Stem(channels)
        self.encoder_level1 = stage(channels, 0)
        self.down1_2 = ShuffleResize(channels, up=False)
        self.encoder_level2 = stage(wide, 1)
        self.down2_3 = ShuffleResize(wide, up=False)
        self.encoder_level3 = stage(wider, 2)
        self.down3_4 = ShuffleResize(wider, up=False)
        self.latent = stage(widest, 3)
        self.up4_3 = ShuffleResize(widest, up=True)
        self.reduce_chan_level3 = nn.Conv2d(widest, wider, 1, bias=False)
        self.decoder_level3 = stage(wider, 2)
        self.up3_2 = ShuffleResize(wider, up=True)
        self.reduce_chan_level2 = nn.Conv2d(wider, wide, 1, bias=False)
        self.decoder_level2 = stage(wide, 1)
        self.up2_1 = ShuffleResize(wide, up=True)
        self.decoder_level1 = stage(wide, 0)  # the skip of the finest level is joined without narrowing
        self.refinement = stage(wide, 0, refinement)
        self.output = nn.Conv2d(wide, 3, 3, padding=1, bias=False)

    @classmethod
    def from_weights(cls, weights: dict[str, Tensor]) -> Restormer:
        """The network of a state dict, its sizes read from the weights. KeyError, RuntimeError: other weights."""
        levels = ("encoder_level1", "encoder_level2", "encoder_level3", "latent")

        def depth(stage: str) -> int:
            return 1 + max((int(key.split(".")[1]) for key in weights if key.startswith(f"{stage}.")), default=-1)

        hidden, widest = weights["latent.0.ffn.project_out.weight"].shape[1::-1]
        net = cls(
            channels=weights["patch_embed.proj.weight"].shape[0],
            blocks=[depth(level) for level in levels],
            refinement=depth("refinement"),
            heads=[weights[f"{level}.0.attn.temperature"].shape[0] for level in levels],
            expansion=(hidden + 0.5) / widest,
        )
        net.load_state_dict({key: value.float() for key, value in weights.items()})
        return net

    def forward(self, x: Tensor) -> Tensor:
        """Deblur (B, 3, H, W)."""
        skip1 = self.encoder_level1(self.patch_embed(x))
        skip2 = self.encoder_level2(self.down1_2(skip1))
        skip3 = self.encoder_level3(self.down2_3(skip2))
        features = self.latent(self.down3_4(skip3))
        features = self.reduce_chan_level3(torch.cat([self.up4_3(features), skip3], 1))
        features = self.decoder_level3(features)
        features = self.reduce_chan_level2(torch.cat([self.up3_2(features), skip2], 1))
        features = self.decoder_level2(features)
        features = self.decoder_level1(torch.cat([self.up2_1(features), skip1], 1))
        return self.output(self.refinement(features)) + x
