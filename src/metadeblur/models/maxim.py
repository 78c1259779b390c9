"""MAXIM, a deblurrer built of multi-layer perceptrons that mix space along two axes: inside blocks and over a grid.

Tu et al., "MAXIM: Multi-Axis MLP for Image Processing", CVPR 2022 (section 3 and figure 2). Each stage is a U-Net whose
blocks hold a multi-axis gated MLP (figure 3) and a residual channel attention block; cross-gating blocks (figure 2d)
condition the skip connections on the bottleneck, and a supervised attention module (as in MPRNet) hands features and
a picture of its own to the next stage. MAXIM-3S has three stages of 32 features.

Where the text leaves a choice, this follows the published weights: GELU by its tanh formula, normalisation with epsilon
1e-6, reduced pictures by nearest pixels, features brought to another level by bilinear resizing and a 1x1 convolution.

The published weights carry Flax paths. Ours are ``stages.S.`` and then, in Flax's words: input (input_conv), fuse
(input_fuse_sam), encoder, down, history (encoder_block, its Conv_1, its cross_gating_block), bottleneck (global_block),
to_gating, to_decoder (UpSampleRatio, numbered through), gating (cross_gating_block), up, decoder (decoder_block, its
ConvTranspose_0), attention (supervised_attention_module); then ``output``. :mod:`..formats.maxim_package` has them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

_EPSILON = 1e-6  # of every layer normalisation
_SLOPE = 0.2  # of leaky ReLUs


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _per_pixel(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A layer that works on the last axis, on the channels of (B, C, H, W)."""
    return layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _halves(layer: nn.Linear, x: Tensor) -> tuple[Tensor, Tensor]:
    """GELU of a dense layer's output, cut in two: each half in one piece of memory, which a later cut would not be."""
    first, second = (
        _gelu(F.linear(x, weight, bias))
        for weight, bias in zip(layer.weight.chunk(2), layer.bias.chunk(2), strict=True)
    )
    return first, second


def _norm(channels: int) -> nn.LayerNorm:
    return nn.LayerNorm(channels, eps=_EPSILON)


class SpatialMix(nn.Linear):
    """One dense layer over positions, the same for every channel: (B, H, W, C) to (B, H, W, C).

    Args:
        size: side of the blocks in px, or of the grid in cells.
        grid: mix the pixels that share a place in the cells of a ``size`` x ``size`` grid over the whole picture
            (global, dilated), rather than those of a ``size`` x ``size`` block (local).
    """

    def __init__(self, size: int, *, grid: bool) -> None:
        super().__init__(size * size, size * size)
        self.size, self.grid = size, grid

    def forward(self, x: Tensor, shift: float = 0.0) -> Tensor:
        """Mix, and add ``shift`` to the bias."""
        batch, height, width, channels = x.shape
        rows, columns = height // self.size, width // self.size
        if self.grid:
            split, order, back = (self.size, rows, self.size, columns), (1, 3, 0, 2, 4, 5), (2, 0, 3, 1, 4, 5)
        else:
            split, order, back = (rows, self.size, columns, self.size), (2, 4, 0, 1, 3, 5), (2, 3, 0, 4, 1, 5)
        positions = x.reshape(batch, *split, channels).permute(order)
        # One product of matrices for all blocks and channels, instead of one for each block.
        mixed = torch.addmm((self.bias + shift)[:, None], self.weight, positions.reshape(self.in_features, -1))
        return mixed.view(positions.shape).permute(back).reshape(x.shape)


class GatedMlp(nn.Module):
    """Gated MLP with a spatial gate (Liu et al., "Pay attention to MLPs", 2021), residual: (B, H, W, C) kept."""

    def __init__(self, channels: int, size: int, *, grid: bool) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.expand = nn.Linear(channels, 2 * channels)
        self.gate_norm = _norm(channels)
        self.mix = SpatialMix(size, grid=grid)
        self.project = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        content, gate = _halves(self.expand, self.norm(x))
        branch: Tensor = self.project(content * self.mix(self.gate_norm(gate), shift=1.0))
        return x + branch


class MultiAxisGatedMlp(nn.Module):
    """Half of the channels mixed over the grid, half inside blocks (figure 3): (B, C, H, W) kept."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.expand = nn.Linear(channels, 2 * channels)
        self.grid = GatedMlp(channels, size, grid=True)
        self.block = GatedMlp(channels, size, grid=False)
        self.project = nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""

        def mixed(features: Tensor) -> Tensor:
            far, near = _halves(self.expand, self.norm(features))
            return self.project(torch.cat([self.grid(far), self.block(near)], -1))

        return x + _per_pixel(mixed, x)


class MultiAxisGate(nn.Module):
    """The gate that one input of a cross-gating block makes for the other: (B, H, W, C) kept."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.expand = nn.Linear(channels, 2 * channels)
        self.grid = SpatialMix(size, grid=True)
        self.block = SpatialMix(size, grid=False)
        self.project = nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        far, near = _halves(self.expand, self.norm(x))
        return self.project(torch.cat([self.grid(far), self.block(near)], -1))


class CrossGating(nn.Module):
    """Two feature maps that gate each other (figure 2d).

    Args:
        first, second: channels of the two inputs.
        channels: of both outputs.
        size: of blocks and grid.
        upsample: the second input comes at half the size.
    """

    def __init__(self, first: int, second: int, channels: int, size: int, *, upsample: bool) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(second, channels, 2, stride=2) if upsample else nn.Identity()
        self.enter_x = nn.Conv2d(first, channels, 1)
        self.enter_y = nn.Conv2d(channels if upsample else second, channels, 1)
        self.norm_x, self.norm_y = _norm(channels), _norm(channels)
        self.expand_x, self.expand_y = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.gate_x, self.gate_y = MultiAxisGate(channels, size), MultiAxisGate(channels, size)
        self.project_x, self.project_y = nn.Linear(channels, channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Both (B, channels, H, W): the gated first input, which also holds the second, and the gated second."""
        x = self.enter_x(x).permute(0, 2, 3, 1)
        y = self.enter_y(self.upsample(y)).permute(0, 2, 3, 1)
        features_x, features_y = _gelu(self.expand_x(self.norm_x(x))), _gelu(self.expand_y(self.norm_y(y)))
        gate_x, gate_y = self.gate_x(features_x), self.gate_y(features_y)
        y = y + self.project_y(features_y * gate_x)
        x = x + y + self.project_x(features_x * gate_y)
        return x.permute(0, 3, 1, 2), y.permute(0, 3, 1, 2)


class SqueezeExcitation(nn.Module):
    """Channels weighted by what the whole picture holds of them (Hu et al., CVPR 2018): (B, C, H, W) kept."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // reduction, 1)
        self.excite = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        return x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))


class ResidualChannelAttention(nn.Module):
    """Two 3x3 convolutions and channel attention, residual (Zhang et al., ECCV 2018): (B, C, H, W) kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.attention = SqueezeExcitation(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        features = F.leaky_relu(self.conv1(_per_pixel(self.norm, x)), _SLOPE)
        branch: Tensor = self.attention(self.conv2(features))
        return x + branch


class ResidualDenseAttention(nn.Module):
    """The same with dense layers on the channels in place of the convolutions, for the bottleneck."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.dense1 = nn.Linear(channels, channels)
        self.dense2 = nn.Linear(channels, channels)
        self.attention = SqueezeExcitation(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        branch: Tensor = self.attention(_per_pixel(lambda t: self.dense2(_gelu(self.dense1(self.norm(t)))), x))
        return x + branch


class Level(nn.Module):
    """What encoder, bottleneck and decoder have in common: a 1x1 convolution, then pairs of mixing and attention.

    Args:
        entering, channels: of the input and of the output.
        size: of blocks and grid.
        groups: number of pairs.
        dense: attention blocks of dense layers (the bottleneck).
    """

    def __init__(self, entering: int, channels: int, size: int, groups: int, *, dense: bool = False) -> None:
        super().__init__()
        self.enter = nn.Conv2d(entering, channels, 1)
        self.mix = nn.ModuleList(MultiAxisGatedMlp(channels, size) for _ in range(groups))
        kind = ResidualDenseAttention if dense else ResidualChannelAttention
        self.attend = nn.ModuleList(kind(channels) for _ in range(groups))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map inputs of ``entering`` channels together, (B, ?, H, W) each, to (B, channels, H, W)."""
        entered: Tensor = self.enter(torch.cat(inputs, 1))
        x = entered
        for mix, attend in zip(self.mix, self.attend, strict=True):
            x = attend(mix(x))
        return x + entered


class PictureAttention(nn.Module):
    """A picture made from features, and features attended to by that picture (Zamir et al., CVPR 2021, section 3.3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.features = nn.Conv2d(channels, channels, 3, padding=1)
        self.picture = nn.Conv2d(channels, 3, 3, padding=1)
        self.attention = nn.Conv2d(3, channels, 3, padding=1)

    def forward(self, x: Tensor, blurred: Tensor) -> Tensor:
        """Map (B, C, H, W) and the blurred (B, 3, H, W) to (B, C, H, W)."""
        picture = self.picture(x) + blurred
        attended: Tensor = self.features(x) * torch.sigmoid(self.attention(picture))
        return x + attended


class LevelResize(nn.Module):
    """Features brought from one level to another: bilinear resizing and a 1x1 convolution.

    The two commute, so the convolution is done on the smaller side.
    """

    def __init__(self, entering: int, channels: int, factor: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(entering, channels, 1)
        self.factor = factor  # of the sides; below 1: reduced

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, entering, H, W) to (B, channels, H * factor, W * factor)."""
        if self.factor < 1:
            x = F.interpolate(x.float(), scale_factor=self.factor, mode="bilinear", antialias=True)
        x = self.conv(x)
        return F.interpolate(x, scale_factor=self.factor, mode="bilinear") if self.factor > 1 else x


class Gather(nn.ModuleList):
    """Features of all levels brought to one."""

    def __init__(self, channels: Sequence[int], level: int) -> None:
        super().__init__(
            LevelResize(width, channels[level], 2.0 ** (source - level)) for source, width in enumerate(channels)
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """One tensor from each level, finest first."""
        return [resize(x) for resize, x in zip(self, features, strict=True)]


class Passed(NamedTuple):
    """What a stage leaves to the next, at each level, finest first."""

    encoded: list[Tensor]
    decoded: list[Tensor]
    attended: list[Tensor]  # empty after the last stage


class MaximStage(nn.Module):
    """One U-Net.

    Args:
        channels: of each level, finest first.
        sizes: of blocks and grid at each level, then at the bottleneck.
        groups: pairs of blocks at each level.
        bottlenecks: blocks between encoder and decoder.
        first: no stage comes before.
        last: no stage comes after.
    """

    def __init__(
        self, channels: Sequence[int], sizes: Sequence[int], groups: int, bottlenecks: int, *, first: bool, last: bool
    ) -> None:
        super().__init__()
        levels, deepest = range(len(channels)), channels[-1]
        above = [channels[0], *channels[:-1]]  # what comes down to each level: its own input at the finest
        below = [*channels[1:], deepest]  # what comes up to it

        def fusing() -> nn.ModuleList:
            return nn.ModuleList(
                CrossGating(width, width, width, size, upsample=False)
                for width, size in zip(channels, sizes, strict=False)
            )

        self.input = nn.ModuleList(nn.Conv2d(3, width, 3, padding=1) for width in channels)
        self.fuse = nn.ModuleList() if first else fusing()
        self.encoder = nn.ModuleList(Level(above[i] + channels[i], channels[i], sizes[i], groups) for i in levels)
        self.history = nn.ModuleList() if first else fusing()
        self.down = nn.ModuleList(nn.Conv2d(width, width, 4, stride=2, padding=1) for width in channels)
        self.bottleneck = nn.ModuleList(
            Level(deepest, deepest, sizes[-1], groups, dense=True) for _ in range(bottlenecks)
        )
        self.to_gating = nn.ModuleList(Gather(channels, level) for level in levels)
        self.to_decoder = nn.ModuleList(Gather(channels, level) for level in levels)
        total = len(channels)
        self.gating = nn.ModuleList(
            CrossGating(total * channels[i], below[i], channels[i], sizes[i], upsample=True) for i in levels
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(below[i], channels[i], 2, stride=2) for i in levels)
        self.decoder = nn.ModuleList(Level((total + 1) * channels[i], channels[i], sizes[i], groups) for i in levels)
        self.attention = nn.ModuleList() if last else nn.ModuleList(PictureAttention(width) for width in channels)

    def forward(self, scaled: Sequence[Tensor], before: Passed | None, run: Callable[..., Any]) -> Passed:
        """Encode, cross-gate, decode.

        Args:
            scaled: the blurred picture at each level's size, (B, 3, H, W) first.
            before: what the stage before left; None in the first.
            run: calls a block with its inputs.
        """
        levels = range(len(scaled))
        entered = [conv(picture) for conv, picture in zip(self.input, scaled, strict=True)]
        if before:
            entered = [run(self.fuse[level], entered[level], before.attended[level])[0] for level in levels]
        x: Tensor = entered[0]
        encoded: list[Tensor] = []
        for level in levels:
            features = run(self.encoder[level], x, entered[level])
            if before:
                features = run(self.history[level], features, before.encoded[level] + before.decoded[level])[0]
            encoded.append(features)
            x = self.down[level](features)
        for bottleneck in self.bottleneck:
            x = run(bottleneck, x)
        bridges: list[Tensor] = []
        signal = x
        for level in reversed(levels):
            skips = torch.cat(self.to_gating[level](encoded), 1)
            bridge, signal = run(self.gating[level], skips, signal)
            bridges.insert(0, bridge)
        decoded: list[Tensor] = []
        for level in reversed(levels):
            # The coarsest bridge comes first in the published weights.
            x = run(self.decoder[level], self.up[level](x), *reversed(self.to_decoder[level](bridges)))
            decoded.insert(0, x)
        attended = [run(attend, *pair) for attend, *pair in zip(self.attention, decoded, scaled, strict=False)]
        return Passed(encoded, decoded, attended)


class Maxim(nn.Module):
    """Image deblurrer (B, 3, H, W) -> (B, 3, H, W), RGB about [0, 1], unclamped; H and W multiples of ``multiple``.

    Args:
        features: channels of the finest level; they double from level to level.
        stages: U-Nets in a row.
        sizes: side of blocks and grid at each level, then at the bottleneck.
        groups: pairs of blocks at each level.
        bottlenecks: blocks between encoder and decoder.

    Attributes:
        checkpointing: under gradients, keep only what passes between blocks and compute the rest again on the way
            back, on a CPU one picture of the batch after another: a fraction of the memory for a third more time.

    >>> net = Maxim(features=8, stages=2, sizes=(4, 4, 2), groups=1, bottlenecks=1)
    >>> net.multiple, tuple(net(torch.zeros(1, 3, 16, 8)).shape)
    (8, (1, 3, 16, 8))
    """

    def __init__(
        self,
        features: int = 32,
        stages: int = 3,
        sizes: Sequence[int] = (16, 16, 8, 8),
        groups: int = 2,
        bottlenecks: int = 2,
    ) -> None:
        super().__init__()
        channels = [features * 2**level for level in range(len(sizes) - 1)]
        self.multiple = max(size * 2**level for level, size in enumerate(sizes))
        self.levels = len(channels)
        decoding = ("to_gating", "gating", "to_decoder", "up", "decoder", "attention")
        self.parts = {
            "decoder": (*(f"stages.{number}.{part}" for number in range(stages) for part in decoding), "output"),
            "last": (f"stages.{stages - 1}", "output"),
        }
        self.checkpointing = True
        self.stages = nn.ModuleList(
            MaximStage(channels, sizes, groups, bottlenecks, first=number == 0, last=number == stages - 1)
            for number in range(stages)
        )
        self.output = nn.Conv2d(features, 3, 3, padding=1)

    @classmethod
    def from_weights(cls, weights: dict[str, Tensor], stages: int | None = None) -> Maxim:
        """Build the network that a state dict belongs to, sizes read from the weights, and load it.

        Args:
            weights: of a Maxim.
            stages: keep only so many stages; the picture is then the one that the supervised attention module of the
                last kept stage was trained to make.

        Raises:
            KeyError, RuntimeError, ValueError: the weights are not those of a Maxim, or have fewer stages.
        """

        def count(prefix: str) -> int:
            places = [key[len(prefix) :].split(".")[0] for key in weights if key.startswith(prefix)]
            return 1 + max(map(int, places), default=-1)

        def size(level: str) -> int:
            return math.isqrt(len(weights[f"stages.0.{level}.mix.0.grid.mix.bias"]))

        there, levels = count("stages."), count("stages.0.encoder.")
        kept = there if stages is None else stages
        if not 1 <= kept <= there:
            raise ValueError(f"{kept} stages asked for, the weights have {there}")
        net = cls(
            features=len(weights["stages.0.input.0.bias"]),
            stages=kept,
            sizes=[*(size(f"encoder.{level}") for level in range(levels)), size("bottleneck.0")],
            groups=count("stages.0.encoder.0.mix."),
            bottlenecks=count("stages.0.bottleneck."),
        )
        if kept < there:
            dropped = (f"stages.{kept - 1}.attention.", *(f"stages.{number}." for number in range(kept, there)))
            head = f"stages.{kept - 1}.attention.0.picture."
            weights = {
                **{key: value for key, value in weights.items() if not key.startswith(dropped)},
                **{f"output.{leaf}": weights[head + leaf] for leaf in ("weight", "bias")},
            }
        net.load_state_dict({key: value.float() for key, value in weights.items()})
        return net

    def _run(self, block: nn.Module, *inputs: Tensor) -> Any:
        """A block's output, under gradients without keeping what is inside it."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    def forward(self, blurred: Tensor) -> Tensor:
        """Deblur (B, 3, H, W)."""
        if self.checkpointing and torch.is_grad_enabled() and len(blurred) > 1 and blurred.device.type == "cpu":
            return torch.cat([self(blurred[place : place + 1]) for place in range(len(blurred))])
        blurred = blurred.contiguous(memory_format=torch.channels_last)
        scaled = [F.interpolate(blurred, scale_factor=0.5**level, mode="nearest-exact") for level in range(self.levels)]
        passed: Passed | None = None
        for stage in self.stages:
            passed = stage(scaled, passed, self._run)
        assert passed is not None  # there is at least one stage
        return self.output(passed.decoded[0]) + blurred
