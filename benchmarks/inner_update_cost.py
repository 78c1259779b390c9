"""What each stage of the paper's inner update costs at 256x256: seconds, peak memory, multiply-adds.

Run:  python benchmarks/inner_update_cost.py [--model mimo-unet-plus] [--side 256] [--threads 2] [--rounds 3]
                                             [--reblurrer FILE] [-o docs/results/inner_update_cost.md]

Stages: choosing 20 places of a clip of 20 frames of 640x360; one step of the reblurring network and the small critic
(L_adv + 0.01 L_cycle through the deblurrer, batch 1); making one pair; one step of the deblurrer. Each case runs in a
fresh process. Seconds are the least of the rounds after one to warm up; memory is the most that the whole process held;
multiply-adds are counted in convolutions and products of matrices, of the backward pass too, and are those of the fp32
case. Without ``--reblurrer`` the reblurring network has the paper's size and drawn weights: it works as fast with any.

The release, with its VGG19 critic and in fp32, was measured on two processor cores: 21.2 s a step of the reblurrer and
9.6 s a step of the deblurrer, 7 to 9 GB. Processor seconds are those of all threads together, and stay true where
other work shares the machine; a step's share of the release's time is that of the lesser of the two.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from metadeblur.adaptation.places import choose_support
from metadeblur.clip import Clip
from metadeblur.evaluation.tables import markdown
from metadeblur.models.critic import Critic
from metadeblur.models.forward import own_loss
from metadeblur.models.reblurring import ReblurNetwork
from metadeblur.models.registry import traits
from metadeblur.pipeline.catalogue import filled
from metadeblur.reblur.fitting import Item, NetworkReblurrer, ReblurStage
from metadeblur.reblur.settings import ReblurUpdates
from metadeblur.reblur.weights import load_reblurrer
from metadeblur.system.json_files import provenance, versions, write_whole
from metadeblur.system.machine import describe_machine

STAGES = ("choose the support set", "step of the reblurrer", "make a pair", "step of the deblurrer")
RELEASE = {"step of the reblurrer": 21.2, "step of the deblurrer": 9.6}  # s, on two cores
RELEASE_GB = (7.0, 9.0)


def measure(stage: str, precision: str, given: argparse.Namespace) -> tuple[float, float, float, float | None]:
    """Seconds, processor seconds, peak memory in GB, and multiply-adds in G of a stage; for a process of its own."""
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    work = prepared(stage, precision == "bf16", given)
    work()
    # Memory first: what the counter of multiply-adds holds does not belong to the work.
    rounds = [_seconds(work) for _ in range(given.rounds)]
    seconds, busy = (min(one[part] for one in rounds) for part in (0, 1))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if precision == "bf16" or stage == STAGES[0]:
        return seconds, busy, peak, None
    with FlopCounterMode(display=False) as counter:
        work()
    return seconds, busy, peak, counter.get_total_flops() / 2e9


def prepared(stage: str, bf16: bool, given: argparse.Namespace) -> Callable[[], object]:
    """The stage as a function without arguments."""
    window = torch.rand(5, 3, given.side, given.side)
    if stage == "choose the support set":
        clip, generator = Clip(torch.rand(20, 3, 360, 640)), torch.Generator().manual_seed(0)
        return lambda: choose_support(
            clip, pairs=20, patch=given.side, held_out=0.0, method="random", generator=generator
        )
    if stage == "step of the deblurrer":
        return _deblur_step(filled(given.model), window, bf16)
    reblurrer = load_reblurrer(given.reblurrer) if given.reblurrer else NetworkReblurrer(_drawn(), Critic())
    if stage == "make a pair":
        ready = reblurrer.ready(torch.device("cpu"), bf16=bf16)
        return lambda: ready.blur(window)
    updates = ReblurUpdates()
    fitting = ReblurStage(reblurrer, filled(given.model), updates, bf16=bf16)
    item = Item(window, torch.rand(3, given.side, given.side))
    return lambda: fitting.step(item)


def _drawn() -> ReblurNetwork:
    """The network of the paper's size, which blurs a little: a new one returns the centre and has gradients of zero."""
    network = ReblurNetwork().eval()
    nn.init.normal_(network.decode.weight, std=0.01)
    return network


def _deblur_step(net: nn.Module, window: torch.Tensor, bf16: bool) -> Callable[[], object]:
    frames = traits(net).frames
    fed = window[None, 2] if frames == 1 else window[None, 2 - frames // 2 : 3 + frames // 2]
    net.requires_grad_(True)
    optimizer = torch.optim.Adam(net.parameters(), lr=2.5e-6)

    def step() -> None:
        loss = own_loss(net, fed, window[None, 2], bf16=bf16)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def _seconds(work: Callable[[], object]) -> tuple[float, float]:
    began, busy = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - busy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mimo-unet-plus")
    parser.add_argument("--reblurrer", default="")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--note", default="", help="what else ran on the machine")
    parser.add_argument("-o", dest="out", type=Path)
    given = parser.parse_args()
    lines = [["stage", "arithmetic", "s", "processor s", "peak memory, GB", "multiply-adds, G", "of the release's s"]]
    for stage in STAGES:
        for precision in ("fp32", "bf16") if stage != STAGES[0] else ("fp32",):
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                seconds, busy, peak, counted = pool.submit(measure, stage, precision, given).result()
            share = f"{min(seconds, busy) / RELEASE[stage]:.2f}" if stage in RELEASE else ""
            counted_text = "" if counted is None else f"{counted:.0f}"
            lines.append([stage, precision, f"{seconds:.2f}", f"{busy:.2f}", f"{peak:.2f}", counted_text, share])
            print(*lines[-1], sep="  ", flush=True)
    small = f"weights {Path(given.reblurrer).name}" if given.reblurrer else "the paper's size, 10.4 M parameters"
    text = "\n".join(
        [
            "# What each stage of the inner update costs",
            "",
            f"Patches of {given.side}x{given.side}, one a step; deblurrer {given.model}, reblurring network: {small}, "
            f"the small critic; {given.threads} thread(s), best of {given.rounds}. {given.note}".rstrip(),
            "",
            markdown(lines),
            "",
            f"Release, measured on two cores: {RELEASE['step of the reblurrer']} s a step of the reblurrer, "
            f"{RELEASE['step of the deblurrer']} s a step of the deblurrer, {RELEASE_GB[0]:g} to {RELEASE_GB[1]:g} GB.",
            "",
            f"Machine: {describe_machine()}. Versions: {versions()} ({provenance()}).",
            "",
            "Made by `python benchmarks/inner_update_cost.py`; its head says how each figure is taken.",
            "",
        ]
    )
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(given.out, text.encode())
    print(text)


if __name__ == "__main__":
    main()
