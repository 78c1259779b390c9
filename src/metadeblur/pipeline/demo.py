"""``metadeblur demo``: a shaky clip made on the spot, restored, and compared with the truth.

A simulated hand-held camera looks at a real photograph that no shipped model was trained on, so the sharp frames are
known: blurred, base and adapted are measured against them, and the pictures are drawn side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import cv2
import numpy as np
import torch

from metadeblur.clip import Clip
from metadeblur.data.paired import PairedClip
from metadeblur.data.synthesis import Scene, degrade, light, to_bytes
from metadeblur.data.trajectory import Trajectory
from metadeblur.imaging.pictures import encode_png, side_by_side, to_uint8
from metadeblur.imaging.quality import psnr, ssim
from metadeblur.limits import Seed, Within, check, spelt
from metadeblur.models.weights import load_deblurrer
from metadeblur.pipeline.events import FrameScanned, Listener, Note, PhaseEnded, PhaseStarted, ignore
from metadeblur.pipeline.outputs import Job
from metadeblur.pipeline.run import RunSettings, restore_file
from metadeblur.restoration.clips import restore
from metadeblur.system.files import filling
from metadeblur.system.json_files import plain, write_json, write_whole
from metadeblur.video import read_clip, write_clip

PHOTOGRAPH = "demo.jpg"  # "friends" by Aitzol Berasategi, 2018, CC-BY-4.0, reduced and cut
SHAKY, OUTPUT = "shaky.mp4", "shaky_deblurred.mp4"
EXPOSURE = 0.85  # share of the frame interval


@spelt
@dataclass(frozen=True)
class DemoSettings:
    """What the demonstration makes and how it restores it."""

    frames: Annotated[int, Within(1, 1000)] = 32  # of the clip, at 30 a second
    width: Annotated[int, Within(32, 640)] = 480  # px, at most 640
    height: Annotated[int, Within(32, 480)] = 360  # px, at most 480
    seed: Seed = 0  # of the camera's shake and of the adaptation
    model: str = "lite"  # the deblurrer

    def __post_init__(self) -> None:
        check(self)


def shaky_clip(settings: DemoSettings) -> PairedClip:
    """The clip a tired hand would film: bursts of shake between quieter moments; with its sharp frames."""
    rng = np.random.default_rng(settings.seed)
    data = np.frombuffer((resources.files("metadeblur") / "assets" / PHOTOGRAPH).read_bytes(), np.uint8)
    photograph = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.float32)[..., ::-1] / np.float32(255)
    scene = Scene(
        background=light(photograph.copy()),
        camera=_hand(settings.frames, rng),
        layers=(),
        response="srgb",
        width=settings.width,
        height=settings.height,
    )
    frames = [scene.expose(float(index), EXPOSURE) for index in range(settings.frames)]
    sides = (
        [degrade(blurred, 0.003, None, rng) for blurred, _ in frames],
        [to_bytes(sharp) for _, sharp in frames],
    )
    blurred, sharp = (
        Clip(torch.from_numpy(np.stack(side)).permute(0, 3, 1, 2), fps=30, name="shaky") for side in sides
    )
    return PairedClip(blurred, sharp)


def _hand(frames: int, rng: np.random.Generator) -> Trajectory:
    """Tremor of a few frequencies under an envelope that comes and goes."""
    time = np.arange(frames + 6) - 2.0
    envelope = 0.12 + 0.88 * np.sin(np.pi * time / 14 + rng.uniform(0, np.pi)) ** 2
    tremor = np.zeros((len(time), 4))
    for low, high, size in ((0.15, 0.4, 16.0), (0.7, 1.1, 16.0), (1.3, 1.9, 6.0)):
        rate, phase = rng.uniform(low, high, 4), rng.uniform(0, 2 * np.pi, 4)
        tremor += size * np.sin(rate * time[:, None] + phase)
    tremor *= np.array([1.0, 0.8, 7e-4, 4e-4])
    return Trajectory(envelope[:, None] * tremor)


def make_clip(directory: Path, settings: DemoSettings, listener: Listener = ignore) -> PairedClip:
    """Make the shaky clip and keep it as ``shaky.mp4``, its sharp frames in ``sharp/``.

    Raises:
        MetadeblurError: the folder is a file, or cannot be written to.
    """
    with filling(directory, "the demonstration", "DIR"):
        listener(Note("filming: a simulated hand-held camera over a photograph"))
        truth = shaky_clip(settings)
        write_clip(truth.blurred, directory / SHAKY)
        write_clip(truth.sharp, directory / "sharp")
    return truth


def run_demo(
    directory: Path, settings: DemoSettings | None = None, *, listener: Listener | None = None
) -> dict[str, Any]:
    """Make, restore and measure the demonstration clip.

    Args:
        directory: made where missing; gets ``shaky.mp4``, ``shaky_deblurred.mp4``, ``side_by_side.mp4``, ``sharp/``,
            ``comparison.png``, ``report/index.html`` and ``demo.json``.
        settings: see :class:`DemoSettings`.
        listener: called with each event (:mod:`metadeblur.pipeline.events`).

    Returns:
        ``{"psnr": {"blurred", "base", "adapted"}, "ssim": {...}, "record": the restoration's record, "files": [...]}``.

    Raises:
        MetadeblurError: a file cannot be written.
    """
    settings = settings or DemoSettings()
    with filling(directory, "the demonstration", "DIR"):
        return _demonstrate(directory, settings, listener)


def _demonstrate(directory: Path, settings: DemoSettings, listener: Listener | None) -> dict[str, Any]:
    """All of the demonstration, in a folder that nobody else writes into."""
    tell = listener or ignore
    truth = make_clip(directory, settings, tell)
    source, output = directory / SHAKY, directory / OUTPUT
    net = load_deblurrer(settings.model)
    job = Job(source, output, directory / "side_by_side.mp4", directory / "report")
    run = RunSettings(first_look=listener is not None)
    record = restore_file(job, net, run, model=settings.model, listener=listener)
    blurred = read_clip(source).in_memory()
    whole = 4 * len(blurred)  # restored once more, and three rows measured
    tell(PhaseStarted("compare", SHAKY))
    try:
        base = restore(net, blurred, run.restoration, progress=lambda done, _: tell(FrameScanned(done, whole)))
        rows = {"blurred": blurred, "base": base, "adapted": read_clip(output).in_memory()}
        figures: dict[str, dict[str, float]] = {"psnr": {}, "ssim": {}}
        for number, (row, clip) in enumerate(rows.items(), 1):
            figures["psnr"][row], figures["ssim"][row] = _means(clip, truth.sharp)
            tell(FrameScanned((number + 1) * len(blurred), whole))
    finally:
        tell(PhaseEnded("compare"))
    worst = int(np.argmin([float(psnr(one, other)) for one, other in zip(blurred, truth.sharp, strict=True)]))
    labels = [f"{row}  {float(psnr(clip[worst], truth.sharp[worst])):.2f} dB" for row, clip in rows.items()]
    pictures = [to_uint8(clip[worst]) for clip in (*rows.values(), truth.sharp)]
    write_whole(directory / "comparison.png", encode_png(side_by_side(pictures, (*labels, "sharp"))))
    names = (SHAKY, OUTPUT, "side_by_side.mp4", "comparison.png", "report/index.html")
    result = {**figures, "frame": worst, "files": [str(directory / name) for name in names], "record": record}
    write_json(plain(result), directory / "demo.json")
    return result


def _means(frames: Clip, sharp: Clip) -> list[float]:
    """Mean PSNR in dB and mean SSIM over the frames, rounded to 8 bits first."""
    pairs = list(zip(frames, sharp, strict=True))
    return [fmean(float(measure(*pair, round_to_8bit=True)) for pair in pairs) for measure in (psnr, ssim)]
