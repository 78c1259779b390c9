"""Scoring candidate places: one pass with integral images against reading every frame again for each patch.

Run:  python benchmarks/self_shift.py [--frames 8] [--repeats 5] [--folder FRAMES]

The frames are PNG files of 1280x720 (made on the spot, or the pictures of a folder). In each round, in turn:
  re-read   20 patches the published release's way: for each patch every frame is decoded anew, cropped and scored
  once      20 and 2,000 places in one pass: every frame is decoded once, four look-ups a place and direction
  scoring   the same without decoding: the frames are in memory
Medians over the rounds are printed with the lowest and highest round, ratios round by round likewise.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
from torch import Tensor

from metadeblur.imaging.sharpness import score_places, self_shift_score

HEIGHT, WIDTH, PATCH = 720, 1280, 256
FEW, MANY = 20, 2000


def write_frames(folder: Path, count: int) -> list[Path]:
    """A detailed picture that moves and is blurred differently in every frame."""
    generator = np.random.default_rng(0)
    picture = np.zeros((HEIGHT + 64, WIDTH + 64 * count, 3), np.float32)
    for level in range(6):
        shape = (picture.shape[0] >> level, picture.shape[1] >> level, 3)
        noise = generator.uniform(0, 1, shape).astype(np.float32)
        picture += cv2.resize(noise, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR) * (level + 1) / 21
    paths = []
    for index in range(count):
        view = picture[32 : 32 + HEIGHT, 48 * index : 48 * index + WIDTH]
        view = cv2.blur(view, (1 + 2 * int(generator.integers(0, 8)), 1))
        paths.append(folder / f"{index:05d}.png")
        cv2.imwrite(str(paths[-1]), np.clip(view * 255, 0, 255).astype(np.uint8))
    return paths


def read(path: Path) -> Tensor:
    pixels = cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def score_rereading(paths: list[Path], tops: Tensor, lefts: Tensor) -> Tensor:
    """The published way: the loop over patches is the outer one, and each decodes the whole clip again."""
    scores = torch.zeros(len(paths), len(tops), dtype=torch.float64)
    for place, (top, left) in enumerate(zip(tops.tolist(), lefts.tolist(), strict=True)):
        for index, path in enumerate(paths):
            scores[index, place] = self_shift_score(read(path)[:, top : top + PATCH, left : left + PATCH])
    return scores


def decode(paths: list[Path]) -> Iterator[Tensor]:
    return (read(path) for path in paths)


def spread(values: list[float], unit: str = "") -> str:
    return f"{median(values):8.3f}{unit} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=8, help="number of frames")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--folder", type=Path, help="pictures to use in place of made ones")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        paths = sorted(options.folder.iterdir())[: options.frames] if options.folder else None
        paths = paths or write_frames(Path(made), options.frames)
        frames = list(decode(paths))
        height, width = frames[0].shape[-2:]
        generator = torch.Generator().manual_seed(0)
        tops = torch.randint(0, height - PATCH + 1, (MANY,), generator=generator)
        lefts = torch.randint(0, width - PATCH + 1, (MANY,), generator=generator)
        few = tops[:FEW], lefts[:FEW]
        cases: dict[str, Callable[[], Tensor]] = {
            f"re-read, {FEW} places": lambda: score_rereading(paths, *few),
            f"once, {FEW} places": lambda: score_places(decode(paths), *few, PATCH, PATCH),
            f"once, {MANY} places": lambda: score_places(decode(paths), tops, lefts, PATCH, PATCH),
            f"scoring, {FEW} places": lambda: score_places(frames, *few, PATCH, PATCH),
            f"scoring, {MANY} places": lambda: score_places(frames, tops, lefts, PATCH, PATCH),
        }
        seconds: dict[str, list[float]] = {name: [] for name in cases}
        results: dict[str, Tensor] = {}
        for _ in range(options.repeats):
            for name, run in cases.items():
                start = time.perf_counter()
                results[name] = run()
                seconds[name].append(time.perf_counter() - start)
    reread, once_few, once_many, scoring_few, scoring_many = seconds.values()
    print(f"{len(paths)} frames of {width}x{height}, patches of {PATCH}, {options.repeats} rounds")
    print("median (lowest to highest round)")
    for name, values in seconds.items():
        print(f"  {name:22s} {spread(values, ' s')}   {1000 * median(values) / len(paths):7.1f} ms a frame")
    ratios = {
        f"{MANY} places to {FEW}, decoding included": (once_many, once_few),
        f"{MANY} places to {FEW}, scoring alone": (scoring_many, scoring_few),
        f"re-read to once, {FEW} places": (reread, once_few),
    }
    for name, (one, other) in ratios.items():
        print(f"  {name:42s} {spread([a / b for a, b in zip(one, other, strict=True)], 'x')}")
    factor = MANY / FEW * median(reread) / median(once_many)
    print(
        f"  re-read to once, {MANY} places                {factor:8.0f}x (re-reading taken as proportional to places)"
    )
    names = list(cases)
    difference = (results[names[0]] - results[names[2]][:, :FEW]).abs().max().item()
    print(f"  largest difference of the scores: {difference:.1e} dB")


if __name__ == "__main__":
    main()
