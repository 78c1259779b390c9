"""The pictures of a restored shot that the report shows, kept in a file beside the finished shot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from metadeblur.imaging.pictures import Picture, shrink, to_uint8
from metadeblur.imaging.sharpness import self_shift_map
from metadeblur.report.record import ShotRecord
from metadeblur.report.shot import ShotPictures

if TYPE_CHECKING:
    from metadeblur.adaptation.stages import Outcome

PICTURES = 48  # frames and pairs that one report shows at most, shared among its shots
PICTURES_OF_A_SHOT = 5
WIDTH = 1280  # px, wider pictures are shrunk


@dataclass
class PictureCollector:
    """The pictures of one shot, collected while it is being restored."""

    wanted: tuple[int, ...]  # numbers of the frames to keep, within the shot
    frames: list[tuple[int, Picture, Picture]] = field(default_factory=list)  # (number, before, after)
    base: list[Picture] = field(default_factory=list)  # what the base model makes of these frames
    pairs: list[tuple[Picture, Picture]] = field(default_factory=list)  # (pseudo-blurred, pseudo-sharp)
    sharpness: np.ndarray[Any, Any] | None = None  # self-shift scores of the middle one of the frames, dB
    mapped: int = -1  # which frame that was

    def add(self, number: int, before: Tensor, after: Tensor) -> None:
        """Keep a frame (3, H, W) and its restoration."""
        self.frames.append((number, _small(before), _small(after)))
        if number == self.wanted[len(self.wanted) // 2]:
            patch = max(8, min(64, before.shape[-2] // 6, before.shape[-1] // 6))
            self.sharpness = self_shift_map(before, patch, max(4, patch // 2)).numpy()
            self.mapped = number

    def add_base(self, restored: Tensor) -> None:
        """Keep what the base model makes of the next of the wanted frames."""
        self.base.append(_small(restored))

    def learn(self, outcome: Outcome, count: int) -> None:
        """Keep some of the pairs that were learned from."""
        self.pairs = [(to_uint8(pair.centre), to_uint8(pair.sharp)) for pair in outcome.pairs[:count]]

    def save(self, path: Path) -> None:
        """Write all of it to one file."""
        arrays: dict[str, Any] = {"numbers": np.array([number for number, _, _ in self.frames], dtype=np.int64)}
        for number, (_, before, after) in enumerate(self.frames):
            arrays |= {f"before{number}": before, f"after{number}": after}
        arrays |= {f"base{number}": picture for number, picture in enumerate(self.base)}
        for number, (blurred, sharp) in enumerate(self.pairs):
            arrays |= {f"blurred{number}": blurred, f"sharp{number}": sharp}
        if self.sharpness is not None:
            arrays |= {"map": self.sharpness, "mapped": np.array(self.mapped)}
        with path.open("wb") as file:
            np.savez(file, **arrays)


def frames_to_show(scores: Sequence[float], shots: int) -> tuple[int, ...]:
    """Which frames of a shot the report shows: the most blurred ones of equal stretches.

    Args:
        scores: self-shift score of each frame of the shot, dB; high is blurred.
        shots: how many shots the video has.

    >>> frames_to_show([30, 40, 31, 30, 30, 35], shots=24)
    (1, 5)
    """
    count = min(PICTURES_OF_A_SHOT, max(1, PICTURES // shots), len(scores))
    stretches = np.array_split(np.arange(len(scores)), count)
    return tuple(int(max(stretch, key=lambda number: scores[number])) for stretch in stretches)


def read_pictures(path: Path, shot: ShotRecord) -> ShotPictures:
    """The pictures of one shot; none where the file is missing."""
    if not path.is_file():
        return ShotPictures(shot.index)
    with np.load(path, allow_pickle=False) as arrays:
        numbers = arrays["numbers"].tolist()
        base = [arrays[f"base{i}"] for i in range(len(numbers)) if f"base{i}" in arrays]
        count = sum(name.startswith("blurred") for name in arrays)
        return ShotPictures(
            shot.index,
            frames=[(shot.start + n, arrays[f"before{i}"], arrays[f"after{i}"]) for i, n in enumerate(numbers)],
            base=base or None,
            pairs=[(arrays[f"blurred{i}"], arrays[f"sharp{i}"]) for i in range(count)],
            sharpness_map=arrays.get("map"),
            map_frame=shot.start + int(arrays["mapped"]) if "map" in arrays else None,
        )


def _small(frame: Tensor) -> Picture:
    return shrink(to_uint8(frame), WIDTH)
