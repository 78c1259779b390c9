"""Seconds for one frame through a deblurrer: fp32 against bf16, channels-last, tiles.

Run:  python benchmarks/restore_speed.py [--width 1280] [--height 720] [--rounds 5] [--threads 2]

All ways take turns in every round, so that a busy machine slows all of them alike; the ratio to fp32 is taken within
each round, and its spread over the rounds is printed. The weights do not matter for the time, so they are drawn.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from metadeblur.networks.lite import Lite
from metadeblur.restore import Restorer, RestoreSettings, has_native_bf16


def network(generator: torch.Generator) -> Lite:
    """Lite with a head that does something."""
    net = Lite(frames=3)
    with torch.no_grad():
        net.head.weight.normal_(0, 0.01, generator=generator)
    return net.eval()


def plain(net: Lite, window: Tensor, *, bf16: bool, channels_last: bool) -> Callable[[], object]:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    module = copy.deepcopy(net).to(memory_format=layout)

    def run() -> object:
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            return module.deblur_prepared(module.prepare_window(window[None]).contiguous(memory_format=layout))

    return run


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    choices = parser.parse_args()
    torch.set_num_threads(choices.threads)
    generator = torch.Generator().manual_seed(0)
    net = network(generator)
    texture = F.avg_pool2d(torch.rand(3, choices.height, choices.width, generator=generator), 5, 1, 2)
    window = torch.stack([texture.roll(6 * shift, -1) for shift in (-1, 0, 1)])
    native = has_native_bf16(torch.device("cpu"))

    ways: dict[str, Callable[[], object]] = {"fp32": plain(net, window, bf16=False, channels_last=False)}
    ways["motion and samples alone"] = partial(net.prepare_window, window[None])
    ways["fp32 channels-last"] = plain(net, window, bf16=False, channels_last=True)
    if native:
        ways["bf16"] = plain(net, window, bf16=True, channels_last=False)
        ways["bf16 channels-last"] = plain(net, window, bf16=True, channels_last=True)
    precision = "bf16" if native else "fp32"
    for tile in (0, 512, 256):
        settings = RestoreSettings(tile=tile, precision=precision, device="cpu", overlap=96)
        restorer = Restorer(net, choices.height, choices.width, settings)
        ways[f"Restorer {precision}, tile {tile or 'whole'}"] = partial(restorer, window)

    for run in ways.values():
        run()
    times = {name: [] for name in ways}
    for _ in range(choices.rounds):
        for name, run in ways.items():
            times[name].append(seconds(run))

    print(f"{choices.width}x{choices.height}, {torch.get_num_threads()} threads, bf16 native: {native}")
    print(f"{'way':34}{'median s':>10}{'min':>8}{'max':>8}   ratio to fp32 (min to max over rounds)")
    for name, series in times.items():
        ratios = [one / reference for one, reference in zip(series, times["fp32"], strict=True)]
        print(
            f"{name:34}{statistics.median(series):10.2f}{min(series):8.2f}{max(series):8.2f}"
            f"   {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
