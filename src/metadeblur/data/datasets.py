"""Benchmarks as datasets of PyTorch: windows or whole clips of blurred frames with their sharp partners."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from metadeblur.data.layouts import Benchmark, ClipFolder, open_benchmark
from metadeblur.data.pairs import FrameCache, as_tensor, window_numbers
from metadeblur.errors import MetadeblurError

Item: TypeAlias = tuple[Tensor, Tensor]
"""(blurred, sharp), float32 in [0, 1]."""
Transform: TypeAlias = Callable[[Tensor, Tensor], Item]


class _Paired(Dataset[Item]):
    """What both kinds share: the clips of a benchmark, frames that are decoded once, one crop for both sides."""

    def __init__(
        self,
        root: str | os.PathLike[str],
        layout: str,
        part: str,
        inputs: str,
        patch: int | None,
        transform: Transform | None,
        cache_bytes: int,
    ) -> None:
        self.benchmark: Benchmark = open_benchmark(Path(root), layout, part=part, inputs=inputs)
        if patch is not None and patch < 1:
            raise MetadeblurError(f"patch is {patch}; it is a number of pixels, 1 or more, or None for whole frames")
        self.patch, self.transform = patch, transform
        self._read = FrameCache(cache_bytes)

    @property
    def clips(self) -> tuple[ClipFolder, ...]:
        """The clips, in order."""
        return self.benchmark.clips

    def _frames(self, blurred: Sequence[Path], sharp: Sequence[Path]) -> Item:
        """Frames (N, 3, H, W) of both sides, with one random crop."""
        sides = [[self._read(path) for path in files] for files in (blurred, sharp)]
        sizes = {frame.shape[:2] for frames in sides for frame in frames}
        if len(sizes) > 1:
            shown = " and ".join(sorted(f"{width}x{height}" for height, width in sizes))
            raise MetadeblurError(f"{blurred[0]}: frames of different sizes ({shown}) in one item; make them equal")
        rows, columns = self._crop(blurred[0], *next(iter(sizes)))
        one, other = (as_tensor(np.stack([frame[rows, columns] for frame in frames])).contiguous() for frames in sides)
        return one, other

    def _given(self, blurred: Tensor, sharp: Tensor) -> Item:
        """An item as it is handed out."""
        return self.transform(blurred, sharp) if self.transform else (blurred, sharp)

    def _crop(self, path: Path, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of a random patch, or of the whole frame."""
        if self.patch is None:
            return slice(None), slice(None)
        if min(height, width) < self.patch:
            raise MetadeblurError(f"{path}: {width}x{height} is smaller than the patch; lower patch from {self.patch}")
        top, left = (int(torch.randint(side - self.patch + 1, ())) for side in (height, width))
        return slice(top, top + self.patch), slice(left, left + self.patch)


class WindowDataset(_Paired):
    """One item a frame: the window of blurred frames around it and its sharp frame.

    Args:
        root: the benchmark's folder.
        layout: "auto", or its name: gopro, dvd, reds, realblur, bsd, hide or plain (``CLIP/{blur,sharp}``).
        part: "train", "test", ...; empty: the one that papers report, which is the test set.
        inputs: folder of the blurred frames, where a layout offers several (GoPro: blur or blur_gamma).
        frames: N, 1 or odd; windows repeat the end frames of a clip.
        patch: side of a random square, the same in all frames of an item, px; None: whole frames. PyTorch's own
            generator draws it, so ``torch.manual_seed`` decides, and the workers of a DataLoader differ.
        transform: is given (blurred, sharp), and gives them back changed, such as mirrored.
        cache_bytes: memory that decoded frames may take, in each worker.

    Items:
        (blurred, sharp), float32 in [0, 1]: (3, H, W) and (3, H, W), or with ``frames`` above 1 (N, 3, H, W) and
        (3, H, W).

    Raises:
        MetadeblurError: no such benchmark, layout or part, or pictures that do not follow one another are asked for in
            windows; later, a frame that cannot be read or is smaller than the patch.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        layout: str = "auto",
        *,
        part: str = "",
        inputs: str = "blur",
        frames: int = 1,
        patch: int | None = None,
        transform: Transform | None = None,
        cache_bytes: int = 1_000_000_000,
    ) -> None:
        super().__init__(root, layout, part, inputs, patch, transform, cache_bytes)
        if frames < 1 or frames % 2 == 0:
            raise MetadeblurError(f"frames is {frames}; a window has 1 or an odd number of frames")
        if frames > 1 and not all(clip.video for clip in self.clips):
            raise MetadeblurError(f"{root}: its pictures do not follow one another, they have no windows; use frames=1")
        self.frames = frames
        self.places = [(number, index) for number, clip in enumerate(self.clips) for index in range(len(clip.blurred))]

    def __len__(self) -> int:
        """Number of frames of all clips."""
        return len(self.places)

    def __getitem__(self, item: int) -> Item:
        """The window around frame ``places[item]``, (number of the clip, number of the frame), and its sharp frame."""
        number, index = self.places[item]
        clip = self.clips[number]
        around = window_numbers(index, self.frames, len(clip.blurred))
        blurred, sharp = self._frames([clip.blurred[near] for near in around], [clip.sharp[index]])
        return self._given(blurred[0] if self.frames == 1 else blurred, sharp[0])


class ClipDataset(_Paired):
    """One item a clip, or a piece of one: its blurred frames and its sharp ones.

    Args:
        root: the benchmark's folder.
        layout: as for :class:`WindowDataset`.
        part: likewise.
        inputs: likewise.
        length: frames of an item; None: whole clips. What is left at the end of a clip, or is shorter, is left out.
        step: frames from the beginning of an item to that of the next; None: as many as it has.
        patch: side of a random square, the same in all frames of an item, px; None: whole frames.
        transform: is given (blurred, sharp), and gives them back changed.
        cache_bytes: memory that decoded frames may take, in each worker.

    Items:
        (blurred, sharp), each (T, 3, H, W), float32 in [0, 1]: what :func:`metadeblur.adapt` takes as a clip is the
        first of the two.

    Raises:
        MetadeblurError: as :class:`WindowDataset`, or no clip is long enough.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        layout: str = "auto",
        *,
        part: str = "",
        inputs: str = "blur",
        length: int | None = None,
        step: int | None = None,
        patch: int | None = None,
        transform: Transform | None = None,
        cache_bytes: int = 1_000_000_000,
    ) -> None:
        super().__init__(root, layout, part, inputs, patch, transform, cache_bytes)
        for name, value in (("length", length), ("step", step)):
            if value is not None and value < 1:
                raise MetadeblurError(f"{name} is {value}; it is a number of frames, 1 or more, or None")
        if not all(clip.video for clip in self.clips):
            raise MetadeblurError(f"{root}: its pictures do not follow one another; use WindowDataset")
        self.places = [
            (number, slice(start, start + (length or len(clip.blurred))))
            for number, clip in enumerate(self.clips)
            for start in range(0, len(clip.blurred) - (length or 1) + 1, step or length or len(clip.blurred))
        ]
        if not self.places:
            longest = max(len(clip.blurred) for clip in self.clips)
            raise MetadeblurError(f"{root}: no clip has {length} frames; the longest has {longest}")

    def __len__(self) -> int:
        """Number of items."""
        return len(self.places)

    def __getitem__(self, item: int) -> Item:
        """The frames ``places[item]``, (number of the clip, its frames)."""
        number, piece = self.places[item]
        clip = self.clips[number]
        return self._given(*self._frames(clip.blurred[piece], clip.sharp[piece]))
