"""What a GPU makes of it: frames a second by stage, adapting, training, memory, and whether the results are the same.

Run:  python benchmarks/gpu.py                  (on a machine with a GPU; under eight minutes on one H200)
      python benchmarks/gpu.py --smoke          (on the processor, tiny sizes, about a minute: only to see that it runs)

Nothing is downloaded: clips are filmed from photographs of the package, and what trains learns from clips made of them.
Parts, each within its own share of the time: *results* (a built-in clip restored on the device and on the processor,
both against the truth, and the flow of both), *restore* (1280x720 by stage: network, fusing, correcting, and a whole
file with decoding and encoding; fp32, bf16, compiled), *adapt* (100 frames of 640x360), *stages* (what surrounds
learning, piece by piece, on the processor and on the device: places, motion and exposure, noise, a pair, votes,
brightness), *train* (steps a second of ``lite`` and of the published reblurring network). A part that fails is said,
and the others run all the same. Writes gpu.json and gpu.md into the output folder; with --smoke only into a folder that
is given, never over the documents.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from metadeblur import Clip, load_deblurrer, restore, write_clip
from metadeblur.adaptation.places import choose_support
from metadeblur.adaptation.settings import AdaptSettings
from metadeblur.adaptation.stages import adapt
from metadeblur.data.settings import SynthSettings
from metadeblur.data.synthesis import synthesize
from metadeblur.evaluation import builtin
from metadeblur.guard.votes import GuardSettings, choose_samples, look_at
from metadeblur.imaging.brightness import matched_window
from metadeblur.imaging.motion import ClipMotion
from metadeblur.imaging.noise import estimate_noise
from metadeblur.imaging.optical_flow import window_flows
from metadeblur.imaging.quality import psnr
from metadeblur.models.adapted import FusionSettings, with_fusion
from metadeblur.pipeline.outputs import plan
from metadeblur.pipeline.run import RunSettings, restore_file
from metadeblur.reblur.exposure import estimate_exposure
from metadeblur.reblur.fitting import NetworkReblurrer
from metadeblur.reblur.flow import fit_flow_reblurrer
from metadeblur.restoration.clips import restore_frames
from metadeblur.restoration.restorer import Restorer, RestoreSettings
from metadeblur.system.device import choose_device, has_native_bf16
from metadeblur.system.json_files import provenance
from metadeblur.system.machine import describe_machine
from metadeblur.training.deblur import DeblurTrainee, new_network
from metadeblur.training.reblur import ReblurTrainee
from metadeblur.training.reblur import new_network as new_reblurrer
from metadeblur.training.settings import DeblurTraining, ReblurTraining
from metadeblur.training.workers import TrainingProcess

DOCUMENTS = Path(__file__).parents[1] / "docs" / "results"
AIM_FRAMES, AIM_ADAPT = 25.0, 15.0  # frames a second of 1280x720, seconds for adapting to 100 frames
EXPOSURE = 0.8  # frame intervals, of the clips that are filmed here


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    height: int = 720
    width: int = 1280
    frames: int = 48
    adapt: tuple[int, int, int] = (100, 360, 640)  # frames, height, width
    steps: int | None = None  # of adapting; none: the usual
    training: int = 40  # steps measured
    patch: int = 160
    seconds: float = 60.0  # that a measurement of frames may take


SMOKE = Sizes(64, 96, 4, (6, 64, 96), 1, 1, 48, 60.0)


def filmed(frames: int, height: int, width: int) -> Clip:
    """A clip of a photograph that a shaken camera films, blurred along its motion."""
    photograph = torch.from_numpy(builtin.photograph("demo")).permute(2, 0, 1).float() / 255
    scale = 1.25 * max(height / photograph.shape[1], width / photograph.shape[2])
    large = nn.functional.interpolate(photograph[None], scale_factor=scale, mode="bicubic")[0].clamp(0, 1)
    rows, columns = large.shape[1] - height, large.shape[2] - width
    pictures = []
    for number in range(frames):
        seen = []
        for part in np.linspace(-EXPOSURE / 2, EXPOSURE / 2, 9):
            top = round(rows * (0.5 + 0.4 * np.sin((number + part) / 4)))
            left = round(columns * (0.5 + 0.4 * np.cos((number + part) / 5)))
            seen.append(large[:, top : top + height, left : left + width])
        pictures.append(torch.stack(seen).mean(0))
    return Clip(torch.stack(pictures), name="filmed")


class Meter:
    """Seconds and memory of work on a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type != "cpu":
            torch.get_device_module(self.device).synchronize()

    def seconds(self, work: Callable[[], object]) -> float:
        """The time that a piece of work takes, to its very end."""
        self.wait()
        began = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - began

    def memory_mb(self, work: Callable[[], object]) -> float | None:
        """The most that PyTorch holds on a GPU meanwhile, MB."""
        if self.device.type not in ("cuda", "xpu"):
            return None
        module: Any = torch.get_device_module(self.device)
        module.reset_peak_memory_stats(self.device)
        work()
        self.wait()
        return round(module.max_memory_allocated(self.device) / 2**20, 1)


def measure_results(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """A built-in clip on the device and on the processor: both against the truth, and against each other."""
    names = ("shake", "object", "mixed") if sizes.height > SMOKE.height else ("shake",)
    found = {}
    for clip in builtin.CLIPS:
        if clip.name not in names:
            continue
        pairs = list(builtin.film(clip))[: 16 if sizes.height > SMOKE.height else 4]
        blurred, sharp = (
            torch.from_numpy(np.stack([pair[side] for pair in pairs])).permute(0, 3, 1, 2).float() / 255
            for side in (0, 1)
        )
        fusion = FusionSettings(exposure=clip.exposure)
        restored = {
            place: restore(
                with_fusion(load_deblurrer("lite"), fusion),
                Clip(blurred),
                RestoreSettings(tile=0, precision="fp32", device=place),
            ).frames
            for place in ("cpu", str(device))
        }
        truth = [float(psnr(frames, sharp).mean()) for frames in restored.values()]
        window = blurred[1:4]
        flows = [window_flows(window.to(place)).cpu() for place in restored]
        apart = (flows[0][:, :2] - flows[-1][:, :2]).square().sum(1).sqrt().mean()
        found[clip.name] = {
            "blurred": round(float(psnr(blurred, sharp).mean()), 3),
            "cpu": round(truth[0], 3),
            "device": round(truth[-1], 3),
            "flow_apart_px": round(float(apart), 3),
        }
    return found


def measure_restore(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """Frames a second of 1280x720: each way of computing, by what is done to a frame."""
    clip, meter = filmed(sizes.frames, sizes.height, sizes.width), Meter(device)
    precisions = ["fp32"] + (["bf16"] if has_native_bf16(device) or sizes is SMOKE else [])
    ways = {
        "network": None,
        "network, fused": FusionSettings(),
        "network, fused, corrected": FusionSettings(exposure=EXPOSURE),
    }
    found: dict[str, Any] = {"ways": []}
    for precision in precisions:
        for name, fusion in ways.items():
            net = with_fusion(load_deblurrer("lite"), fusion)
            found["ways"].append(
                {"what": f"{name}, {precision}", **frames_a_second(net, clip, precision, meter, sizes)}
            )
    # What the compiler makes of the convolutions; the motion stays outside of it.
    net = load_deblurrer("lite").to(device).eval()
    compiled: Any = net
    compiled.deblur_prepared = torch.compile(net.deblur_prepared)
    found["ways"].append(
        {
            "what": f"network, {precisions[-1]}, compiled",
            **frames_a_second(compiled, clip, precisions[-1], meter, sizes),
        }
    )
    window = clip.window(2, 5).to(device)
    window_flows(window)
    found["flow_seconds_a_window"] = round(
        statistics.median(meter.seconds(lambda: window_flows(window)) for _ in range(5)), 5
    )
    found["file"] = measure_file(device, clip)
    return found


def frames_a_second(net: nn.Module, clip: Clip, precision: Any, meter: Meter, sizes: Sizes) -> dict[str, Any]:
    """Frames a second of a clip in memory, and the most memory held."""
    settings = RestoreSettings(precision=precision, device=meter.device)
    restorer = Restorer(net, clip.height, clip.width, settings)

    def run(frames: int) -> None:
        began = time.perf_counter()
        for _ in restore_frames(restorer, clip.part(0, frames)):
            if time.perf_counter() - began > sizes.seconds:
                raise TimeoutError(f"more than {sizes.seconds:g} s for {frames} frames")

    warm = min(8, len(clip))
    run(warm)  # chooses the tile, and makes the device's own preparations
    seconds = meter.seconds(lambda: run(len(clip)))
    return {
        "frames_a_second": round(len(clip) / seconds, 2),
        "memory_mb": meter.memory_mb(lambda: run(warm)),
        "tile": restorer.tile,
    }


def measure_file(device: torch.device, clip: Clip) -> dict[str, Any]:
    """A whole file with decoding and encoding, the base network, fused under no votes."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "clip.mp4"
        write_clip(clip, source)
        job = plan([source], Path(folder) / "out.mp4")[0]
        restoration = RestoreSettings(device=device)
        settings = RunSettings(adapt=False, restoration=restoration, adaptation=AdaptSettings(device=device))
        began = time.perf_counter()
        record = restore_file(job, load_deblurrer("lite"), settings, model="lite")
        seconds = time.perf_counter() - began
    return {"frames_a_second": round(len(clip) / seconds, 2), "seconds": {**record.seconds}}


def measure_adapt(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """Adapting to a clip: seconds and memory by stage."""
    frames, height, width = sizes.adapt
    clip, meter = filmed(frames, height, width), Meter(device)
    settings = AdaptSettings(device=device)
    if sizes.steps is not None:
        settings = replace(settings, steps=sizes.steps, pairs=1, blurs=1, batch=1, patch=sizes.patch, guard=False)
    outcomes = []
    seconds = meter.seconds(lambda: outcomes.append(adapt(load_deblurrer("lite"), clip, settings=settings)))
    outcome = outcomes[0]
    return {
        "clip": f"{frames} frames of {width}x{height}",
        "seconds": round(seconds, 2),
        "stages": {name: round(value, 2) for name, value in outcome.seconds.items()},
        "memory_mb": outcome.memory_mb,
        "share": outcome.share,
    }


def measure_stages(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """Seconds of what surrounds learning, on the processor and on the device."""
    frames, height, width = sizes.adapt
    clip = filmed(min(frames, 24), height, width)
    places = {"processor": torch.device("cpu"), "device": device}
    return {name: stage_seconds(clip.to(place), Meter(place), sizes) for name, place in places.items()}


def stage_seconds(clip: Clip, meter: Meter, sizes: Sizes) -> dict[str, float]:
    """Seconds of each stage where a clip's frames are; each is done once before it is measured."""

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    support = choose_support(clip, pairs=2, patch=sizes.patch, generator=generator())
    place, flow = support.train[0], fit_flow_reblurrer(clip, generator=generator(), exposure=EXPOSURE)
    samples = choose_samples(clip, 5, GuardSettings(spots=1))
    restored = [(1.2 * sample.blurred - 0.1).clamp(0, 1) for sample in samples]
    window = clip.window(2, 5)
    window[3:] *= 0.8
    stages: dict[str, Callable[[], object]] = {
        "choosing places": lambda: choose_support(clip, patch=sizes.patch, generator=generator()),
        "motion and exposure": lambda: estimate_exposure(ClipMotion(clip)),
        "noise of six frames": lambda: estimate_noise([clip[number] for number in range(min(6, len(clip)))]),
        "a pair, five frames": lambda: flow.reblur_window(clip, place, 5, generator()),
        "votes at one place": lambda: look_at(samples, restored, flow),
        "a window of two brightnesses": lambda: matched_window(window),
    }
    seconds = {}
    for name, work in stages.items():
        work()
        seconds[name] = round(statistics.median(meter.seconds(work) for _ in range(3)), 4)
    return seconds


def measure_train(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """Steps a second of two trainings, on clips that are made first."""
    meter = Meter(device)
    small = sizes is SMOKE
    with tempfile.TemporaryDirectory() as folder:
        side = 96 if small else 320
        synth = SynthSettings(clips=2 if small else 12, frames=6, width=side * 4 // 3, height=side)
        synthesize(_photographs(), Path(folder) / "clips", synth)
        clips = (str(Path(folder) / "clips"),)
        lite = DeblurTraining(clips=clips, patch=sizes.patch, batch=2 if small else 8, precision="bf16")
        reblur = ReblurTraining(clips=clips, patch=48 if small else 256, batch=1 if small else 8, precision="auto")
        if small:
            reblur = replace(reblur, channels=4, width=16, blocks=1, heads=1, units=1, critic_channels=(4, 4))
        makers: dict[str, Callable[[], Any]] = {
            "lite": lambda: DeblurTrainee(new_network(lite), lite, device),
            "reblurring network": lambda: ReblurTrainee(
                NetworkReblurrer(new_reblurrer(reblur)), reblur, TrainingProcess(device)
            ),
        }
        return {name: steps_a_second(make, meter, sizes) for name, make in makers.items()}


def _photographs() -> Sequence[Path]:
    return sorted(Path(str(resources.files("metadeblur") / "assets" / "photographs")).glob("*.jpg"))


def steps_a_second(make: Callable[[], Any], meter: Meter, sizes: Sizes) -> dict[str, Any]:
    """Gradient steps a second of one training, its data included, and the most memory held."""
    trainee = make()
    numbers = iter(range(1, 1_000_000))
    for _ in range(2):
        trainee.step(next(numbers), 1.0)
    seconds = meter.seconds(lambda: [trainee.step(next(numbers), 1.0) for _ in range(sizes.training)])
    memory = meter.memory_mb(lambda: trainee.step(next(numbers), 1.0))
    return {"steps_a_second": round(sizes.training / seconds, 3), "memory_mb": memory}


PARTS: dict[str, Callable[[torch.device, Sizes], dict[str, Any]]] = {
    "results": measure_results,
    "restore": measure_restore,
    "adapt": measure_adapt,
    "stages": measure_stages,
    "train": measure_train,
}


def page(found: dict[str, Any], *, smoke: bool) -> str:
    """The figures as a page of the documents."""
    machine = found["machine"]
    lines = ["# On a GPU", ""]
    if smoke:
        lines += ["**Tiny sizes, only to see that the benchmark runs: these figures mean nothing.**", ""]
    lines += [
        f"Measured on {machine['gpu'] or machine['processor']}, PyTorch {found['torch']}, with `benchmarks/gpu.py`, in "
        f"{found['seconds']:.0f} s, {provenance()}. Aims: {AIM_FRAMES:g} frames of 1280x720 a second; 100 frames "
        f"adapted to in {AIM_ADAPT:g} s.",
        "",
    ]
    for name in PARTS:
        part = found.get(name, {})
        lines += [f"## {name.capitalize()}", "", *_tables(name, part), ""]
    return "\n".join(lines)


def _tables(name: str, part: dict[str, Any]) -> list[str]:
    if "failed" in part or not part:
        return [f"Not measured: {part.get('failed', 'left out')}"]
    if name == "results":
        head = ["| clip | blurred | processor | device | flows apart, px |", "| --- | ---: | ---: | ---: | ---: |"]
        return head + [
            f"| {clip} | {row['blurred']:.2f} | {row['cpu']:.2f} | {row['device']:.2f} | {row['flow_apart_px']:.2f} |"
            for clip, row in part.items()
        ]
    if name == "restore":
        rows = [
            f"| {row['what']} | {row['frames_a_second']:.1f} | {_memory(row['memory_mb'])} |" for row in part["ways"]
        ]
        rows.append(f"| a file, decoded and encoded | {part['file']['frames_a_second']:.1f} | - |")
        return [
            "| what | frames a second | memory, MB |",
            "| --- | ---: | ---: |",
            *rows,
            "",
            f"The flows of one window: {1000 * part['flow_seconds_a_window']:.1f} ms.",
        ]
    if name == "adapt":
        rows = [
            f"| {stage} | {seconds:.2f} | {_memory(part['memory_mb'].get(stage))} |"
            for stage, seconds in part["stages"].items()
        ]
        return [
            f"{part['clip']}: {part['seconds']:.1f} s in all.",
            "",
            "| stage | seconds | memory, MB |",
            "| --- | ---: | ---: |",
            *rows,
        ]
    if name == "stages":
        rows = [
            f"| {stage} | {seconds:.4f} | {part['device'][stage]:.4f} |" for stage, seconds in part["processor"].items()
        ]
        return ["| stage | processor, s | device, s |", "| --- | ---: | ---: |", *rows]
    return ["| network | steps a second | memory, MB |", "| --- | ---: | ---: |"] + [
        f"| {network} | {row['steps_a_second']:.2f} | {_memory(row['memory_mb'])} |" for network, row in part.items()
    ]


def _memory(megabytes: float | None) -> str:
    return "-" if megabytes is None else f"{megabytes:.0f}"


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes on the processor, to see that it runs")
    parser.add_argument("--device", default=None, help="default: cuda, or with --smoke the processor")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("-o", "--output", type=Path, default=None, help="default: docs/results; with --smoke: none")
    words = parser.parse_args()
    if words.smoke and words.output is not None and words.output.resolve() == DOCUMENTS:
        parser.error("--smoke does not write over the documents; give another folder with -o, or none")
    device = choose_device(words.device or ("cpu" if words.smoke else "cuda"))
    output = words.output if words.smoke else words.output or DOCUMENTS
    sizes = SMOKE if words.smoke else Sizes()
    began = time.perf_counter()
    found: dict[str, Any] = {"machine": describe_machine(), "torch": torch.__version__, "device": str(device)}
    for name in words.parts:
        start = time.perf_counter()
        try:
            found[name] = PARTS[name](device, sizes)
        except Exception as error:  # one part that fails must not take the others' minutes along
            traceback.print_exc()
            found[name] = {"failed": f"{type(error).__name__}: {error}"}
        print(f"{name}: {time.perf_counter() - start:.1f} s", flush=True)
        found["seconds"] = time.perf_counter() - began
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            (output / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")
            (output / "gpu.md").write_text(page(found, smoke=words.smoke))
    print(page(found, smoke=words.smoke))
    if any("failed" in found[name] for name in words.parts):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
