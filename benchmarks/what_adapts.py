"""What adapting a part of a network costs and wins: parameters, seconds and memory of a step, dB on paired clips.

Run:  python benchmarks/what_adapts.py --model lite --clips ROOT/hero7 ROOT/goat [--steps 40] [--patch 128] [--side 320]
      python benchmarks/what_adapts.py --model maxim --clips ROOT/hero7 --steps 10 --patch 64 --side 128 --batch 1

A clip is a folder with ``blur`` and ``sharp``; its centre, ``--side`` px wide, is taken. All ways adapt on the same
pairs (the clip's optical flow), without the guard. Seconds are those of one processor thread; memory is the most that
the tensors of one step hold at once, Adam's moments included, the weights themselves not, and half as much again for
what convolution libraries take. Without ``--clips`` only the costs are measured, with drawn weights where ``--drawn``
names an architecture.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn

from metadeblur import Clip, load_deblurrer
from metadeblur.adaptation.pairs import make_pairs
from metadeblur.adaptation.parameters import PARAMETERS, free
from metadeblur.adaptation.places import choose_support
from metadeblur.adaptation.stages import AdaptSettings, Pair, inner_update
from metadeblur.adaptation.targets import Sharpener
from metadeblur.data.pairs import read_picture
from metadeblur.imaging.quality import psnr
from metadeblur.models.forward import own_loss
from metadeblur.models.registry import ARCHITECTURES, traits
from metadeblur.reblur.flow import fit_flow_reblurrer
from metadeblur.restoration.restorer import Restorer, RestoreSettings
from metadeblur.restoration.windows import windows
from metadeblur.system.memory import peak_bytes

EVERY = 4  # frames between those that are scored


def centre(folder: Path, side: int) -> Tensor:
    """The frames of a folder, (T, 3, H, W), their centre at most ``side`` px wide and high."""
    frames = []
    for path in sorted(folder.iterdir()):
        frame = torch.from_numpy(read_picture(path)).permute(2, 0, 1).float() / 255
        height, width = (min(side, length) for length in frame.shape[-2:])
        top, left = (frame.shape[-2] - height) // 2, (frame.shape[-1] - width) // 2
        frames.append(frame[:, top : top + height, left : left + width])
    return torch.stack(frames)


def score(net: nn.Module, blurred: Clip, sharp: Tensor) -> float:
    """Mean PSNR in dB of every fourth restored frame, on 8-bit levels."""
    restorer = Restorer(net, blurred.height, blurred.width, RestoreSettings(device="cpu", tile=0))
    values = []
    for index, window in enumerate(windows(blurred, restorer.frames)):
        if index % EVERY == EVERY // 2:
            restored = (restorer(window) * 255).round() / 255
            values.append(float(psnr(restored, (sharp[index] * 255).round() / 255)))
    return fmean(values)


def step_bytes(net: nn.Module, which: str, batch: Tensor, sharp: Tensor) -> tuple[int, int]:
    """How many numbers move, and the most bytes that one gradient step holds beside the weights."""
    net = copy.deepcopy(net).eval()
    weights = free(net, which, torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(weights)

    def step() -> None:
        own_loss(net, batch, sharp).backward()
        optimizer.step()

    return sum(weight.numel() for weight in weights), peak_bytes(step, torch.device("cpu"))


def costs(net: nn.Module, settings: AdaptSettings) -> dict[str, dict[str, float]]:
    """Numbers that move, megabytes and seconds of a step, by part."""
    shape = (settings.batch, 3, settings.patch, settings.patch)
    sharp = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    count = traits(net).frames
    batch = sharp if count == 1 else sharp[:, None].repeat(1, count, 1, 1, 1)
    pairs = [Pair(*pair) for pair in zip(batch * 0.9, sharp, strict=True)]
    found = {}
    for which in PARAMETERS:
        moving, held = step_bytes(net, which, batch * 0.9, sharp)
        one = replace(settings, parameters=which, steps=1)
        inner_update(net, pairs, one, torch.Generator().manual_seed(0))  # warms up
        began = time.process_time()
        inner_update(net, pairs, replace(one, steps=3), torch.Generator().manual_seed(0))
        found[which] = {"numbers": moving, "mb": held / 2**20, "seconds": (time.process_time() - began) / 3}
    return found


def wins(net: nn.Module, folder: Path, settings: AdaptSettings, side: int, rates: list[float]) -> list[dict]:
    """PSNR of the base and after adapting each part at each learning rate."""
    blurred, sharp = Clip(centre(folder / "blur", side), name=folder.name), centre(folder / "sharp", side)
    generator = torch.Generator().manual_seed(settings.seed)
    support = choose_support(
        blurred,
        pairs=settings.pairs,
        patch=settings.patch,
        held_out=0.0,
        method=settings.method,
        margin=0,
        generator=generator,
    )
    reblurrer = fit_flow_reblurrer(blurred, places=support.train, generator=generator)
    sharpener = Sharpener(net, blurred)
    pairs = make_pairs(
        blurred, support.train, reblurrer, settings.blurs, traits(net).frames, generator, sharpener=sharpener
    )
    base = score(net, blurred, sharp)
    rows = [{"clip": folder.name, "parameters": "base", "lr": 0.0, "psnr": base}]
    for which in PARAMETERS:
        for rate in rates:
            chosen = replace(settings, parameters=which, lr=rate)
            adapted, history, failure = inner_update(net, pairs, chosen, torch.Generator().manual_seed(0))
            found = base if failure else score(adapted, blurred, sharp)
            rows.append({"clip": folder.name, "parameters": which, "lr": rate, "psnr": found, "won": found - base})
            print(
                f"{folder.name:14}{which:18}{rate:8.0e}{base:8.2f}{found - base:+8.2f} dB   "
                f"loss {history[0]['loss']:.4f} to {history[-1]['loss']:.4f}",
                flush=True,
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lite")
    parser.add_argument("--drawn", choices=ARCHITECTURES, help="an architecture with drawn weights, for the costs")
    parser.add_argument("--clips", nargs="*", type=Path, default=[])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--side", type=int, default=320, help="of the centre of the clips, px")
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-4, 1e-3])
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    choices = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = ARCHITECTURES[choices.drawn].published() if choices.drawn else load_deblurrer(choices.model)
    net = net.eval().requires_grad_(False)
    settings = AdaptSettings(
        pairs=choices.pairs, steps=choices.steps, batch=choices.batch, patch=choices.patch, device="cpu"
    )
    found = costs(net, settings)
    print(f"{choices.drawn or choices.model}: a step on {choices.batch} of {choices.patch}x{choices.patch}")
    for which, cost in found.items():
        print(
            f"{which:18}{cost['numbers'] / 1e6:9.3f} M moving{cost['mb']:9.0f} MB{cost['seconds']:9.2f} s", flush=True
        )
    rows = [row for clip in choices.clips for row in wins(net, clip, settings, choices.side, choices.rates)]
    if choices.json:
        choices.json.write_text(json.dumps({"costs": found, "wins": rows}, indent=1))


if __name__ == "__main__":
    main()
