"""The pictures of docs/known-limits.md: what the built-in model makes of clips that are too hard for it.

    python recipes/limits_pictures.py DIR [--only NAME ...] [--effort quick]

Each clip is rendered here from a photograph of the package, so the truth is known and the pictures may be shipped. It
is restored by ``metadeblur restore`` as it stands. Shown is a piece of the middle frame as it was filmed, as it came
back and as it was, with the PSNR of the whole frame; what the command says of the clip is printed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from method_pictures import enlarged, write
from numpy.typing import NDArray

from metadeblur.cli.entry import main as metadeblur
from metadeblur.clip import Clip
from metadeblur.imaging.linear_light import to_display, to_linear
from metadeblur.imaging.pictures import side_by_side, to_uint8
from metadeblur.imaging.quality import psnr
from metadeblur.video import EncodeSettings, read_clip, write_clip

Light = NDArray[np.float32]  # (H, W, 3), linear
Path2 = Callable[[float], tuple[float, float]]  # where the camera looks at a time in frames, px

WIDTH, HEIGHT, FRAMES = 288, 216, 11
PIECE = (112, 150)  # px, height and width of what is shown
STEPS = 48  # views that make one exposure
ASSETS = Path(__file__).parents[1] / "src" / "metadeblur" / "assets"


def photograph(name: str) -> Light:
    """A photograph of the package, in linear light."""
    picture = cv2.imread(str(ASSETS / name), cv2.IMREAD_COLOR_RGB).astype(np.float32) / 255
    return np.ascontiguousarray(to_linear(torch.from_numpy(picture)).numpy())


def view(scene: Light, place: tuple[float, float]) -> Light:
    """What the camera sees when it looks there, the left upper corner of its picture at that place."""
    x, y = place
    shift = np.array([[1, 0, x], [0, 1, y]], np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(scene, shift, (WIDTH, HEIGHT), flags=flags, borderMode=cv2.BORDER_REFLECT))


def exposed(scene: Light, path: Path2, time: float, exposure: float) -> Light:
    """A frame whose exposure lasts that many frame intervals, around a time."""
    moments = time + exposure * (np.arange(STEPS) + 0.5 - STEPS / 2) / STEPS
    return np.mean([view(scene, path(float(moment))) for moment in moments], axis=0, dtype=np.float32)


def as_clip(frames: list[Light]) -> Clip:
    """Frames of linear light as a clip of 8 bits."""
    bytes_ = [to_uint8(to_display(torch.from_numpy(frame).clamp(0, 1)).numpy()) for frame in frames]
    return Clip(torch.from_numpy(np.stack(bytes_)).permute(0, 3, 1, 2), fps=25)


# --- the clips: (as filmed, the truth) -------------------------------------------------------------------------------


def pan(speed: float) -> tuple[Clip, Clip]:
    """A steady pan with a shutter that is always open, blurred alike in all frames."""
    scene = photograph("photographs/coffee.jpg")
    path = _along(speed, (60.0, 110.0))
    return _filmed(scene, path, 1.0)


def out_of_focus() -> tuple[Clip, Clip]:
    """A trembling hand, and a lens that is focused elsewhere."""
    scene = photograph("demo.jpg")
    reach = 5
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1,) * 2).astype(np.float32)
    soft = np.asarray(cv2.filter2D(scene, -1, disc / disc.sum()))
    path = _tremble((250.0, 60.0), 6.0)
    blurred, _ = _filmed(soft, path, 0.6)
    _, sharp = _filmed(scene, path, 0.6)
    return blurred, sharp


def noisy() -> tuple[Clip, Clip]:
    """A dark place: few photons, much noise."""
    rng = np.random.default_rng(0)
    blurred, sharp = _filmed(photograph("photographs/chelsea.jpg"), _tremble((80.0, 40.0), 12.0), 0.9)
    frames = np.stack([to_uint8(frame) for frame in blurred]).astype(np.float32)
    grainy = np.clip(frames + rng.normal(0, 30, frames.shape), 0, 255).round().astype(np.uint8)
    return Clip(torch.from_numpy(grainy).permute(0, 3, 1, 2), fps=25), sharp


def compressed() -> tuple[Clip, Clip]:
    """The shaky clip of a messenger: few bits."""
    blurred, sharp = _filmed(photograph("photographs/astronaut.jpg"), _tremble((120.0, 30.0), 12.0), 0.9)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "few_bits.mp4"
        write_clip(blurred, file, settings=EncodeSettings(codec="h264", quality=40))
        return read_clip(file).in_memory(), sharp


def alone() -> tuple[Clip, Clip]:
    """A single picture: nothing moves in it, so nothing tells the blur."""
    blurred, sharp = _filmed(photograph("photographs/astronaut.jpg"), _tremble((120.0, 30.0), 12.0), 0.9)
    return blurred.part(FRAMES // 2, FRAMES // 2 + 1), sharp.part(FRAMES // 2, FRAMES // 2 + 1)


CLIPS: dict[str, Callable[[], tuple[Clip, Clip]]] = {
    "pan_12": lambda: pan(12.0),
    "pan_24": lambda: pan(24.0),
    "out_of_focus": out_of_focus,
    "noisy": noisy,
    "compressed": compressed,
    "alone": alone,
}


def _along(speed: float, start: tuple[float, float]) -> Path2:
    return lambda time: (start[0] + speed * time, start[1])


def _tremble(centre: tuple[float, float], size: float) -> Path2:
    """A hand that trembles, harder in some frames than in others."""
    return lambda time: (
        centre[0] + size * np.sin(0.9 * time) * (0.3 + np.sin(0.35 * time) ** 2),
        centre[1] + 0.6 * size * np.sin(1.1 * time + 1) * (0.3 + np.sin(0.35 * time) ** 2),
    )


def _filmed(scene: Light, path: Path2, exposure: float) -> tuple[Clip, Clip]:
    times = range(FRAMES)
    blurred = as_clip([exposed(scene, path, time, exposure) for time in times])
    return blurred, as_clip([view(scene, path(time)) for time in times])


# --- restored and shown ----------------------------------------------------------------------------------------------


def show(name: str, out: Path, effort: str) -> None:
    """Restore a clip and draw its middle frame: as filmed, as restored, as it was."""
    blurred, sharp = CLIPS[name]()
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "given", Path(folder) / "made"
        write_clip(blurred, given)
        print(f"{name}:", flush=True)
        if metadeblur(["restore", str(given), "-o", str(made), "--effort", effort, "--seed", "0"]) != 0:
            raise SystemExit(f"{name} was not restored")
        restored = read_clip(made).in_memory()
    middle = len(sharp) // 2
    rows = {"filmed": blurred[middle], "restored": restored[middle]}
    top, left = (HEIGHT - PIECE[0]) // 2, (WIDTH - PIECE[1]) // 2
    piece = (slice(None), slice(top, top + PIECE[0]), slice(left, left + PIECE[1]))
    titles = [f"{row}  {float(psnr(frame, sharp[middle])):.1f} dB" for row, frame in rows.items()]
    pictures = [enlarged(to_uint8(frame[piece])) for frame in (*rows.values(), sharp[middle])]
    write(out / f"limit_{name}.jpg", side_by_side(pictures, (*titles, "as it was")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", choices=CLIPS, default=list(CLIPS))
    parser.add_argument("--effort", default="quick")
    given = parser.parse_args()
    for name in given.only:
        show(name, given.out, given.effort)


if __name__ == "__main__":
    main()
