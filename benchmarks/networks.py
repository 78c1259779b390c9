"""Each published network in its straightforward form against the tuned way of running it, in the same run.

Run:  python benchmarks/networks.py [--networks mprnet restormer ...] [--clip FOLDER] [--side 128] [--rounds 5]

The straightforward form is the paper's written down step by step: float32, channels first, normalised copies for
attention, layer normalisation by mean and variance, a flow pyramid for each pair of frames, block by block mixing,
features resized before they are convolved. The tuned ways add, one after another, what restoring does: our forms of
these parts, inference mode, channels-last, bf16 where it is native; for Restormer PyTorch's fused attention as well.
All ways take turns in every round, so that a busy machine slows all of them alike; the ratio is taken within each
round. On one thread of the CPU its own seconds are counted, not the clock's. The difference is the PSNR in dB between a
way's picture and the straightforward one's. Weights that are here (``metadeblur weights list``) are used; others are
drawn, so that pictures vary as much as the networks' branches do (the time does not depend on them). With ``--clip``,
which holds ``blur`` and ``sharp``, its middle frames are restored instead of random ones, and networks with real
weights are measured against the truth as well.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metadeblur import load_deblurrer
from metadeblur.data.pairs import read_picture
from metadeblur.imaging.quality import psnr
from metadeblur.models import maxim, nafnet, restormer
from metadeblur.models.cdvd_tsp import CDVDTSP, fetch, temporal_sharpness
from metadeblur.models.registry import ARCHITECTURES, final, recognise, traits
from metadeblur.models.weights import installed_path
from metadeblur.system.device import has_native_bf16


def drawn(name: str) -> nn.Module:
    """A network in its published sizes, weights drawn so that signals keep about their strength."""
    net = ARCHITECTURES[name].published()
    generator = torch.Generator().manual_seed(0)
    for key, weight in net.state_dict().items():
        if weight.ndim >= 2 and not key.endswith("temperature"):
            fan_in = weight[0].numel() if weight.shape[0] > 1 else weight.numel()
            weight.normal_(0, 0.6 / math.sqrt(max(fan_in, 1)), generator=generator)
    return net.eval().requires_grad_(False)


def available(name: str) -> tuple[nn.Module, bool]:
    """A network, and whether its weights are real ones."""
    real = installed_path(name).is_file()
    net = load_deblurrer(name) if real else drawn(name)
    return net.eval().requires_grad_(False), real


def plain_norm(self: nn.LayerNorm, x: Tensor) -> Tensor:
    """Layer normalisation over the channels of (B, C, H, W), written down."""
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    scaled = (x - mean) / (variance + self.eps).sqrt()
    return scaled * self.weight[:, None, None] + self.bias[:, None, None]


def heads(self: restormer.TransposedAttention, x: Tensor) -> Sequence[Tensor]:
    """Query, key and value (B, heads, C, H * W)."""
    return [part.unflatten(1, (self.heads, -1)).flatten(3) for part in self.qkv_dwconv(self.qkv(x)).chunk(3, 1)]


def plain_attention(self: restormer.TransposedAttention, x: Tensor) -> Tensor:
    query, key, value = heads(self, x)
    attention = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).mT * self.temperature
    return self.project_out((attention.softmax(-1) @ value).reshape(x.shape))


def fused_attention(self: restormer.TransposedAttention, x: Tensor) -> Tensor:
    query, key, value = heads(self, x)
    query = F.normalize(query, dim=-1) * self.temperature
    mixed = F.scaled_dot_product_attention(query, F.normalize(key, dim=-1), value, scale=1.0)
    return self.project_out(mixed.reshape(x.shape))


def plain_mix(self: maxim.SpatialMix, x: Tensor, shift: float = 0.0) -> Tensor:
    """The dense layer on the positions of each block, or of each cell of the grid, (B, H, W, C)."""
    batch, height, width, channels = x.shape
    rows, columns = height // self.size, width // self.size
    split = (self.size, rows, self.size, columns) if self.grid else (rows, self.size, columns, self.size)
    order = (0, 2, 4, 5, 1, 3) if self.grid else (0, 1, 3, 5, 2, 4)
    blocks = x.reshape(batch, *split, channels).permute(order)
    mixed = F.linear(blocks.flatten(-2), self.weight, self.bias) + shift
    back = [order.index(axis) for axis in range(len(order))]
    return mixed.view(blocks.shape).permute(back).reshape(x.shape)


def plain_resize(self: maxim.LevelResize, x: Tensor) -> Tensor:
    if self.factor != 1:
        x = F.interpolate(x, scale_factor=self.factor, mode="bilinear", antialias=self.factor < 1)
    return self.conv(x)


def plain_stage(self: CDVDTSP, frames: Sequence[Tensor]) -> list[Tensor]:
    restored = []
    for before, middle, after in zip(frames, frames[1:], frames[2:], strict=False):
        previous, seen = fetch(before, self.flow_net(middle, before))
        following, seen_too = fetch(after, self.flow_net(middle, after))
        sharpness = temporal_sharpness(previous, middle, following) * seen * seen_too
        restored.append(self.recons_net(torch.cat([previous, middle, following, sharpness], 1)))
    return restored


def straightforward(net: nn.Module, attention: Callable[..., Tensor] | None = plain_attention) -> nn.Module:
    """A copy with the paper's forms in place of ours; with ``attention`` alone where that is another one."""
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, restormer.TransposedAttention):
            module.forward = MethodType(attention, module)
        elif attention is not plain_attention:
            continue
        elif isinstance(module, restormer.ChannelNorm):
            module.forward = partial(plain_norm, module.body)
        elif isinstance(module, nafnet.LayerNorm2d):
            module.forward = MethodType(plain_norm, module)
        elif isinstance(module, maxim.SpatialMix):
            module.forward = MethodType(plain_mix, module)
        elif isinstance(module, maxim.LevelResize):
            module.forward = MethodType(plain_resize, module)
        elif isinstance(module, CDVDTSP):
            module._stage = MethodType(plain_stage, module)
    return net


def way(net: nn.Module, frames: Tensor, *, last: bool, inference: bool, bf16: bool) -> Callable[[], Tensor]:
    """A call that runs the network so."""
    layout = torch.channels_last if last else torch.contiguous_format
    net = copy.deepcopy(net).to(memory_format=layout)
    if frames.ndim == 4:
        frames = frames.contiguous(memory_format=layout)

    def run() -> Tensor:
        mode = torch.inference_mode() if inference else torch.no_grad()
        with mode, torch.autocast(frames.device.type, dtype=torch.bfloat16, enabled=bf16):
            picture = final(net(frames)).float()
        if frames.is_cuda:
            torch.cuda.synchronize()
        return picture

    return run


def ways_of(net: nn.Module, frames: Tensor) -> dict[str, Callable[[], Tensor]]:
    """All ways of running a network, the straightforward one first."""
    ways = {
        "straightforward": way(straightforward(net), frames, last=False, inference=False, bf16=False),
        "our forms": way(net, frames, last=False, inference=False, bf16=False),
        "+ inference mode": way(net, frames, last=False, inference=True, bf16=False),
        "+ channels-last": way(net, frames, last=True, inference=True, bf16=False),
    }
    if has_native_bf16(frames.device):
        ways["+ bf16"] = way(net, frames, last=True, inference=True, bf16=True)
    if isinstance(net, restormer.Restormer):
        fused = straightforward(net, fused_attention)
        ways["channels-last, fused attention"] = way(fused, frames, last=True, inference=True, bf16=False)
    return ways


def random_frames(count: int, side: int) -> Tensor:
    """Smooth random frames, (N, 3, H, W)."""
    frames = torch.rand(count, 3, -(-side // 8), -(-side // 8), generator=torch.Generator().manual_seed(1))
    return F.interpolate(frames, (side, side), mode="bilinear")


def middle_frames(folder: Path, count: int, side: int) -> Tensor:
    """The middle of the middle frames of a folder, (N, 3, H, W)."""
    files = sorted(folder.iterdir())
    first = (len(files) - count) // 2
    frames = torch.stack([torch.from_numpy(read_picture(path)) for path in files[first : first + count]])
    top, left = ((length - side) // 2 for length in frames.shape[1:3])
    return frames[:, top : top + side, left : left + side].permute(0, 3, 1, 2).float() / 255


def measure(name: str, net: nn.Module, frames: Tensor, sharp: Tensor | None, rounds: int) -> list[dict[str, object]]:
    """Time and difference of every way; one row each.

    Args:
        name: of the network.
        net: the network, on the device of the frames.
        frames: (N, 3, H, W) that it takes.
        sharp: (3, H, W), what should come out; none: not known.
        rounds: how often each way is timed.
    """
    device = frames.device.type
    ways = ways_of(net, frames if len(frames) == 1 else frames[None])
    pictures = {title: run() for title, run in ways.items()}  # also warms up
    times: dict[str, list[float]] = {title: [] for title in ways}
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    for _ in range(rounds):
        for title, run in ways.items():
            start = clock()
            run()
            times[title].append(clock() - start)
    rows = []
    for title, series in times.items():
        ratios = [plain / one for one, plain in zip(series, times["straightforward"], strict=True)]
        error = float((pictures[title] - pictures["straightforward"]).square().mean())
        rows.append(
            {
                "network": name,
                "way": title,
                "seconds": statistics.median(series),
                "faster": statistics.median(ratios),
                "faster_min": min(ratios),
                "faster_max": max(ratios),
                "difference_db": -10 * math.log10(error) if error else None,
                "psnr": None if sharp is None else float(psnr(pictures[title][0].clamp(0, 1).cpu(), sharp)),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=ARCHITECTURES, default=tuple(ARCHITECTURES))
    parser.add_argument("--weights", type=Path, help="a weight file instead of drawn weights")
    parser.add_argument("--clip", type=Path, help="folder with blur and sharp, whose middle frames are restored")
    parser.add_argument("--side", type=int, default=128, help="of the square picture, px")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="write the rows to this file as well")
    choices = parser.parse_args()
    torch.set_num_threads(choices.threads)
    nets = {name: partial(available, name) for name in choices.networks}
    if choices.weights:
        net = load_deblurrer(choices.weights)
        nets = {recognise(net.state_dict()) or "network": lambda: (net, True)}

    where = torch.cuda.get_device_name() if choices.device == "cuda" else f"cpu, {choices.threads} threads"
    print(f"{choices.side}x{choices.side}, {where}, torch {torch.__version__}, {choices.rounds} rounds\n")
    print("| network | way | median s | times as fast (least to most) | like the straightforward, dB | PSNR, dB |")
    print("| --- | --- | ---: | --- | ---: | ---: |")
    rows = []
    for name, build in nets.items():
        net, real = build()
        count, sharp = traits(net).frames, None
        if choices.clip:
            frames = middle_frames(choices.clip / "blur", count, choices.side)
            sharp = middle_frames(choices.clip / "sharp", 1, choices.side)[0] if real else None
        else:
            frames = random_frames(count, choices.side)
        for row in measure(name, net.to(choices.device), frames.to(choices.device), sharp, choices.rounds):
            rows.append(row)
            spread = f"{row['faster']:.2f} ({row['faster_min']:.2f} to {row['faster_max']:.2f})"
            decibels = "same" if row["difference_db"] is None else f"{row['difference_db']:.1f}"
            truth = "" if row["psnr"] is None else f"{row['psnr']:.3f}"
            print(f"| {name} | {row['way']} | {row['seconds']:.3f} | {spread} | {decibels} | {truth} |", flush=True)
    if choices.json:
        choices.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
