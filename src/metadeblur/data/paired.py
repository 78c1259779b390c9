"""Paired clips as evaluation reads them: frames decoded when they are asked for, once, and kept as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from metadeblur.clip import Clip, as_clip
from metadeblur.data.layouts import ClipFolder
from metadeblur.data.pairs import read_picture
from metadeblur.errors import MetadeblurError

KEPT_BYTES = 4_000_000_000  # of decoded frames a clip's side may keep; later ones are decoded again


@dataclass(frozen=True)
class PairedClip:
    """A blurred clip and its sharp truth, frame by frame; only training and evaluation ever see one.

    Each may be a clip, or frames of any kind that a clip is made of.

    Raises:
        MetadeblurError: one is no clip, or the two differ in number or size of frames.
    """

    blurred: Clip
    sharp: Clip

    def __post_init__(self) -> None:
        for side in ("blurred", "sharp"):
            object.__setattr__(self, side, as_clip(getattr(self, side)))
        blurred, sharp = ((len(c), c.height, c.width) for c in (self.blurred, self.sharp))
        if blurred != sharp:
            raise MetadeblurError(
                f"{self.blurred.name}: blurred is {blurred} and sharp is {sharp} (frames, height, width); "
                "they must be equal"
            )

    def __len__(self) -> int:
        return len(self.blurred)

    @property
    def name(self) -> str:
        """The clip's name in records and tables."""
        return self.blurred.name


class PictureFiles:
    """Frames (3, H, W), uint8, of picture files: decoded when first asked for, then kept.

    Args:
        files: in order.
        crop: side of the piece in the middle of each frame that is taken, px; 0: whole frames.

    Raises:
        MetadeblurError: (when a frame is asked for) a file that cannot be decoded, or is smaller than the crop.
    """

    def __init__(self, files: Sequence[Path], *, crop: int = 0) -> None:
        self.files, self.crop = tuple(files), crop
        self.decoded = 0  # how many times a file was decoded
        self._kept: dict[int, Tensor] = {}
        self._room = KEPT_BYTES

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int, /) -> Tensor:
        if index in self._kept:
            return self._kept[index]
        frame = self._decode(self.files[index])
        if frame.nbytes <= self._room:
            self._kept[index] = frame
            self._room -= frame.nbytes
        return frame

    def _decode(self, path: Path) -> Tensor:
        self.decoded += 1
        frame = torch.from_numpy(read_picture(path)).permute(2, 0, 1)
        if self.crop == 0:
            return frame
        height, width = frame.shape[-2:]
        if min(height, width) < self.crop:
            raise MetadeblurError(
                f"{path}: {width}x{height} is smaller than the crop of {self.crop}; choose a lower one"
            )
        top, left = (height - self.crop) // 2, (width - self.crop) // 2
        return frame[:, top : top + self.crop, left : left + self.crop].contiguous()


@dataclass(frozen=True)
class _OneSize:
    """Frames of a source, of which all must have the first one's size."""

    frames: PictureFiles
    name: str

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int, /) -> Tensor:
        frame, first = self.frames[index], self.frames[0]
        if frame.shape != first.shape:
            sizes = [f"{picture.shape[-1]}x{picture.shape[-2]}" for picture in (first, frame)]
            raise MetadeblurError(
                f"{self.name}: frames of different sizes ({sizes[0]}, but {self.frames.files[index].name} is "
                f"{sizes[1]}); make them equal"
            )
        return frame


@dataclass(frozen=True)
class _FittedFrames:
    """Frames cut or padded on the right and at the bottom (their border repeated) to one size."""

    frames: PictureFiles
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int, /) -> Tensor:
        frame = self.frames[index][:, : self.height, : self.width]
        missing = (0, self.width - frame.shape[-1], 0, self.height - frame.shape[-2])
        return F.pad(frame.float(), missing, mode="replicate").to(torch.uint8) if any(missing) else frame


@dataclass(frozen=True)
class TrialClip:
    """One paired clip to measure on.

    Attributes:
        pair: frames of one size: what adaptation sees of ``pair.blurred``, and what the oracle learns from. Where sizes
            differ (RealBlur) this is the top left piece that all frames have.
        whole: the blurred frames that are restored; where sizes differ, padded to the largest.
        truths: the sharp frames, (3, H, W) uint8, each in its own size.
        video: whether the frames follow one another.
    """

    pair: PairedClip
    whole: Clip
    truths: PictureFiles
    video: bool = True

    def __len__(self) -> int:
        return len(self.truths)

    @property
    def name(self) -> str:
        """The clip's name in records and tables."""
        return self.pair.name

    def truth(self, index: int) -> Tensor:
        """Sharp frame ``index``, (3, H, W), float32 in [0, 1], in its own size."""
        return self.truths[index].float() / 255

    @property
    def one_size(self) -> bool:
        """Whether all frames are equally large."""
        return (self.pair.blurred.height, self.pair.blurred.width) == (self.whole.height, self.whole.width)


def read_trial(folder: ClipFolder, *, crop: int = 0, frames: int = 0) -> TrialClip:
    """A paired clip from its files; frames are read when they are asked for.

    Args:
        folder: the clip.
        crop: measure on the piece of this side in the middle of the frames, px; 0: whole frames.
        frames: measure on this many frames in the middle of the clip; 0: all.

    Raises:
        MetadeblurError: frames whose sharp partner has another size, or (while reading) frames of several sizes where
            one is expected, or a file that cannot be decoded.
    """
    first = max(0, (len(folder.sharp) - frames) // 2) if frames else 0
    chosen = slice(first, first + frames if frames else None)
    blurred, sharp = (PictureFiles(files[chosen], crop=crop) for files in (folder.blurred, folder.sharp))
    if not folder.sizes_differ:
        sides = (Clip(_OneSize(side, folder.name), name=folder.name) for side in (blurred, sharp))
        pair = PairedClip(*sides)
        return TrialClip(pair, pair.blurred, sharp, folder.video)
    sizes = [tuple(frame.shape[-2:]) for frame in (blurred[index] for index in range(len(blurred)))]
    odd = [blurred.files[index].name for index, size in enumerate(sizes) if tuple(sharp[index].shape[-2:]) != size]
    if odd:
        raise MetadeblurError(f"{folder.name}: blurred and sharp differ in size: {', '.join(odd[:5])}; make them equal")
    least, most = (tuple(choose(side) for side in zip(*sizes, strict=True)) for choose in (min, max))
    cut = (Clip(_FittedFrames(side, *least), name=folder.name) for side in (blurred, sharp))
    return TrialClip(PairedClip(*cut), Clip(_FittedFrames(blurred, *most), name=folder.name), sharp, folder.video)
