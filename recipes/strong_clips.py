"""Clips of strong blur to choose settings on, with their truth: pans, tracked subjects, zooms, a fast shake.

    python recipes/strong_clips.py PHOTOGRAPHS -o DIR [--frames 12] [--width 480] [--height 270] [--seed 1]

PHOTOGRAPHS is a folder of them. A camera moves over a photograph by 12 to 30 px in each frame interval. In clips of a
tracked subject it follows a thing cut out of another photograph, which so stays nearly still and sharp before a
background that rushes by, and hides and bares it while the shutter is open. Light is averaged over the exposure in
steps of half a pixel, at twice the resolution of the frames: pixels collect light over their area, so that sharp frames
are sharp and edges have no stairs. No optical flow is involved. Writes DIR/NAME/{blur,sharp}/*.png; a clip that is
there is kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from metadeblur.data.pairs import Bytes
from metadeblur.data.sources import load_sources
from metadeblur.data.synthesis import Layer, Scene, degrade, light, to_bytes
from metadeblur.data.trajectory import Trajectory
from metadeblur.evaluation.builtin import write_pairs
from metadeblur.system.files import whole

Array = NDArray[Any]
Motion = Callable[[Array, np.random.Generator], Array]  # poses (K, 4) at the times (K,): x, y, rotation, log zoom
FINER = 2  # the scene is rendered at so many times the resolution of the frames
USUAL_WIDTH = 480  # px; speeds are of frames as wide as this


@dataclass(frozen=True)
class StrongClip:
    """How one clip is filmed; lengths in px of frames that are 480 wide."""

    camera: Motion
    exposure: float  # share of the frame interval
    noise: float = 0.003  # standard deviation, of full scale
    quality: int | None = None  # of JPEG; none: not compressed
    subject: Motion | None = None  # how a followed thing moves in the picture; none: there is no such thing
    share: tuple[float, float] = (0.45, 0.75)  # of the frame's width and height that the thing takes


def panned(right: float, down: float) -> Motion:
    """A steady pan in px a frame interval, by hand: it sways and turns a little."""

    def path(time: Array, rng: np.random.Generator) -> Array:
        sway = 1.2 * np.sin(rng.uniform(0.5, 0.9, 2) * time[:, None] + rng.uniform(0, 2 * np.pi, 2))
        turn = 0.002 * np.sin(rng.uniform(0.3, 0.6) * time + rng.uniform(0, 2 * np.pi))
        return np.column_stack([right * time + sway[:, 0], down * time + sway[:, 1], turn, np.zeros_like(time)])

    return path


def zoomed(rate: float, right: float = 0.0) -> Motion:
    """A zoom by exp(rate) in each frame interval, and a slow pan."""

    def path(time: Array, rng: np.random.Generator) -> Array:
        down = 1.2 * np.sin(rng.uniform(0.5, 0.9) * time + rng.uniform(0, 2 * np.pi))
        return np.column_stack([right * time, down, np.zeros_like(time), rate * time])

    return path


def shaken(size: float) -> Motion:
    """Fast tremor about a place, never at rest in both directions for long."""

    def path(time: Array, rng: np.random.Generator) -> Array:
        pose = np.zeros((len(time), 4))
        for low, high, share in ((0.3, 0.5, 1.0), (0.8, 1.1, 0.9), (1.3, 1.6, 0.4)):
            rate, phase = rng.uniform(low, high, 2), rng.uniform(0, 2 * np.pi, 2)
            pose[:, :2] += size * share * np.sin(rate * time[:, None] + phase)
        pose[:, 2] = 0.012 * np.sin(rng.uniform(0.6, 0.9) * time + rng.uniform(0, 2 * np.pi))
        return pose

    return path


def followed(size: float, growth: float = 0.0) -> Motion:
    """A thing that the camera follows: it wavers by so many px, and grows by exp(growth) in each frame interval."""

    def path(time: Array, rng: np.random.Generator) -> Array:
        place = size * np.sin(rng.uniform(0.4, 0.8, 2) * time[:, None] + rng.uniform(0, 2 * np.pi, 2))
        turn = -0.015 * np.sin(rng.uniform(0.3, 0.6) * time + rng.uniform(0, 2 * np.pi))
        return np.column_stack([place, turn, growth * time])

    return path


CLIPS = {
    "pan": StrongClip(panned(13, 2), 0.8),
    "pan_fast": StrongClip(panned(-27, 9), 0.7),
    "pan_noisy": StrongClip(panned(19, -3), 0.9, noise=0.012),
    "tracked": StrongClip(panned(17, 0), 0.8, subject=followed(2.0)),
    "tracked_fast": StrongClip(panned(-29, 2), 0.6, quality=70, subject=followed(3.0, -0.01), share=(0.6, 0.6)),
    "zoom_in": StrongClip(zoomed(0.07), 0.8),
    "zoom_out": StrongClip(zoomed(-0.06, 4), 0.9, quality=80),
    "shake": StrongClip(shaken(26), 0.5, noise=0.006),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("-o", dest="out", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--width", type=int, default=USUAL_WIDTH)
    parser.add_argument("--height", type=int, default=270)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    photographs = most_textured(
        [source.photograph for source in load_sources([given.photographs]) if source.photograph is not None]
    )
    given.out.mkdir(parents=True, exist_ok=True)
    for name in CLIPS:
        folder = given.out / name
        if not folder.exists():
            with whole(folder) as partial:
                write_pairs(partial, film(name, photographs, given.frames, (given.width, given.height), given.seed))
        print(folder)


def film(
    name: str, photographs: list[Bytes], frames: int, size: tuple[int, int], seed: int
) -> Iterator[tuple[Bytes, Bytes]]:
    """The (blurred, sharp) frames (height, width, 3) of a clip; photographs are (H, W, 3), size is (width, height)."""
    clip, number = CLIPS[name], list(CLIPS).index(name)
    rng = np.random.default_rng([seed, number])
    # Each clip has a photograph of its own, as far as they go, and so has each thing.
    order = np.random.default_rng(seed).permutation(len(photographs))
    chosen = [photographs[order[at % len(order)]] for at in (number, number + len(CLIPS))]
    scene = _scene(clip, chosen, frames, size, rng)
    for index in range(frames):
        blurred, sharp = expose(scene, float(index), clip.exposure)
        yield degrade(blurred, clip.noise, clip.quality, rng), to_bytes(sharp)


def expose(scene: Scene, time: float, exposure: float) -> tuple[Array, Array]:
    """(blurred, sharp) display values 0..1 of a scene that is finer than its frames: all of an exposure, its middle."""

    def seen(linear: Array) -> Array:
        size = scene.width // FINER, scene.height // FINER
        return scene.display(np.asarray(cv2.resize(linear, size, interpolation=cv2.INTER_AREA)))

    moments = int(np.ceil(scene.speed(time) * exposure)) | 1
    total = np.zeros((scene.height, scene.width, 3), np.float32)
    for moment in (np.arange(moments) + 0.5) / moments - 0.5:
        total += scene.render(time + float(moment) * exposure, cv2.INTER_LINEAR)
    return seen(total / np.float32(moments)), seen(scene.render(time, cv2.INTER_CUBIC))


def most_textured(photographs: list[Bytes]) -> list[Bytes]:
    """The half of the photographs with most detail: blur can only be seen where there is some."""

    def texture(photograph: Bytes) -> float:
        small = cv2.resize(photograph, (640, 360), interpolation=cv2.INTER_AREA)[..., 1].astype(np.float32)
        return float(np.median(np.hypot(*np.gradient(small))))

    return sorted(photographs, key=texture, reverse=True)[: (len(photographs) + 1) // 2]


def _scene(
    clip: StrongClip, photographs: list[Bytes], frames: int, size: tuple[int, int], rng: np.random.Generator
) -> Scene:
    """The background, the camera and the followed thing, at FINER times the size of the frames."""
    width, height = (FINER * side for side in size)
    unit = np.array([width / USUAL_WIDTH, width / USUAL_WIDTH, 1, 1])
    time = np.arange(-2.0, frames + 4)
    middle = (frames - 1) / 2
    camera = clip.camera(time - middle, rng) * unit
    seen = camera[1:-2]  # the poses that a frame can lie between
    low, high = seen.min(0), seen.max(0)
    camera[:, :2] -= (low[:2] + high[:2]) / 2
    # Room for the whole way, for what turning shows of the corners, and for the widest view.
    room = (np.array([width, height]) + high[:2] - low[:2] + 0.04 * width) * np.exp(max(0.0, -low[3]))
    background = _piece(photographs[0], (int(np.ceil(room[0])), int(np.ceil(room[1]))), rng)
    layers = ()
    if clip.subject is not None:
        layers = (_thing(clip, photographs[1], clip.subject(time - middle, rng) * unit, (width, height), rng),)
    return Scene(background, Trajectory(camera), layers, "srgb", width, height)


def _thing(clip: StrongClip, photograph: Bytes, place: Array, size: tuple[int, int], rng: np.random.Generator) -> Layer:
    """A piece of a photograph with a round, uneven outline and soft edges, in the middle of the picture."""
    columns, rows = (int(share * side) for share, side in zip(clip.share, size, strict=True))
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    angle = np.arctan2(y, x)
    outline = 0.8 + sum(0.1 / wave * np.sin(wave * angle + rng.uniform(0, 2 * np.pi)) for wave in (2, 3, 5))
    soft = 3.0 * FINER / min(rows, columns)  # about three px of a frame
    coverage = np.clip((outline - np.hypot(x, y)) / soft + 0.5, 0, 1).astype(np.float32)
    start = (size[0] - columns) / 2, (size[1] - rows) / 2
    return Layer(_piece(photograph, (columns, rows), rng), coverage[..., None], Trajectory(place), start)


def _piece(photograph: Bytes, size: tuple[int, int], rng: np.random.Generator) -> Array:
    """A piece of a photograph, as large as it goes, scaled to a size (width, height), in linear light."""
    rows, columns = photograph.shape[:2]
    scale = max(size[0] / columns, size[1] / rows)
    cut = min(rows, round(size[1] / scale)), min(columns, round(size[0] / scale))
    top, left = (int(rng.integers(0, side - piece + 1)) for side, piece in zip((rows, columns), cut, strict=True))
    piece = photograph[top : top + cut[0], left : left + cut[1]]
    smoothly = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return light(np.asarray(cv2.resize(piece, size, interpolation=smoothly), np.float32) / np.float32(255))


if __name__ == "__main__":
    main()
