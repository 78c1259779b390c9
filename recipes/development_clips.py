"""Clips to choose settings on: sharp video under a simulated hand-held camera, with its truth.

    python recipes/development_clips.py -o DIR VIDEO[:FIRST]... [--frames 20] [--exposure 0.8] [--moments 17]
                                        [--speed 12] [--seed 1]

VIDEO is a video file or a folder of frames, FIRST the frame to begin with. Light is averaged over the exposure in
so many moments (few of them leave steps, as in benchmarks that average a fast video); between two frames the scene is
interpolated along optical flow, while the camera (854x480, of which it sees 640x360) moves on a path of quiet and quick
stretches. So real texture, noise and compression, which synthetic clips lack, but no clip that figures are quoted on.
Writes DIR/NAME/{blur,sharp}/*.png; each further VIDEO takes the next seed.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from metadeblur.clip import Clip
from metadeblur.imaging.linear_light import to_display, to_linear
from metadeblur.imaging.optical_flow import dense_flow
from metadeblur.video import read_clip, write_clip

Array = NDArray[Any]
SCENE, SEEN = (854, 480), (640, 360)  # px, width and height
REACH = (100.0, 56.0)  # px that the camera may stray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+")
    parser.add_argument("-o", dest="out", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--exposure", type=float, default=0.8, help="frame intervals")
    parser.add_argument("--moments", type=int, default=17, help="of an exposure")
    parser.add_argument("--speed", type=float, default=12.0, help="mean speed of the camera, px a frame")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    for number, video in enumerate(given.videos):
        name, _, first = video.partition(":")
        source = read_clip(name)
        scene = [_scaled(source[int(first or 0) + index]) for index in range(given.frames + 2)]
        blurred, sharp = shake(
            scene, given.exposure, given.moments, given.speed, np.random.default_rng(given.seed + number)
        )
        folder = given.out / f"{Path(name).stem}_{first or 0}"
        folder.mkdir(parents=True, exist_ok=True)
        write_clip(blurred, folder / "blur")
        write_clip(sharp, folder / "sharp")
        print(folder)


def shake(
    scene: list[Array], exposure: float, moments: int, speed: float, rng: np.random.Generator
) -> tuple[Clip, Clip]:
    """Blurred and sharp frames of a shaken camera; the first and last frame of the scene only lend their motion."""
    path = _Path(len(scene), speed, rng)
    grey = [cv2.cvtColor(to_bytes(frame), cv2.COLOR_RGB2GRAY) for frame in scene]
    there = [dense_flow(one, other) for one, other in pairwise(grey)]
    back = [dense_flow(other, one) for one, other in pairwise(grey)]
    blurred, sharp = [], []
    for index in range(1, len(scene) - 1):
        light = np.zeros((SEEN[1], SEEN[0], 3), np.float32)
        for moment in ((np.arange(moments) + 0.5) / moments - 0.5) * exposure:
            left = index if moment >= 0 else index - 1
            picture = between(scene[left], scene[left + 1], there[left], back[left], np.float32(index + moment - left))
            light += path.seen(picture, index + moment) / moments
        blurred.append(light)
        sharp.append(path.seen(scene[index], float(index)))
    frames = (
        to_display(torch.from_numpy(np.stack(side)).permute(0, 3, 1, 2)).mul(255).round().byte()
        for side in (blurred, sharp)
    )
    one, other = frames
    return Clip(one), Clip(other)


def between(before: Array, after: Array, there: Array, back: Array, time: np.float32) -> Array:
    """The light (h, w, 3) at a moment 0..1 between two frames (Jiang et al., "Super SloMo", CVPR 2018, Eq. 4)."""
    rows, columns = np.indices(before.shape[:2], dtype=np.float32)

    def read(frame: Array, flow: Array) -> Array:
        place = columns + flow[..., 0], rows + flow[..., 1]
        return np.asarray(cv2.remap(frame, *place, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT))

    to_before = -(1 - time) * time * there + time * time * back
    to_after = (1 - time) ** 2 * there - time * (1 - time) * back
    return (1 - time) * read(before, to_before) + time * read(after, to_after)


class _Path:
    """Where the camera looks: smoothed noise of velocity, quiet and quick in turn."""

    def __init__(self, frames: int, speed: float, rng: np.random.Generator) -> None:
        self.times = np.arange(0, frames, 1 / 64)
        smooth = np.hanning(200) / np.hanning(200).sum()
        noise = rng.normal(size=(2, len(self.times) + 400))
        velocity = np.stack([np.convolve(axis, smooth, "same")[200:-200] for axis in noise], -1)
        velocity /= np.hypot(*velocity.T).mean()
        turns = 1 + np.sin(2 * np.pi * (self.times / rng.uniform(6, 10) + rng.uniform()))
        self.places = np.cumsum(velocity * np.maximum(turns, 0.05)[:, None] * speed, 0) / 64
        self.places -= self.places.mean(0)
        self.places *= np.minimum(1, np.array(REACH) / np.abs(self.places).max(0))

    def seen(self, scene: Array, time: float) -> Array:
        """What the camera sees of a scene at a time."""
        x, y = (float(np.interp(time, self.times, axis)) for axis in self.places.T)
        corner = np.array([[1, 0, (SCENE[0] - SEEN[0]) / 2 + x], [0, 1, (SCENE[1] - SEEN[1]) / 2 + y]], np.float32)
        how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpAffine(scene, corner, SEEN, flags=how, borderMode=cv2.BORDER_REFLECT))


def to_bytes(light: Array) -> Array:
    """Light (h, w, 3) as 8-bit display values."""
    return np.asarray(to_display(torch.from_numpy(light)).mul(255).round().byte().numpy())


def _scaled(frame: Any) -> Array:
    """The middle of a frame (3, H, W), scaled to the scene's size, as light (h, w, 3)."""
    picture = frame.permute(1, 2, 0).contiguous().numpy()
    scale = max(SCENE[0] / picture.shape[1], SCENE[1] / picture.shape[0])
    size = round(picture.shape[1] * scale), round(picture.shape[0] * scale)
    picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = (picture.shape[0] - SCENE[1]) // 2, (picture.shape[1] - SCENE[0]) // 2
    part = np.ascontiguousarray(picture[top : top + SCENE[1], left : left + SCENE[0]])
    return np.asarray(to_linear(torch.from_numpy(part).clamp(0, 1)).numpy())


if __name__ == "__main__":
    main()
