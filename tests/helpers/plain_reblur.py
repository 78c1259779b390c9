"""The reblurring network written out plainly, to check and to measure the fast form against.

Every block computes every token of every frame, attention is a softmax of a matrix, nothing happens in place. For sides
that are multiples of four windows.
"""

import re

import torch
from torch import Tensor
from torch.nn import functional as F


def plain_reblur(weights: dict[str, Tensor], window: Tensor, order: str = "own") -> Tensor:
    """The blurred centre (B, 3, H, W) of a window (B, N, 3, H, W), by the tensors of a ``ReblurNetwork``."""
    batch, frames = window.shape[:2]
    skips = []
    features = window.flatten(0, 1)
    for level in (1, 2, 3):
        features = _conv(weights, f"conv{level}_e", features, stride=min(level, 2), padding=2)
        features = _units(weights, f"conv{level}", features)
        skips.append(features.unflatten(0, (batch, frames))[:, frames // 2])
    features = _transformer(weights, features, batch, frames, order)[:, frames // 2]
    features = _units(weights, "conv4", features)
    for level in (5, 6):
        up = weights[f"conv{level}_d.weight"], weights[f"conv{level}_d.bias"]
        features = F.conv_transpose2d(features, *up, stride=2, padding=1)
        features = _conv(weights, f"conv{level}_c", torch.cat((features, skips[6 - level]), dim=1), padding=2)
        features = _units(weights, f"conv{level}", features)
    return _conv(weights, "decode", features, padding=1) + window[:, frames // 2]


def _conv(weights, name, maps, **how):
    return F.conv2d(maps, weights[f"{name}.weight"], weights[f"{name}.bias"], **how)


def _linear(weights, name, tokens):
    return F.linear(tokens, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _norm(weights, name, tokens):
    return F.layer_norm(tokens, tokens.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])


def _units(weights, name, maps):
    for unit in range(_count(weights, rf"{name}\.(\d+)\.")):
        branch = F.leaky_relu(_conv(weights, f"{name}.{unit}.conv1", maps, padding=1), 0.2)
        maps = F.leaky_relu(_conv(weights, f"{name}.{unit}.conv2", branch, padding=1) + maps, 0.2)
    return maps


def _count(weights, pattern):
    return 1 + max(int(found[1]) for key in weights if (found := re.match(pattern, key)))


def _transformer(weights, maps, batch, frames, order):
    """(B * N, C, H, W) to (B, N, C, H, W): tokens are kept as a list of frames' windows, window by window."""
    channels, height, width = maps.shape[1:]
    side = round((weights["attn3.regional_embed.proj.1.weight"].shape[1] / channels) ** 0.5)
    rows, columns = height // side, width // side
    count = rows * columns
    pixels = maps.reshape(-1, channels, rows, side, columns, side).permute(0, 2, 4, 3, 5, 1)
    pixels = pixels.reshape(batch * frames, count, side * side, channels)
    local = _norm(weights, "attn3.patch_embed.norm", _linear(weights, "attn3.patch_embed.proj.1", pixels))
    regional = _linear(weights, "attn3.regional_embed.proj.1", pixels.flatten(2))
    regional = _norm(weights, "attn3.regional_embed.norm", regional)
    for block in range(_count(weights, r"attn3\.layers\.0\.blocks\.(\d+)\.")):
        name = f"attn3.layers.0.blocks.{block}"
        regional = regional + _attention(weights, f"{name}.attn", _norm(weights, f"{name}.norm1", regional))
        regional = _cross(weights, name, _norm(weights, f"{name}.norm4", regional), batch, frames)
        # Window ``i``, counted through all frames, meets the regional token of this frame and place.
        flat = torch.arange(batch * frames * count)
        frame, place = (flat // count, flat % count) if order == "own" else (flat % len(maps), flat // len(maps))
        own = regional[frame, place]
        tokens = torch.cat((own[:, None], local.flatten(0, 1)), dim=1)
        table = weights[f"{name}.attn.relative_position_bias_table"]
        bias = torch.zeros(table.shape[1], 1 + side * side, 1 + side * side, device=table.device)
        bias[:, 1:, 1:] = _bias(table, side)
        tokens = tokens + _attention(weights, f"{name}.attn", _norm(weights, f"{name}.norm2", tokens), bias)
        hidden = F.gelu(_linear(weights, f"{name}.mlp.fc1", _norm(weights, f"{name}.norm3", tokens)))
        tokens = tokens + _linear(weights, f"{name}.mlp.fc2", hidden)
        local = tokens[:, 1:].unflatten(0, (batch * frames, count))
        regional = torch.zeros_like(regional)
        regional[frame, place] = tokens[:, 0]
    grid = local.reshape(-1, rows, columns, side, side, local.shape[-1]).permute(0, 5, 1, 3, 2, 4)
    head = _conv(weights, "attn3.head", grid.reshape(batch * frames, -1, height, width))
    return head.unflatten(0, (batch, frames))


def _bias(table, side):
    """(heads, P, P): the table's row for how far apart two pixels of a window are."""
    places = [(row, column) for row in range(side) for column in range(side)]
    index = [[(a[0] - b[0] + side - 1) * (2 * side - 1) + a[1] - b[1] + side - 1 for b in places] for a in places]
    return table[torch.tensor(index, device=table.device)].permute(2, 0, 1)


def _heads(weights, name, tokens):
    count = weights[f"{name}.attn.relative_position_bias_table"].shape[1]
    return tokens.unflatten(-1, (count, -1)).transpose(-3, -2)


def _softmax_attention(query, key, value, bias=None):
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    scores = scores if bias is None else scores + bias
    return (scores.softmax(-1) @ value).transpose(-3, -2).flatten(-2)


def _attention(weights, name, tokens, bias=None):
    parts = _linear(weights, f"{name}.qkv", tokens).chunk(3, dim=-1)
    query, key, value = (_heads(weights, name.removesuffix(".attn"), part) for part in parts)
    return _linear(weights, f"{name}.proj", _softmax_attention(query, key, value, bias))


def _cross(weights, name, regional, batch, frames):
    tokens = regional.unflatten(0, (batch, frames))
    centre = frames // 2
    query = _heads(weights, name, _linear(weights, f"{name}.cross_attn.q", tokens[:, centre]))
    answers = []
    for frame in range(frames):
        key, value = _linear(weights, f"{name}.cross_attn.kv", tokens[:, frame]).chunk(2, dim=-1)
        answers.append(_softmax_attention(query, _heads(weights, name, key), _heads(weights, name, value)))
    fused = tokens[:, centre] + _linear(weights, f"{name}.cross_attn.proj", torch.cat(answers, dim=-1))
    listed = [fused if frame == centre else tokens[:, frame] for frame in range(frames)]
    return torch.stack(listed, dim=1).flatten(0, 1)
