"""The frames that everything else works on: one shot of video, with or without its sharp truth."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import torch
from torch import Tensor

from metadeblur.arrays import check_source_frame, is_frames, no_clip, taken
from metadeblur.errors import MetadeblurError

_KEPT_BYTES = 2**30  # of frames that stay on a device


class FrameSource(Protocol):
    """Anything that gives frames by number, read when asked for."""

    def __len__(self) -> int:
        """Number of frames."""
        ...

    def __getitem__(self, index: int, /) -> Tensor:
        """Frame ``index`` as (3, H, W), float32, RGB in [0, 1]; all frames have one size."""
        ...


class Clip:
    """The T frames of one shot, (T, 3, H, W), RGB in [0, 1]; read lazily where the source is lazy.

    Args:
        frames: a tensor or array, (T, 3, H, W) or (T, H, W, 3), float in [0, 1] or uint8 in 0..255 (kept as uint8, so
            that a long clip costs a quarter of the memory); a list of frames of these kinds or of Pillow's pictures; or
            any :class:`FrameSource`.
        fps: frames a second; only the writer of a new file uses it.
        name: how records and tables call the clip.
        bit_depth: bits a channel of the source, 8 to 16; the writer keeps it.

    Raises:
        MetadeblurError: no frames, or frames of another shape, type or scale; it says which, and what to do.

    >>> clip = Clip(torch.zeros(7, 3, 32, 48))
    >>> len(clip), clip.height, clip.width, tuple(clip.window(0, 5).shape)
    (7, 32, 48, (5, 3, 32, 48))
    """

    def __init__(
        self,
        frames: Any,
        *,
        fps: Fraction | float = 30.0,
        name: str = "clip",
        bit_depth: int = 8,
    ) -> None:
        if is_frames(frames):
            frames, _ = taken(frames)
        elif isinstance(frames, str | dict) or not (hasattr(frames, "__len__") and hasattr(frames, "__getitem__")):
            raise no_clip(frames)
        if len(frames) == 0:
            raise MetadeblurError(f"{name}: no frames; a clip needs at least one")
        self._source: Tensor | FrameSource = frames
        self.fps = Fraction(fps).limit_denominator(1_000_000)
        self.name = name
        self.bit_depth = bit_depth
        first = frames[0]
        check_source_frame(first, name)
        self.height, self.width = int(first.shape[-2]), int(first.shape[-1])

    def __len__(self) -> int:
        return len(self._source)

    def __repr__(self) -> str:
        frames = "1 frame" if len(self) == 1 else f"{len(self)} frames"
        return f"Clip({self.name!r}, {frames} of {self.width}x{self.height}, {float(self.fps):g} a second)"

    def __getitem__(self, index: int) -> Tensor:
        """Frame ``index`` (negative counts from the end) as (3, H, W), float32 in [0, 1]."""
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"frame {index} of a clip of {count} frames")
        frame = self._source[index % count]
        return frame.float() / 255 if frame.dtype == torch.uint8 else frame.float()

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(len(self)))

    @property
    def frames(self) -> Tensor:
        """All frames as one tensor (T, 3, H, W), float32 in [0, 1]: the whole clip in memory."""
        return torch.stack(list(self))

    def window(self, index: int, size: int) -> Tensor:
        """The ``size`` frames (odd) around frame ``index`` as (size, 3, H, W); clip ends repeat the end frame."""
        if size < 1 or size % 2 == 0:
            raise MetadeblurError(f"a window has an odd number of frames, not {size}")
        return torch.stack([self[self.clamp(index + offset)] for offset in range(-(size // 2), size // 2 + 1)])

    def clamp(self, index: int) -> int:
        """The nearest frame number that exists."""
        return min(max(index, 0), len(self) - 1)

    def to(self, device: torch.device) -> Clip:
        """The same clip with its frames on a device: each is brought there when it is first asked for.

        The last ones stay there, about a gigabyte of them. In main memory it is the clip itself.
        """
        if device.type == "cpu" or self[0].device == device:
            return self
        there = _There(self._source, device)
        return Clip(there, fps=self.fps, name=self.name, bit_depth=self.bit_depth)

    def part(self, start: int, stop: int) -> Clip:
        """Frames start..stop-1 as a clip that reads from this one."""
        return Clip(_Part(self, start, min(stop, len(self))), fps=self.fps, name=self.name, bit_depth=self.bit_depth)

    def in_memory(self) -> Clip:
        """The same clip with its frames decoded once and kept (8-bit sources as uint8, deeper ones as float16)."""
        if isinstance(self._source, Tensor | _Planes):
            return self
        if self.bit_depth <= 8:
            frames = torch.stack([(frame * 255).round().to(torch.uint8) for frame in self])
        else:
            frames = torch.stack([frame.half() for frame in self])
        return clip_of(frames, fps=self.fps, name=self.name, bit_depth=self.bit_depth)


def clip_of(frames: Tensor, *, fps: Fraction | float = 30.0, name: str = "clip", bit_depth: int = 8) -> Clip:
    """A clip of frames (T, 3, H, W) whose layout is known, so that they may be of any size, 3 px wide too.

    >>> clip_of(torch.zeros(5, 3, 2, 3)).width
    3
    """
    return Clip(_Planes(frames), fps=fps, name=name, bit_depth=bit_depth)


def as_clip(frames: Any) -> Clip:
    """The clip of frames in any kind that :class:`Clip` takes but a source of frames; a clip is itself.

    Raises:
        MetadeblurError: it is none; says what it is, and what to do.

    >>> as_clip(torch.zeros(5, 20, 30, 3))
    Clip('clip', 5 frames of 30x20, 30 a second)
    """
    if isinstance(frames, Clip):
        return frames
    if not is_frames(frames):
        raise no_clip(frames)
    return Clip(frames)


@dataclass(frozen=True)
class _Part:
    """Some consecutive frames of another clip."""

    clip: Clip
    start: int
    stop: int

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __getitem__(self, index: int) -> Tensor:
        return self.clip[self.start + index]


@dataclass(frozen=True)
class _Planes:
    """Frames whose layout is known, where their shape alone may not tell it."""

    frames: Tensor  # (T, 3, H, W)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Tensor:
        return self.frames[index]


class _There:
    """Frames brought to a device, as they are stored: 8 bits are a quarter of what floats would be."""

    def __init__(self, source: Tensor | FrameSource, device: torch.device) -> None:
        self._source, self._device = source, device
        self._kept: OrderedDict[int, Tensor] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles have none there yet."""
        return _There, (self._source, self._device)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Tensor:
        if index in self._kept:
            self._kept.move_to_end(index)
        else:
            self._kept[index] = frame = self._source[index].to(self._device)
            if len(self._kept) > max(_KEPT_BYTES // frame.nbytes, 1):
                self._kept.popitem(last=False)
        return self._kept[index]
