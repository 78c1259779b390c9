"""What each way of going fast is worth, as ratios within one run; and how near ``lite`` comes to the machine's peak.

Run:  python benchmarks/speed.py -o docs/results [--parts support pipeline ...] [--rounds 5] [--threads 2] [--small]

  support        choosing the support set, against reading every frame again for each place
  pipeline       a video of 640x360 restored with and without decoding and encoding beside the network; what share of
                 the time the network has
  threads        one thread against two: restoring a frame, and a gradient step
  precision      bf16 against fp32, channels-last against channels first
  tiles          frames cut into tiles against whole ones
  checkpointing  a gradient step with and without gradient checkpointing: seconds and memory
  peak           multiply-adds a second of ``lite``, against the best that convolutions reach here; what eats the rest

All ways of a part take turns in every round, so that a busy machine slows all of them alike; the ratio is taken within
each round, and its median, least and most over the rounds are given. Each part is written to speed.json in the folder
as soon as it is done, beside what earlier runs wrote for other parts, and speed.md is made from that. ``--small`` takes
tiny sizes, to see that everything runs: its figures mean nothing.

With ``--before CHECKOUT`` (a folder or a commit) an older version of the project is measured against this one instead,
see before_after.py; that is written to speed_before_after.json and speed_before_after.md.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import before_after
import torch
from convolution_peak import measure_peak
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from metadeblur.adaptation.places import choose_support
from metadeblur.adaptation.stages import AdaptSettings
from metadeblur.clip import Clip
from metadeblur.data.pairs import read_picture
from metadeblur.evaluation.tables import markdown
from metadeblur.imaging.quality import psnr
from metadeblur.imaging.sharpness import self_shift_score
from metadeblur.models.forward import own_loss
from metadeblur.models.registry import traits
from metadeblur.models.weights import load_deblurrer
from metadeblur.pipeline.outputs import Job
from metadeblur.pipeline.run import RunSettings, restore_file
from metadeblur.pipeline.speed import moving
from metadeblur.restoration.prefetching import pays
from metadeblur.restoration.restorer import Restorer, RestoreSettings
from metadeblur.system.device import has_native_bf16
from metadeblur.system.json_files import commit, plain, versions, write_whole
from metadeblur.system.machine import describe_machine
from metadeblur.system.memory import peak_bytes
from metadeblur.video import read_clip, write_clip

Ways = dict[str, Callable[[], Any]]
Part = dict[str, Any]  # "title", "about", "tables": each lines of cells, "notes"; plain JSON values


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    frame: tuple[int, int] = (720, 1280)  # height, width
    video: tuple[int, int] = (360, 640)
    frames: int = 24  # of the video, and of the clip that the support set is chosen from
    patch: int = 256  # of a gradient step and of the support set
    places: int = 20  # of the support set
    tiles: tuple[int, ...] = (512, 256)


SMALL = Sizes((96, 128), (96, 128), 5, 32, 2, (64,))


def take_turns(ways: Ways, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, run in ways.items():
            began = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio_table(seconds: dict[str, list[float]], reference: str, more: dict[str, str] | None = None) -> list[list[str]]:
    """One line a way: median seconds, and how many times as fast as the reference it is, round by round."""
    lines = [["way", "s, median (least to most)", f"times as fast as: {reference}", *(["besides"] if more else [])]]
    for name, series in seconds.items():
        ratios = [slow / fast for slow, fast in zip(seconds[reference], series, strict=True)]
        lines.append([name, spread(series, ".3g"), spread(ratios, ".2f"), *([more.get(name, "")] if more else [])])
    return lines


def spread(values: Sequence[float], digits: str) -> str:
    """The median, with the least and the most."""
    middle, low, high = (format(value, digits) for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({low} to {high})"


def support(sizes: Sizes, rounds: int) -> Part:
    height, width = sizes.frame
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "frames"
        write_clip(Clip(moving(sizes.frames, height, width)), folder)
        paths = sorted(folder.iterdir())

        def ours(method: str) -> object:
            generator = torch.Generator().manual_seed(0)
            return choose_support(
                read_clip(folder), pairs=sizes.places, patch=sizes.patch, method=method, generator=generator
            )

        def straightforward() -> list[int]:
            """For each place in turn every frame is decoded, cut and scored; the lowest score is the sharpest."""
            generator = torch.Generator().manual_seed(0)
            tops = torch.randint(0, height - sizes.patch + 1, (sizes.places,), generator=generator).tolist()
            lefts = torch.randint(0, width - sizes.patch + 1, (sizes.places,), generator=generator).tolist()
            sharpest = []
            for top, left in zip(tops, lefts, strict=True):
                scores = []
                for path in paths:
                    frame = torch.from_numpy(read_picture(path)).permute(2, 0, 1).float() / 255
                    scores.append(self_shift_score(frame[:, top : top + sizes.patch, left : left + sizes.patch]))
                sharpest.append(int(torch.stack(scores).argmin()))
            return sharpest

        ways: Ways = {
            "straightforward": straightforward,
            "one pass, random places": partial(ours, "random"),
            "one pass, guided choice with optical flow": partial(ours, "guided"),
        }
        seconds = take_turns(ways, rounds)
    about = (
        f"{sizes.places} places of {sizes.patch}x{sizes.patch} in {sizes.frames} frames of {width}x{height} (PNG). The "
        "straightforward way decodes, cuts and scores every frame anew for each of its places; one pass scores 400 "
        "candidates with integral images while each frame is decoded once, and chooses among them; guided is the "
        "default."
    )
    return {
        "title": "Choosing the support set",
        "about": about,
        "tables": [ratio_table(seconds, "straightforward")],
        "seconds": seconds,
    }


@contextmanager
def beside(together: bool) -> Iterator[None]:
    """Decoding and encoding beside the network, or in turn with it, whatever would be chosen."""
    rooms = [room for name, room in sys.modules.items() if name.startswith("metadeblur")]
    changed = [room for room in rooms if vars(room).get("pays") is pays]
    try:
        for room in changed:
            room.pays = lambda _: together  # type: ignore[attr-defined]
        yield
    finally:
        for room in changed:
            room.pays = pays  # type: ignore[attr-defined]


@contextmanager
def watched(name: str) -> Iterator[list[float]]:
    """The seconds of every call of a method of the restorer."""
    method, spent = getattr(Restorer, name), []

    def timed(self: Restorer, *values: Tensor) -> Tensor:
        began = time.perf_counter()
        result: Tensor = method(self, *values)
        spent.append(time.perf_counter() - began)
        return result

    try:
        setattr(Restorer, name, timed)
        yield spent
    finally:
        setattr(Restorer, name, method)


def pipeline(sizes: Sizes, rounds: int) -> Part:
    height, width = sizes.video
    net, kept = load_deblurrer("lite"), []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "video.mp4"
        write_clip(Clip(moving(sizes.frames, height, width), fps=30), source)

        def restored() -> dict[str, float]:
            settings = RunSettings(adapt=False, adaptation=AdaptSettings(guard=False))
            with watched("restored") as whole, watched("_forward") as inside:
                record = restore_file(Job(source, Path(folder) / "restored.mp4"), net, settings)
            spent = record.seconds
            return {
                "restore": spent["restore"],
                "total": spent["total"],
                "frames": sum(whole),
                "layers": sum(inside[-sizes.frames :]),
            }

        def side_by_side() -> None:
            with beside(True):
                kept.append({"way": "side by side", **restored()})

        def in_turn() -> None:
            with beside(False):
                kept.append({"way": "one after the other", **restored()})

        seconds = take_turns({"one after the other": in_turn, "side by side": side_by_side}, rounds)
    lines = [
        ["way", "s a frame, restoring", "share: motion, samples and network", "share: layers alone", "of the whole run"]
    ]
    for way in seconds:
        runs = [run for run in kept if run["way"] == way][1:]
        shares = [
            spread([100 * run[part] / run[of] for run in runs], ".0f") + " %"
            for part, of in (("frames", "restore"), ("layers", "restore"), ("frames", "total"))
        ]
        lines.append([way, spread([run["restore"] / sizes.frames for run in runs], ".3g"), *shares])
    about = (
        f"A video of {sizes.frames} frames of {width}x{height} (H.264), restored with `lite` without adapting, written "
        "as by default. Side by side: frames are decoded ahead of the network and encoded behind it; "
        "by default only where PyTorch leaves processors free. The shares are "
        "those of the time of restoring that is spent inside the restorer (optical flow, samples along it, the "
        "network's layers), and of the whole run with looking through the file and joining it."
    )
    return {
        "title": "Decoding and encoding beside the network",
        "about": about,
        "tables": [ratio_table(seconds, "one after the other"), lines],
        "runs": kept,
    }


def window_of(sizes: Sizes) -> Tensor:
    return moving(traits(load_deblurrer("lite")).frames, *sizes.frame)


def restorer(sizes: Sizes, **settings: Any) -> Callable[[], Tensor]:
    """Restores one frame each time it is called."""
    made = Restorer(load_deblurrer("lite"), *sizes.frame, RestoreSettings(device="cpu", **settings))
    return partial(made, window_of(sizes))


def native() -> str:
    return "bf16" if has_native_bf16(torch.device("cpu")) else "fp32"


def gradient_step(net: nn.Module, sizes: Sizes) -> Callable[[], Tensor]:
    """One step of ``net`` itself as adapting takes it, without Adam's update; returns the loss."""
    settings = AdaptSettings()
    frames = traits(net).frames
    sharp = moving(frames, sizes.patch, sizes.patch)[None].repeat(settings.batch, 1, 1, 1, 1)
    net.requires_grad_(True)

    def step() -> Tensor:
        net.zero_grad(set_to_none=True)
        loss = own_loss(net, sharp * 0.9, sharp[:, frames // 2], bf16=native() == "bf16")
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    return step


def threads(sizes: Sizes, rounds: int) -> Part:
    before = torch.get_num_threads()
    frame, step = restorer(sizes, tile=0), gradient_step(load_deblurrer("lite"), sizes)

    def on(count: int, run: Callable[[], object]) -> None:
        torch.set_num_threads(count)
        run()

    try:
        frames = take_turns({f"{count} of them": partial(on, count, frame) for count in (1, 2)}, rounds)
        steps = take_turns({f"{count} of them": partial(on, count, step) for count in (1, 2)}, rounds)
    finally:
        torch.set_num_threads(before)
    height, width = sizes.frame
    about = (
        f"First: a frame of {width}x{height}. Second: a gradient step on {AdaptSettings().batch} patches of "
        f"{sizes.patch}x{sizes.patch}. Both with `lite`, {native()}."
    )
    tables = [ratio_table(seconds, "1 of them") for seconds in (frames, steps)]
    return {"title": "Threads", "about": about, "tables": tables, "seconds": {"frame": frames, "step": steps}}


def precision(sizes: Sizes, rounds: int) -> Part:
    net, window = load_deblurrer("lite"), window_of(sizes)[None]

    def plain_way(bf16: bool, last: bool) -> Callable[[], Tensor]:
        layout = torch.channels_last if last else torch.contiguous_format
        moved = copy.deepcopy(net).to(memory_format=layout)  # type: ignore[call-overload]

        def run() -> Tensor:
            with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                ready = moved.prepare_window(window).contiguous(memory_format=layout)
                return moved.deblur_prepared(ready).float().clamp(0, 1)

        return run

    names = {(bf16, last): f"{'bf16' if bf16 else 'fp32'}, channels {'last' if last else 'first'}"
             for bf16 in (False, True) for last in (False, True)}  # fmt: skip
    ways = {name: plain_way(*kind) for kind, name in names.items()}
    exact = ways["fp32, channels first"]()
    seconds = take_turns(ways, rounds)
    others = {name: run for name, run in ways.items() if name != "fp32, channels first"}
    differences = {name: f"{float(psnr(run(), exact)):.0f} dB" for name, run in others.items()}
    height, width = sizes.frame
    about = (
        f"A frame of {width}x{height} with `lite`, motion and samples included. Besides: PSNR of the picture against "
        f"that of the first way. bf16 is {'native' if native() == 'bf16' else 'NOT native'} here."
    )
    tables = [ratio_table(seconds, "fp32, channels first", differences)]
    return {"title": "bf16 against fp32", "about": about, "tables": tables, "seconds": seconds}


def tiles(sizes: Sizes, rounds: int) -> Part:
    ways: Ways = {"whole": restorer(sizes, tile=0, precision=native())}
    ways |= {f"tiles of {side}": restorer(sizes, tile=side, precision=native()) for side in sizes.tiles}
    seconds = take_turns(ways, rounds)
    margins = {name: f"margin {run.func.margin} px" for name, run in ways.items() if run.func.tile}
    height, width = sizes.frame
    about = (
        f"A frame of {width}x{height} with `lite`, {native()}; every tile also sees a margin as wide as the network's "
        "reach, measured on the frame."
    )
    tables = [ratio_table(seconds, "whole", margins)]
    return {"title": "Tiles against whole frames", "about": about, "tables": tables, "seconds": seconds}


def checkpointed(net: nn.Module) -> nn.Module:
    """A copy of ``lite`` that keeps the input of each stage only, and works its inside out again for the gradient."""
    net = copy.deepcopy(net)
    for stage in (*net.encoder, *net.decoder):  # type: ignore[misc]
        stage.forward = partial(checkpoint, stage.forward, use_reentrant=False)
    return net


def checkpointing(sizes: Sizes, rounds: int) -> Part:
    nets = {"whole": load_deblurrer("lite")}
    nets["checkpointed"] = checkpointed(nets["whole"])
    steps = {name: gradient_step(net, sizes) for name, net in nets.items()}
    seconds = take_turns(steps, rounds)
    memory = {name: peak_bytes(step, torch.device("cpu")) / 2**20 for name, step in steps.items()}
    gradients = [torch.cat([weight.grad.flatten() for weight in net.parameters()]) for net in nets.values()]
    apart = float((gradients[0] - gradients[1]).norm() / gradients[0].norm())
    about = (
        f"A gradient step of `lite` on {AdaptSettings().batch} patches of {sizes.patch}x{sizes.patch}, {native()}; "
        "checkpointed: of each stage of residual blocks only the input is kept. Besides: the most that its tensors "
        "hold at once, and half as much again for what convolution libraries take. The gradients differ by "
        f"{apart:.1e} of their length. MAXIM, which has this switch: [maxim.md](maxim.md)."
    )
    tables = [ratio_table(seconds, "whole", {name: f"{size:.0f} MB" for name, size in memory.items()})]
    figures = {"seconds": seconds, "memory_mb": memory, "gradients_apart": apart}
    return {"title": "Gradient checkpointing", "about": about, "tables": tables, **figures}


def peak(sizes: Sizes, rounds: int) -> Part:
    return measure_peak(load_deblurrer("lite"), window_of(sizes), rounds)


PARTS: dict[str, Callable[[Sizes, int], Part]] = {
    part.__name__: part for part in (support, pipeline, threads, precision, tiles, checkpointing, peak)
}


def page(parts: dict[str, Part]) -> str:
    """speed.md, from what speed.json holds."""
    lines = ["# Speed, side by side", ""]
    lines += ["Ratios within one run each, the ways taking turns in every round: median (least to most round).", ""]
    for name in PARTS:
        if name in parts:
            part = parts[name]
            lines += [f"## {part['title']}", "", part["about"], ""]
            lines += ["**Tiny sizes: these figures mean nothing.**", ""] if part["small"] else []
            for table in part["tables"]:
                lines += [markdown(table), ""]
            lines += [*part.get("notes", []), *([""] if part.get("notes") else [])]
            host, said = part["machine"], part["versions"]
            lines += [
                f"{host['processor']}, {host['cpus']} processors, {part['threads']} thread(s); PyTorch "
                f"{said['torch']}, Python {said['python']}; metadeblur {said['metadeblur']}, commit {part['commit']}; "
                f"{part['rounds']} rounds." + (f" {part['note']}" if part["note"] else ""),
                "",
            ]
    lines += [
        "Made by `python benchmarks/speed.py -o docs/results`; its head says how each figure is taken. All runs are in",
        "`speed.json`.",
    ]
    return "\n".join(lines) + "\n"


def compare_versions(given: argparse.Namespace) -> None:
    """An older version against this one, to files of their own."""
    if before_after.limits():
        print("this processor has more than AVX2: PyTorch is held to AVX2")
    found = before_after.compare(given.before, given.rounds, given.lines, small=given.small)
    found |= {"machine": describe_machine(), "versions": versions(), "note": given.note}
    given.out.mkdir(parents=True, exist_ok=True)
    write_whole(given.out / "speed_before_after.json", (json.dumps(plain(found), indent=1) + "\n").encode())
    write_whole(given.out / "speed_before_after.md", before_after.page(found).encode())
    print(markdown(before_after.table(found)))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", dest="out", type=Path, required=True, help="folder of speed.json and speed.md")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--note", default="", help="what else ran on the machine")
    parser.add_argument("--before", metavar="CHECKOUT", help="an older version to compare with: a folder, or a commit")
    lines = list(before_after.MEASUREMENTS)
    parser.add_argument("--lines", nargs="+", choices=lines, default=lines, help="with --before: what is compared")
    given = parser.parse_args(argv)
    if given.before is not None:
        compare_versions(given)
        return
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "speed.json"
    for name in given.parts:
        part = PARTS[name](SMALL if given.small else Sizes(), given.rounds)
        about = {"machine": describe_machine(), "versions": versions(), "commit": commit(), "note": given.note}
        part |= {**about, "threads": given.threads, "rounds": given.rounds, "small": given.small}
        parts = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        parts[name] = plain(part)
        write_whole(file, (json.dumps(parts, indent=1) + "\n").encode())
        write_whole(given.out / "speed.md", page(parts).encode())
        print(f"## {part['title']}\n\n" + "\n\n".join(markdown(table) for table in part["tables"]) + "\n", flush=True)


if __name__ == "__main__":
    main()
