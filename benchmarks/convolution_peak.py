"""How near ``lite`` comes to the multiply-adds a second that convolutions reach at best on this machine.

Part of benchmarks/speed.py. The peak is the best of plain 3x3 convolutions of several shapes, channels-last, each alone
and warm; beside it stands every convolution of the network by its shape, alone, and what PyTorch's profiler says of the
network's time.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from metadeblur.system.device import has_native_bf16

SHAPES = ((32, 256), (64, 128), (64, 256), (128, 64), (128, 128), (256, 32), (256, 64), (512, 32))  # channels, side
WORTH = 0.02  # seconds that a timed piece of work lasts at least: short ones are repeated
OPERATIONS = 12  # lines of the profile


class Layer(NamedTuple):
    """The shape of a convolution."""

    into: int  # channels
    out: int
    kernel: int
    stride: int
    height: int  # of what it is given, px
    width: int

    def multiply_adds(self) -> int:
        """Of one call."""
        positions = (self.height // self.stride) * (self.width // self.stride)
        return self.into * self.out * self.kernel**2 * positions


def measure_peak(net: nn.Module, window: Tensor, rounds: int) -> dict[str, Any]:
    """The part of the page.

    Args:
        net: ``lite``, in evaluation mode.
        window: (5, 3, H, W).
        rounds: how often everything is timed.
    """
    net = copy.deepcopy(net).to(memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]
    types = [torch.float32] + ([torch.bfloat16] if has_native_bf16(torch.device("cpu")) else [])
    with torch.inference_mode():
        ready = net.prepare_window(window[None]).contiguous(memory_format=torch.channels_last)  # type: ignore[operator]
        layers = Counter(layers_of(net, ready))
        total = sum(layer.multiply_adds() * count for layer, count in layers.items())
        summary = [["arithmetic", "peak, G a second", "its shape", "layers, G a second", "of the peak, round by round",
                    "motion and samples too", "of the peak, round by round"]]  # fmt: skip
        alone = [["convolution", "times", "share of the work", *(f"{name(kind)}, of its peak" for kind in types)]]
        rates: dict[str, Any] = {}
        for kind in types:
            candidates = [Layer(channels, channels, 3, 1, side, side) for channels, side in SHAPES]
            tried = {layer: rate(layer, kind, rounds) for layer in candidates}
            best = max(candidates, key=lambda layer: tried[layer])

            def network(kind: torch.dtype = kind) -> Tensor:
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == torch.bfloat16):
                    return net.deblur_prepared(ready)  # type: ignore[operator]

            def whole(network: Callable[[], Tensor] = network) -> Tensor:
                net.prepare_window(window[None])  # type: ignore[operator]
                return network()

            timers = [timer(run) for run in (convolution(best, kind), network, whole)]
            work = (best.multiply_adds(), total, total)
            turns = [[count / timed() / 1e9 for count, timed in zip(work, timers, strict=True)] for _ in range(rounds)]
            peak, *reached = (statistics.median(series) for series in zip(*turns, strict=True))
            rates[name(kind)] = {
                "peak": peak,
                "tried": {str(tuple(layer)): value for layer, value in tried.items()},
                "turns": turns,
                "alone": {str(tuple(layer)): rate(layer, kind, rounds) for layer in layers},
                "profile": profiled(network),
            }
            summary.append([name(kind), f"{peak:.0f}", f"{best.into} channels, {best.width}x{best.height}"])
            for place, value in enumerate(reached, start=1):
                summary[-1] += [f"{value:.0f}", shares([turn[place] / turn[0] for turn in turns])]
    for layer, count in sorted(layers.items(), key=lambda item: -item[0].multiply_adds() * item[1]):
        told = f"{layer.kernel}x{layer.kernel}, {layer.into} to {layer.out} channels, {layer.width}x{layer.height}"
        alone.append([told, str(count), f"{100 * layer.multiply_adds() * count / total:.0f} %"])
        for found in rates.values():
            alone[-1].append(f"{100 * found['alone'][str(tuple(layer))] / found['peak']:.0f} %")
    last = name(types[-1])
    operations = [["operation", "of the layers' time", "calls"], *rates[last]["profile"]]
    height, width = window.shape[-2:]
    about = (
        f"`lite` on a frame of {width}x{height}: {total / 1e9:.1f} G multiply-adds. The peak is that of the best of "
        f"{len(SHAPES)} shapes of 3x3 convolutions. First table: the network's layers, and the whole restoration of "
        f"the frame. Second: each of its convolutions alone, {', '.join(map(name, types))}. Third: where the layers' "
        f"time goes, by PyTorch's profiler, {last}."
    )
    return {"title": "Multiply-adds a second, against the peak", "about": about,
            "tables": [summary, alone, operations], "rates": rates, "multiply_adds": total}  # fmt: skip


def layers_of(net: nn.Module, ready: Tensor) -> list[Layer]:
    """Every convolution that one frame goes through."""
    found = []

    def note(module: nn.Conv2d, given: tuple[Tensor], _: Tensor) -> None:
        shape = given[0].shape
        found.append(
            Layer(module.in_channels, module.out_channels, module.kernel_size[0], module.stride[0], *shape[-2:])
        )

    hooks = [module.register_forward_hook(note) for module in net.modules() if isinstance(module, nn.Conv2d)]
    try:
        net.deblur_prepared(ready)  # type: ignore[operator]
    finally:
        for hook in hooks:
            hook.remove()
    return found


def convolution(layer: Layer, kind: torch.dtype) -> Callable[[], Tensor]:
    """One convolution of random numbers."""
    given = torch.rand(1, layer.into, layer.height, layer.width).to(kind, memory_format=torch.channels_last)
    weight = torch.rand(layer.out, layer.into, layer.kernel, layer.kernel).to(kind, memory_format=torch.channels_last)
    padding = layer.kernel // 2 if layer.stride == 1 else 0
    return lambda: F.conv2d(given, weight, stride=layer.stride, padding=padding)


def rate(layer: Layer, kind: torch.dtype, rounds: int) -> float:
    """G multiply-adds a second of one convolution, alone and warm: the median of several rounds."""
    timed = timer(convolution(layer, kind))
    return layer.multiply_adds() / statistics.median(timed() for _ in range(rounds)) / 1e9


def timer(run: Callable[[], object]) -> Callable[[], float]:
    """What times a piece of work, warm, in seconds; short work is repeated."""
    run()
    began = time.perf_counter()
    run()
    repeats = max(1, round(WORTH / max(time.perf_counter() - began, 1e-9)))

    def timed() -> float:
        began = time.perf_counter()
        for _ in range(repeats):
            run()
        return (time.perf_counter() - began) / repeats

    return timed


def shares(values: Sequence[float]) -> str:
    """Median, least and most, in percent."""
    return f"{100 * statistics.median(values):.0f} ({100 * min(values):.0f} to {100 * max(values):.0f}) %"


def profiled(run: Callable[[], object]) -> list[list[str]]:
    """Operation, share of the time spent in itself, calls: the most expensive first."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    return [
        [f"`{event.key}`", f"{100 * event.self_cpu_time_total / total:.1f} %", str(event.count)]
        for event in events[:OPERATIONS]
    ]


def name(kind: torch.dtype) -> str:
    return "bf16" if kind == torch.bfloat16 else "fp32"
