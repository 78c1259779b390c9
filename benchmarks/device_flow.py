"""OpenCV's flow on the processor against PyTorch's for any device: on known motion, and what restoring makes of them.

Run:  python benchmarks/device_flow.py [-o docs/results]

Two kinds of clips, nothing to download. *Warped*: photographs that ship with the package, read along a known field of
displacements (shifts, turns and zooms, waves, a thing that moves before the rest), 1 to 30 px long. *Filmed*: the
built-in clips and clips drawn by the synthesiser, whose camera and things move on known paths, sharp and blurred.
Places that the second frame does not show are left out. The end-point error is the mean length of the difference
between the flow and the truth, in px.

Then five frames in the middle of each built-in clip are restored twice, once with every operation in OpenCV and once
with every operation in PyTorch, the flow among them: PSNR against the truth, of the network's frames and of those
fused and corrected.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from metadeblur import Clip, load_deblurrer, restore
from metadeblur.data.settings import SynthSettings
from metadeblur.data.synthesis import Scene, degrade, random_scene
from metadeblur.evaluation import builtin
from metadeblur.imaging.optical_flow import FAST, MEDIUM, dense_flow
from metadeblur.imaging.primitives import backend
from metadeblur.imaging.quality import psnr
from metadeblur.imaging.torch_flow import torch_flow
from metadeblur.models.adapted import FusionSettings
from metadeblur.restoration.fusion import fuse_frames
from metadeblur.restoration.restorer import RestoreSettings
from metadeblur.system.json_files import provenance

Array = NDArray[Any]

_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "demo", "rocket")
_SIZE = (288, 384)  # height, width of the warped pictures, px
_RESTORED = slice(5, 10)  # frames of the built-in clips
_LENGTHS = (1.0, 3.0, 8.0, 16.0, 30.0)  # px: the longest displacement


@dataclass(frozen=True)
class Case:
    """Two grey pictures and the true flow between them."""

    group: str
    source: Array  # (h, w) uint8
    target: Array
    truth: Array  # (h, w, 2)
    seen: Array  # (h, w) bool: where the second shows what the first does


def warped_cases() -> Iterator[Case]:
    """Photographs read along known fields."""
    rng = np.random.default_rng(0)
    height, width = _SIZE
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    for name in _PHOTOGRAPHS:
        picture = _grey(builtin.photograph(name))
        scale = max(height / picture.shape[0], width / picture.shape[1], 0.5)
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[:height, :width]
        for longest in _LENGTHS:
            for kind, field in _fields(rng, rows, columns).items():
                truth = field * np.float32(longest / np.hypot(*np.moveaxis(field, -1, 0)).max())
                x, y = columns + truth[..., 0], rows + truth[..., 1]
                source = cv2.remap(picture.astype(np.float32), x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
                inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
                pair = [part + rng.normal(0, 1, _SIZE) for part in (source, picture)]
                levels = [np.clip(np.rint(part), 0, 255).astype(np.uint8) for part in pair]
                yield Case(f"warped, {kind}, {longest:g} px", *levels, truth, inside)


def _fields(rng: np.random.Generator, rows: Array, columns: Array) -> dict[str, Array]:
    """Fields (h, w, 2) of any length."""
    height, width = rows.shape
    across, down = columns / width - 0.5, rows / height - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    shift = np.broadcast_to(np.array([np.cos(angle), np.sin(angle)], np.float32), (height, width, 2))
    turn = np.stack([0.3 * across - down, across + 0.3 * down], -1)
    phases = rng.uniform(0, 2 * np.pi, 4)
    waves = np.stack(
        [
            np.sin(5 * across + phases[0]) + np.sin(7 * down + phases[1]),
            np.sin(6 * across + phases[2]) + np.sin(4 * down + phases[3]),
        ],
        -1,
    )
    thing = (np.hypot(across - rng.uniform(-0.2, 0.2), down - rng.uniform(-0.2, 0.2)) < 0.22)[..., None]
    things = np.where(thing, -shift, 0.4 * shift)
    return {name: part.astype(np.float32) for name, part in _named(shift, turn, waves, things)}


def _named(*fields: Array) -> list[tuple[str, Array]]:
    return list(zip(("shift", "turn and zoom", "waves", "thing"), fields, strict=True))


def filmed_cases() -> Iterator[Case]:
    """Scenes whose camera and things move on known paths."""
    for clip in builtin.CLIPS:
        scene, _ = builtin.staged(clip)
        yield from _filmed(scene, f"built-in {clip.name}", clip.exposure, clip.noise, clip.quality)
    photographs = [builtin.photograph(name) for name in _PHOTOGRAPHS]
    settings = SynthSettings(frames=16, width=320, height=240)
    for number in range(8):
        scene = random_scene(photographs, settings, np.random.default_rng(number))
        yield from _filmed(scene, "drawn", 0.7, 0.004, None)


def _filmed(scene: Scene, name: str, exposure: float, noise: float, quality: int | None) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    for first, second in ((3, 4), (9, 8), (6, 8)):
        truth, seen = scene_flow(scene, first, second)
        frames = [scene.expose(float(number), exposure) for number in (first, second)]
        for kind, side in (("blurred", 0), ("sharp", 1)):
            pair = [degrade(frame[side], noise, quality if side == 0 else None, rng) for frame in frames]
            yield Case(f"filmed {kind}, {name}", _grey(pair[0]), _grey(pair[1]), truth, seen)


def scene_flow(scene: Scene, first: float, second: float) -> tuple[Array, Array]:
    """The flow (h, w, 2) of a scene between two times, and where (h, w) what moves is seen at both."""
    rows, columns = np.mgrid[0 : scene.height, 0 : scene.width].astype(np.float64)
    places = np.stack([columns, rows, np.ones_like(rows)], -1)
    matrices = [scene.placements(time) for time in (first, second)]
    shown = [_topmost(scene, placements) for placements in matrices]
    flow = np.zeros((scene.height, scene.width, 2))
    for number, pair in enumerate(zip(*matrices, strict=True)):
        before, after = (np.vstack([matrix, [0, 0, 1]]) for matrix in pair)
        moved = places @ (after @ np.linalg.inv(before)).T
        flow = np.where((shown[0] == number)[..., None], moved[..., :2] - places[..., :2], flow)
    x, y = columns + flow[..., 0], rows + flow[..., 1]
    inside = (x >= 0) & (y >= 0) & (x <= scene.width - 1) & (y <= scene.height - 1)
    there = shown[1][
        np.clip(np.rint(y), 0, scene.height - 1).astype(int), np.clip(np.rint(x), 0, scene.width - 1).astype(int)
    ]
    return flow.astype(np.float32), inside & (there == shown[0])


def _topmost(scene: Scene, matrices: list[Array]) -> Array:
    """Which of the background (0) and the layers (1 on) each pixel shows."""
    shown = np.zeros((scene.height, scene.width), int)
    for number, (layer, matrix) in enumerate(zip(scene.layers, matrices[1:], strict=True), 1):
        cover = cv2.warpAffine(layer.coverage, matrix, (scene.width, scene.height), flags=cv2.INTER_LINEAR)
        shown[cover > 0.5] = number
    return shown


def _grey(picture: Array) -> Array:
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)


WAYS: dict[str, Callable[[Array, Array], Array]] = {
    "DIS fast": lambda source, target: dense_flow(source, target, FAST),
    "DIS medium": lambda source, target: dense_flow(source, target, MEDIUM),
    "PyTorch": lambda source, target: torch_flow(*(torch.from_numpy(one)[None] for one in (source, target)))[0].numpy(),
}


def error(flow: Array, case: Case) -> float:
    """The end-point error, px."""
    return float(np.hypot(*np.moveaxis(flow - case.truth, -1, 0))[case.seen].mean())


def measure(cases: Iterator[Case]) -> dict[str, Any]:
    """Errors of every way by group of clips, and its seconds a pair."""
    errors: dict[str, list[list[float]]] = {}
    seconds = dict.fromkeys(WAYS, 0.0)
    apart: list[float] = []
    count = 0
    for case in cases:
        row = [float(np.hypot(*np.moveaxis(case.truth, -1, 0))[case.seen].mean())]
        flows = {}
        for name, way in WAYS.items():
            began = time.process_time()
            flows[name] = way(case.source, case.target)
            seconds[name] += time.process_time() - began
            row.append(error(flows[name], case))
        apart.append(float(np.hypot(*np.moveaxis(flows["DIS fast"] - flows["PyTorch"], -1, 0)).mean()))
        count += 1
        for group in (case.group, case.group.split(",")[0], "all"):
            errors.setdefault(group, []).append(row)
    return {
        "pairs": count,
        "errors": {
            group: [round(fmean(column), 3) for column in zip(*rows, strict=True)] for group, rows in errors.items()
        },
        "apart": round(fmean(apart), 4),
        "farthest": round(max(apart), 4),
        "seconds": {name: round(total / count, 3) for name, total in seconds.items()},
    }


def measure_restored() -> dict[str, dict[str, float]]:
    """PSNR of restored frames of the built-in clips by each way, dB."""
    return {clip.name: _restored(clip) for clip in builtin.CLIPS}


def _restored(clip: builtin.BuiltInClip) -> dict[str, float]:
    pairs = list(builtin.film(clip))[_RESTORED]
    blurred, sharp = (
        torch.from_numpy(np.stack([pair[side] for pair in pairs])).permute(0, 3, 1, 2).float() / 255 for side in (0, 1)
    )
    found = {"blurred": float(psnr(blurred, sharp).mean())}
    ways: tuple[Literal["opencv", "torch"], ...] = ("opencv", "torch")
    for way in ways:
        with backend(way):
            settings = RestoreSettings(tile=0, precision="fp32", device="cpu")
            frames = restore(load_deblurrer("lite"), Clip(blurred), settings).frames
            fused = fuse_frames(blurred, frames, FusionSettings(exposure=clip.exposure))
        found[f"network, {way}"] = float(psnr(frames, sharp).mean())
        found[f"fused, {way}"] = float(psnr(fused, sharp).mean())
    return {name: round(value, 3) for name, value in found.items()}


def restored_table(found: dict[str, dict[str, float]]) -> list[str]:
    """The second table of the page."""
    names = ("blurred", "network, opencv", "network, torch", "fused, opencv", "fused, torch")
    rows = [f"| {clip} | {' | '.join(f'{row[name]:.2f}' for name in names)} |" for clip, row in found.items()]
    worst = max(
        row[f"{kind}, opencv"] - row[f"{kind}, torch"] for row in found.values() for kind in ("network", "fused")
    )
    return [
        "## Restored",
        "",
        "Five frames in the middle of each built-in clip, restored with every operation in OpenCV and with every",
        "operation in PyTorch, both on the processor in fp32; mean PSNR against the truth in dB. The most that",
        f"PyTorch's frames are worse by: {max(0.0, worst):.3f} dB. The aim is 0.05 dB.",
        "",
        "| clip | blurred | network, OpenCV | network, PyTorch | fused and corrected, OpenCV | ..., PyTorch |",
        "| --- |" + " ---: |" * len(names),
        *rows,
        "",
    ]


def page(found: dict[str, Any]) -> str:
    """The figures as a page of the documents."""
    names = ["motion", *WAYS]
    rows = [
        f"| {group} | {' | '.join(f'{one:.2f}' for one in row)} |" for group, row in sorted(found["errors"].items())
    ]
    lines = [
        "# Optical flow for any device",
        "",
        "On the processor metadeblur takes OpenCV's DIS, preset fast. On any other device it computes the flow with",
        "PyTorch alone (`metadeblur.imaging.torch_flow`), so that no picture leaves it. Both are measured here",
        f"on {found['pairs']} pairs of pictures whose motion is known; end-point error in px, mean over the places",
        "that both pictures show. The measuring ran on the processor, fp32, one thread: the errors are those of any",
        "device, the seconds are not.",
        "",
        f"| pairs | {' | '.join(names)} |",
        f"| --- |{' ---: |' * len(names)}",
        *rows,
        "",
        f"PyTorch's flow is DIS fast again: the two differ by {found['apart']:.3f} px in the mean over all pairs and",
        f"{found['farthest']:.3f} px in the mean of the worst pair.",
        "",
        "Processor seconds a pair: "
        + ", ".join(f"{name} {value:.3f}" for name, value in found["seconds"].items())
        + ".",
        "",
        "*Warped*: photographs of the package read along fields up to 1, 3, 8, 16 and 30 px long, with a little noise.",
        "*Filmed*: the built-in clips and clips that the synthesiser draws, sharp and blurred.",
        "",
        *restored_table(found["restored"]),
        "Made by `python benchmarks/device_flow.py -o docs/results`.",
        "",
        f"Measured with {provenance()}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/results"))
    folder = parser.parse_args().output
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    found = measure(iter([*warped_cases(), *filmed_cases()])) | {"restored": measure_restored()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "device_flow.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "device_flow.md").write_text(page(found))
    print(page(found))


if __name__ == "__main__":
    main()
