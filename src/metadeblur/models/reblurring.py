"""The paper's reblurring network: five co-located patches in, the blurred centre patch out.

"Meta Transferring for Deblurring" (Liu et al., BMVC 2022, arXiv 2210.08036), section 3.2: an encoder on every frame,
fusion blocks on the quarter-size map (regional self-attention, cross-frame self-attention with the centre frame as
query, local self-attention, MLP), a decoder on the centre frame. The text alone does not fix the structure; where it
leaves a choice, this follows the published network (docs/fidelity.md, cross-frame attention): the tokens of every frame
pass through norm4 without a residual before they meet across frames, one attention module serves regional and local
tokens, only the local tokens have a learned position bias, and the picture comes from the local tokens. Parameter names
are those of the published checkpoints. Heights and widths are free (docs/fidelity.md, any size): the window is padded
to a multiple of ``multiple`` inside.

In the order ``own`` (docs/fidelity.md, token order) a window meets its own regional token. The published network
flattened the two in different orders, so that a window meets the token of another window, frame or batch item;
``published`` does the same, for its weights.
"""

from __future__ import annotations

import re
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from metadeblur.errors import MetadeblurError
from metadeblur.imaging.tiles import pad_to_multiple
from metadeblur.types import TokenOrder


class ResidualUnit(nn.Module):
    """act(conv2(act(conv1(x))) + x), 3x3, LeakyReLU 0.2: (B, C, H, W) kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W); in place where the backward pass needs no more than the result."""
        branch = self.conv2(F.leaky_relu_(self.conv1(x), 0.2))
        return F.leaky_relu_(branch.add_(x), 0.2)


def _level(channels: int, units: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualUnit(channels) for _ in range(units)))


class Embedding(nn.Module):
    """Flatten from axis ``first`` on, Linear, LayerNorm: windows of pixels to tokens."""

    def __init__(self, first: int, values: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Flatten(first), nn.Linear(values, width))
        self.norm = nn.LayerNorm(width)

    def forward(self, windows: Tensor) -> Tensor:
        """Map (N, windows, pixels, C) to (N, windows, width) or (N, windows, pixels, width)."""
        return self.norm(self.proj(windows))


def _split(tokens: Tensor, heads: int) -> Tensor:
    """(..., T, C) to (..., heads, T, C / heads)."""
    return tokens.reshape(*tokens.shape[:-1], heads, tokens.shape[-1] // heads).transpose(-3, -2)


def _merge(tokens: Tensor) -> Tensor:
    """(..., heads, T, C / heads) to (..., T, C)."""
    return tokens.transpose(-3, -2).flatten(-2)


class Attention(nn.Module):
    """Multi-head self-attention among tokens, for regional ones and for a window's."""

    relative_position_index_patch: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index_patch", _relative_positions(window))

    def local_bias(self) -> Tensor:
        """Added to the scores of a window's tokens, (heads, 1 + P, 1 + P): nothing to and from the regional one."""
        bias = self.relative_position_bias_table[self.relative_position_index_patch].permute(2, 0, 1)
        return F.pad(bias, (1, 0, 1, 0))

    def forward(self, tokens: Tensor, queries: slice = slice(None), bias: Tensor | None = None) -> Tensor:
        """New values of the tokens that ``queries`` names, from all tokens (N, T, C): (N, queries, C).

        Args:
            tokens: (N, T, C).
            queries: the tokens of which the result is wanted.
            bias: added to the scores, (heads, T, T).
        """
        width = tokens.shape[-1]
        if queries == slice(None):
            query, key, value = self.qkv(tokens).chunk(3, dim=-1)
        else:
            weight, offset = self.qkv.weight, self.qkv.bias
            query = F.linear(tokens[:, queries], weight[:width], offset[:width])
            key, value = F.linear(tokens, weight[width:], offset[width:]).chunk(2, dim=-1)
        # A mask of four axes: with three, torch leaves its fused form.
        mask = None if bias is None else bias[None, :, queries].to(query.dtype)
        query, key, value = (_split(part, self.heads) for part in (query, key, value))
        return self.proj(_merge(F.scaled_dot_product_attention(query, key, value, attn_mask=mask)))


def _relative_positions(window: int) -> Tensor:
    """Row of the bias table for each pair of a window's pixels, (P, P): (dy + w - 1)(2w - 1) + dx + w - 1."""
    places = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
    apart = places[:, :, None] - places[:, None, :] + window - 1
    return apart[0] * (2 * window - 1) + apart[1]


class CrossAttention(nn.Module):
    """The centre frame's tokens ask every frame in turn; the answers are joined by one Linear."""

    def __init__(self, width: int, heads: int, frames: int) -> None:
        super().__init__()
        self.heads = heads
        self.kv = nn.Linear(width, 2 * width)
        self.q = nn.Linear(width, width)
        self.proj = nn.Linear(frames * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Regional tokens (B, frames, T, C) to the same shape: the answers are added to the centre frame's."""
        centre = tokens.shape[1] // 2
        query = self.q(tokens[:, centre])[:, None].expand_as(tokens)
        key, value = self.kv(tokens).chunk(2, dim=-1)
        # Batch and frames as one axis: with five axes, torch leaves its fused form.
        query, key, value = (_split(part.flatten(0, 1), self.heads) for part in (query, key, value))
        answers = _merge(F.scaled_dot_product_attention(query, key, value)).reshape(tokens.shape)
        fused = tokens[:, centre] + self.proj(answers.transpose(1, 2).flatten(2))
        return torch.cat((tokens[:, :centre], fused[:, None], tokens[:, centre + 1 :]), dim=1)


class MLP(nn.Module):
    """fc2(GELU(fc1(x)))."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        return self.fc2(F.gelu(self.fc1(tokens)))


class FusionBlock(nn.Module):
    """One fusion block: ``across`` the regional tokens of all frames, then ``within`` each window."""

    def __init__(self, width: int, heads: int, window: int, frames: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, window)
        self.cross_attn = CrossAttention(width, heads, frames)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.norm4 = nn.LayerNorm(width)
        self.mlp = MLP(width, hidden)

    def across(self, regional: Tensor) -> Tensor:
        """Regional and cross-frame self-attention on (B, frames, windows, C)."""
        flat = regional.flatten(0, 1)
        flat = flat + self.attn(self.norm1(flat))
        # No residual around the second step, as published: the other frames keep norm4 of their tokens.
        return self.cross_attn(self.norm4(flat).unflatten(0, regional.shape[:2]))

    def _mlp(self, tokens: Tensor) -> Tensor:
        """Made again in the backward pass: its wide tokens would be almost half of what the fusion blocks hold."""
        return self.mlp(self.norm3(tokens))

    def within(self, regional: Tensor, local: Tensor, wanted: slice = slice(None)) -> Tensor:
        """Local self-attention and MLP in each window, which holds one regional token and then its P local ones.

        Args:
            regional: (..., windows, C), the token that joins each window.
            local: (..., windows, P, C).
            wanted: the tokens of a window that are worth computing, of 1 + P.

        Returns:
            (..., windows, wanted, C).
        """
        tokens = torch.cat((regional.unsqueeze(-2), local), dim=-2)
        shape = tokens.shape[:-2]
        tokens = tokens.flatten(0, -3)
        mixed = tokens[:, wanted] + self.attn(self.norm2(tokens), wanted, self.attn.local_bias())
        mixed = mixed + checkpoint(self._mlp, mixed, use_reentrant=False, preserve_rng_state=False)
        return mixed.reshape(*shape, *mixed.shape[1:])


class FusionTransformer(nn.Module):
    """The fusion blocks with their embeddings and head, on the quarter-size maps of all frames."""

    def __init__(
        self, channels: int, width: int, blocks: int, heads: int, window: int, frames: int, hidden: int
    ) -> None:
        super().__init__()
        self.window = window
        self.patch_embed = Embedding(3, channels, width)
        self.regional_embed = Embedding(2, window * window * channels, width)
        stage = nn.Module()
        stage.blocks = nn.ModuleList(FusionBlock(width, heads, window, frames, hidden) for _ in range(blocks))
        self.layers = nn.ModuleList([stage])
        self.head = nn.Conv2d(width, channels, 1)

    def forward(self, features: Tensor, order: TokenOrder, layout: torch.memory_format) -> Tensor:
        """Fuse (B, frames, C, H, W), sides multiples of the window, into the centre frame's map (B, C, H, W)."""
        batch, frames, _, height, _ = features.shape
        windows = _partition(features.flatten(0, 1), self.window)
        local = self.patch_embed(windows).unflatten(0, (batch, frames))
        regional = self.regional_embed(windows).unflatten(0, (batch, frames))
        one, rest = slice(0, 1), slice(1, None)
        blocks = list(self.layers[0].blocks)  # type: ignore[arg-type]
        for left, block in zip(reversed(range(len(blocks))), blocks, strict=True):
            regional = block.across(regional)
            if order == "published":
                regional = regional.flatten(0, 1).transpose(0, 1).reshape(regional.shape)
            centre = frames // 2
            # From the last two blocks only this reaches the centre: of the last its own local tokens, of the one before
            # these and, through the last one's ``across``, the regional tokens of every frame.
            if left == 0:
                local = block.within(regional[:, centre], local[:, local.shape[1] // 2], rest)
            elif left == 1:
                others = [frame for frame in range(frames) if frame != centre]
                aside = block.within(regional[:, others], local[:, others], one)[..., 0, :]
                whole = block.within(regional[:, centre], local[:, centre])
                regional = torch.cat((aside[:, :centre], whole[:, None, :, 0], aside[:, centre:]), dim=1)
                local = whole[:, None, :, 1:]
            else:
                tokens = block.within(regional, local)
                regional, local = tokens[..., 0, :], tokens[..., 1:, :]
            if order == "published":
                regional = regional.reshape(regional.shape[2], batch * frames, -1).transpose(0, 1)
                regional = regional.unflatten(0, (batch, frames))
        return self.head(_assemble(local, self.window, height).contiguous(memory_format=layout))


def _partition(maps: Tensor, window: int) -> Tensor:
    """(N, C, H, W) to its windows, row by row, and their pixels, row by row: (N, windows, window^2, C)."""
    count, channels, height, width = maps.shape
    grid = maps.permute(0, 2, 3, 1).reshape(count, height // window, window, width // window, window, channels)
    return grid.transpose(2, 3).reshape(count, -1, window * window, channels)


def _assemble(windows: Tensor, window: int, height: int) -> Tensor:
    """The inverse of :func:`_partition`: (N, windows, window^2, C) to (N, C, H, W)."""
    count, _, _, channels = windows.shape
    grid = windows.reshape(count, height // window, -1, window, window, channels)
    return grid.transpose(2, 3).reshape(count, height, -1, channels).permute(0, 3, 1, 2)


class ReblurNetwork(nn.Module):
    """Reblurrer (B, frames, 3, H, W) -> (B, 3, H, W): RGB about [0, 1], any H and W, output not clamped.

    A new network returns the centre frame: only training makes it blur.

    Args:
        channels: feature channels at full size; doubled at half, fourfold at quarter size.
        units: residual units a level, on the way down and up.
        width: of a token in the fusion blocks.
        blocks: number of fusion blocks.
        heads: of every attention.
        window: side of a window of the quarter-size map, px there.
        frames: in the window of time, odd.
        hidden: width inside the MLP; 4 * width if not given.
        order: whether a window meets its ``own`` regional token, or that of the ``published`` flattening (see above);
            an attribute that may be changed at any time.

    Raises:
        MetadeblurError: an order or sizes that are not possible.

    >>> net = ReblurNetwork(channels=4, units=1, width=16, blocks=2, heads=2)
    >>> window = torch.rand(1, 5, 3, 40, 50)
    >>> torch.equal(net(window), window[:, 2])
    True
    """

    def __init__(
        self,
        channels: int = 32,
        units: int = 3,
        width: int = 256,
        blocks: int = 4,
        heads: int = 4,
        window: int = 8,
        frames: int = 5,
        hidden: int | None = None,
        order: TokenOrder = "own",
    ) -> None:
        super().__init__()
        if order not in get_args(TokenOrder):
            raise MetadeblurError(f"order {order!r} of the regional tokens: use 'own', or 'published' for its weights")
        if frames % 2 == 0:
            raise MetadeblurError(f"a window of {frames} frames has no centre: use an odd number, 5 in the paper")
        if width % heads:
            raise MetadeblurError(f"tokens of width {width} cannot be split over {heads} heads: use a divisor")
        self.frames = frames
        self.order = order
        self.multiple = 4 * window
        half, quarter = 2 * channels, 4 * channels
        self.conv1_e = nn.Conv2d(3, channels, 5, padding=2)
        self.conv1 = _level(channels, units)
        self.conv2_e = nn.Conv2d(channels, half, 5, stride=2, padding=2)
        self.conv2 = _level(half, units)
        self.conv3_e = nn.Conv2d(half, quarter, 5, stride=2, padding=2)
        self.conv3 = _level(quarter, units)
        self.attn3 = FusionTransformer(quarter, width, blocks, heads, window, frames, hidden or 4 * width)
        self.conv4 = _level(quarter, units)
        self.conv5_d = nn.ConvTranspose2d(quarter, half, 4, stride=2, padding=1)
        self.conv5_c = nn.Conv2d(quarter, half, 5, padding=2)
        self.conv5 = _level(half, units)
        self.conv6_d = nn.ConvTranspose2d(half, channels, 4, stride=2, padding=1)
        self.conv6_c = nn.Conv2d(half, channels, 5, padding=2)
        self.conv6 = _level(channels, units)
        self.decode = nn.Conv2d(channels, 3, 3, padding=1)
        nn.init.zeros_(self.decode.weight)
        nn.init.zeros_(self.decode.bias)  # type: ignore[arg-type]

    @classmethod
    def from_weights(cls, weights: dict[str, Tensor], order: TokenOrder = "own") -> ReblurNetwork:
        """The network of a state dict, its sizes read from the weights. KeyError, RuntimeError: other weights."""

        def count(pattern: str) -> int:
            return 1 + max((int(match[1]) for key in weights if (match := re.match(pattern, key))), default=-1)

        block = "attn3.layers.0.blocks.0"
        channels = weights["conv1_e.weight"].shape[0]
        hidden, width = weights[f"{block}.mlp.fc1.weight"].shape
        table = weights[f"{block}.attn.relative_position_bias_table"]
        net = cls(
            channels=channels,
            units=count(r"conv1\.(\d+)\."),
            width=width,
            blocks=count(r"attn3\.layers\.0\.blocks\.(\d+)\."),
            heads=table.shape[1],
            window=round((weights["attn3.regional_embed.proj.1.weight"].shape[1] / (4 * channels)) ** 0.5),
            frames=weights[f"{block}.cross_attn.proj.weight"].shape[1] // width,
            hidden=hidden,
            order=order,
        )
        # The index is a constant of the window's side, so that files without it are whole.
        constants = {key: value for key, value in net.named_buffers() if key.endswith("index_patch")}
        net.load_state_dict(constants | {key: value for key, value in weights.items() if key not in constants})
        return net

    @property
    def last_layer(self) -> Tensor:
        """The weight that makes the picture, at which losses are balanced."""
        return self.decode.weight

    def forward(self, window: Tensor) -> Tensor:
        """Reblur the centre of (B, frames, 3, H, W): (B, 3, H, W).

        Raises:
            MetadeblurError: another number of frames than the network's.
        """
        self.refuse_other(window)
        return self.reblur_told(window, None)

    def refuse_other(self, window: Tensor) -> None:
        """Refuse what is no window of this network's frames, with a MetadeblurError."""
        if window.dim() != 5 or window.shape[1] != self.frames:
            raise MetadeblurError(
                f"the reblurrer was given {tuple(window.shape)}: give it windows (B, {self.frames}, 3, H, W)"
            )

    def reblur_told(self, window: Tensor, told: Tensor | None) -> Tensor:
        """Reblur the centre of windows; ``told`` (B, channels, H, W) is added to the first features of the centre."""
        batch, _, _, rows, columns = window.shape
        window = pad_to_multiple(window, self.multiple)
        centre = self.frames // 2

        def of_centre(features: Tensor) -> Tensor:
            return features.reshape(batch, self.frames, *features.shape[1:])[:, centre]

        # Channels last is much the faster in bf16, no faster in float32, and there it rounds twice as coarsely.
        low = torch.is_autocast_enabled(window.device.type) or window.dtype != torch.float32
        layout = torch.channels_last if low else torch.contiguous_format
        first = self.conv1_e(window.flatten(0, 1).contiguous(memory_format=layout))
        if told is not None:
            before, at, after = first.unflatten(0, (batch, self.frames)).split((centre, 1, centre), dim=1)
            at = at + pad_to_multiple(told, self.multiple)[:, None]
            first = torch.cat((before, at, after), dim=1).flatten(0, 1)
        full = self.conv1(first)
        half = self.conv2(self.conv2_e(full))
        quarter = self.conv3(self.conv3_e(half)).unflatten(0, (batch, self.frames))
        features = self.conv4(self.attn3(quarter, self.order, layout))
        features = self.conv5(self.conv5_c(torch.cat((self.conv5_d(features), of_centre(half)), dim=1)))
        features = self.conv6(self.conv6_c(torch.cat((self.conv6_d(features), of_centre(full)), dim=1)))
        blurred: Tensor = window[:, centre] + self.decode(features)
        return blurred[..., :rows, :columns]
